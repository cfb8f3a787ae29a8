"""Pull: a worker's jobs, leases and reports, on virtual time. The worker is the test itself."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from engine_world import is_clean
from fake_worker import QUICK, FakeWorker, definition, ready, remote, step

from ironflow import function, testing
from ironflow.actors.elsewhere import jobs as reports
from ironflow.actors.workers.worker import Heartbeat, WorkerActor
from ironflow.core.errors import Conflict, InvalidInput, NotFound
from ironflow.core.functions.definition import Trigger
from ironflow.core.remote import pull
from ironflow.core.runs.commands import ExecutionLeft
from ironflow.core.runs.entries import CancelOn, RunOptions


def test_a_run_that_becomes_ready_answers_a_held_poll_at_once() -> None:
    async def main(world: testing.World) -> None:
        worker = await ready(world)
        poll = asyncio.create_task(worker.poll(wait=20))
        await world.advance(5)
        before = world.now()
        run_id = await world.start("remote", {"n": 1})
        (job,) = await poll
        assert world.now() == before
        assert (job.run_id, job.function_id, job.attempt) == (run_id, "remote", 1)
        assert (job.event.data, job.completed_steps) == (msgspec.Raw(b'{"n":1}'), [])
        assert (await world.state(run_id)).status == "running"
        await worker.report(job, "completed", output={"ok": True}, steps=[step(job, "a", 1)])
        ended = await world.wait(run_id)
        assert (ended.status, ended.result) == ("completed", {"ok": True})
        assert ended.steps["a:0"].result is not None
        is_clean(world)

    remote(main)


def test_runs_wait_for_a_worker_in_their_order_and_an_empty_poll_ends_in_time() -> None:
    async def main(world: testing.World) -> None:
        worker = await ready(world)
        assert await worker.poll(wait=7) == []
        ids = [await world.start("remote", n) for n in range(5)]
        assert world.engine.pool.position(ids[3]) == 3
        assert (await world.state(ids[0])).status == "queued"
        jobs = await worker.poll(available=3)
        assert [job.run_id for job in jobs] == ids[:3]
        jobs += await worker.poll(available=10)
        assert [job.run_id for job in jobs] == ids
        for job in jobs:
            await worker.report(job, "completed")
        is_clean(world)

    remote(main)


def test_workers_that_register_the_same_function_at_once_register_one() -> None:
    async def main(world: testing.World) -> None:
        register = world.engine.register_remote
        rows = await asyncio.gather(*(register(definition()) for _ in range(8)))
        assert {row.version for row, _ in rows} == {1}
        codes = [definition(description=text) for text in "abc"]
        await asyncio.gather(*(register(code) for code in codes))
        row, _ = await world.engine.function("remote")
        assert row.version == 4

    remote(main)


def test_labels_choose_the_worker() -> None:
    async def main(world: testing.World) -> None:
        await world.engine.register_remote(definition(labels={"gpu": "yes"}))
        plain, gpu = FakeWorker(world, "plain"), FakeWorker(world, "gpu")
        await plain.register()
        run_id = await world.start("remote")
        assert await plain.poll(wait=1) == []
        why = world.engine.host.held_up("remote")
        assert why == "no worker with the labels gpu=yes that takes function 'remote' is connected"
        await gpu.register(labels={"gpu": "yes", "zone": "a"})
        assert (await gpu.job()).run_id == run_id

    remote(main)


def test_the_lease_fences_and_a_job_that_nobody_renews_is_handed_out_again() -> None:
    async def main(world: testing.World) -> None:
        worker, other = await ready(world), FakeWorker(world, "other")
        await other.register()
        run_id = await world.start("remote")
        job = await worker.job()
        with pytest.raises(reports.StaleLease):
            await worker.report(msgspec.structs.replace(job, lease_token="forged"), "completed")
        with pytest.raises(reports.StaleLease):
            await worker.report(msgspec.structs.replace(job, execution_seq=7), "completed")
        with pytest.raises(reports.StaleLease):
            await other.report(job, "completed")
        await worker.report(job, "progress", steps=[step(job, "a", "kept")])
        for _ in range(10):  # heartbeats keep it
            await world.advance(30)
            await worker.ask(Heartbeat(frozenset({job.job_id})))
        assert (await world.state(run_id)).execution == 1
        await world.advance(91)
        again = await other.job()
        assert (again.run_id, again.attempt, again.execution_seq) == (run_id, 1, 2)
        assert [(s.step_id, bytes(s.output)) for s in again.completed_steps] == [
            (f"{run_id}:a:0", b'"kept"')
        ]
        assert again.step_sequence_base == 1
        with pytest.raises(reports.StaleLease):
            await worker.report(job, "completed", output="late")
        await other.report(again, "completed", output="right")
        with pytest.raises(reports.StaleLease):  # a repeated report is harmless
            await other.report(again, "completed", output="right")
        assert (await world.wait(run_id)).result == "right"

    remote(main)


def test_a_run_that_loses_worker_after_worker_is_parked_with_the_reason() -> None:
    async def main(world: testing.World) -> None:
        worker = await ready(world)
        run_id = await world.start("remote")
        for _ in range(3):
            assert (await worker.job()).run_id == run_id
            await world.advance(100)
        run = await world.state(run_id)
        assert (run.status, run.paused_cause) == ("paused", "crash_loop")
        assert "went away" in (run.reason or "")
        await world.resume(run_id)
        await worker.report(await worker.job(), "completed")
        assert (await world.wait(run_id)).status == "completed"

    remote(main, max_crashes=2)


def test_a_dropped_poll_takes_no_job() -> None:
    async def main(world: testing.World) -> None:
        worker = await ready(world)
        await worker.poll_and_hang_up(1)
        run_id = await world.start("remote")
        await world.advance(1)
        assert (await world.state(run_id)).status == "queued"
        assert (await worker.job()).run_id == run_id

    remote(main)


def test_a_silent_worker_is_offline_and_forgotten_and_must_register_again() -> None:
    async def main(world: testing.World) -> None:
        worker = await ready(world)
        await world.advance(46)
        assert not world.engine.fleet.workers["w"].online
        await worker.ask(Heartbeat(frozenset()))
        assert world.engine.fleet.workers["w"].online
        await world.advance(900)
        assert "w" not in world.engine.fleet.workers
        with pytest.raises(NotFound):
            await worker.poll()
        await worker.register()
        run_id = await world.start("remote")
        assert (await worker.job()).run_id == run_id

    remote(main)


def test_a_job_of_a_worker_that_died_with_it_is_lost_when_its_lease_runs_out() -> None:
    async def main(world: testing.World) -> None:
        await world.engine.register_remote(definition())
        worker, other = FakeWorker(world), FakeWorker(world, "other")
        await worker.register(heartbeat=0.4)
        await other.register()
        run_id = await world.start("remote")
        await worker.job()  # it dies before it says a word of it
        await world.advance(1.1)
        assert (await world.state(run_id)).status == "running"
        await world.advance(0.2)
        assert (await other.job()).run_id == run_id

    remote(main)


def test_nobody_looks_again_and_again_after_a_worker_that_holds_a_poll(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks = []
    look = WorkerActor._look

    def counted(actor: WorkerActor) -> None:
        looks.append(actor.key)
        look(actor)

    monkeypatch.setattr(WorkerActor, "_look", counted)

    async def main(world: testing.World) -> None:
        worker = await ready(world)
        assert await worker.poll(wait=300) == []
        assert len(looks) < 10
        # It held its poll to the end: it is not taken for silent before it can ask again.
        await world.advance(44)
        assert world.engine.fleet.workers["w"].online
        await world.advance(2)
        assert not world.engine.fleet.workers["w"].online
        assert await worker.poll(wait=1) == []
        assert world.engine.fleet.workers["w"].online

    remote(main)


def test_a_server_that_crashes_forgets_workers_and_keeps_what_was_reported() -> None:
    async def main(world: testing.World) -> None:
        worker = await ready(world)
        run_id = await world.start("remote", 1)
        job = await worker.job()
        await worker.report(job, "progress", steps=[step(job, "a", 1)])
        await world.crash()
        with pytest.raises(NotFound):
            await worker.report(job, "completed")
        await worker.register()
        again = await worker.job()
        assert [s.name for s in again.completed_steps] == ["a"]
        assert again.execution_seq == 2
        await worker.report(again, "completed", output="done")
        assert (await world.wait(run_id)).result == "done"

    remote(main)


def test_sleeps_events_and_children_end_an_execution_and_begin_the_next() -> None:
    @function(id="pull-local")
    async def local(ctx: Any, value: Any) -> Any:
        return {"got": value}

    async def main(world: testing.World) -> None:
        worker = await ready(world, triggers=(Trigger("go"),))
        (run_id,) = (await world.emit("go", {"order": "o-1"})).run_ids
        job = await worker.job()
        assert (job.event.name, job.event.data) == ("go", msgspec.Raw(b'{"order":"o-1"}'))
        until = (world.now() + timedelta(days=2)).isoformat()
        await worker.report(
            job, "yielded", **{"yield": {"step_id": f"{run_id}:nap:0", "type": "sleep",
                                         "until": until}}
        )  # fmt: skip
        run = await world.state(run_id)
        assert (run.status, run.steps["nap:0"].name) == ("waiting", "nap")
        await world.advance("2d")
        await worker.register()  # it was silent for too long
        job = await worker.job()
        assert [(s.name, bytes(s.output)) for s in job.completed_steps] == [("nap", b"null")]
        wait = {"event": "paid", "match": "data.order", "timeout": "1h"}
        await worker.report(
            job, "yielded", step_offset=0,
            **{"yield": {"step_id": f"{run_id}:pay:0", "type": "wait_for_event",
                         "event_filter": wait}},
        )  # fmt: skip
        await world.emit("paid", {"order": "other"})
        await world.emit("paid", {"order": "o-1", "sum": 3})
        job = await worker.job()
        event = msgspec.json.decode(job.completed_steps[-1].output)
        assert event["data"] == {"order": "o-1", "sum": 3}
        assert {"id", "name", "timestamp"} <= event.keys()
        for name, target in (("kid", "pull-local"), ("none", "no-such-function")):
            await worker.report(
                job, "yielded",
                **{"yield": {"step_id": f"{run_id}:{name}:0", "type": "invoke_function",
                             "function_id": target, "input": {"x": 1}}},
            )  # fmt: skip
            job = await worker.job()
        kid, none = job.completed_steps[-2:]
        assert (kid.status, msgspec.json.decode(kid.output)) == ("completed", {"got": {"x": 1}})
        assert none.status == "failed"
        assert "no-such-function" in none.error["message"]
        await worker.report(job, "completed")
        assert (await world.wait(run_id)).status == "completed"
        is_clean(world)

    remote(main, functions=[local])


def test_an_event_that_does_not_come_in_time_fails_the_run_for_good() -> None:
    async def main(world: testing.World) -> None:
        worker = await ready(world)
        run_id = await world.start("remote")
        job = await worker.job()
        wait = {"event": "never", "timeout": "1h"}
        await worker.report(
            job, "yielded",
            **{"yield": {"step_id": f"{run_id}:w:0", "type": "wait_for_event",
                         "event_filter": wait}},
        )  # fmt: skip
        ended = await world.wait(run_id, "2h")
        assert (ended.status, ended.error and ended.error.kind) == ("failed", "WaitTimeout")
        await world.retry(run_id)
        await worker.register()
        assert (await worker.job()).completed_steps == []

    remote(main)


def test_failures_are_tried_again_as_they_ask_and_then_wait_for_an_operator() -> None:
    async def main(world: testing.World) -> None:
        options = RunOptions(retry=QUICK, on_exhausted="pause")
        worker = await ready(world, options=options)
        run_id = await world.start("remote")
        job = await worker.job()
        error = {"message": "busy", "code": "RETRY_AFTER", "retryable": True}
        await worker.report(job, "failed", error=error | {"retry_after_ms": 7000})
        run = await world.state(run_id)
        assert (run.status, (run.retry_at or 0) - world.clock.now()) == ("waiting", 7_000_000)
        for attempt in (2, 3):
            job = await worker.job()
            assert job.attempt == attempt
            failed = step(job, "bad", status="failed", error={"message": "no"})
            await worker.report(job, "failed", error=error, steps=[failed])
        run = await world.state(run_id)
        assert (run.status, run.paused_cause) == ("paused", "exhausted")
        await world.resume(run_id)
        job = await worker.job()
        assert (job.attempt, job.completed_steps) == (1, [])
        await worker.report(job, "failed", error=error | {"retryable": False})
        assert (await world.wait(run_id)).status == "failed"
        await world.retry(run_id)
        await worker.report(await worker.job(), "completed", output=1)
        assert (await world.wait(run_id)).result == 1

    remote(main)


@pytest.mark.parametrize("what", ["pause", "cancel"])
def test_a_run_is_paused_or_cancelled_under_its_worker(what: str) -> None:
    async def main(world: testing.World) -> None:
        worker = await ready(world)
        run_id = await world.start("remote")
        job = await worker.job()
        await getattr(world, what)(run_id)
        with pytest.raises(Conflict) as refused:
            await worker.report(job, "progress", steps=[step(job, "a", 1)])
        assert refused.value.code in {"RUN_NOT_RUNNING", "STALE_EXECUTION"}
        if what == "cancel":
            assert (await world.wait(run_id)).status == "cancelled"
            return
        assert (await world.state(run_id)).status == "paused"
        await world.resume(run_id)
        again = await worker.job()
        assert [s.name for s in again.completed_steps] == ["a"]

    remote(main)


def test_an_event_cancels_a_run_that_a_worker_has() -> None:
    async def main(world: testing.World) -> None:
        rule = CancelOn("order.cancelled", "data.id")
        worker = await ready(world, options=RunOptions(cancel_on=(rule,)))
        run_id = await world.start("remote", {"id": 7})
        await worker.job()
        await world.emit("order.cancelled", {"id": 8})
        await world.emit("order.cancelled", {"id": 7})
        assert (await world.wait(run_id, "1m")).status == "cancelled"
        is_clean(world)

    remote(main)


@pytest.mark.parametrize(
    ("report", "field"),
    [
        ({}, "yield"),
        ({"yield": {"step_id": "s", "type": "sleep"}}, "yield.until"),
        ({"yield": {"step_id": "s", "type": "sleep", "until": "soon"}}, "yield.until"),
        ({"yield": {"step_id": "s", "type": "wait_for_event"}}, "yield.event_filter"),
        ({"yield": {"step_id": "s", "type": "invoke_function"}}, "yield.function_id"),
        (
            {"yield": {"step_id": "s", "type": "wait_for_event",
                       "event_filter": {"event": "e", "timeout": "soon"}}},
            "yield.event_filter.timeout",
        ),
    ],
)  # fmt: skip
def test_a_report_that_makes_no_sense_is_refused_and_changes_nothing(
    report: dict[str, Any], field: str
) -> None:
    async def main(world: testing.World) -> None:
        worker = await ready(world)
        run_id = await world.start("remote")
        job = await worker.job()
        with pytest.raises(InvalidInput) as refused:
            await worker.report(job, "yielded", steps=[step(job, "a", 1)], **report)
        assert refused.value.field == field
        assert (await world.state(run_id)).steps == {}
        await worker.report(job, "completed")
        assert (await world.wait(run_id)).status == "completed"

    remote(main)


def test_functions_of_the_server_itself_are_not_given_away() -> None:
    @function(id="pull-own")
    async def own(ctx: Any) -> None:
        return None

    async def main(world: testing.World) -> None:
        with pytest.raises(Conflict):
            await world.engine.register_remote(definition("pull-own"))
        row, created = await world.engine.register_remote(definition())
        assert (row.version, created) == (1, True)
        row, created = await world.engine.register_remote(definition())
        assert (row.version, created) == (1, False)
        row, created = await world.engine.register_remote(definition(description="new"))
        assert (row.version, created) == (2, False)

    remote(main, functions=[own])


@pytest.mark.parametrize(
    ("own", "name"),
    [
        ("a:0", "a"),
        ("block:2:leaf:0", "leaf"),
        (r"a\:b:1", "a:b"),
        ("compensate:x:0", "x"),
        ("plain", "plain"),
    ],
)
def test_names_of_steps_are_found_in_their_ids(own: str, name: str) -> None:
    assert pull.step_name(own) == name
    run_id = "r"
    for text in (own, f"{own}/x", f"@{own}%2F"):
        assert pull.step_id(run_id, pull.step_key(run_id, f"{run_id}:{text}")) == f"r:{text}"
        assert "/" not in pull.step_key(run_id, text)


def test_a_run_that_gives_back_its_grant_keeps_its_place() -> None:
    async def main(world: testing.World) -> None:
        worker = await ready(world)
        first, second = [await world.start("remote", n) for n in range(2)]
        queue, actor = world.engine.fleet.queue, world.engine.system.ref("run", first)
        # Between the grant and its dispatch another message is decided about, with no use for it.
        grants: list[str] = []
        queue._grant, grant = grants.append, queue._grant
        poll = asyncio.create_task(worker.poll(available=1, wait=20))
        await world.advance(1)
        assert grants == [first]
        queue._grant = grant
        await actor.ask(ExecutionLeft(0))
        # The slot went to whoever was next; the first one stands before all that came later.
        assert world.engine.pool.position(first) == 0
        grant(first)
        (job,) = await poll
        assert job.run_id == second
        third = await world.start("remote", 3)
        assert [world.engine.pool.position(run) for run in (first, third)] == [0, 1]
        jobs = [job, *await worker.poll()]
        assert [job.run_id for job in jobs] == [second, first, third]
        for one in jobs:
            await worker.report(one, "completed")
        is_clean(world)

    remote(main)
