"""Workflows that steps start: what a step does to its child happens once, however often the step is
executed, and a step that is tried again tries its child again.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, ClassVar

from workflow_world import crash_after_each_commit

from ironflow import testing
from ironflow.workflows import Context, Workflow, step
from ironflow.workflows.errors import WorkflowDone
from ironflow.workflows.events import HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent
from ironflow.workflows.retry_policy import retry_policy, stop_after_attempt, wait_fixed


class Asked(Workflow):
    """Asks twice."""

    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        said = []
        for n in range(2):
            answer = await ctx.wait_for_event(
                HumanResponseEvent, InputRequiredEvent(n=n), waiter_id=str(n), timeout=None
            )
            said.append(answer.said)
        return StopEvent(result=said)


class Answering(Workflow):
    """Answers its child itself."""

    @step
    async def answer(self, ctx: Context, ev: StartEvent) -> StopEvent:
        child = Asked(timeout=None).run()
        async for event in child.stream_events():
            if isinstance(event, InputRequiredEvent):
                sent = child.send_event(HumanResponseEvent(said=f"answer {event.n}"))
                if event.n == 0:
                    await sent
        result = await child
        try:
            await child.send_event(HumanResponseEvent(said="too late"))
        except WorkflowDone:
            return StopEvent(result=result)
        raise AssertionError("the child has ended")


def test_what_a_step_sends_its_child_is_sent_once() -> None:
    async def main(world: testing.World) -> None:
        await world.engine.workflows.start("Answering", b"{}", run_id="r")
        ended = await world.wait("r")
        assert ended.status == "completed", ended.error
        assert ended.result["value"] == {"result": ["answer 0", "answer 1"]}
        streams = world.store.tables.streams
        signals = [
            json.loads(entry.data)
            for name, entries in streams.items()
            for entry in entries
            if name != "run/r" and entry.kind == "signal.received"
        ]
        assert len(signals) == 2  # none of them twice, whoever would have taken it

    crash_after_each_commit(main, Answering(timeout=None))


class Flaky(Workflow):
    tries: ClassVar[dict[str, int]] = {}

    @step
    async def one(self, ev: StartEvent) -> StopEvent:
        tries = Flaky.tries[ev.name] = Flaky.tries.get(ev.name, 0) + 1
        if tries < ev.good_at:
            raise ConnectionError(f"{ev.name} {tries}")
        return StopEvent(result=tries)


class Insisting(Workflow):
    @step(retry_policy=retry_policy(wait=wait_fixed(0.01), stop=stop_after_attempt(3)))
    async def one(self, ev: StartEvent) -> StopEvent:
        good = await Flaky(timeout=None).run(name="good", good_at=1)
        found = await asyncio.gather(
            *[Flaky(timeout=None).run(name=name, good_at=n) for n, name in enumerate("abc", 1)],
            return_exceptions=True,
        )
        errors = [each for each in found if isinstance(each, Exception)]
        if errors:
            raise errors[0]
        return StopEvent(result=[good, *found])


async def test_a_step_that_is_tried_again_tries_those_children_again_that_failed() -> None:
    Flaky.tries.clear()
    workflow: Any = Insisting(timeout=None)
    assert await workflow.run() == [1, 1, 2, 3]
    assert Flaky.tries == {"good": 1, "a": 1, "b": 2, "c": 3}
