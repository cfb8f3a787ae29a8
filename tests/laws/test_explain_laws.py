"""Laws of a run under any history: random commands in random order against the pure core.

`World` is the smallest honest engine: it decides, applies, and keeps the rows (timers, waiters,
messages) and the slot that the decisions ask for, exactly as the run's actor does. Commands come
from anywhere: a body that behaves, a body that reports nonsense, operators, timers that ring early,
late and twice, crashes.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from ironflow.core import commands as c
from ironflow.core import decisions as d
from ironflow.core import effects as fx
from ironflow.core import entries as e
from ironflow.core.clock import SECOND
from ironflow.core.entries import CancelOn, ParentRef, RunOptions, StepKind
from ironflow.core.errors import IronflowError
from ironflow.core.explain import WakeSource, explain, wake_sources
from ironflow.core.fold import apply, replay
from ironflow.core.messages import Message
from ironflow.core.payloads import Failure, Payload
from ironflow.core.retry import RetryPolicy
from ironflow.core.runs import OPEN, Run, RunStatus, StepStatus

START = 1_767_225_600 * SECOND
KEYS = ("a", "b", "c", "p", "p/x")
REDONE = ("compensate", "block", "race")
"""Kinds of steps that call nobody, or undo: a retry of the run may forget them."""
ONE = Payload(raw=msgspec.Raw(b"1"))
MAX_CRASHES = 2

OPTIONS = (
    RunOptions(),
    RunOptions(retry=RetryPolicy(max_attempts=1), compensate_on=()),
    RunOptions(
        retry=RetryPolicy(max_attempts=2, initial_delay=5.0),
        timeout=30.0,
        compensate_on=("failed", "cancelled", "timed_out"),
        cancel_on=(CancelOn("stop.it"), CancelOn("order.gone", "data.id")),
    ),
    RunOptions(timeout=5.0, compensate_on=("timed_out",)),
)


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


# -- where commands come from ---------------------------------------------------------------------

Op = Callable[[World, int, int], None]
OPS: dict[str, Op] = {}


def op(function: Op) -> Op:
    """A kind of thing that happens to a run; `i` and `j` are its random choices."""
    OPS[function.__name__] = function
    return function


def _execution(world: World, j: int) -> int:
    """The one that owns the run, if its body is there to report; else, or at times, a stale one."""
    execution = world.run.execution
    lives = world.body == execution or execution in world.leaving
    return execution if lives and j % 11 != 10 else execution - 1


def _parks(world: World, j: int) -> tuple[str, ...] | None:
    """What the body says it waits for: the truth, a stale part of it, or that it is busy."""
    keys = tuple(world.run.open)
    return (keys, keys, None, keys[:1], (*keys, "gone"))[j % 5]


def _place(i: int) -> tuple[str, str, int]:
    key = KEYS[i % len(KEYS)]
    return (key, "p/", 0) if key.startswith("p/") else (key, "", KEYS.index(key))


@op
def record_step(world: World, i: int, j: int) -> None:
    key, scope, pos = _place(i)
    compensating = world.run.unwinding is not None
    kinds: tuple[StepKind, ...] = ("run", "emit", "value", "race", "block")
    world.tell(
        c.RecordStep(
            execution=_execution(world, j),
            key="@compensate/" + key if compensating else key,
            name=key,
            pos=pos,
            scope="@compensate/" + scope if compensating else scope,
            kind="compensate" if compensating else kinds[j % 5],
            result=ONE,
            attempt=1 + j % 3,
            started_at=world.now,
            cancels=tuple(world.run.open)[: j % 3],
        )
    )


@op
def fail_step(world: World, i: int, j: int) -> None:
    key, scope, pos = _place(i)
    known = world.run.steps.get(key)
    world.tell(
        c.FailStep(
            execution=_execution(world, i // 4),
            key=key,
            name=key,
            pos=pos,
            scope=scope,
            kind="run",
            error=Failure("ValueError", "no"),
            attempt=(known.attempt if known else 0) + 1 - (i // 4) % 2,
            retry_in=(None, 0.0, 3.0)[j % 3],
            parks=_parks(world, j // 3),
        )
    )


@op
def start_wait(world: World, i: int, j: int) -> None:
    key, scope, pos = _place(i)
    shape, until = j % 4, world.now + (j // 4 % 3) * 4 * SECOND
    create = c.CreateRun(function_id="kid", input=ONE, input_hash="h") if shape == 3 else None
    kinds: tuple[StepKind, ...] = ("sleep", "event", "event", "invoke")
    world.tell(
        c.StartWait(
            execution=_execution(world, i // 4),
            key=key,
            name=key,
            pos=pos,
            scope=scope,
            kind=kinds[shape],
            until=None if shape in (1, 3) else until,
            event="order.*" if shape in (1, 2) else None,
            child="child-" + key if shape == 3 else None,
            create=create,
            parks=_parks(world, i // 4),
        )
    )


@op
def park(world: World, i: int, j: int) -> None:
    world.tell(c.Park(_execution(world, j), _parks(world, i) or ()))


@op
def end_body(world: World, i: int, j: int) -> None:
    outcomes: tuple[Any, ...] = ("failed", "failed", "completed", "unwound", "compensated")
    error = Failure("ValueError", "no", retryable=j % 3 != 0)
    world.tell(
        c.EndExecution(
            execution=_execution(world, j),
            outcome=outcomes[i % 5],
            error=error if i % 5 < 2 else None,
            result=ONE,
            compensations=j % 2 == 0,
        )
    )


@op
def body_leaves(world: World, i: int, j: int) -> None:
    if world.leaving:
        world.leave()
    elif world.body is not None and i % 2:
        execution, world.body = world.body, None
        world.tell(c.ExecutionLeft(execution))
    else:
        world.tell(c.ExecutionLeft(world.run.execution - 1))


@op
def cancel(world: World, i: int, j: int) -> None:
    world.tell(c.CancelRun(reason="enough", delivery="d1" if j % 3 == 0 else None))


@op
def pause(world: World, i: int, j: int) -> None:
    world.tell(c.PauseRun("lunch"))


@op
def resume(world: World, i: int, j: int) -> None:
    world.tell(c.ResumeRun())


@op
def resume_from(world: World, i: int, j: int) -> None:
    key = _place(i)[0]
    rewind = c.RetryRun("again", from_step=key) if j % 2 else c.ResumeRun(from_step=key)
    world.tell(rewind)


@op
def patch(world: World, i: int, j: int) -> None:
    world.tell(c.PatchStep(key=_place(i)[0], result=ONE, injected=j % 2 == 0))


@op
def retry(world: World, i: int, j: int) -> None:
    world.tell(c.RetryRun("again"))


@op
def ring(world: World, i: int, j: int) -> None:
    """A timer of the run rings when it is due; sometimes early, or one that was never set."""
    names = [*world.timers, fx.ATTEMPT_TIMER, fx.TIMEOUT_TIMER, fx.STEP_TIMER + KEYS[j % 5]]
    name = names[i % len(names)]
    if j % 4 and name in world.timers:
        world.now = max(world.now, world.timers[name])
    world.tell(c.TimerFired(name))


@op
def deliver(world: World, i: int, j: int) -> None:
    steps = [*world.waiters, *KEYS]
    step = steps[i % len(steps)]
    world.tell(c.EventDelivered(step=step, event_id="ev", event=ONE, delivery="d2"))


@op
def end_child(world: World, i: int, j: int) -> None:
    children = [s for s in world.run.steps.values() if s.child is not None]
    step, child = ("a", "child-a")
    if children:
        chosen = children[i % len(children)]
        step, child = chosen.key, chosen.child or ""
    status = ("completed", "failed", "cancelled")[j % 3]
    error = Failure("KeyError", "no") if status == "failed" else None
    world.tell(
        c.ChildEnded(
            step=step, run_id=child, function_id="kid", status=status, error=error, delivery="d3"
        )
    )


@op
def grant(world: World, i: int, j: int) -> None:
    """The pool gives a slot to a run that waits for one; sometimes to one that no longer does."""
    if world.served and (world.queued or i % 4 == 0):
        world.tell(c.Dispatch())


@op
def crash(world: World, i: int, j: int) -> None:
    world.crash()


@op
def evict(world: World, i: int, j: int) -> None:
    """The executor lets go of a body that waits."""
    if world.body is not None and world.run.status is not RunStatus.RUNNING:
        world.leaving.append(world.body)
        world.body = None


@op
def change_capacity(world: World, i: int, j: int) -> None:
    world.slot_free, world.served = i % 3 != 0, j % 4 != 0


@op
def pass_time(world: World, i: int, j: int) -> None:
    world.now += (i % 12) * SECOND


@op
def release(world: World, i: int, j: int) -> None:
    """The run that this one is behind has ended; or the message comes a second time."""
    world.tell(c.ReleaseRun(delivery="d4"))


@op
def create_again(world: World, i: int, j: int) -> None:
    world.tell(c.CreateRun(function_id="f", input=ONE, input_hash="hi"[: 1 + j % 2], delivery=None))


USUAL = [
    "start_wait", "fail_step", "ring", "grant", "record_step", "deliver", "end_child", "end_body",
    "start_wait", "park", "ring", "grant", "resume", "evict", "change_capacity", "release",
]  # fmt: skip
moves = st.tuples(
    st.integers(0, 3).flatmap(lambda n: st.sampled_from(USUAL if n else sorted(OPS))),
    st.integers(0, 59),
    st.integers(0, 59),
)


def play(options: int, shape: int, history: list[tuple[str, int, int]]) -> World:
    """The world after a history; every law is checked after every command."""
    world = World(OPTIONS[options], child=shape % 2 == 1, served=shape < 6)
    world.slot_free = shape % 4 < 2
    world.check()
    world.tell(
        c.CreateRun(
            function_id="f",
            input=Payload(raw=msgspec.Raw(b'{"id":7}')),
            input_hash="h",
            options=world.options,
            code="v1",
            parent=world.parent,
            gate=GATE if shape in GATED else None,
            behind="r0" if shape in GATED[:2] else None,
        )
    )
    world.check()
    for name, i, j in history:
        OPS[name](world, i, j)
        world.check()
    return world


histories = st.integers(0, 50).flatmap(lambda size: st.lists(moves, min_size=size, max_size=50))


@settings(max_examples=600)
@given(st.integers(0, len(OPTIONS) - 1), st.integers(0, 7), histories)
def test_every_run_that_has_not_ended_holds_what_will_wake_it(
    options: int, shape: int, history: list[tuple[str, int, int]]
) -> None:
    world = play(options, shape, history)
    world.check_sources_wake()
    endings = ("run.completed", "run.failed", "run.cancelled")
    ends = sum(kind in endings for kind, _, _ in world.history)
    assert world.told_parent == (ends if world.parent is not None else 0)
    assert world.told_gate == (ends if shape in GATED else 0)


@settings(max_examples=300)
@given(st.integers(0, len(OPTIONS) - 1), st.integers(0, 7), histories)
def test_the_sources_alone_bring_every_run_to_its_end(
    options: int, shape: int, history: list[tuple[str, int, int]]
) -> None:
    world = play(options, shape, history)
    world.settle()
    assert not world.timers
    assert not world.waiters


@settings(max_examples=150)
@given(st.integers(0, len(OPTIONS) - 1), histories, st.data())
def test_every_prefix_of_a_journal_is_the_state_that_was_live_then(
    options: int, history: list[tuple[str, int, int]], data: st.DataObject
) -> None:
    world = play(options, 0, history)
    cut = data.draw(st.integers(0, len(world.history)))
    early = replay("r1", world.history[:cut])
    snapshot = msgspec.json.decode(msgspec.json.encode(early), type=Run)
    for kind, body, at in world.history[cut:]:
        apply(snapshot, e.decode_entry(kind, body), at)
    assert snapshot == world.run


OF_WORKFLOWS = {"turn.recorded", "signal.received", "job.due", "child.reported"}
"""Entries that a function's run does not have."""


def test_long_histories_reach_every_kind_of_entry_and_every_status() -> None:
    """The same laws over long histories; a law over histories that never happen proves nothing."""
    seen: set[str] = set()
    statuses: set[RunStatus] = set()
    for seed in range(150):
        rng = random.Random(seed)
        history = [
            (
                rng.choice(USUAL if rng.random() < 0.8 else sorted(OPS)),
                rng.randrange(60),
                rng.randrange(60),
            )
            for _ in range(80)
        ]
        world = play(seed % len(OPTIONS), rng.randrange(8), history)
        seen.update(kind for kind, _, _ in world.history)
        statuses.add(world.run.status)
        world.check_sources_wake()
        world.settle()
    assert seen == set(e.KINDS.values()) - OF_WORKFLOWS
    assert statuses == set(RunStatus)
