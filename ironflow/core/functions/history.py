"""The facts of a function's stream, and what they come to: its versions, its status, who changed it
and why. Pure.

A stream begins with a registration. Its entries are numbered (`revision`); the function's `version`
counts the definitions among them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from ironflow.core.errors import Damaged
from ironflow.core.functions.definition import Definition
from ironflow.core.runs.entries import UNREADABLE

FunctionStatus = Literal["active", "paused", "archived"]
"""Paused: its runs are created and wait. Archived: nothing starts it, nothing of it goes on."""
ChangeType = Literal["created", "update", "status_change", "rollback", "delete"]

REGISTERED, STATUS_CHANGED, DELETED = (
    "function.registered",
    "function.status_changed",
    "function.deleted",
)


class Change(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who changed a function and why; `rollback` when an older definition was brought back."""

    actor: str = ""
    reason: str = ""
    rollback: bool = False


NO_WORD = Change()


class FunctionRegistered(Definition, frozen=True, kw_only=True, omit_defaults=True):
    """The function is this from now on."""

    change: Change = NO_WORD


class FunctionStatusChanged(msgspec.Struct, frozen=True, omit_defaults=True):
    """The function was paused, archived or made active."""

    status: FunctionStatus
    change: Change = NO_WORD


class FunctionDeleted(msgspec.Struct, frozen=True, omit_defaults=True):
    """There is no such function any more; its history stays."""

    change: Change = NO_WORD


class Revision(msgspec.Struct, frozen=True, kw_only=True):
    """A function as it was after one change. Moments in microseconds."""

    number: int
    version: int
    type: ChangeType
    change: Change
    definition: Definition
    status: FunctionStatus
    created_at: int
    at: int


def read_history(entries: Iterable[tuple[int, int, str, bytes]]) -> list[Revision]:
    """Every revision, oldest first, from (number, at, kind, data) of the whole stream. Raises
    `Damaged`.
    """
    history: list[Revision] = []
    version = 0
    for number, at, kind, data in entries:
        before = history[-1] if history else None
        is_new = before is None or before.type == "delete"
        created_at = at if before is None or is_new else before.created_at
        status: FunctionStatus = "active" if before is None or is_new else before.status
        kind_of: ChangeType
        try:
            if kind == REGISTERED:
                registered = msgspec.json.decode(data, type=FunctionRegistered)
                version, change, definition = version + 1, registered.change, plain(registered)
                kind_of = "rollback" if change.rollback else "created" if is_new else "update"
            elif before is None:
                raise Damaged(f"entry {number} of a function", "its first one is not there")
            elif kind == STATUS_CHANGED:
                changed = msgspec.json.decode(data, type=FunctionStatusChanged)
                status, change, kind_of = changed.status, changed.change, "status_change"
                definition = before.definition
            else:
                change = msgspec.json.decode(data, type=FunctionDeleted).change
                definition, kind_of = before.definition, "delete"
        except UNREADABLE as error:
            raise Damaged(f"entry {number} of a function", str(error)) from error
        history.append(
            Revision(
                number=number,
                version=version,
                type=kind_of,
                change=change,
                definition=definition,
                status=status,
                created_at=created_at,
                at=at,
            )
        )
    return history


def plain(registered: FunctionRegistered) -> Definition:
    """The definition alone."""
    names = Definition.__struct_fields__
    return Definition(**{name: getattr(registered, name) for name in names})
