"""Objects without a stored form in the runs of this process: clients, models in open fields."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field, PrivateAttr, field_validator

from ironflow.core.errors import NotSerializable
from ironflow.workflows import Context, Workflow, step
from ironflow.workflows.codec import decode_event, encode_fields
from ironflow.workflows.context import PickleSerializer
from ironflow.workflows.errors import ContextSerdeError, WorkflowValidationError
from ironflow.workflows.events import (
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StopEvent,
)
from ironflow.workflows.plain import encode_plain


class Client:
    """Something that no journal can hold."""

    def __init__(self, name: str = "client") -> None:
        self.name = name


class Message(BaseModel):
    role: str
    text: str = ""


class Progress(Event):
    what: Any


class Asks(Workflow):
    """Streams what it was given, asks, and answers with the class of what it was given."""

    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        ctx.write_event_to_stream(Progress(what=ev.given))
        answer = await ctx.wait_for_event(
            HumanResponseEvent, waiter_event=InputRequiredEvent(prefix="well?")
        )
        return StopEvent(result=(type(ev.given).__name__, answer.response))


class Keeps(Workflow):
    """Puts a client into the store; the next run finds it there."""

    @step
    async def keep(self, ctx: Context, ev: StartEvent) -> StopEvent:
        client = await ctx.store.get("client", default=None)
        if client is None:
            await ctx.store.set("client", Client())
            await ctx.store.set("words", ["a"])
        return StopEvent(result=client)


@pytest.mark.parametrize("given", [Client(), Message(role="user")])
async def test_what_a_run_is_given_reaches_the_step_and_the_stream_as_it_is(given: object) -> None:
    handler = Asks().run(given=given)
    seen: list[Any] = []
    async for event in handler.stream_events():
        seen.append(event)
        if isinstance(event, InputRequiredEvent):
            await handler.send_event(HumanResponseEvent(response="yes"))
    assert await handler == (type(given).__name__, "yes")
    # The step was entered twice, and has told its progress once.
    assert [type(event).__name__ for event in seen] == [
        "Progress",
        "InputRequiredEvent",
        "StopEvent",
    ]
    assert seen[0].what is given


async def test_objects_made_anew_when_a_step_is_entered_again_are_streamed_once() -> None:
    class Anew(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            ctx.write_event_to_stream(Progress(what=Client()))
            answer = await ctx.wait_for_event(HumanResponseEvent)
            return StopEvent(result=answer.response)

    handler = Anew().run()
    first = handler.stream_events()
    assert (await anext(first)).what.name == "client"
    await handler.send_event(HumanResponseEvent(response="yes"))
    assert await handler == "yes"
    seen = [type(event).__name__ async for event in handler.stream_events()]
    assert seen == ["Progress", "StopEvent"]


async def test_a_run_that_goes_on_with_a_context_finds_the_objects_of_its_store() -> None:
    workflow = Keeps()
    first = workflow.run()
    assert await first is None
    found = await workflow.run(ctx=first.ctx)
    assert found.name == "client"
    again = workflow.run(ctx=first.ctx)
    assert await again is found
    assert (await again.ctx.store.get("client")) is found


async def test_a_child_is_given_objects() -> None:
    class Parent(Workflow):
        @step
        async def call(self, ev: StartEvent) -> StopEvent:
            child = Asks().run(given=ev.given)
            async for event in child.stream_events():
                if isinstance(event, InputRequiredEvent):
                    child.ctx.send_event(HumanResponseEvent(response="of the parent"))
            return StopEvent(result=await child)

    assert await Parent().run(given=Client()) == ("Client", "of the parent")


async def test_a_pickled_context_brings_its_objects_along() -> None:
    workflow = Keeps()
    handler = workflow.run()
    await handler
    with pytest.raises(ContextSerdeError, match="client"):
        handler.ctx.to_dict()
    pickle = PickleSerializer()
    written = handler.ctx.to_dict(serializer=pickle)
    ctx = Context.from_dict(workflow, written, serializer=pickle)
    assert (await ctx.store.get("client")).name == "client"
    assert (await workflow.run(ctx=ctx)).name == "client"


async def test_a_run_on_disk_refuses_the_objects_of_a_context(tmp_path: Path) -> None:
    workflow = Keeps()
    first = workflow.run()
    await first
    with pytest.raises(NotSerializable, match="store key 'client'"):
        workflow.run(ctx=first.ctx, db=tmp_path / "runs.db")


async def test_a_context_in_the_middle_is_written_with_models_and_refused_with_clients() -> None:
    workflow = Asks()
    handler = workflow.run(given=Message(role="user", text="hi"))
    async for event in handler.stream_events():
        if isinstance(event, InputRequiredEvent):
            break
    written = handler.ctx.to_dict()
    await handler.cancel_run()
    other = workflow.run(ctx=Context.from_dict(workflow, written))
    await other.send_event(HumanResponseEvent(response="later"))
    # What crosses a process is the stored form: a model in an undeclared field is a dictionary.
    assert await other == ("dict", "later")

    handler = workflow.run(given=Client())
    async for event in handler.stream_events():
        if isinstance(event, InputRequiredEvent):
            break
    with pytest.raises(ContextSerdeError, match="under way cannot be written"):
        handler.ctx.to_dict()
    pickle = PickleSerializer()
    pickled = json.loads(json.dumps(handler.ctx.to_dict(serializer=pickle)))
    await handler.cancel_run()
    other = workflow.run(ctx=Context.from_dict(workflow, pickled, serializer=pickle))
    await other.send_event(HumanResponseEvent(response="later"))
    assert await other == ("Client", "later")
    # Text that a stranger may have written is never taken for a pickle.
    with pytest.raises(ContextSerdeError, match="by another serializer"):
        Context.from_dict(workflow, pickled)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"timeout": "10"}, "timeout must be a number of seconds"),
        ({"timeout": -1}, "not -1"),
        ({"timeout": float("nan")}, "not nan"),
        ({"num_concurrent_runs": 0}, "num_concurrent_runs must be a whole number"),
        ({"num_concurrent_runs": "2"}, "not '2'"),
    ],
)
def test_limits_that_are_no_numbers_are_refused_with_their_value(
    arguments: dict[str, Any], reason: str
) -> None:
    with pytest.raises(WorkflowValidationError, match=reason):
        Keeps(**arguments)


async def test_objects_of_the_store_are_one_of_their_kind_and_data_is_copied() -> None:
    class Shares(Workflow):
        @step
        async def share(self, ctx: Context, ev: StartEvent) -> StopEvent:
            client = Client()
            await ctx.store.set("tools", {"client": client, "names": ["a"]})
            tools = await ctx.store.get("tools")
            tools["names"].append("b")
            async with ctx.store.edit_state() as state:
                same = state["tools"]["client"] is client
            names = await ctx.store.get("tools.names")
            return StopEvent(result=(tools["client"] is client, same, names))

    assert await Shares().run() == (True, True, ["a"])


async def test_a_verbose_workflow_says_what_its_steps_do(
    capsys: pytest.CaptureFixture[str],
) -> None:
    handler = Keeps(verbose=True).run()
    await handler
    assert capsys.readouterr().out.splitlines() == [
        f"[{handler.run_id}] step keep takes StartEvent",
        f"[{handler.run_id}] step keep has made StopEvent",
    ]


# -- events that are sure to come back ------------------------------------------------------------


class Plain(Event):
    text: str
    number: int | None = None
    flag: bool = False


class Held(Event):
    what: Any = None


class Checked(Event):
    number: int = Field(ge=0)


class Doubled(Event):
    number: int

    @field_validator("number")
    @classmethod
    def _double(cls, number: int) -> int:
        return number * 2


class Own(Event):
    number: int

    def __init__(self, **params: Any) -> None:
        super().__init__(**{**params, "number": params["number"] + 1})


class Secret(Event):
    _hidden: int = PrivateAttr(default=0)


def _changed(event: Event, **fields: Any) -> Event:
    for name, value in fields.items():
        setattr(event, name, value)
    return event


@pytest.mark.parametrize(
    ("event", "plain"),
    [
        (Plain(text="a"), True),
        (Plain(text="a", number=1, flag=True), True),
        (_changed(Plain(text="a"), number="b"), False),
        (Plain(text="a", more=1), False),
        (Held(what="a"), False),
        (Checked(number=1), False),
        (Doubled(number=1), False),
        (Own(number=1), False),
        (_changed(Secret(), _hidden=1), False),
        (StopEvent(result=1), False),
    ],
)
def test_only_events_that_come_back_are_taken_for_such_without_a_look(
    event: Event, plain: bool
) -> None:
    assert (encode_plain(event) is not None) is plain
    if plain:
        assert decode_event(type(event), encode_fields(event)) == event
