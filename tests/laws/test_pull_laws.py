"""The jobs that the server counts for a worker: whatever the worker says, and in which order, no
room is lost, none is taken twice, and every run ends.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from fake_worker import QUICK, definition
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.test_pull_window import Crew, done, end, opened

from ironflow import testing
from ironflow.actors.workers.worker import Heartbeat
from ironflow.core.errors import Conflict
from ironflow.core.remote.reports import RecordedJob, Report, encode_report
from ironflow.core.runs import commands as c
from ironflow.core.runs.entries import RunOptions
from ironflow.core.values.payloads import Failure

FAILURE = Failure("Boom", "no", retryable=True)
PLACE = st.integers(0, 5)
DEEDS = st.lists(
    st.one_of(
        st.tuples(st.just("start"), st.integers(1, 4)),
        st.tuples(st.just("say"), st.lists(st.tuples(st.sampled_from(
            ["step", "end", "end twice", "fail", "compensate", "refused", "leave", "forge"]
        ), PLACE), max_size=4), st.sampled_from([None, None, 1, 3, 6])),
        st.tuples(st.just("poll")),
        st.tuples(st.just("cancel"), PLACE),
        st.tuples(st.just("pause"), PLACE),
        st.tuples(st.just("beat")),
        st.tuples(st.just("register"), st.booleans()),
        st.tuples(st.just("wait"), st.sampled_from([0.0, 0.5, 11.0, 31.0, 100.0])),
    ),
    max_size=25,
)  # fmt: skip


class Played(Crew):
    """A worker that does as it is told, and remembers the jobs that it was handed."""

    def __init__(self, world: testing.World) -> None:
        super().__init__(world)
        self.jobs: list[RecordedJob] = []
        self.instance = 0
        self.polls: list[asyncio.Task[Any]] = []

    @property
    def is_known(self) -> bool:
        return self.id in self.world.engine.fleet.workers

    async def enter(self, *, anew: bool = False) -> None:
        self.instance += anew
        await self.register(window=3, instance=str(self.instance))

    def poll(self) -> None:  # type: ignore[override]
        self.polls.append(self.hold_poll())

    def collect(self) -> None:
        for poll in [poll for poll in self.polls if poll.done()]:
            self.polls.remove(poll)
            if poll.exception() is None:
                self.jobs += opened(poll.result())

    async def report(self, *reports: Report, window: int | None = None) -> Any:  # type: ignore[override]
        answers, jobs = await self.say(*reports, window=window)
        self.jobs += jobs
        return answers

    def close(self) -> None:
        for poll in self.polls:
            poll.cancel()


def reports_of(job: RecordedJob, what: str) -> list[Report]:
    match what:
        case "step":
            return [done(job, "a")]
        case "end":
            return [end(job)]
        case "end twice":
            return [end(job), end(job)]
        case "fail":
            return [end(job, outcome="failed", error=FAILURE)]
        case "compensate":
            failure = Failure("Boom", "no", retryable=False)
            return [end(job, outcome="failed", error=failure, compensations=True)]
        case "refused":
            return [end(job, outcome="compensated")]
        case "leave":
            left = c.ExecutionLeft(job.execution_seq)
            return [encode_report(job.job_id, job.execution_seq, job.lease_token, left)]
        case _:
            return [end(RecordedJob(job.job_id, job.execution_seq, "forged", job.record))]


def check(world: testing.World) -> None:
    """What holds whenever nothing is on its way."""
    fleet = world.engine.fleet
    assert set(fleet.queue.reserved.values()) <= {"w"}
    worker = fleet.workers.get("w")
    if worker is None:
        assert not fleet.leases
        return
    assert (worker.ending, worker.reporting) == (0, 0)
    assert worker.promised == len(fleet.queue.reserved)
    assert set(worker.jobs) == {lease.job_id for lease in fleet.leases.values()}
    assert all(not lease.is_ending for lease in fleet.leases.values())


async def act(world: testing.World, worker: Played, ids: list[str], deed: tuple[Any, ...]) -> None:
    match deed:
        case ("start", number):
            ids += [await world.start("remote", n) for n in range(number)]
        case ("say", said, window) if worker.is_known:
            reports = [
                report
                for what, place in said
                if worker.jobs
                for report in reports_of(worker.jobs[place % len(worker.jobs)], what)
            ]
            await worker.report(*reports, window=window)
        case ("poll",) if worker.is_known:
            worker.poll()
        case ("cancel" | "pause", place) if ids:
            run_id = ids[place % len(ids)]
            with suppress(Conflict):  # it has ended, or is being unwound
                await (world.cancel if deed[0] == "cancel" else world.pause)(run_id)
        case ("beat",) if worker.is_known:
            await worker.ask(Heartbeat(frozenset(job.job_id for job in worker.jobs)))
        case ("register", anew):
            await worker.enter(anew=anew)
        case ("wait", seconds):
            await world.advance(seconds)
        case _:
            pass


@settings(max_examples=150)
@given(DEEDS)
def test_whatever_a_worker_says_no_room_is_lost_and_every_run_ends(
    deeds: list[tuple[Any, ...]],
) -> None:
    async def main(world: testing.World) -> None:
        options = RunOptions(retry=QUICK, compensate_on=("failed", "cancelled"))
        await world.engine.register_remote(definition(options=options))
        worker, ids = Played(world), list[str]()
        await worker.enter()
        for deed in deeds:
            await act(world, worker, ids, deed)
            await world.advance(0.001)
            worker.collect()
            check(world)
        for _ in range(40):
            states = [await world.state(run_id) for run_id in ids]
            if all(state.is_terminal for state in states):
                break
            for state in states:
                if state.status == "paused":
                    await world.resume(state.id)
            await worker.enter()
            worker.poll()
            await world.advance(5)
            worker.collect()
            jobs, worker.jobs = worker.jobs, []
            await worker.report(*(end(job) for job in jobs))
            await worker.report(*(end(job, outcome="compensated") for job in jobs))
        assert [state.status for state in states if not state.is_terminal] == [] if ids else True
        worker.close()
        await world.advance(1)
        check(world)
        assert not world.engine.fleet.leases
        assert world.engine.pool.active == world.engine.pool.queued == 0

    testing.run(main, functions=[])
