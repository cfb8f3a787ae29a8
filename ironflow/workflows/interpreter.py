"""Executes the body of a workflow's run: takes jobs up, and records turns.

Everything that steps do becomes operations in one order. They are applied to the state in memory at
once and recorded in turns: one turn is on its way to the journal at a time, and takes along all
that has gathered since the last one, so that what a step did (its result, what it sent, stored and
streamed) is one commit, and the turns of steps that end together are one, too. New jobs are taken
up only when the turn that made them is durable.

What a step streams while it goes on is committed on the next turn of the loop; what it stores and
sends waits for its end, for at most `PATIENCE` seconds, so that a step that never ends can still
hand on work.

Nothing here waits in a task: `_go_on` is called when a step has ended, when a turn is recorded and
when something came, and does what can be done then. Between the end of a step and its turn on the
way to the journal there is no turn of the event loop, nor between the turn's return and the task of
the next step.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Mapping
from collections.abc import Set as AbstractSet
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any, cast

import msgspec

from ironflow.core.errors import Gone, StorageError, Suspended, Unwound
from ironflow.core.runs import commands as c
from ironflow.core.runs.execution import Assignment, LocalEffects, RunningStep
from ironflow.core.runs.state import Step
from ironflow.core.values.payloads import Failure
from ironflow.core.workflows.fold import APPLY
from ironflow.core.workflows.state import (
    Change,
    Echo,
    Job,
    Started,
    Stored,
    TurnOp,
    WorkflowState,
)
from ironflow.core.workflows.stream import StreamedEvent
from ironflow.sdk.context import current_run_id
from ironflow.workflows.arrivals import Arrivals
from ironflow.workflows.codec import payload_of
from ironflow.workflows.errors import ContextStateError
from ironflow.workflows.objects import Objects
from ironflow.workflows.routing import Router
from ironflow.workflows.store import LiveState
from ironflow.workflows.turns import Turn, settled
from ironflow.workflows.workers import Workers

if TYPE_CHECKING:
    from ironflow.sdk.executor import Executor
    from ironflow.workflows.mounting import MountedWorkflow

log = logging.getLogger("ironflow.workflows")

PATIENCE = 0.025
"""Seconds that what a step did waits for the step's end before it is recorded without it."""

_encode_state = msgspec.json.Encoder().encode
_decode_state = msgspec.json.Decoder(WorkflowState).decode


class Interpreter:
    """One execution of a workflow's run: the body that the executor holds."""

    def __init__(
        self, executor: Executor, function: MountedWorkflow, assignment: Assignment
    ) -> None:
        self.executor, self.function, self.assignment = executor, function, assignment
        self.workflow, self.definition = function.workflow, function.graph
        self.loop, self.clock = executor.loop, executor.clock
        self.thread = threading.get_ident()
        # Workflows are executed in the process of the engine and nowhere else.
        self.effects = cast(LocalEffects, assignment.effects)
        self.keep = function.keeper(assignment.run_id)
        self.task: asyncio.Task[None] | None = None
        self.leaving = self.unwinding = self.pausing = False
        self.record = assignment.record().workflow or WorkflowState()
        """The state as the journal has it: a live view, ahead of it by what is `unsettled`."""
        self.unsettled = assignment.unsettled
        self.state = WorkflowState()
        if self.record != self.state:
            self.state = _decode_state(_encode_state(self.record))
        self.live: LiveState
        self.router = Router(self)
        self.arrivals = Arrivals(self)
        self.number_of_turns = self.state.turns
        self.ops: list[TurnOp] = []
        self.fresh: list[int] = []
        """Jobs that may be taken up once what made them is recorded."""
        self.creates: list[c.Send] = []
        self.blobs: dict[str, bytes] = {}
        self.objects = Objects(function, assignment.effects, self.keep)
        self.workers = Workers(self)
        self.end: c.TurnEnd | None = None
        self.context: Context
        """The context variables that steps inherit: those of the caller, where it is known."""
        self._over: asyncio.Future[Turn | None] | None = None
        """Ends the body; with a turn that the journal would not take, it is for another try."""
        self._recording: Turn | None = None
        self._due = self._is_parked = False
        self._is_going = self._is_called = False
        """`_go_on` is under way; it will be called on the next turn of the loop."""
        self._is_first = False
        """Events from outside have come before the run began: the steps of the start event begin
        before they are taken in, for one of them may wait for what has come.
        """
        self._is_told = False
        """The run's actor has just told that a turn is durable, and has more to do."""
        self._patience: asyncio.TimerHandle | None = None
        self._since: float | None = None
        """Since when something waits for the end of its step."""
        self._commits: list[asyncio.Future[None]] = []

    # -- what the executor asks -------------------------------------------------------------------

    @property
    def run_id(self) -> str:
        """The run."""
        return self.assignment.run_id

    @property
    def number(self) -> int:
        """The fencing token of everything that this execution reports."""
        return self.assignment.execution

    @property
    def is_idle(self) -> bool:
        """Whether nothing but something durable holds the body up."""
        return not (self.workers.active or self.ops or self._due or self._recording)

    def attach(
        self,
        steps: Mapping[str, Step],
        order: Mapping[str, list[str]],
        unsettled: AbstractSet[str],
        workflow: WorkflowState | None = None,
    ) -> None:
        """The run's record is kept in this object from now on."""
        self.unsettled = unsettled
        if workflow is not None:
            self.record = workflow

    def wake(self, key: str | None) -> None:
        """Something has come from outside: take it in on the next turn."""
        self.executor.note_busy(self)
        self._is_parked = False
        self.ring()

    def suspend(self) -> None:
        """Leave at the next boundary: steps that execute end first, and no new ones begin."""
        self.leaving = True
        self._call()

    def unwind(self) -> None:
        """Cancel whatever executes, and end."""
        self.unwinding = True
        self.workers.cancel()
        self._call()

    def running_steps(self) -> list[RunningStep]:
        """What executes now."""
        return [
            RunningStep(f"{i.spec.name}#{job}", i.spec.name, i.job.failures + 1, i.started_at)
            for job, i in self.workers.active.items()
        ]

    # -- the run ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """The body up to its end. Raises `Suspended` when it is to be replayed later, and what
        reports raise.
        """
        try:
            if self.assignment.unwinding is not None:
                raise Unwound
            await self._restore()
            await self._live()
        except Unwound:
            await self.workers.stop()
            if self.leaving:
                raise Suspended from None
            await self.effects.ask(c.EndExecution(execution=self.number, outcome="unwound"))
        finally:
            if self._patience is not None:
                self._patience.cancel()
            self._over = None
            for future in self._commits:  # such as of somebody outside, when the run is cancelled
                if not future.done():
                    future.set_exception(ContextStateError("the run has ended"))
                    future.exception()
            self.workers.cancel()

    async def _restore(self) -> None:
        self.live = LiveState(self.state.store, self.definition.state_type, self.keep)
        if self.state.begun or self.state.inbox:
            await self.objects.load_all(self.state)
            self.router.restore()
        if self.state.begun or not self.record.inbox:
            self.arrivals.take_in()
        else:
            self._is_first = self._due = True
        if self.fresh:
            self._begin_fresh()
        elif self.ops:
            self.ring()
        if not self.state.begun:
            event = await self.function.start_event(self.assignment.input, self.effects, self.keep)
            self.emit(Started())
            self.router.route(self.router.prepare(event, None, inside=False))
            self._begin_fresh()

    async def _live(self) -> None:
        """From the first job to the end. Raises `Unwound`, `Suspended`, and what reports raise."""
        caller = self.function.callers.get(self.run_id)
        self.context = copy_context() if caller is None else caller.copy()
        self.context.run(current_run_id.set, self.run_id)
        self._over = self.loop.create_future()
        self._advance()
        while (turn := await self._over) is not None:
            self._over = self.loop.create_future()
            directive = await self.effects.ask(turn.command)
            self._recorded(directive, None)

    def _advance(self) -> None:
        """Do what can be done now."""
        self._is_called = False
        if self._is_going or self._recording is not None:
            return
        self._is_going = True
        try:
            self._go_on()
        except Exception as error:  # noqa: BLE001 - raised in the body's task
            self.leave(error)
        finally:
            self._is_going = False

    def _go_on(self) -> None:
        while self._recording is None and self._over is not None and not self._over.done():
            if self.unwinding:
                self.leave(Unwound())
            elif self._due and not self._is_first:
                self._due = False
                if self.record.outside != self.arrivals.seen:
                    is_level = not (self.fresh or self._has_news())
                    self.arrivals.take_in()
                    if is_level and self.fresh and not self._due:
                        self._begin_fresh()
                        continue
                if self._has_news():
                    self._record(parks=self._is_through())
            else:
                self.workers.dispatch()
                if self.workers.active:
                    if self._is_first:
                        self.loop.call_soon(self._open)  # behind the first turns of these steps
                    return
                self._is_first = False
                if self._due:
                    continue
                if not self._come_to_rest():
                    return

    def _open(self) -> None:
        """The steps of the start event have begun: what has come from outside is taken in."""
        self._is_first = False
        self.ring()

    def _come_to_rest(self) -> bool:
        """No step executes: whether there is something to say about that."""
        if self.leaving or self.pausing:
            if self.ops:
                self._record()
            else:
                self.leave(Suspended())
        elif self.router.queues:
            return False
        elif self._is_parked:
            self.executor.note_idle(self)
            return False
        else:  # nothing is left to do, and the last turn has not said so
            self._record(parks=True)
        return True

    def leave(self, error: BaseException | None) -> None:
        """The body ends, or breaks."""
        over = self._over
        if over is None or over.done():
            return
        if error is None:
            over.set_result(None)
        else:
            over.set_exception(error)

    def note_step_ended(self) -> None:
        """A step has left its worker. What it did is recorded now, with that of others which are
        about to end if there are any.
        """
        if self.workers.active:
            self.ring()
        else:
            self._due = True
            self._advance()

    def _begin_fresh(self) -> None:
        """Take new jobs up although no turn has recorded them.

        What the journal has decided them: the start event, or events from outside that came to a
        state which is all recorded. So it is decided again after a crash; these steps begin without
        a turn of their own, and the turn that they end records it.
        """
        first, self.fresh = self.fresh, []
        for job_id in first:
            job = self.state.jobs.get(job_id)
            if job is not None and job_id not in self.workers.active:
                self.router.enqueue(job)
        self.flush_later()

    def ring(self) -> None:
        """There is something to do, or to record: on the next turn of the loop."""
        self._due = True
        self._call()

    def _call(self) -> None:
        """Have `_advance` called soon; not by whoever will do it anyway."""
        if not (self._is_called or self._is_going or self._recording is not None):
            self._is_called = True
            self.loop.call_soon(self._advance)

    def finish(self, event: Any, text: bytes) -> None:
        """The run ends with this stop event, `text` in its stored form; the first one counts."""
        if self.end is None:
            self.end = c.TurnEnd(result=payload_of(text, self.blobs))
            self.function.keep_result(self.run_id, event)
            self.ring()

    def fail(self, failure: Failure) -> None:
        """The run ends with this failure, unless it has ended already."""
        if self.end is None:
            self.end = c.TurnEnd(error=failure)
            self.ring()

    def _has_news(self) -> bool:
        """Whether there is anything to record."""
        return bool(self.ops or self.creates or self.end)

    def _is_through(self) -> bool:
        """Whether nothing is left to do before something comes from outside."""
        under_way = self.workers.active or self.router.queues or self.fresh
        return not (under_way or self.leaving or self.pausing)

    # -- turns ------------------------------------------------------------------------------------

    def emit(self, op: TurnOp, at: int = 0) -> None:
        """Something happened (now, or `at`): the state in memory follows at once, the journal with
        the next turn.
        """
        self.ops.append(op)
        APPLY[type(op)](self.state, op, at or self.clock.now())

    def emit_stored(self, job: Job, changes: tuple[Change, ...], undo: tuple[Change, ...]) -> None:
        """A step has changed the store, which follows no operation: the state has changed."""
        self.ops.append(Stored(changes, job.id, undo))
        if undo and job.id in self.state.jobs:
            job.echoes.append(Echo("store", "", changes, undo))

    def change_store(self, changes: tuple[Change, ...], undo: tuple[Change, ...]) -> None:
        """Whoever holds the handler has changed the store."""
        self.ops.append(Stored(changes))

    def check_open(self) -> None:
        """Raises `ContextStateError` when the run is about to end."""
        if self.end is not None or self.unwinding or self._over is None:
            raise ContextStateError("the run is about to end: its store cannot be changed any more")

    async def settle(self) -> None:
        """Return when what was changed from outside is recorded."""
        if self.ops and self.end is None and self._over is not None:
            await self.commit_now()

    def flush_later(self) -> None:
        """Record what a step did although it goes on, if it goes on for long."""
        if self._since is None:
            self._since = self.loop.time()
            if self._patience is None:
                self._patience = self.loop.call_later(PATIENCE, self._flush)

    def _flush(self) -> None:
        self._patience = None
        if self._since is None:
            return
        left = self._since + PATIENCE - self.loop.time()
        if left > 0.001:  # the timer was set for something that has been recorded
            self._patience = self.loop.call_later(left, self._flush)
            return
        self._since = None
        for invocation in list(self.workers.active.values()):
            invocation.release(goes_on=True)
        if self.ops:
            self.ring()

    def commit_now(self) -> asyncio.Future[None]:
        """When what was emitted just now, and all before it, is recorded."""
        future: asyncio.Future[None] = self.loop.create_future()
        self._commits.append(future)
        self.ring()
        return future

    def _record(self, parks: bool = False) -> None:
        """Hand the journal a turn."""
        if not self.workers.active:
            # One timer serves many turns: it is not set and cancelled for each.
            self._since = None
        ops, self.ops = self.ops, []
        fresh, self.fresh = self.fresh, []
        creates, self.creates = self.creates, []
        blobs, self.blobs = self.blobs, {}
        commits, self._commits = self._commits, []
        if self.end is not None:
            self.workers.cancel()
        self.number_of_turns += 1
        self.state.turns = self.number_of_turns
        command = c.RecordTurn(
            execution=self.assignment.execution,
            number=self.number_of_turns,
            ops=settled(ops),
            parks=parks,
            awaits=self.definition.answers if parks else (),
            seen=self.arrivals.seen,
            creates=tuple(creates),
            end=self.end,
            blobs=blobs,
        )
        if blobs:
            self.objects.add_large(blobs, self.state)
        self._is_parked = parks  # before it is recorded: what wakes the run may come meanwhile
        self._recording = Turn(command, fresh, commits)
        self.effects.report(command, self._recorded, at_once=not self._is_told)

    def _recorded(self, directive: c.Directive | None, error: Exception | None) -> None:
        """The turn is durable, or was refused: go on."""
        turn, over = self._recording, self._over
        if turn is None or over is None or over.done():
            return
        if error is not None:
            if isinstance(error, StorageError | Gone):
                over.set_result(turn)  # the body's task insists
            else:
                self._recording = None
                self.leave(error)
            return
        self._recording = None
        for future in turn.commits:
            if not future.done():
                future.set_result(None)
        for job_id in turn.fresh:
            job = self.state.jobs.get(job_id)
            if job is not None and job_id not in self.workers.active:
                self.router.enqueue(job)
        if directive == "unwind":
            self.unwinding = True
        elif turn.command.end is not None:
            self.leave(None)
            return
        else:
            self.pausing = directive == "suspend"
        self._is_told = True
        self._advance()
        self._is_told = False

    # -- children ---------------------------------------------------------------------------------

    def follow_child(self, run_id: str, after: int) -> AsyncIterator[StreamedEvent]:
        """The streamed events of a child."""
        return self.effects.follow(run_id, after)

    def mount_child(self, workflow: Any) -> MountedWorkflow:
        """Serve the workflow of a child here, unless its name is served already."""
        found = self.function.child(workflow, self.executor.registry)
        self.effects.serve(found.id)
        return found
