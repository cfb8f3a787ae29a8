"""The workflows of the benchmark, written once: `BENCH_SIDE` says which library serves them.

`ironflow`: ours; `memory` and `sqlite`: LlamaIndex's server with that store. Started by
`python workflows_app.py PORT DATABASE`.
"""

import asyncio
import os
import sys
from typing import Any

SIDE = os.environ["BENCH_SIDE"]
if SIDE == "ironflow":
    from ironflow.workflows import Context, Workflow, step
    from ironflow.workflows.events import Event, HumanResponseEvent, StartEvent, StopEvent
else:
    from workflows import Context, Workflow, step
    from workflows.events import Event, HumanResponseEvent, StartEvent, StopEvent

CHAIN = 10


class Start(StartEvent):
    count: int = 0


def make_link(number: int) -> Any:
    """The event between two steps of the chain."""
    return type(f"Link{number}", (Event,), {"__annotations__": {"count": int}})


LINKS = [Start, *(make_link(number) for number in range(1, CHAIN))]


def make_step(number: int) -> Any:
    """The step that takes one link of the chain and gives the next."""
    taken = LINKS[number]
    given: Any = LINKS[number + 1] if number + 1 < CHAIN else StopEvent

    async def work(self: Any, ev: Any) -> Any:
        count = ev.count + 1
        return given(count=count) if given is not StopEvent else StopEvent(result=count)

    work.__name__, work.__qualname__ = f"step{number}", f"Chain.step{number}"
    work.__annotations__ = {"ev": taken, "return": given}
    return step(work)


Chain = type("Chain", (Workflow,), {f"step{n}": make_step(n) for n in range(CHAIN)})


class Tick(Event):
    number: int


class Ticks(Workflow):
    """Streams as many events as it is asked for."""

    @step
    async def tick(self, ctx: Context, ev: Start) -> StopEvent:
        for number in range(ev.count):
            ctx.write_event_to_stream(Tick(number=number))
            if number % 50 == 49:
                await asyncio.sleep(0)
        return StopEvent(result=ev.count)


class Say(HumanResponseEvent):
    number: int


class Quit(HumanResponseEvent):
    pass


class Echo(Workflow):
    """Streams what it is told."""

    @step
    async def begin(self, ev: Start) -> None:
        return None

    @step
    async def say(self, ctx: Context, ev: Say) -> None:
        ctx.write_event_to_stream(Tick(number=ev.number))

    @step
    async def leave(self, ev: Quit) -> StopEvent:
        return StopEvent(result="bye")


def make_server(database: str) -> Any:
    """The server of this side."""
    if SIDE == "ironflow":
        from ironflow.workflows.server import WorkflowServer

        settings = {"durability": os.environ.get("BENCH_DURABILITY", "full")}
        return WorkflowServer(db=database, settings=settings)
    from llama_agents.server import SqliteWorkflowStore
    from llama_agents.server import WorkflowServer as PeerServer

    return PeerServer(workflow_store=SqliteWorkflowStore(database) if SIDE == "sqlite" else None)


async def main() -> None:
    server = make_server(sys.argv[2])
    for name, kind in (("chain", Chain), ("ticks", Ticks), ("echo", Echo)):
        server.add_workflow(name, kind(timeout=600.0))
    await server.serve(host="127.0.0.1", port=int(sys.argv[1]))


if __name__ == "__main__":
    if SIDE == "ironflow":
        from ironflow.server import run_loop

        run_loop(main())
    else:
        asyncio.run(main())
