"""Conditions over the columns of a table: what a filter comes to, whoever asked."""

from __future__ import annotations

from typing import Any, NamedTuple


class Test(NamedTuple):
    """`column` (a name, or SQL with `{t}` for the table) compared with `value` by `test`.

    Tests: `in`, `not_in`, `like`, `starts`, `le`, `ge`, `gt`, `eq`, `after` (of several columns
    together), `null` (value: whether it is), `has_all`, `has_any`, `empty` (of a JSON list),
    `exists` (column is a condition of its own), `search` (value: a `TextQuery`).
    """

    column: str
    test: str
    value: Any


class Group(NamedTuple):
    """All of `parts`, or with `either` at least one; without parts always true."""

    parts: tuple[Condition, ...] = ()
    either: bool = False


Condition = Test | Group
ALWAYS = Group()


def combine(parts: list[Condition], either: bool = False) -> Condition:
    """One condition of several."""
    if len(parts) == 1:
        return parts[0]
    return Group(tuple(parts), either) if parts else ALWAYS
