"""What the store of a run keeps beside plain values: sets, events, and components, which turn
themselves into dictionaries. And what it must not be talked into building.
"""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID

import msgspec
import pytest
from pydantic import BaseModel, Field, model_serializer

from ironflow import testing
from ironflow.core.errors import InvalidInput, NotSerializable
from ironflow.workflows import Context, Workflow, step
from ironflow.workflows.codec import decode_event, encode_fields, event_value
from ironflow.workflows.events import (
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StopEvent,
)
from ironflow.workflows.mounting import MountedWorkflow
from ironflow.workflows.retry_policy import retry_policy, stop_after_attempt, wait_fixed
from ironflow.workflows.serializers import JsonSerializer
from ironflow.workflows.store import DictState
from ironflow.workflows.stored import decode_stored, encode_stored
from ironflow.workflows.typed import restore_typed

MOMENT = datetime(2026, 11, 26, tzinfo=UTC)


class Word(BaseModel):
    text: str


class Memory:
    """A component that is no model."""

    def __init__(self, words: list[str] | None = None) -> None:
        self.words = words or []

    @classmethod
    def class_name(cls) -> str:
        return "Memory"

    def to_dict(self) -> dict[str, Any]:
        return {"words": list(self.words)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Memory:
        return cls(data["words"])


class Mute(BaseModel):
    """A component that is a model and cannot say itself what it is."""

    words: list[Word] = []
    count: Any = Field(default=len, exclude=True)

    @classmethod
    def class_name(cls) -> str:
        return "Mute"

    def to_dict(self) -> dict[str, Any]:
        raise TypeError("the serializer of this class is out of date")

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Mute:
        raise AssertionError("it never was a dictionary")


class Note(Event):
    text: str


def restored(value: Any) -> Any:
    return decode_stored(msgspec.json.decode(msgspec.json.encode(encode_stored(value, "value"))))


@pytest.mark.parametrize(
    "value",
    [
        {1, 2},
        {"a": {"b", "c"}, "d": [{3}]},
        {"$set": [1]},
        {"__is_mapping": {"a": 1}},
        {"__is_component": True, "value": {}, "qualified_name": "x.Y"},
        {"deep": [{"__is_pydantic": True, "value": {}, "qualified_name": "x.Y"}]},
        [Note(text="a"), {"k": Note(text="b")}],
        Word(text="w"),
    ],
)
def test_values_come_back_as_they_were(value: Any) -> None:
    assert restored(value) == value


def test_components_come_back() -> None:
    found = restored({"memory": Memory(["a"]), "more": [Mute(words=[Word(text="b")])]})
    assert type(found["memory"]) is Memory
    assert found["memory"].words == ["a"]
    assert found["more"] == [Mute(words=[Word(text="b")])]
    assert found["more"][0].count is len


def test_a_component_of_which_nothing_can_be_said_is_refused_by_its_place() -> None:
    class Broken(Memory):
        def to_dict(self) -> dict[str, Any]:
            raise RuntimeError("not now")

    with pytest.raises(NotSerializable, match=r"store key 'memory'.*not now"):
        encode_stored(Broken(), "store key 'memory'")


def test_contexts_hold_components_as_llama_index_writes_them() -> None:
    text = JsonSerializer().serialize({"memory": Memory(["a"])})
    tagged = msgspec.json.decode(text)["memory"]
    assert tagged["__is_component"] is True
    assert tagged["value"] == {"words": ["a"]}
    assert JsonSerializer().deserialize(text)["memory"].words == ["a"]


# -- components in runs ---------------------------------------------------------------------------


class Remembers(Workflow):
    """Each step gets the memory from the store and adds to it, without setting it again."""

    failures = 0

    @step(retry_policy=retry_policy(wait=wait_fixed(1), stop=stop_after_attempt(3)))
    async def first(self, ctx: Context, ev: StartEvent) -> Note:
        if await ctx.store.get("memory", default=None) is None:
            await ctx.store.set("memory", Memory())
        memory = await ctx.store.get("memory")
        memory.words.append("first")
        if Remembers.failures:
            Remembers.failures -= 1
            raise ValueError("not yet")
        return Note(text="x")

    @step
    async def second(self, ctx: Context, ev: Note) -> StopEvent:
        memory = await ctx.store.get("memory")
        memory.words.append("second")
        answer = await ctx.wait_for_event(HumanResponseEvent, InputRequiredEvent())
        memory.words.append(answer.response)
        return StopEvent(result=memory.words)


@pytest.mark.parametrize("failures", [0, 2])
def test_what_steps_change_in_a_component_is_recorded_once(failures: int) -> None:
    async def main(world: testing.World) -> None:
        Remembers.failures = failures
        await world.engine.workflows.start("Remembers", b"{}", run_id="r", handler_id="h")
        await world.advance("5s")
        run = await world.state("r")
        assert run.workflow is not None
        assert decode_stored(run.workflow.store["memory"]).words == ["first"]
        await world.crash()
        doors = world.engine.workflows
        answer = HumanResponseEvent(response="yes")
        event = doors.face("Remembers").read_event(
            {"type": "HumanResponseEvent", "value": answer.model_dump()}
        )
        await doors.send("r", *event)
        expected = ["first", "second", "yes"]
        assert (await world.wait("r")).result["value"] == {"result": expected}
        # The next run under the handler's name goes on with the memory.
        started = await doors.start("Remembers", b"{}", handler_id="h")
        await world.advance("5s")
        await doors.send(started.run_id, *event)
        assert (await world.wait(started.run_id)).result["value"] == {"result": expected * 2}

    testing.run(main, functions=[MountedWorkflow(Remembers(timeout=None))])


async def test_in_memory_a_component_is_one_of_its_kind() -> None:
    class Shares(Workflow):
        @step
        async def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
            memory = Memory()
            await ctx.store.set("memory", memory)
            async with ctx.store.edit_state() as state:
                state["other"] = 1
                same = state["memory"] is memory
            memory.words.append("a")
            return StopEvent(result=[same, await ctx.store.get("memory") is memory])

    handler = Shares().run()
    assert await handler == [True, True]
    assert (await handler.ctx.store.get("memory")).words == ["a"]


# -- events with serializers of their own ---------------------------------------------------------


class Picky(StartEvent):
    """As the start event of LlamaIndex's agents: its serializer wants what need not be there."""

    @model_serializer
    def _say(self) -> dict[str, Any]:
        return {"user_msg": self.user_msg, "chat_history": self.chat_history}


def test_an_event_whose_serializer_fails_is_stored_by_its_fields() -> None:
    given = Picky(user_msg="hi")
    assert decode_event(Picky, encode_fields(given)).user_msg == "hi"


class Bare(StopEvent):
    """As LlamaIndex's before 2.8: it does not say its result."""

    @model_serializer
    def _say(self) -> dict[str, Any]:
        return {}


def test_a_result_that_the_stop_event_does_not_say_is_stored() -> None:
    said = event_value(Bare(result={"moment": MOMENT}))
    assert said == {"result": {"moment": "2026-11-26T00:00:00Z"}}
    assert event_value(Bare()) == {}


# -- values that JSON gives back as something else ------------------------------------------------


class Carries(Event):
    what: Any
    more: list[Any]
    either: str | UUID
    left_out: Any = Field(default=None, exclude=True)


class Carried(Workflow):
    """The second step is entered again in another process, with what it was given."""

    given: ClassVar[list[dict[str, Any]]] = []

    @step
    async def pack(self, ev: StartEvent) -> Carries:
        return Carries(
            what=Word(text="a"), more=[{1, 2}], either=UUID(int=1), left_out="x", when=MOMENT
        )

    @step
    async def unpack(self, ctx: Context, ev: Carries) -> StopEvent:
        Carried.given.append({**ev.__dict__, **dict(ev.items())})
        answer = await ctx.wait_for_event(HumanResponseEvent, InputRequiredEvent())
        return StopEvent(result=answer.response)


def test_a_step_that_is_executed_again_is_given_what_it_was_given() -> None:
    async def main(world: testing.World) -> None:
        Carried.given.clear()
        await world.engine.workflows.start("Carried", b"{}", run_id="r")
        await world.advance("1s")
        await world.crash()
        doors = world.engine.workflows
        answer = {"type": "HumanResponseEvent", "value": {"response": "yes"}}
        await doors.send("r", *doors.face("Carried").read_event(answer))
        assert (await world.wait("r")).status == "completed"
        first, again = Carried.given
        assert first == {
            "what": Word(text="a"),
            "more": [{1, 2}],
            "either": UUID(int=1),
            "left_out": "x",
            "when": MOMENT,
        }
        assert again == {**first, "left_out": None}  # the class says that it is not to be stored

    testing.run(main, functions=[MountedWorkflow(Carried(timeout=None))])


def test_a_value_whose_class_is_gone_is_what_json_says() -> None:
    gone = {"what": {"$type": "nowhere.Word", "text": "a"}}
    assert decode_event(
        Carries, b'{"what":{"text":"a"},"more":[],"either":""}', None, restore_typed(gone)
    ).what == {"text": "a"}


# -- hostile --------------------------------------------------------------------------------------

HOSTILE = "hostile_module_of_nobody"


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module that must never be imported."""
    (tmp_path / f"{HOSTILE}.py").write_text(
        "from pydantic import BaseModel\nclass Thing(BaseModel):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return HOSTILE


THING_HERE = f"{__name__}.Note"


def _context(**facts: Any) -> dict[str, Any]:
    return {"version": 2, "state": {"state_data": {"_data": {}}}, "is_running": True, **facts}


def _job(**facts: Any) -> dict[str, Any]:
    event = {"type": THING_HERE, "value": {"json": {"text": "x"}}}
    job = {"id": 0, "step": "second", "events": [event], "added_at": 0, **facts}
    return _context(ironflow={"begun": True, "next_job": 1, "jobs": {"0": job}})


THING = f"{HOSTILE}.Thing"
TAGGED = {"$type": THING}
COMPONENT = {"__is_component": True, "value": {}, "qualified_name": THING}
ECHO = {"kind": "store", "changes": [["=", ["k"], TAGGED]], "undo": [["-", ["k"]]]}
CONTEXTS: dict[str, dict[str, Any]] = {
    "a value that is no text": _context(state={"state_data": {"_data": {"k": COMPONENT}}}),
    "a typed state": _context(state={"state_data": json.dumps({"k": TAGGED})}),
    "a component": _context(state={"state_data": {"_data": {"k": json.dumps(COMPONENT)}}}),
    "an event": _job(events=[{"type": THING, "value": {"json": {}}}]),
    "a value in an event": _job(
        events=[{"type": THING_HERE, "value": {"json": {"text": "x"}}, "typed": {"k": TAGGED}}]
    ),
    "a memo": _job(memos={"m": {"json": TAGGED}}),
    "an echo": _job(echoes=[ECHO]),
    "an error": _job(error={"kind": "x", "message": "x", "facts": {"type": THING}}, failures=1),
}


@pytest.mark.parametrize("what", list(CONTEXTS))
def test_a_context_that_a_caller_sends_imports_nothing(hostile: str, what: str) -> None:
    async def main(world: testing.World) -> None:
        doors = world.engine.workflows
        with suppress(InvalidInput):
            state = doors.face("Remembers").read_context(CONTEXTS[what])
            await doors.start("Remembers", b"{}", run_id="r", state=state)
            await world.advance("5s")
            await world.crash()
            await world.advance("5s")
        assert hostile not in sys.modules

    Remembers.failures = 0
    testing.run(main, functions=[MountedWorkflow(Remembers(timeout=None))])


def test_a_mapping_that_names_a_class_imports_nothing(hostile: str) -> None:
    for mark in ("__is_pydantic", "__is_component", "__has_fields"):
        given = {mark: True, "value": {}, "qualified_name": f"{hostile}.Thing"}
        assert restored(given) == given
        assert restored(DictState(given=given)) == DictState(given=given)
    assert hostile not in sys.modules
