"""Places in the code at which a test may have the process die: `IRONFLOW_CRASH_POINT=name:count`.

The process ends with SIGKILL when it comes to the place for the `count`-th time: nothing is
flushed, closed or said. Without the variable a point is a call of a function that does nothing.
Every name stands here with what has happened when the process comes by.
"""

from __future__ import annotations

import os
import signal
from typing import Final

from ironflow.core.errors import ConfigError

VARIABLE: Final = "IRONFLOW_CRASH_POINT"

POINTS: Final[dict[str, str]] = {
    "commit.before": "a group of batches is in its transaction, or about to be, not committed",
    "commit.after": "a group is committed, and nobody knows it yet",
    "answer.before": "an actor's change is durable, its answer has not left",
    "answer.after": "the answer has left, what follows from the change has not begun",
    "timer.ringing": "a timer is due and was taken from memory, its actor has not heard of it",
    "timer.rung": "the actor has the ring in its mailbox",
    "message.posting": "a durable message is committed and not yet posted",
    "recovery.messages": "after a start, a durable message was posted again",
    "recovery.runs": "after a start, unfinished runs were put into the queue",
    "recovery.timers": "after a start, timers were not loaded yet",
    "migration.backup": "the copy before a migration is written, not synced and not named",
    "migration.statement": "a statement of a migration was executed",
    "migration.committed": "the migrations are committed, nothing else has been done",
    "backup.copied": "a backup is complete under its temporary name",
    "restore.aside": "a database that is replaced is kept aside, the other is not in its place",
    "retention.deleted": "rows of a chunk are deleted in a transaction that is not committed",
    "retention.chunk": "a chunk is deleted for good, others may follow",
}

_name = ""
_left = 0


def arm(text: str) -> None:
    """Die at a point, `name:count`. Raises `ConfigError` for what is none."""
    global _name, _left
    name, _, count = text.partition(":")
    if name not in POINTS:
        raise ConfigError(f"{VARIABLE}: no point {name!r}; there are {', '.join(POINTS)}")
    if count and not (count.isascii() and count.isdigit() and int(count)):
        raise ConfigError(f"{VARIABLE}: {count!r} is no count from 1")
    _name, _left = name, int(count or "1")


def reach(name: str) -> None:
    """The process has come to the point `name`."""
    if _name and name == _name:
        _count()


def _count() -> None:
    global _left  # noqa: PLW0603
    _left -= 1
    if _left == 0:
        os.kill(os.getpid(), signal.SIGKILL)


if _text := os.environ.get(VARIABLE):
    arm(_text)
