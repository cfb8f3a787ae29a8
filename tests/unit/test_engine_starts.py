"""What starts a run and when: keys, events, and slots that are free."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest
from engine_world import LINGERS, is_clean, play, took

from ironflow import function, testing
from ironflow.core.errors import IdempotencyConflict, InvalidInput

# -- idempotency keys ------------------------------------------------------------------------------


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


# -- events that start functions -------------------------------------------------------------------


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


# -- capacity --------------------------------------------------------------------------------------


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
