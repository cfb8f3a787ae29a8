"""`ironflow.testing`, as a user of it sees it."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ironflow import StepError, function, testing


@function(id="testing-order", retry={"max_attempts": 2, "initial_delay": 10})
async def order(ctx: Any, number: int) -> Any:
    charged = await ctx.step.run("charge", charge, number)
    await ctx.step.sleep("wait", "2d")
    try:
        sent = await ctx.step.run("send", send)
    except StepError as error:
        sent = error.kind
    return [charged, sent]


async def charge(number: int) -> int:
    return number


def send() -> str:
    return "sent"


def test_a_world_begins_at_a_known_moment_and_waits_in_no_time() -> None:
    async def main(world: testing.World) -> Any:
        assert world.now() == datetime(2026, 1, 1, tzinfo=UTC)
        ended = await world.run(order, 7)
        assert world.now() == datetime(2026, 1, 3, tzinfo=UTC)
        assert (ended.status, ended.result, ended.executions) == ("completed", [7, "sent"], 2)
        assert list(ended.steps) == ["charge", "wait", "send"]
        assert world.calls == [("testing-order", "charge"), ("testing-order", "send")]
        return "what main returns"

    assert testing.run(main, functions=[order]) == "what main returns"


def test_a_world_is_the_same_every_time() -> None:
    @function(id="testing-chance")
    async def chance(ctx: Any) -> Any:
        return [ctx.random(), str(ctx.uuid())]

    async def main(world: testing.World) -> Any:
        ended = await world.run(chance)
        return [ended.run_id, ended.result]

    first = testing.run(main, functions=[chance])
    assert testing.run(main, functions=[chance]) == first
    assert testing.run(main, functions=[chance], seed=1) != first


@pytest.mark.parametrize(
    ("outcome", "result"),
    [
        ("value", "value"),
        (None, None),
        (lambda: "called", "called"),
        (ValueError("mocked"), "ValueError"),
        (KeyError, "called with nothing"),
    ],
)
def test_a_step_can_be_mocked(outcome: Any, result: Any) -> None:
    async def main(world: testing.World) -> None:
        if outcome is KeyError:

            async def coroutine() -> str:
                return "called with nothing"

            world.mock_step("send", coroutine, order)
        else:
            world.mock_step("send", outcome, "testing-order")
        world.mock_step("charge", "wrong", "another-function")
        world.mock_step("charge", lambda number: number * 10)
        assert (await world.run(order, 7)).result == [70, result]

    testing.run(main, functions=[order])


def test_mocked_and_plain_sync_steps_stay_in_their_threads() -> None:
    seen: list[int] = []

    def where() -> None:
        seen.append(threading.get_ident())

    async def main(world: testing.World) -> None:
        world.mock_step("send", where)
        await world.run(order, 7)
        assert seen != [threading.get_ident()]

    testing.run(main, functions=[order])


@pytest.mark.parametrize(("after", "made"), [(False, 0), (True, 1)])
def test_a_crash_at_a_step(after: bool, made: int) -> None:
    really: list[str] = []

    async def main(world: testing.World) -> None:
        def record() -> str:
            really.append("sent")
            return "sent"

        world.mock_step("send", record)
        world.crash_at_step(2, after=after)
        ended = await world.run(order, 7)
        assert ended.result == [7, "sent"]
        assert ended.executions == 3
        assert [name for _, name in world.calls] == ["charge", "send", "send"]
        assert len(really) == made + 1

    testing.run(main, functions=[order])


def test_a_crash_at_a_commit() -> None:
    async def main(world: testing.World) -> None:
        before = world.engine
        world.crash_at_commit(2)
        ended = await world.run(order, 7)
        assert ended.result == [7, "sent"]
        assert world.engine is not before

    testing.run(main, functions=[order])


def test_a_mocked_step_that_kills() -> None:
    async def main(world: testing.World) -> None:
        world.mock_step("send", world.die)
        run_id = await world.start(order, 7)
        await world.advance("3d")
        assert (await world.state(run_id)).paused_cause == "crash_loop"
        world.mock_step("send", "sent")
        await world.resume(run_id)
        assert (await world.wait(run_id)).result == [7, "sent"]

    testing.run(main, functions=[order], max_crashes=2)


def test_kill_and_boot_leave_time_in_between() -> None:
    async def main(world: testing.World) -> None:
        run_id = await world.start(order, 7)
        world.kill()
        await world.advance("5d")
        asking = asyncio.create_task(world.wait(run_id))
        starting = asyncio.create_task(world.start(order, 8))  # waits until there is a process
        await world.advance("1d")
        assert not asking.done()
        assert not starting.done()
        await world.boot()
        assert (await asking).result == [7, "sent"]
        assert (await world.wait(await starting)).result == [8, "sent"]
        assert world.now() == datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=8)

    testing.run(main, functions=[order])


def test_waiting_has_a_limit_that_says_what_the_run_waits_for() -> None:
    async def main(world: testing.World) -> None:
        run_id = await world.start(order, 7)
        with pytest.raises(TimeoutError, match=r"waiting.*wait"):
            await world.wait(run_id, "1d")
        assert world.now() == datetime(2026, 1, 2, tzinfo=UTC)

    testing.run(main, functions=[order])


def test_a_failed_assertion_in_main_is_the_tests_failure() -> None:
    async def main(world: testing.World) -> None:
        await world.start(order, 7)
        assert world.calls == ["nonsense"]

    with pytest.raises(AssertionError, match="nonsense"):
        testing.run(main, functions=[order])


def test_operations_of_a_run() -> None:
    async def main(world: testing.World) -> None:
        run_id = await world.start(order, 7)
        await world.advance("1h")
        assert await world.pause(run_id) == "paused"
        await world.advance("5d")
        assert await world.resume(run_id) == "running"
        assert (await world.wait(run_id)).status == "completed"
        other = await world.start(order, 8)
        await world.advance("1h")
        assert await world.cancel(other, "no") == "cancelled"
        ended = await world.wait(other)
        assert (ended.status, ended.reason, ended.result) == ("cancelled", "no", None)
        await world.retry(other)
        await world.advance(0.1)
        assert (await world.wait(other)).result == [8, "sent"]

    testing.run(main, functions=[order])
