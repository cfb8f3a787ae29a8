"""Parallel blocks: branches wait at the same time, fail together, and stay dead when they were
cancelled.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from engine_world import LINGERS, is_clean, play, took

from ironflow import NonRetryable, StepError, function, testing

SECOND = 1_000_000


async def add(a: int, b: int = 1) -> int:
    return a + b


async def fail(text: str = "no") -> None:
    raise NonRetryable(text)


@LINGERS
@pytest.mark.parametrize("crash", [0, 15, 25])
def test_branches_wait_at_the_same_time(crash: int, linger: float) -> None:
    @function(id="parallel-max")
    async def longest(ctx: Any) -> Any:
        async def branch(seconds: int) -> int:
            await ctx.step.sleep("nap", seconds)
            found = await ctx.step.run("work", add, seconds)
            await ctx.step.sleep("nap", 1)
            return found

        async def waiting() -> Any:
            return (await ctx.step.wait_for_event("it", "go.now")).data

        return await ctx.step.parallel(
            "block", {"a": lambda: branch(10), "b": lambda: branch(30), "e": waiting}
        )

    async def main(world: testing.World) -> None:
        run_id = await world.start(longest)
        await world.advance(12)
        await world.emit("go.now", "came")
        if crash:
            await world.advance(crash - 12)
            await world.crash()
        assert (await world.wait(run_id)).result == {"a": 11, "b": 31, "e": "came"}
        assert await took(world, run_id) == 31
        is_clean(world)

    play(main, functions=[longest], linger=linger)


@LINGERS
@pytest.mark.parametrize("width", [1, 3, 7, 100])
def test_concurrency_is_never_exceeded_and_order_is_kept(width: int, linger: float) -> None:
    active = [0]
    most = [0]

    @function(id="parallel-width")
    async def widths(ctx: Any) -> Any:
        async def branch(number: int) -> int:
            await ctx.step.sleep("nap", 10 - number)
            return await ctx.step.run("work", work, number)

        async def work(number: int) -> int:
            active[0] += 1
            most[0] = max(most[0], active[0])
            await asyncio.sleep(20)
            active[0] -= 1
            return number * number

        return await ctx.step.map("block", branch, range(8), concurrency=width)

    async def main(world: testing.World) -> None:
        run_id = await world.start(widths)
        await world.advance(35)
        assert (await world.wait(run_id)).result == [n * n for n in range(8)]
        assert most[0] <= width
        assert len(world.calls) == 8
        if width == 1:
            assert await took(world, run_id) == sum(10 - n + 20 for n in range(8))
        is_clean(world)

    play(main, functions=[widths], linger=linger)


@pytest.mark.parametrize("branches", [[], {}])
def test_an_empty_block_is_an_empty_answer(branches: Any) -> None:
    @function(id="parallel-empty")
    async def empty(ctx: Any) -> Any:
        return [await ctx.step.parallel("p", branches), await ctx.step.map("m", add, [])]

    async def main(world: testing.World) -> None:
        assert (await world.run(empty)).result == [branches, []]

    play(main, functions=[empty])


@pytest.mark.parametrize("width", [0, -1])
def test_a_concurrency_of_nothing_is_told(width: int) -> None:
    @function(id="parallel-none", retry=False)
    async def none(ctx: Any) -> Any:
        await ctx.step.map("m", add, [1], concurrency=width)

    async def main(world: testing.World) -> None:
        error = (await world.run(none)).error
        assert error is not None
        assert "concurrency" in error.message

    play(main, functions=[none])


@function(id="parallel-kid")
async def patient_kid(ctx: Any) -> None:
    await ctx.step.sleep("nap", 1000)


def one_that_fails_and_others(ctx: Any, begun: list[str]) -> list[Any]:
    """Branches: one fails after ten seconds, when each of the others is in another kind of wait;
    all that executes is noted in `begun`.
    """

    async def failing() -> None:
        await ctx.step.sleep("nap", 10)
        await ctx.step.run("fail", fail)

    async def sleeping() -> None:
        await ctx.step.run("first", add, 1)
        await ctx.step.sleep("nap", 20)
        await ctx.step.run("charge", add, 1)

    async def executing() -> None:
        async def slow() -> None:
            begun.append("slow")
            await asyncio.sleep(100)
            begun.append("slow ended")

        await ctx.step.run("slow", slow)
        await ctx.step.run("charge", add, 1)

    async def listening() -> None:
        await ctx.step.wait_for_event("it", "go.now")
        await ctx.step.run("charge", add, 1)

    async def retrying() -> None:
        await ctx.step.run("flaky", lambda: 1 / 0, retry={"initial_delay": 15})

    async def invoking() -> None:
        await ctx.step.invoke("kid", patient_kid)
        await ctx.step.run("charge", add, 1)

    return [failing, sleeping, executing, listening, retrying, invoking]


@LINGERS
@pytest.mark.parametrize("crash", [False, True])
def test_the_first_failure_cancels_the_others_for_ever(crash: bool, linger: float) -> None:
    begun: list[str] = []

    @function(id="parallel-fail-fast")
    async def fail_fast(ctx: Any) -> Any:
        try:
            await ctx.step.parallel("block", one_that_fails_and_others(ctx, begun))
        except StepError as error:
            reason = error.reason
        await ctx.step.sleep("after", 100)
        return [reason, await ctx.step.run("after", add, 1)]

    async def main(world: testing.World) -> None:
        run_id = await world.start(fail_fast)
        await world.advance(12)
        assert list((await world.state(run_id)).open) == ["after"]
        runs = await world.store.reader.count_runs()
        assert runs["parallel-kid", "cancelled"] == 1
        if crash:
            await world.crash()
        await world.emit("go.now")
        await world.advance(20)
        if crash:
            await world.crash()
        ended = await world.wait(run_id)
        assert ended.result == ["no", 2]
        names = [name for _, name in world.calls]
        assert sorted(names) == ["after", "fail", "first", "flaky", "slow"]
        assert begun == ["slow"]
        assert await took(world, run_id) == 110
        is_clean(world)

    play(main, functions=[fail_fast, patient_kid], linger=linger)


@LINGERS
@pytest.mark.parametrize("number", range(1, 20))
def test_a_failed_block_is_the_same_after_a_crash_at_any_commit(number: int, linger: float) -> None:
    seen: list[str] = []

    @function(id="parallel-fail-crash")
    async def fail_crash(ctx: Any) -> Any:
        async def branch(n: int) -> int:
            await ctx.step.sleep("nap", n)
            await ctx.step.run("work", add, n)
            if n in (2, 3):
                await ctx.step.run("fail", fail, str(n))
            await ctx.step.sleep("nap", 2)
            return n

        try:
            await ctx.step.map("block", branch, [1, 2, 3, 4], concurrency=3)
        except StepError as error:
            seen.append(error.reason)
        await ctx.step.sleep("after", 60)
        return seen[-1]

    async def main(world: testing.World) -> None:
        world.crash_at_commit(number)
        assert (await world.run(fail_crash)).result == "2"
        assert set(seen) == {"2"}
        is_clean(world)

    play(main, functions=[fail_crash], linger=linger)


@LINGERS
def test_all_settled_gives_outcomes_and_cancels_nothing(linger: float) -> None:
    @function(id="parallel-settled")
    async def settled(ctx: Any) -> Any:
        async def branch(number: int) -> int:
            await ctx.step.sleep("nap", number)
            if number == 2:
                await ctx.step.run("fail", fail)
            if number == 3:
                raise KeyError("plain")
            return number

        outcomes = await ctx.step.map("block", branch, [1, 2, 3, 4], fail_fast=False)
        await ctx.step.sleep("after", 60)
        try:
            await ctx.step.outcomes(outcomes)
        except StepError as error:
            first = error.step
        values = await ctx.step.outcomes([o for o in outcomes if o.ok])
        return [[o.ok for o in outcomes], values, first, type(outcomes[2].error).__name__]

    async def main(world: testing.World) -> None:
        run_id = await world.start(settled)
        await world.advance(3)
        await world.crash()
        ended = await world.wait(run_id)
        assert ended.result == [[True, False, False, True], [1, 4], "fail", "KeyError"]
        is_clean(world)

    play(main, functions=[settled], linger=linger)


@LINGERS
def test_blocks_nest_and_use_everything(linger: float) -> None:
    @function(id="parallel-nest-kid")
    async def kid(ctx: Any, number: int) -> int:
        await ctx.step.sleep("nap", number)
        return number

    @function(id="parallel-nest")
    async def nest(ctx: Any) -> Any:
        async def leaf(number: int) -> Any:
            u = ctx.uuid()
            child = await ctx.step.invoke("kid", kid, number)
            await ctx.step.emit("tell", "leaf.done", {"n": number})
            return [child, str(u)]

        async def middle(number: int) -> Any:
            async def both(n: int) -> Any:
                return await leaf(number * 10 + n)

            found = await ctx.step.map("inner", both, [1, 2])
            await ctx.step.sleep("nap", 1)
            return [found, await ctx.step.map("inner", both, [3])]

        return await ctx.step.map("outer", middle, [1, 2])

    async def main(world: testing.World) -> None:
        results = []
        run_id = await world.start(nest)
        for _ in range(5):
            await world.advance(5)
            await world.crash()
        ended = await world.wait(run_id)
        results = ended.result
        assert [[[v[0] for v in part] for part in side] for side in results] == [
            [[11, 12], [13]],
            [[21, 22], [23]],
        ]
        ids = [v[1] for side in results for part in side for v in part]
        assert len(set(ids)) == 6
        assert await took(world, run_id) == 22 + 1 + 23
        events = world.store.tables.rows["events"]
        assert len(events) == 6
        is_clean(world)

    play(main, functions=[nest, kid], linger=linger)


@LINGERS
def test_a_failure_inside_reaches_out_through_every_block(linger: float) -> None:
    @function(id="parallel-through")
    async def through(ctx: Any) -> Any:
        async def inner() -> None:
            async def leaf(number: int) -> None:
                await ctx.step.sleep("nap", number)
                if number == 5:
                    await ctx.step.run("fail", fail, "deep")
                await ctx.step.run("late", add, 1)

            await ctx.step.map("inner", leaf, [5, 50])

        async def other() -> None:
            await ctx.step.map("inner", lambda n: ctx.step.sleep("nap", n), [70, 80])
            await ctx.step.run("late", add, 1)

        try:
            await ctx.step.parallel("outer", [other, inner])
        except StepError as error:
            reason = error.reason
        await ctx.step.sleep("after", 200)
        return reason

    async def main(world: testing.World) -> None:
        run_id = await world.start(through)
        assert (await world.wait(run_id)).result == "deep"
        assert await took(world, run_id) == 205
        assert world.calls == [("parallel-through", "fail")]
        is_clean(world)

    play(main, functions=[through], linger=linger)


@pytest.mark.parametrize("error", [asyncio.CancelledError(), SystemExit(2)])
def test_signals_of_the_users_own_fail_the_block_and_not_the_server(error: BaseException) -> None:
    @function(id="parallel-signals", retry=False)
    async def signals(ctx: Any) -> Any:
        async def bad() -> None:
            raise error

        found = []
        for _ in range(2):
            try:
                await ctx.step.parallel("block", [bad, lambda: ctx.step.sleep("nap", 50)])
            except NonRetryable as failure:
                found.append(str(failure))
        if len(found) == 2:
            raise error
        return None

    async def main(world: testing.World) -> None:
        ended = await world.run(signals, limit="1h")
        assert ended.status == "failed"
        assert ended.error is not None
        assert ended.error.kind == type(error).__name__
        is_clean(world)

    play(main, functions=[signals])


def test_a_retry_of_the_run_runs_the_cancelled_branches_again() -> None:
    ill = [True]

    @function(id="parallel-mended", retry=False)
    async def mended(ctx: Any) -> Any:
        async def sick() -> str:
            if ill[0]:
                await ctx.step.run("fail", fail)
            return "well"

        async def slow() -> int:
            await ctx.step.sleep("nap", 10)
            return await ctx.step.run("work", add, 1)

        return await ctx.step.parallel("block", {"sick": sick, "slow": slow})

    async def main(world: testing.World) -> None:
        run_id = await world.start(mended)
        assert (await world.wait(run_id)).status == "failed"
        ill[0] = False
        await world.retry(run_id)
        await world.advance(1)
        assert (await world.wait(run_id)).result == {"sick": "well", "slow": 2}
        is_clean(world)

    play(main, functions=[mended])
