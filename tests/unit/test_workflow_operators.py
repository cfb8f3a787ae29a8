"""What operators and callers do with workflows: pauses, retries, explanations, what they send."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import msgspec
import pytest
from workflow_world import Asks, Long, world

from ironflow import testing
from ironflow.core.errors import Conflict, InvalidInput, NotFound
from ironflow.core.runs.explain import explain
from ironflow.sdk.function import Registry
from ironflow.web.views import workflow_steps
from ironflow.workflows import Context, Workflow, step
from ironflow.workflows.events import (
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StopEvent,
)
from ironflow.workflows.mounting import mount
from ironflow.workflows.retry_policy import retry_policy, stop_after_attempt, wait_fixed


class Fails(Workflow):
    broken = True

    @step(retry_policy=retry_policy(wait=wait_fixed(60), stop=stop_after_attempt(2)))
    async def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
        if Fails.broken:
            raise ValueError("broken")
        return StopEvent(result="mended")


# -- operators -------------------------------------------------------------------------------------


def test_a_failed_run_is_tried_again_from_its_failure() -> None:
    async def main(world: testing.World) -> None:
        Fails.broken = True
        await world.engine.workflows.start("Fails", b"{}", run_id="r")
        await world.advance("1s")
        why = explain(await world.state("r"), world.clock.now())
        assert "attempt 2 is due" in why.summary
        assert "ValueError: broken" in why.summary
        ended = await world.wait("r")
        assert (ended.status, ended.error.kind) == ("failed", "ValueError")
        Fails.broken = False
        await world.retry("r")
        assert (await world.wait("r")).result["value"] == {"result": "mended"}
        told = [e async for e in world.engine.workflows.follow("r")]
        assert [e.sequence for e in told] == list(range(len(told)))

    world(main, Fails(timeout=None))


def test_pause_and_resume() -> None:
    async def main(world: testing.World) -> None:
        await world.engine.workflows.start("Long", b'{"_data":{"turns":500}}', run_id="r")
        await asyncio.sleep(0)
        await world.pause("r")
        await world.advance("1h")
        run = await world.state("r")
        assert run.status == "paused"
        await world.resume("r")
        assert (await world.wait("r")).result["value"] == {"result": 501}

    world(main, Long(timeout=None))


def test_why_names_the_event_and_the_handlers_follow_the_rules() -> None:
    async def main(world: testing.World) -> None:
        doors = world.engine.workflows
        started = await doors.start("Asks", b"{}", handler_id="mine")
        await world.advance("10s")  # longer than its body stays in memory
        assert not world.executor.is_active(started.run_id)
        run = await world.state(started.run_id)
        why = explain(run, world.clock.now())
        assert "waits for an event HumanResponseEvent with user = 'ann'" in why.summary
        with pytest.raises(Conflict, match="already running"):
            await doors.start("Asks", b"{}", handler_id="mine")
        face = doors.face("Asks")
        event = face.read_event(
            {"type": "HumanResponseEvent", "value": {"response": "a", "user": "ann"}}
        )
        await doors.send(started.run_id, *event)
        assert (await world.wait(started.run_id)).status == "completed"
        with pytest.raises(Conflict):
            await doors.send(started.run_id, *event)
        again = await doors.start("Asks", b"{}", handler_id="mine")
        assert again.run_id != started.run_id
        assert (await doors.handler("mine")).run_id == again.run_id
        assert [row.id for row in await doors.handlers(statuses=("waiting", "running"))] == ["mine"]
        await doors.purge(await doors.handler("mine"))
        with pytest.raises(NotFound):
            await doors.handler("mine")
        with pytest.raises(NotFound):
            await doors.start("Nothing", b"{}")

    world(main, Asks(timeout=None))


def test_a_handler_that_goes_on_has_the_store_of_its_last_run() -> None:
    async def main(world: testing.World) -> None:
        doors = world.engine.workflows
        for total in (2, 4):
            _, run = await doors.start_and_wait("Long", b'{"_data":{"turns":1}}', handler_id="mine")
            assert run is not None
            assert run.workflow is not None
            assert run.workflow.store == {"count": total}

    world(main, Long(timeout=None))


def test_steps_of_a_run_are_told_from_its_journal() -> None:
    async def main(world: testing.World) -> None:
        async def steps() -> dict[str, tuple[str, int]]:
            found = await workflow_steps(world.engine, "r")
            return {key: (step.status.value, step.attempt) for key, step in found.items()}

        Fails.broken = True
        await world.engine.workflows.start("Fails", b"{}", run_id="r")
        await world.advance("1s")
        assert await steps() == {"one#0": ("retrying", 2)}
        await world.wait("r")
        assert await steps() == {"one#0": ("failed", 2)}
        Fails.broken = False
        await world.retry("r")
        await world.wait("r")
        assert await steps() == {"one#0": ("completed", 2)}

    world(main, Fails(timeout=None))


# -- what callers send -----------------------------------------------------------------------------


class Named(StartEvent):
    name: str


class Face(Workflow):
    @step
    async def one(self, ev: Named) -> StopEvent:
        return StopEvent(result=ev.name)


def test_what_callers_send_is_read_or_refused_with_a_reason() -> None:
    mounted = mount(Face(), "face", registry=Registry())
    face = mounted.spec.workflow
    assert face is not None
    good: list[Any] = [
        {"name": "x"},
        '{"name": "x"}',
        {"type": "Named", "value": {"name": "x"}},
        {"__is_pydantic": True, "qualified_name": f"{__name__}.Named", "value": {"name": "x"}},
        {"_data": {"name": "x"}},
        {"value": {"name": "x"}, "type": "Named", "types": [], "qualified_name": "Named"},
        {"value": {"name": "x"}, "type": "StartEvent", "qualified_name": None},
    ]  # fmt: skip
    for each in good:
        assert face.read_start(each) == b'{"name":"x"}', each
    for bad, word in (
        (None, "name"), ("", "name"), ({}, "name"), ([], "object"), ("[]", "object"), ("{", "JSON"),
        ({"type": "Nope", "value": {}}, "Nope"), ({"type": 3, "value": {}}, "text"),
        ({"type": "HumanResponseEvent", "value": {}}, "must be a Named"), ({"value": []}, "list"),
    ):  # fmt: skip
        with pytest.raises(InvalidInput, match=word):
            face.read_start(bad)
    for bad, word in (
        ({}, "type"),
        ([], "object"),
        ({"type": "os.system", "value": {}}, "knows no"),
    ):
        with pytest.raises(InvalidInput, match=word):
            face.read_event(bad)
    with pytest.raises(InvalidInput, match="no step"):
        face.check_step("two", "x.Named")


def test_a_name_is_taken_once() -> None:
    registry = Registry()
    mount(Face(), "same", registry=registry)
    with pytest.raises(InvalidInput, match="defined twice"):
        mount(Long(), "same", registry=registry)
    with pytest.raises(InvalidInput, match="no instance"):
        mount(object(), registry=registry)
    with pytest.raises(InvalidInput, match="characters"):
        mount(Face(), "a/b", registry=registry)


# -- what callers may send -------------------------------------------------------------------------


class Approval(HumanResponseEvent):
    by: str


class Comment(HumanResponseEvent):
    text: str


class Never(HumanResponseEvent):
    """Named by nothing that the workflow calls."""


async def ask_for_a_comment(ctx: Context) -> str:
    return (await ctx.wait_for_event(Comment, waiter_id="comment")).text


class Base(Workflow):
    async def approved(self, ctx: Context) -> str:
        return (await ctx.wait_for_event(Approval)).by


class Delegating(Base):
    """Waits in a method of its base, and in a function."""

    @step
    async def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
        return StopEvent(result=[await self.approved(ctx), await ask_for_a_comment(ctx)])


def test_an_event_that_a_helper_of_a_step_waits_for_can_be_sent() -> None:
    async def main(world: testing.World) -> None:
        doors = world.engine.workflows
        face = doors.face("Delegating")
        await doors.start("Delegating", b"{}", run_id="r")
        for given in ({"type": "Approval", "value": {"by": "ann"}}, {"type": "Comment"}):
            kind, value = face.read_event({"value": {"text": "fine"}, **given})
            await doors.send("r", kind, value)
        with pytest.raises(InvalidInput, match="knows no event 'Never'"):
            face.read_event({"type": "Never", "value": {}})
        run = await world.engine.wait("r")
        assert run is not None
        assert run.result is not None
        assert msgspec.json.decode(run.result.raw)["value"] == {"result": ["ann", "fine"]}

    testing.run(main, functions=[mount(Delegating(), registry=Registry())])


class Interviewing(Workflow):
    """Tells something between its questions, which are never the same."""

    @step
    async def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
        answers = []
        for number in range(3):
            ctx.write_event_to_stream(Event(told=number))
            question = InputRequiredEvent(number=number, entry=next(ENTRIES))
            answer = await ctx.wait_for_event(Comment, question, waiter_id=f"q{number}")
            answers.append(answer.text)
        ctx.write_event_to_stream(Event(told=3))
        await asyncio.sleep(1)
        return StopEvent(result=answers)


ENTRIES = itertools.count()


@pytest.mark.parametrize("crashes", [False, True])
def test_what_a_step_tells_between_its_waits_is_told_once(crashes: bool) -> None:
    async def main(world: testing.World) -> None:
        doors = world.engine.workflows
        await doors.start("Interviewing", b"{}", run_id="r")
        for number in range(3):
            await world.advance("100ms")
            await doors.send("r", *doors.face("Interviewing").read_event(
                {"type": "Comment", "value": {"text": f"a{number}"}}
            ))  # fmt: skip
            await world.advance("100ms")
            if crashes:
                await world.crash()
                doors = world.engine.workflows
        await world.advance("5s")
        events, over = await doors.stored("r")
        assert over
        told = [msgspec.json.decode(e.envelope.raw) for e in events if not e.internal]
        values = [e["value"].get("_data") or e["value"] for e in told]
        assert [v["told"] for v in values if "told" in v] == [0, 1, 2, 3]
        assert [v["number"] for v in values if "number" in v] == [0, 1, 2]
        assert values[-1] == {"result": ["a0", "a1", "a2"]}

    testing.run(main, functions=[mount(Interviewing(), registry=Registry())])
