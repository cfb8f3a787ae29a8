"""Runs that are paused and resumed, and those that are tried again from their failure."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from engine_world import LINGERS, do, is_clean, play, took

from ironflow import EventWait, NonRetryable, StepError, TimerWait, WaitTimeout, function, testing
from ironflow.core.errors import Conflict
from ironflow.core.runs.state import StepStatus

# -- pause and resume ------------------------------------------------------------------------------


@LINGERS
@pytest.mark.parametrize("crash", [False, True])
def test_a_running_run_stops_at_its_next_step_boundary(crash: bool, linger: float) -> None:
    @function(id="life-pause")
    async def paused(ctx: Any) -> Any:
        first = await ctx.step.run("first", asyncio.sleep, 10, "one")
        return [first, await ctx.step.run("second", do, "two")]

    async def main(world: testing.World) -> None:
        run_id = await world.start(paused)
        await world.advance(5)
        assert await world.pause(run_id) == "running"
        await world.advance(100)
        run = await world.state(run_id)
        assert (run.status, run.reason) == ("paused", "paused by request")
        assert [name for _, name in world.calls] == ["first"]
        assert run.steps["first"].status is StepStatus.COMPLETED
        if crash:
            await world.crash()
            await world.advance(100)
            assert (await world.state(run_id)).status == "paused"
        assert await world.pause(run_id) == "paused"
        await world.resume(run_id)
        assert (await world.wait(run_id)).result == ["one", "two"]
        assert [name for _, name in world.calls] == ["first", "second"]
        with pytest.raises(Conflict):
            await world.resume(run_id)
        with pytest.raises(Conflict):
            await world.pause(run_id)
        is_clean(world)

    play(main, functions=[paused], linger=linger)


@LINGERS
def test_a_pause_that_was_not_reached_can_be_taken_back(linger: float) -> None:
    @function(id="life-unpause")
    async def unpause(ctx: Any) -> Any:
        await ctx.step.run("first", asyncio.sleep, 10)
        return await ctx.step.run("second", do, "two")

    async def main(world: testing.World) -> None:
        run_id = await world.start(unpause)
        await world.advance(5)
        await world.pause(run_id)
        assert await world.resume(run_id) == "running"
        assert (await world.wait(run_id)).result == "two"
        assert (await world.state(run_id)).execution == 1

    play(main, functions=[unpause], linger=linger)


@LINGERS
@pytest.mark.parametrize("crash", [False, True])
def test_what_comes_while_paused_is_remembered(crash: bool, linger: float) -> None:
    @function(id="life-paused-branches")
    async def branches(ctx: Any) -> Any:
        async def event() -> Any:
            return (await ctx.step.wait_for_event("it", "go.now")).data

        async def sleep() -> str:
            await ctx.step.sleep("nap", 50)
            return await ctx.step.run("slept", do, "slept")

        async def work() -> Any:
            return await ctx.step.run("work", asyncio.sleep, 20, "worked")

        async def flaky() -> Any:
            def bad() -> None:
                raise ValueError

            try:
                await ctx.step.run("bad", bad, retry={"max_attempts": 2, "initial_delay": 30})
            except StepError as error:
                return error.attempts

        return await ctx.step.parallel("p", [event, sleep, work, flaky])

    async def main(world: testing.World) -> None:
        run_id = await world.start(branches)
        await world.advance(10)
        await world.pause(run_id)
        await world.advance(20)  # the step that was executing reaches its boundary
        assert (await world.state(run_id)).status == "paused"
        if crash:
            await world.crash()
        await world.emit("go.now", 5)
        await world.emit("go.now", 6)
        await world.advance(100)
        run = await world.state(run_id)
        assert run.status == "paused"
        assert not run.open
        assert [name for _, name in world.calls] == ["work", "bad"]
        await world.resume(run_id)
        ended = await world.wait(run_id)
        assert ended.result == [5, "slept", "worked", 2]
        assert sorted(name for _, name in world.calls) == ["bad", "bad", "slept", "work"]
        is_clean(world)

    play(main, functions=[branches], linger=linger)


@LINGERS
def test_a_sleeping_run_pauses_at_once_and_finishes_its_sleep_after(linger: float) -> None:
    @function(id="life-paused-sleep")
    async def sleeping(ctx: Any) -> str:
        await ctx.step.sleep("nap", 50)
        return "awake"

    async def main(world: testing.World) -> None:
        run_id = await world.start(sleeping)
        await world.advance(1)
        assert await world.pause(run_id) == "paused"
        await world.advance(10)
        await world.resume(run_id)
        assert (await world.wait(run_id)).result == "awake"
        assert await took(world, run_id) == 50
        is_clean(world)

    play(main, functions=[sleeping], linger=linger)


@LINGERS
def test_pause_resume_at_every_moment_changes_no_result(linger: float) -> None:
    @function(id="life-pause-often")
    async def often(ctx: Any) -> Any:
        async def branch(number: int) -> Any:
            await ctx.step.sleep("nap", number * 3)
            await ctx.step.run("work", asyncio.sleep, 4)
            return await ctx.step.run("last", do, number)

        return await ctx.step.map("m", branch, [1, 2, 3])

    async def main(world: testing.World) -> None:
        run_id = await world.start(often)
        for _ in range(60):
            await world.advance(0.5)
            if (await world.state(run_id)).is_terminal:
                break
            await world.pause(run_id)
            await world.advance(0.25)
            await world.resume(run_id)
        assert (await world.wait(run_id)).result == [1, 2, 3]
        assert len(world.calls) == 6
        is_clean(world)

    play(main, functions=[often], linger=linger)


# -- retry from failure ----------------------------------------------------------------------------


@LINGERS
def test_a_failed_run_goes_on_from_its_failure_with_mended_code(linger: float) -> None:
    broken = [True]

    @function(id="life-mend", retry=False)
    async def mend(ctx: Any) -> Any:
        first = await ctx.step.run("first", do, 1)
        u = ctx.uuid()
        if broken[0]:
            await ctx.step.run("charge", bad, retry=False)
        else:
            await ctx.step.run("check", do, 2)  # another step at the place of the failed one
        await ctx.step.sleep("nap", 10)
        return [first, str(u)]

    def bad() -> None:
        raise ValueError

    async def main(world: testing.World) -> None:
        run_id = await world.start(mend)
        failed = await world.wait(run_id)
        assert failed.status == "failed"
        with pytest.raises(Conflict):
            await world.pause(run_id)
        broken[0] = False
        await world.retry(run_id)
        await world.crash()
        await world.advance(20)
        ended = await world.wait(run_id)
        assert ended.status == "completed", ended.error
        assert ended.error is None
        assert [name for _, name in world.calls] == ["first", "charge", "check"]
        with pytest.raises(Conflict):
            await world.retry(run_id)
        is_clean(world)

    play(main, functions=[mend], linger=linger)


@LINGERS
def test_a_retry_keeps_failures_that_were_handled(linger: float) -> None:
    broken = [True]

    @function(id="life-handled", retry=False)
    async def handled(ctx: Any) -> Any:
        async def bad() -> None:
            await ctx.step.sleep("nap", 1)
            await ctx.step.run("bad", fail)

        async def slow() -> None:
            await ctx.step.sleep("nap", 100)
            await ctx.step.run("never", do)

        found = []
        try:
            await ctx.step.run("direct", fail)
        except StepError:
            found.append(await ctx.step.run("fallback", do, "direct"))
        try:
            await ctx.step.parallel("block", [bad, slow])
        except StepError:
            found.append("block")
        settled = await ctx.step.parallel("settled", [bad, lambda: do(1)], fail_fast=False)
        found.append([o.ok for o in settled])
        try:
            await ctx.step.wait_any("race", {"e": EventWait("never.x", timeout=5)})
        except WaitTimeout:
            found.append("race")
        try:
            await ctx.step.wait_all("all", {"e": EventWait("never.x", timeout=5)})
        except WaitTimeout:
            found.append("all")
        await ctx.step.sleep("nap", 5)
        await ctx.step.run("last", fail)
        return found

    async def fail() -> None:
        if broken[0]:
            raise NonRetryable("no")

    async def main(world: testing.World) -> None:
        run_id = await world.start(handled)
        assert (await world.wait(run_id)).status == "failed"
        broken[0] = False
        await world.retry(run_id)
        await world.advance(1)
        ended = await world.wait(run_id, "1h")
        assert ended.status == "completed", ended.error
        assert ended.result == ["direct", "block", [False, True], "race", "all"]
        names = [name for _, name in world.calls]
        assert names == ["direct", "fallback", "bad", "bad", "last", "last"]
        is_clean(world)

    play(main, functions=[handled], linger=linger)


@LINGERS
def test_a_lost_race_is_run_again_by_a_retry(linger: float) -> None:
    @function(id="life-race-again", retry=False)
    async def race(ctx: Any) -> str:
        waits = {"e": EventWait("it.comes", timeout=5), "t": TimerWait(10)}
        won = await ctx.step.wait_any("race", waits)
        return won.name

    async def main(world: testing.World) -> None:
        run_id = await world.start(race)
        assert (await world.wait(run_id)).status == "failed"
        await world.retry(run_id)
        await world.advance(1)
        await world.emit("it.comes")
        assert (await world.wait(run_id)).result == "e"
        is_clean(world)

    play(main, functions=[race], linger=linger)


def test_a_cancelled_run_can_be_retried() -> None:
    @function(id="life-uncancel")
    async def uncancel(ctx: Any) -> str:
        await ctx.step.run("first", do, 1)
        await ctx.step.sleep("nap", 10)
        return "done"

    async def main(world: testing.World) -> None:
        run_id = await world.start(uncancel)
        await world.advance(5)
        await world.cancel(run_id)
        await world.retry(run_id)
        await world.advance(0)
        assert (await world.wait(run_id)).result == "done"
        assert len(world.calls) == 1
        is_clean(world)

    play(main, functions=[uncancel])
