"""A journal that cannot write for a while: requests are refused, runs wait and go on, nothing is
lost.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from engine_world import LINGERS, is_clean, play, took

from ironflow import TimerWait, function, testing
from ironflow.core.errors import StorageFull

SECOND = 1_000_000


async def do(value: Any = None) -> Any:
    return value


class Disk:
    """Full or not."""

    def __init__(self, world: testing.World) -> None:
        self.is_full = False
        world.store.journal.fault = self.fault

    def fault(self, _: Any) -> Exception | None:
        return StorageFull("the disk is full") if self.is_full else None


@function(id="storage-all")
async def everything(ctx: Any) -> Any:
    async def branch(number: int) -> Any:
        await ctx.step.sleep("nap", number)
        first = await ctx.step.run("one", asyncio.sleep, 3, number)
        await ctx.step.sleep("nap", 2)
        return await ctx.step.run("two", do, first)

    async def listen() -> Any:
        return (await ctx.step.wait_for_event("it", "go.now", timeout="1h")).data

    async def flaky() -> Any:
        return await ctx.step.run("flaky", fails_twice, retry={"initial_delay": 2})

    async def race() -> Any:
        return (await ctx.step.wait_any("r", {"t": TimerWait(6), "u": TimerWait(60)})).name

    async def invoke() -> Any:
        return await ctx.step.invoke("kid", kid, 4)

    branches = [lambda: branch(1), lambda: branch(5), listen, flaky, race, invoke]
    results = await ctx.step.parallel("p", branches)
    event = await ctx.step.emit("tell", "all.done", results)
    return [*results, len(event)]


@function(id="storage-kid")
async def kid(ctx: Any, seconds: float) -> str:
    await ctx.step.sleep("nap", seconds)
    return await ctx.step.run("work", do, "kid")


@function(id="storage-heard", on="all.done")
async def heard(ctx: Any, data: Any) -> Any:
    return data


ATTEMPTS = [0]


async def fails_twice() -> int:
    ATTEMPTS[0] += 1
    if ATTEMPTS[0] < 3:
        raise ValueError
    return ATTEMPTS[0]


EXPECTED = [1, 5, "event", 3, "t", "kid", 36]


async def assert_all_came_through(world: testing.World, run_id: str) -> None:
    """The run has ended as if nothing had been, and has begun nothing twice."""
    ended = await world.wait(run_id, "3h")
    assert ended.status == "completed", ended.error
    assert ended.result == EXPECTED
    await world.advance(60)
    names = sorted(name for _, name in world.calls)
    assert names == ["flaky"] * 3 + ["one"] * 2 + ["two"] * 2 + ["work"]
    counts = await world.store.reader.count_runs()
    assert counts == {
        ("storage-all", "completed"): 1,
        ("storage-kid", "completed"): 1,
        ("storage-heard", "completed"): 1,
    }
    is_clean(world)


@LINGERS
@pytest.mark.parametrize("seconds", [0.01, 0.5, 10, 120])
@pytest.mark.parametrize("start", [0.0, 1.0, 3.99, 4.0, 5.5, 8.0])
def test_a_run_goes_on_after_the_disk_was_full(start: float, seconds: float, linger: float) -> None:
    async def main(world: testing.World) -> None:
        ATTEMPTS[0] = 0
        disk = Disk(world)
        run_id = await world.start(everything)
        await world.advance(start)
        disk.is_full = True
        with pytest.raises(StorageFull):
            await world.start(everything)
        with pytest.raises(StorageFull):
            await world.emit("go.now", "refused")
        await world.advance(seconds)
        disk.is_full = False
        await world.advance(60)  # everybody tries again
        await world.emit("go.now", "event")
        await assert_all_came_through(world, run_id)

    play(main, functions=[everything, kid, heard], linger=linger)


@LINGERS
@pytest.mark.parametrize("every", [2, 3, 5])
def test_a_disk_that_refuses_again_and_again_only_slows_runs_down(
    every: int, linger: float
) -> None:
    async def main(world: testing.World) -> None:
        ATTEMPTS[0] = 0
        count = [0]

        def fault(_: Any) -> Exception | None:
            count[0] += 1
            return StorageFull("full") if count[0] % every == 0 else None

        run_id = await world.start(everything)
        world.store.journal.fault = fault
        await world.advance(300)
        for _ in range(20):
            try:
                await world.emit("go.now", "event")
            except StorageFull:
                await world.advance(1)
            else:
                break
        await assert_all_came_through(world, run_id)

    play(main, functions=[everything, kid, heard], linger=linger)


def test_a_running_step_is_not_run_again_and_its_body_not_begun_again() -> None:
    @function(id="storage-plain")
    async def plain(ctx: Any) -> Any:
        found = [await ctx.step.run("a", asyncio.sleep, 1, 1)]
        await ctx.step.sleep("short", 1)
        found.append(await ctx.step.run("b", asyncio.sleep, 1, 2))
        await ctx.step.sleep("short", 1)
        return found

    async def main(world: testing.World) -> None:
        disk = Disk(world)
        run_id = await world.start(plain)
        disk.is_full = True
        await world.advance(30)
        disk.is_full = False
        ended = await world.wait(run_id)
        assert ended.result == [1, 2]
        assert ended.executions == 1
        assert [name for _, name in world.calls] == ["a", "b"]

    play(main, functions=[plain], linger=100)


def test_a_body_goes_on_although_its_actor_was_dropped_meanwhile() -> None:
    @function(id="storage-long")
    async def long(ctx: Any) -> Any:
        await ctx.step.run("slow", asyncio.sleep, 600)  # idle actors are dropped after a minute
        await ctx.step.sleep("short", 10)
        return await ctx.step.run("b", do, 2)

    async def main(world: testing.World) -> None:
        run_id = await world.start(long)
        await world.advance(500)
        assert not world.engine.system.is_live(f"run/{run_id}")
        ended = await world.wait(run_id)
        assert ended.result == 2
        assert ended.executions == 1
        assert await took(world, run_id) == 610

    play(main, functions=[long], linger=100)


def test_refused_requests_leave_no_slot_taken() -> None:
    async def main(world: testing.World) -> None:
        disk = Disk(world)
        disk.is_full = True
        for _ in range(10):
            with pytest.raises(StorageFull):
                await world.start(kid, 1)
        disk.is_full = False
        await world.advance(10)
        assert world.engine.pool.active == 0
        assert (await world.run(kid, 1, limit="1h")).result == "kid"
        is_clean(world)

    play(main, functions=[kid], capacity=3)


def test_a_refused_request_may_be_repeated_with_its_key() -> None:
    async def main(world: testing.World) -> None:
        disk = Disk(world)
        disk.is_full = True
        with pytest.raises(StorageFull):
            await world.start(kid, 1, idempotency_key="k")
        with pytest.raises(StorageFull):
            await world.emit("all.done", 1, idempotency_key="e")
        disk.is_full = False
        run_id = await world.start(kid, 1, idempotency_key="k")
        emitted = await world.emit("all.done", 1, idempotency_key="e")
        assert emitted.created
        assert (await world.wait(run_id)).result == "kid"
        assert (await world.wait(emitted.run_ids[0])).result == 1
        is_clean(world)

    play(main, functions=[kid, heard])


@LINGERS
@pytest.mark.parametrize("operation", ["cancel", "pause"])
def test_operations_that_are_refused_change_nothing(operation: str, linger: float) -> None:
    async def main(world: testing.World) -> None:
        disk = Disk(world)
        run_id = await world.start(kid, 100)
        await world.advance(5)
        disk.is_full = True
        with pytest.raises(StorageFull):
            await getattr(world, operation)(run_id)
        assert (await world.state(run_id)).status == "waiting"
        disk.is_full = False
        ended = await world.wait(run_id)
        assert ended.result == "kid"
        assert await took(world, run_id) == 100
        is_clean(world)

    play(main, functions=[kid], linger=linger)


def test_schedules_make_up_for_a_full_disk() -> None:
    @function(id="storage-cron", cron="0 * * * *")
    async def cron(ctx: Any) -> None: ...

    async def main(world: testing.World) -> None:
        disk = Disk(world)
        await world.advance("50m")
        disk.is_full = True
        await world.advance("20m")
        disk.is_full = False
        await world.advance("2m")
        counts = await world.store.reader.count_runs()
        assert counts == {("storage-cron", "completed"): 1}
        await world.advance("1h")
        counts = await world.store.reader.count_runs()
        assert counts == {("storage-cron", "completed"): 2}

    play(main, functions=[cron])
