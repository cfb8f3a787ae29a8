"""The facts of a run's stream: one frozen struct a kind, past tense. Their fold
(`core.runs.fold.apply`) is the run.

Field names are the storage format. They may gain fields with defaults; they are never renamed or
removed, so that every journal ever written can be read.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from ironflow.core.errors import Damaged
from ironflow.core.runs.retry import RetryPolicy
from ironflow.core.values.payloads import Failure, Payload
from ironflow.core.workflows.fold import op_payloads
from ironflow.core.workflows.state import EventData, TurnOp, WorkflowState

RunKind = Literal["function", "flow", "workflow"]
"""How a run was written, and so who moves it: a durable function and an event-driven workflow are
executed by the engine, a Prefect flow by a process of its own that reports its states.
"""
StepKind = Literal[
    "run", "sleep", "event", "invoke", "emit", "value", "race", "block", "compensate"
]
WaitOutcome = Literal["completed", "timed_out", "failed", "cancelled"]
PauseCause = Literal["request", "crash_loop", "exhausted"]
Exhaustion = Literal["fail", "pause"]
CancelRung = Literal["asked", "terminated", "killed", "abandoned"]
"""How hard a body is told to end: it is asked to; it gets SIGTERM; SIGKILL; nobody waits for it."""
UnwindOutcome = Literal["failed", "cancelled", "timed_out"]


class EventFacts(msgspec.Struct, frozen=True, omit_defaults=True):
    """What whoever emitted an event said of it beside its data; `emitted_by` is who that was."""

    metadata: dict[str, Any] | None = None
    version: int = 1
    emitted_by: str = ""


class EventRef(msgspec.Struct, frozen=True, omit_defaults=True):
    """The event that started a run."""

    id: str
    name: str
    facts: EventFacts | None = None


class TakenEvent(msgspec.Struct, frozen=True, omit_defaults=True):
    """One of several events that a run was started for: its datas are the run's input, in this
    order. `at` in microseconds.
    """

    id: str
    name: str
    at: int
    source: str = ""


class ParentRef(msgspec.Struct, frozen=True):
    """The run and step that invoked this run; a detached parent does not wait for it."""

    run_id: str
    step: str
    detached: bool = False
    depth: int = 1


class CancelOn(msgspec.Struct, frozen=True):
    """Cancel the run when `event` comes with the same value at `match` (such as `data.order_id`) as
    the run's input.
    """

    event: str
    match: str | None = None


class RunOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a function promises its runs, fixed when the run is created. `timeout` is seconds of
    wall time.
    """

    retry: RetryPolicy = RetryPolicy()
    timeout: float | None = None
    compensate_on: tuple[UnwindOutcome, ...] = ("failed",)
    cancel_on: tuple[CancelOn, ...] = ()
    on_exhausted: Exhaustion = "fail"
    """What becomes of a run whose attempts are used up: `pause` keeps it for an operator."""


class RunCreated(msgspec.Struct, frozen=True, omit_defaults=True):
    """A run exists and waits for its turn."""

    function_id: str
    input: Payload
    input_hash: str
    options: RunOptions = RunOptions()
    code: str | None = None
    event: EventRef | None = None
    idempotency_key: str | None = None
    parent: ParentRef | None = None
    kind: RunKind = "function"
    handler: str | None = None
    """The name by which callers of a workflow know this run, until the next one takes it over."""
    workflow: WorkflowState | None = None
    """What a workflow begins with, when that is not nothing: the store of the run before, or a
    context that is continued.
    """
    lanes: tuple[str, ...] = ()
    """Where it holds a place while it executes (`core.functions.lanes`)."""
    priority: int = 0
    """Of the runs of its function that wait, the higher ones begin first."""
    share: str | None = None
    """The value of the fair key: those who wait begin in turns between the values."""
    events: tuple[TakenEvent, ...] = ()
    """The events of its batch, in the order in which they came; `event` is the first of them."""
    merged: int = 0
    """Events that were debounced into it; `event` is the last of them."""
    gate: str | None = None
    """The actor that let it in, and is told when it has ended: that of a singleton."""
    behind: str | None = None
    """The run that must have ended before this one begins."""
    actor: str | None = None
    """The value by which it goes to the same worker as others (`core.functions.affinity`)."""


class RunReleased(msgspec.Struct, frozen=True):
    """The run that this one was behind has ended."""


class RunStarted(msgspec.Struct, frozen=True, omit_defaults=True):
    """An execution of the body began; its number is the fencing token of all it reports."""

    execution: int
    code: str | None = None
    recovered: bool = False
    """The execution before it ended with the process, not with a report."""
    worker: str | None = None
    """Who was chosen to execute it, if that is a worker."""


class RunWoken(msgspec.Struct, frozen=True):
    """The body, still in memory, goes on after a wait."""


class RunQueued(msgspec.Struct, frozen=True, omit_defaults=True):
    """The run could go on and waits for capacity."""

    lost: str | None = None
    """Why its last execution is gone: the worker that had it is."""


class RunParked(msgspec.Struct, frozen=True):
    """Every branch of the body waits for something durable."""


class StepCompleted(msgspec.Struct, frozen=True, omit_defaults=True):
    """A step has its result; it never runs again."""

    key: str
    name: str
    pos: int
    kind: StepKind
    result: Payload
    scope: str = ""
    attempt: int = 1
    started_at: int = 0


class StepFailed(msgspec.Struct, frozen=True, omit_defaults=True):
    """An attempt of a step failed; it is tried again at `retry_at`, or never."""

    key: str
    name: str
    pos: int
    kind: StepKind
    error: Failure
    scope: str = ""
    attempt: int = 1
    started_at: int = 0
    retry_at: int | None = None
    parks: bool = False
    """No other branch is active: the run waits for the next attempt of this step."""


class StepRetryDue(msgspec.Struct, frozen=True):
    """The pause before a step's next attempt is over."""

    key: str


class WaitStarted(msgspec.Struct, frozen=True, omit_defaults=True):
    """A branch waits: until a moment, for an event, or for an invoked run."""

    key: str
    name: str
    pos: int
    kind: StepKind
    scope: str = ""
    until: int | None = None
    event: str | None = None
    match: str | None = None
    child: str | None = None
    target: str | None = None
    """The function id of an invoked run."""
    parks: bool = False
    """No other branch is active: the run is parked by this wait."""
    vital: bool = False
    """The run fails when this wait ends in vain."""


class WaitEnded(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a branch waited for came, failed or did not come in time."""

    key: str
    outcome: WaitOutcome
    result: Payload | None = None
    error: Failure | None = None


class AttemptFailed(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body raised; the whole function is tried again at `retry_at` with its finished steps
    kept.
    """

    error: Failure
    retry_at: int
    undelivered: bool = False
    """The body did not fail, it could not be reached: the attempt does not count."""


class AttemptDue(msgspec.Struct, frozen=True):
    """The pause before the function's next attempt is over."""


class CancelRequested(msgspec.Struct, frozen=True, omit_defaults=True):
    """The run is to end; its body is being unwound. Again, with a `rung`: `whom` was made to end in
    the way that the rung says.
    """

    outcome: UnwindOutcome
    reason: str
    rung: CancelRung | None = None
    whom: str = ""


class PauseRequested(msgspec.Struct, frozen=True):
    """The run is to stop at its next step boundary; without a reason the request is withdrawn."""

    reason: str | None


class RunPaused(msgspec.Struct, frozen=True):
    """Nothing of the run goes on until it is resumed."""

    reason: str
    cause: PauseCause = "request"


class RunResumed(msgspec.Struct, frozen=True):
    """A paused run may go on."""


class RunUnwinding(msgspec.Struct, frozen=True, omit_defaults=True):
    """How the run will end is settled; compensations run first."""

    outcome: UnwindOutcome
    error: Failure | None = None
    reason: str = ""


class RunCompleted(msgspec.Struct, frozen=True):
    """The body returned."""

    result: Payload


class RunFailed(msgspec.Struct, frozen=True):
    """The run failed for good."""

    error: Failure


class RunCancelled(msgspec.Struct, frozen=True):
    """The run was cancelled."""

    reason: str


class RunReopened(msgspec.Struct, frozen=True):
    """A failed or cancelled run is tried again from its failure: finished steps stay, failed ones
    are forgotten.
    """

    reason: str = ""


class StepPatched(msgspec.Struct, frozen=True, omit_defaults=True):
    """Somebody gave a step that had ended another result: `injected` while its run was paused."""

    key: str
    result: Payload
    reason: str = ""
    by: str = ""
    injected: bool = False


class RunRewound(msgspec.Struct, frozen=True):
    """This step and every later one are forgotten, to be done again."""

    key: str


class TurnRecorded(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the steps of a workflow did since its last turn, in order, in one piece.

    `events_from` is the sequence of the first streamed event in it. `awaits` are the types of
    events that would bring the run on, told when it `parks`.
    """

    number: int
    ops: tuple[TurnOp, ...]
    events_from: int = 0
    parks: bool = False
    awaits: tuple[str, ...] = ()


class SignalReceived(msgspec.Struct, frozen=True, omit_defaults=True):
    """An event was sent to a workflow from outside; it is routed by its next turn. `answers`: the
    sequence of the streamed question that the sender meant.
    """

    id: int
    event: EventData
    step: str | None = None
    answers: int | None = None


class JobDue(msgspec.Struct, frozen=True, omit_defaults=True):
    """The pause before a job's next attempt is over, or (`wait`) its wait has timed out."""

    job: int
    wait: str | None = None


class ChildReported(msgspec.Struct, frozen=True, omit_defaults=True):
    """A run that a step of a workflow awaits has ended."""

    job: int
    key: str
    outcome: WaitOutcome
    result: Payload | None = None
    error: Failure | None = None


RunEntry = (
    RunCreated | RunStarted | RunWoken | RunQueued | RunParked | StepCompleted | StepFailed
    | StepRetryDue | WaitStarted | WaitEnded | AttemptFailed | AttemptDue | CancelRequested
    | PauseRequested | RunPaused | RunResumed | RunUnwinding | RunCompleted | RunFailed
    | RunCancelled | RunReopened | StepPatched | RunRewound | TurnRecorded | SignalReceived
    | JobDue | ChildReported
    | RunReleased
)  # fmt: skip

KINDS: dict[type, str] = {
    RunCreated: "run.created",
    RunStarted: "run.started",
    RunWoken: "run.woken",
    RunQueued: "run.queued",
    RunParked: "run.parked",
    StepCompleted: "step.completed",
    StepFailed: "step.failed",
    StepRetryDue: "step.retry_due",
    WaitStarted: "wait.started",
    WaitEnded: "wait.ended",
    AttemptFailed: "attempt.failed",
    AttemptDue: "attempt.due",
    CancelRequested: "run.cancel_requested",
    PauseRequested: "run.pause_requested",
    RunPaused: "run.paused",
    RunResumed: "run.resumed",
    RunUnwinding: "run.unwinding",
    RunCompleted: "run.completed",
    RunFailed: "run.failed",
    RunCancelled: "run.cancelled",
    RunReopened: "run.reopened",
    StepPatched: "step.patched",
    RunRewound: "run.rewound",
    TurnRecorded: "turn.recorded",
    SignalReceived: "signal.received",
    JobDue: "job.due",
    ChildReported: "child.reported",
    RunReleased: "run.released",
}

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What a decoder raises for bytes that are not what they should be."""

_DECODERS: dict[str, msgspec.json.Decoder[Any]] = {
    kind: msgspec.json.Decoder(struct) for struct, kind in KINDS.items()
}
_encode = msgspec.json.Encoder().encode


def encode_entry(entry: RunEntry) -> bytes:
    """The entry as its journal row holds it."""
    return _encode(entry)


def decode_entry(kind: str, data: bytes) -> RunEntry:
    """The entry of a journal row. Raises `Damaged`, also for a kind that is not a run's."""
    decoder = _DECODERS.get(kind)
    if decoder is None:
        raise Damaged(f"an entry {kind!r:.50}", "no entry of a run is of this kind")
    try:
        entry: RunEntry = decoder.decode(data)
    except UNREADABLE as error:
        raise Damaged(f"an entry {kind!r}", str(error)) from error
    return entry


_WITH_RESULT = frozenset((StepCompleted, StepPatched, WaitEnded, RunCompleted, ChildReported))


def payloads(entry: RunEntry) -> tuple[Payload | None, ...]:
    """The payloads that an entry holds."""
    if type(entry) in _WITH_RESULT:
        return (entry.result,)  # type: ignore[union-attr]
    match entry:
        case RunCreated():
            return (entry.input,)
        case TurnRecorded():
            return tuple(payload for op in entry.ops for payload in op_payloads(op))
        case SignalReceived():
            return (entry.event.value,)
        case _:
            return ()
