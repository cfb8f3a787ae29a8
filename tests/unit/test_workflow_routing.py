"""Who gets an event, what ends a run, and what code below a step can ask."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

import pytest
from workflow_parts import Done, Note, Part

from ironflow.workflows import Context, Workflow, step
from ironflow.workflows.errors import WorkflowRuntimeError, WorkflowValidationError
from ironflow.workflows.events import Event, StartEvent, StopEvent


class Special(Part):
    """Not the class that steps name, but derived from it."""


class Exact(Workflow):
    @step
    async def one(self, ctx: Context, ev: StartEvent) -> Part | None:
        ctx.send_event(Special(n=1))
        ctx.send_event(Part(n=2))
        return None

    @step
    async def two(self, ev: Part) -> Done:
        return Done(n=ev.n)

    @step
    async def three(self, ctx: Context, ev: Done) -> StopEvent | None:
        await asyncio.sleep(0.01)
        found = ctx.collect_events(ev, [Done] * ctx_size(ctx))
        return StopEvent(result=[each.n for each in found]) if found else None


def ctx_size(ctx: Context[Any]) -> int:
    """How many parts the workflow takes."""
    return 2 if isinstance(ctx._workflow, Derived) else 1


class Derived(Exact):
    @step(accept_event_subclasses=True)
    async def two(self, ev: Part) -> Done:
        return Done(n=ev.n)


async def test_steps_take_exactly_the_classes_that_they_name_or_say_otherwise() -> None:
    assert await Exact().run() == [2]
    assert sorted(await Derived().run()) == [1, 2]


class Racing(Workflow):
    cancelled: ClassVar[list[str]] = []

    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> Part | Done | None:
        ctx.send_event(Done(n=1))
        ctx.send_event(Part(n=1))
        return None

    @step
    async def slow(self, ctx: Context, ev: Done) -> StopEvent:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            Racing.cancelled.append("slow")
            raise
        return StopEvent(result="slow")

    @step
    async def fast(self, ev: Part) -> StopEvent:
        await asyncio.sleep(0.01)
        return StopEvent(result="fast")


async def test_the_first_stop_event_ends_the_run_and_cancels_what_executes() -> None:
    Racing.cancelled.clear()
    handler = Racing().run()
    await asyncio.sleep(0.005)
    assert await handler.ctx.running_steps() == ["fast", "slow"]
    assert await handler == "fast"
    assert Racing.cancelled == ["slow"]
    assert [type(event) async for event in handler.stream_events()] == [StopEvent]


async def say(text: str) -> None:
    """Far below a step, which handed it nothing."""
    ctx = Context.get_step_context()
    ctx.write_event_to_stream(Note(text=text))
    await ctx.store.set("said", text)


class Saying(Workflow):
    @step
    async def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
        await asyncio.create_task(say("hello"))
        return StopEvent(result=await ctx.store.get("said"))


async def test_code_below_a_step_finds_its_context() -> None:
    handler = Saying().run()
    assert await handler == "hello"
    seen: list[Event] = [event async for event in handler.stream_events()]
    assert [type(event) for event in seen] == [Note, StopEvent]
    with pytest.raises(WorkflowRuntimeError, match="no step"):
        Context.get_step_context()


def test_a_step_says_for_itself_that_a_check_is_not_for_it() -> None:
    def build(skip: list[Any]) -> type[Workflow]:
        class Side(Workflow):
            @step
            async def one(self, ev: StartEvent) -> StopEvent:
                return StopEvent()

            @step(skip_graph_checks=skip)
            async def two(self, ev: StartEvent) -> Part:
                return Part(n=1)

            @step
            async def three(self, ev: Part) -> None:
                return None

        return Side

    build(["dead_end"])()
    with pytest.raises(WorkflowValidationError, match="from 'two' no way"):
        build(["reachability"])()
