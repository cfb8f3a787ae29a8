"""A turn: what the steps of a run did since the last one, on its way to the journal."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from ironflow.core.runs import commands as c
from ironflow.core.workflows.state import (
    Collected,
    JobCancelled,
    JobEnded,
    Stored,
    Streamed,
    TurnOp,
)


class Turn(msgspec.Struct, frozen=True, eq=False):
    """A turn on its way to the journal, and who waits for it: jobs to take up, futures."""

    command: c.RecordTurn
    fresh: list[int]
    commits: list[asyncio.Future[None]]


_SOFT = frozenset((Stored, Streamed, Collected))
"""Operations that hold more while their step may be executed again."""


def settled(ops: list[TurnOp]) -> tuple[TurnOp, ...]:
    """The operations without what is needed only while their step may be executed again."""
    if _SOFT.isdisjoint(map(type, ops)):
        return tuple(ops)
    over = {op.job for op in ops if isinstance(op, JobEnded | JobCancelled)}
    found: list[TurnOp] = []
    for op in ops:
        if isinstance(op, Stored | Streamed | Collected) and (op.job in over or op.job is None):
            bare: dict[str, Any] = {"job": None}
            if isinstance(op, Stored):
                bare["undo"] = ()
            else:
                bare["mark"] = ""
            op = msgspec.structs.replace(op, **bare)
        found.append(op)
    return tuple(found)
