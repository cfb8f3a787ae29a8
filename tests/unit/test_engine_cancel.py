"""Cancelling runs: by hand, by events, wherever they stand."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from engine_world import LINGERS, do, is_clean, play, took

from ironflow import CancelOn, EventWait, TimerWait, function, testing
from ironflow.core.clock import derive_id
from ironflow.core.errors import Conflict, NotFound


@LINGERS
@pytest.mark.parametrize(
    "where", ["sleeping", "waiting", "executing", "body", "queued", "paused", "retrying", "attempt"]
)
def test_a_run_can_be_cancelled_wherever_it_stands(where: str, linger: float) -> None:
    went_on: list[str] = []

    @function(id="life-cancel", retry={"max_attempts": 5, "initial_delay": 200})
    async def cancelled(ctx: Any) -> None:
        match where:
            case "sleeping" | "paused":
                await ctx.step.sleep("nap", 1000)
            case "waiting":
                await ctx.step.wait_for_event("it", "never.comes")
            case "executing":
                await ctx.step.run("work", asyncio.sleep, 1000)
            case "body":
                await asyncio.sleep(1000)
            case "retrying":
                await ctx.step.run("bad", lambda: 1 / 0)
            case "attempt":
                raise ValueError("again")
        went_on.append(where)

    @function(id="life-cancel-hog")
    async def hog(ctx: Any) -> None:
        await ctx.step.run("work", asyncio.sleep, 1000)

    async def main(world: testing.World) -> None:
        if where == "queued":
            await world.start(hog)
        run_id = await world.start(cancelled)
        await world.advance(10)
        if where == "paused":
            await world.pause(run_id)
        await world.cancel(run_id, "enough")
        ended = await world.wait(run_id)
        assert (ended.status, ended.reason) == ("cancelled", "enough")
        assert await took(world, run_id) == 10
        await world.advance(2000)
        assert not went_on
        with pytest.raises(Conflict):
            await world.cancel(run_id)
        is_clean(world)

    play(main, functions=[cancelled, hog], linger=linger, capacity=1)


@LINGERS
@pytest.mark.parametrize("undo", [False, True])
def test_a_step_that_still_executes_while_its_run_is_paused_is_cancelled_too(
    undo: bool, linger: float
) -> None:
    undone: list[str] = []

    @function(id="life-cancel-paused", compensate_on=["cancelled"] if undo else [])
    async def paused(ctx: Any) -> None:
        async def short() -> None:
            await ctx.step.run("short", asyncio.sleep, 5)
            ctx.step.compensate("short", undone.append, "short")
            await ctx.step.run("next", do)

        await ctx.step.parallel("p", [short, lambda: ctx.step.run("long", asyncio.sleep, 1000)])

    async def main(world: testing.World) -> None:
        run_id = await world.start(paused)
        await world.advance(1)
        await world.pause(run_id)
        await world.advance(10)
        assert (await world.state(run_id)).status == "paused"
        await world.cancel(run_id)
        ended = await world.wait(run_id, "1m")
        assert ended.status == "cancelled"
        assert undone == (["short"] if undo else [])
        await world.advance(0.1)
        assert len(world.executor) == 0
        assert [name for _, name in world.calls if name in {"long", "next"}] == ["long"]
        is_clean(world)

    play(main, functions=[paused], linger=linger)


@pytest.mark.parametrize("number", range(1, 12))
@pytest.mark.parametrize("what", ["sleep", "retry", "block", "race", "invoke"])
def test_a_cancel_on_its_way_survives_a_crash_at_any_commit(what: str, number: int) -> None:
    undone: list[str] = []

    @function(id="life-cancel-crash", compensate_on=["cancelled"])
    async def cancelled(ctx: Any) -> None:
        ctx.step.compensate("undo", undone.append, "undo")
        await ctx.step.run("first", asyncio.sleep, 1)
        match what:
            case "sleep":
                await ctx.step.sleep("nap", "10d")
            case "retry":
                await ctx.step.run("bad", lambda: 1 / 0, retry={"initial_delay": 300})
            case "block":
                await ctx.step.map("m", lambda n: ctx.step.sleep("nap", n), [86400, 10 * 86400])
            case "race":
                await ctx.step.wait_any("r", {"t": TimerWait("10d"), "e": EventWait("never.x")})
            case "invoke":
                await ctx.step.invoke("kid", sleeper)

    @function(id="life-cancel-crash-kid")
    async def sleeper(ctx: Any) -> None:
        await ctx.step.sleep("nap", "10d")

    async def main(world: testing.World) -> None:
        run_id = await world.start(cancelled)
        world.crash_at_commit(number)
        asked = []

        def cancel(*_: Any) -> None:
            if not asked:  # together with the end of the first step
                asked.append(world.loop.create_task(world.cancel(run_id)))

        world.loop.call_later(1, cancel)
        await world.advance(2)
        await asyncio.gather(*asked, return_exceptions=True)
        if asked[0].exception() is not None:
            await world.cancel(run_id)
        ended = await world.wait(run_id, "5m")
        assert ended.status == "cancelled"
        assert list(dict.fromkeys(undone)) == ["undo"]
        await world.advance(1)
        is_clean(world)

    play(main, functions=[cancelled, sleeper], linger=0)


def test_cancelling_what_does_not_exist_is_told() -> None:
    async def main(world: testing.World) -> None:
        for operation in (world.cancel, world.pause, world.resume, world.retry, world.state):
            with pytest.raises(NotFound):
                await operation("nobody")

    play(main, functions=[])


@LINGERS
@pytest.mark.parametrize("crash", [False, True])
def test_an_event_cancels_the_runs_that_it_matches(crash: bool, linger: float) -> None:
    rules = [CancelOn("order.cancelled", "data.order_id"), "all.stop"]

    @function(id="life-cancel-on", cancel_on=rules)
    async def order(ctx: Any, data: dict[str, Any]) -> str:
        await ctx.step.sleep("nap", 1000)
        return "shipped"

    async def main(world: testing.World) -> None:
        one = await world.start(order, {"order_id": 1})
        two = await world.start(order, {"order_id": "2"})
        three = await world.start(order, {"order_id": 3})
        none = await world.start(order, {})
        await world.advance(5)
        if crash:
            await world.crash()
        await world.emit("order.cancelled", {"order_id": 1})
        await world.emit("order.cancelled", {"order_id": 2})  # a number, not the text
        await world.advance(5)
        statuses = [(await world.state(i)).status for i in (one, two, three, none)]
        assert statuses == ["cancelled", "waiting", "waiting", "waiting"]
        await world.pause(three)
        await world.emit("all.stop")
        await world.advance(5)
        statuses = [(await world.state(i)).status for i in (one, two, three, none)]
        assert statuses == ["cancelled"] * 4
        is_clean(world)

    play(main, functions=[order], linger=linger)


def test_a_run_with_a_large_input_is_cancelled_by_its_event() -> None:
    @function(id="life-cancel-large", cancel_on=[CancelOn("order.cancelled", "data.order_id")])
    async def large(ctx: Any, data: dict[str, Any]) -> None:
        await ctx.step.sleep("nap", 1000)

    async def main(world: testing.World) -> None:
        run_id = await world.start(large, {"order_id": 5, "text": "x" * 100_000})
        await world.advance(5)
        await world.emit("order.cancelled", {"order_id": 5})
        assert (await world.wait(run_id)).status == "cancelled"
        is_clean(world)

    play(main, functions=[large])


@pytest.mark.parametrize("crash", [False, True])
def test_a_large_input_matters_to_runs_that_events_start_and_to_retries(crash: bool) -> None:
    rule = CancelOn("order.cancelled", "data.order_id")

    @function(id="life-cancel-large-2", cancel_on=[rule], on="order.placed", retry=False)
    async def large(ctx: Any, data: dict[str, Any]) -> None:
        await ctx.step.sleep("nap", 1000)

    async def main(world: testing.World) -> None:
        data = {"order_id": 5, "text": "x" * 100_000}
        (run_id,) = (await world.emit("order.placed", data)).run_ids
        await world.advance(5)
        for _ in range(2):
            if crash:
                await world.crash()
            await world.emit("order.cancelled", {"order_id": 4})
            await world.emit("order.cancelled", {"order_id": 5})
            assert (await world.wait(run_id)).status == "cancelled"
            await world.retry(run_id)
            await world.advance(5)
        await world.cancel(run_id)
        await world.advance(5)
        is_clean(world)

    play(main, functions=[large])


def test_a_cancel_in_the_commit_in_which_the_run_starts() -> None:
    @function(id="life-cancel-at-once")
    async def forever(ctx: Any) -> None:
        await ctx.step.sleep("long", 1e6)

    async def main(world: testing.World) -> None:
        world.store.journal.delay = lambda: 1.0
        first = asyncio.ensure_future(world.emit("keeps.the.disk.busy"))
        await world.advance(0.1)
        started = asyncio.ensure_future(world.engine.invoke(forever.id, idempotency_key="one"))
        await world.advance(0.1)
        run_id = derive_id("invoke", forever.id, "one")
        cancelled = asyncio.ensure_future(world.cancel(run_id))  # the same commit as the start
        assert (await started).run_id == run_id
        await asyncio.gather(first, cancelled)
        ended = await world.wait(run_id, "1d")
        assert ended.status == "cancelled"
        await world.advance(10)
        is_clean(world)

    play(main, functions=[forever])
