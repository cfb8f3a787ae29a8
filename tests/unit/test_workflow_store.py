"""What workflows keep in their store, in this process, and contexts that go on."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict
from workflow_parts import Asking, Counting, Note, Slow

from ironflow.core.errors import NotSerializable
from ironflow.workflows import Context, Workflow, open_runtime, step
from ironflow.workflows.errors import ContextSerdeError, ContextStateError
from ironflow.workflows.events import HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent


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


class Strict(BaseModel):
    model_config = ConfigDict(validate_assignment=True)
    n: int = 0


class Stricter(Strict):
    more: str = "as it was"


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)
    n: int = 0


class Setting(Workflow):
    """Sets what the model of the state does not take."""

    @step
    async def one(self, ctx: Context[Strict], ev: StartEvent) -> Note:
        await ctx.store.set("n", "5")
        for path, value in (("nothing", 1), ("n", "no number")):
            with pytest.raises(ValueError, match=r"nothing|valid integer"):
                await ctx.store.set(path, value)
        return Note(text=str(await ctx.store.get("n") + 1))

    @step
    async def two(self, ctx: Context[Stricter], ev: Note) -> StopEvent:
        await ctx.store.set_state(Strict(n=7))  # what a base of the state has of it
        with pytest.raises(ValueError, match="must be a Stricter, not Shape"):
            await ctx.store.set_state(Shape())
        return StopEvent(result=[ev.text, (await ctx.store.get_state()).model_dump()])


class Freezing(Workflow):
    @step
    async def one(self, ctx: Context[Frozen], ev: StartEvent) -> Note:
        with pytest.raises(ValueError, match="frozen"):
            await ctx.store.set("n", 1)
        await ctx.store.set_state(Frozen(n=2))
        return Note(text="")

    @step
    async def two(self, ctx: Context[Frozen], ev: Note) -> StopEvent:
        return StopEvent(result=await ctx.store.get("n"))


async def test_a_typed_store_takes_what_its_model_takes(tmp_path: Path) -> None:
    for db in (None, tmp_path / "a.db"):
        assert await Setting().run(db=db) == ["6", {"n": 7, "more": "as it was"}]
        assert await Freezing().run(db=db) == 2


async def test_a_state_is_read_by_a_model_that_has_changed_since() -> None:
    class Shrunk(Workflow):
        @step
        async def one(self, ctx: Context[Strict], ev: StartEvent) -> StopEvent:
            return StopEvent(result=await ctx.store.get("n"))

    class Before(Workflow):
        @step
        async def one(self, ctx: Context[Stricter], ev: StartEvent) -> StopEvent:
            await ctx.store.set_state(Stricter(n=3, more="gone"))
            return StopEvent()

    handler = Before().run()
    await handler
    later = Shrunk()
    assert await later.run(ctx=Context.from_dict(later, handler.ctx.to_dict())) == 3


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
    with pytest.raises(ContextStateError, match="has not begun"):
        await slow.ctx.store.set("user.n", 1)
    await asyncio.sleep(0.02)
    with pytest.raises(ContextStateError, match="has not ended"):
        slow._mounted.workflow.run(ctx=slow.ctx)  # type: ignore[union-attr]
    await slow.cancel_run()


class Waiting(Workflow):
    @step
    async def one(self, ctx: Context[Shape], ev: StartEvent) -> StopEvent:
        await ctx.store.set("count", 1)
        await ctx.wait_for_event(HumanResponseEvent, InputRequiredEvent(), timeout=None)
        state = await ctx.store.get_state()
        return StopEvent(result=[state.count, state.inner.items])


async def test_whoever_holds_the_handler_changes_the_store_of_a_run_that_goes_on(
    tmp_path: Path,
) -> None:
    workflow = Waiting(timeout=None)
    async with open_runtime(tmp_path / "a.db") as runtime:
        handler = workflow.run(key="k")
        async for event in handler.stream_events():
            if isinstance(event, InputRequiredEvent):
                break
        await asyncio.sleep(0.02)
        store = handler.ctx.store
        async with store.edit_state() as state:
            state.count += 10
        await store.set("inner.items", [4])
        with pytest.raises(ValueError, match="no field 'nothing'"):
            await store.set("nothing", 1)
        run = await runtime.engine.run(handler.run_id)
        assert run.status == "waiting"
        # It was recorded before the change returned: nobody told the process that it ends.
        recorded = await runtime.engine.store.reader.entries(f"run/{handler.run_id}", 0, 1000)
        assert b'"items"],[4]' in recorded[-1].data
        runtime.executor.abandon()
        handler._task.cancel()
        await asyncio.wait([handler._task])
    async with open_runtime(tmp_path / "a.db"):
        later = workflow.run(key="k")
        await later.send_event(HumanResponseEvent())
        assert await later == [11, [4]]


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
