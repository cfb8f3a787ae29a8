"""Workflows and events that several tests run and send."""

from __future__ import annotations

import asyncio

from ironflow.workflows import Context, Workflow, step
from ironflow.workflows.events import (
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StopEvent,
)


class A(Event):
    n: int = 0


class B(Event):
    pass


class Part(Event):
    n: int


class Done(Event):
    n: int


class Note(Event):
    text: str


class Fine(Workflow):
    @step
    async def one(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result=1)


class Odd(Exception):
    """With arguments that say more than its text."""

    def __init__(self, code: int) -> None:
        super().__init__(f"odd {code}")
        self.code = code


class Failing(Workflow):
    @step
    async def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
        raise Odd(7)


class Slow(Workflow):
    @step
    async def doze(self, ev: StartEvent) -> StopEvent:
        await asyncio.sleep(60)
        return StopEvent()


class Mapped(Workflow):
    @step
    async def split(self, ev: StartEvent) -> list[Part]:
        return [Part(n=n) for n in range(ev.size)]

    @step(num_workers=2)
    async def work(self, ctx: Context, ev: Part) -> Done | None:
        async with ctx.store.edit_state() as state:
            state["now"] = state.get("now", 0) + 1
            state["most"] = max(state.get("most", 0), state["now"])
        await asyncio.sleep(0.002 * (5 - ev.n))
        async with ctx.store.edit_state() as state:
            state["now"] -= 1
        return None if ev.n == 2 else Done(n=ev.n)

    @step
    async def join(self, ctx: Context, evs: list[Done]) -> StopEvent:
        return StopEvent(result=[[e.n for e in evs], await ctx.store.get("most", 0)])


class Asking(Workflow):
    entered = 0

    @step
    async def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
        Asking.entered += 1
        async with ctx.store.edit_state() as state:
            state["asked"] = state.get("asked", 0) + 1
        ctx.write_event_to_stream(Note(text="before"))
        first = await ctx.wait_for_event(
            HumanResponseEvent, InputRequiredEvent(prefix="?"), requirements={"user": "ann"}
        )
        second = await ctx.wait_for_event(HumanResponseEvent, waiter_id="again")
        asked = await ctx.store.get("asked")
        return StopEvent(result=[first.response, second.response, asked])


class Counting(Workflow):
    @step
    async def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
        n = await ctx.store.get("user.n", 0)
        await ctx.store.set("user.n", n + 1)
        return StopEvent(result=n + 1)
