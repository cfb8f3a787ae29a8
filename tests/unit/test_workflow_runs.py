"""What a run of a workflow does, in this process: start and end, streams, children."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import BaseModel
from workflow_parts import Counting, Done, Failing, Mapped, Note, Odd, Part, Slow
from workflow_world import Asks, world

from ironflow import testing
from ironflow.workflows import Context, Resource, Workflow, step
from ironflow.workflows.errors import (
    WorkflowConfigurationError,
    WorkflowRuntimeError,
    WorkflowValidationError,
)
from ironflow.workflows.events import StartEvent, StopEvent
from ironflow.workflows.resource import ResourceConfig, ResourceManager
from ironflow.workflows.retry_policy import retry_policy, stop_after_attempt, wait_fixed
from ironflow.workflows.testing import WorkflowTestRunner


class Begin(StartEvent):
    name: str
    size: int = 2


class Answer(StopEvent):
    text: str


# -- start and end ---------------------------------------------------------------------------------


class Typed(Workflow):
    @step
    async def one(self, ctx: Context, ev: Begin) -> Answer:
        return Answer(text=f"{ev.name}{ev.size}{ev.get('more', '')}")


async def test_start_and_stop_events_have_types() -> None:
    workflow = Typed()
    stop = await workflow.run(name="x", more="!")
    assert isinstance(stop, Answer)
    assert stop.text == "x2!"
    assert (await workflow.run(start_event=Begin(name="y", size=1))).text == "y1"
    with pytest.raises(WorkflowRuntimeError, match="name"):
        workflow.run(size=1)
    with pytest.raises(ValueError, match="must be a Begin"):
        workflow.run(start_event=StartEvent())
    with pytest.raises(ValueError, match="must be a StartEvent"):
        workflow.run(start_event=Part(n=1))
    with pytest.warns(UserWarning, match="ignored"):
        assert (await workflow.run(start_event=Begin(name="z"), name="q")).text == "z2"


async def test_a_handler_can_be_awaited_again_and_asked() -> None:
    handler = Typed().run(name="x")
    assert not handler.is_done()
    assert handler.get_stop_event() is None
    assert await handler == await handler
    assert handler.is_done()
    assert handler.exception() is None
    assert handler.result() == await handler.stop_event_result() == handler.get_stop_event()


class Blocking(Workflow):
    @step
    def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
        ctx.write_event_to_stream(Note(text="from a thread"))
        return StopEvent(result=threading.current_thread() is threading.main_thread())


class ManyThreads(Workflow):
    @step
    async def split(self, ev: StartEvent) -> list[Part]:
        return [Part(n=n) for n in range(8)]

    @step(num_workers=8)
    def work(self, ctx: Context, ev: Part) -> Done:
        with pytest.raises(WorkflowRuntimeError, match="no step"):
            ctx.send_event(Part(n=1), step="nope")
        for n in range(50):
            ctx.write_event_to_stream(Part(n=ev.n * 100 + n))
        return Done(n=ev.n)

    @step
    async def join(self, evs: list[Done]) -> StopEvent:
        return StopEvent(result=len(evs))


async def test_threads_tell_the_run_what_they_did_on_its_loop() -> None:
    handler = ManyThreads().run()
    told = [e.n async for e in handler.stream_events() if isinstance(e, Part)]
    assert await handler == 8
    for n in range(8):
        assert [k for k in told if k // 100 == n] == [n * 100 + k for k in range(50)]


async def test_sync_steps_run_in_a_thread() -> None:
    handler = Blocking().run()
    assert [type(e) async for e in handler.stream_events()] == [Note, StopEvent]
    assert await handler is False


class Wrong(Workflow):
    @step
    async def one(self, ev: StartEvent) -> StopEvent:
        return 5  # type: ignore[return-value]


async def test_steps_return_events() -> None:
    with pytest.raises(WorkflowRuntimeError, match="must return an event or None, not int"):
        await Wrong().run()


# -- streams ---------------------------------------------------------------------------------------


class Talking(Workflow):
    @step
    async def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
        for n in range(5):
            ctx.write_event_to_stream(Part(n=n))
            await asyncio.sleep(0.001)
        return StopEvent(result="said")


async def test_any_number_of_readers_each_from_where_it_likes() -> None:
    handler = Talking().run()

    async def read(after: int = -1) -> list[tuple[int, Any]]:
        return [pair async for pair in handler.stream_numbered(after_sequence=after)]

    live = await asyncio.gather(*[read() for _ in range(20)])
    assert await handler == "said"
    past = await read()
    assert all(each == past for each in live)
    assert [e.n for _, e in past[:-1]] == list(range(5))
    assert isinstance(past[-1][1], StopEvent)
    middle = past[2][0]
    assert await read(middle) == past[3:]
    assert await read(past[-1][0]) == []


async def test_a_reader_that_goes_away_touches_nothing() -> None:
    handler = Talking().run()
    async for _ in handler.stream_events():
        break
    assert await handler == "said"


@pytest.mark.parametrize("internal", [True, False])
async def test_internal_events_are_told_to_those_who_ask(internal: bool) -> None:
    result = await WorkflowTestRunner(Talking()).run(expose_internal=internal)
    names = Counter(kind.__name__ for kind in result.event_types)
    assert result.event_types[Part] == 5
    assert bool(names["StepStateChanged"]) is internal
    assert result.result == "said"


# -- the rest --------------------------------------------------------------------------------------


class Parent(Workflow):
    @step
    async def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
        child = Talking().run()
        heard = [e.n async for e in child.stream_events() if isinstance(e, Part)]
        for n in heard:
            ctx.write_event_to_stream(Part(n=n))
        return StopEvent(result=[await child, heard, await Counting().run()])


async def test_nested_workflows_are_children_of_the_run() -> None:
    handler = Parent().run()
    assert await handler == ["said", [0, 1, 2, 3, 4], 1]
    engine = handler._runs._runtime.engine
    from ironflow.storage.ports import RunFilter

    rows = await engine.store.reader.runs(RunFilter(parent_id=handler.run_id))
    assert sorted(row.function_id for row in rows) == ["Counting", "Talking"]


class FailingParent(Workflow):
    @step
    async def one(self, ev: StartEvent) -> StopEvent:
        try:
            await Failing().run()
        except Exception as error:  # noqa: BLE001 - what it says is the result
            return StopEvent(result=f"{type(error).__name__}: {error}")
        return StopEvent()


async def test_a_child_that_fails() -> None:
    assert "odd 7" in await FailingParent().run()


made: list[str] = []


def make_name() -> str:
    made.append("name")
    return "resource"


async def make_client(name: Annotated[str, Resource(make_name)]) -> dict[str, str]:
    return {"client": name}


class Resourceful(Workflow):
    @step
    async def one(
        self,
        ev: StartEvent,
        client: Annotated[dict[str, str], Resource(make_client)],
        name: Annotated[str, Resource(make_name)],
    ) -> StopEvent:
        return StopEvent(result=[client, name])


async def test_resources_are_made_once_for_an_instance() -> None:
    made.clear()
    workflow = Resourceful()
    for _ in range(2):
        assert await workflow.run() == [{"client": "resource"}, "resource"]
    assert made == ["name"]
    replaced = ResourceManager()
    replaced.set(Resource(make_name), "mock")
    assert await Resourceful(resource_manager=replaced).run() == [{"client": "mock"}, "mock"]


class Place(BaseModel):
    city: str
    street: str = "unknown"


def make_sign(place: Annotated[Place, ResourceConfig("places.json", "first.place")]) -> str:
    made.append("sign")
    return f"to {place.city}"


class Configured(Workflow):
    @step
    async def one(
        self,
        ev: StartEvent,
        place: Annotated[Place, ResourceConfig("places.json", "first.place")],
        raw: Annotated[dict[str, Any], ResourceConfig("places.json")],
        sign: Annotated[str, Resource(make_sign, cache=False)],
    ) -> StopEvent:
        return StopEvent(result=[place.city, place.street, list(raw), sign])


async def test_configuration_is_read_from_files_and_checked_when_the_workflow_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WorkflowValidationError, match=r"'one': .*places.json cannot be read"):
        Configured()
    file = tmp_path / "places.json"
    for content, word in (
        ({"first": {}}, "there is no 'first.place'"),
        ({"first": {"place": {}}}, "does not fit Place"),
    ):
        file.write_text(json.dumps(content))
        with pytest.raises(WorkflowValidationError, match=word):
            Configured()
    file.write_text(json.dumps({"first": {"place": {"city": "Ulm"}}}))
    made.clear()
    workflow = Configured()
    for _ in range(2):
        assert await workflow.run() == ["Ulm", "unknown", ["first"], "to Ulm"]
    assert made == ["sign", "sign"]  # not cached


def make_hen(egg: Any) -> str:
    return f"out of {egg}"


def make_egg(hen: Annotated[str, Resource(make_hen)]) -> str:
    return f"of {hen}"


make_hen.__annotations__["egg"] = Annotated[str, Resource(make_egg)]


async def test_resources_that_need_themselves_are_refused() -> None:
    class Circular(Workflow):
        @step
        async def one(self, ev: StartEvent, hen: Annotated[str, Resource(make_hen)]) -> StopEvent:
            return StopEvent()

    with pytest.raises(WorkflowValidationError, match="make_hen -> make_egg -> make_hen"):
        Circular()
    with pytest.raises(WorkflowConfigurationError, match="in a circle"):
        await Circular(disable_validation=True).run()


calls: list[str] = []


class Once(Workflow):
    @step(retry_policy=retry_policy(wait=wait_fixed(0), stop=stop_after_attempt(3)))
    async def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
        async def pay() -> str:
            calls.append("pay")
            return "receipt"

        receipt = await ctx.once("pay", pay)
        if ctx.retry_info().retry_number < 2:
            raise Odd(1)
        return StopEvent(result=receipt)


async def test_once_is_not_called_again() -> None:
    calls.clear()
    assert await Once().run() == "receipt"
    assert calls == ["pay"]


class Gate(Workflow):
    now = most = 0

    @step
    async def one(self, ev: StartEvent) -> StopEvent:
        Gate.now += 1
        Gate.most = max(Gate.most, Gate.now)
        await asyncio.sleep(0.005)
        Gate.now -= 1
        return StopEvent()


async def test_runs_of_one_instance_at_once() -> None:
    workflow = Gate(num_concurrent_runs=3)
    await asyncio.gather(*[workflow.run() for _ in range(10)])
    assert Gate.most == 3


def test_a_limited_instance_runs_in_one_loop_after_another() -> None:
    workflow = Gate(num_concurrent_runs=2)

    async def main() -> list[Any]:
        return await asyncio.gather(*[workflow.run() for _ in range(4)])

    for _ in range(2):
        assert asyncio.run(main()) == [None] * 4


def test_runs_beyond_the_limit_are_queued_and_can_be_cancelled_at_once() -> None:
    async def main(world: testing.World) -> None:
        for name in "abc":
            await world.engine.workflows.start("Asks", b"{}", run_id=name)
        await world.advance("1s")
        # Who waits for somebody executes nothing, and holds up nobody.
        assert [(await world.state(name)).status for name in "abc"] == ["waiting"] * 3
        for name in "de":
            await world.engine.workflows.start("Slow", b"{}", run_id=name)
        await world.advance("1s")
        assert [(await world.state(name)).status for name in "de"] == ["running", "queued"]
        await world.crash()
        assert (await world.state("e")).status == "queued"
        await world.engine.cancel("e")
        assert (await world.wait("e")).status == "cancelled"
        assert (await world.state("d")).status == "running"

    world(main, Asks(timeout=None, num_concurrent_runs=1), Slow(num_concurrent_runs=1))


caller: ContextVar[str] = ContextVar("caller", default="nobody")


class Named(Workflow):
    @step
    async def one(self, ev: StartEvent) -> Note:
        found = caller.get()
        caller.set("a step")
        return Note(text=found)

    @step
    def two(self, ev: Note) -> StopEvent:
        return StopEvent(result=[ev.text, caller.get()])


class NamedWithin(Workflow):
    @step
    async def one(self, ev: StartEvent) -> StopEvent:
        caller.set("the parent's step")
        return StopEvent(result=await Named().run())


async def test_steps_see_the_context_variables_of_whoever_began_their_run() -> None:
    workflow = Named()
    for name in ("ann", "bob"):
        caller.set(name)
        handler = workflow.run()
        caller.set("somebody else")
        assert await handler == [name, name]
    assert await NamedWithin().run() == ["the parent's step"] * 2


async def test_fifty_runs_at_once() -> None:
    workflow = Mapped()
    results = await asyncio.gather(*[workflow.run(size=n % 6) for n in range(50)])
    for n, (numbers, _) in enumerate(results):
        assert sorted(numbers) == [k for k in range(n % 6) if k != 2]
