"""The state of an event-driven workflow, and the operations of which its turns consist.

A *job* is one delivery of an event (or of a joined list of events) to a step; it stays in the state
until the step has ended. So the state holds what is under way and the user's store, never what is
over: a run of 10,000 turns is as light as one of ten. Names of operations and fields are the
storage format: they may gain fields with defaults, and are never renamed or removed.

The core knows nothing of classes and signatures: who gets an event is decided by the code that
executes the workflow, and recorded here, so that changed code never changes what was decided.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ironflow.core.values.payloads import Failure, Payload

Change = list[Any]
"""One change of the store: `["=", path, value]` sets, `["-", path]` deletes, `["+", path, items]`
extends a list, `["<", path, n]` leaves its first `n` items. A path is a list of keys and indexes.
"""


class EventData(msgspec.Struct, frozen=True, omit_defaults=True):
    """An event: the full name of its class (`module.Class`) and its fields as JSON."""

    type: str
    value: Payload
    typed: dict[str, Any] = {}
    """Values that JSON alone would give back as something else, by field, as the store has them."""


class Wait(msgspec.Struct, omit_defaults=True):
    """A step's `wait_for_event`. Once `event` is there, or `timed_out`, the step is entered
    again.
    """

    type: str
    requirements: dict[str, Any] = {}
    until: int | None = None
    event: EventData | None = None
    timed_out: bool = False
    asked: str = ""
    """The mark of the `waiter_event` that was written to the stream when it began."""


class Child(msgspec.Struct, omit_defaults=True):
    """A run that a step has started and may await; `outcome` is None while it goes on."""

    run_id: str
    workflow: str
    outcome: str | None = None
    result: Payload | None = None
    error: Failure | None = None


class Echo(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that a step did and that is recorded although the step has not ended.

    When the step is executed again for the same job (after a crash, or after a wait), doing the
    same again has no second effect. `kind`: `send` (`send <run>` to a child), `stream`, `store`,
    `collect` or `cancel`; `mark` is a digest of what was done; `changes` and `undo` are those of
    the store.
    """

    kind: str
    mark: str = ""
    changes: tuple[Change, ...] = ()
    undo: tuple[Change, ...] = ()
    released: tuple[EventData, ...] | None = None


class Job(msgspec.Struct, omit_defaults=True):
    """One delivery to a step. `fans` are the open fan-outs it belongs to, outermost first."""

    id: int
    step: str
    events: tuple[EventData, ...]
    added_at: int
    fans: tuple[int, ...] = ()
    recoveries: dict[str, int] = {}
    """How often each error handler has been used on the way to this job."""
    failures: int = 0
    began_at: int | None = None
    """When its first attempt began."""
    failed_at: int | None = None
    error: Failure | None = None
    retry_at: int | None = None
    waits: dict[str, Wait] = {}
    memos: dict[str, Payload] = {}
    children: dict[str, Child] = {}
    echoes: list[Echo] = []

    @property
    def is_waiting(self) -> bool:
        """Whether nothing can be done for it before something comes or a timer rings."""
        if self.retry_at is not None:
            return True
        open_waits = [w for w in self.waits.values() if w.event is None and not w.timed_out]
        return bool(open_waits)


class Fan(msgspec.Struct, omit_defaults=True):
    """A fan-out: the list of events that a step returned. It is over when no job belongs to it."""

    id: int
    fans: tuple[int, ...] = ()
    """The fan-outs around it."""
    joins: tuple[str, ...] = ()
    """Steps that are entered when it is over, whether or not anything came of it."""
    collected: dict[str, list[EventData]] = {}
    """By joining step what came of it, in the order of completion."""
    fired: list[str] = []
    """Joining steps that were entered early and get nothing more."""
    recoveries: dict[str, int] = {}


class Signal(msgspec.Struct, frozen=True, omit_defaults=True):
    """An event from outside that no turn has routed yet."""

    event: EventData
    step: str | None = None
    answers: int | None = None


def signal_key(number: int) -> str:
    """By which a body is told that an event from outside is stored."""
    return f"signal:{number}"


class WorkflowState(msgspec.Struct, omit_defaults=True):
    """The fold of a workflow's turns."""

    begun: bool = False
    """The start event has been routed."""
    turns: int = 0
    next_job: int = 0
    next_fan: int = 0
    next_signal: int = 0
    next_event: int = 0
    """The sequence of the next streamed event."""
    outside: int = 0
    """How much came from outside: events, timers and ends of children."""
    jobs: dict[int, Job] = {}
    fans: dict[int, Fan] = {}
    buffers: dict[str, list[EventData]] = {}
    """What `collect_events` and joins of several parameters hold, by step and buffer."""
    inbox: dict[int, Signal] = {}
    store: dict[str, Any] = {}
    awaits: tuple[str, ...] = ()
    """While parked: types of events from outside that would bring the run on."""


# -- operations -----------------------------------------------------------------------------------


class Op(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="op", tag=True):
    """Base of the operations of a turn."""


class Started(Op, tag="started", frozen=True):
    """The start event was routed."""


class JobAdded(Op, tag="job_added", frozen=True):
    """An event is delivered to a step. `by` is the job that sent it; `queued`: it waits for one of
    the step's workers, which is told to readers.
    """

    job: int
    step: str
    events: tuple[EventData, ...]
    fans: tuple[int, ...] = ()
    recoveries: dict[str, int] = {}
    by: int | None = None
    queued: bool = False


class Sent(Op, tag="sent", frozen=True):
    """A step that has not ended yet sent an event; `mark` is its digest. `to`: the run of a child
    that it was for.
    """

    job: int
    mark: str
    to: str = ""


def sent_to(run_id: str) -> str:
    """The kind of echo of what was sent to a child; of an empty id, to the steps of the run."""
    return f"send {run_id}" if run_id else "send"


class JobBegan(Op, tag="job_began", frozen=True):
    """A worker of a step took a job. `input` is the bare name of the event's class."""

    job: int
    step: str
    input: str
    worker: int


class JobEnded(Op, tag="job_ended", frozen=True):
    """A step ended well. `output` is the bare name of the class that it returned."""

    job: int
    step: str
    input: str
    worker: int
    output: str | None = None


class JobFailed(Op, tag="job_failed", frozen=True):
    """An attempt of a step failed. Without `retry_at` it is not tried again; `caught`: an error
    handler takes over.
    """

    job: int
    step: str
    input: str
    worker: int
    error: Failure
    retry_at: int | None = None
    caught: bool = False


class JobCancelled(Op, tag="job_cancelled", frozen=True):
    """Another step, in its job `by`, cancelled a job that executed, waited, or was to be executed;
    `mark` is a digest of what it asked for.
    """

    job: int
    step: str
    input: str
    worker: int
    by: int
    mark: str


class JobWaits(Op, tag="job_waits", frozen=True):
    """A step waits for an event (`wait_for_event`) and has left its worker."""

    job: int
    key: str
    type: str
    requirements: dict[str, Any] = {}
    until: int | None = None
    asked: str = ""


class JobLeft(Op, tag="job_left", frozen=True):
    """A step that waits has left its worker."""

    job: int
    step: str
    input: str
    worker: int


class WaitMet(Op, tag="wait_met", frozen=True):
    """What a step waited for has come."""

    job: int
    key: str
    event: EventData


class Stored(Op, tag="stored", frozen=True):
    """The store changed. `undo` leads back; it is kept only as long as the step `job` may be
    executed again.
    """

    changes: tuple[Change, ...]
    job: int | None = None
    undo: tuple[Change, ...] = ()


class Collected(Op, tag="collected", frozen=True):
    """A buffer took an event; `released`: what it gave back then, and it is empty now."""

    buffer: str
    event: EventData
    job: int | None = None
    mark: str = ""
    released: tuple[EventData, ...] | None = None


class Streamed(Op, tag="streamed", frozen=True):
    """An event was written to the stream: the envelope that readers get."""

    event: Payload
    job: int | None = None
    mark: str = ""
    internal: bool = False


class SignalTaken(Op, tag="signal_taken", frozen=True):
    """An event from outside was routed."""

    signal: int


class Remembered(Op, tag="remembered", frozen=True):
    """`ctx.once`: a value that the step does not compute again."""

    job: int
    name: str
    value: Payload


class ChildStarted(Op, tag="child_started", frozen=True):
    """A step started another workflow as a run of its own."""

    job: int
    key: str
    run_id: str
    workflow: str


class FanOpened(Op, tag="fan_opened", frozen=True):
    """A step returned a list of events."""

    fan: int
    fans: tuple[int, ...] = ()
    joins: tuple[str, ...] = ()
    recoveries: dict[str, int] = {}


class FanFed(Op, tag="fan_fed", frozen=True):
    """An event came to a step that joins a fan-out."""

    fan: int
    step: str
    event: EventData


class FanFired(Op, tag="fan_fired", frozen=True):
    """A joining step was entered before the fan-out was over."""

    fan: int
    step: str


class FanClosed(Op, tag="fan_closed", frozen=True):
    """A fan-out is over."""

    fan: int


TurnOp = (
    Started | JobAdded | Sent | JobBegan | JobEnded | JobCancelled | JobFailed | JobWaits | JobLeft
    | WaitMet | Stored | Collected | Streamed | SignalTaken | Remembered | ChildStarted | FanOpened
    | FanFed | FanFired | FanClosed
)  # fmt: skip
