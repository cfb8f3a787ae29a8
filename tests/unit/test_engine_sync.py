"""Sync bodies: every operation, blocking, in a thread; the same guarantees."""

from __future__ import annotations

import contextlib
import threading
import time
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from engine_world import LINGERS, is_clean, play, took

from ironflow import EventWait, NonRetryable, StepError, TimerWait, function, testing

SECOND = 1_000_000


def do(value: Any = None) -> Any:
    return value


def fail() -> None:
    raise NonRetryable("no")


@function(id="sync-kid")
def kid(ctx: Any, seconds: float) -> float:
    ctx.step.sleep("nap", seconds)
    return ctx.step.run("work", do, seconds)  # type: ignore[no-any-return]


@function(id="sync-all")
def everything(ctx: Any, data: dict[str, Any]) -> Any:
    assert threading.current_thread() is not threading.main_thread()
    now, chance, made = ctx.now(), ctx.random(), ctx.uuid()
    assert isinstance(made, UUID)
    first = ctx.step.run("first", do, data["n"])
    ctx.step.sleep("nap", 10)
    ctx.step.sleep_until("until", now + timedelta(seconds=20))
    event = ctx.step.wait_for_event("it", "sync.*", match={"data.n": data["n"]})
    race = ctx.step.wait_any("race", {"t": TimerWait(5), "e": EventWait("never.x")})
    both = ctx.step.wait_all("both", {"t": TimerWait(5), "u": TimerWait(2)})
    child = ctx.step.invoke("kid", kid, 3)
    detached = ctx.step.invoke("det", kid, 3, detached=True)
    event_id = ctx.step.emit("tell", "sync.done", {})

    def branch(number: int) -> Any:
        ctx.step.sleep("nap", number)
        return [ctx.step.run("leaf", do, number), ctx.random()]

    mapped = ctx.step.map("m", branch, [3, 1, 2], concurrency=2)
    named = ctx.step.parallel("p", {"a": lambda: branch(1), "b": lambda: branch(4)})
    return [
        first, chance, str(made), event.data, race.name, sorted(both), child, len(detached),
        len(event_id), mapped, named, ctx.run_id, ctx.function_id, ctx.attempt,
    ]  # fmt: skip


@LINGERS
@pytest.mark.parametrize("number", [0, *range(1, 40, 3)])
def test_every_operation_under_a_crash_at_any_commit(number: int, linger: float) -> None:
    async def main(world: testing.World) -> None:
        if number:
            world.crash_at_commit(number)
        run_id = await world.start(everything, {"n": 7})
        for _ in range(20):
            await world.advance(3)
            await world.emit("sync.event", {"n": 7})
        ended = await world.wait(run_id, "1h")
        assert ended.status == "completed", ended.error
        first, chance, made, data, race, both, child, detached, event_id, mapped, named, *rest = (
            ended.result
        )
        assert [first, data, race, both, child, detached, event_id] == [
            7, {"n": 7}, "t", ["t", "u"], 3, 36, 36,
        ]  # fmt: skip
        assert 0 <= chance < 1
        assert UUID(made)
        assert [leaf for leaf, _ in mapped] == [3, 1, 2]
        assert {key: leaf for key, (leaf, _) in named.items()} == {"a": 1, "b": 4}
        assert rest == [run_id, "sync-all", 1]
        await world.advance(10)
        assert len(world.calls) <= 1 + 5 + 2 + 3  # at most those that the crash interrupted
        is_clean(world)

    play(main, functions=[everything, kid], linger=linger)


@LINGERS
def test_a_sync_saga_with_retries(linger: float) -> None:
    undone: list[str] = []

    @function(id="sync-saga", retry={"max_attempts": 2, "initial_delay": 5})
    def saga(ctx: Any) -> None:
        for name in "ab":
            ctx.step.run(name, do)
            ctx.step.compensate(name, undone.append, name)
        with contextlib.suppress(StepError):
            ctx.step.run("handled", fail)
        ctx.step.run("bad", lambda: 1 / 0)

    async def main(world: testing.World) -> None:
        ended = await world.run(saga)
        assert ended.status == "failed"
        assert undone == ["b", "a"]
        assert [name for _, name in world.calls].count("bad") == 2
        is_clean(world)

    play(main, functions=[saga], linger=linger)


@LINGERS
@pytest.mark.parametrize("ending", ["cancel", "pause", "timeout"])
def test_a_sync_run_is_stopped_where_it_waits(ending: str, linger: float) -> None:
    undone: list[str] = []

    @function(id="sync-stop", timeout="1h", compensate_on=["cancelled", "timed_out"])
    def stop(ctx: Any) -> str:
        ctx.step.run("first", do)
        ctx.step.compensate("first", undone.append, "first")

        def branch(number: int) -> None:
            ctx.step.sleep("nap", number)

        ctx.step.map("m", branch, [10, 100_000 if ending == "timeout" else 100])
        return "went on"

    async def main(world: testing.World) -> None:
        run_id = await world.start(stop)
        await world.advance(50)
        if ending == "pause":
            await world.pause(run_id)
            await world.advance(100)
            assert len(world.executor) == 0
            await world.resume(run_id)
            assert (await world.wait(run_id)).result == "went on"
            assert not undone
        else:
            if ending == "cancel":
                await world.cancel(run_id)
            ended = await world.wait(run_id)
            assert ended.status == ("cancelled" if ending == "cancel" else "failed")
            assert undone == ["first"]
        is_clean(world)

    play(main, functions=[stop], linger=linger)


@LINGERS
def test_a_failing_branch_stops_the_threads_of_the_others(linger: float) -> None:
    swallowed: list[str] = []

    @function(id="sync-fail-fast", retry=False)
    def fail_fast(ctx: Any) -> Any:
        def bad() -> None:
            ctx.step.sleep("nap", 5)
            ctx.step.run("bad", fail)

        def sleeping() -> None:
            try:
                ctx.step.sleep("nap", 50)
            except Exception:  # noqa: BLE001 - cancelling is no failure that a body may handle
                swallowed.append("sleeping")
            ctx.step.run("charge", do)

        def busy() -> None:
            ctx.step.run("busy", do)
            ctx.step.sleep("nap", 4)
            for _ in range(50):
                time.sleep(0.001)
            ctx.step.run("charge", do)

        try:
            ctx.step.parallel("p", [bad, sleeping, busy])
        except StepError as error:
            reason = error.reason
        ctx.step.sleep("after", 100)
        return reason

    async def main(world: testing.World) -> None:
        run_id = await world.start(fail_fast)
        await world.advance(20)
        await world.crash()
        ended = await world.wait(run_id)
        assert ended.result == "no"
        assert not swallowed
        names = [name for _, name in world.calls]
        assert names.count("bad") == names.count("busy") == 1
        assert names.count("charge") <= 1  # `busy` may have got there first
        assert await took(world, run_id) == 105
        is_clean(world)

    play(main, functions=[fail_fast], linger=linger)


def test_threads_end_when_their_bodies_do() -> None:
    @function(id="sync-threads")
    def threads(ctx: Any) -> None:
        ctx.step.map("m", lambda n: ctx.step.sleep("nap", n), [100, 200])

    async def main(world: testing.World) -> None:
        for _ in range(10):
            await world.start(threads)
        await world.advance(50)
        await world.crash()
        await world.advance(55)
        for _ in range(200):  # threads that were told to end need a moment of real time
            if not [t for t in threading.enumerate() if t.name == "ironflow-body"]:
                break
            time.sleep(0.01)  # noqa: ASYNC251 - threads end in real time
            await world.advance(0)
        assert not [t for t in threading.enumerate() if t.name == "ironflow-body"]
        await world.advance(200)
        assert await world.store.reader.count_runs() == {("sync-threads", "completed"): 10}

    play(main, functions=[threads], linger=0)


@pytest.mark.parametrize("error", [SystemExit(3), ValueError("v")])
def test_a_sync_body_that_fails(error: BaseException) -> None:
    @function(id="sync-bad", retry=False)
    def bad(ctx: Any) -> None:
        raise error

    async def main(world: testing.World) -> None:
        ended = await world.run(bad, limit="1h")
        assert ended.error is not None
        assert ended.error.kind == type(error).__name__

    play(main, functions=[bad])


@LINGERS
def test_sync_bodies_of_many_runs_wait_at_the_same_time(linger: float) -> None:
    @function(id="sync-many")
    def many(ctx: Any, number: int) -> int:
        ctx.step.sleep("nap", 100)
        return ctx.step.run("work", do, number)  # type: ignore[no-any-return]

    async def main(world: testing.World) -> None:
        ids = [await world.start(many, n) for n in range(100)]
        assert [(await world.wait(i)).result for i in ids] == list(range(100))
        assert await took(world, ids[-1]) == 100
        is_clean(world)

    play(main, functions=[many], linger=linger)
