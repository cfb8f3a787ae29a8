"""Prefect flow runs as actors: what brings them on when no client does, what crashes may not lose.
On virtual time.
"""

from __future__ import annotations

import msgspec
import pytest
from engine_world import SECOND, is_clean, play
from prefect_client import DAY, TASK, Client, create, read, report

from ironflow import testing
from ironflow.core.clock import to_datetime, to_rfc3339
from ironflow.core.errors import NotFound
from ironflow.core.prefect.runs import FlowRunPolicy

# -- what brings a run on --------------------------------------------------------------------------


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
        await client.move(child, "COMPLETED", untrackable_result=True)
        await world.advance(0.1)
        task = await client.see_task(stands)
        own = {"flow_run_id": parent, "task_run_id": stands, "child_flow_run_id": child}
        theirs = (await client.see(child))["state"]["state_details"]
        assert task["state"]["state_details"] == theirs | own
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


# -- crashes ---------------------------------------------------------------------------------------


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
