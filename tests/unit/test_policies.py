"""Priority, fairness, throttle and rate limit: who begins when, through crashes."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from engine_world import SECOND, is_clean, play

from ironflow import function, testing
from ironflow.core.errors import Gone, RateLimited, StorageError, StorageFull


class Tape:
    """What began, in order and when."""

    def __init__(self) -> None:
        self.order: list[Any] = []
        self.moments: list[int] = []

    def note(self, world: testing.World, name: Any) -> None:
        self.order.append(name)
        self.moments.append(world.clock.now())


async def work(seconds: float) -> None:
    await asyncio.sleep(seconds)


LIMITED = pytest.mark.parametrize("limited", [True, False], ids=["lane", "slots"])
"""One at a time by a lane of the function, or because the process has one slot."""


def one_at_a_time(limited: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Flow control and options of the world."""
    return ({"concurrency": 1}, {}) if limited else ({}, {"capacity": 1})


@LIMITED
@pytest.mark.parametrize("crash", [False, True])
def test_the_higher_priority_begins_first_and_equals_as_they_came(
    limited: bool, crash: bool
) -> None:
    order: list[Any] = []
    policy, options = one_at_a_time(limited)

    @function(id="prio", flow_control={"priority": "data.p", **policy})
    async def prio(ctx: Any, data: Any) -> None:
        order.append(data["n"])
        await ctx.step.run("work", work, 1)

    async def main(world: testing.World) -> None:
        ids = [await world.start(prio, {"n": n, "p": p}) for n, p in enumerate([0, 0, 5, -3, 5, 9])]
        ids.append(await world.start(prio, {"n": 6, "p": "much"}))  # no number: 0
        if crash:
            await world.crash()
            order.clear()
        for run_id in ids:
            assert (await world.wait(run_id)).status == "completed"
        assert order == [0, 5, 2, 4, 1, 6, 3]
        is_clean(world)
        assert not world.store.tables.rows["run_lanes"]

    play(main, functions=[prio], **options)


@LIMITED
@pytest.mark.parametrize("crash", [False, True])
def test_nobody_waits_for_all_of_somebody_elses_runs(limited: bool, crash: bool) -> None:
    order: list[str] = []
    policy, options = one_at_a_time(limited)
    fair = {"fairness": {"key": "data.org", "weights": {"big": 2}}, **policy}

    @function(id="fair", flow_control=fair)
    async def fairly(ctx: Any, data: Any) -> None:
        order.append(data["org"])
        await ctx.step.run("work", work, 1)

    async def main(world: testing.World) -> None:
        ids = [await world.start(fairly, {"org": "flood"}) for _ in range(40)]
        ids += [await world.start(fairly, {"org": "small"}) for _ in range(4)]
        ids += [await world.start(fairly, {"org": "big"}) for _ in range(8)]
        if crash:
            await world.crash()
            order.clear()
        for run_id in ids:
            await world.wait(run_id)
        first = Counter(order[:17])
        assert first["small"] == 4
        assert first["big"] == 8
        assert order[17:] == ["flood"] * 35
        is_clean(world)

    play(main, functions=[fairly], **options)


def test_priority_comes_before_fairness() -> None:
    order: list[Any] = []

    @function(
        id="both",
        flow_control={"priority": "data.p", "fairness": {"key": "org"}, "concurrency": 1},
    )
    async def both(ctx: Any, data: Any) -> None:
        order.append((data["org"], data["p"]))
        await ctx.step.run("work", work, 1)

    async def main(world: testing.World) -> None:
        ids = [await world.start(both, {"org": org, "p": p}) for p in (0, 1) for org in "aaab"]
        for run_id in ids:
            await world.wait(run_id)
        assert order[1:5] == [("a", 1), ("b", 1), ("a", 1), ("a", 1)]

    play(main, functions=[both])


def test_after_a_crash_free_places_go_to_those_whose_turn_it_is() -> None:
    order: list[Any] = []
    throttle = {"limit": 4, "period": "1m"}
    policy = {"priority": "data.p", "fairness": {"key": "org"}, "throttle": throttle}

    @function(id="again", flow_control=policy)
    async def again(ctx: Any, data: Any) -> None:
        order.append((data["p"], data["org"]))

    async def main(world: testing.World) -> None:
        wanted = [(9, "x")] * 4 + [(0, "a")] * 5 + [(0, "b"), (0, "c"), (5, "a")]
        ids = [await world.start(again, {"p": p, "org": org}) for p, org in wanted]
        await world.advance(1)
        world.kill()
        await asyncio.sleep(100)  # four may begin now, and nobody is there to begin them
        await world.boot()
        for run_id in ids:
            assert (await world.wait(run_id)).status == "completed"
        assert order[:5] == [(9, "x")] * 4 + [(5, "a")]
        assert sorted(order[5:8]) == [(0, "a"), (0, "b"), (0, "c")]

    play(main, functions=[again])


@pytest.mark.parametrize("crashes", [0, 4])
def test_a_throttle_lets_so_many_begin_in_any_period(crashes: int) -> None:
    tape = Tape()
    world_of: list[testing.World] = []

    @function(id="slowly", flow_control={"throttle": {"limit": 3, "period": 10}}, retry=5)
    async def slowly(ctx: Any, n: int) -> None:
        if not tape.order.count(n):
            tape.note(world_of[0], n)
        await ctx.step.run("work", work, 0.5)
        await ctx.step.sleep("nap", 1)  # going on counts nothing

    async def main(world: testing.World) -> None:
        world_of.append(world)
        ids = [await world.start(slowly, n) for n in range(10)]
        for _ in range(crashes):
            await world.advance(4.7)
            await world.crash()
        for run_id in ids:
            assert (await world.wait(run_id, "1h")).status == "completed"
        assert sorted(tape.order) == list(range(10))
        if not crashes:
            assert tape.order == list(range(10))
            first = tape.moments[0]
            assert [m - first for m in tape.moments] == [
                at * SECOND for at in (0, 0, 0, 10, 10, 10, 20, 20, 20, 30)
            ]
        starts = sorted([(await world.state(run_id)).started_at or 0 for run_id in ids])
        assert all(b - a >= 10 * SECOND for a, b in zip(starts, starts[3:], strict=False))
        assert starts[-1] - starts[0] <= 36 * SECOND  # and no slower than it must be
        await world.advance("1m")
        assert world.engine.pool.lanes.states() == []
        is_clean(world)

    play(main, functions=[slowly])


def test_a_throttle_by_key_and_one_that_has_no_value() -> None:
    @function(id="by-key", flow_control={"throttle": {"limit": 1, "period": "1m", "key": "org"}})
    async def keyed(ctx: Any, data: Any) -> str:
        return "done"

    async def main(world: testing.World) -> None:
        ids = [await world.start(keyed, {"org": org}) for org in ("a", "b", "a")]
        assert (await world.wait(ids[0])).status == "completed"
        assert (await world.wait(ids[1])).status == "completed"
        third = await world.state(ids[2])
        assert third.status == "queued"
        why = world.engine.pool.held_up(ids[2]) or ""
        assert 'lane by-key#throttle:"a" lets 1 begin in 1m' in why
        assert "the next may at 20" in why
        lost = await world.start(keyed, {"other": 1})
        ended = await world.wait(lost)
        assert ended.status == "failed"
        failed = await world.state(lost)
        assert failed.error is not None
        assert failed.error.code == "THROTTLE_KEY_UNRESOLVED"
        assert "'org'" in failed.error.message
        assert (await world.wait(ids[2])).status == "completed"
        third = await world.state(ids[2])
        assert third.started_at is not None
        assert third.started_at - third.created_at >= 60 * SECOND

    play(main, functions=[keyed])


def test_a_run_that_never_begins_gives_its_place_in_the_throttle_back() -> None:
    order: list[int] = []

    @function(id="giver", flow_control={"throttle": {"limit": 2, "period": "1h"}})
    async def giver(ctx: Any, n: int) -> None:
        order.append(n)
        await ctx.step.run("work", work, 5)

    @function(id="blocker")
    async def blocker(ctx: Any) -> None:
        await ctx.step.run("work", work, 60)

    async def main(world: testing.World) -> None:
        blocked = await world.start(blocker)
        ids = [await world.start(giver, n) for n in range(3)]  # two have places, and no slot
        await world.advance(1)
        await world.cancel(ids[0])
        await world.pause(ids[1])
        await world.wait(blocked)
        await world.wait(ids[2])
        assert order == [2]
        await world.resume(ids[1])
        await world.wait(ids[1])
        assert order == [2, 1]

    play(main, functions=[giver, blocker], capacity=1)


def test_a_rate_limit_refuses_who_asks_and_skips_what_events_wanted() -> None:
    @function(
        id="rated",
        on="rated.go",
        flow_control={"rate_limit": {"limit": 2, "period": "1h", "key": "org"}},
    )
    async def rated(ctx: Any, data: Any) -> str:
        return "made"

    @function(id="caller")
    async def caller(ctx: Any) -> str:
        try:
            return str(await ctx.step.invoke("child", rated, {"org": "a"}))
        except Exception as error:  # noqa: BLE001 - told below
            return str(error)

    async def main(world: testing.World) -> None:
        first = await world.start(rated, {"org": "a"}, idempotency_key="once")
        again = await world.start(rated, {"org": "a"}, idempotency_key="once")
        assert first == again  # counts once
        event = await world.emit("rated.go", {"org": "a"})
        assert (await world.wait(event.run_ids[0])).status == "completed"
        with pytest.raises(RateLimited, match="the rate limit of rated") as refused:
            await world.start(rated, {"org": "a"})
        assert 3500 < (refused.value.retry_after or 0) <= 3600
        await world.start(rated, {"org": "b"})  # another key
        await world.crash()
        skipped = (await world.emit("rated.go", {"org": "a"})).run_ids[0]
        ended = await world.state(skipped)
        assert ended.status == "cancelled"
        assert "skipped: the rate limit of rated (2 in 1h" in (ended.reason or "")
        assert "the rate limit" in (await world.wait(await world.start(caller))).result
        lanes = {state.name: state for state in world.engine.pool.lanes.states()}
        assert len(lanes['rated#rate:"a"'].holders) == 2
        assert lanes['rated#rate:"a"'].opens_at is not None
        await world.advance("1h")
        assert (await world.wait(await world.start(rated, {"org": "a"}))).status == "completed"
        is_clean(world)

    play(main, functions=[rated, caller])


@pytest.mark.parametrize("number", range(1, 12))
def test_a_crash_after_any_commit_makes_no_run_too_many(number: int) -> None:
    @function(
        id="exactly",
        flow_control={
            "rate_limit": {"limit": 3, "period": "1h"},
            "throttle": {"limit": 1, "period": 5},
        },
    )
    async def exactly(ctx: Any, n: int) -> int:
        return n

    async def main(world: testing.World) -> None:
        world.crash_at_commit(number)
        ids = []
        for n in range(3):
            key = f"k{n}"
            try:
                ids.append(await world.start(exactly, n, idempotency_key=key))
            except (Gone, StorageError):
                ids.append(await world.start(exactly, n, idempotency_key=key))
        for run_id in ids:
            assert (await world.wait(run_id, "1h")).status == "completed"
        with pytest.raises(RateLimited):
            await world.start(exactly, 4)
        starts = sorted([(await world.state(run_id)).started_at or 0 for run_id in ids])
        assert all(b - a >= 5 * SECOND for a, b in pairwise(starts))
        await world.advance("2h")
        await world.crash()
        await world.wait(await world.start(exactly, 5))
        await world.advance("2h")
        await world.wait(await world.start(exactly, 6))
        assert len(world.store.tables.rows["starts"]) <= 4  # what is over is forgotten

    play(main, functions=[exactly], linger=0)


def test_what_a_full_disk_refused_counts_for_nothing() -> None:
    @function(
        id="disk",
        flow_control={
            "rate_limit": {"limit": 2, "period": "1h"},
            "throttle": {"limit": 1, "period": "10m"},
        },
    )
    async def disk(ctx: Any) -> int:
        return 1

    async def main(world: testing.World) -> None:
        is_full = True
        full = StorageFull("the disk is full")
        world.store.journal.fault = lambda _: full if is_full else None
        for _ in range(5):
            with pytest.raises(StorageFull):
                await world.start(disk)
        is_full = False
        first = await world.start(disk)
        ended = await world.wait(first)
        assert ended.status == "completed"
        state = await world.state(first)
        assert (state.started_at or 0) - state.created_at < SECOND  # nobody else had begun
        second = await world.start(disk)
        with pytest.raises(RateLimited):
            await world.start(disk)
        assert (await world.wait(second)).status == "completed"
        is_clean(world)

    play(main, functions=[disk])
