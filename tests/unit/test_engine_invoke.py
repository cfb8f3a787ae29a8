"""Invoked runs: results, failures, time limits and cancellation travel between parent and child."""

from __future__ import annotations

from typing import Any

import pytest
from engine_world import LINGERS, is_clean, play, took

from ironflow import InvokeError, function, testing
from ironflow.core.errors import IronflowError
from ironflow.sdk.step_waits import MAX_DEPTH

SECOND = 1_000_000


@function(id="invoke-child")
async def child(ctx: Any, seconds: float) -> dict[str, float]:
    await ctx.step.sleep("nap", seconds)
    return {"slept": await ctx.step.run("work", lambda: seconds)}


@function(id="invoke-failing", retry=False)
async def failing(ctx: Any) -> None:
    def fail() -> None:
        raise ValueError("inside")

    await ctx.step.run("fail", fail, retry=False)


async def child_of(world: testing.World, run_id: str) -> Any:
    """The first child that a run invoked."""
    run = await world.state(run_id)
    found = next(step.child for step in run.steps.values() if step.child)
    return await world.state(found)


@LINGERS
@pytest.mark.parametrize("crash_at", [0, 5, 15])
def test_the_result_of_a_child_is_the_result_of_the_step(crash_at: int, linger: float) -> None:
    @function(id="invoke-parent")
    async def parent(ctx: Any) -> Any:
        first = await ctx.step.invoke("by id", "invoke-child", 10)
        second = await ctx.step.invoke("by function", child, 10)
        return [first, second]

    async def main(world: testing.World) -> None:
        run_id = await world.start(parent)
        if crash_at:
            await world.advance(crash_at)
            await world.crash()
        assert (await world.wait(run_id)).result == [{"slept": 10}] * 2
        assert await took(world, run_id) == 20
        assert await world.store.reader.count_runs() == {
            ("invoke-parent", "completed"): 1,
            ("invoke-child", "completed"): 2,
        }
        kid = await child_of(world, run_id)
        assert kid.parent.run_id == run_id
        is_clean(world)

    play(main, functions=[parent, child], linger=linger)


@LINGERS
@pytest.mark.parametrize("number", range(1, 12))
def test_a_crash_at_any_commit_creates_no_child_twice(number: int, linger: float) -> None:
    @function(id="invoke-once")
    async def once(ctx: Any) -> Any:
        first = await ctx.step.invoke("a", child, 1)
        detached = await ctx.step.invoke("b", child, 2, detached=True)
        return [first, detached]

    async def main(world: testing.World) -> None:
        run_id = await world.start(once)
        world.crash_at_commit(number)
        ended = await world.wait(run_id)
        assert ended.status == "completed"
        await world.wait(ended.result[1])
        runs = await world.store.reader.count_runs()
        assert runs["invoke-child", "completed"] == 2
        assert sum(runs.values()) == 3
        await world.advance(5)
        is_clean(world)

    play(main, functions=[once, child], linger=linger)


@LINGERS
def test_a_failing_child_raises_in_the_parent_with_the_reason(linger: float) -> None:
    @function(id="invoke-parent-of-failing", retry=3)
    async def parent_of_failing(ctx: Any) -> Any:
        try:
            await ctx.step.invoke("kid", failing)
        except InvokeError as error:
            found = [error.step, error.function_id, error.reason]
        await ctx.step.sleep("nap", 60)
        return found

    async def main(world: testing.World) -> None:
        ended = await world.run(parent_of_failing)
        step, function_id, reason = ended.result
        assert (step, function_id) == ("kid", "invoke-failing")
        assert "ValueError: inside" in reason
        is_clean(world)

    play(main, functions=[parent_of_failing, failing], linger=linger)


@LINGERS
def test_a_timeout_cancels_the_child(linger: float) -> None:
    @function(id="invoke-impatient")
    async def impatient(ctx: Any) -> Any:
        try:
            await ctx.step.invoke("kid", child, 1000, timeout="10s")
        except InvokeError as error:
            return error.reason

    async def main(world: testing.World) -> None:
        run_id = await world.start(impatient)
        assert "timeout" in (await world.wait(run_id)).result
        assert await took(world, run_id) == 10
        await world.advance(1)
        kid = await child_of(world, run_id)
        assert kid.status == "cancelled"
        assert run_id in kid.reason
        is_clean(world)

    play(main, functions=[impatient, child], linger=linger)


@LINGERS
@pytest.mark.parametrize("crash", [False, True])
def test_cancelling_the_parent_cancels_its_children_and_theirs(crash: bool, linger: float) -> None:
    @function(id="invoke-middle")
    async def middle(ctx: Any) -> Any:
        return await ctx.step.invoke("kid", child, 1000)

    @function(id="invoke-top")
    async def top(ctx: Any) -> Any:
        return await ctx.step.parallel(
            "both",
            [
                lambda: ctx.step.invoke("mid", middle),
                lambda: ctx.step.invoke("det", child, 500, detached=True),
                lambda: ctx.step.invoke("kid", child, 1000),
            ],
        )

    async def main(world: testing.World) -> None:
        run_id = await world.start(top)
        await world.advance(10)
        if crash:
            await world.crash()
        await world.cancel(run_id, "no more")
        ended = await world.wait(run_id)
        assert (ended.status, ended.reason) == ("cancelled", "no more")
        await world.advance(1)
        assert await world.store.reader.count_runs() == {
            ("invoke-top", "cancelled"): 1,
            ("invoke-middle", "cancelled"): 1,
            ("invoke-child", "cancelled"): 2,
            ("invoke-child", "waiting"): 1,  # the detached one goes on
        }
        await world.advance(500)
        is_clean(world)

    play(main, functions=[top, middle, child], linger=linger)


@LINGERS
def test_a_cancelled_child_raises_in_the_parent(linger: float) -> None:
    @function(id="invoke-parent-of-cancelled")
    async def parent_of_cancelled(ctx: Any) -> Any:
        try:
            await ctx.step.invoke("kid", child, 1000)
        except InvokeError as error:
            return error.reason

    async def main(world: testing.World) -> None:
        run_id = await world.start(parent_of_cancelled)
        await world.advance(5)
        await world.cancel((await child_of(world, run_id)).id, "by hand")
        assert (await world.wait(run_id)).result == "was cancelled: by hand"
        is_clean(world)

    play(main, functions=[parent_of_cancelled, child], linger=linger)


@LINGERS
def test_detached_children_outlive_the_parent(linger: float) -> None:
    @function(id="invoke-detaching")
    async def detaching(ctx: Any) -> Any:
        first = await ctx.step.invoke("kid", child, 100, detached=True)
        await ctx.step.sleep("nap", 1)
        return first

    async def main(world: testing.World) -> None:
        ended = await world.run(detaching)
        kid = await world.wait(ended.result)
        assert kid.result == {"slept": 100}
        is_clean(world)

    play(main, functions=[detaching, child], linger=linger)


def test_invoking_has_a_greatest_depth() -> None:
    @function(id="invoke-deep", retry=False)
    async def deep(ctx: Any, level: int) -> Any:
        try:
            return await ctx.step.invoke("deeper", "invoke-deep", level + 1)
        except InvokeError as error:
            if "deeper than" in error.reason:
                return level
            raise

    async def main(world: testing.World) -> None:
        assert (await world.run(deep, 0)).result == MAX_DEPTH
        is_clean(world)

    play(main, functions=[deep], linger=0)


def test_an_unknown_function_and_wrong_input_are_told_in_the_parent() -> None:
    @function(id="invoke-typed")
    async def typed(ctx: Any, number: int) -> int:
        return number

    @function(id="invoke-wrong", retry=False)
    async def wrong(ctx: Any) -> Any:
        found = []
        for target, value in (("invoke-nowhere", 1), ("invoke-typed", "text")):
            for detached in (False, True):
                try:
                    await ctx.step.invoke("kid", target, value, detached=detached)
                except IronflowError as error:
                    found.append([error.code, str(error)])
        return found

    async def main(world: testing.World) -> None:
        found = (await world.run(wrong)).result
        assert [code for code, _ in found] == ["not_found"] * 2 + ["invalid_input"] * 2
        assert "invoke-nowhere" in found[0][1]

    play(main, functions=[wrong, typed])


@LINGERS
def test_large_inputs_and_results_travel_as_blobs(linger: float) -> None:
    @function(id="invoke-large-child")
    async def large_child(ctx: Any, text: str) -> str:
        await ctx.step.sleep("nap", 5)
        return text * 2

    @function(id="invoke-large")
    async def large(ctx: Any) -> int:
        result = await ctx.step.invoke("kid", large_child, "y" * 100_000)
        await ctx.step.sleep("nap", 5)
        return len(result)

    async def main(world: testing.World) -> None:
        run_id = await world.start(large)
        await world.advance(1)
        await world.crash()
        assert (await world.wait(run_id)).result == 200_000
        is_clean(world)

    play(main, functions=[large, large_child], linger=linger)


def test_a_retried_parent_invokes_its_failed_child_again() -> None:
    healthy = [False]

    @function(id="invoke-mended", retry=False)
    async def mended(ctx: Any) -> str:
        if not healthy[0]:
            raise ValueError("ill")
        return "well"

    @function(id="invoke-retrying", retry=False)
    async def retrying(ctx: Any) -> Any:
        first = await ctx.step.run("first", lambda: 1)
        return [first, await ctx.step.invoke("kid", mended)]

    async def main(world: testing.World) -> None:
        run_id = await world.start(retrying)
        assert (await world.wait(run_id)).status == "failed"
        healthy[0] = True
        await world.retry(run_id)
        await world.advance(5)
        ended = await world.wait(run_id)
        assert ended.result == [1, "well"], ended.error
        assert world.calls == [("invoke-retrying", "first")]

    play(main, functions=[mended, retrying])
