"""Sagas and emitted events: undone in reverse, each once, whatever happens in between."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import Any

import pytest
from engine_world import LINGERS, is_clean, play, took

from ironflow import EventWait, NonRetryable, StepError, TimerWait, function, testing
from ironflow.core.runs.state import StepStatus

SECOND = 1_000_000


async def do(name: str) -> str:
    return name


async def fail() -> None:
    raise NonRetryable("cannot")


# -- compensations --------------------------------------------------------------------------------


@LINGERS
@pytest.mark.parametrize("number", range(1, 16))
def test_a_crash_at_any_commit_undoes_each_step_in_reverse(number: int, linger: float) -> None:
    undone: list[str] = []

    @function(id="saga-reverse", retry={"max_attempts": 3, "initial_delay": 1})
    async def reverse(ctx: Any) -> None:
        for name in "abc":
            await ctx.step.run(name, do, name)
            ctx.step.compensate(name, undo, name, twice=False)
        await ctx.step.run("fail", fail)

    async def undo(name: str, *, twice: bool) -> None:
        undone.append(name)

    async def main(world: testing.World) -> None:
        world.crash_at_commit(number)
        ended = await world.run(reverse)
        assert ended.status == "failed"
        assert ended.error is not None
        assert ended.error.kind == "StepError"
        assert ended.error.message == "step 'fail' failed: NonRetryable: cannot"
        # At most the call that the crash interrupted was made twice.
        once = list(dict.fromkeys(undone))
        assert once == ["c", "b", "a"]
        assert len(undone) <= 4
        steps = [s for s in ended.steps.values() if s.kind == "compensate"]
        assert [s.key for s in sorted(steps, key=lambda s: s.pos)] == [
            "@compensate/c", "@compensate/b", "@compensate/a",
        ]  # fmt: skip
        assert {s.status for s in steps} == {StepStatus.COMPLETED}
        is_clean(world)

    play(main, functions=[reverse], linger=linger)


@LINGERS
def test_a_failing_compensation_is_tried_again_and_does_not_stop_the_others(linger: float) -> None:
    undone: Counter[str] = Counter()

    @function(id="saga-failing", retry={"max_attempts": 2, "initial_delay": 30})
    async def failing(ctx: Any) -> None:
        for name in "abc":
            await ctx.step.run(name, do, name)
            ctx.step.compensate(name, undo, name)
        await ctx.step.run("fail", fail)

    def undo(name: str) -> None:
        undone[name] += 1
        if name == "b" or (name == "c" and undone[name] == 1):
            raise ValueError("undo failed")

    async def main(world: testing.World) -> None:
        run_id = await world.start(failing)
        await world.advance(10)
        run = await world.state(run_id)
        assert (run.status, list(run.open)) == ("waiting", ["@compensate/c"])
        await world.crash()
        ended = await world.wait(run_id)
        assert ended.status == "failed"
        assert undone == {"c": 2, "b": 2, "a": 1}
        assert ended.steps["@compensate/b"].status is StepStatus.FAILED
        assert ended.error is not None
        assert "'fail'" in ended.error.message
        is_clean(world)

    play(main, functions=[failing], linger=linger)


@LINGERS
@pytest.mark.parametrize("number", range(1, 14))
def test_branches_may_register_in_any_order_and_with_the_same_name(
    number: int, linger: float
) -> None:
    undone: list[str] = []

    @function(id="saga-branches")
    async def branches(ctx: Any) -> None:
        async def branch(name: str, seconds: int) -> None:
            await ctx.step.sleep("nap", seconds)
            for part in (1, 2):
                await ctx.step.run("book", do, name)
                ctx.step.compensate("cancel", undo, f"{name}{part}")

        await ctx.step.parallel(
            "all", [lambda: branch("x", 20), lambda: branch("y", 10), lambda: branch("z", 15)]
        )
        await ctx.step.run("fail", fail)

    async def undo(name: str) -> None:
        undone.append(name)
        await asyncio.sleep(1)

    async def main(world: testing.World) -> None:
        run_id = await world.start(branches)
        await world.advance(20)  # the bookings are made, each in its own order
        world.crash_at_commit(number)
        ended = await world.wait(run_id)
        assert ended.status == "failed"
        once = list(dict.fromkeys(undone))
        assert sorted(once) == ["x1", "x2", "y1", "y2", "z1", "z2"]
        for name in "xyz":
            assert once.index(f"{name}2") < once.index(f"{name}1")
        assert len(undone) <= 7
        is_clean(world)

    play(main, functions=[branches], linger=linger)


@LINGERS
@pytest.mark.parametrize("number", range(1, 8))
def test_what_cancelled_branches_did_is_undone_too_and_nothing_else(
    number: int, linger: float
) -> None:
    undone: list[str] = []

    @function(id="saga-cancelled-branch")
    async def cancelled_branch(ctx: Any) -> None:
        async def slow() -> None:
            await ctx.step.run("book", do, "slow")
            ctx.step.compensate("book", undo, "slow")
            await ctx.step.sleep("nap", 100)
            ctx.step.compensate("never", undo, "never")

        async def waiting() -> None:
            await ctx.step.run("book", do, "waiting")
            ctx.step.compensate("book", undo, "waiting")
            await ctx.step.wait_all("all", {"t": TimerWait(100), "e": EventWait("never.x")})
            ctx.step.compensate("never", undo, "never")

        async def quick() -> None:
            await ctx.step.sleep("nap", 5)
            await ctx.step.run("fail", fail)

        try:
            await ctx.step.parallel("both", [slow, waiting, quick])
        except StepError:
            await ctx.step.sleep("after", 200)
        await ctx.step.run("fail", fail)

    async def undo(name: str) -> None:
        undone.append(name)
        await asyncio.sleep(1)

    async def main(world: testing.World) -> None:
        run_id = await world.start(cancelled_branch)
        await world.advance(204)
        world.crash_at_commit(number)
        ended = await world.wait(run_id)
        assert ended.status == "failed"
        once = list(dict.fromkeys(undone))
        assert sorted(once) == ["slow", "waiting"]
        assert len(undone) <= 3
        is_clean(world)

    play(main, functions=[cancelled_branch], linger=linger)


@LINGERS
@pytest.mark.parametrize("on", [(), ("failed",), ("failed", "cancelled", "timed_out")])
@pytest.mark.parametrize("ending", ["cancelled", "timed_out"])
@pytest.mark.parametrize("where", ["sleeping", "executing", "waiting_all", "paused"])
def test_compensation_on_cancel_and_timeout_is_an_option(
    where: str, ending: str, on: Any, linger: float
) -> None:
    undone: list[str] = []

    @function(id="saga-options", compensate_on=on, timeout="100s")
    async def options(ctx: Any) -> None:
        await ctx.step.run("a", do, "a")
        ctx.step.compensate("a", undo, "a")
        if where == "waiting_all":
            await ctx.step.wait_all("w", {"t": TimerWait(1), "u": TimerWait(2)})
            ctx.step.compensate("b", undo, "b")
        if where == "executing":
            await ctx.step.run("long", asyncio.sleep, 1000)
        await ctx.step.sleep("nap", 1000)

    async def undo(name: str) -> None:
        undone.append(name)

    async def main(world: testing.World) -> None:
        run_id = await world.start(options)
        await world.advance(10)
        if where == "paused":
            await world.pause(run_id)
        if ending == "cancelled":
            await world.cancel(run_id, "enough")
        ended = await world.wait(run_id)
        expected = (["b", "a"] if where == "waiting_all" else ["a"]) if ending in on else []
        assert undone == expected
        assert ended.status == ("cancelled" if ending == "cancelled" else "failed")
        if ending == "cancelled":
            assert ended.reason == "enough"
        else:
            assert ended.error is not None
            assert ended.error.code == "run_timeout"
            assert await took(world, run_id) == 100
        is_clean(world)

    play(main, functions=[options], linger=linger)


@LINGERS
def test_a_saga_that_succeeds_undoes_nothing(linger: float) -> None:
    @function(id="saga-fine")
    async def fine(ctx: Any) -> str:
        await ctx.step.run("a", do, "a")
        ctx.step.compensate("a", fail)
        await ctx.step.sleep("nap", 10)
        return "fine"

    async def main(world: testing.World) -> None:
        ended = await world.run(fine)
        assert ended.result == "fine"
        assert world.calls == [("saga-fine", "a")]

    play(main, functions=[fine], linger=linger)


@LINGERS
def test_a_failure_that_is_handled_undoes_nothing_and_a_retried_run_can_be_undone_again(
    linger: float,
) -> None:
    undone: list[str] = []
    more = [False]

    @function(id="saga-again", retry=False)
    async def again(ctx: Any) -> str:
        await ctx.step.run("a", do, "a")
        ctx.step.compensate("a", undo, "a")
        with contextlib.suppress(StepError):
            await ctx.step.run("handled", fail)
        if more[0]:
            await ctx.step.run("b", do, "b")
            ctx.step.compensate("b", undo, "b")
        await ctx.step.run("fail", fail)
        return "never"

    async def undo(name: str) -> None:
        undone.append(name)

    async def main(world: testing.World) -> None:
        run_id = await world.start(again)
        await world.wait(run_id)
        assert undone == ["a"]
        more[0] = True
        await world.retry(run_id)
        await world.advance(1)
        assert (await world.wait(run_id)).status == "failed"
        assert undone == ["a", "b", "a"]
        is_clean(world)

    play(main, functions=[again], linger=linger)


@LINGERS
@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("turns", range(8))
def test_a_cancel_at_any_turn_around_a_steps_end_undoes_that_step(
    turns: int, parallel: bool, linger: float
) -> None:
    undone: list[str] = []

    @function(id="saga-cancelled", compensate_on=["cancelled"])
    async def cancelled(ctx: Any) -> None:
        async def book(name: str) -> None:
            await ctx.step.run(name, asyncio.sleep, 1)
            ctx.step.compensate(name, undone.append, name)
            await asyncio.sleep(3600)  # nothing durable: only a cancel ends it

        if parallel:
            await ctx.step.map("all", book, ["a"])
        else:
            await book("a")

    async def main(world: testing.World) -> None:
        run_id = await world.start(cancelled)

        async def cancel() -> None:
            for _ in range(turns):
                await asyncio.sleep(0)
            await world.cancel(run_id)

        asked: list[asyncio.Task[None]] = []
        world.loop.call_later(1, lambda: asked.append(world.loop.create_task(cancel())))
        ended = await world.wait(run_id, 1800)
        await asyncio.gather(*asked)
        assert ended.status == "cancelled"
        completed = any(s.name == "a" and s.kind == "run" for s in ended.steps.values())
        assert undone == (["a"] if completed else [])
        reached.add(completed)
        is_clean(world)

    reached: set[bool] = set()
    play(main, functions=[cancelled], linger=linger)
    assert reached == {True} or turns < 4


# -- emit -----------------------------------------------------------------------------------------


@LINGERS
@pytest.mark.parametrize("number", range(1, 12))
def test_an_event_is_emitted_exactly_once_through_a_crash_at_any_commit(
    number: int, linger: float
) -> None:
    @function(id="saga-listener", on="saga.*")
    async def listener(ctx: Any, data: Any) -> Any:
        return data

    @function(id="saga-emitter")
    async def emitter(ctx: Any) -> list[str]:
        first = await ctx.step.emit("one", "saga.one", {"n": 1})
        await ctx.step.sleep("nap", 5)
        return [first, await ctx.step.emit("two", "saga.two", [2])]

    async def main(world: testing.World) -> None:
        world.crash_at_commit(number)
        ended = await world.run(emitter)
        await world.advance(10)
        events = world.store.tables.rows["events"]
        assert sorted(key for (key,) in events) == sorted(ended.result)
        runs = await world.store.reader.count_runs()
        assert runs == {("saga-emitter", "completed"): 1, ("saga-listener", "completed"): 2}
        is_clean(world)

    play(main, functions=[emitter, listener], linger=linger)
