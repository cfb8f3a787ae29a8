"""The life of a run: attempts, time limits, cancel, pause, retry, keys, triggers, capacity,
parking.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest
from engine_world import LINGERS, is_clean, play, took

from ironflow import (
    CancelOn,
    EventWait,
    NonRetryable,
    RetryPolicy,
    StepError,
    TimerWait,
    WaitTimeout,
    function,
    testing,
)
from ironflow.core.clock import derive_id
from ironflow.core.errors import Conflict, IdempotencyConflict, InvalidInput, NotFound
from ironflow.core.runs import StepStatus

SECOND = 1_000_000


async def do(value: Any = None) -> Any:
    return value


# -- attempts of the function ---------------------------------------------------------------------


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


# -- the function's timeout -----------------------------------------------------------------------


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


# -- cancel ---------------------------------------------------------------------------------------


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


# -- pause and resume -----------------------------------------------------------------------------


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


# -- retry from failure ---------------------------------------------------------------------------


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


# -- idempotency keys -----------------------------------------------------------------------------


@function(id="life-key")
async def keyed(ctx: Any, data: Any) -> Any:
    await ctx.step.sleep("nap", 10)
    return data


@pytest.mark.parametrize("crash", [False, True])
def test_the_same_key_is_the_same_run_and_other_input_is_a_conflict(crash: bool) -> None:
    async def main(world: testing.World) -> None:
        first = await world.start(keyed, {"a": 1, "b": 2}, idempotency_key="k")
        if crash:
            await world.crash()
        assert await world.start(keyed, {"b": 2, "a": 1}, idempotency_key="k") == first
        with pytest.raises(IdempotencyConflict, match="'k'"):
            await world.start(keyed, {"a": 2}, idempotency_key="k")
        assert await world.start(keyed, {"a": 1}, idempotency_key="other") != first
        await world.wait(first)
        assert await world.start(keyed, {"a": 1, "b": 2}, idempotency_key="k") == first
        for key in ("", "x" * 501):
            with pytest.raises(InvalidInput):
                await world.start(keyed, 1, idempotency_key=key)

    play(main, functions=[keyed])


def test_many_at_once_with_one_key_create_one_run() -> None:
    async def main(world: testing.World) -> None:
        ids = await asyncio.gather(
            *(world.start(keyed, 7, idempotency_key="one") for _ in range(50)),
            *(world.start(keyed, 8, idempotency_key="one") for _ in range(5)),
            return_exceptions=True,
        )
        assert len(set(ids[:50])) == 1
        assert all(isinstance(other, IdempotencyConflict) for other in ids[50:])
        assert sum((await world.store.reader.count_runs()).values()) == 1
        await world.wait(str(ids[0]))
        is_clean(world)

    play(main, functions=[keyed])


# -- events that start functions ------------------------------------------------------------------


@dataclass
class Order:
    id: int
    total: float


@function(
    id="life-on",
    on=["plain.event", {"event": "order.*", "if": "data.total > 100 && event.name != 'order.x'"}],
)
async def on_event(ctx: Any, data: Any) -> Any:
    return [ctx.event.name, data]


@function(id="life-on-typed", on="order.>")
async def on_typed(ctx: Any, order: Order) -> int:
    return order.id


@pytest.mark.parametrize("crash", [False, True])
def test_events_start_the_functions_that_ask_for_them(crash: bool) -> None:
    async def main(world: testing.World) -> None:
        assert (await world.emit("nobody.cares")).run_ids == ()
        plain = await world.emit("plain.event", 1)
        big = await world.emit("order.paid", {"id": 1, "total": 101})
        small = await world.emit("order.paid", {"id": 2, "total": 99})
        other = await world.emit("order.x", {"id": 3, "total": 500})
        if crash:
            await world.crash()
        assert [len(e.run_ids) for e in (plain, big, small, other)] == [1, 2, 1, 1]
        results = [(await world.wait(i)).result for i in big.run_ids]
        assert sorted(results, key=str) == [1, ["order.paid", {"id": 1, "total": 101}]]
        ended = await world.wait(plain.run_ids[0])
        assert ended.result == ["plain.event", 1]
        run = await world.state(plain.run_ids[0])
        assert run.event is not None
        assert run.event.id == plain.event_id
        is_clean(world)

    play(main, functions=[on_event, on_typed])


def test_emitting_again_with_the_same_key_does_nothing_again() -> None:
    async def main(world: testing.World) -> None:
        first = await world.emit("plain.event", 1, idempotency_key="e")
        again = await world.emit("plain.event", 1, idempotency_key="e")
        await world.crash()
        late = await world.emit("plain.event", 1, idempotency_key="e")
        assert first.created
        assert not again.created
        assert not late.created
        assert first.event_id == again.event_id == late.event_id
        assert first.run_ids == again.run_ids == late.run_ids
        with pytest.raises(IdempotencyConflict):
            await world.emit("plain.event", 2, idempotency_key="e")
        assert sum((await world.store.reader.count_runs()).values()) == 1

    play(main, functions=[on_event])


def test_an_event_with_wrong_data_gives_a_failed_run_that_says_so() -> None:
    async def main(world: testing.World) -> None:
        emitted = await world.emit("order.a.b", {"id": "seven", "total": 1})
        ended = await world.wait(emitted.run_ids[0])
        assert ended.status == "failed"
        assert ended.error is not None
        assert ended.error.kind == "InvalidInput"
        assert "id" in ended.error.message
        with pytest.raises(InvalidInput, match="id"):
            await world.start(on_typed, {"id": "seven", "total": 1})

    play(main, functions=[on_typed])


def test_the_code_of_a_run_is_known() -> None:
    async def main(world: testing.World) -> None:
        run_id = await world.start(keyed, 1)
        assert (await world.state(run_id)).code == keyed.definition.code
        row, definition = await world.engine.function("life-key")
        assert row.version == 1
        assert definition.code == keyed.definition.code

    play(main, functions=[keyed])


# -- capacity -------------------------------------------------------------------------------------


@LINGERS
@pytest.mark.parametrize("crash", [False, True])
def test_runs_wait_for_a_slot_in_the_order_in_which_they_came(crash: bool, linger: float) -> None:
    begun: list[int] = []
    active = [0]

    @function(id="life-capacity")
    async def capacity(ctx: Any, number: int) -> int:
        await ctx.step.run("begin", begin, number)
        return number

    async def begin(number: int) -> None:
        begun.append(number)
        active[0] += 1
        assert active[0] <= 3
        await asyncio.sleep(10)
        active[0] -= 1

    async def main(world: testing.World) -> None:
        ids = [await world.start(capacity, n) for n in range(12)]
        assert (world.engine.pool.active, world.engine.pool.queued) == (3, 9)
        assert world.engine.pool.position(ids[5]) == 2
        if crash:
            await world.advance(15)
            active[0] = 0
            await world.crash()
        for run_id in ids:
            await world.wait(run_id)
        assert list(dict.fromkeys(begun)) == list(range(12))
        is_clean(world)

    play(main, functions=[capacity], linger=linger, capacity=3)


def test_sleeping_runs_hold_no_slot() -> None:
    @function(id="life-no-slot")
    async def no_slot(ctx: Any) -> None:
        await ctx.step.sleep("nap", 100)
        await ctx.step.run("work", asyncio.sleep, 1)

    async def main(world: testing.World) -> None:
        ids = [await world.start(no_slot) for _ in range(10)]
        await world.advance(1)
        assert world.engine.pool.active == 0
        for run_id in ids:
            await world.wait(run_id)
        assert await took(world, ids[-1]) == 100 + 5
        is_clean(world)

    play(main, functions=[no_slot], capacity=2)


def test_runs_of_a_function_that_nothing_serves_wait_for_it() -> None:
    async def main(world: testing.World) -> None:
        run_id = await world.start(keyed, 5)
        await world.advance(1)
        world.kill()
        served = world.functions
        world.functions = type(served)()
        await world.boot()
        await world.advance(100)
        assert (await world.state(run_id)).status == "queued"
        assert await world.start("life-key", 6)
        await world.advance(100)
        world.kill()
        world.functions = served
        await world.boot()
        assert (await world.wait(run_id)).result == 5
        await world.advance(20)
        is_clean(world)

    play(main, functions=[keyed])


# -- runs that take the process down --------------------------------------------------------------


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
