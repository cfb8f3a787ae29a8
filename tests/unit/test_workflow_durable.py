"""Workflows over a journal: runs that outlive the process, cost the same however long they are, and
live with changed code and a full disk.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
from pydantic import AliasChoices, AliasPath, BaseModel, Field
from workflow_world import Asks, Long, world

from ironflow import testing
from ironflow.core.errors import Gone, StorageError, StorageFull
from ironflow.sdk.function import Registry
from ironflow.workflows import Context, Workflow, catch_error, open_runtime, step
from ironflow.workflows.errors import WorkflowRuntimeError
from ironflow.workflows.events import (
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StepFailedEvent,
    StopEvent,
)
from ironflow.workflows.mounting import MountedWorkflow

# -- cost ------------------------------------------------------------------------------------------


def test_a_long_run_costs_the_same_per_turn_at_its_end() -> None:
    """Counted, not timed: bytes written and entries read per turn, and what is held of the run."""
    turns = 10_000

    async def main(world: testing.World) -> None:
        await world.engine.workflows.start("Long", b'{"_data":{"turns":%d}}' % turns, run_id="r")
        assert (await world.wait("r")).result["value"] == {"result": turns + 1}
        entries = world.store.tables.streams["run/r"]
        recorded = [entry for entry in entries if entry.kind == "turn.recorded"]
        assert len(recorded) <= turns + 3  # what a step did is one commit
        sizes = [len(entry.data) for entry in recorded]
        early, late = sizes[100:1100], sizes[-1100:-100]
        assert sum(late) <= sum(early) * 1.03  # numbers get a digit or two
        run = await world.state("r")
        assert run.workflow is not None
        assert len(run.workflow.jobs) <= 1  # what is over is not held
        snapshots = world.store.tables.rows["snapshots"]
        assert len(snapshots["run/r",][2]) < 2000
        # Waking reads the entries after the last snapshot, and no more.
        loaded = await world.store.reader.load("run/r")
        assert len(loaded.entries) <= len(entries) / 2

    world(main, Long(timeout=None))


class Knock(HumanResponseEvent):
    number: int


class Hall(Workflow):
    """Is parked at once, and enters a step with each knock."""

    entered: ClassVar[list[int]] = []

    @step
    async def open(self, ev: StartEvent) -> None:
        return None

    @step
    async def enter(self, ctx: Context, ev: Knock) -> StopEvent | None:
        Hall.entered.append(ev.number)
        ctx.write_event_to_stream(Event(number=ev.number))
        return StopEvent(result=ev.number) if ev.number == 3 else None


async def knock(world: testing.World, number: int) -> None:
    doors = world.engine.workflows
    event = doors.face("Hall").read_event({"type": "Knock", "value": {"number": number}})
    await doors.send("r", event.type, event.value)


def test_an_event_from_outside_is_one_turn_with_all_that_its_step_does() -> None:
    async def main(world: testing.World) -> None:
        Hall.entered.clear()
        await world.engine.workflows.start("Hall", b"{}", run_id="r")
        await world.advance("1s")
        for number in (1, 2):
            before = len(world.store.tables.streams["run/r"])
            await knock(world, number)
            await world.advance("1s")
            told = world.store.tables.streams["run/r"][before:]
            kinds = [entry.kind for entry in told]
            assert kinds == ["signal.received", "run.woken", "turn.recorded"]
            assert (await world.state("r")).status == "waiting"
        # Out of memory: the next life of the body has the event in its inbox.
        await world.advance("1h")
        await knock(world, 3)
        assert (await world.wait("r")).result["value"] == {"result": 3}
        assert Hall.entered == [1, 2, 3]

    world(main, Hall(timeout=None))


def test_an_event_that_is_not_stored_yet_begins_no_step() -> None:
    async def main(world: testing.World) -> None:
        Hall.entered.clear()
        await world.engine.workflows.start("Hall", b"{}", run_id="r")
        await world.advance("1s")
        journal: Any = world.store.journal
        write, held = journal._write, list[Any]()
        journal._write = held.append
        sent = []
        for number in (1, 2):
            sent.append(asyncio.create_task(knock(world, number)))
            for _ in range(20):
                await asyncio.sleep(0)
        # The first is on its way to the disk, and the second waits behind it; both are in the
        # record that the body looks at when the first has come.
        assert len(held) == 1
        write(held.pop())
        for _ in range(50):
            await asyncio.sleep(0)
        assert sent[0].done()
        assert Hall.entered == [1]
        journal._write = write
        write(held.pop(0))
        await asyncio.gather(*sent)
        await world.advance("1s")
        assert Hall.entered == [1, 2]
        await knock(world, 3)
        assert (await world.wait("r")).result["value"] == {"result": 3}

    world(main, Hall(timeout=None))


@pytest.mark.parametrize("commit", range(1, 9))
def test_a_step_that_began_before_its_turn_was_recorded_begins_again(commit: int) -> None:
    async def main(world: testing.World) -> None:
        await world.engine.workflows.start("Hall", b"{}", run_id="r")
        await world.advance("1s")
        Hall.entered.clear()
        world.crash_at_commit(commit)
        for number in (1, 2, 3):
            try:
                await knock(world, number)
            except (Gone, StorageError):
                await world.advance("1s")
                if (await world.state("r")).workflow.next_signal < number:
                    await knock(world, number)
            await world.advance("1s")
        assert (await world.wait("r")).result["value"] == {"result": 3}
        told = [e async for e in world.engine.workflows.follow("r")]
        assert [e.sequence for e in told] == list(range(len(told)))
        events = [(await world.engine.workflows.envelope(e)) for e in told if not e.internal]
        numbers = [msgspec.json.decode(text)["value"].get("_data") for text in events[:-1]]
        assert numbers == [{"number": n} for n in (1, 2, 3)]
        assert sorted(set(Hall.entered)) == [1, 2, 3]

    world(main, Hall(timeout=None))


@pytest.mark.parametrize("crash_at", range(1, 6))
def test_an_event_that_is_sent_at_once_finds_the_step_that_waits_at_once(crash_at: int) -> None:
    """Also when the process dies before the run has begun: the start event comes first."""

    async def main(world: testing.World) -> None:
        world.crash_at_commit(crash_at)
        while await world.store.reader.run("r") is None:
            with suppress(Exception):  # the process died under it: asked again, as a caller would
                await world.engine.workflows.start("Asks", b"{}", run_id="r")
            await world._up.wait()
        event = world.engine.workflows.face("Asks").read_event(
            {"type": "HumanResponseEvent", "value": {"response": "a", "user": "ann"}}
        )
        while True:
            try:
                await world.engine.workflows.send("r", *event)
                break
            except Exception:  # noqa: BLE001 - as above
                await world._up.wait()
        ended = await world.wait("r", "1m")
        assert ended.result["value"] == {"result": "a"}

    world(main, Asks(timeout=None))


# -- in process, on a file -------------------------------------------------------------------------


async def test_a_key_finds_the_run_again(tmp_path: Path) -> None:
    db = tmp_path / "a.db"
    workflow = Long(timeout=None)
    assert await workflow.run(turns=3, db=db, key="one") == 4
    again = workflow.run(turns=3, db=db, key="one")
    assert await again == 4
    assert await workflow.run(turns=3, db=db, key="two") == 4
    async with open_runtime(db) as runtime:
        count = await runtime.engine.store.reader.count_runs()
    assert count == {("Long", "completed"): 2}
    with pytest.raises(WorkflowRuntimeError, match="say db="):
        async with open_runtime():
            workflow.run(turns=1, key="three")


async def test_db_and_key_of_a_start_event_are_its_own() -> None:
    class KeyStart(StartEvent):
        key: str
        db: str

    class Keyed(Workflow):
        @step
        async def one(self, ev: KeyStart) -> StopEvent:
            return StopEvent(result=[ev.key, ev.db])

    assert await Keyed().run(key="k", db="d") == ["k", "d"]


async def test_a_run_that_waits_goes_on_in_another_life(tmp_path: Path) -> None:
    db = tmp_path / "a.db"
    Asks.entered = 0
    workflow = Asks(timeout=None)
    async with open_runtime(db) as runtime:
        handler = workflow.run(key="q")
        async for event in handler.stream_events():
            if isinstance(event, InputRequiredEvent):
                break
        run_id = handler.run_id
        # It stays in memory, for whoever holds the handler wants to know of it.
        assert runtime.executor.linger >= 3600
        assert handler.ctx.to_dict()["is_running"] is True
        handler._task.cancel()
        await asyncio.sleep(0.05)
    async with open_runtime(db, workflow) as runtime:
        run = await runtime.engine.run(run_id)
        assert run.status == "waiting"
        later = workflow.run(key="q")
        await asyncio.sleep(0.02)
        await later.send_event(HumanResponseEvent(response="no", user="bob"))
        await later.send_event(HumanResponseEvent(response="yes", user="ann"))
        assert await later == "yes"
        seen = [type(e).__name__ async for e in later.stream_events()]
    assert seen == ["InputRequiredEvent", "StopEvent"]


class Size(BaseModel):
    inches: int = Field(alias="In Inches")


class Labelled(Event):
    """Fields whose names in the world are others than in the code."""

    first: str = Field(alias="First-Name")
    second: str = Field(
        validation_alias=AliasChoices("2nd", "second-name"), serialization_alias="s"
    )
    third: str = Field(validation_alias=AliasPath("more", "third"))
    size: Size


class Labels(Workflow):
    @step
    async def begin(self, ev: StartEvent) -> Labelled:
        given = {"First-Name": "Ada", "2nd": "King", "more": {"third": "Byron"}}
        return Labelled(**given, size=Size(**{"In Inches": 65}), further=1)  # type: ignore[arg-type]

    @step
    async def read(self, ctx: Context, ev: Labelled) -> StopEvent:
        await ctx.wait_for_event(HumanResponseEvent, InputRequiredEvent(), timeout=None)
        return StopEvent(result=[ev.first, ev.second, ev.third, ev.size.inches, ev.further])


async def test_fields_with_other_names_are_read_back(tmp_path: Path) -> None:
    db, workflow = tmp_path / "a.db", Labels(timeout=None)
    async with open_runtime(db):
        handler = workflow.run(key="q")
        async for event in handler.stream_events():
            if isinstance(event, InputRequiredEvent):
                break
        handler._task.cancel()
        await asyncio.sleep(0.05)
    async with open_runtime(db, workflow):
        later = workflow.run(key="q")
        await later.send_event(HumanResponseEvent())
        assert await later == ["Ada", "King", "Byron", 65, 1]


# -- changed code ----------------------------------------------------------------------------------


def test_a_step_that_is_gone_fails_the_run_with_its_name() -> None:
    class Renamed(Workflow):
        @step
        async def other(self, ev: StartEvent) -> StopEvent:
            return StopEvent()

    async def main(world: testing.World) -> None:
        await world.engine.workflows.start("Asks", b"{}", run_id="r")
        await world.advance("10s")
        world.kill()
        world.functions = Registry()
        world.functions.add(MountedWorkflow(Renamed(timeout=None), "Asks"))
        await world.boot()
        event = world.engine.workflows.face("Asks").read_event(
            {"type": "HumanResponseEvent", "value": {"response": "a", "user": "ann"}}
        )
        await world.engine.workflows.send("r", *event)
        ended = await world.wait("r")
        assert ended.status == "failed"
        assert "no step 'ask' any more" in ended.error.message

    world(main, Asks(timeout=None))


class Caught(Workflow):
    @step
    async def one(self, ev: StartEvent) -> StopEvent:
        raise LookupError("gone")

    @catch_error
    async def mend(self, ev: StepFailedEvent) -> StopEvent:
        await asyncio.sleep(1)
        return StopEvent(result=[type(ev.exception).__name__, str(ev.exception), ev.step_name])


def test_a_failure_survives_a_crash_on_its_way_to_its_handler() -> None:
    async def main(world: testing.World) -> None:
        await world.engine.workflows.start("Caught", b"{}", run_id="r")
        await world.advance("500ms")
        await world.crash()
        ended = await world.wait("r")
        assert ended.result["value"] == {"result": ["LookupError", "gone", "one"]}

    world(main, Caught(timeout=None))


# -- a disk that is full ---------------------------------------------------------------------------


@pytest.mark.parametrize("refused", [1, 2, 3, 5])
def test_a_turn_that_the_journal_refuses_is_recorded_once_it_can(refused: int) -> None:
    async def main(world: testing.World) -> None:
        turns = 0
        until = 0

        def fault(_: Any) -> Exception | None:
            nonlocal turns, until
            turns += 1
            if turns == refused + 1:
                until = world.clock.now() + 20_000_000
            return StorageFull("the disk is full") if world.clock.now() < until else None

        world.store.journal.fault = fault
        await world.engine.workflows.start("Long", b'{"_data":{"turns":5}}', run_id="r")
        run = await world.wait("r", "1m")
        assert run.result["value"] == {"result": 6}
        assert world.clock.now() >= until > 0
        entries = world.store.tables.streams["run/r"]
        assert sum(entry.kind == "run.started" for entry in entries) == 1

    world(main, Long())
