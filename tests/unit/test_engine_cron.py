"""Cron schedules on virtual time: each time fires once, also with crashes around it; missed ones
are made up.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from engine_world import LINGERS, play

from ironflow import function, testing
from ironflow.sdk.function import Registry

SECOND = 1_000_000


async def fired(world: testing.World) -> list[datetime]:
    """The times that runs were created for, in order."""
    runs = [await world.state(key) for (key,) in world.store.tables.rows["runs"]]
    texts = []
    for run in runs:
        data = await world.engine.load_payload(run.input)
        texts.append(datetime.fromisoformat(data.decode().split('"')[3]))
    return sorted(texts)


def at(hour: float) -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=hour)


def swap(world: testing.World, *functions: Any) -> None:
    """Serve these functions from the next start on."""
    world.functions = Registry()
    for made in functions:
        world.functions.add(made)


@function(id="cron-hourly", cron="0 */6 * * *")
async def hourly(ctx: Any, data: dict[str, str]) -> str:
    await ctx.step.sleep("nap", 60)
    return data["scheduled_at"]


@LINGERS
def test_a_day_of_times_fires_each_once_at_its_moment(linger: float) -> None:
    async def main(world: testing.World) -> None:
        await world.advance("24h")
        await world.advance(100)
        assert await fired(world) == [at(h) for h in (6, 12, 18, 24)]
        for (key,) in world.store.tables.rows["runs"]:
            run = await world.state(key)
            assert run.status == "completed"
            assert run.event is not None
            assert run.event.name == "ironflow.cron"
            assert run.created_at % (6 * 3600 * SECOND) == 0

    play(main, functions=[hourly], linger=linger)


@pytest.mark.parametrize("number", range(1, 8))
def test_a_crash_at_any_commit_around_a_time_neither_doubles_nor_loses_it(number: int) -> None:
    async def main(world: testing.World) -> None:
        await world.advance("5h")
        world.crash_at_commit(number)
        await world.advance("8h")
        assert await fired(world) == [at(6), at(12)]
        assert (await world.store.reader.count_runs()) == {("cron-hourly", "completed"): 2}

    play(main, functions=[hourly])


@pytest.mark.parametrize("before", [True, False])
def test_a_crash_at_the_very_moment(before: bool) -> None:
    async def main(world: testing.World) -> None:
        await world.advance(6 * 3600 - (0.000001 if before else 0))
        await world.crash()
        await world.advance("1h")
        assert await fired(world) == [at(6)]

    play(main, functions=[hourly])


def test_missed_times_are_made_up_by_one_run_for_the_newest() -> None:
    async def main(world: testing.World) -> None:
        await world.advance("7h")
        world.kill()
        await world.advance("30h")  # 12, 18, 24, 30 and 36 are missed
        await world.boot()
        await world.advance(100)
        assert await fired(world) == [at(6), at(36)]
        await world.advance("6h")
        assert await fired(world) == [at(6), at(36), at(42)]

    play(main, functions=[hourly])


def test_a_changed_expression_holds_from_now_on_and_a_removed_one_ends() -> None:
    def make(**options: Any) -> Any:
        async def changes(ctx: Any) -> None: ...

        return function(id="cron-changes", **options)(changes)

    first, second = make(cron="0 */6 * * *"), make(cron="30 * * * *")
    third = make()

    async def main(world: testing.World) -> None:
        swap(world, second)
        await world.advance("5h")
        await world.crash()
        await world.advance("2h")
        assert await fired(world) == [at(5.5), at(6.5)]
        swap(world, third)
        await world.crash()
        await world.advance("24h")
        assert await fired(world) == [at(5.5), at(6.5)]
        assert not world.store.tables.rows["timers"]
        swap(world, first)
        await world.crash()
        await world.advance("6h")
        assert await fired(world) == [at(5.5), at(6.5), at(36)]

    play(main, functions=[first])


def test_a_time_zone_with_daylight_saving() -> None:
    @function(id="cron-berlin", cron="30 2 * * *", timezone="Europe/Berlin")
    async def berlin(ctx: Any) -> None: ...

    async def main(world: testing.World) -> None:
        await world.advance("72h")
        assert await fired(world) == [at(1.5), at(25.5), at(49.5)]
        await world.advance(timedelta(days=90))
        times = await fired(world)
        assert times[-1].hour == 0  # summer: two hours before Berlin's clock
        assert len({t.date() for t in times}) == len(times) == 93

    play(main, functions=[berlin])


def test_a_cron_run_with_retries_and_a_second_function_do_not_disturb_each_other() -> None:
    @function(id="cron-failing", cron="0 * * * *", retry={"max_attempts": 2, "initial_delay": 5})
    async def failing(ctx: Any) -> None:
        raise ValueError

    async def main(world: testing.World) -> None:
        await world.advance("12h")
        await world.advance(100)
        counts = await world.store.reader.count_runs()
        assert counts == {("cron-failing", "failed"): 12, ("cron-hourly", "completed"): 2}

    play(main, functions=[hourly, failing])
