"""Attempts of a function, its time limit, and runs that take the process down with them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from engine_world import LINGERS, do, is_clean, play, took

from ironflow import NonRetryable, RetryPolicy, function, testing

SECOND = 1_000_000


# -- attempts of the function ----------------------------------------------------------------------


@LINGERS
@pytest.mark.parametrize("crash", [False, True])
def test_a_function_is_tried_again_and_its_finished_steps_are_kept(
    crash: bool, linger: float
) -> None:
    attempts: list[int] = []

    @function(id="life-attempts", retry={"max_attempts": 3, "initial_delay": 10})
    async def attempted(ctx: Any) -> str:
        first = await ctx.step.run("first", do, "kept")
        attempts.append(ctx.attempt)
        if ctx.attempt < 3:
            raise ValueError(f"attempt {ctx.attempt}")
        return first

    async def main(world: testing.World) -> None:
        run_id = await world.start(attempted)
        await world.advance(1)
        run = await world.state(run_id)
        assert (run.status, run.retry_at is not None) == ("waiting", True)
        assert run.error is not None
        assert run.error.message == "attempt 1"
        if crash:
            await world.crash()
        ended = await world.wait(run_id)
        assert ended.result == "kept"
        assert attempts == [1, 2, 3]
        assert world.calls == [("life-attempts", "first")]
        policy = RetryPolicy(initial_delay=10)
        pauses = sum(int(policy.delay(n, run_id) * SECOND) for n in (1, 2))
        assert await took(world, run_id) == pauses / SECOND
        is_clean(world)

    play(main, functions=[attempted], linger=linger)


@pytest.mark.parametrize(("retry", "executions"), [(False, 1), (2, 2), (None, 3)])
def test_the_last_attempt_fails_the_run_with_its_error(retry: Any, executions: int) -> None:
    @function(id="life-hopeless", retry=retry)
    async def hopeless(ctx: Any) -> None:
        raise KeyError("what")

    async def main(world: testing.World) -> None:
        ended = await world.run(hopeless)
        assert ended.executions == executions
        assert ended.error is not None
        assert (ended.error.kind, ended.error.message) == ("KeyError", "'what'")
        assert "hopeless" in ended.error.trace
        is_clean(world)

    play(main, functions=[hopeless])


@pytest.mark.parametrize("error", [NonRetryable("x"), SystemExit(4), asyncio.CancelledError()])
def test_final_errors_of_the_body_fail_the_run_at_once(error: BaseException) -> None:
    @function(id="life-final")
    async def final(ctx: Any) -> None:
        await ctx.step.run("a", do)
        raise error

    async def main(world: testing.World) -> None:
        ended = await world.run(final, limit="1h")
        assert (ended.status, ended.executions) == ("failed", 1)
        assert ended.error is not None
        assert ended.error.kind == type(error).__name__
        is_clean(world)

    play(main, functions=[final])


@LINGERS
def test_waits_left_over_by_an_attempt_do_not_hurry_the_next(linger: float) -> None:
    begun: list[int] = []

    @function(id="life-left-over", retry={"max_attempts": 2, "initial_delay": 100, "jitter": 0})
    async def left_over(ctx: Any) -> None:
        begun.append(ctx.attempt)

        async def bad() -> None:
            raise ValueError("now")

        await ctx.step.parallel("p", [lambda: ctx.step.sleep("nap", 5), bad])

    async def main(world: testing.World) -> None:
        run_id = await world.start(left_over)
        ended = await world.wait(run_id)
        assert ended.executions == 2
        assert await took(world, run_id) == 100
        assert begun == [1, 2]
        is_clean(world)

    play(main, functions=[left_over], linger=linger)


# -- the function's timeout ------------------------------------------------------------------------


@LINGERS
@pytest.mark.parametrize("crash", [False, True])
@pytest.mark.parametrize("where", ["sleeping", "executing", "body", "retrying", "attempt"])
def test_a_run_that_takes_too_long_fails(where: str, crash: bool, linger: float) -> None:
    @function(id="life-limit", timeout="1m", retry={"max_attempts": 5, "initial_delay": 200})
    async def limited(ctx: Any) -> None:
        match where:
            case "sleeping":
                await ctx.step.sleep("nap", 1000)
            case "executing":
                await ctx.step.run("work", asyncio.sleep, 1000)
            case "body":
                await asyncio.sleep(1000)
            case "retrying":
                await ctx.step.run("bad", lambda: 1 / 0)
            case "attempt":
                raise ValueError("again")

    async def main(world: testing.World) -> None:
        run_id = await world.start(limited)
        await world.advance(30)
        if crash:
            await world.crash()
        ended = await world.wait(run_id)
        assert ended.status == "failed"
        assert ended.error is not None
        assert (ended.error.kind, ended.error.code) == ("RunTimeout", "run_timeout")
        assert "60 s" in ended.error.message
        assert await took(world, run_id) == 60
        is_clean(world)

    play(main, functions=[limited], linger=linger)


def test_a_queued_run_times_out_and_a_retry_gets_a_new_limit() -> None:
    @function(id="life-queued-limit", timeout="1m")
    async def queued(ctx: Any) -> str:
        await ctx.step.run("work", asyncio.sleep, 30)
        return "done"

    @function(id="life-hog")
    async def hog(ctx: Any) -> None:
        await ctx.step.run("work", asyncio.sleep, 100)

    async def main(world: testing.World) -> None:
        await world.start(hog)
        run_id = await world.start(queued)
        assert (await world.state(run_id)).status == "queued"
        ended = await world.wait(run_id)
        assert (ended.status, ended.executions) == ("failed", 0)
        assert await took(world, run_id) == 60
        await world.advance(60)
        await world.retry(run_id)
        assert (await world.wait(run_id)).result == "done"
        await world.advance(60)
        assert (await world.state(run_id)).status == "completed"
        is_clean(world)

    play(main, functions=[queued, hog], capacity=1)


# -- runs that take the process down ---------------------------------------------------------------


@LINGERS
def test_a_run_that_kills_its_process_again_and_again_is_parked(linger: float) -> None:
    @function(id="life-deadly")
    async def killer(ctx: Any) -> str:
        await ctx.step.run("fine", do)
        return await ctx.step.run("kill", do)

    @function(id="life-innocent")
    async def innocent(ctx: Any) -> str:
        for _ in range(5):
            await ctx.step.sleep("nap", 10)
            await ctx.step.run("work", do)
        return "fine"

    async def main(world: testing.World) -> None:
        world.mock_step("kill", world.die)
        other = await world.start(innocent)
        run_id = await world.start(killer)
        ended = await world.wait(other)
        assert ended.result == "fine"
        run = await world.state(run_id)
        assert (run.status, run.paused_cause) == ("paused", "crash_loop")
        assert run.reason is not None
        assert "4 times in a row" in run.reason
        assert run.execution == 4
        world.mock_step("kill", "alive")
        await world.resume(run_id)
        assert (await world.wait(run_id)).result == "alive"
        is_clean(world)

    play(main, functions=[killer, innocent], linger=linger, max_crashes=3)


def test_crashes_with_progress_in_between_park_nothing() -> None:
    @function(id="life-unlucky")
    async def unlucky(ctx: Any) -> int:
        total = 0
        for _ in range(10):
            total += await ctx.step.run("one", do, 1)
        return total

    async def main(world: testing.World) -> None:
        def one(_: int) -> int:
            world.crash_at_step(1)
            return 1

        world.mock_step("one", one)
        ended = await world.run(unlucky)
        assert ended.result == 10
        assert ended.executions == 10

    play(main, functions=[unlucky], max_crashes=2)
