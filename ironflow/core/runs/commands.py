"""What a run can be told: by the API, by the execution of its body, by timers, events and other
runs.

Every report of an execution carries its number; a report of an execution that no longer owns the
run is refused with `StaleExecution`. A command with a `delivery` comes from the durable outbox and
is consumed in the commit of its effect.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from ironflow.core.functions.flow_control import Batch, Debounce, SingletonMode
from ironflow.core.messages import Message
from ironflow.core.prefect.commands import CancelFlowRun, MirrorChild
from ironflow.core.runs.entries import (
    CancelRung,
    EventFacts,
    EventRef,
    ParentRef,
    RunKind,
    RunOptions,
    StepKind,
    TakenEvent,
    UnwindOutcome,
)
from ironflow.core.values.payloads import Failure, Payload
from ironflow.core.workflows.state import EventData, TurnOp, WorkflowState

Directive = Literal["go", "suspend", "unwind", "compensate"]
"""What an execution does after a report: go on, let go of the body, unwind it, or run its
compensations.
"""


Fate = Literal["started", "skipped", "debounced", "batched"]
"""What became of a request for a run: it has one of its own, was given the one that was there, or
waits with others for one that they share.
"""


class Created(msgspec.Struct, frozen=True):
    """The answer to `CreateRun`: `created` is False when the same request had created the run
    before.

    `fate`: what became of the request. A `skipped` one names the run that is there; one that waits
    (`debounced`, `batched`) has no run id yet, and runs at `due_at` (microseconds) at the latest,
    as far as is known now; its event is `event_id`.
    """

    run_id: str
    created: bool
    status: str
    fate: Fate = "started"
    due_at: int | None = None
    event_id: str | None = None


class CreateRun(Message[Created], frozen=True, kw_only=True, omit_defaults=True):
    """Create the run that this actor is for. The same command again finds it; another input is a
    conflict.
    """

    function_id: str
    input: Payload
    input_hash: str
    options: RunOptions | None = None
    code: str | None = None
    event: EventRef | None = None
    idempotency_key: str | None = None
    parent: ParentRef | None = None
    kind: RunKind = "function"
    lanes: tuple[str, ...] = ()
    priority: int = 0
    share: str | None = None
    actor: str | None = None
    handler: str | None = None
    workflow: WorkflowState | None = None
    events: tuple[TakenEvent, ...] = ()
    merged: int = 0
    gate: str | None = None
    behind: str | None = None
    delivery: str | None = None
    blob: bytes | None = None


class Dispatch(Message[None], frozen=True):
    """The pool has a slot for this run (granted with the message)."""


class ExecutionLeft(Message[None], frozen=True):
    """The body of an execution is out of memory without having ended the run. `lost` says how,
    when a worker went away with it.
    """

    execution: int
    lost: str | None = None


class Send(msgspec.Struct, frozen=True):
    """A durable message: committed with its cause, delivered at least once, consumed in the commit
    of its effect.
    """

    target: str
    message: Message[Any]


class RecordStep(Message[Directive], frozen=True, kw_only=True, omit_defaults=True):
    """A step has its result. `cancels` are waits that lost a race and end with it."""

    execution: int
    key: str
    name: str
    pos: int
    kind: StepKind
    result: Payload
    scope: str = ""
    attempt: int = 1
    started_at: int = 0
    blob: bytes | None = None
    cancels: tuple[str, ...] = ()
    sends: tuple[Send, ...] = ()


class FailStep(Message[Directive], frozen=True, kw_only=True, omit_defaults=True):
    """An attempt of a step failed. `retry_in` seconds until the next one, None for never.

    `parks`: the keys of all other waits of the body when no branch of it is active any more, else
    None.
    """

    execution: int
    key: str
    name: str
    pos: int
    kind: StepKind
    error: Failure
    scope: str = ""
    attempt: int = 1
    started_at: int = 0
    retry_in: float | None = None
    parks: tuple[str, ...] | None = None


class StartWait(Message[Directive], frozen=True, kw_only=True, omit_defaults=True):
    """A branch waits. `parks` as in `FailStep`. `create` is the child to invoke. `vital`: the run
    fails when the wait ends in vain.
    """

    execution: int
    key: str
    name: str
    pos: int
    kind: StepKind
    scope: str = ""
    until: int | None = None
    event: str | None = None
    match: str | None = None
    lookback: float | None = None
    child: str | None = None
    create: CreateRun | None = None
    parks: tuple[str, ...] | None = None
    vital: bool = False
    blob: bytes | None = None


class Park(Message[None], frozen=True):
    """Every branch of the body waits, for the steps `waits`."""

    execution: int
    waits: tuple[str, ...]


class EndExecution(Message[Directive], frozen=True, kw_only=True, omit_defaults=True):
    """The body ended. `compensations`: it registered some that have not run yet. `retry_after` are
    the seconds until the next attempt that the failure itself asked for.
    """

    execution: int
    outcome: Literal["completed", "failed", "unwound", "compensated"]
    result: Payload | None = None
    error: Failure | None = None
    retry_after: float | None = None
    undelivered: bool = False
    """The body could not be reached: the attempt does not count."""
    compensations: bool = False
    blob: bytes | None = None


class NoteCancel(Message[None], frozen=True):
    """Whoever has the body was told to end it, in the way that the rung says."""

    execution: int
    rung: CancelRung
    whom: str


class TurnEnd(msgspec.Struct, frozen=True, omit_defaults=True):
    """A workflow has ended with this turn: its stop event's envelope, or what it failed with."""

    result: Payload | None = None
    error: Failure | None = None


class RecordTurn(Message[Directive], frozen=True, kw_only=True, omit_defaults=True):
    """What the steps of a workflow did since turn `number - 1`; the same number again is the same
    turn.

    `parks`: nothing executes and nothing could, before something comes; `awaits` are the types of
    events that would bring the run on. `seen`: how much of what came from outside the execution
    knows of. `creates` are the children that `ChildStarted` operations speak of. `blobs` by digest.
    """

    execution: int
    number: int
    ops: tuple[TurnOp, ...] = ()
    parks: bool = False
    awaits: tuple[str, ...] = ()
    seen: int = 0
    creates: tuple[Send, ...] = ()
    end: TurnEnd | None = None
    blobs: Mapping[str, bytes] = msgspec.field(default_factory=dict)


class SendSignal(Message[int], frozen=True, kw_only=True, omit_defaults=True):
    """Hand a workflow an event from outside, for the step `step` or for whoever takes it; `answers`
    is the sequence of the question that it answers. Answers its number.
    """

    event: EventData
    step: str | None = None
    answers: int | None = None
    delivery: str | None = None
    blob: bytes | None = None


class CancelRun(Message[str], frozen=True, kw_only=True, omit_defaults=True):
    """End the run. Answers its status: `cancelled`, or `running` while its body unwinds."""

    reason: str = "cancelled"
    outcome: UnwindOutcome = "cancelled"
    delivery: str | None = None


class PauseRun(Message[str], frozen=True):
    """Stop at the next step boundary. Answers the status: `paused`, or `running` until the
    boundary.
    """

    reason: str = "paused by request"


class ResumeRun(Message[str], frozen=True):
    """Go on after a pause. Answers the status. `from_step`: the key of the first step that is
    done again.
    """

    from_step: str | None = None


class RetryRun(Message[str], frozen=True):
    """Try a failed or cancelled run again from where it failed. Answers the status.

    `blob` is its input, when that lies in the blob table and an event that cancels depends on it.
    `from_step`: the key of the first step that is done again.
    """

    reason: str = ""
    blob: bytes | None = None
    from_step: str | None = None
    gate: str | None = None
    """The singleton that has let the run in again."""
    delivery: str | None = None


class PatchStep(Message[None], frozen=True, kw_only=True, omit_defaults=True):
    """Give a step that has ended another result; `injected`: only while the run is paused."""

    key: str
    result: Payload
    reason: str = ""
    by: str = ""
    injected: bool = False
    blob: bytes | None = None


class TimerFired(Message[None], frozen=True):
    """A durable timer of this actor is due."""

    name: str


class EventDelivered(Message[None], frozen=True, kw_only=True, omit_defaults=True):
    """An event that the step `step` of this run waits for; `event` is the whole event as JSON."""

    step: str
    event_id: str
    event: Payload
    delivery: str | None = None
    blob: bytes | None = None


class ChildEnded(Message[None], frozen=True, kw_only=True, omit_defaults=True):
    """A run that the step `step` of this run invoked has ended."""

    step: str
    run_id: str
    function_id: str
    status: str
    result: Payload | None = None
    error: Failure | None = None
    reason: str | None = None
    delivery: str | None = None


class Outcome(msgspec.Struct, frozen=True):
    """What became of an event, or of another request for a run, at the intake of a function.

    `subject`: the event's id, else the id that the run would have had. `run_id` is the run that it
    has part in: its own, the one that was there, or the one that its batch is to become. `due_at`
    (microseconds): when that would start, as of `at`.
    """

    subject: str
    function_id: str
    fate: Fate
    run_id: str
    at: int
    due_at: int | None = None


class Emitted(msgspec.Struct, frozen=True):
    """The answer to `EmitEvent`; `created` is False when the idempotency key was seen before.

    `intakes` are the functions whose policy decides what becomes of the event, `outcomes` what it
    has decided.
    """

    event_id: str
    run_ids: tuple[str, ...]
    created: bool
    intakes: tuple[str, ...] = ()
    outcomes: tuple[Outcome, ...] = ()


class EmitEvent(Message[Emitted], frozen=True, kw_only=True, omit_defaults=True):
    """Store an event and bring it to whoever waits for it: functions that it starts, runs that wait
    for it.
    """

    id: str
    name: str
    data: Payload
    source: str = "api"
    idempotency_key: str | None = None
    data_hash: str = ""
    facts: EventFacts | None = None
    at: int | None = None
    function_id: str | None = None
    """For this function alone, whatever its triggers: an invocation that is debounced or batched.
    """
    delivery: str | None = None
    blob: bytes | None = None


class LookBack(Message[None], frozen=True, kw_only=True, omit_defaults=True):
    """The step `step` of a run, which has begun to wait, would also take an event emitted after
    `since`.
    """

    run_id: str
    step: str
    since: int
    delivery: str | None = None


class Defer(Message[None], frozen=True, kw_only=True, omit_defaults=True):
    """An event for a debounced function, emitted at `at`. `create` is the run that it would start
    by itself, under the id `run_id`.
    """

    key: str
    policy: Debounce
    run_id: str
    create: CreateRun
    at: int
    delivery: str | None = None


class Collect(Message[None], frozen=True, kw_only=True, omit_defaults=True):
    """An event for a function that takes batches; as `Defer`."""

    key: str
    policy: Batch
    run_id: str
    create: CreateRun
    at: int
    source: str = ""
    delivery: str | None = None


class Admitted(msgspec.Struct, frozen=True):
    """The answer to `Admit`: `started` with the run that was asked for, or `skipped` with the one
    that is there. `created` is False when the same run had been let in before.
    """

    fate: Fate
    run_id: str
    created: bool


class Admit(Message[Admitted], frozen=True, kw_only=True, omit_defaults=True):
    """A run of a singleton function is wanted."""

    key: str
    mode: SingletonMode
    run_id: str
    create: CreateRun
    delivery: str | None = None


class Readmit(Message[str], frozen=True, kw_only=True):
    """A run of a singleton function that had failed or was cancelled is wanted again. Answers its
    status; raises `Conflict` while another one is under way.
    """

    run_id: str
    retry: RetryRun


class RunLeft(Message[None], frozen=True, kw_only=True, omit_defaults=True):
    """A run of a singleton function has ended."""

    run_id: str
    delivery: str | None = None


class Withdraw(Message[None], frozen=True, kw_only=True, omit_defaults=True):
    """A run that is about to be let in is to be cancelled."""

    run_id: str
    cancel: CancelRun
    delivery: str | None = None


class ReleaseRun(Message[None], frozen=True, kw_only=True, omit_defaults=True):
    """The run that this one was behind has ended: it may begin."""

    delivery: str | None = None


class StartPending(Message[Outcome], frozen=True):
    """What waits with an intake is to start now. Raises `NotFound` when nothing does."""


class DropPending(Message[Outcome], frozen=True):
    """What waits with an intake is to be forgotten. Raises `NotFound` when nothing does."""

    reason: str


DELIVERABLE: dict[str, type[Message[Any]]] = {
    "create_run": CreateRun,
    "cancel_run": CancelRun,
    "event_delivered": EventDelivered,
    "child_ended": ChildEnded,
    "emit_event": EmitEvent,
    "look_back": LookBack,
    "send_signal": SendSignal,
    "mirror_child": MirrorChild,
    "cancel_flow_run": CancelFlowRun,
    "retry_run": RetryRun,
    "defer": Defer,
    "collect": Collect,
    "admit": Admit,
    "run_left": RunLeft,
    "withdraw": Withdraw,
    "release_run": ReleaseRun,
}
"""The messages that the durable outbox carries, by the name in its rows."""

DELIVERY_KINDS = {kind: name for name, kind in DELIVERABLE.items()}
