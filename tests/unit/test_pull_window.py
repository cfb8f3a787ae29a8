"""A worker whose jobs the server counts: what comes with the answers to reports, how many jobs it
has at a time, and how its reports share requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from engine_world import is_clean
from fake_worker import FakeWorker, definition, remote

from ironflow import testing
from ironflow.actors.workers.exchange import News, exchange
from ironflow.actors.workers.worker import PollJobs, RegisterWorker
from ironflow.core.remote.reports import Answer, RecordedJob, Report, encode_report
from ironflow.core.runs import commands as c
from ironflow.core.runs.entries import Failure, Payload, RunOptions
from ironflow.sdk.link import Link
from ironflow.sdk.slots import PATIENCE, Held, Slots


class Crew(FakeWorker):
    """A worker of commands, by hand."""

    async def register(self, *functions: str, **facts: Any) -> None:
        window = facts.pop("window", 2)
        await self.ask(
            RegisterWorker(
                functions=frozenset(functions or ["remote"]),
                capacity=2, commands=True, window=window, **facts,
            )
        )  # fmt: skip

    def hold_poll(self) -> asyncio.Task[News]:
        return asyncio.create_task(self.ask(PollJobs(available=0, wait=20)))

    async def say(
        self, *reports: Report, window: int | None = None
    ) -> tuple[list[Answer], list[RecordedJob]]:
        fleet = self.world.engine.fleet
        answers, news = await exchange(fleet, fleet.workers[self.id], reports, window)
        return answers, opened(news)


def opened(news: News) -> list[RecordedJob]:
    return [msgspec.json.decode(msgspec.json.encode(job), type=RecordedJob) for job in news.jobs]


def end(job: RecordedJob, **facts: Any) -> Report:
    facts.setdefault("outcome", "completed")
    command = c.EndExecution(execution=job.execution_seq, **facts)
    return encode_report(job.job_id, job.execution_seq, job.lease_token, command)


def done(job: RecordedJob, key: str) -> Report:
    command = c.RecordStep(
        execution=job.execution_seq, key=key, name=key, pos=0, kind="run", result=Payload(b"1")
    )
    return encode_report(job.job_id, job.execution_seq, job.lease_token, command)


async def crew(world: testing.World, **facts: Any) -> Crew:
    await world.engine.register_remote(definition(**facts.pop("function", {})))
    worker = Crew(world)
    await worker.register(**facts)
    return worker


def test_the_answer_to_an_end_brings_the_next_job_and_none_more_than_the_window() -> None:
    async def main(world: testing.World) -> None:
        worker = await crew(world)
        ids = [await world.start("remote", n) for n in range(5)]
        jobs = opened(await worker.hold_poll())
        assert [job.record.id for job in jobs] == ids[:2]
        assert jobs[0].record.input.json == b"0"
        poll = worker.hold_poll()
        await world.advance(1)
        assert not poll.done()  # two are what it takes
        answers, more = await worker.say(done(jobs[0], "a"), end(jobs[1]))
        assert [answer.code for answer in answers] == [None, None]
        assert [job.record.id for job in more] == [ids[2]]
        # A larger window brings more at once, a smaller one nothing until there is room again.
        _, two = await worker.say(window=4)
        assert two == []
        first = opened(await poll)
        assert [job.record.id for job in first] == ids[3:]
        late = await world.start("remote", 5)
        poll = worker.hold_poll()
        await world.advance(1)
        answers, none = await worker.say(end(jobs[0]), window=3)
        assert (answers[0].code, none) == (None, [])
        _, last = await worker.say(end(more[0]))
        assert [job.record.id for job in last] == [late]
        await worker.say(*(end(job) for job in (*first, *last)))
        assert not poll.done()
        poll.cancel()
        assert [(await world.wait(run_id)).status for run_id in ids] == ["completed"] * 5
        is_clean(world)

    remote(main)


def test_a_body_that_compensates_keeps_its_place() -> None:
    async def main(world: testing.World) -> None:
        options = RunOptions(compensate_on=("failed",))
        worker = await crew(world, window=1, function={"options": options})
        (first, second) = [await world.start("remote", n) for n in range(2)]
        (job,) = opened(await worker.hold_poll())
        poll = worker.hold_poll()
        failure = Failure("Boom", "no", retryable=False)
        answers, more = await worker.say(
            end(job, outcome="failed", error=failure, compensations=True)
        )
        assert (answers[0].directive, more) == ("compensate", [])
        answers, more = await worker.say(end(job, outcome="compensated"))
        assert answers[0].directive == "go"
        await world.advance(1)
        assert (await world.wait(first)).status == "failed"
        assert (await world.state(second)).status == "running"
        poll.cancel()

    remote(main)


def test_an_end_that_is_refused_frees_nothing() -> None:
    async def main(world: testing.World) -> None:
        worker = await crew(world, window=1)
        await world.start("remote")
        waiting = await world.start("remote")
        (job,) = opened(await worker.hold_poll())
        poll = worker.hold_poll()
        forged = msgspec.structs.replace(job, lease_token="forged")
        answers, more = await worker.say(end(forged), end(job, outcome="compensated"))
        assert ([a.code for a in answers], more) == (["STALE_EXECUTION", "conflict"], [])
        await world.advance(1)
        # What its room was granted to comes all the same; the worker has it wait for a slot.
        kept = world.engine.fleet.workers["w"]
        assert (kept.ending, len(kept.jobs)) == (0, 2)
        await worker.say(end(job))
        assert (await world.wait(job.record.id)).status == "completed"
        jobs = opened(await poll)
        assert [job.record.id for job in jobs] == [waiting]

    remote(main)


def test_what_comes_while_nobody_asks_waits_for_whoever_does() -> None:
    async def main(world: testing.World) -> None:
        worker = await crew(world)
        await worker.poll_and_hang_up(0)
        run_id = await world.start("remote")
        await world.advance(1)
        assert (await world.state(run_id)).status == "queued"  # nothing could be brought
        _, jobs = await worker.say()
        if not jobs:  # granted, and not durable yet when that answer left
            jobs = opened(await worker.hold_poll())
        assert [job.record.id for job in jobs] == [run_id]
        await worker.say(end(jobs[0]))
        is_clean(world)

    remote(main)


# -- the worker's side ----------------------------------------------------------------------------


def held(number: int) -> Any:
    return Held(RecordedJob(f"j{number}", 1, "t", None), None, None)  # type: ignore[arg-type]


def test_slots_are_never_more_than_they_may_be_and_who_waits_too_long_is_given_back() -> None:
    async def main(world: testing.World) -> None:
        begun: list[str] = []
        returned: list[str] = []

        def give_back(one: Held) -> None:
            slots.remove(one)
            returned.append(one.job.job_id)

        slots = Slots(2, lambda one: begun.append(one.job.job_id), give_back)
        assert slots.window(0.01) == 2  # nothing is known of its bodies yet
        jobs = [held(number) for number in range(5)]
        for job in jobs:
            slots.add(job)
        assert begun == ["j0", "j1"]
        await world.advance(0.01)
        slots.free(jobs[1])
        slots.free(jobs[1])  # once is enough
        assert begun == ["j0", "j1", "j2"]
        assert slots.window(0.01) == 4  # bodies as short as the way: as many again
        assert slots.window(0.0001) == 2
        await world.advance(PATIENCE)
        assert returned == ["j3", "j4"]
        assert slots.window(0.01) == 2
        for job in (jobs[0], jobs[2]):
            slots.remove(job)
        slots.remove(jobs[1])
        assert len(slots) == 0
        slots.add(held(9))
        assert begun[-1] == "j9"

    testing.run(main, functions=[])


class Wire(Link):
    """A link whose requests are answered by the test."""

    def __init__(self) -> None:
        super().__init__("http://nowhere", "w", None)  # type: ignore[arg-type]
        self.sent: list[list[str]] = []
        self.gates: list[asyncio.Future[None]] = []
        self.garbage: list[bytes] = []

    async def request(self, method: str, path: str, body: Any = None, **_: Any) -> bytes:
        jobs = [report["job_id"] for report in msgspec.json.decode(body)["reports"]]
        self.sent.append(jobs)
        self.gates.append(asyncio.get_running_loop().create_future())
        await self.gates[-1]
        if self.garbage:
            return self.garbage.pop()
        return msgspec.json.encode({"answers": [{"directive": "go"}] * len(jobs)})

    def say(self, *jobs: str) -> list[asyncio.Task[Answer]]:
        report = encode_report("", 1, "t", c.EndExecution(execution=1, outcome="completed"))
        return [
            asyncio.create_task(self.report(msgspec.structs.replace(report, job_id=job)))
            for job in jobs
        ]

    async def answer(self, number: int) -> None:
        self.gates[number].set_result(None)
        await settle()


async def settle() -> None:
    for _ in range(12):
        await asyncio.sleep(0)


@pytest.mark.parametrize("rounds", [1, 3])
def test_reports_share_requests_under_load_and_wait_for_nothing_else(rounds: int) -> None:
    async def main() -> None:
        link = Wire()
        for _ in range(rounds):
            link.sent.clear()
            link.gates.clear()
            crowd = [f"a{number}" for number in range(4)]
            tasks = link.say(*crowd)
            await settle()
            assert link.sent == [crowd]
            tasks += link.say("b", "c")
            await settle()
            assert link.sent == [crowd]  # too few for a request of their own
            tasks += link.say("d", "e")
            await settle()
            assert link.sent == [crowd, ["b", "c", "d", "e"]]
            again = link.say("b", "f")  # `b` has one under way: they are taken in order
            await settle()
            assert len(link.sent) == 2
            await link.answer(0)
            assert link.sent[2:] == [["f"]]
            await link.answer(1)
            assert link.sent[3:] == [["b"]]
            await link.answer(2)
            await link.answer(3)
            answers = await asyncio.gather(*tasks, *again)
            assert {answer.directive for answer in answers} == {"go"}
            # With nothing under way one goes at once, and a second one beside it.
            alone = link.say("x")
            await settle()
            alone += link.say("y")
            await settle()
            assert link.sent[4:] == [["x"], ["y"]]
            await link.answer(5)
            await link.answer(4)
            await asyncio.gather(*alone)
        await link.close()

    asyncio.run(main())


def test_what_is_no_answer_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ironflow.sdk.link.FIRST_PAUSE", 0.001)

    async def main() -> None:
        link = Wire()
        link.garbage = [b"<html>", b'{"answers":[]}', b"\xff"]
        (task,) = link.say("a")
        for number in range(4):
            while len(link.gates) <= number:  # noqa: ASYNC110 - a pause of a millisecond
                await asyncio.sleep(0.001)
            link.gates[number].set_result(None)
        assert (await task).directive == "go"
        assert link.sent == [["a"]] * 4

    asyncio.run(main())


def test_a_job_brings_the_secrets_of_its_function_whatever_brings_the_job() -> None:
    class Vault:
        async def read(self, names: Sequence[str]) -> dict[str, str]:
            await asyncio.sleep(0.01)
            return {name: f"the {name.lower()}" for name in names}

    async def main(world: testing.World) -> None:
        world.engine.secrets = world.engine.fleet.secrets = Vault()
        worker = await crew(world, window=1, function={"secrets": ("KEY",)})
        for number in range(2):
            await world.start("remote", number)
        (first,) = opened(await worker.hold_poll())
        _, (second,) = await worker.say(end(first))
        for job in (first, second):
            assert job.context.secrets == {"KEY": "the key"}  # type: ignore[union-attr]
        await worker.say(end(second))
        is_clean(world)

    remote(main)
