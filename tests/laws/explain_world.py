"""A run, the outside of it, and what wakes it: the world of the laws of waiting."""

from __future__ import annotations

from typing import Any

import msgspec

from ironflow.core.clock import SECOND
from ironflow.core.errors import IronflowError
from ironflow.core.messages import Message
from ironflow.core.runs import commands as c
from ironflow.core.runs import decisions as d
from ironflow.core.runs import effects as fx
from ironflow.core.runs import entries as e
from ironflow.core.runs.entries import ParentRef, RunOptions
from ironflow.core.runs.explain import WakeSource, explain, wake_sources
from ironflow.core.runs.fold import apply, replay
from ironflow.core.runs.state import OPEN, Run, RunStatus, StepStatus
from ironflow.core.values.payloads import Payload

START = 1_767_225_600 * SECOND
REDONE = ("compensate", "block", "race")
"""Kinds of steps that call nobody, or undo: a retry of the run may forget them."""
ONE = Payload(raw=msgspec.Raw(b"1"))
MAX_CRASHES = 2
GATE, GATED = "singleton/1:f:", (1, 6, 4)
"""A run that a singleton has let in; of these shapes, the first two are behind another run."""


class World:
    """One run, its rows, its slot and its body."""

    def __init__(self, options: RunOptions, *, child: bool = False, served: bool = True) -> None:
        self.run = Run("r1")
        self.now = START
        self.history: list[tuple[str, bytes, int]] = []
        self.timers: dict[str, int] = {}
        self.waiters: dict[str, str] = {}
        self.slot_free, self.served = True, served
        self.queued = False
        self.body: int | None = None
        """The execution whose body is in memory and can be woken."""
        self.leaving: list[int] = []
        self.parent = ParentRef("parent", "s") if child else None
        self.options = options
        self.told_parent = self.told_gate = 0
        self.finished: dict[str, Any] = {}
        self.serial = 0

    # -- the engine -------------------------------------------------------------------------------

    def tell(self, command: Message[Any]) -> fx.Decision | None:
        """Decide, commit, apply and act; None for an expected no."""
        run = self.run
        situation = fx.Situation(
            self.now,
            hot=self.body is not None and self.body == run.execution,
            max_crashes=MAX_CRASHES,
        )
        if isinstance(command, c.Dispatch):
            self.queued = False
        if isinstance(command, c.Dispatch) or type(command) in d.MAY_START:
            able = self.served and (situation.hot or not self.leaving)
            situation.code = "v1" if able else None
            situation.slot = able and (self.slot_free or isinstance(command, c.Dispatch))
        before, was = msgspec.json.encode(run), run.status
        try:
            decision = d.decide(run, command, situation)
        except IronflowError:
            assert msgspec.json.encode(run) == before, "a refusal changed the run"
            return None
        assert msgspec.json.encode(run) == before, "a decision changed the run"
        self._commit(decision, was, command)
        self._act(decision)
        return decision

    def _commit(self, decision: fx.Decision, was: RunStatus, command: Message[Any]) -> None:
        run = self.run
        for entry in decision.entries:
            version = run.version
            kind, data = e.KINDS[type(entry)], e.encode_entry(entry)
            again = e.decode_entry(kind, data)
            assert again == entry, "an entry does not survive the journal"
            self._check_terminal(entry, command)
            if isinstance(entry, e.CancelRequested) and entry.outcome == "timed_out":
                assert run.deadline is not None
                assert run.deadline <= self.now, "out of time too early"
            done = {k: s for k, s in run.steps.items() if s.status is StepStatus.COMPLETED}
            keys = list(run.steps)
            forgotten = keys[keys.index(entry.key) :] if isinstance(entry, e.RunRewound) else []
            apply(run, again, self.now)
            self.history.append((kind, data, self.now))
            assert run.version == version + 1 == len(self.history), "versions have a gap"
            for key, step in done.items():
                kept = run.steps.get(key)
                if isinstance(entry, e.RunReopened) and step.kind in REDONE:
                    continue
                if isinstance(entry, e.RunRewound) and key in forgotten:
                    assert kept is None
                    continue
                if isinstance(entry, e.StepPatched) and key == entry.key:
                    continue
                assert kept == step, f"finished step {key} was changed by {entry}"
        if was is RunStatus.PAUSED and run.status is not RunStatus.PAUSED:
            self._check_unpaused(command)
        self._write_rows(decision.effects)

    def _check_unpaused(self, command: Message[Any]) -> None:
        """Only a request or the end make a paused run go on."""
        match command:
            case c.ResumeRun() | c.CancelRun():
                pass
            case c.TimerFired():
                assert command.name == fx.TIMEOUT_TIMER
            case c.EventDelivered():
                assert command.step.startswith(fx.CANCEL_STEP)
            case _:
                assert isinstance(command, c.EndExecution)
                assert self.run.is_terminal, "the end of an attempt made a paused run go on"

    def _write_rows(self, effects: list[fx.Effect]) -> None:
        for effect in effects:
            match effect:
                case fx.ClearTimer():
                    self.timers.pop(effect.name, None)
                case fx.RemoveWaiter():
                    self.waiters.pop(effect.step, None)
        for effect in effects:
            match effect:
                case fx.SetTimer():
                    self.timers[effect.name] = effect.at
                case fx.AddWaiter():
                    self.waiters[effect.step] = effect.event
                case c.Send() if effect.target == "run/parent":
                    self.told_parent += 1
                case c.Send() if effect.target == GATE:
                    self.told_gate += 1

    def _check_terminal(self, entry: e.RunEntry, command: Message[Any]) -> None:
        if self.run.is_terminal:
            assert isinstance(command, c.RetryRun | c.PatchStep), f"{entry} after the end"
            allowed = e.RunReopened | e.RunRewound | e.StepPatched
            assert isinstance(entry, allowed), f"{entry} after the end"

    def _act(self, decision: fx.Decision) -> None:
        run = self.run
        late: list[Message[Any]] = []
        for effect in decision.effects:
            match effect:
                case fx.Enqueue():
                    self.queued = True
                case fx.Ended():
                    self.queued = False
                case fx.StartBody():
                    assert run.status is RunStatus.RUNNING
                    self.body = run.execution
                case fx.WakeBody():
                    if self.body != run.execution:
                        late.append(c.ExecutionLeft(run.execution))
                case fx.DropBody() if self.body is not None:
                    self._drop_body()
                case _:
                    pass
        if run.is_terminal:
            self.body = None
        elif decision.reply == "suspend" and self.body is not None:
            self._drop_body()
        for message in late:
            self.tell(message)

    def _drop_body(self) -> None:
        assert self.body is not None
        self.leaving.append(self.body)
        self.body = None

    def leave(self) -> None:
        """A body that was on its way out is gone."""
        if self.leaving:
            self.tell(c.ExecutionLeft(self.leaving.pop()))

    def crash(self) -> None:
        """The process ends and starts again: only what is in the journal is left."""
        self.body, self.leaving = None, []
        self.run = replay("r1", self.history)
        self.queued = self.run.status in (RunStatus.QUEUED, RunStatus.RUNNING)

    # -- the laws ---------------------------------------------------------------------------------

    def check(self) -> None:
        """What holds between any two commands."""
        run = self.run
        assert msgspec.json.encode(replay("r1", self.history)) == msgspec.json.encode(run)
        assert msgspec.json.decode(msgspec.json.encode(run), type=Run) == run
        if not run.exists:
            assert not self.timers
            assert not self.waiters
            return
        is_open = {k for k, s in run.steps.items() if s.status in OPEN}
        assert set(run.open) == is_open, "the list of open steps is wrong"
        for scope, order in run.order.items():
            for pos, key in enumerate(order):
                assert not key or key not in run.steps or run.steps[key].pos == pos, scope
        if run.status in (RunStatus.QUEUED, RunStatus.RUNNING):
            assert run.retry_at is None
        if run.behind is not None:
            assert run.status in (RunStatus.WAITING, RunStatus.PAUSED), "begun before its turn"
            assert run.started_at is None
        if run.cancelling is not None or run.unwinding is not None:
            assert run.pausing is None, "a run that is being ended would be paused"
        sources = wake_sources(run)
        assert bool(sources) != run.is_terminal, f"{run.status} run without a wake-up source"
        self._check_rows()
        self._check_words(sources)
        if run.status is RunStatus.QUEUED:
            assert self.queued or self.leaving, "queued, but not in the queue"
        if run.status is RunStatus.RUNNING:
            has_body = self.body == run.execution or self.leaving
            assert self.queued or has_body, "running without a body"

    def _check_rows(self) -> None:
        """The rows are what the state says: nothing is missing, nothing left behind."""
        run = self.run
        timers = {
            fx.STEP_TIMER + key: run.steps[key].until
            for key in run.open
            if run.steps[key].until is not None
        }
        waiters = {k: run.steps[k].event for k in run.open if run.steps[k].event is not None}
        if run.status is RunStatus.WAITING and run.retry_at is not None:
            timers[fx.ATTEMPT_TIMER] = run.retry_at
        extra = set(self.timers) - set(timers)
        assert {k: v for k, v in self.timers.items() if k in timers} == timers, "a timer is missing"
        assert {k: v for k, v in self.waiters.items() if k in waiters} == waiters
        if run.is_terminal:
            assert not {*self.timers, *self.waiters}, "the end left rows behind"
            return
        allowed = {fx.TIMEOUT_TIMER} if run.options.timeout is not None else set()
        if run.status is RunStatus.PAUSED and run.retry_at is not None:
            allowed.add(fx.ATTEMPT_TIMER)
        assert extra <= allowed, f"timers left behind: {extra - allowed}"
        assert all(k.startswith(fx.CANCEL_STEP) for k in set(self.waiters) - set(waiters))

    def _check_words(self, sources: list[WakeSource]) -> None:
        told = explain(self.run, self.now, served=self.served)
        assert told.summary.endswith(".")
        assert told.reasons
        assert all(reason.kind != "none" for reason in told.reasons)
        for source in sources:
            assert source.step is None or any(r.step == source.step for r in told.reasons)

    def check_sources_wake(self) -> None:
        """Each named source really brings the run on: its message changes the run's record."""
        for source in wake_sources(self.run):
            twin = self._twin()
            decision = twin.tell(twin.signal(source))
            assert decision is not None
            assert decision.entries, f"{source} did nothing to a run that is {self.run.status}"

    def _twin(self) -> World:
        """A copy on which a future can be tried; its body is gone, code and a slot are there."""
        twin = World(self.options, child=self.parent is not None)
        twin.history, twin.now = list(self.history), self.now
        twin.timers, twin.waiters = dict(self.timers), dict(self.waiters)
        twin.run = replay("r1", self.history)
        return twin

    def signal(self, source: WakeSource) -> Message[Any]:
        """The message that a source sends when its moment comes."""
        match source.kind:
            case "timer":
                assert source.due_at is not None
                assert self.timers[source.name] == source.due_at
                self.now = max(self.now, source.due_at)
                return c.TimerFired(source.name)
            case "waiter":
                assert source.step is not None
                assert self.waiters[source.step] == source.name
                return c.EventDelivered(step=source.step, event_id="ev", event=ONE)
            case "child":
                assert source.step is not None
                return c.ChildEnded(
                    step=source.step, run_id=source.name, function_id="kid", status="completed"
                )
            case "slot":
                return c.Dispatch()
            case "predecessor":
                return c.ReleaseRun(delivery="d4")
            case "execution":
                return c.ExecutionLeft(self.run.execution)
            case _:
                return c.ResumeRun()

    def settle(self) -> None:
        """Let only the named sources act, and a body that ends at once: the run must end."""
        self.served, self.slot_free = True, True
        while self.leaving:
            self.leave()
        for _ in range(100):
            run = self.run
            if run.is_terminal:
                return
            if run.status is RunStatus.RUNNING and self.body == run.execution:
                self._end_body()
            elif run.status is RunStatus.RUNNING:
                self.tell(c.Dispatch())
            else:
                self.tell(self.signal(wake_sources(run)[0]))
            self.check()
        raise AssertionError("the run does not come to an end by its wake-up sources")

    def _end_body(self) -> None:
        run = self.run
        execution = run.execution
        outcome: Any = "unwound" if run.cancelling or run.unwinding else "completed"
        decision = self.tell(
            c.EndExecution(execution=execution, outcome=outcome, result=ONE, compensations=True)
        )
        if decision is not None and decision.reply == "compensate":
            self.tell(c.EndExecution(execution=execution, outcome="compensated"))
