"""Actor keys: runs with the same value go to the same worker, and elsewhere when it is gone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from engine_world import is_clean
from fake_worker import FakeWorker, definition, remote

from ironflow import testing
from ironflow.actors.kernel.virtual_time import in_virtual_time
from ironflow.actors.workers.affinity import Actor, Bindings
from ironflow.actors.workers.queue import Worker, WorkerQueue
from ironflow.actors.workers.worker import Heartbeat, Leave, PollDropped, PollJobs
from ironflow.core.errors import InvalidInput, NotFound
from ironflow.core.functions.affinity import actor_of
from ironflow.core.functions.definition import compile_spec
from ironflow.core.functions.flow_control import Concurrency
from ironflow.core.remote import pull


async def crew(world: testing.World, *names: str, **facts: Any) -> list[FakeWorker]:
    await world.engine.register_remote(definition(actor_key="data.user", **facts))
    workers = [FakeWorker(world, name) for name in names]
    for worker in workers:
        await worker.register()
    return workers


async def finish(worker: FakeWorker, *jobs: pull.Job) -> None:
    for job in jobs:
        await worker.report(job, "completed")


async def start(world: testing.World, user: Any) -> str:
    return await world.start("remote", {"user": user})


def test_runs_of_an_actor_go_to_its_worker_and_others_to_anyone() -> None:
    async def main(world: testing.World) -> None:
        one, two = await crew(world, "one", "two")
        run_id = await start(world, "ann")
        job = await one.job()
        assert (job.run_id, job.actor_id) == (run_id, "ann")
        state = await world.state(run_id)
        assert (state.actor, state.worker) == ("ann", "one")
        await finish(one, job)
        # Whoever asks, and however long: her runs wait for the first.
        again = await start(world, "ann")
        other = await start(world, "bob")
        plain = await start(world, None)
        jobs = await two.poll(available=10, wait=1)
        assert [job.run_id for job in jobs] == [other, plain]
        assert jobs[1].actor_id is not jobs[0].actor_id
        assert await two.poll(wait=5) == []
        why = world.engine.pool.held_up(again)
        assert why is not None
        assert "actor 'ann' is with worker one, which has 0 of the 10 runs" in why
        assert [job.run_id for job in await one.poll()] == [again]
        counts = world.engine.fleet.queue.bindings
        assert (counts.count("one"), counts.count("two")) == (1, 1)

    remote(main)


def test_a_poll_that_is_held_gets_its_own_actor_at_once_although_others_have_more_room() -> None:
    async def main(world: testing.World) -> None:
        one, two = await crew(world, "one", "two")
        await start(world, "ann")
        await finish(one, await one.job())
        small = asyncio.create_task(one.poll(available=1))
        large = asyncio.create_task(two.poll(available=10, wait=3))
        await world.advance(1)
        run_id = await start(world, "ann")
        assert [job.run_id for job in await small] == [run_id]
        assert await large == []

    remote(main)


def test_runs_that_waited_for_anyone_follow_the_first_of_their_actor() -> None:
    async def main(world: testing.World) -> None:
        one, two = await crew(world, "one", "two")
        ids = [await start(world, user) for user in ("ann", "bob", "ann", "bob")]
        assert [job.run_id for job in await one.poll(available=1)] == [ids[0]]
        assert [job.run_id for job in await two.poll(available=1)] == [ids[1]]
        assert [job.run_id for job in await two.poll(available=9)] == [ids[3]]
        assert world.engine.pool.position(ids[2]) == 0
        assert [job.run_id for job in await one.poll(available=9)] == [ids[2]]

    remote(main)


@pytest.mark.parametrize("how", ["silent", "drains", "hangs up", "leaves", "other functions"])
def test_another_worker_takes_over_and_keeps_the_actor(how: str) -> None:
    async def main(world: testing.World) -> None:
        one, two = await crew(world, "one", "two")
        await start(world, "ann")
        await finish(one, await one.job())
        waiting = await start(world, "ann")
        poll = asyncio.create_task(two.poll(wait=25))
        await world.advance(1)
        assert not poll.done()
        if how == "drains":
            await one.ask(Heartbeat(frozenset(), draining=True))
        elif how == "leaves":
            await one.ask(Leave())
            with pytest.raises(NotFound):
                await one.ask(Heartbeat(frozenset()))
        elif how == "other functions":
            await world.engine.register_remote(definition("else"))
            await one.register("else")
        elif how == "hangs up":
            asked = PollJobs(available=0, wait=20)
            held = asyncio.create_task(one.ask(asked))
            await world.advance(1)
            await one.ask(PollDropped(asked))
            await held
        while not poll.done():
            await world.advance(5)
            await two.ask(Heartbeat(frozenset()))
        jobs = await poll or await two.poll(wait=25)
        if not jobs:
            await world.advance(20)
            jobs = await two.poll()
        assert [job.run_id for job in jobs] == [waiting]
        assert world.engine.fleet.workers["two"].status == "online"
        if how in ("drains", "hangs up"):
            assert world.engine.fleet.workers["one"].status == "draining"
        await finish(two, *jobs)
        if how != "leaves":
            await one.register()
            assert await one.poll(wait=0) == []
            assert world.engine.fleet.workers["one"].status == "online"
        # It stays where it is now.
        after = await start(world, "ann")
        if how != "leaves":
            assert await one.poll(wait=1) == []
        assert [job.run_id for job in await two.poll()] == [after]

    remote(main)


def test_a_run_does_not_wait_longer_for_a_full_worker_than_it_was_told_to() -> None:
    async def main(world: testing.World) -> None:
        one, two = await crew(world, "one", "two")
        await start(world, "ann")
        (job,) = await one.poll(available=1)
        waiting = await start(world, "ann")
        for _ in range(5):
            assert await two.poll(wait=5) == []
            await one.ask(Heartbeat(frozenset({job.job_id})))
        assert [job.run_id for job in await two.poll(wait=10)] == [waiting]

    remote(main, actor_wait=30.0)


@in_virtual_time
async def test_each_wait_for_a_full_worker_has_a_patience_of_its_own() -> None:
    granted: list[str] = []
    specs = {"remote": compile_spec(definition(), lambda data: None)}
    queue = WorkerQueue(asyncio.get_running_loop().call_later, specs, granted.append, 30.0)
    one, two = (Worker(name, frozenset({"remote"}), 10, 0, 0) for name in ("one", "two"))
    queue.admit(one)
    queue.admit(two)
    two.asked = 5
    ann = Actor("remote", "ann")
    queue.bindings.bind(ann, "one")

    def wait() -> None:
        queue.prefer("run", ann, "one")
        queue.enqueue("run", "remote")

    wait()
    await asyncio.sleep(20)
    one.asked = 1
    queue.pump(one)
    assert granted == ["run"]
    queue.use("run")
    wait()  # its execution has ended in a wait, which is over
    await asyncio.sleep(20)
    assert granted == ["run"]
    await asyncio.sleep(15)
    assert (granted, queue.reserved) == (["run", "run"], {"run": "two"})
    assert not queue._alarms


def test_after_a_restart_runs_wait_a_moment_for_the_worker_that_had_them() -> None:
    async def main(world: testing.World) -> None:
        one, two = await crew(world, "one", "two")
        ids = [await start(world, user) for user in ("ann", "bob")]
        assert (await one.job()).run_id == ids[0]
        assert (await two.job()).run_id == ids[1]
        await world.crash()
        await two.register()
        assert [job.run_id for job in await two.poll(wait=3)] == [ids[1]]
        assert await two.poll(wait=3) == []
        await one.register()
        assert [job.run_id for job in await one.poll()] == [ids[0]]
        # And the next one finds it where it is.
        after = await start(world, "ann")
        assert await two.poll(wait=1) == []
        assert [job.run_id for job in await one.poll()] == [after]

    remote(main)


def test_after_a_restart_a_worker_that_does_not_come_back_is_not_waited_for() -> None:
    async def main(world: testing.World) -> None:
        one, two = await crew(world, "one", "two")
        run_id = await start(world, "ann")
        assert (await one.job()).run_id == run_id
        await world.crash()
        await two.register()
        assert await two.poll(wait=8) == []
        assert [job.run_id for job in await two.poll(wait=8)] == [run_id]
        await world.engine.cancel(run_id)
        assert (await world.wait(run_id)).status == "cancelled"
        assert not world.store.tables.rows["run_actors"]

    remote(main)


def test_actors_and_lanes_go_together() -> None:
    async def main(world: testing.World) -> None:
        one, two = await crew(world, "one", "two", concurrency=(Concurrency(1, "data.user"),))
        ids = [await start(world, user) for user in ("ann", "ann", "bob")]
        (job,) = await one.poll(available=1)
        assert job.run_id == ids[0]
        (other,) = await two.poll()
        assert other.run_id == ids[2]
        await finish(one, job)
        assert await two.poll(wait=2) == []
        (job,) = await one.poll()
        assert job.run_id == ids[1]
        await finish(one, job)
        await finish(two, other)
        assert not world.store.tables.rows["run_actors"]
        is_clean(world)

    remote(main)


def test_a_worker_that_was_started_anew_has_lost_what_it_had() -> None:
    async def main(world: testing.World) -> None:
        await world.engine.register_remote(definition())
        worker = FakeWorker(world)
        await worker.register(instance="a")
        run_id = await world.start("remote")
        old = await worker.job()
        await worker.register(instance="a")  # the same process says anew what it is
        await worker.report(old, "progress")
        await worker.register(instance="b")
        assert (await worker.job()).run_id == run_id
        state = await world.state(run_id)
        assert (state.crashes, state.execution, state.worker) == (1, 2, "w")

    remote(main)


@pytest.mark.parametrize(
    ("key", "data", "actor"),
    [
        ("data.user", b'{"user":"ann"}', "ann"),
        ("user", b'{"user":7}', "7"),
        ("event.data.user.id", b'{"user":{"id":true}}', "true"),
        ("$.data.users[0]", b'{"users":["x"]}', "x"),
        ("user", b'{"user":{"id":1}}', None),
        ("user", b'{"user":""}', None),
        ("user", b"{}", None),
        ("user", b"3", None),
        ("user", None, None),
    ],
)
def test_the_actor_is_the_value_at_the_key(key: str, data: bytes | None, actor: Any) -> None:
    assert actor_of(key, data) == actor


def test_a_long_value_is_kept_as_its_digest_and_a_bad_key_is_refused() -> None:
    long = actor_of("user", b'{"user":"' + b"x" * 5000 + b'"}')
    assert long is not None
    assert len(long) == 64
    with pytest.raises(InvalidInput, match="actor_key"):
        actor_of("user..id", b"{}")


def test_the_actor_that_was_idle_for_longest_is_forgotten_first() -> None:
    bindings = Bindings(most=3)
    actors = [Actor("f", str(number)) for number in range(4)]
    for actor in (*actors[:3], actors[0], actors[3]):
        bindings.bind(actor, "w")
    assert [bindings.get(actor) for actor in actors] == ["w", None, "w", "w"]
    assert (len(bindings), bindings.count("w")) == (3, 3)
    bindings.bind(actors[0], "v")
    assert (bindings.count("w"), bindings.count("v")) == (2, 1)
    bindings.release_all("w")
    assert (len(bindings), bindings.count("w")) == (1, 0)
