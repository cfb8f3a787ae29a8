"""Lanes: never more runs at once than places, first come first served, through crashes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import pytest
from engine_world import LINGERS, is_clean, play

from ironflow import function, testing
from ironflow.core.errors import Gone, InvalidInput, StorageError
from ironflow.core.functions.definition import Definition, compile_spec
from ironflow.core.functions.flow_control import Concurrency, concurrency_of
from ironflow.core.functions.lanes import parse_lane
from ironflow.core.runs.entries import decode_entry
from ironflow.core.runs.fold import apply
from ironflow.core.runs.state import Run, RunStatus
from ironflow.storage.memory.store import MemoryReader
from ironflow.storage.ports import Entry


class Gauge:
    """How many of each key execute at once."""

    def __init__(self) -> None:
        self.active: dict[Any, int] = {}
        self.most: dict[Any, int] = {}
        self.order: list[Any] = []

    async def work(self, key: Any, name: Any, seconds: float) -> None:
        self.order.append(name)
        self.active[key] = self.active.get(key, 0) + 1
        self.most[key] = max(self.most.get(key, 0), self.active[key])
        try:
            await asyncio.sleep(seconds)
        finally:
            self.active[key] -= 1


@LINGERS
@pytest.mark.parametrize("crash", [False, True])
def test_a_lane_never_has_more_than_its_limit(crash: bool, linger: float) -> None:
    gauge = Gauge()

    @function(id="lanes-keyed", concurrency={"limit": 2, "key": "data.org"})
    async def keyed(ctx: Any, data: Any) -> int:
        for _ in range(2):
            await ctx.step.run("work", gauge.work, data["org"], data["n"], 1)
            await ctx.step.sleep("rest", 1)  # a run that waits holds no place
        return data["n"]  # type: ignore[no-any-return]

    async def main(world: testing.World) -> None:
        ids = [
            await world.start(keyed, {"org": org, "n": n}) for n in range(6) for org in ("a", "b")
        ]
        if crash:
            for _ in range(3):
                await world.advance(1.3)
                gauge.active.clear()  # they died with the process
                await world.crash()
        for run_id in ids:
            assert (await world.wait(run_id)).status == "completed"
        assert gauge.most == {"a": 2, "b": 2}
        assert world.engine.pool.lanes.states() == []
        assert not world.store.tables.rows["run_lanes"]
        is_clean(world)

    play(main, functions=[keyed], linger=linger)


def test_first_come_first_served_also_after_a_crash() -> None:
    gauge = Gauge()

    @function(id="lanes-fifo", concurrency=1)
    async def fifo(ctx: Any, n: int) -> None:
        await ctx.step.run("work", gauge.work, "all", n, 1)

    async def main(world: testing.World) -> None:
        ids = [await world.start(fifo, n) for n in range(6)]
        await world.advance(2.5)
        lane = world.engine.pool.lanes.state("lanes-fifo#0")
        assert (lane.limit, lane.holders) == (1, (ids[2],))
        assert [ticket.run_id for ticket in lane.waiting] == ids[3:]
        assert "lane lanes-fifo#0" in (world.engine.pool.held_up(ids[4]) or "")
        assert world.engine.pool.position(ids[5]) == 2
        await world.crash()
        for run_id in ids:
            await world.wait(run_id)
        assert gauge.order == [0, 1, 2, 2, 3, 4, 5]

    play(main, functions=[fifo])


def test_who_was_executing_before_a_crash_comes_before_an_older_run() -> None:
    """Its body may still be alive, in a worker: the place is not free for another."""

    @function(id="lanes-recovered", concurrency=1)
    async def recovered(ctx: Any, seconds: float) -> None:
        await ctx.step.sleep("nap", seconds)
        await ctx.step.run("work", asyncio.sleep, 100)

    async def main(world: testing.World) -> None:
        older = await world.start(recovered, 3)
        younger = await world.start(recovered, 1)
        await world.advance(4)
        states = [(await world.state(run)).status for run in (older, younger)]
        assert states == ["queued", "running"]
        await world.crash()
        await world.advance(1)
        (lane,) = world.engine.pool.lanes.states()
        assert lane.holders == (younger,)
        assert [ticket.run_id for ticket in lane.waiting] == [older]
        for run_id in (older, younger):
            assert (await world.wait(run_id)).status == "completed"

    play(main, functions=[recovered])


def most_running(log: Iterable[Entry], function_id: str) -> int:
    """How many runs of a function were ever `running` at once, by the journal."""
    runs: dict[str, Run] = {}
    most = 0
    for entry in log:
        if entry.stream.startswith("run/"):
            run = runs.setdefault(entry.stream, Run(entry.stream))
            apply(run, decode_entry(entry.kind, entry.data), entry.at)
            mine = [run for run in runs.values() if run.function_id == function_id]
            most = max(most, sum(run.status is RunStatus.RUNNING for run in mine))
    return most


def test_who_was_executing_before_a_crash_comes_before_one_that_a_message_wakes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The message was on its way when the process died, and is delivered at the start."""
    read = MemoryReader.unfinished

    async def read_slowly(self: MemoryReader, *args: Any) -> Any:
        await asyncio.sleep(0.1)
        return await read(self, *args)

    monkeypatch.setattr(MemoryReader, "unfinished", read_slowly)

    @function(id="lanes-woken", concurrency=1)
    async def woken(ctx: Any, waits: bool) -> None:
        if waits:
            await ctx.step.wait_for_event("go", "go")
        await ctx.step.run("work", asyncio.sleep, 10)

    async def main(world: testing.World) -> None:
        sleeper = await world.start(woken, True)
        await world.advance(1)
        worker = await world.start(woken, False)
        await world.advance(1)
        states = [(await world.state(run)).status for run in (sleeper, worker)]
        assert states == ["waiting", "running"]
        world.crash_at_commit(1)  # that of the event, with the message to its waiter
        with suppress(Gone, StorageError):
            await world.emit("go")
        for run_id in (sleeper, worker):
            assert (await world.wait(run_id, "1h")).status == "completed"
        assert most_running(world.store.tables.log, "lanes-woken") == 1
        is_clean(world)

    play(main, functions=[woken], linger=0)


@pytest.mark.parametrize("number", range(1, 25))
def test_a_crash_after_any_commit_leaks_no_place(number: int) -> None:
    gauge = Gauge()

    @function(id="lanes-crash", concurrency=1)
    async def crashing(ctx: Any, n: int) -> None:
        await ctx.step.run("work", gauge.work, "all", n, 1)
        await ctx.step.sleep("nap", 1)
        await ctx.step.run("again", gauge.work, "all", n, 1)

    async def main(world: testing.World) -> None:
        world.crash_at_commit(number)
        ids = []
        for n in range(3):
            key = f"k{n}"
            try:
                ids.append(await world.start(crashing, n, idempotency_key=key))
            except (Gone, StorageError):
                gauge.active.clear()
                ids.append(await world.start(crashing, n, idempotency_key=key))
        for run_id in ids:
            assert (await world.wait(run_id, "1h")).status == "completed"
        is_clean(world)
        assert not world.store.tables.rows["run_lanes"]

    play(main, functions=[crashing], linger=0)


def test_several_limits_must_all_have_room_and_a_small_pool_starves_nobody() -> None:
    gauge = Gauge()

    @function(id="lanes-two", concurrency=[3, {"limit": 1, "key": "user"}])
    async def two(ctx: Any, data: Any) -> None:
        await ctx.step.run("work", gauge.work, data["user"], data["user"], 1)

    @function(id="lanes-free")
    async def free(ctx: Any) -> None:
        await ctx.step.run("work", gauge.work, "free", "free", 1)

    async def main(world: testing.World) -> None:
        ids = [await world.start(two, {"user": n % 4}) for n in range(12)]
        ids += [await world.start(free) for _ in range(3)]
        for run_id in ids:
            assert (await world.wait(run_id)).status == "completed"
        assert {k: v for k, v in gauge.most.items() if k != "free"} == dict.fromkeys(range(4), 1)
        is_clean(world)

    play(main, functions=[two, free], capacity=2)


def test_cancel_pause_and_retry_leave_no_place_taken() -> None:
    gauge = Gauge()

    @function(id="lanes-ops", concurrency=1, retry=1)
    async def ops(ctx: Any, n: int) -> None:
        await ctx.step.run("work", gauge.work, "all", n, 10)
        if n == 0 and ctx.attempt == 1:
            raise ValueError("once")

    async def main(world: testing.World) -> None:
        ids = [await world.start(ops, n) for n in range(5)]
        await world.advance(1)
        await world.cancel(ids[1])  # waits
        await world.pause(ids[2])  # waits
        await world.advance(15)
        await world.cancel(ids[3])  # executes
        await world.wait(ids[4])
        assert (await world.state(ids[0])).status == "failed"
        await world.resume(ids[2])
        await world.retry(ids[0])
        statuses = [(await world.wait(run_id)).status for run_id in ids]
        assert statuses == ["completed", "cancelled", "completed", "cancelled", "completed"]
        assert gauge.most == {"all": 1}
        is_clean(world)

    play(main, functions=[ops])


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (0, "concurrency.limit"),
        (True, "concurrency.limit"),
        ({"key": "a"}, "concurrency.limit"),
        ({"limit": 1, "per": "a"}, "concurrency.per"),
        ({"limit": 1, "key": "a b"}, "concurrency.key"),
        ("5", "concurrency"),
        ([1] * 5, "concurrency"),
    ],
)
def test_limits_that_make_no_sense_are_refused(value: Any, field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        concurrency_of(value)
    assert refused.value.field == field


def test_names_of_lanes() -> None:
    limits = (Concurrency(1), Concurrency(2, "event.data.org"), Concurrency(2, "a.b"))
    definition = Definition(id="f", name="f", code="c", concurrency=limits)
    policies = compile_spec(definition, lambda data: None).policies
    assert policies is not None
    names = policies.rank(b'{"org":"x:y#1","a":{"b":[1]}}').lanes
    assert names == ("f#0", 'f#1:"x:y#1"', "f#2:null")
    assert [parse_lane(name) for name in names] == [("f", "0"), ("f", "1"), ("f", "2")]
    assert policies.rank(None).lanes == ("f#0", "f#1:null", "f#2:null")
