"""What a run of a workflow does, in this process."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from typing import Annotated, Any

import pytest
from pydantic import BaseModel

from ironflow.core.errors import NotSerializable
from ironflow.workflows import Context, Resource, Workflow, catch_error, step
from ironflow.workflows.collect import Collect, Take
from ironflow.workflows.errors import (
    ContextSerdeError,
    ContextStateError,
    WorkflowCancelledByUser,
    WorkflowDone,
    WorkflowRuntimeError,
    WorkflowTimeoutError,
)
from ironflow.workflows.events import (
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StepFailedEvent,
    StopEvent,
    WorkflowCancelledEvent,
    WorkflowFailedEvent,
    WorkflowTimedOutEvent,
)
from ironflow.workflows.resource import ResourceManager
from ironflow.workflows.retry_policy import retry_policy, stop_after_attempt, wait_fixed
from ironflow.workflows.testing import WorkflowTestRunner


class Part(Event):
    n: int


class Done(Event):
    n: int


class Note(Event):
    text: str


class Begin(StartEvent):
    name: str
    size: int = 2


class Answer(StopEvent):
    text: str


# -- start and end --------------------------------------------------------------------------------


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


# -- streams --------------------------------------------------------------------------------------


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


# -- failures -------------------------------------------------------------------------------------


class Odd(Exception):
    """With arguments that say more than its text."""

    def __init__(self, code: int) -> None:
        super().__init__(f"odd {code}")
        self.code = code


class Failing(Workflow):
    @step
    async def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
        raise Odd(7)


async def test_a_failure_is_raised_as_it_was_and_ends_the_stream() -> None:
    handler = Failing().run()
    events = [event async for event in handler.stream_events()]
    assert isinstance(events[-1], WorkflowFailedEvent)
    assert events[-1].step_name == "one"
    assert events[-1].attempts == 1
    assert isinstance(events[-1].exception, Odd)
    assert events[-1].model_dump()["exception"]["exception_message"] == "odd 7"
    with pytest.raises(Odd) as raised:
        await handler
    assert raised.value.code == 7


class Slow(Workflow):
    @step
    async def doze(self, ev: StartEvent) -> StopEvent:
        await asyncio.sleep(60)
        return StopEvent()


async def test_a_run_that_takes_too_long() -> None:
    handler = Slow(timeout=0.5).run()
    events = [event async for event in handler.stream_events()]
    assert isinstance(events[-1], WorkflowTimedOutEvent)
    assert (events[-1].timeout, events[-1].active_steps) == (0.5, ["doze"])
    with pytest.raises(WorkflowTimeoutError, match=r"timed out after 0\.5s; active steps: doze"):
        await handler


async def test_a_run_that_is_cancelled() -> None:
    handler = Slow().run()
    await asyncio.sleep(0.02)
    await handler.cancel_run()
    with pytest.raises(WorkflowCancelledByUser):
        await handler
    assert handler.cancelled()
    assert isinstance([e async for e in handler.stream_events()][-1], WorkflowCancelledEvent)
    with pytest.raises(WorkflowDone):
        await handler.send_event(HumanResponseEvent())
    await handler.cancel_run()  # nothing is left to cancel


class Retried(Workflow):
    @step(retry_policy=retry_policy(wait=wait_fixed(0.01), stop=stop_after_attempt(3)))
    async def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
        info = ctx.retry_info()
        if info.retry_number < ev.fails:
            raise Odd(info.retry_number)
        error = str(info.last_exception) if info.last_exception else None
        return StopEvent(result=[info.retry_number, error, info.last_failed_at is not None])


async def test_retries() -> None:
    assert await Retried().run(fails=0) == [0, None, False]
    assert await Retried().run(fails=2) == [2, "odd 1", True]
    with pytest.raises(Odd, match="odd 2"):
        await Retried().run(fails=3)


class Mended(Workflow):
    @step
    async def one(self, ev: StartEvent) -> Part:
        return Part(n=ev.n)

    @step
    async def two(self, ev: Part) -> Done:
        if ev.n < 2:
            raise ValueError(f"too small: {ev.n}")
        return Done(n=ev.n)

    @catch_error(for_steps=["two"], max_recoveries=2)
    async def mend(self, ev: StepFailedEvent) -> Part:
        assert (ev.step_name, ev.attempts) == ("two", 1)
        assert isinstance(ev.exception, ValueError)
        return Part(n=ev.input_event.n + 1)  # type: ignore[attr-defined]

    @step
    async def end(self, ev: Done) -> StopEvent:
        return StopEvent(result=ev.n)


async def test_error_handlers_have_a_budget() -> None:
    assert await Mended().run(n=0) == 2
    assert await Mended().run(n=5) == 5
    with pytest.raises(ValueError, match="too small: 1"):
        await Mended().run(n=-1)


# -- fan-out and fan-in ---------------------------------------------------------------------------


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


async def test_a_list_fans_out_and_joins() -> None:
    numbers, most = await Mapped().run(size=5)
    assert sorted(numbers) == [0, 1, 3, 4]
    assert most == 2  # num_workers
    assert await Mapped().run(size=0) == [[], 0]


class First(Workflow):
    @step
    async def split(self, ev: StartEvent) -> list[Part]:
        return [Part(n=n) for n in (3, 1, 2)]

    @step
    async def work(self, ev: Part) -> Done:
        await asyncio.sleep(0.01 * ev.n)
        return Done(n=ev.n)

    @step
    async def join(self, evs: Annotated[list[Done], Collect(Take(2))]) -> StopEvent:
        return StopEvent(result=[e.n for e in evs])


async def test_a_join_that_takes_the_first() -> None:
    assert await First().run() == [1, 2]


class Pairs(Workflow):
    @step
    async def one(self, ctx: Context, ev: StartEvent) -> Part | Done:
        ctx.send_event(Part(n=1))
        ctx.send_event(Part(n=2))
        return Done(n=3)

    @step
    async def both(self, left: Part, right: Done) -> StopEvent:
        return StopEvent(result=[left.n, right.n])


async def test_several_parameters_join_one_of_each() -> None:
    assert await Pairs().run() == [1, 3]


class Gathered(Workflow):
    @step
    async def one(self, ctx: Context, ev: StartEvent) -> Part | None:
        for n in range(3):
            ctx.send_event(Part(n=n))
        return None

    @step
    async def work(self, ev: Part) -> Done:
        return Done(n=ev.n)

    @step
    async def gather(self, ctx: Context, ev: Done | Part) -> StopEvent | None:
        found = ctx.collect_events(ev, [Done, Done, Done, Part])
        return StopEvent(result=[type(e).__name__ for e in found]) if found else None


async def test_collected_events_come_in_the_order_that_was_asked_for() -> None:
    assert await Gathered().run() == ["Done", "Done", "Done", "Part"]


class Directed(Workflow):
    @step
    async def one(self, ctx: Context, ev: StartEvent) -> Part | None:
        with pytest.raises(WorkflowRuntimeError, match="does not take"):
            ctx.send_event(Note(text=""), step="two")
        with pytest.raises(WorkflowRuntimeError, match="no step"):
            ctx.send_event(Part(n=1), step="nope")
        ctx.send_event(Part(n=1), step="two")
        return None

    @step
    async def two(self, ev: Part) -> StopEvent:
        return StopEvent(result="two")

    @step
    async def three(self, ev: Part) -> StopEvent:
        return StopEvent(result="three")


async def test_an_event_for_one_step() -> None:
    assert await Directed().run() == "two"


# -- waits ----------------------------------------------------------------------------------------


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


async def test_what_a_step_did_before_it_waited_happens_once() -> None:
    Asking.entered = 0
    handler = Asking(timeout=None).run()
    seen: list[str] = []
    async for event in handler.stream_events():
        seen.append(type(event).__name__)
        if isinstance(event, InputRequiredEvent):
            await handler.send_event(HumanResponseEvent(response="no", user="bob"))
            await handler.send_event(HumanResponseEvent(response="yes", user="ann"))
            await asyncio.sleep(0.02)
            await handler.send_event(HumanResponseEvent(response="sure"))
    assert await handler == ["yes", "sure", 1]
    assert seen == ["Note", "InputRequiredEvent", "StopEvent"]
    assert Asking.entered == 3


class Impatient(Workflow):
    @step
    async def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
        try:
            await ctx.wait_for_event(HumanResponseEvent, timeout=0.02)
        except TimeoutError as error:
            return StopEvent(result=str(error))
        return StopEvent()


async def test_a_wait_with_a_limit() -> None:
    assert await Impatient().run() == "no HumanResponseEvent came in time"


class ManyAsk(Workflow):
    @step
    async def split(self, ev: StartEvent) -> list[Part]:
        return [Part(n=n) for n in range(3)]

    @step
    async def ask(self, ctx: Context, ev: Part) -> Done:
        answer = await ctx.wait_for_event(
            HumanResponseEvent, InputRequiredEvent(n=ev.n), requirements={"n": ev.n}
        )
        return Done(n=answer.value)

    @step
    async def join(self, evs: list[Done]) -> StopEvent:
        return StopEvent(result=sorted(e.n for e in evs))


async def test_each_job_of_a_step_waits_for_itself() -> None:
    handler = ManyAsk(timeout=None).run()
    async for event in handler.stream_events():
        if isinstance(event, InputRequiredEvent):
            handler.ctx.send_event(HumanResponseEvent(n=event.n, value=event.n * 10))
    assert await handler == [0, 10, 20]


class Both(Workflow):
    @step
    async def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
        found = await asyncio.gather(
            ctx.wait_for_event(HumanResponseEvent, requirements={"k": 1}),
            ctx.wait_for_event(HumanResponseEvent, requirements={"k": 2}),
        )
        return StopEvent(result=[each.v for each in found])


async def test_two_waits_at_once_in_one_step() -> None:
    handler = Both(timeout=None).run()
    await asyncio.sleep(0.02)
    await handler.send_event(HumanResponseEvent(k=2, v="b"))
    await asyncio.sleep(0.02)
    await handler.send_event(HumanResponseEvent(k=1, v="a"))
    assert await handler == ["a", "b"]


# -- the store ------------------------------------------------------------------------------------


class Inner(BaseModel):
    items: list[int] = []


class Shape(BaseModel):
    count: int = 0
    inner: Inner = Inner()


class Stored(Workflow):
    @step
    async def one(self, ctx: Context[Shape], ev: StartEvent) -> StopEvent:
        store = ctx.store
        await store.set("inner.items", [1, 2])
        async with store.edit_state() as state:
            state.count += 2
            state.inner.items.append(3)
        with pytest.raises(ContextStateError, match="inside"):
            async with store.edit_state(), store.edit_state():
                pass
        with pytest.raises(KeyError):  # noqa: PT012 - the block is what is tested
            async with store.edit_state() as state:
                state.count = 100
                raise KeyError("undone")
        with pytest.raises(ValueError, match="nothing"):
            await store.get("nothing")
        copy = await store.get_state()
        copy.count = 50
        return StopEvent(
            result=[await store.get("count"), await store.get("inner.items.2"),
                    await store.get("nothing", "default")]
        )  # fmt: skip


async def test_a_typed_store() -> None:
    handler = Stored().run()
    assert await handler == [2, 3, "default"]
    state = await handler.ctx.store.get_state()
    assert isinstance(state, Shape)
    assert state.inner.items == [1, 2, 3]


class Counting(Workflow):
    @step
    async def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
        n = await ctx.store.get("user.n", 0)
        await ctx.store.set("user.n", n + 1)
        return StopEvent(result=n + 1)


async def test_a_context_goes_on_with_its_store() -> None:
    workflow = Counting()
    handler = workflow.run()
    assert await handler == 1
    assert await workflow.run(ctx=handler.ctx) == 2
    written = handler.ctx.to_dict()
    assert written["version"] == 2
    assert written["is_running"] is False
    again = Context.from_dict(workflow, written)
    assert await workflow.run(ctx=again) == 3  # the context went on with the second run
    fresh: Context[Any] = Context(workflow)
    await fresh.store.set("user.n", 40)
    assert await workflow.run(ctx=fresh) == 41
    await fresh.store.set("user.n", 60)  # its run has ended: it is for the next one
    assert await workflow.run(ctx=fresh) == 61
    slow = Slow().run()
    await asyncio.sleep(0.02)
    with pytest.raises(WorkflowRuntimeError, match="by its steps only"):
        await slow.ctx.store.set("user.n", 1)
    with pytest.raises(ContextStateError, match="has not ended"):
        slow._mounted.workflow.run(ctx=slow.ctx)  # type: ignore[union-attr]
    await slow.cancel_run()


async def test_a_context_in_the_middle_of_a_run_goes_on_there() -> None:
    workflow = Asking(timeout=None)
    handler = workflow.run()
    async for event in handler.stream_events():
        if isinstance(event, InputRequiredEvent):
            break
    await asyncio.sleep(0.02)
    written = handler.ctx.to_dict()
    assert written["is_running"] is True
    await handler.cancel_run()
    later = workflow.run(ctx=Context.from_dict(workflow, written))
    await asyncio.sleep(0.02)
    await later.send_event(HumanResponseEvent(response="late", user="ann"))
    await asyncio.sleep(0.02)
    await later.send_event(HumanResponseEvent(response="later"))
    assert await later == ["late", "later", 1]


async def test_contexts_that_llama_index_wrote_are_read() -> None:
    old = {"version": 1, "state": {"state_data": {"_data": {"user": '{"n": 8}'}}}}
    workflow = Counting()
    assert await workflow.run(ctx=Context.from_dict(workflow, old)) == 9
    for bad in ({"version": 99}, {"state": []}, {"state": {"state_data": {"_data": {"a": "{"}}}}):
        with pytest.raises(ContextSerdeError):
            Context.from_dict(workflow, bad)


class Holding(Workflow):
    @step
    async def one(self, ctx: Context, ev: StartEvent) -> Note:
        lock = threading.Lock()
        await ctx.store.set("lock", lock)
        return Note(text="x", lock=lock)

    @step
    async def two(self, ctx: Context, ev: Note) -> StopEvent:
        return StopEvent(result=await ctx.store.get("lock") is ev.lock)


async def test_in_memory_objects_without_a_stored_form_are_kept() -> None:
    handler = Holding().run()
    assert await handler is True
    with pytest.raises(ContextSerdeError, match="'lock'"):
        handler.ctx.to_dict()


async def test_in_a_database_they_are_refused_with_their_place(tmp_path: Any) -> None:
    with pytest.raises(NotSerializable, match="lock"):
        await Holding().run(db=tmp_path / "a.db")


# -- the rest -------------------------------------------------------------------------------------


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


async def test_fifty_runs_at_once() -> None:
    workflow = Mapped()
    results = await asyncio.gather(*[workflow.run(size=n % 6) for n in range(50)])
    for n, (numbers, _) in enumerate(results):
        assert sorted(numbers) == [k for k in range(n % 6) if k != 2]
