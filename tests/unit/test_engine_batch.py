"""Functions that take batches, on virtual time: one run with several events, in order."""

from __future__ import annotations

from typing import Any

import pytest
from engine_world import SECOND, is_clean, play, runs_of

from ironflow import function, testing
from ironflow.core.errors import FailedPrecondition
from ironflow.core.functions.intake import MOST_BYTES, Intake


@function(id="bulk", on="row.*", flow_control={"batch": {"size": 3, "wait": "10s"}})
async def bulk(ctx: Any, rows: list[Any]) -> Any:
    names = [(event.id, event.name, event.data == data) for event, data in
             zip(ctx.events, rows, strict=True)]  # fmt: skip
    return {"rows": rows, "events": names, "first": ctx.event.id if ctx.event else None}


@function(
    id="by-org",
    on={"event": "row.added", "if": "data.n >= 0"},
    flow_control={"batch": {"size": 2, "wait": 60, "key": "event.data.org"}},
)
def by_org(ctx: Any, rows: list[dict[str, Any]]) -> Any:
    return [row["n"] for row in rows] if len(ctx.events) == len(rows) else ctx.events


async def add(world: testing.World, n: int, **more: Any) -> Any:
    options = {k: more.pop(k) for k in list(more) if k == "idempotency_key"}
    return await world.emit("row.added", {"n": n, **more}, **options)


async def results(world: testing.World, function_id: str) -> list[Any]:
    return [(await world.wait(run.id)).result for run in await runs_of(world, function_id)]


def test_a_full_batch_starts_at_once_and_names_all_its_events() -> None:
    async def main(world: testing.World) -> None:
        emitted = [await add(world, n) for n in range(4)]
        assert [e.run_ids for e in emitted] == [()] * 4
        assert {o.fate for e in emitted for o in e.outcomes} == {"batched"}
        (run,) = await runs_of(world, "bulk")
        result = (await world.wait(run.id)).result
        assert result["rows"] == [{"n": 0}, {"n": 1}, {"n": 2}]
        assert result["events"] == [[e.event_id, "row.added", True] for e in emitted[:3]]
        assert result["first"] == emitted[0].event_id
        assert [taken.id for taken in run.events] == [e.event_id for e in emitted[:3]]
        assert {o.run_id for e in emitted[:3] for o in e.outcomes} == {run.id}
        (row,) = await world.store.reader.intakes("batch")
        assert (row.size, row.event_id) == (1, emitted[3].event_id)
        await world.advance(11)
        assert [r["rows"] for r in await results(world, "bulk")][1:] == [[{"n": 3}]]
        await world.advance(100)
        is_clean(world)

    play(main, functions=[bulk])


@pytest.mark.parametrize("how", ["run", "wait"])
def test_the_run_of_a_batch_is_there_as_soon_as_it_is_told_of(how: str) -> None:
    """Its creation is a message on its way."""

    async def main(world: testing.World) -> None:
        for n in range(3):
            emitted = await add(world, n)
        (run_id,) = {outcome.run_id for outcome in emitted.outcomes}
        if how == "run":
            assert (await world.engine.run(run_id)).id == run_id
        ended = await world.engine.wait(run_id)
        assert ended is not None
        assert len(ended.events) == 3

    play(main, functions=[bulk])


def test_the_first_event_arms_the_timer_and_later_ones_do_not_move_it() -> None:
    async def main(world: testing.World) -> None:
        begin = world.clock.now()
        await add(world, 0)
        await world.advance(9)
        second = await add(world, 1)
        assert second.outcomes[0].due_at == begin + 10 * SECOND
        await world.advance(1.001)
        (run,) = await runs_of(world, "bulk")
        assert run.created_at == begin + 10 * SECOND
        assert len(run.events) == 2

    play(main, functions=[bulk])


def test_each_value_of_the_key_has_a_batch_and_filters_hold() -> None:
    async def main(world: testing.World) -> None:
        for n, org in enumerate(["a", "b", "a", "b", "a"]):
            await add(world, n, org=org)
        filtered = await add(world, -1, org="a")
        assert filtered.outcomes == ()
        await world.advance(1)
        assert sorted(await results(world, "by-org")) == [[0, 2], [1, 3]]
        await world.advance(60)
        assert sorted(await results(world, "by-org")) == [[0, 2], [1, 3], [4]]

    play(main, functions=[by_org])


def test_the_same_idempotency_key_is_in_the_batch_once() -> None:
    async def main(world: testing.World) -> None:
        for _ in range(5):
            await add(world, 1, idempotency_key="k")
        (row,) = await world.store.reader.intakes("batch")
        assert row.size == 1

    play(main, functions=[bulk])


def test_invocations_are_batched_and_children_are_batches_of_one() -> None:
    @function(id="batch-parent")
    async def parent(ctx: Any) -> Any:
        return await ctx.step.invoke("child", lenient, {"n": 9})

    async def main(world: testing.World) -> None:
        engine = world.engine
        for n in range(3):
            created = await engine.invoke("lenient", b"%d" % n)
            assert (created.run_id, created.fate) == ("", "batched")
        with pytest.raises(FailedPrecondition, match="batched"):
            await engine.invoke_and_wait("lenient", b"1")
        await world.advance(0.1)
        (result,) = await results(world, "lenient")
        assert result["rows"] == [0, 1, 2]
        assert [event[1] for event in result["events"]] == ["ironflow.invoke"] * 3
        child = (await world.run("batch-parent")).result
        assert child == {"rows": [{"n": 9}], "events": [], "first": None}

    @function(id="lenient", flow_control={"batch": {"size": 3, "wait": "10s"}})
    async def lenient(ctx: Any, rows: list[Any]) -> Any:
        names = [(event.id, event.name) for event in ctx.events]
        return {"rows": rows, "events": names, "first": ctx.event.id if ctx.event else None}

    play(main, functions=[lenient, parent])


def test_large_datas_come_whole_and_in_order() -> None:
    async def main(world: testing.World) -> None:
        pads = ["a" * 100_000, "b", "c" * 300_000]
        for pad in pads[:2]:
            await world.emit("row.added", pad)
        await world.crash()
        await world.emit("row.added", pads[2])
        await world.advance(1)
        (result,) = await results(world, "bulk")
        assert result["rows"] == pads
        await world.advance(100)
        is_clean(world)

    play(main, functions=[bulk])


def test_a_batch_that_would_be_too_large_starts_with_what_it_has() -> None:
    async def main(world: testing.World) -> None:
        half = "x" * (MOST_BYTES // 2)
        for n in range(3):
            await world.emit("row.added", [n, half])
        await world.advance(11)
        assert [[n for n, _ in r["rows"]] for r in await results(world, "bulk")] == [[0], [1], [2]]

    play(main, functions=[bulk])


def test_an_operator_starts_what_waits_now_or_drops_it() -> None:
    async def main(world: testing.World) -> None:
        address = Intake("batch", "bulk", "").address
        await add(world, 1)
        started = await world.engine.intakes.start(address)
        assert (await world.wait(started.run_id)).result["rows"] == [{"n": 1}]
        await add(world, 2)
        await world.emit("row.added", "y" * 100_000)
        started = await world.engine.intakes.start(address)
        assert len((await world.wait(started.run_id)).result["rows"]) == 2
        await add(world, 3)
        await world.engine.intakes.drop(address, "not wanted")
        await world.advance(60)
        assert len(await runs_of(world, "bulk")) == 2
        is_clean(world)

    play(main, functions=[bulk])


@pytest.mark.parametrize("size", [1, 100_000])
@pytest.mark.parametrize("number", range(1, 12))
def test_a_crash_at_any_commit_loses_no_event_and_takes_none_twice(number: int, size: int) -> None:
    async def main(world: testing.World) -> None:
        world.crash_at_commit(number)
        for n in range(5):
            while True:
                try:
                    await world.emit("row.added", [n, "x" * size], idempotency_key=f"k{n}")
                    break
                except (testing.Gone, testing.StorageError):
                    await world.advance(0.1)
        await world.advance(30)
        rows = [[n for n, _ in r["rows"]] for r in await results(world, "bulk")]
        assert [n for batch in rows for n in batch] == [0, 1, 2, 3, 4]
        assert len(rows) == 2
        await world.advance(100)
        is_clean(world)

    play(main, functions=[bulk])
