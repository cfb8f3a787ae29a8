"""Laws of the whole engine: random programs, crashed and refused at random, end as the model says.

A program is data: a list of operations that one durable function interprets. Whatever the crashes
(right after any commit), a journal that refuses every so many commits, the time that bodies stay in
memory and the capacity: the result is the model's, every run ends, streams have no gap, and nothing
is left behind.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from typing import Any

import msgspec
from engine_world import Trouble
from hypothesis import given, settings
from hypothesis import strategies as st

from ironflow import (
    EventWait,
    NonRetryable,
    RunWait,
    StepError,
    TimerWait,
    WaitTimeout,
    function,
    testing,
)
from ironflow.core.errors import Conflict
from ironflow.core.runs.explain import wake_sources

CALLS: Counter[str] = Counter()


@function(id="laws-program", retry={"max_attempts": 4, "initial_delay": 1})
async def program(ctx: Any, operations: list[Any]) -> Any:
    return await interpret(ctx, operations)


async def interpret(ctx: Any, operations: list[Any]) -> list[Any]:
    return [await perform(ctx, *operation) for operation in operations]


async def perform(ctx: Any, kind: str, *rest: Any) -> Any:  # noqa: C901 - one case a kind
    match kind, rest:
        case "step", (seconds, value):
            return await ctx.step.run("step", asyncio.sleep, seconds, value)
        case "sync", (value,):
            return await ctx.step.run("step", lambda: value)
        case "flaky", (failures, value):
            key = str(ctx.uuid())
            return await ctx.step.run("flaky", flaky, key, failures, value)
        case "sleep", (seconds,):
            return await ctx.step.sleep("sleep", seconds)
        case "event", ():
            return (await ctx.step.wait_for_event("event", "laws.*", match="data.n > 0")).name
        case "silence", (seconds,):
            try:
                await ctx.step.wait_for_event("silence", "never.comes", timeout=seconds)
            except WaitTimeout as error:
                return error.step
        case "race", (first, second, child):
            waits = {"a": TimerWait(first), "b": TimerWait(second), "e": EventWait("never.comes")}
            if child is not None:
                waits["c"] = RunWait("laws-program", [["sleep", 10_000], *child])
            return (await ctx.step.wait_any("race", waits)).name
        case "all", (first, child):
            waits = {"a": TimerWait(first), "c": RunWait("laws-program", child)}
            return (await ctx.step.wait_all("all", waits))["c"]
        case "parallel", (branches, width):
            return await ctx.step.map(
                "block", lambda each: interpret(ctx, each), branches, concurrency=width
            )
        case "failing", (seconds, branches):

            async def failing() -> None:
                await ctx.step.sleep("sleep", seconds)
                await ctx.step.run("fail", fail)

            work = [lambda each=each: interpret(ctx, each) for each in branches]
            try:
                await ctx.step.parallel("block", [*work, failing])
            except StepError as error:
                return error.reason
        case "invoke", (operations,):
            return await ctx.step.invoke("invoke", program, operations)
        case "emit", (value,):
            return len(await ctx.step.emit("emit", "laws.done", {"n": 0, "value": value}))
    raise AssertionError(f"{kind} {rest}")


def flaky(key: str, failures: int, value: int) -> int:
    CALLS[key] += 1
    if CALLS[key] <= failures:
        raise ValueError(f"call {CALLS[key]}")
    return value


async def fail() -> None:
    raise NonRetryable("no")


def model(operations: list[Any]) -> list[Any]:
    """What the program answers."""
    return [answer(*operation) for operation in operations]


def answer(kind: str, *rest: Any) -> Any:
    match kind:
        case "step" | "sync" | "flaky":
            return rest[-1]
        case "sleep":
            return None
        case "event":
            return "laws.tick"
        case "silence":
            return "silence"
        case "race":
            return "a" if rest[0] <= rest[1] else "b"
        case "all" | "invoke":
            return model(rest[-1])
        case "parallel":
            return [model(branch) for branch in rest[0]]
        case "failing":
            return "no"
        case _:
            return 36


seconds = st.sampled_from([0, 0.5, 1, 3, 7, 100])
small = st.integers(0, 9)


def compound(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    sequence = st.lists(inner, max_size=3)
    several = st.lists(sequence, min_size=1, max_size=4)
    return st.one_of(
        st.tuples(st.just("parallel"), several, st.sampled_from([None, 1, 2])),
        # No other wait may fail or end at the very moment of the failing branch.
        st.tuples(st.just("failing"), st.sampled_from([0.3, 2.3]), several),
        st.tuples(st.just("invoke"), sequence),
        st.tuples(st.just("all"), seconds, sequence),
        st.tuples(st.just("race"), st.sampled_from([1, 300]), st.just(60), st.none() | sequence),
    )


operations = st.recursive(
    st.one_of(
        st.tuples(st.just("step"), seconds, small),
        st.tuples(st.just("sync"), small),
        st.tuples(st.just("flaky"), st.integers(1, 2), small),
        st.tuples(st.just("sleep"), seconds),
        st.tuples(st.just("event")),
        st.tuples(st.just("silence"), seconds),
        st.tuples(st.just("emit"), small),
    ),
    compound,
    max_leaves=10,
)
programs = st.lists(operations, min_size=1, max_size=4)


@settings(max_examples=150)
@given(
    operations=programs,
    crashes=st.lists(st.integers(1, 12), max_size=6),
    refuse=st.sampled_from([0, 0, 3, 7]),
    linger=st.sampled_from([0.0, 0.5, 2.0, 1000.0]),
    capacity=st.sampled_from([1, 2, 1000]),
    runs=st.integers(1, 3),
)
def test_programs_end_as_the_model_says(
    operations: list[Any],
    crashes: list[int],
    refuse: int,
    linger: float,
    capacity: int,
    runs: int,
) -> None:
    CALLS.clear()
    operations = msgspec.json.decode(msgspec.json.encode(operations))

    async def main(world: testing.World) -> None:
        unseen: list[dict[str, Any]] = []
        world.loop.set_exception_handler(lambda _, context: unseen.append(context))
        trouble = Trouble(world, crashes, refuse)
        ids = [await trouble.patiently(world.start, program, operations) for _ in range(runs)]
        for _ in range(400):
            await world.advance(5)
            await check_sources(world)
            if await all_ended(world, ids):
                break
            await trouble.patiently(world.emit, "laws.tick", {"n": 1})
        trouble.end()
        for run_id in ids:
            ended = await world.wait(run_id, "1d")
            assert ended.status == "completed", ended.error
            assert ended.result == model(operations)
        await world.advance(130)  # for what is on its way, and for actors to be dropped
        check_streams(world)
        if not crashes and not cancels(operations):
            check_calls(world)
        check_nothing_is_left(world)
        assert not unseen, unseen

    testing.run(main, functions=[program], linger=linger, capacity=capacity, max_crashes=10_000)


@settings(max_examples=100)
@given(
    operations=programs,
    orders=st.lists(
        st.tuples(
            st.sampled_from([0.0, 0.1, 0.3, 1.0, 2.3, 5.0, 60.0]),
            st.sampled_from(["pause", "resume", "cancel", "retry", "crash", "tick"]),
        ),
        max_size=12,
    ),
    refuse=st.sampled_from([0, 0, 5]),
    linger=st.sampled_from([0.0, 2.0, 1000.0]),
    capacity=st.sampled_from([1, 1000]),
)
def test_whatever_operators_order_a_run_ends_and_leaves_nothing(
    operations: list[Any],
    orders: list[tuple[float, str]],
    refuse: int,
    linger: float,
    capacity: int,
) -> None:
    CALLS.clear()
    operations = msgspec.json.decode(msgspec.json.encode(operations))

    async def main(world: testing.World) -> None:
        unseen: list[dict[str, Any]] = []
        world.loop.set_exception_handler(lambda _, context: unseen.append(context))
        trouble = Trouble(world, [], refuse)
        run_id = await trouble.patiently(world.start, program, operations)
        for seconds, order in orders:
            await world.advance(seconds)
            await obey(world, run_id, order)
            await check_sources(world)
        trouble.end()
        await world.advance(10)
        with suppress(Conflict):
            await world.resume(run_id)
        for _ in range(400):
            await world.advance(5)
            if await all_ended(world, [run_id]):
                break
            await world.emit("laws.tick", {"n": 1})
        ended = await world.wait(run_id, "1d")
        if ended.status == "completed":
            assert ended.result == model(operations)
        else:
            assert ended.status == "cancelled", ended.error
        await world.advance(130)
        check_streams(world)
        check_nothing_is_left(world)
        assert not unseen, unseen

    testing.run(main, functions=[program], linger=linger, capacity=capacity, max_crashes=10_000)


async def obey(world: testing.World, run_id: str, order: str) -> None:
    """What operators do; the engine may say no."""
    with suppress(Conflict, testing.Gone, testing.StorageError):
        match order:
            case "crash":
                await world.crash()
            case "tick":
                await world.emit("laws.tick", {"n": 1})
            case _:
                await getattr(world, order)(run_id)


async def all_ended(world: testing.World, ids: list[str]) -> bool:
    return all([(await world.state(run_id)).is_terminal for run_id in ids])


async def check_sources(world: testing.World) -> None:
    """Every run that has not ended holds something that will wake it."""
    for (run_id,) in list(world.store.tables.rows["runs"]):
        run = await world.state(run_id)
        assert run.is_terminal or wake_sources(run), run


def check_streams(world: testing.World) -> None:
    """No stream has a gap. No step completes twice; what a failure decided may, after a retry."""
    for stream, entries in world.store.tables.streams.items():
        assert [entry.version for entry in entries] == list(range(1, len(entries) + 1)), stream
        steps = [msgspec.json.decode(e.data) for e in entries if e.kind == "step.completed"]
        completed = Counter(s["key"] for s in steps if s["kind"] not in {"block", "race"})
        assert not [key for key, count in completed.items() if count > 1], stream


def cancels(operations: list[Any]) -> bool:
    """Whether steps may be cancelled while they execute."""
    return any(word in str(operations) for word in ("'failing'", "'race'"))


def check_calls(world: testing.World) -> None:
    """Each attempt of a step was made once: no two bodies of one run are ever under way."""
    attempts = sum(
        entry.kind == "step.failed" or b'"kind":"run"' in entry.data
        for entry in world.store.tables.log
        if entry.kind in {"step.completed", "step.failed"}
    )
    assert len(world.calls) == attempts


def check_nothing_is_left(world: testing.World) -> None:
    rows, engine = world.store.tables.rows, world.engine
    for row in rows["runs"].values():
        assert row[2] in {"completed", "cancelled"}, row
    assert not rows["timers"]
    assert not rows["waiters"]
    assert not rows["deliveries"]
    assert (engine.pool.active, engine.pool.queued, engine.pool.unserved) == (0, 0, 0)
    assert len(engine.environment.waiters) == len(engine.environment.outbox) == 0
    assert len(world.executor) == len(engine.timers) == 0
    assert not [s for s in engine.system.statistics() if s.address.startswith("run/")]
