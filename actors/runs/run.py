"""The actor of one run: its mailbox around the pure decisions of `ironflow.core.runs.decisions`.

It reserves a slot when a command may start the body, decides, commits the entries with all that
follows from them, and after the commit starts, wakes or cancels the body. User code never runs in
here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import msgspec

from ironflow.actors.environment import Environment
from ironflow.actors.kernel.actor import LATER, Ensure, Envelope
from ironflow.actors.runs import batch as run_batch
from ironflow.actors.runs.admission import prepare
from ironflow.actors.runs.batch import Posted, keys_of_ends
from ironflow.actors.runs.effects import LocalEffects
from ironflow.actors.runs.record import record
from ironflow.actors.runs.rows import encode_snapshot, fold, handler_row, row_facts, run_row
from ironflow.actors.slots.lines import Ticket
from ironflow.actors.slots.windows import Start
from ironflow.actors.stream import Renew, StreamActor
from ironflow.core.errors import IronflowError
from ironflow.core.functions.lanes import is_throttle, lanes_of
from ironflow.core.messages import Message
from ironflow.core.runs import commands as c
from ironflow.core.runs import decisions as d
from ironflow.core.runs import effects as fx
from ironflow.core.runs import entries as e
from ironflow.core.runs.entries import RunStarted
from ironflow.core.runs.execution import Assignment
from ironflow.core.runs.fold import apply
from ironflow.core.runs.state import Run, RunStatus, StepStatus
from ironflow.core.workflows.turns import job_timers
from ironflow.storage.ports import RUNS, Batch
from ironflow.storage.relational.handlers import HANDLERS

log = logging.getLogger("ironflow.runs")


class RunActor(StreamActor):
    """One run. Understands the commands of `ironflow.core.runs.commands`."""

    run: Run

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.situation = fx.Situation(0, max_crashes=environment.max_crashes)
        self.starting = False
        """A body is started as soon as the commit that says so is durable."""
        self.queued_at = 0
        """When the run began to wait for its turn, as this actor has seen it."""
        self.counts: list[Start] = []
        """What the decision that is being made adds to throttles and rate limits."""
        self.uncounted: list[Start] = []
        """What is on its way to the disk and will count."""
        self.vacating = 0
        """Commits on their way that say that the run no longer executes."""
        self.ending: e.RunUnwinding | e.CancelRequested | None = None
        """What the body that is being started is to be unwound for."""
        self.unsettled: set[str] = set()
        """Steps whose end is on its way to the disk: bodies must not know of it yet."""
        self.asked: str | None = None
        """The singleton that was asked to let the run in, before it exists."""
        self.unsure: set[str] = set()
        """Steps whose waiters are in memory but perhaps not yet in the database."""

    def start_at_once(self) -> bool:
        """A run whose id was just made up has no stream to read."""
        if not self.is_fresh():
            return False
        self.run = Run(self.key)
        return True

    async def start(self) -> None:
        """Fold the stream."""
        loaded = await self.environment.store.reader.load(self.address)
        self.run = fold(self.key, loaded)
        if loaded.snapshot is not None:
            self.snapshot_version = loaded.snapshot.version
        # A body that is in memory reads the record of the actor that is live.
        run = self.run
        self.environment.host.attach(
            self.key, run.execution, run.steps, run.order, self.unsettled, run.workflow
        )
        if self.cell.restarts:
            self._reestablish()
            self.renew_later()

    def stop(self) -> None:
        """Forget waiters that were not committed; a new life adds those that were."""
        for step in self.unsure:
            self.environment.waiters.remove(self.key, step)
        self._uncount([*self.uncounted, *self.counts])

    def receive(self, message: Message[Any], envelope: Envelope) -> object:
        """Decide, commit, and answer after the commit."""
        kind, situation = type(message), self.situation
        situation.now, situation.barred = self.environment.clock.now(), None
        if kind is c.RecordStep or kind is c.RecordTurn:
            # By far the most frequent messages; what they cannot depend on is not asked.
            situation.hot = True
            return self._answer(message, envelope)
        if kind is Ensure:
            return None
        if kind is Renew:
            self._renew()
            return None
        run, host = self.run, self.environment.host
        situation.hot = self.starting or (run.execution > 0 and host.is_hot(run.id, run.execution))
        if not run.exists and (kind is c.CreateRun or kind is c.CancelRun):
            completed, answer = prepare(self, message, envelope)
            if completed is None:
                return answer
            message = completed
        if situation.barred is not None:
            situation.slot = False
        elif kind is c.Dispatch or kind in d.MAY_START:
            self._reserve(message)
        return self._answer(message, envelope)

    def _answer(self, message: Message[Any], envelope: Envelope) -> object:
        """Decide in the present situation."""
        kind, run, situation = type(message), self.run, self.situation
        status = run.status
        is_turn = kind is c.RecordTurn
        # A turn changes the row of its run only together with the status.
        before = status if is_turn else row_facts(run)
        try:
            decision = d.decide(run, message, situation)
        except Exception as error:  # noqa: BLE001 - raised again there
            return self._refuse(error, envelope)
        blobs = message.blobs if is_turn else getattr(message, "blob", None)  # type: ignore[attr-defined]
        batch, sends = self._prepare(decision, blobs)
        if before != (run.status if is_turn else row_facts(run)):
            batch.puts.append((RUNS, msgspec.structs.astuple(run_row(run))))
            if run.handler is not None:
                batch.puts.append((HANDLERS, handler_row(run)))
        ends = [] if is_turn else keys_of_ends(decision.entries)
        if ends:
            self.unsettled.update(ends)
        then: Callable[[], None] | None = None
        counts = self.counts
        if counts:
            self.counts = []
            self.uncounted.extend(counts)
        vacates = status is RunStatus.RUNNING and run.status is not RunStatus.RUNNING
        if vacates:
            self.vacating += 1
        elif run.status is not RunStatus.RUNNING:
            self._release()
        if decision.effects or ends or vacates or counts or kind is c.ExecutionLeft:
            then = partial(self._act, decision.effects, sends, ends, vacates, counts)
        if batch.entries or batch.puts or batch.deletes or self.uncommitted:
            # Also without a change of its own an answer may rest on one that is on its way: it
            # leaves when that is durable.
            self.commit(batch, envelope, decision.reply, then)
            return LATER
        if then is not None:
            then()
        return decision.reply

    def _refuse(self, error: Exception, envelope: Envelope) -> object:
        """The decision is no. It leaves when the changes are durable that it may rest on."""
        self._uncount(self.counts)
        self.counts = []
        self._release()
        if not self.run.exists:
            self.cell.leave_when_quiet()
        if not self.uncommitted or not isinstance(error, IronflowError):
            raise error
        self.commit(Batch([], [], []), envelope, error)
        return LATER

    def _release(self) -> None:
        """Give back a slot that was reserved for a decision which did not use it, or that the run
        has left. The latter once that is durable: a commit that is refused must not find somebody
        else in its place.
        """
        if self.run.status is not RunStatus.RUNNING and not self.vacating:
            queued = self.run.status is RunStatus.QUEUED
            self.environment.pool.release(self.run.id, queued)

    # -- before the decision ----------------------------------------------------------------------

    def _reserve(self, message: Message[Any]) -> None:
        """See whether the body could be run now, and take a slot for it."""
        env, situation = self.environment, self.situation
        run = self.run
        function_id, lanes, actor = run.function_id, run.lanes, run.actor
        if isinstance(message, c.CreateRun) and not run.exists:
            function_id, lanes, actor = message.function_id, message.lanes, message.actor
        lanes = lanes_of(lanes, run.started_at is not None)
        if actor is not None:
            env.pool.prefer(self.key, function_id, actor, run.worker)
        spec = env.host.spec(function_id)
        # A body on its way out must be gone first: its last step may still be executing.
        leaving = run.exists and env.host.is_active(self.key) and not situation.hot
        situation.code = None if spec is None or leaving else spec.definition.code
        situation.slot = situation.code is not None and env.pool.acquire(
            self.key, function_id, lanes
        )
        situation.worker = env.pool.worker_of(self.key) if situation.slot else None

    # -- the commit -------------------------------------------------------------------------------

    def _prepare(
        self, decision: fx.Decision, blobs: Mapping[str, bytes] | bytes | None
    ) -> tuple[Batch, list[Posted]]:
        """Apply the entries, and put them with everything durable that follows from them into one
        batch; and what is to be posted once that is committed.
        """
        run, now = self.run, self.situation.now
        batch, sends = Batch([], [], []), list[Posted]()
        if decision.entries and run.status is not RunStatus.QUEUED:
            self.queued_at = now
        for entry in decision.entries:
            if type(entry) is RunStarted and run.started_at is None:
                throttles = filter(is_throttle, run.lanes)
                self.counts.extend(Start(lane, now, run.id) for lane in throttles)
            apply(run, entry, now)
            run_batch.add_entry(self, batch, entry, blobs)
        if run.lanes or run.priority or run.share is not None or run.actor is not None:
            run_batch.note_place(run, batch, decision.entries)
        if self.counts:
            run_batch.note_counts(self, batch)
        for effect in decision.effects:
            if type(effect) is fx.StartBody:
                self.starting = True
                # As of now: by the time that this is durable a cancel may be on its way, which
                # tells the body itself once it is durable, too.
                self.ending = run.unwinding or run.cancelling
            if type(effect) is c.Send:
                sends.append(run_batch.add_send(self, batch, effect, len(sends)))
            else:
                run_batch.add_effect(self, batch, effect)
        if decision.entries and self.snapshot_is_due(run.version):
            self.add_snapshot(batch, run.version, encode_snapshot(run))
        return batch, sends

    # -- after the commit -------------------------------------------------------------------------

    def _act(
        self,
        effects: list[fx.Effect],
        sends: list[Posted],
        ends: list[str],
        vacates: bool,
        counts: list[Start],
    ) -> None:
        run, env = self.run, self.environment
        self._count(counts)
        if vacates:
            self.vacating -= 1
            self._release()
        if ends:
            self.unsettled.difference_update(ends)
        for send in sends:
            env.outbox.post(*send)
        for effect in effects:
            match effect:
                case fx.SetTimer():
                    env.timers.arm(self.address, effect.name, effect.at)
                case fx.ClearTimer():
                    env.timers.disarm(self.address, effect.name)
                case fx.Consume():
                    env.outbox.consumed(self.address, effect.delivery)
                case fx.AddWaiter():
                    self.unsure.discard(effect.step)
                case fx.Ended():
                    env.pool.discard(run.id, run.function_id)
                    env.endings.publish(run)
                case fx.Enqueue():
                    self._enqueue()
                case _:
                    self._drive(effect)
        # A run whose body has gone sleeps in the journal alone: as an actor it is 6 KiB.
        if run.is_terminal or (run.status is RunStatus.WAITING and not env.host.is_active(run.id)):
            self.cell.leave_when_quiet()

    def _count(self, counts: list[Start]) -> None:
        """What counts for a throttle or a rate limit is durable."""
        lanes, windows = self.environment.pool.lanes, self.environment.pool.windows
        del self.uncounted[: len(counts)]
        for lane, at, run_id in counts:
            if is_throttle(lane):
                lanes.begin(run_id, at)
            else:
                windows.begin(lane, run_id, at)

    def _uncount(self, counts: list[Start]) -> None:
        """It has not come to that. A place in a throttle is given back with the others."""
        for lane, _, run_id in counts:
            if not is_throttle(lane):
                self.environment.pool.windows.free(lane, run_id)

    def _enqueue(self) -> None:
        """Wait for a turn; a run that gives back what it was granted keeps its place."""
        run, pool = self.run, self.environment.pool
        if run.actor is not None:
            pool.prefer(run.id, run.function_id, run.actor, run.worker)
        pool.enqueue(
            Ticket(
                run.id,
                run.function_id,
                self.queued_at or run.updated_at,
                lanes_of(run.lanes, run.started_at is not None),
                run.priority,
                run.share,
            )
        )

    def _drive(self, effect: fx.Effect) -> None:
        """What the body is told."""
        run, host = self.run, self.environment.host
        match effect:
            case fx.StartBody():
                self.starting = False
                ref = self.system.at(self.address)
                effects = LocalEffects(self.environment, ref, run.execution)
                host.start(
                    Assignment.of(
                        run,
                        run.execution,
                        self.ending,
                        effects,
                        lambda: record(self),
                        self.unsettled,
                    )
                )
            case fx.WakeBody():
                if not host.wake(run.id, run.execution, effect.key):
                    # Evicted since the decision: have the run dispatched anew.
                    self.system.at(self.address).post(c.ExecutionLeft(run.execution))
            case fx.CancelBody():
                host.cancel(run.id, run.execution)
            case fx.DropBody():
                host.drop(run.id)
            case _:
                pass

    # -- after a failure --------------------------------------------------------------------------

    def _reestablish(self) -> None:
        """Bring what the process holds of this run in line with its record."""
        run, env = self.run, self.environment
        if run.status is not RunStatus.RUNNING:
            env.pool.release(run.id)  # reserved for something that was then refused
        if not run.exists or run.is_terminal:
            return
        for index, rule in enumerate(run.options.cancel_on):
            for effect in d.watch_for_cancel(index, rule, run.input):
                env.waiters.add(run.id, effect.step, effect.event, effect.match)
        for key in run.open:
            step = run.steps[key]
            if step.event is not None and step.status is StepStatus.WAITING:
                env.waiters.add(run.id, key, step.event, step.match)
        if run.status is RunStatus.QUEUED:
            self._enqueue()
        elif run.status is RunStatus.RUNNING:
            self.system.at(self.address).post(c.ExecutionLeft(run.execution))

    def _renew(self) -> None:
        """A message or a timer may have been lost with the failure: let all come again."""
        run, env = self.run, self.environment
        env.outbox.repost(self.address)
        if not run.exists or run.is_terminal:
            return
        for key in run.open:
            until = run.steps[key].until
            if until is not None:
                env.timers.arm(self.address, fx.STEP_TIMER + key, until)
        for timer in job_timers(run.workflow):
            env.timers.arm(self.address, timer.name, timer.at)
        if run.deadline is not None:
            env.timers.arm(self.address, fx.TIMEOUT_TIMER, run.deadline)
        if run.retry_at is not None:
            env.timers.arm(self.address, fx.ATTEMPT_TIMER, run.retry_at)
