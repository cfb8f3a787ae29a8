"""A step that cancels what another one has to do: what executes, waits or stands in line; and steps
that compute in a process of their own.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import threading
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, ClassVar

import process_steps
import pytest
from workflow_world import crash_after_each_commit, world

from ironflow import testing
from ironflow.core.errors import InvalidInput
from ironflow.core.runs.entries import decode_entry
from ironflow.core.runs.state import StepStatus
from ironflow.core.workflows.steps import StepHistory
from ironflow.workflows import Collect, Context, Workflow, step
from ironflow.workflows.collect import Take
from ironflow.workflows.errors import WorkflowRuntimeError
from ironflow.workflows.events import (
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StopEvent,
)
from ironflow.workflows.retry_policy import retry_policy, stop_after_attempt, wait_fixed


class Work(Event):
    number: int


class Found(Event):
    number: int


class Race(Workflow):
    """Several look for the same; who finds it first has the others stop."""

    ended: ClassVar[list[str]] = []

    @step
    async def begin(self, ev: StartEvent) -> list[Work]:
        return [Work(number=number) for number in range(6)]

    @step(num_workers=4)
    async def look(self, ctx: Context, ev: Work) -> Found:
        await ctx.store.set(f"looked {ev.number}", True)
        try:
            if ev.number != 2:
                await asyncio.sleep(3600)
        except asyncio.CancelledError:
            Race.ended.append(f"{ev.number} was cancelled")
            raise
        return Found(number=ev.number)

    @step
    async def stop(
        self, ctx: Context, found: Annotated[list[Found], Collect(Take(1))]
    ) -> StopEvent:
        count = ctx.cancel_step("look")
        return StopEvent(result=(found[0].number, count))


@pytest.mark.parametrize("crash_at", range(9))
def test_who_is_first_has_the_others_stop(crash_at: int) -> None:
    async def main(world: testing.World) -> None:
        Race.ended.clear()
        if crash_at:
            world.crash_at_commit(crash_at)
        await world.engine.workflows.start("Race", b"{}", run_id="r")
        run = await world.wait("r")
        # Three executed, one had taken the place of the first, one stood in line.
        assert run.result["value"] == {"result": [2, 5]}
        assert set(Race.ended) == {f"{n} was cancelled" for n in (0, 1, 3, 4)}  # some of them twice
        assert not (await world.state("r")).workflow.fans

    world(main, Race(timeout=None))


class Awaited(Event):
    pass


class Turns(Workflow):
    """Its slow step waits, is to be tried again, or does not care; the quick one cancels it."""

    told: ClassVar[list[str]] = []

    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> Awaited | Work:
        ctx.send_event(Work(number=ev.kind))
        return Awaited()

    @step(retry_policy=retry_policy(wait=wait_fixed(60), stop=stop_after_attempt(9)))
    async def slow(self, ctx: Context, ev: Work) -> StopEvent:
        if ev.number == 0:
            await ctx.wait_for_event(HumanResponseEvent, InputRequiredEvent(), timeout=600)
        elif ev.number == 1:
            raise OSError("not yet")
        elif ev.number == 2:
            child = Asks(timeout=None).run()
            await child
        else:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                Turns.told.append("does not care")
            await asyncio.sleep(20)
            try:
                await ctx.store.set("late", True)
            except WorkflowRuntimeError as error:
                Turns.told.append(str(error))
        return StopEvent(result="slow")

    @step
    async def quick(self, ctx: Context, ev: Awaited) -> Found:
        await asyncio.sleep(5)
        return Found(number=ctx.cancel_step("slow", where=lambda event: event.number < 9))

    @step
    async def after(self, ctx: Context, ev: Found) -> StopEvent:
        await asyncio.sleep(1800)  # whatever the other would have done, it would have done now
        left = await ctx.running_steps()
        return StopEvent(result=(ev.number, left, await ctx.store.get("late", None)))


class Asks(Workflow):
    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        await ctx.wait_for_event(HumanResponseEvent, InputRequiredEvent(), timeout=None)
        return StopEvent()


@pytest.mark.parametrize(
    "kind", [0, 1, 2, 3], ids=["waits", "is to be tried again", "awaits a child", "does not care"]
)
def test_whatever_it_is_at_it_comes_to_nothing(kind: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "ironflow.workflows")

    async def main(world: testing.World) -> None:
        Turns.told.clear()
        start = b'{"_data":{"kind":%d}}' % kind
        await world.engine.workflows.start("Turns", start, run_id="r")
        run = await world.wait("r")
        assert run.result["value"] == {"result": [1, ["after"], None]}
        steps = {s.name: s for s in (await steps_of(world, "r")).values()}
        assert steps["slow"].status is StepStatus.CANCELLED
        assert steps["quick"].status is StepStatus.COMPLETED
        if kind == 2:
            child = steps["slow"].child
            assert child is not None
            assert (await world.wait(child)).status == "cancelled"
        if kind == 3:
            assert Turns.told[0] == "does not care"
            assert "after the step had ended" in Turns.told[1]
            assert "step slow was cancelled by another, but goes on" in caplog.text

    world(main, Turns(timeout=None), Asks(timeout=None))


async def steps_of(world: testing.World, run_id: str) -> dict[str, Any]:
    history = StepHistory()
    for row in world.store.tables.streams[f"run/{run_id}"]:
        history.add(decode_entry(row.kind, row.data), row.at)
    return history.steps


class Again(Workflow):
    """Cancels, and is executed again; what it cancelled then has begun anew by itself."""

    entered: ClassVar[int] = 0

    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> Awaited | Work:
        ctx.send_event(Work(number=0))
        ctx.send_event(Work(number=1))
        return Awaited()

    @step
    async def slow(self, ctx: Context, ev: Work) -> StopEvent | None:
        await asyncio.sleep(100 if ev.number < 2 else 5)
        return StopEvent(result=ev.number) if ev.number == 2 else None

    @step
    async def quick(self, ctx: Context, ev: Awaited) -> None:
        Again.entered += 1
        await asyncio.sleep(1)
        count = ctx.cancel_step("slow")
        ctx.send_event(Work(number=2))
        await ctx.once("know", int, count)
        await asyncio.sleep(1)
        await ctx.store.set("count", count)


@pytest.mark.parametrize("crash_at", range(1, 9))
def test_a_crash_does_not_cancel_what_came_after(crash_at: int) -> None:
    async def main(world: testing.World) -> None:
        Again.entered = 0
        world.crash_at_commit(crash_at)
        await world.engine.workflows.start("Again", b"{}", run_id="r")
        run = await world.wait("r")
        assert run.result["value"] == {"result": 2}
        state = await world.state("r")
        assert state.workflow is not None
        assert state.workflow.store == {"count": 2}

    world(main, Again(timeout=None))


class Passed(Event):
    number: int


class Random(Workflow):
    """Steps at random that cancel each other at random, in a fan-out that must come to its end."""

    @step
    async def begin(self, ev: StartEvent) -> list[Work]:
        return [Work(number=number, seed=ev.seed) for number in range(5)]

    @step(num_workers=2)
    async def one(self, ctx: Context, ev: Work) -> Passed | None:
        chance = random.Random(f"{ev.seed} {ev.number}")
        match chance.randrange(6):
            case 0:
                await asyncio.sleep(chance.random() * 50)
            case 1:
                ctx.cancel_step("one", where=lambda other: (other.number + ev.seed) % 2 == 0)
            case 2:
                await ctx.store.set(f"key {ev.number}", 1)
                await asyncio.sleep(chance.random() * 20)
                ctx.cancel_step("two")
            case 3:
                with suppress(TimeoutError):
                    await ctx.wait_for_event(HumanResponseEvent, InputRequiredEvent(), timeout=30)
            case 4:
                return None
        return Passed(number=ev.number, seed=ev.seed)

    @step
    async def two(self, ctx: Context, ev: Passed) -> Found:
        chance = random.Random(f"two {ev.seed} {ev.number}")
        await asyncio.sleep(chance.random() * 10)
        if chance.random() < 0.3:
            ctx.cancel_step("one")
        return Found(number=ev.number)

    @step
    async def join(self, found: list[Found]) -> StopEvent:
        return StopEvent(result=len(found))


@pytest.mark.parametrize("seed", range(8))
def test_whoever_cancels_whom_the_run_comes_to_its_end(seed: int) -> None:
    """Also when the process dies after any of its commits."""

    async def main(world: testing.World) -> None:
        await world.engine.workflows.start("Random", b'{"_data":{"seed":%d}}' % seed, run_id="r")
        run = await world.wait("r")
        assert run.status == "completed", run.error
        assert not (await world.state("r")).workflow.fans

    crash_after_each_commit(main, Random(timeout=None))


def test_there_must_be_such_a_step() -> None:
    class Odd(Workflow):
        @step
        async def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
            with pytest.raises(WorkflowRuntimeError, match="there is no step 'nobody'"):
                ctx.cancel_step("nobody")
            return StopEvent(result=ctx.cancel_step("begin"))

    async def main() -> None:
        assert await Odd().run() == 0  # never the job that asks

    asyncio.run(main())


# -- processes -------------------------------------------------------------------------------------


class Computes(Workflow):
    entered: ClassVar[int] = 0

    @step(retry_policy=retry_policy(wait=wait_fixed(0.01), stop=stop_after_attempt(2)))
    async def compute(self, ctx: Context, ev: StartEvent) -> StopEvent:
        Computes.entered += 1
        first = await ctx.once_in_process("who", process_steps.pid)
        if Computes.entered == 1:
            await ctx.store.set("first", first)
            raise OSError("once more")
        with pytest.raises(InvalidInput):
            await ctx.once_in_process("odd", lambda: 1)
        return StopEvent(result=first != os.getpid() and first == await ctx.store.get("first"))


def test_a_call_in_a_process_is_made_once() -> None:
    async def main(world: testing.World) -> None:
        Computes.entered = 0
        await world.engine.workflows.start("Computes", b"{}", run_id="r")
        run = await world.wait("r")
        assert run.result is not None, run.error
        assert run.result["value"] == {"result": True}
        assert Computes.entered == 2

    world(main, Computes(timeout=None))


def test_a_process_ends_with_the_step_that_is_cancelled(tmp_path: Path) -> None:
    file = tmp_path / "pid"

    class Ends(Workflow):
        @step
        async def begin(self, ctx: Context, ev: StartEvent) -> Awaited | Found:
            ctx.send_event(Found(number=1))
            return Awaited()

        @step
        async def burn(self, ctx: Context, ev: Awaited) -> None:
            await ctx.once_in_process("burn", process_steps.burn, str(file))

        @step
        async def end(self, ctx: Context, ev: Found) -> StopEvent:
            pids = await asyncio.to_thread(appeared, file)
            assert ctx.cancel_step("burn") == 1
            return StopEvent(result=pids)

    async def main() -> None:
        for pid in await Ends(timeout=None).run():
            await asyncio.to_thread(wait_until_gone, pid)

    asyncio.run(main())


def appeared(file: Path) -> list[int]:
    """The pids in a file, once a process has written it."""
    pause = threading.Event()
    while not file.exists():
        pause.wait(0.005)
    return [int(word) for word in file.read_text().split()]


def wait_until_gone(pid: int) -> None:
    pause = threading.Event()
    while Path(f"/proc/{pid}").exists() and "Z" not in state_of(pid):
        pause.wait(0.005)


def state_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return "Z"
