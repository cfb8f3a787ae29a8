"""What leads from one JSON tree to another, as changes of the store have it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from ironflow.core.workflows.state import Change


def same(one: Any, other: Any) -> bool:
    """Equal, with 1, 1.0 and True apart."""
    return bool(one == other) and msgspec.json.encode(one) == msgspec.json.encode(other)


def in_order(changes: Iterable[Change]) -> list[bytes]:
    """Changes in an order that does not depend on the order of keys: that is another one after a
    key was taken away and put back.
    """
    return sorted(msgspec.json.encode(change, order="deterministic") for change in changes)


def diff(old: Any, new: Any, path: list[Any]) -> tuple[list[Change], list[Change]]:
    """What leads from one JSON tree to another, and back; each to be applied in order."""
    changes: list[Change] = []
    undo: list[Change] = []
    _compare(old, new, path, changes, undo)
    undo.reverse()
    return changes, undo


def diff_key(tree: dict[str, Any], key: str, new: Any) -> tuple[list[Change], list[Change]]:
    """What makes a top-level value of a tree another, and what leads back."""
    if key in tree:
        return diff(tree[key], new, [key])
    return [["=", [key], new]], [["-", [key]]]


def _compare(
    old: Any, new: Any, path: list[Any], changes: list[Change], undo: list[Change]
) -> None:
    if type(old) is dict and type(new) is dict:
        for key in old:
            if key not in new:
                changes.append(["-", [*path, key]])
                undo.append(["=", [*path, key], old[key]])
        for key, value in new.items():
            if key in old:
                _compare(old[key], value, [*path, key], changes, undo)
            else:
                changes.append(["=", [*path, key], value])
                undo.append(["-", [*path, key]])
    elif type(old) is list and type(new) is list and path:
        _compare_lists(old, new, path, changes, undo)
    elif not same(old, new):
        changes.append(["=", path, new])
        undo.append(["=", path, old])


def _compare_lists(
    old: list[Any], new: list[Any], path: list[Any], changes: list[Change], undo: list[Change]
) -> None:
    if len(old) == len(new):
        if not same(old, new):
            for index, (was, now) in enumerate(zip(old, new, strict=True)):
                _compare(was, now, [*path, index], changes, undo)
    elif len(old) < len(new) and same(new[: len(old)], old):
        changes.append(["+", path, new[len(old) :]])
        undo.append(["<", path, len(old)])
    elif len(new) < len(old) and same(old[: len(new)], new):
        changes.append(["<", path, len(new)])
        undo.append(["+", path, old[len(new) :]])
    else:
        changes.append(["=", path, new])
        undo.append(["=", path, old])
