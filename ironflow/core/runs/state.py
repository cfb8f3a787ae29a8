"""A run: the state that its entries come to (`ironflow.core.runs.fold`). Data only."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from ironflow.core.runs import entries as e
from ironflow.core.runs.entries import RunKind, StepKind
from ironflow.core.values.payloads import NULL, Failure, Payload
from ironflow.core.workflows.state import WorkflowState


class RunStatus(StrEnum):
    """Where a run stands. The last three are final, but for `retry`."""

    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


TERMINAL = frozenset({RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED})


class StepStatus(StrEnum):
    """Where a step stands. `retrying` waits for its next attempt; `due` may be attempted again."""

    COMPLETED = "completed"
    FAILED = "failed"
    RETRYING = "retrying"
    DUE = "due"
    WAITING = "waiting"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"


OPEN = frozenset({StepStatus.RETRYING, StepStatus.WAITING})


class Step(msgspec.Struct, omit_defaults=True, gc=False):
    """What the journal knows of one step. `until` is when a sleep, a time limit or a retry pause
    ends.
    """

    key: str
    name: str
    kind: StepKind
    status: StepStatus
    pos: int
    scope: str = ""
    attempt: int = 1
    started_at: int = 0
    ended_at: int | None = None
    result: Payload | None = None
    error: Failure | None = None
    until: int | None = None
    event: str | None = None
    match: str | None = None
    child: str | None = None
    target: str | None = None
    vital: bool = False
    original: Payload | None = None
    """The result that it had before somebody gave it another one."""
    patched_at: int | None = None
    patched_by: str = ""
    injected: bool = False


class Rung(msgspec.Struct, frozen=True):
    """How hard somebody who has the body of a run was told to end it, and when."""

    rung: e.CancelRung
    whom: str
    at: int


class Run(msgspec.Struct, omit_defaults=True):
    """The state of a run: the fold of its stream up to `version`."""

    id: str
    kind: RunKind = "function"
    lanes: tuple[str, ...] = ()
    priority: int = 0
    share: str | None = None
    function_id: str = ""
    status: RunStatus = RunStatus.QUEUED
    version: int = 0
    created_at: int = 0
    started_at: int | None = None
    ended_at: int | None = None
    updated_at: int = 0
    input: Payload = NULL
    input_hash: str = ""
    options: e.RunOptions = e.RunOptions()
    event: e.EventRef | None = None
    parent: e.ParentRef | None = None
    idempotency_key: str | None = None
    code: str | None = None
    attempt: int = 1
    execution: int = 0
    crashes: int = 0
    """Executions in a row that ended with the process and recorded nothing."""
    steps: dict[str, Step] = {}
    order: dict[str, list[str]] = {}
    """For each scope the keys of its steps, by position; an empty string is a position not seen."""
    open: dict[str, None] = {}
    """The keys of the steps that wait, in the order in which they began."""
    retry_at: int | None = None
    """When the function's next attempt is due."""
    deadline: int | None = None
    """When the run is out of time; a retry of an ended run begins a new one."""
    cancelling: e.CancelRequested | None = None
    rungs: list[Rung] = []
    """What was done to end its body."""
    unwinding: e.RunUnwinding | None = None
    pausing: str | None = None
    reason: str | None = None
    paused_cause: e.PauseCause | None = None
    result: Payload | None = None
    error: Failure | None = None
    handler: str | None = None
    actor: str | None = None
    worker: str | None = None
    """The worker that has the current execution, or had the last one."""
    workflow: WorkflowState | None = None
    """What is under way in an event-driven workflow, and its store."""
    events: tuple[e.TakenEvent, ...] = ()
    merged: int = 0
    gate: str | None = None
    behind: str | None = None
    """The run whose end this one waits for, before it begins."""

    @property
    def exists(self) -> bool:
        """Whether the run was ever created."""
        return self.version > 0

    @property
    def is_terminal(self) -> bool:
        """Whether the run has ended."""
        return self.status in TERMINAL


def workflow_of(run: Run) -> WorkflowState:
    """The state of a run that is a workflow's."""
    if run.workflow is None:
        raise TypeError(f"run {run.id} is a {run.kind}, not a workflow")
    return run.workflow


def steps_from(run: Run, key: str) -> list[Step]:
    """A step and those that began later."""
    keys = list(run.steps)
    return [run.steps[later] for later in keys[keys.index(key) :]] if key in run.steps else []
