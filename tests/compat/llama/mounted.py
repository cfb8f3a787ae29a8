"""A LlamaIndex workflow instance on ironflow's runtime: crashed in the middle, it goes on. Its
first argument is the folder in which the package lies.
"""

import json
import sys

sys.path.append(sys.argv[1])

from workflows import Context, Workflow, step
from workflows.events import Event, HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent

from ironflow import testing
from ironflow.sdk.function import Registry
from ironflow.workflows.drawing import draw_all_possible_flows_mermaid
from ironflow.workflows.mounting import mount


class Begin(StartEvent):
    name: str


class Part(Event):
    n: int


class Done(Event):
    n: int


class Result(StopEvent):
    text: str


class Foreign(Workflow):
    @step
    async def split(self, ctx: Context, ev: Begin) -> Part | None:
        ctx.write_event_to_stream(Part(n=99))
        await ctx.store.set("name", ev.name)
        for n in range(3):
            ctx.send_event(Part(n=n))
        return None

    @step(num_workers=2)
    async def work(self, ctx: Context, ev: Part) -> Done:
        async with ctx.store.edit_state() as state:
            state.count = state.get("count", 0) + 1
        return Done(n=ev.n)

    @step
    async def join(self, ctx: Context, ev: Done) -> Result | None:
        found = ctx.collect_events(ev, [Done] * 3)
        if found is None:
            return None
        answer = await ctx.wait_for_event(
            HumanResponseEvent, waiter_event=InputRequiredEvent(prefix="?")
        )
        name, count = await ctx.store.get("name"), await ctx.store.get("count")
        return Result(text=f"{name} {sorted(e.n for e in found)} {count} {answer.response}")


mounted = mount(Foreign(timeout=None), "foreign", registry=Registry())
alone = mount(Foreign(timeout=None, num_concurrent_runs=1), "alone", registry=Registry())


async def main(world: testing.World) -> None:
    face = mounted.spec.workflow
    await world.engine.workflows.start("foreign", face.read_start({"name": "x"}), run_id="r")
    for _ in range(2):
        await world.advance("5s")
        await world.crash()
    event = face.read_event({"type": "HumanResponseEvent", "value": {"response": "ok"}})
    await world.engine.workflows.send("r", *event)
    ended = await world.wait("r")
    told = [
        json.loads(await world.engine.load_payload(each.envelope))["type"]
        async for each in world.engine.workflows.follow("r")
        if not each.internal
    ]
    drawn = draw_all_possible_flows_mermaid(mounted.workflow.source, None)
    for run_id in ("a", "b"):
        await world.engine.workflows.start("alone", face.read_start({"name": "x"}), run_id=run_id)
    statuses = [(await world.state(run_id)).status for run_id in ("a", "b")]
    print(json.dumps([ended.status, ended.result["value"], told, "split" in drawn, statuses]))


testing.run(main, functions=[mounted, alone])
