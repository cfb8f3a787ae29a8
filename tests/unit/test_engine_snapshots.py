"""Snapshots: a long run wakes from its newest one, and it says what all its entries say."""

from __future__ import annotations

import msgspec

from ironflow import Context, function, testing
from ironflow.actors.runs.rows import fold
from ironflow.storage.ports import Loaded

STEPS = 2000


async def double(value: int) -> int:
    return value * 2


@function(id="snapshots-long")
async def long(ctx: Context) -> int:
    total = 0
    for number in range(STEPS):
        total += await ctx.step.run("double", double, number)
        if number == STEPS // 2:
            await ctx.step.sleep("half-way", "1h")
    return total


def test_a_long_run_wakes_from_a_snapshot_that_equals_its_entries() -> None:
    async def main(world: testing.World) -> None:
        run_id = await world.start(long)
        await world.advance("30m")
        await world.crash()
        ended = await world.wait(run_id)
        assert ended.result == STEPS * (STEPS - 1)
        assert len(world.calls) == STEPS

        stream = f"run/{run_id}"
        loaded = await world.store.reader.load(stream)
        every = await world.store.reader.entries(stream, limit=10 * STEPS)
        assert loaded.snapshot is not None
        assert len(every) > STEPS
        assert len(loaded.entries) < len(every) / 2
        shortcut, whole = fold(run_id, loaded), fold(run_id, Loaded(None, every))
        assert msgspec.json.encode(shortcut) == msgspec.json.encode(whole)

    testing.run(main, functions=[long], linger=0)


def test_snapshots_become_rarer_as_the_stream_grows() -> None:
    async def main(world: testing.World) -> int:
        written: list[int] = []
        put = world.store.tables.put

        def count(table: object, row: tuple[object, ...]) -> None:
            if getattr(table, "name", "") == "snapshots" and isinstance(row[1], int):
                written.append(row[1])
            put(table, row)  # type: ignore[arg-type]

        world.store.tables.put = count  # type: ignore[method-assign]
        run_id = await world.start(long)
        await world.wait(run_id)
        assert written == sorted(set(written))
        gaps = [after - before for before, after in zip([0, *written], written, strict=False)]
        assert all(2 * gap >= before for gap, before in zip(gaps[1:], written, strict=False))
        return len(written)

    assert 2 <= testing.run(main, functions=[long]) <= 8
