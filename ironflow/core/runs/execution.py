"""The contract between the engine, which decides and records, and whatever executes a run's body.

An executor is handed an `Assignment` and reports through its `Effects`; the engine wakes, cancels
and drops bodies through the `Host`. Both sides share only this module and `core.runs.commands`, so
that a body runs in this process, in a worker or behind an endpoint by the same protocol.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Protocol, TypeVar

import msgspec

from ironflow.core.functions.definition import FunctionSpec
from ironflow.core.messages import Message
from ironflow.core.runs.entries import (
    CancelRequested,
    EventRef,
    RunOptions,
    RunUnwinding,
    TakenEvent,
    UnwindOutcome,
)
from ironflow.core.runs.state import Run, Step
from ironflow.core.values.payloads import Payload
from ironflow.core.workflows.state import WorkflowState
from ironflow.core.workflows.stream import StreamedEvent

R = TypeVar("R")


class Effects(Protocol):
    """How an execution reports. Answers come after the commit: what was answered is durable."""

    async def ask(self, command: Message[R]) -> R:
        """Report and wait for the answer. Waits out a full disk; raises `StaleExecution` once it
        lost the run.
        """
        ...

    async def blob(self, digest: str) -> bytes:
        """A large value by its digest."""
        ...

    def leave(self, lost: str | None = None) -> None:
        """Say that the body is out of memory without having ended the run; `lost`: how its worker
        was.
        """
        ...


class LocalEffects(Effects, Protocol):
    """How an execution in the process of the engine reports; event-driven workflows have no
    other.
    """

    def report(
        self,
        command: Message[R],
        then: Callable[[R | None, Exception | None], None],
        *,
        at_once: bool,
    ) -> None:
        """`ask` for whoever does not await: once it is durable `then` gets the answer, or at any
        time why there is none. Repeats nothing; `then` must not raise. `at_once`: the engine may
        decide before this returns.
        """
        ...

    def follow(self, run_id: str, after: int = -1) -> AsyncIterator[StreamedEvent]:
        """The streamed events of a workflow after a sequence, as they come, up to its end."""
        ...

    def serve(self, function_id: str) -> None:
        """Say that this process can execute something from now on: a child that a step has made."""
        ...


class Assignment(msgspec.Struct, frozen=True):
    """One execution of a run's body: what it is, what is recorded already, and where to report.

    `steps` and `order` are live views of the run's record: they grow as reports are queued for the
    disk. `unsettled` are the keys of steps whose end, and of events from outside whose entry is
    queued and not yet durable: the body must not know of it yet.
    """

    run_id: str
    function_id: str
    execution: int
    attempt: int
    input: Payload
    options: RunOptions
    created_at: int
    event: EventRef | None
    depth: int
    steps: Mapping[str, Step]
    order: Mapping[str, list[str]]
    unwinding: UnwindOutcome | None
    effects: Effects
    record: Callable[[], Run]
    """The run's whole record, to be encoded at once: it goes on changing."""
    unsettled: AbstractSet[str] = frozenset()
    events: tuple[TakenEvent, ...] = ()
    """The events of its batch; their datas are the input, in this order."""
    actor: str | None = None
    """The value by which it goes to the same worker as others."""

    @classmethod
    def of(
        cls,
        run: Run,
        execution: int,
        ending: RunUnwinding | CancelRequested | None,
        effects: Effects,
        record: Callable[[], Run],
        unsettled: AbstractSet[str] = frozenset(),
    ) -> Assignment:
        """An execution of the body of `run`; `ending`: what it is to be unwound for."""
        return cls(
            run.id,
            run.function_id,
            execution,
            run.attempt,
            run.input,
            run.options,
            run.created_at,
            run.event,
            run.parent.depth if run.parent is not None else 0,
            run.steps,
            run.order,
            ending.outcome if ending is not None else None,
            effects,
            record,
            unsettled,
            run.events,
            run.actor,
        )


class RunningStep(msgspec.Struct, frozen=True):
    """A step whose function is executing now; `started_at` in microseconds."""

    key: str
    name: str
    attempt: int
    started_at: int


class Host(Protocol):
    """Where bodies are executed in this process."""

    def spec(self, function_id: str) -> FunctionSpec | None:
        """The function, if this process can execute it."""
        ...

    def specs(self) -> Iterable[FunctionSpec]:
        """Every function that this process can execute."""
        ...

    def start(self, assignment: Assignment) -> None:
        """Begin an execution."""
        ...

    def attach(
        self,
        run_id: str,
        execution: int,
        steps: Mapping[str, Step],
        order: Mapping[str, list[str]],
        unsettled: AbstractSet[str],
        workflow: WorkflowState | None = None,
    ) -> None:
        """The run's record is kept in these objects from now on: a body in memory must look
        there.
        """
        ...

    def wake(self, run_id: str, execution: int, key: str | None) -> bool:
        """Let branches whose waits have ended go on (`key`: just this one). False when the body is
        not in memory.
        """
        ...

    def cancel(self, run_id: str, execution: int) -> None:
        """Unwind the body of an execution."""
        ...

    def drop(self, run_id: str) -> None:
        """Let go of a body that waits."""
        ...

    def is_hot(self, run_id: str, execution: int) -> bool:
        """Whether the body of this execution is in memory and can be woken."""
        ...

    def is_active(self, run_id: str) -> bool:
        """Whether any body of the run is in memory, also one that is on its way out."""
        ...

    def running_steps(self, run_id: str) -> list[RunningStep]:
        """The steps of the run that are executing now."""
        ...
