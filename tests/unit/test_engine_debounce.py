"""Debounced functions on virtual time: one run with the last of several events."""

from __future__ import annotations

from typing import Any

import pytest
from engine_world import SECOND, is_clean, play, runs_of

from ironflow import function, testing
from ironflow.core.errors import FailedPrecondition, IdempotencyConflict, InvalidInput, NotFound
from ironflow.core.functions.intake import Intake

QUIET = {"debounce": {"period": "10s", "key": "data.user", "max_wait": "30s"}}


@function(id="quiet", on="user.changed", flow_control=QUIET)
async def quiet(ctx: Any, data: dict[str, Any]) -> Any:
    return [data["n"], ctx.event.id]


@function(id="loud", on="user.changed")
async def loud(ctx: Any, data: dict[str, Any]) -> Any:
    return data["n"]


@function(id="one-lane", on="user.>", flow_control={"debounce": {"period": 5}})
async def one_lane(ctx: Any) -> None:
    return None


async def change(world: testing.World, n: int, user: object = "u", **options: Any) -> Any:
    return await world.emit("user.changed", {"n": n, "user": user}, **options)


def test_one_run_with_the_last_event_once_it_is_quiet() -> None:
    async def main(world: testing.World) -> None:
        begin = world.clock.now()
        emitted = []
        for n in range(4):
            emitted.append(await change(world, n))
            await world.advance(4)
        assert [e.run_ids for e in emitted] == [()] * 4
        (outcome,) = emitted[0].outcomes
        assert (outcome.fate, outcome.due_at) == ("debounced", begin + 10 * SECOND)
        (row,) = await world.store.reader.intakes("debounce")
        assert (row.function_id, row.key, row.size) == ("quiet", "u", 4)
        assert row.due_at == begin + 22 * SECOND
        assert not await runs_of(world, "quiet")
        await world.advance(6.001)
        (run,) = await runs_of(world, "quiet")
        ended = await world.wait(run.id)
        assert ended.result == [3, emitted[3].event_id]
        assert (run.merged, run.event.id) == (4, emitted[3].event_id)
        assert run.created_at == begin + 22 * SECOND
        assert await world.store.reader.intakes("debounce") == []
        await world.advance(100)
        is_clean(world)

    play(main, functions=[quiet])


def test_a_stream_of_events_runs_at_the_latest_after_max_wait() -> None:
    async def main(world: testing.World) -> None:
        begin = world.clock.now()
        for n in range(14):
            await change(world, n)
            await world.advance(5)
        await world.advance(20)
        runs = await runs_of(world, "quiet")
        # Events at 0, 5, ... 65. The one at the very moment of a run comes too late for it.
        assert [(run.created_at - begin) // SECOND for run in runs] == [30, 60, 75]
        ended = [(await world.wait(run.id)).result[0] for run in runs]
        assert ended == [5, 11, 13]

    play(main, functions=[quiet])


def test_each_value_of_the_key_is_for_itself_and_no_value_is_one() -> None:
    async def main(world: testing.World) -> None:
        for n, user in enumerate(["a", "b", "a", 1, None, {"deep": 1}, True, "x" * 1000]):
            await change(world, n, user)
        rows = await world.store.reader.intakes("debounce")
        keys = {row.key: row.size for row in rows}
        (long,) = [key for key in keys if key.startswith("sha256:")]
        assert keys == {"a": 2, "b": 1, "1": 1, "": 2, "true": 1, long: 1}
        await world.advance(11)
        results = [(await world.wait(run.id)).result[0] for run in await runs_of(world, "quiet")]
        assert sorted(results) == [1, 2, 3, 5, 6, 7]
        await world.advance(100)
        is_clean(world)

    play(main, functions=[quiet])


def test_without_a_key_there_is_one_lane_and_others_run_at_once() -> None:
    async def main(world: testing.World) -> None:
        emitted = [await change(world, n, str(n)) for n in range(3)]
        assert all(len(e.run_ids) == 1 for e in emitted)  # those of the function that is not
        assert all(len(e.outcomes) == 1 for e in emitted)
        await world.advance(6)
        assert len(await runs_of(world, "one-lane")) == 1
        assert len(await runs_of(world, "loud")) == 3

    play(main, functions=[one_lane, loud])


def test_the_same_idempotency_key_counts_once_and_answers_the_same() -> None:
    async def main(world: testing.World) -> None:
        first = await change(world, 1, idempotency_key="k")
        await world.advance(6)
        again = await change(world, 1, idempotency_key="k")
        assert (again.event_id, again.created) == (first.event_id, False)
        assert again.outcomes == first.outcomes
        with pytest.raises(IdempotencyConflict):
            await change(world, 2, idempotency_key="k")
        await world.advance(4.5)  # the second one has not put it off
        (run,) = await runs_of(world, "quiet")
        assert run.merged == 1
        late = await change(world, 1, idempotency_key="k")
        assert (late.event_id, late.outcomes) == (first.event_id, first.outcomes)

    play(main, functions=[quiet])


def test_an_invocation_is_debounced_too_and_there_is_nothing_to_wait_for() -> None:
    async def main(world: testing.World) -> None:
        engine = world.engine
        body = b'{"n": 1, "user": "u"}'
        first = await engine.invoke("quiet", body, idempotency_key="k")
        assert (first.run_id, first.fate, first.created) == ("", "debounced", True)
        assert first.due_at == world.clock.now() + 10 * SECOND
        again = await engine.invoke("quiet", body, idempotency_key="k")
        assert (again.event_id, again.created) == (first.event_id, False)
        await change(world, 2)
        with pytest.raises(FailedPrecondition, match="debounced"):
            await engine.invoke_and_wait("quiet", body)
        with pytest.raises(InvalidInput):
            await engine.invoke("strict", b'"no"')
        await world.advance(11)
        (run,) = await runs_of(world, "quiet")
        assert run.merged == 2
        # It starts nothing but the function it is for.
        assert len(await runs_of(world, "loud")) == 1

    @function(id="strict", input=int, flow_control={"debounce": {"period": 1}})
    async def strict(ctx: Any, data: int) -> int:
        return data

    play(main, functions=[quiet, loud, strict])


def test_an_event_whose_runs_are_waited_for_is_refused_before_it_is_stored() -> None:
    @function(
        id="picky",
        on={"event": "picky.*", "if": "data.n > 1"},
        flow_control={"batch": {"size": 2, "wait": 9}},
    )
    async def picky(ctx: Any, rows: Any) -> None:
        return None

    async def main(world: testing.World) -> None:
        check = world.engine.intakes.check_waitable
        check("loud.only", b"{}")
        check("picky.event", b'{"n": 1}')
        with pytest.raises(FailedPrecondition, match="picky is batched"):
            check("picky.event", b'{"n": 2}')
        with pytest.raises(FailedPrecondition, match="quiet is debounced"):
            check("user.changed", b"{}")
        with pytest.raises(InvalidInput):
            check("user.changed", b"{")

    play(main, functions=[quiet, loud, picky])


def test_children_and_times_of_a_schedule_are_runs_of_their_own() -> None:
    @function(id="quiet-parent")
    async def parent(ctx: Any) -> Any:
        return await ctx.step.invoke("child", "quiet-child", {"n": 7, "user": "u"})

    @function(id="quiet-child", cron="* * * * *", flow_control=QUIET)
    async def both(ctx: Any, data: Any) -> Any:
        return data

    async def main(world: testing.World) -> None:
        assert (await world.run("quiet-parent")).result == {"n": 7, "user": "u"}
        await world.advance(61)
        assert len(await runs_of(world, "quiet-child")) == 2

    play(main, functions=[parent, both])


def test_an_operator_starts_what_waits_now_or_drops_it() -> None:
    async def main(world: testing.World) -> None:
        address = Intake("debounce", "quiet", "u").address
        with pytest.raises(NotFound):
            await world.engine.intakes.start(address)
        await change(world, 1)
        started = await world.engine.intakes.start(address)
        assert (await world.wait(started.run_id)).result[0] == 1
        await change(world, 2)
        dropped = await world.engine.intakes.drop(address, "not wanted")
        assert dropped.fate == "debounced"
        with pytest.raises(NotFound):
            await world.engine.intakes.drop(address, "again")
        await world.advance(60)
        assert len(await runs_of(world, "quiet")) == 1
        assert await world.store.reader.intakes("debounce") == []
        await change(world, 3)
        await world.advance(60)
        assert len(await runs_of(world, "quiet")) == 2
        is_clean(world)

    play(main, functions=[quiet])


@pytest.mark.parametrize("size", [10, 200_000])
def test_a_large_payload_is_the_last_one_as_well(size: int) -> None:
    async def main(world: testing.World) -> None:
        for n in range(3):
            await world.emit("user.changed", {"n": n, "user": "u", "pad": str(n) * size})
        await world.advance(5)
        await world.crash()
        await world.advance(6)
        (run,) = await runs_of(world, "quiet")
        assert (await world.wait(run.id)).result[0] == 2

    play(main, functions=[quiet])


@pytest.mark.parametrize("number", range(1, 14))
def test_a_crash_at_any_commit_loses_no_event_and_starts_no_run_twice(number: int) -> None:
    async def main(world: testing.World) -> None:
        world.crash_at_commit(number)
        for n in range(3):
            while True:
                try:
                    await change(world, n, idempotency_key=f"k{n}")
                    break
                except (testing.Gone, testing.StorageError):
                    await world.advance(0.1)
            await world.advance(2)
        await world.advance(30)
        (run,) = await runs_of(world, "quiet")
        assert (await world.wait(run.id)).result[0] == 2
        assert run.merged == 3
        await world.advance(100)
        is_clean(world)

    play(main, functions=[quiet])


def test_an_idle_debounce_is_dropped_from_memory() -> None:
    async def main(world: testing.World) -> None:
        for n in range(50):
            await change(world, n, f"u{n}")
        live = [s.address for s in world.engine.system.statistics()]
        assert sum(address.startswith("debounce/") for address in live) == 50
        await world.advance(400)
        live = [s.address for s in world.engine.system.statistics()]
        assert not [address for address in live if address.startswith("debounce/")]
        assert len(await runs_of(world, "quiet")) == 50

    play(main, functions=[quiet])
