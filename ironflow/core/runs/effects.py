"""What decisions are made of: the situation they are made in, and the effects that they ask for.

Durable effects (timers, waiters, sends, consumed deliveries) are committed with the entries of the
decision; the others happen after the commit.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ironflow.core.runs import commands as c
from ironflow.core.runs.entries import RunEntry

MAX_CRASHES = 5
"""Times in a row that a run may take the process down before it is paused for good."""

CANCEL_STEP = "@cancel/"
TIMEOUT_TIMER = "timeout"
ATTEMPT_TIMER = "attempt"
STEP_TIMER = "step:"
JOB_TIMER = "job:"


def job_timer(job: int, wait: str | None = None) -> str:
    """The timer of a workflow's job: of its next attempt, or of one of its waits. It also names the
    step of a child's parent.
    """
    return f"{JOB_TIMER}{job}" if wait is None else f"{JOB_TIMER}{job}/{wait}"


def split_job_timer(name: str) -> tuple[int, str | None]:
    """The job and the wait of a name that `job_timer` made."""
    job, slash, wait = name.removeprefix(JOB_TIMER).partition("/")
    return int(job) if job.isdecimal() else -1, wait if slash else None


class Barred(msgspec.Struct, frozen=True):
    """Why a run must not be made: a rate limit, until `until`; None for a key that its throttle
    cannot do without.
    """

    reason: str
    until: int | None = None


class Situation(msgspec.Struct):
    """What the decision may depend on beside the run: the time, and what the process can offer."""

    now: int
    slot: bool = False
    """A slot to run the body in is reserved for this decision."""
    hot: bool = False
    """The body of the current execution is in memory."""
    code: str | None = None
    """Version of the code that would run the body now; None when nothing here serves the
    function.
    """
    max_crashes: int = MAX_CRASHES
    barred: Barred | None = None
    """Why the run that is to be created must not be."""
    worker: str | None = None
    """The worker that the slot is with, if it is with one."""


class SetTimer(msgspec.Struct, frozen=True):
    """Durable: tell this run `TimerFired(name)` at `at`."""

    name: str
    at: int


class ClearTimer(msgspec.Struct, frozen=True):
    """Durable: forget a timer."""

    name: str


class AddWaiter(msgspec.Struct, frozen=True):
    """Durable: deliver the first event that matches."""

    step: str
    event: str
    match: str | None


class RemoveWaiter(msgspec.Struct, frozen=True):
    """Durable: no longer interested."""

    step: str


class Consume(msgspec.Struct, frozen=True):
    """Durable: the outbox row of this command has had its effect."""

    delivery: str


class StartBody(msgspec.Struct, frozen=True):
    """Start an execution of the body in the reserved slot."""


class WakeBody(msgspec.Struct, frozen=True):
    """Let the body in memory go on: with the step `key`, or with all that ended when it was
    parked.
    """

    key: str | None = None
    uses_slot: bool = False


class CancelBody(msgspec.Struct, frozen=True):
    """Unwind the body that is running."""


class DropBody(msgspec.Struct, frozen=True):
    """Let go of a parked body."""


class Enqueue(msgspec.Struct, frozen=True):
    """Wait for a slot."""


class Ended(msgspec.Struct, frozen=True):
    """Tell whoever waits for the end of the run."""


Effect = (
    SetTimer | ClearTimer | AddWaiter | RemoveWaiter | Consume | c.Send
    | StartBody | WakeBody | CancelBody | DropBody | Enqueue | Ended
)  # fmt: skip


class Decision(msgspec.Struct):
    """The entries to record, the answer to the asker, and what else is to happen."""

    entries: list[RunEntry]
    reply: Any = None
    effects: list[Effect] = []
