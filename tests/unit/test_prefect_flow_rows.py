"""Prefect flow runs among all runs: verbs, deletion, retention, a full disk, their events."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from engine_world import SECOND, play
from prefect_client import DAY, TASK, Client, counts, create, read, report

from ironflow import function, testing
from ironflow.actors.prefect.events import LOOSE
from ironflow.core.errors import Conflict, IronflowError, NotFound, StorageError
from ironflow.core.prefect.event_filters import parse_event_filter
from ironflow.core.prefect.faults import Fault
from ironflow.core.prefect.states import StateCreate
from ironflow.storage.ports import RetentionRule
from ironflow.storage.relational.prefect_events import select_events


def test_the_verbs_of_all_runs() -> None:
    async def main(world: testing.World) -> None:
        client = Client(world)
        run_id = await client.flow_run()
        with pytest.raises(Conflict):
            await world.engine.pause(run_id)
        with pytest.raises(Conflict):
            await world.engine.resume(run_id)
        with pytest.raises(Conflict):
            await world.engine.retry(run_id)
        await client.move(run_id, "RUNNING")
        assert await world.engine.cancel(run_id, "enough") == "running"
        assert (await client.see(run_id))["state"]["message"] == "enough"
        await client.move(run_id, "CANCELLED")
        assert (await world.wait(run_id)).status == "cancelled"
        with pytest.raises(Conflict):
            await world.engine.cancel(run_id)
        waiting = await client.flow_run(create("SCHEDULED"))
        assert await world.engine.cancel(waiting) == "cancelled"

    play(main, functions=[])


@function(id="prefect-neighbour")
async def neighbour(ctx: Any) -> int:
    return 1


def test_a_stream_of_another_kind_is_left_alone() -> None:
    async def main(world: testing.World) -> None:
        client = Client(world)
        other = await world.start(neighbour)
        await world.wait(other)
        with pytest.raises(NotFound):
            await world.engine.prefect.set_flow_run_state(other, create("RUNNING"))
        event = report(other, None, "RUNNING", world.clock.now())
        await client.ask(lambda doors: doors.recorder.record([event]))
        assert (await world.state(other)).kind == "function"

    play(main, functions=[neighbour])


async def fill(client: Client) -> str:
    run_id = await client.flow_run()
    await client.move(run_id, "RUNNING")
    task = await client.task_run(run_id, "a")
    await client.move_task(task, "RUNNING", cache_key="key")
    await client.move_task(task, "COMPLETED", cache_key="key")
    now = client.world.clock.now()
    await client.ask(lambda d: d.recorder.record([report(TASK, run_id, "COMPLETED", now)]))
    await client.ask(lambda d: d.add_input(run_id, "k", "1", None))
    await client.move(run_id, "COMPLETED")
    return run_id


def test_deleting_a_run_leaves_nothing_of_it() -> None:
    async def main(world: testing.World) -> None:
        client = Client(world)
        run_id = await fill(client)
        await world.engine.prefect.delete_flow_run(run_id)
        left = await counts(world)
        of_runs = ("flow_runs", "task_runs", "run_states", "run_inputs", "task_caches")
        assert {left[name] for name in of_runs} == {0}
        assert await world.store.reader.entries(f"run/{run_id}") == []
        assert await world.store.reader.run(run_id) is None
        with pytest.raises(NotFound):
            await world.engine.prefect.read_flow_run(run_id)
        with pytest.raises(NotFound):
            await world.engine.prefect.delete_flow_run(run_id)
        with pytest.raises(NotFound):
            await world.engine.prefect.set_flow_run_state(run_id, create("RUNNING"))

    play(main, functions=[])


def test_retention_takes_all_of_a_run() -> None:
    async def main(world: testing.World) -> None:
        client = Client(world)
        await fill(client)
        goes_on = await client.flow_run()
        rules = [RetentionRule(kind="completed", max_age=DAY * SECOND)]
        retired = await world.store.retire(rules, world.clock.now() + 2 * DAY * SECOND, False)
        assert retired.runs == 1
        left = await counts(world)
        assert (left["flow_runs"], left["task_runs"], left["run_inputs"]) == (1, 0, 0)
        assert left["run_states"] == 1
        assert (await client.see(goes_on))["state_type"] == "PENDING"

    play(main, functions=[])


def test_deleting_a_flow_takes_its_runs_along() -> None:
    async def main(world: testing.World) -> None:
        client = Client(world)
        run_id = await fill(client)
        doors = world.engine.prefect
        await doors.delete_flow(client.flow_id)
        with pytest.raises(NotFound):
            await doors.read_flow("name", "nightly")
        with pytest.raises(NotFound):
            await doors.read_flow_run(run_id)
        again = read(await doors.create_flow("nightly", ["new"], {}))
        assert again["id"] != client.flow_id
        await world.crash()
        found = read(await world.engine.prefect.create_flow("nightly", [], {}))
        assert (found["id"], found["tags"]) == (again["id"], ["new"])

    play(main, functions=[])


def test_the_life_of_a_run_reads_nothing() -> None:
    """What is told while a run goes on is in memory: a read would wait for what is written."""

    async def main(world: testing.World) -> None:
        client, doors, asked = Client(world), world.engine.prefect, list[str]()
        select, load = world.store.reader.select, world.store.reader.load
        await world.engine.feeds.ready()
        await world.advance(1)  # what is old is looked for at the start

        async def note(query: str, *values: Any, **options: Any) -> Any:
            asked.append(query)
            return await select(query, *values, **options)

        async def note_load(stream: str) -> Any:
            asked.append(stream)
            return await load(stream)

        world.store.reader.select, world.store.reader.load = note, note_load  # type: ignore[method-assign]
        run_id = await client.flow_run()
        assert asked == ["flow/nightly"]
        task_id = await client.task_run(run_id, "a")
        await client.move(run_id, "RUNNING")
        await client.move_task(task_id, "RUNNING")
        await client.move_task(task_id, "COMPLETED")
        await client.move(run_id, "COMPLETED")
        assert (await client.see(run_id))["state_type"] == "COMPLETED"
        assert (await client.see_task(task_id))["state_type"] == "COMPLETED"
        assert read(await doors.read_flow("id", client.flow_id))["name"] == "nightly"
        assert read(await doors.read_flow("name", "nightly"))["id"] == client.flow_id
        assert asked == ["flow/nightly"]

    play(main, functions=[])


def test_a_disk_that_is_full_refuses_and_loses_nothing() -> None:
    async def main(world: testing.World) -> None:
        client = Client(world)
        run_id = await client.flow_run()
        full = StorageError("the disk is full")
        world.store.journal.fault = lambda _: full
        with pytest.raises(IronflowError):
            await world.engine.prefect.set_flow_run_state(run_id, create("RUNNING"))
        world.store.journal.fault = None
        await world.advance(10)
        assert (await client.see(run_id))["state_type"] == "PENDING"
        await client.move(run_id, "RUNNING")
        assert await client.names(run_id) == ["Pending", "Running"]

    play(main, functions=[])


async def all_events(world: testing.World) -> list[Any]:
    """Every event, in the order of their commits."""
    rows = await world.store.reader.select("SELECT body FROM prefect_events ORDER BY seq")
    return [msgspec.json.decode(body) for (body,) in rows]


def test_events_of_a_subflow_name_the_task_run_that_stands_for_it() -> None:
    async def main(world: testing.World) -> None:
        client = Client(world)
        parent = await client.flow_run()
        await client.move(parent, "RUNNING")
        stands = await client.task_run(parent, "sub")
        child = await client.flow_run(parent_task_run_id=stands)
        await client.move(child, "RUNNING")
        await world.advance(0.1)
        related = {
            "prefect.resource.id": f"prefect.task-run.{stands}",
            "prefect.resource.role": "task-run",
            "prefect.resource.name": (await client.see_task(stands))["name"],
        }
        told = [event for event in await all_events(world) if related in event["related"]]
        assert {event["resource"]["prefect.resource.id"] for event in told} == {
            f"prefect.flow-run.{child}"
        }
        assert [event["event"].rpartition(".")[2] for event in told] == ["Pending", "Running"]

    play(main, functions=[])


def test_events_say_what_a_pause_is_and_not_all_of_a_long_message() -> None:
    async def main(world: testing.World) -> None:
        client = Client(world)
        run_id = await client.flow_run()
        await client.move(run_id, "RUNNING")
        await client.move(run_id, "PAUSED")
        await world.advance(301)
        failed = StateCreate(type="FAILED", message="a" * 90_000 + "b" * 20_000)
        await client.ask(lambda doors: doors.set_flow_run_state(run_id, failed))
        await world.advance(0.1)
        paused, ended = (await all_events(world))[-2:]
        state = {"type": "PAUSED", "name": "Paused", "pause_reschedule": "false"}
        assert paused["payload"]["validated_state"] == state
        assert ended["payload"]["initial_state"] == state
        said = "a" * 50_000 + "...10000 additional characters..." + "a" * 30_000 + "b" * 20_000
        assert ended["payload"]["validated_state"]["message"] == said
        assert ended["resource"]["prefect.state-message"] == said
        assert (paused["follows"] is None, ended["follows"]) == (False, None)  # minutes later

    play(main, functions=[])


def test_every_move_is_an_event() -> None:
    async def main(world: testing.World) -> None:
        client = Client(world)
        run_id = await client.flow_run(tags=["blue"])
        await client.move(run_id, "RUNNING")
        await client.move(run_id, "COMPLETED")
        await world.advance(0.1)
        told = await all_events(world)
        told = [event for event in told if event["event"] != "prefect.flow.created"]
        assert [event["event"] for event in told] == [
            f"prefect.flow-run.{name}" for name in ("Pending", "Running", "Completed")
        ]
        assert [event["follows"] for event in told] == [None, told[0]["id"], told[1]["id"]]
        assert told[1]["payload"]["intended"] == {"from": "PENDING", "to": "RUNNING"}
        roles = [resource["prefect.resource.role"] for resource in told[2]["related"]]
        assert roles == ["flow", "tag"]

    play(main, functions=[])


@pytest.mark.parametrize("crash", [False, True])
def test_every_change_of_a_flow_is_an_event_once(crash: bool) -> None:
    async def main(world: testing.World) -> None:
        client, doors = Client(world), world.engine.prefect
        await world.engine.feeds.ready()
        commits = world.store.journal.stats.commits
        flow = read(await doors.create_flow("nightly", ["a"], {"team": "data"}))
        assert world.store.journal.stats.commits == commits + 1
        if crash:
            await world.crash()
        assert read(await client.ask(lambda doors: doors.create_flow("nightly", ["b"], {}))) == flow
        await client.ask(lambda doors: doors.change_flow(flow["id"], ["c"]))
        await client.ask(lambda doors: doors.delete_flow(flow["id"]))
        await world.advance(0.1)
        told = await all_events(world)
        assert [(event["event"], event["payload"]["tags"]) for event in told] == [
            ("prefect.flow.created", ["a"]),
            ("prefect.flow.updated", ["c"]),
            ("prefect.flow.deleted", ["c"]),
        ]
        assert [event["resource"] for event in told] == [
            {
                "prefect.resource.id": f"prefect.flow.{flow['id']}",
                "prefect.resource.name": "nightly",
            }
        ] * 3

    play(main, functions=[])


async def events_of(world: testing.World, run_id: str) -> list[str]:
    """The names of the events in which a flow run takes part, oldest first."""
    faults: list[Fault] = []
    wanted = parse_event_filter(
        {"any_resource": {"id": [f"prefect.flow-run.{run_id}"]}, "order": "ASC"}, faults
    )
    rows = await world.store.reader.select(*select_events(wanted, 10))
    return [msgspec.json.decode(body)["event"].rpartition(".")[2] for body, _, _ in rows]


def test_resources_of_events_are_entered_for_many_and_found_before_that() -> None:
    async def main(world: testing.World) -> None:
        client = Client(world)
        entered_ = "coalesce((SELECT seq FROM event_marks), 0)"
        mark = f"SELECT {entered_}, (SELECT max(seq) FROM prefect_events)"
        told: list[str] = []
        for round_ in range(3):
            for _ in range(LOOSE // 2 - 8):
                told.append(await client.flow_run())
                await client.move(told[-1], "RUNNING")
            ((entered, newest),) = await world.store.reader.select(mark)
            assert newest == 1 + 2 * len(told)  # and one of the flow
            assert (entered > 0) == (round_ > 0)
            assert newest - entered <= LOOSE
            for run_id in told:
                assert await events_of(world, run_id) == ["Pending", "Running"]
            # What is not entered yet is read again by the next life.
            await world.crash()

    play(main, functions=[])
