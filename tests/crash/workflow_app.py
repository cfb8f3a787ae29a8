"""Workflows for the tests that kill the server; what executes is written to a file beside it."""

import asyncio
import os

from ironflow.workflows import Context, Workflow, step
from ironflow.workflows.events import (
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StopEvent,
)


def note(line: str) -> None:
    with open(os.environ["CRASH_SIDE_FILE"], "a", encoding="utf-8") as file:
        file.write(line + "\n")


class Part(Event):
    n: int


class Done(Event):
    n: int


class Told(Event):
    text: str


class Mixed(Workflow):
    """Fans out, counts in the shared store, streams, waits for somebody, asks a child."""

    @step
    async def split(self, ctx: Context, ev: StartEvent) -> list[Part]:
        ctx.write_event_to_stream(Told(text="split"))
        return [Part(n=ev.number + n) for n in range(4)]

    @step(num_workers=3)
    async def work(self, ctx: Context, ev: Part) -> Done:
        for n in range(3):
            ctx.write_event_to_stream(Told(text=f"work {ev.n} {n}"))
            await asyncio.sleep(0.01)
        async with ctx.store.edit_state() as state:
            state["count"] = state.get("count", 0) + 1
        paid = await ctx.once("pay", lambda: note(f"pay {ctx.run_id} {ev.n}") or ev.n)
        await asyncio.sleep(0.02)
        return Done(n=paid)

    @step
    async def join(self, ctx: Context, evs: list[Done]) -> StopEvent:
        answer = await ctx.wait_for_event(
            HumanResponseEvent, InputRequiredEvent(prefix="go on?"), timeout=None
        )
        total = await Sum(timeout=None).run(numbers=[e.n for e in evs])
        count = await ctx.store.get("count")
        return StopEvent(result=[total, count, answer.response])


class Sum(Workflow):
    @step
    async def add(self, ev: StartEvent) -> StopEvent:
        await asyncio.sleep(0.02)
        return StopEvent(result=sum(ev.numbers))


mixed = Mixed(timeout=None)
child = Sum(timeout=None)
