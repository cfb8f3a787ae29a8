"""The story of the golden journal of an event-driven workflow."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from ironflow import testing
from ironflow.core.errors import Conflict, IronflowError
from ironflow.workflows import Context, Workflow, step
from ironflow.workflows.events import Event, StartEvent, StopEvent
from ironflow.workflows.mounting import MountedWorkflow
from ironflow.workflows.retry_policy import retry_policy, stop_after_attempt, wait_fixed

TRIES = retry_policy(wait=wait_fixed(5), stop=stop_after_attempt(4))


class Part(Event):
    n: int


class Doubled(Event):
    n: int


class Answer(Event):
    text: str


class GoldenChild(Workflow):
    @step
    async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
        return StopEvent(result=ev.n * 2)


class GoldenWorkflow(Workflow):
    """Fans out and in, tries again, asks another workflow, and waits for somebody's answer."""

    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> list[Part]:
        await ctx.store.set("begun", True)
        return [Part(n=1), Part(n=2)]

    @step(retry_policy=TRIES)
    async def double(self, ctx: Context, ev: Part) -> Doubled:
        if ctx.retry_info().retry_number == 0:
            raise ValueError("not yet")
        return Doubled(n=await GoldenChild().run(n=ev.n))

    @step
    async def join(self, ctx: Context, evs: list[Doubled]) -> StopEvent:
        answer = await ctx.wait_for_event(Answer)
        return StopEvent(result=[sorted(ev.n for ev in evs), answer.text])


async def start(world: testing.World) -> str:
    await world.engine.workflows.start("golden-workflow", b"{}", run_id="golden-workflow-run")
    await world.advance(60)
    await answer(world, "golden-workflow-run")
    return "golden-workflow-run"


async def answer(world: testing.World, run_id: str) -> None:
    """What the workflow waits for; as often as it is asked."""
    kind = f"{Answer.__module__}.{Answer.__qualname__}"
    with suppress(Conflict, IronflowError):
        await world.engine.workflows.send(run_id, kind, b'{"text": "yes"}')


def functions() -> list[Any]:
    return [
        MountedWorkflow(GoldenWorkflow(timeout=None), "golden-workflow"),
        MountedWorkflow(GoldenChild(timeout=None), "GoldenChild"),
    ]
