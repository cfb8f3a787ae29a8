"""Workflows in a world that can crash."""

from __future__ import annotations

from typing import Any

from ironflow import testing
from ironflow.workflows import Context, Workflow, step
from ironflow.workflows.events import (
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StopEvent,
)
from ironflow.workflows.mounting import MountedWorkflow


class Turn(Event):
    left: int


class Long(Workflow):
    """One turn after another."""

    @step
    async def begin(self, ev: StartEvent) -> Turn:
        return Turn(left=ev.turns)

    @step
    async def turn(self, ctx: Context, ev: Turn) -> Turn | StopEvent:
        async with ctx.store.edit_state() as state:
            state["count"] = state.get("count", 0) + 1
        ctx.write_event_to_stream(Event(left=ev.left))
        return Turn(left=ev.left - 1) if ev.left else StopEvent(result=await ctx.store.get("count"))


class Asks(Workflow):
    entered = 0

    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        Asks.entered += 1
        answer = await ctx.wait_for_event(
            HumanResponseEvent, InputRequiredEvent(), requirements={"user": "ann"}, timeout=None
        )
        return StopEvent(result=answer.response)


def world(main: Any, *workflows: Workflow, **options: Any) -> Any:
    mounted: Any = [MountedWorkflow(workflow) for workflow in workflows]
    return testing.run(main, functions=mounted, **options)


def crash_after_each_commit(main: Any, *workflows: Workflow) -> None:
    """`main(world)` undisturbed, then once for each commit that it made, with a crash after it."""

    def live(crash_at: int) -> int:
        async def counted(world: testing.World) -> int:
            commits = 0

            def count(*_: object) -> None:
                nonlocal commits
                commits += 1

            world.store.journal.on_commit(count)
            if crash_at:
                world.crash_at_commit(crash_at)
            await main(world)
            return commits

        found: int = world(counted, *workflows)
        return found

    for crash_at in range(1, live(0) + 1):
        live(crash_at)
