"""What waits costs no memory: thousands of sleeping runs are rows, and leave nothing behind."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

from engine_world import is_clean, play

from ironflow import EventWait, TimerWait, function, testing
from ironflow.actors.runs.run import RunActor
from ironflow.sdk.execution import Execution

KINDS = (Execution, RunActor)


@function(id="memory-sleeper")
async def sleeper(ctx: Any, number: int) -> int:
    async def branch(seconds: int) -> None:
        await ctx.step.sleep("nap", seconds)

    await ctx.step.map("m", branch, [86400, 2 * 86400])
    return number


@function(id="memory-listener")
async def listener(ctx: Any, number: int) -> int:
    await ctx.step.wait_for_event("it", "wake.up", match={"data": number})
    return number


def test_two_thousand_sleeping_runs_have_no_body_no_cell_and_no_task() -> None:
    async def main(world: testing.World) -> None:
        idle = len(asyncio.all_tasks())
        sleepers = [await world.start(sleeper, n) for n in range(1500)]
        listeners = [await world.start(listener, n) for n in range(500)]
        await world.advance(5)
        assert len(world.executor) == 0
        assert len(asyncio.all_tasks()) == idle
        gc.collect()
        bodies = [o for o in gc.get_objects() if type(o) is Execution]
        assert not [body for body in bodies if body.executor is world.executor]
        totals = world.engine.system.statistics_by_kind()
        assert totals["run"].live == 0  # it left with the body, not when it was idle for a minute
        assert len(world.engine.timers) == 0  # a day away: rows are enough
        assert len(world.engine.environment.waiters) == 500
        assert world.engine.pool.active == 0
        for number in range(500):
            await world.emit("wake.up", number)
        await world.advance("3d")
        counts = await world.store.reader.count_runs()
        assert counts == {
            ("memory-sleeper", "completed"): 1500,
            ("memory-listener", "completed"): 500,
        }
        for run_id in (sleepers[7], listeners[7]):
            assert (await world.wait(run_id)).result == 7
        await world.advance(120)
        assert world.engine.system.statistics_by_kind()["run"].live == 0
        is_clean(world)

    play(main, functions=[sleeper, listener])


def test_a_long_run_wakes_from_a_snapshot() -> None:
    @function(id="memory-long")
    async def long(ctx: Any) -> int:
        total = 0
        for _ in range(1500):
            total = await ctx.step.run("inc", one, total)
        await ctx.step.sleep("nap", 10)
        return total

    async def one(total: int) -> int:
        return total + 1

    async def main(world: testing.World) -> None:
        run_id = await world.start(long)
        await world.advance(5)
        await world.crash()
        loaded = await world.store.reader.load(f"run/{run_id}")
        assert loaded.snapshot is not None
        assert len(loaded.entries) < loaded.snapshot.version
        ended = await world.wait(run_id)
        assert ended.result == 1500
        assert len(world.calls) == 1500
        is_clean(world)

    play(main, functions=[long])


def test_more_waiting_bodies_than_may_linger_are_let_go() -> None:
    @function(id="memory-linger")
    async def lingering(ctx: Any) -> int:
        await ctx.step.sleep("nap", 50)
        return 1

    async def main(world: testing.World) -> None:
        from ironflow.sdk import executor

        ids = [await world.start(lingering) for _ in range(executor.IDLE_BODIES + 100)]
        await world.advance(1)
        assert len(world.executor) <= executor.IDLE_BODIES
        for run_id in ids:
            assert (await world.wait(run_id)).result == 1
        is_clean(world)

    play(main, functions=[lingering], linger=1000, capacity=10_000)


@function(id="memory-mixed", retry={"max_attempts": 3, "initial_delay": 1})
async def mixed(ctx: Any, number: int) -> int:
    attempts = []

    async def flaky() -> int:
        attempts.append(1)
        if len(attempts) == 1:
            raise ValueError("once")
        return number

    async def branch(item: int) -> int:
        await ctx.step.sleep("pause", item)
        result: int = await ctx.step.run("inside", flaky)
        return result

    await ctx.step.run("flaky", flaky)
    await ctx.step.map("branches", branch, [1, 10])
    await ctx.step.wait_any("race", {"a": TimerWait(5), "b": EventWait("memory.never")})
    ctx.log.info("nearly there")
    await ctx.step.sleep("nap", 3600)
    return number


def test_what_sleeps_and_what_ended_is_freed_without_the_garbage_collector() -> None:
    async def main(world: testing.World) -> None:
        def left() -> dict[str, int]:
            mine = [o for o in gc.get_objects() if type(o) in (Execution, RunActor)]
            return {kind.__name__: sum(type(o) is kind for o in mine) for kind in KINDS}

        gc.collect()
        before = left()
        gc.disable()
        try:
            ids = [await world.start(mixed, n) for n in range(50)]
            await world.advance(60)
            assert len(world.executor) == 0
            assert left() == before
            for run_id in ids:
                assert (await world.wait(run_id)).status == "completed"
            await world.advance(5)
            assert left() == before
        finally:
            gc.enable()

    play(main, functions=[mixed])
