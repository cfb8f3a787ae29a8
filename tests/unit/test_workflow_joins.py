"""Fan-out and fan-in of workflows, in this process, and steps that wait for an answer."""

from __future__ import annotations

import asyncio
from typing import Annotated

import pytest
from workflow_parts import Asking, Done, Mapped, Note, Part

from ironflow.workflows import Context, Workflow, step
from ironflow.workflows.collect import Collect, Take
from ironflow.workflows.errors import WorkflowRuntimeError
from ironflow.workflows.events import HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent

# -- fan-out and fan-in ----------------------------------------------------------------------------


async def test_a_list_fans_out_and_joins() -> None:
    numbers, most = await Mapped().run(size=5)
    assert sorted(numbers) == [0, 1, 3, 4]
    assert most == 2  # num_workers
    assert await Mapped().run(size=0) == [[], 0]


class First(Workflow):
    @step
    async def split(self, ev: StartEvent) -> list[Part]:
        return [Part(n=n) for n in (3, 1, 2)]

    @step
    async def work(self, ev: Part) -> Done:
        await asyncio.sleep(0.01 * ev.n)
        return Done(n=ev.n)

    @step
    async def join(self, evs: Annotated[list[Done], Collect(Take(2))]) -> StopEvent:
        return StopEvent(result=[e.n for e in evs])


async def test_a_join_that_takes_the_first() -> None:
    assert await First().run() == [1, 2]


class Pairs(Workflow):
    @step
    async def one(self, ctx: Context, ev: StartEvent) -> Part | Done:
        ctx.send_event(Part(n=1))
        ctx.send_event(Part(n=2))
        return Done(n=3)

    @step
    async def both(self, left: Part, right: Done) -> StopEvent:
        return StopEvent(result=[left.n, right.n])


async def test_several_parameters_join_one_of_each() -> None:
    assert await Pairs().run() == [1, 3]


class Gathered(Workflow):
    @step
    async def one(self, ctx: Context, ev: StartEvent) -> Part | None:
        for n in range(3):
            ctx.send_event(Part(n=n))
        return None

    @step
    async def work(self, ev: Part) -> Done:
        return Done(n=ev.n)

    @step
    async def gather(self, ctx: Context, ev: Done | Part) -> StopEvent | None:
        found = ctx.collect_events(ev, [Done, Done, Done, Part])
        return StopEvent(result=[type(e).__name__ for e in found]) if found else None


async def test_collected_events_come_in_the_order_that_was_asked_for() -> None:
    assert await Gathered().run() == ["Done", "Done", "Done", "Part"]


class Directed(Workflow):
    @step
    async def one(self, ctx: Context, ev: StartEvent) -> Part | None:
        with pytest.raises(WorkflowRuntimeError, match="does not take"):
            ctx.send_event(Note(text=""), step="two")
        with pytest.raises(WorkflowRuntimeError, match="no step"):
            ctx.send_event(Part(n=1), step="nope")
        ctx.send_event(Part(n=1), step="two")
        return None

    @step
    async def two(self, ev: Part) -> StopEvent:
        return StopEvent(result="two")

    @step
    async def three(self, ev: Part) -> StopEvent:
        return StopEvent(result="three")


async def test_an_event_for_one_step() -> None:
    assert await Directed().run() == "two"


# -- waits -----------------------------------------------------------------------------------------


async def test_what_a_step_did_before_it_waited_happens_once() -> None:
    Asking.entered = 0
    handler = Asking(timeout=None).run()
    seen: list[str] = []
    async for event in handler.stream_events():
        seen.append(type(event).__name__)
        if isinstance(event, InputRequiredEvent):
            await handler.send_event(HumanResponseEvent(response="no", user="bob"))
            await handler.send_event(HumanResponseEvent(response="yes", user="ann"))
            await asyncio.sleep(0.02)
            await handler.send_event(HumanResponseEvent(response="sure"))
    assert await handler == ["yes", "sure", 1]
    assert seen == ["Note", "InputRequiredEvent", "StopEvent"]
    assert Asking.entered == 3


class Impatient(Workflow):
    @step
    async def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
        try:
            await ctx.wait_for_event(HumanResponseEvent, timeout=0.02)
        except TimeoutError as error:
            return StopEvent(result=str(error))
        return StopEvent()


async def test_a_wait_with_a_limit() -> None:
    assert await Impatient().run() == "no HumanResponseEvent came in time"


class ManyAsk(Workflow):
    @step
    async def split(self, ev: StartEvent) -> list[Part]:
        return [Part(n=n) for n in range(3)]

    @step
    async def ask(self, ctx: Context, ev: Part) -> Done:
        answer = await ctx.wait_for_event(
            HumanResponseEvent, InputRequiredEvent(n=ev.n), requirements={"n": ev.n}
        )
        return Done(n=answer.value)

    @step
    async def join(self, evs: list[Done]) -> StopEvent:
        return StopEvent(result=sorted(e.n for e in evs))


async def test_each_job_of_a_step_waits_for_itself() -> None:
    handler = ManyAsk(timeout=None).run()
    async for event in handler.stream_events():
        if isinstance(event, InputRequiredEvent):
            handler.ctx.send_event(HumanResponseEvent(n=event.n, value=event.n * 10))
    assert await handler == [0, 10, 20]


class Both(Workflow):
    @step
    async def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
        found = await asyncio.gather(
            ctx.wait_for_event(HumanResponseEvent, requirements={"k": 1}),
            ctx.wait_for_event(HumanResponseEvent, requirements={"k": 2}),
        )
        return StopEvent(result=[each.v for each in found])


async def test_two_waits_at_once_in_one_step() -> None:
    handler = Both(timeout=None).run()
    await asyncio.sleep(0.02)
    await handler.send_event(HumanResponseEvent(k=2, v="b"))
    await asyncio.sleep(0.02)
    await handler.send_event(HumanResponseEvent(k=1, v="a"))
    assert await handler == ["a", "b"]
