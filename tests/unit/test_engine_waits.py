"""Sleeps, events, races: what a run waits for comes at its moment, once, and the same on every
replay.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from engine_world import LINGERS, is_clean, play, took

from ironflow import EventWait, RunWait, TimerWait, WaitTimeout, function, testing
from ironflow.core.errors import InvalidInput
from ironflow.core.runs.state import StepStatus

SECOND = 1_000_000


# -- sleeps ---------------------------------------------------------------------------------------


@LINGERS
@pytest.mark.parametrize("crash", [False, True])
def test_a_sleep_takes_its_time_with_and_without_a_crash(crash: bool, linger: float) -> None:
    @function(id="waits-sleep")
    async def sleep(ctx: Any) -> str:
        await ctx.step.sleep("seconds", 90)
        await ctx.step.sleep("text", "1.5h")
        await ctx.step.sleep("delta", timedelta(days=2))
        await ctx.step.sleep("zero", 0)
        return "awake"

    async def main(world: testing.World) -> None:
        run_id = await world.start(sleep)
        if crash:
            for _ in range(5):
                await world.advance("7h")
                await world.crash()
        assert (await world.wait(run_id)).result == "awake"
        assert await took(world, run_id) == 90 + 5400 + 172800
        is_clean(world)

    play(main, functions=[sleep], linger=linger)


@LINGERS
def test_a_sleep_that_ended_while_nothing_was_running_ends_at_the_start(linger: float) -> None:
    @function(id="waits-down")
    async def down(ctx: Any) -> str:
        await ctx.step.sleep("nap", "1h")
        return "late"

    async def main(world: testing.World) -> None:
        run_id = await world.start(down)
        await world.advance(10)
        world.kill()
        await world.advance("5h")
        await world.boot()
        assert (await world.wait(run_id)).result == "late"
        assert await took(world, run_id) == 5 * 3600 + 10

    play(main, functions=[down], linger=linger)


@LINGERS
def test_sleep_until_takes_moments_of_every_kind(linger: float) -> None:
    @function(id="waits-until")
    async def until(ctx: Any) -> None:
        await ctx.step.sleep_until("past", datetime(2020, 1, 1, tzinfo=UTC))
        await ctx.step.sleep_until("past seconds", 0)
        await ctx.step.sleep_until("naive", datetime(2026, 1, 2))  # noqa: DTZ001 - taken as UTC
        await ctx.step.sleep_until("text", "2026-01-03T01:00:00+01:00")
        await ctx.step.sleep_until("zulu", "2026-01-04T00:00:00Z")
        await ctx.step.sleep_until("seconds", datetime(2026, 1, 5, tzinfo=UTC).timestamp())

    async def main(world: testing.World) -> None:
        run_id = await world.start(until)
        ended = await world.wait(run_id)
        assert ended.status == "completed", ended.error
        assert await took(world, run_id) == 4 * 86400
        is_clean(world)

    play(main, functions=[until], linger=linger)


@pytest.mark.parametrize("duration", [-1, "soon", float("nan"), float("inf"), None, "1x"])
def test_a_duration_that_makes_no_sense_is_told(duration: Any) -> None:
    @function(id="waits-bad", retry=False)
    async def bad(ctx: Any) -> None:
        await ctx.step.sleep("nap", duration)

    async def main(world: testing.World) -> None:
        error = (await world.run(bad)).error
        assert error is not None
        assert error.kind == "InvalidInput"
        assert "duration" in error.message

    play(main, functions=[bad])


# -- events ---------------------------------------------------------------------------------------


@LINGERS
@pytest.mark.parametrize(
    ("pattern", "match", "wrong", "right"),
    [
        ("order.paid", None, ("order.sent", {}), ("order.paid", {"n": 1})),
        ("order.*", None, ("order.a.b", {}), ("order.sent", {"n": 1})),
        ("order.>", None, ("orders.a", {}), ("order.a.b", {"n": 1})),
        ("o.x", {"data.n": 7}, ("o.x", {"n": "7"}), ("o.x", {"n": 7})),
        (
            "o.x",
            {"data.n": 'a"b', "data.m": None},
            ("o.x", {"n": "a"}),
            ("o.x", {"n": 'a"b', "m": None}),
        ),
        ("o.x", "data.n > 3 && event.name == 'o.x'", ("o.x", {"n": 3}), ("o.x", {"n": 4})),
    ],
)
def test_the_first_event_that_matches_wakes_the_run(
    pattern: str, match: Any, wrong: Any, right: Any, linger: float
) -> None:
    @function(id="waits-event")
    async def event(ctx: Any) -> Any:
        found = await ctx.step.wait_for_event("it", pattern, match=match)
        return [found.name, found.data, found.id, found.source]

    async def main(world: testing.World) -> None:
        await world.emit(*right)  # before the wait, without lookback: does not count
        run_id = await world.start(event)
        await world.advance("1h")
        await world.crash()
        await world.emit(*wrong)
        await world.advance(5)
        assert (await world.state(run_id)).status == "waiting"
        emitted = await world.emit(*right)
        await world.emit(*right)  # one waiter takes one event only
        assert (await world.wait(run_id)).result == [*right, emitted.event_id, "api"]
        is_clean(world)

    play(main, functions=[event], linger=linger)


@LINGERS
def test_an_event_that_does_not_come_times_out(linger: float) -> None:
    @function(id="waits-timeout")
    async def timeout(ctx: Any) -> Any:
        try:
            await ctx.step.wait_for_event("it", "never.comes", timeout="1d")
        except WaitTimeout as error:
            first = [error.step, str(error)]
        await ctx.step.sleep("nap", "1h")
        return first

    async def main(world: testing.World) -> None:
        run_id = await world.start(timeout)
        await world.advance("1h")
        await world.crash()
        ended = await world.wait(run_id)
        step, text = ended.result
        assert step == "it"
        assert "never.comes" in text
        assert await took(world, run_id) == 25 * 3600
        assert ended.steps["it"].status is StepStatus.TIMED_OUT
        is_clean(world)

    play(main, functions=[timeout], linger=linger)


@LINGERS
def test_an_event_in_time_stops_the_timeout(linger: float) -> None:
    @function(id="waits-in-time")
    async def in_time(ctx: Any) -> Any:
        first = await ctx.step.wait_for_event("a", "go.now", timeout="10s")
        await ctx.step.sleep("nap", 60)
        return first.data

    async def main(world: testing.World) -> None:
        run_id = await world.start(in_time)
        await world.advance(9)
        await world.emit("go.now", 5)
        assert (await world.wait(run_id)).result == 5
        assert await took(world, run_id) == 69

    play(main, functions=[in_time], linger=linger)


@LINGERS
@pytest.mark.parametrize("crash", [False, True])
def test_lookback_takes_the_earliest_event_of_the_recent_past(crash: bool, linger: float) -> None:
    @function(id="waits-lookback")
    async def lookback(ctx: Any) -> Any:
        await ctx.step.sleep("nap", 60)
        found = await ctx.step.wait_for_event("it", "old.*", match="data.n > 0", lookback="1h")
        return found.data["n"]

    async def main(world: testing.World) -> None:
        await world.emit("old.news", {"n": 9})
        await world.advance("2h")
        for number in (0, 1, 2):
            await world.emit("old.news", {"n": number})
            await world.advance(1)
        await world.emit("other.news", {"n": 7})
        run_id = await world.start(lookback)
        if crash:
            await world.advance(30)
            await world.crash()
        assert (await world.wait(run_id)).result == 1
        is_clean(world)

    play(main, functions=[lookback], linger=linger)


@LINGERS
def test_lookback_finds_nothing_and_waits_on(linger: float) -> None:
    @function(id="waits-lookback-none")
    async def lookback_none(ctx: Any) -> Any:
        return (await ctx.step.wait_for_event("it", "old.x", lookback="10m")).data

    async def main(world: testing.World) -> None:
        await world.emit("old.x", "too old")
        await world.advance("1h")
        run_id = await world.start(lookback_none)
        await world.advance("1h")
        await world.emit("old.x", "new")
        assert (await world.wait(run_id)).result == "new"
        is_clean(world)

    play(main, functions=[lookback_none], linger=linger)


def test_lookback_survives_a_crash_between_the_wait_and_the_look() -> None:
    @function(id="waits-lookback-crash")
    async def lookback_crash(ctx: Any) -> Any:
        return (await ctx.step.wait_for_event("it", "old.x", lookback="10m")).data

    async def main(world: testing.World) -> None:
        await world.emit("old.x", "seen")
        run_id = await world.start(lookback_crash)
        stream = f"run/{run_id}"

        def fault(_: Any) -> None:
            kinds = [entry.kind for entry in world.store.tables.streams.get(stream, [])]
            if "wait.started" in kinds and not crashed:
                crashed.append(True)
                world.kill()

        crashed: list[bool] = []
        world.store.journal.on_commit(lambda *_: fault(None))
        await world.advance(1)
        assert crashed
        await world.boot()
        assert (await world.wait(run_id, "1h")).result == "seen"
        is_clean(world)

    play(main, functions=[lookback_crash])


@LINGERS
def test_one_event_wakes_many_runs(linger: float) -> None:
    @function(id="waits-many")
    async def many(ctx: Any, number: int) -> Any:
        return (await ctx.step.wait_for_event("it", "all.wake")).data + number

    async def main(world: testing.World) -> None:
        ids = [await world.start(many, n) for n in range(50)]
        await world.advance(60)
        await world.emit("all.wake", 100)
        assert [(await world.wait(i)).result for i in ids] == [100 + n for n in range(50)]
        is_clean(world)

    play(main, functions=[many], linger=linger)


@LINGERS
def test_large_events_reach_waiters_filters_and_functions(linger: float) -> None:
    text = "x" * 100_000

    @function(id="waits-large")
    async def large(ctx: Any) -> Any:
        found = await ctx.step.wait_for_event("it", "large.event", match={"data.kind": "big"})
        return len(found.data["text"])

    @function(id="waits-large-started", on={"event": "large.event", "if": "data.kind == 'big'"})
    async def started(ctx: Any, data: dict[str, Any]) -> int:
        return len(data["text"])

    @function(id="waits-large-emit")
    async def emit(ctx: Any) -> str:
        return await ctx.step.emit("tell", "large.event", {"kind": "big", "text": text})

    async def main(world: testing.World) -> None:
        first = await world.start(large)
        await world.advance(5)
        assert (await world.run(emit)).status == "completed"
        assert (await world.wait(first, "1h")).result == 100_000
        second = await world.start(large)
        await world.advance(5)
        emitted = await world.emit("large.event", {"kind": "big", "text": text})
        assert (await world.wait(second, "1h")).result == 100_000
        assert (await world.wait(emitted.run_ids[0])).result == 100_000
        runs = await world.store.reader.count_runs()
        assert runs["waits-large-started", "completed"] == 2
        is_clean(world)

    play(main, functions=[large, started, emit], linger=linger)


# -- any and all ----------------------------------------------------------------------------------


@function(id="waits-slow-child")
async def slow_child(ctx: Any, seconds: float) -> str:
    await ctx.step.sleep("nap", seconds)
    return "child"


@LINGERS
@pytest.mark.parametrize("winner", ["event", "timer", "child"])
def test_the_first_of_several_waits_wins_for_ever(winner: str, linger: float) -> None:
    replays: list[str] = []

    @function(id="waits-race")
    async def race(ctx: Any) -> Any:
        first = await ctx.step.wait_any(
            "race",
            {
                "event": EventWait("race.event"),
                "timer": TimerWait(10 if winner == "timer" else 100),
                "child": RunWait("waits-slow-child", 10 if winner == "child" else 100),
            },
        )
        replays.append(first.name)
        await ctx.step.sleep("nap", 1000)
        value = first.value.data if winner == "event" else first.value
        return [first.name, value]

    async def main(world: testing.World) -> None:
        run_id = await world.start(race)
        await world.advance(9)
        if winner == "event":
            await world.emit("race.event", 5)
        await world.advance(2)
        await world.crash()
        await world.emit("race.event", "late")
        await world.advance(200)
        await world.crash()
        ended = await world.wait(run_id)
        value = {"event": 5, "timer": None, "child": "child"}[winner]
        assert ended.result == [winner, value]
        assert set(replays) == {winner}
        assert len(replays) == 2
        losers = {step.key: step.status for step in ended.steps.values() if step.scope == "race/"}
        assert losers.pop(f"race/{winner}") is StepStatus.COMPLETED
        assert set(losers.values()) == {StepStatus.CANCELLED}
        child = next(step.child for step in ended.steps.values() if step.child)
        status = (await world.state(child)).status
        assert status == ("completed" if winner == "child" else "cancelled")
        is_clean(world)

    play(main, functions=[race, slow_child], linger=linger)


@LINGERS
def test_a_race_that_times_out_inside_raises(linger: float) -> None:
    @function(id="waits-race-timeout", retry=False)
    async def race_timeout(ctx: Any) -> Any:
        waits = {"e": EventWait("never.x", timeout=5), "t": TimerWait(10)}
        await ctx.step.wait_any("race", waits)

    async def main(world: testing.World) -> None:
        run_id = await world.start(race_timeout)
        ended = await world.wait(run_id)
        assert ended.error is not None
        assert ended.error.kind == "WaitTimeout"
        assert await took(world, run_id) == 5
        is_clean(world)

    play(main, functions=[race_timeout], linger=linger)


@LINGERS
def test_all_of_several_waits_take_as_long_as_the_longest(linger: float) -> None:
    @function(id="waits-all")
    async def all_of(ctx: Any) -> Any:
        values = await ctx.step.wait_all(
            "all",
            {
                "t": TimerWait(50),
                "e": EventWait("all.event", {"data.n": 1}),
                "c": RunWait("waits-slow-child", 80),
            },
        )
        return [values["t"], values["e"].data, values["c"]]

    async def main(world: testing.World) -> None:
        run_id = await world.start(all_of)
        await world.advance(5)
        await world.emit("all.event", {"n": 1})
        await world.advance(50)
        await world.crash()
        assert (await world.wait(run_id)).result == [None, {"n": 1}, "child"]
        assert await took(world, run_id) == 80
        is_clean(world)

    play(main, functions=[all_of, slow_child], linger=linger)


@pytest.mark.parametrize(
    ("waits", "field"), [({}, "waits"), ({"x": 5}, "waits.x"), ({"x": EventWait("")}, "event")]
)
@pytest.mark.parametrize("operation", ["wait_any", "wait_all"])
def test_waits_that_make_no_sense_are_told(operation: str, waits: Any, field: str) -> None:
    @function(id="waits-wrong", retry=False)
    async def wrong(ctx: Any) -> Any:
        try:
            await getattr(ctx.step, operation)("w", waits)
        except InvalidInput as error:
            return error.field

    async def main(world: testing.World) -> None:
        assert (await world.run(wrong)).result == field

    play(main, functions=[wrong])


def test_an_event_and_a_timer_of_the_same_moment_have_one_winner_on_every_replay() -> None:
    seen: list[str] = []

    @function(id="waits-tie")
    async def tie(ctx: Any) -> None:
        first = await ctx.step.wait_any("r", {"a": TimerWait(10), "b": TimerWait(10)})
        seen.append(first.name)
        await ctx.step.sleep("nap", 5)

    async def main(world: testing.World) -> None:
        run_id = await world.start(tie)
        await world.advance(12)
        await world.crash()
        await world.wait(run_id)
        assert len(set(seen)) == 1
        is_clean(world)

    play(main, functions=[tie], linger=0)
