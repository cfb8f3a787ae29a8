"""Runs, their steps, entries and results, and why they wait."""

from typing import Any

from ironflow.core.runs.entries import RunKind
from ironflow.web.wire import Request, View


class FailureView(View, frozen=True):
    """What went wrong."""

    kind: str
    message: str
    code: str
    retryable: bool
    trace: str


class ValueView(View, frozen=True):
    """A value that is kept out of line."""

    value: Any


class RunSummary(View, frozen=True):
    """A run as lists show it. `kind` says how it was written: `function`, `flow` (Prefect) or
    `workflow`; `reason` why it is paused, failed or cancelled; `duration` is in seconds."""

    id: str
    kind: RunKind
    function_id: str
    status: str
    attempt: int
    created_at: str
    started_at: str | None
    ended_at: str | None
    updated_at: str
    duration: float | None
    event_id: str | None
    event_name: str | None
    idempotency_key: str | None
    parent_id: str | None
    code: str | None
    reason: str | None


class RunPage(View, frozen=True):
    """Runs, newest first; `next_cursor` goes on."""

    items: list[RunSummary]
    next_cursor: str | None


class RunView(RunSummary, frozen=True):
    """One run, whole."""

    input: Any
    result: Any
    error: FailureView | None
    execution: int
    crashes: int
    version: int
    steps_total: int
    worker: str | None
    """The worker that has its current execution, or had the last one; null for none."""
    cancel: list[str]
    """What was done to end its body when that was asked for, step by step, in words."""
    actor: str | None
    """The value of the function's actor key: runs with the same one go to the same worker."""
    waiting_for: list[str]
    """Why it does not go on now, in words; see `/why`."""
    events: list["TakenEventView"]
    """The events of its batch, in the order of the datas that are its input."""
    merged: int
    """How many events were debounced into it; 0 for a run that was not debounced."""
    behind: str | None
    """The run that must have ended before this one begins."""


class TakenEventView(View, frozen=True):
    """One of the events that a run took."""

    id: str
    name: str
    at: str


class StepView(View, frozen=True):
    """One step. `scope` is the branch it belongs to. `running` steps are executing now and not
    recorded yet."""

    key: str
    name: str
    kind: str
    status: str
    scope: str
    position: int
    attempt: int
    started_at: str | None
    ended_at: str | None
    duration: float | None
    until: str | None
    event: str | None
    child_run_id: str | None
    child_function_id: str | None
    result: Any
    error: FailureView | None


class StepPage(View, frozen=True):
    """A run's steps in the order in which they began."""

    run_id: str
    status: str
    items: list[StepView]


class EntryView(View, frozen=True):
    """One journal entry."""

    seq: int
    stream: str
    version: int
    at: str
    kind: str
    data: Any


class EntryPage(View, frozen=True):
    """Entries of a run, oldest first; `next_version` goes on with `?after=`."""

    items: list[EntryView]
    next_version: int | None


class ResultView(View, frozen=True):
    """How a run ended; `status` tells whether it has."""

    run_id: str
    status: str
    result: Any
    error: FailureView | None
    reason: str | None


class ReasonRequest(Request, frozen=True):
    """Why, for the record."""

    reason: str | None = None


class StatusView(View, frozen=True):
    """The run's status after a request; `running` while a cancel or pause takes effect at the next
    step boundary."""

    run_id: str
    status: str
    pending: str | None = None
    """`cancel` or `pause` while that is under way."""


class WhyView(View, frozen=True):
    """Why a run stands where it stands, in words, and what will wake it."""

    run_id: str
    status: str
    summary: str
    reasons: list["ReasonView"]


class ReasonView(View, frozen=True):
    """One thing that a run waits for. `due_at` is when it ends by itself, if it does."""

    kind: str
    """`timer`, `event`, `run`, `retry`, `slot`, `function`, `step`, `recovery`, `pause`, `cancel`,
    `unwind`, `timeout`, `ended`, or `none` (a defect)."""
    step: str | None
    text: str
    due_at: str | None
