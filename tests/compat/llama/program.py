"""A program written for LlamaIndex Workflows: it prints what it saw, as JSON. The test runs it as
it is, and with its import lines changed.
"""

import asyncio
import json
from typing import Annotated

from pydantic import BaseModel, Field
from workflows import Context, Workflow, step
from workflows.collect import Collect, Take
from workflows.decorators import catch_error
from workflows.errors import WorkflowTimeoutError
from workflows.events import (
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StepFailedEvent,
    StopEvent,
)
from workflows.representation import get_workflow_representation
from workflows.resource import Resource
from workflows.retry_policy import retry_policy, stop_after_attempt, wait_fixed


class Begin(StartEvent):
    name: str
    size: int = 3


class Part(Event):
    n: int


class Done(Event):
    n: int


class Note(Event):
    text: str


class Result(StopEvent):
    text: str


class Shape(BaseModel):
    count: int = 0
    names: list[str] = Field(default_factory=list)


def make_unit() -> str:
    return "kg"


class Mapped(Workflow):
    """Splits, works, joins."""

    @step
    async def split(self, ctx: Context[Shape], ev: Begin) -> list[Part]:
        """Makes parts."""
        ctx.write_event_to_stream(Note(text=f"{ev.name} {ev.get('color')}"))
        async with ctx.store.edit_state() as state:
            state.names.append(ev.name)
        return [Part(n=n) for n in range(ev.size)]

    @step(num_workers=2)
    async def work(self, ctx: Context[Shape], ev: Part) -> Done | None:
        async with ctx.store.edit_state() as state:
            state.count += 1
        return None if ev.n == 1 else Done(n=ev.n)

    @step
    async def join(
        self, ctx: Context[Shape], evs: list[Done], unit: Annotated[str, Resource(make_unit)]
    ) -> Result:
        state = await ctx.store.get_state()
        return Result(text=f"{sorted(e.n for e in evs)} {state.count} {state.names} {unit}")


class Taken(Workflow):
    @step
    async def split(self, ev: StartEvent) -> list[Part]:
        return [Part(n=n) for n in (3, 1, 2)]

    @step
    async def work(self, ev: Part) -> Done:
        await asyncio.sleep((0, 0.02, 0.15, 5)[ev.n])
        return Done(n=ev.n)

    @step
    async def join(self, evs: Annotated[list[Done], Collect(Take(2))]) -> StopEvent:
        return StopEvent(result=[e.n for e in evs])


class Gathered(Workflow):
    @step
    async def one(self, ctx: Context, ev: StartEvent) -> Part | None:
        for n in range(3):
            ctx.send_event(Part(n=n))
        return None

    @step(num_workers=1)
    async def two(self, ctx: Context, ev: Part) -> Done:
        return Done(n=ev.n)

    @step
    async def three(self, ctx: Context, ev: Done) -> StopEvent | None:
        found = ctx.collect_events(ev, [Done] * 3)
        return None if found is None else StopEvent(result=[e.n for e in found])


class Asking(Workflow):
    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        answer = await ctx.wait_for_event(
            HumanResponseEvent,
            waiter_event=InputRequiredEvent(prefix="name?"),
            requirements={"user": "ann"},
        )
        return StopEvent(result={"got": answer.response})


class Retried(Workflow):
    @step(retry_policy=retry_policy(wait=wait_fixed(0.01), stop=stop_after_attempt(3)))
    async def one(self, ctx: Context, ev: StartEvent) -> Part:
        await ctx.store.set("tries", await ctx.store.get("tries", 0) + 1)
        if ctx.retry_info().retry_number < ev.get("fails"):
            raise ValueError("no")
        return Part(n=await ctx.store.get("tries"))

    @catch_error
    async def mend(self, ev: StepFailedEvent) -> Part:
        return Part(n=-ev.attempts)

    @step
    async def end(self, ev: Part) -> StopEvent:
        return StopEvent(result=ev.n)


class Slow(Workflow):
    @step
    async def one(self, ev: StartEvent) -> StopEvent:
        await asyncio.sleep(10)
        return StopEvent()


class Kept(Workflow):
    @step
    async def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
        n = await ctx.store.get("deep.n", 0)
        await ctx.store.set("deep.n", n + 1)
        return StopEvent(result=n + 1)


async def mapped():
    handler = Mapped().run(name="x", color="red")
    seen = [(type(e).__name__, e.model_dump(mode="json")) async for e in handler.stream_events()]
    result = await handler
    return [seen, type(result).__name__, result.text]


async def asking():
    handler = Asking().run()
    seen = []
    async for event in handler.stream_events():
        seen.append(type(event).__name__)
        if isinstance(event, InputRequiredEvent):
            handler.ctx.send_event(HumanResponseEvent(response="no", user="bob"))
            handler.ctx.send_event(HumanResponseEvent(response="yes", user="ann"))
    return [seen, await handler]


async def failures():
    found = [await Retried().run(fails=fails) for fails in (0, 2, 5)]
    try:
        await Slow(timeout=0.05).run()
    except WorkflowTimeoutError as error:
        found.append(type(error).__name__)
    return found


async def kept():
    workflow = Kept()
    handler = workflow.run()
    first = await handler
    written = json.loads(json.dumps(handler.ctx.to_dict()))
    again = Context.from_dict(workflow, written)
    return [first, await workflow.run(ctx=again), written["state"]["state_data"]]


def graph():
    found = get_workflow_representation(Mapped())
    data = found if isinstance(found, dict) else found.model_dump()
    nodes = sorted((n["id"], n["node_type"]) for n in data["nodes"] if n["node_type"] != "resource")
    edges = sorted(
        (e["source"], e["target"]) for e in data["edges"] if not e["target"].startswith("resource")
    )
    return [data["name"], data["description"], nodes, edges]


async def main():
    return {
        "mapped": await mapped(),
        "empty": (await Mapped().run(name="y", size=0)).text,
        "taken": await Taken().run(),
        "gathered": await Gathered().run(),
        "asking": await asking(),
        "failures": await failures(),
        "kept": await kept(),
        "graph": graph(),
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main())))
