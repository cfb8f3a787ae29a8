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
from laws.explain_world import GATE, GATED, ONE, World

from ironflow.core.clock import SECOND
from ironflow.core.runs import commands as c
from ironflow.core.runs import effects as fx
from ironflow.core.runs import entries as e
from ironflow.core.runs.entries import CancelOn, RunOptions, StepKind
from ironflow.core.runs.fold import apply, replay
from ironflow.core.runs.retry import RetryPolicy
from ironflow.core.runs.state import Run, RunStatus
from ironflow.core.values.payloads import Failure, Payload

KEYS = ("a", "b", "c", "p", "p/x")
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
