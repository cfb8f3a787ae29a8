"""Prefect flow runs as actors: what brings them on when no client does, what crashes may not lose,
and how they stand among all runs. On virtual time.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from engine_world import SECOND, is_clean, play

from ironflow import function, testing
from ironflow.actors.prefect.events import LOOSE
from ironflow.core.clock import to_datetime, to_rfc3339
from ironflow.core.errors import Conflict, Gone, IronflowError, NotFound, StorageError
from ironflow.core.prefect.commands import Reply
from ironflow.core.prefect.event_filters import parse_event_filter
from ironflow.core.prefect.events import Event
from ironflow.core.prefect.faults import Fault
from ironflow.core.prefect.runs import FlowRunInfo, FlowRunPolicy, TaskRunInfo
from ironflow.core.prefect.states import StateCreate, StateDetails
from ironflow.storage.ports import RetentionRule
from ironflow.storage.prefect_events import select_events
from ironflow.storage.relational import NAMES

DAY = 86_400


def create(kind: Any, name: str | None = None, **details: Any) -> StateCreate:
    return StateCreate(type=kind, name=name, state_details=StateDetails(**details))


def read(reply: Reply | bytes) -> Any:
    return msgspec.json.decode(reply if isinstance(reply, bytes) else reply.body)


class Client:
    """Asks as a Prefect client does, and asks again when the server has gone away."""

    def __init__(self, world: testing.World) -> None:
        self.world = world
        self.flow_id = ""

    async def ask(self, call: Callable[[Any], Awaitable[Any]]) -> Any:
        for _ in range(20):
            try:
                return await call(self.world.engine.prefect)
            except (Gone, StorageError):
                await self.world.advance(1)
        raise AssertionError("the server does not come back")

    async def flow_run(self, state: StateCreate | None = None, **facts: Any) -> str:
        flow = read(await self.ask(lambda doors: doors.create_flow("nightly", [], {})))
        self.flow_id = flow["id"]
        policy = facts.pop("policy", FlowRunPolicy())
        made = await self.ask(
            lambda doors: doors.create_flow_run(
                FlowRunInfo(id="", name="", flow_id=self.flow_id, **facts),
                policy,
                state or create("PENDING"),
            )
        )
        run_id: str = read(made)["id"]
        return run_id

    async def task_run(self, flow_run_id: str | None, key: str, state: Any = "PENDING") -> str:
        made = await self.ask(
            lambda doors: doors.create_task_run(
                TaskRunInfo(id="", name="", flow_run_id=flow_run_id, task_key=key, dynamic_key="0"),
                create(state),
            )
        )
        task_run_id: str = read(made)["id"]
        return task_run_id

    async def move(self, run_id: str, kind: Any, name: str | None = None, **details: Any) -> Any:
        """Propose a state under one transition id, however often it must be asked."""
        transition = f"00000000-0000-4000-8000-{random.getrandbits(48):012x}"

        async def call(doors: Any) -> Reply:
            state = create(kind, name, transition_id=transition, **details)
            reply: Reply = await doors.set_flow_run_state(run_id, state)
            return reply

        return read(await self.ask(call))

    async def move_task(self, task_run_id: str, kind: Any, **details: Any) -> Any:
        return read(
            await self.ask(
                lambda doors: doors.set_task_run_state(task_run_id, create(kind, **details))
            )
        )

    async def see(self, run_id: str) -> Any:
        return read(await self.ask(lambda doors: doors.read_flow_run(run_id)))

    async def see_task(self, task_run_id: str) -> Any:
        return read(await self.ask(lambda doors: doors.read_task_run(task_run_id)))

    async def names(self, run_id: str) -> list[str]:
        rows = await self.world.store.reader.entries(f"run/{run_id}")
        return [
            msgspec.json.decode(row.data)["state"]["name"]
            for row in rows
            if row.kind == "flow_run.moved"
        ]


def report(task_run_id: str, flow_run_id: str | None, kind: str, at: int, **task: Any) -> Event:
    related = () if flow_run_id is None else (
        {
            "prefect.resource.id": f"prefect.flow-run.{flow_run_id}",
            "prefect.resource.role": "flow-run",
        },
    )  # fmt: skip
    task = {"name": "t-0", "task_key": "t", "dynamic_key": task_run_id, "run_count": 1, **task}
    payload = {"task_run": task, "validated_state": {"type": kind, "state_details": {}}}
    return Event(
        id=f"{task_run_id[:-6]}{at % 10**6:06d}",
        event=f"prefect.task-run.{kind.title()}",
        occurred=at,
        received=at,
        resource={
            "prefect.resource.id": f"prefect.task-run.{task_run_id}",
            "prefect.orchestration": "client",
        },
        related=related,
        payload=msgspec.json.encode(payload),
    )


TASK = "00000000-0000-4000-8000-0000000000aa"


# -- what brings a run on -------------------------------------------------------------------------


@pytest.mark.parametrize("crash", [False, True])
def test_a_scheduled_run_that_nobody_takes_is_late(crash: bool) -> None:
    async def main(world: testing.World) -> None:
        client = Client(world)
        at = to_datetime(world.clock.now() + 3600 * SECOND)
        run_id = await client.flow_run(create("SCHEDULED", scheduled_time=at))
        if crash:
            await world.crash()
        await world.advance(3600 + 14.9)
        assert (await client.see(run_id))["state_name"] == "Scheduled"
        await world.advance(0.2)
        run = await client.see(run_id)
        assert (run["state_type"], run["state_name"]) == ("SCHEDULED", "Late")
        assert run["next_scheduled_start_time"] == to_rfc3339(world.clock.now() - int(15.1e6))
        assert (await client.move(run_id, "PENDING"))["status"] == "ACCEPT"
        assert (await client.move(run_id, "RUNNING"))["status"] == "ACCEPT"

    play(main, functions=[])


def test_a_run_that_is_taken_in_time_is_not_late() -> None:
    async def main(world: testing.World) -> None:
        client = Client(world)
        run_id = await client.flow_run(create("SCHEDULED"))
        await world.advance(14)
        await client.move(run_id, "PENDING")
        await world.advance(60)
        assert await client.names(run_id) == ["Scheduled", "Pending"]
        is_clean(world)

    play(main, functions=[])


@pytest.mark.parametrize("crash", [False, True])
def test_a_pause_that_nobody_ends_fails_the_run(crash: bool) -> None:
    async def main(world: testing.World) -> None:
        client = Client(world)
        run_id = await client.flow_run()
        await client.move(run_id, "RUNNING")
        until = to_datetime(world.clock.now() + 5 * DAY * SECOND)
        await client.move(run_id, "PAUSED", pause_timeout=until, pause_key="k")
        if crash:
            await world.crash()
        await world.advance(5 * DAY - 1)
        assert (await client.see(run_id))["state_type"] == "PAUSED"
        await world.advance(2)
        assert (await client.see(run_id))["state_type"] == "FAILED"
        assert (await world.wait(run_id)).status == "failed"
        is_clean(world)

    play(main, functions=[])


def test_a_pause_that_is_ended_in_time() -> None:
    async def main(world: testing.World) -> None:
        client = Client(world)
        run_id = await client.flow_run()
        await client.move(run_id, "RUNNING")
        until = to_datetime(world.clock.now() + 100 * SECOND)
        keyset = {"response": "paused-1-response", "schema": "paused-1-schema"}
        schema = (
            '{"type":"object","properties":{"answer":{"type":"integer"}},"required":["answer"]}'
        )
        await client.ask(lambda doors: doors.add_input(run_id, "paused-1-schema", schema, None))
        await client.move(run_id, "PAUSED", pause_timeout=until, run_input_keyset=keyset)
        for wrong in (None, "{}", '{"answer":"no"}'):
            refused = read(
                await client.ask(lambda doors, wrong=wrong: doors.resume_flow_run(run_id, wrong))
            )
            assert (refused["status"], refused["state"]["type"]) == ("REJECT", "PAUSED")
            assert "answer" in refused["details"]["reason"]
        resumed = read(
            await client.ask(lambda doors: doors.resume_flow_run(run_id, '{"answer":42}'))
        )
        assert (resumed["status"], resumed["state"]["type"]) == ("ACCEPT", "RUNNING")
        history = await world.engine.flow_run(run_id)
        assert history.inputs["paused-1-response"].value == '{"answer":42}'
        await world.advance(200)
        assert (await client.see(run_id))["state_type"] == "RUNNING"
        again = read(await client.ask(lambda doors: doors.resume_flow_run(run_id)))
        assert (again["status"], again["state"]) == ("ABORT", None)

    play(main, functions=[])


@pytest.mark.parametrize("crash", [0.0, 5.0, 10.0, None])
def test_what_a_cancelled_run_leaves_behind_is_cancelled(crash: float | None) -> None:
    async def main(world: testing.World) -> None:
        client = Client(world)
        parent = await client.flow_run()
        await client.move(parent, "RUNNING")
        done, left, stands = [await client.task_run(parent, key) for key in ("a", "b", "c")]
        await client.move_task(done, "RUNNING")
        await client.move_task(done, "COMPLETED")
        child = await client.flow_run(parent_task_run_id=stands)
        await client.move(child, "RUNNING")
        await client.move(parent, "CANCELLING")
        await client.move(parent, "CANCELLED")
        if crash is not None:
            await world.advance(crash)
            await world.crash()
        await world.advance(11)
        assert (await client.see_task(done))["state_type"] == "COMPLETED"
        for task in (left, stands):
            assert (await client.see_task(task))["state_type"] == "CANCELLED"
        assert (await client.see(child))["state_type"] == "CANCELLED"
        await world.advance(60)
        is_clean(world)

    play(main, functions=[])


def test_a_subflow_shows_in_the_task_run_that_stands_for_it() -> None:
    async def main(world: testing.World) -> None:
        client = Client(world)
        parent = await client.flow_run()
        await client.move(parent, "RUNNING")
        stands = await client.task_run(parent, "sub")
        child = await client.flow_run(parent_task_run_id=stands)
        await client.move(child, "RUNNING")
        await world.advance(3)
        await client.move(child, "COMPLETED")
        await world.advance(0.1)
        task = await client.see_task(stands)
        assert task["state"]["state_details"]["child_flow_run_id"] == child
        assert (task["state_type"], task["run_count"], task["total_run_time"]) == (
            "COMPLETED",
            1,
            3.0,
        )
        row = await world.store.reader.run(child)
        assert row is not None
        assert (row.parent_id, row.kind, row.status) == (parent, "flow", "completed")
        is_clean(world)

    play(main, functions=[])


def test_a_parent_that_is_not_known_yet_holds_nobody_up() -> None:
    async def main(world: testing.World) -> None:
        client = Client(world)
        child = await client.flow_run(parent_task_run_id=TASK)
        await client.move(child, "RUNNING")
        await client.move(child, "COMPLETED")
        await world.advance(1)
        run = await client.see(child)
        assert (run["state_type"], run["parent_task_run_id"]) == ("COMPLETED", TASK)
        is_clean(world)

    play(main, functions=[])


# -- crashes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(1, 17))
def test_a_crash_at_any_commit_loses_nothing_and_doubles_nothing(number: int) -> None:
    async def main(world: testing.World) -> None:
        client = Client(world)
        first_life = world.store
        world.crash_at_commit(number)
        policy = FlowRunPolicy(retries=1)
        run_id = await client.flow_run(idempotency_key="one", policy=policy)
        await client.move(run_id, "RUNNING")
        tasks = []
        for key in ("a", "b"):
            task = await client.task_run(run_id, key)
            await client.move_task(task, "RUNNING")
            await client.move_task(task, "COMPLETED")
            tasks.append(task)
        stands = await client.task_run(run_id, "sub")
        child = await client.flow_run(parent_task_run_id=stands, idempotency_key="two")
        await client.move(child, "RUNNING")
        await client.move(child, "COMPLETED")
        await client.move(run_id, "FAILED")
        await client.move(run_id, "RUNNING")
        await client.move(run_id, "COMPLETED")
        await world.advance(30)
        assert world.store is not first_life
        assert await client.names(run_id) == [
            "Pending", "Running", "AwaitingRetry", "Running", "Completed",
        ]  # fmt: skip
        assert await client.names(child) == ["Pending", "Running", "Completed"]
        run = await client.see(run_id)
        assert (run["run_count"], run["state_name"]) == (2, "Completed")
        for task in tasks:
            assert (await client.see_task(task))["state_name"] == "Completed"
        assert (await client.see_task(stands))["state_type"] == "COMPLETED"
        counts = await world.store.reader.count_runs()
        assert counts == {("nightly", "completed"): 2}
        # Rows say what the journal says.
        for id_ in (run_id, child):
            live = await client.see(id_)
            await world.crash()
            assert await client.see(id_) == live
        is_clean(world)

    play(main, functions=[])


@pytest.mark.parametrize("number", [1, 2, 3])
def test_reports_survive_a_crash_and_are_right_in_the_end(number: int) -> None:
    async def main(world: testing.World) -> None:
        client = Client(world)
        run_id = await client.flow_run()
        await client.move(run_id, "RUNNING")
        now = world.clock.now()
        told = [
            report(TASK, run_id, kind, now + n, run_count=n, total_run_time=n / 2)
            for n, kind in enumerate(["PENDING", "RUNNING", "COMPLETED"])
        ]
        world.crash_at_commit(number)
        for batch in ([told[2]], [told[0], told[2]], [told[1], told[1]]):
            await client.ask(lambda doors, batch=batch: doors.recorder.record(batch))
        await world.advance(1)  # the crash may come after the last answer
        task = await client.see_task(TASK)
        assert (task["state_type"], task["run_count"], task["total_run_time"]) == (
            "COMPLETED",
            2,
            1,
        )
        assert task["state_id"] == told[2].id
        rows = await world.store.reader.select("SELECT id FROM run_states WHERE owner = ?", (TASK,))
        assert sorted(id_ for (id_,) in rows) == sorted(event.id for event in told)

    play(main, functions=[])


def test_reports_without_a_flow_run_and_of_one_that_is_gone() -> None:
    async def main(world: testing.World) -> None:
        client = Client(world)
        now = world.clock.now()
        await client.ask(lambda d: d.recorder.record([report(TASK, None, "COMPLETED", now)]))
        task = await client.see_task(TASK)
        assert (task["flow_run_id"], task["state_type"]) == (None, "COMPLETED")
        row = await world.store.reader.run(TASK)
        assert row is not None
        assert (row.kind, row.function_id, row.status) == ("flow", "t", "completed")
        assert (await world.state(TASK)).status == "completed"
        gone = "00000000-0000-4000-8000-0000000000bb"
        await client.ask(lambda d: d.recorder.record([report(gone, gone, "RUNNING", now)]))
        with pytest.raises(NotFound):
            await world.engine.prefect.read_task_run(gone)
        nonsense = msgspec.structs.replace(report(gone, None, "RUNNING", now), payload=b'{"a":1}')
        await client.ask(lambda d: d.recorder.record([nonsense]))

    play(main, functions=[])


def test_a_long_run_is_read_from_its_snapshot() -> None:
    async def main(world: testing.World) -> None:
        client = Client(world)
        run_id = await client.flow_run()
        await client.move(run_id, "RUNNING")
        now = world.clock.now()
        ids = [f"00000000-0000-4000-8000-{n:012d}" for n in range(300)]
        events = [report(id_, run_id, "COMPLETED", now + n) for n, id_ in enumerate(ids)]
        await client.ask(lambda doors: doors.recorder.record(events[:200]))
        await client.ask(lambda doors: doors.recorder.record(events[200:]))
        before = await world.engine.flow_run(run_id)
        assert world.store.tables.rows["snapshots"]
        await world.crash()
        await client.move(run_id, "COMPLETED")
        after = await world.engine.flow_run(run_id)
        assert after.tasks == before.tasks
        assert after.keys == before.keys
        assert (await world.state(run_id)).status == "completed"

    play(main, functions=[])


# -- among all runs -------------------------------------------------------------------------------


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


async def counts(world: testing.World) -> dict[str, int]:
    return {
        name: (await world.store.reader.select(f"SELECT count(*) FROM {name}"))[0][0]
        for name in sorted(NAMES)
    }


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


def test_every_move_is_an_event() -> None:
    async def main(world: testing.World) -> None:
        client = Client(world)
        run_id = await client.flow_run(tags=["blue"])
        await client.move(run_id, "RUNNING")
        await client.move(run_id, "COMPLETED")
        await world.advance(0.1)
        rows = await world.store.reader.select("SELECT body FROM prefect_events ORDER BY seq")
        told = [msgspec.json.decode(body) for (body,) in rows]
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
        rows = await world.store.reader.select("SELECT body FROM prefect_events ORDER BY seq")
        told = [msgspec.json.decode(body) for (body,) in rows]
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
