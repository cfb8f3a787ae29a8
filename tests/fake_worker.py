"""A worker of the plain protocol, by hand, for tests on virtual time."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from engine_world import play

from ironflow import testing
from ironflow.actors.elsewhere import jobs as reports
from ironflow.actors.workers.worker import PollDropped, PollJobs, RegisterWorker
from ironflow.core.functions.definition import Definition
from ironflow.core.remote import pull
from ironflow.core.runs.entries import RunOptions
from ironflow.core.runs.retry import RetryPolicy

QUICK = RetryPolicy(max_attempts=3, initial_delay=1.0, jitter=0.0)


def definition(function_id: str = "remote", **facts: Any) -> Definition:
    facts.setdefault("options", RunOptions(retry=QUICK))
    return Definition(id=function_id, name=function_id, code="c", placement="pull", **facts)


class FakeWorker:
    """A worker of the plain protocol, by hand."""

    def __init__(self, world: testing.World, worker_id: str = "w") -> None:
        self.world, self.id = world, worker_id

    async def register(self, *functions: str, **facts: Any) -> None:
        message = RegisterWorker(functions=frozenset(functions or ["remote"]), capacity=10, **facts)
        await self.ask(message)

    async def ask(self, message: Any) -> Any:
        return await self.world.engine.system.ref("worker", self.id).ask(message, timeout=None)

    async def poll(self, available: int = 10, wait: float = 20.0) -> list[pull.Job]:
        jobs: list[pull.Job] = (await self.ask(PollJobs(available=available, wait=wait))).jobs
        return jobs

    async def poll_and_hang_up(self, available: int) -> None:
        """Ask for work, and be gone while the poll is held."""
        poll = PollJobs(available=available, wait=20)
        asked = asyncio.create_task(self.ask(poll))
        await self.world.advance(1)
        asked.cancel()
        self.world.engine.system.ref("worker", self.id).post(PollDropped(poll))

    async def job(self) -> pull.Job:
        (job,) = await self.poll(1)
        return job

    async def report(self, job: pull.Job, status: str, **facts: Any) -> None:
        body = {
            "status": status,
            "execution_seq": job.execution_seq,
            "lease_token": job.lease_token,
        } | facts
        update = msgspec.json.decode(msgspec.json.encode(body), type=pull.JobUpdate)
        fleet = self.world.engine.fleet
        lease = reports.find_lease(
            fleet, self.id, job.job_id, update.execution_seq, update.lease_token
        )
        await reports.report(fleet, lease, update)


def step(job: pull.Job, name: str, output: Any = None, **facts: Any) -> dict[str, Any]:
    return {"id": f"{job.run_id}:{name}:0", "name": name, "output": output} | facts


async def ready(world: testing.World, **facts: Any) -> FakeWorker:
    await world.engine.register_remote(definition(**facts))
    worker = FakeWorker(world)
    await worker.register()
    return worker


def remote(main: Any, **options: Any) -> None:
    play(main, functions=options.pop("functions", []), **options)
