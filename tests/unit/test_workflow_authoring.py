"""What is said of events, steps and states that cannot work, when they are written."""

from __future__ import annotations

import subprocess
import sys
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, PrivateAttr
from workflow_parts import A, Fine

from ironflow.workflows import Context, Resource, Workflow, step
from ironflow.workflows.collect import Take
from ironflow.workflows.errors import WorkflowConfigurationError, WorkflowValidationError
from ironflow.workflows.events import (
    Event,
    StartEvent,
    StopEvent,
    WorkflowFailedEvent,
)


class Needy(BaseModel):
    name: str


def test_events_take_declared_and_further_fields() -> None:
    class Named(Event):
        name: str
        size: int = 1

    event = Named(name="x", color="red")
    assert (event.name, event.size, event.color) == ("x", 1, "red")
    assert (event["color"], event.get("shape", "?"), "color" in event) == ("red", "?", True)
    assert list(event.keys()) == ["color"]
    assert list(event.items()) == [("color", "red")]
    assert len(event) == 1
    assert bool(Event())
    event.weight = 3
    assert event.model_dump() == {"name": "x", "size": 1, "_data": {"color": "red", "weight": 3}}
    assert Named.model_validate(event.model_dump()) == event
    with pytest.raises(AttributeError):
        _ = event.nothing
    with pytest.raises(ValueError, match="name"):
        Named(size=2)


def test_stop_events_have_a_result_or_are_one() -> None:
    class Typed(StopEvent):
        answer: int

    with pytest.warns(UserWarning, match="shadows"):

        class Declared(StopEvent):
            result: str = "as declared"

    class Worked(StopEvent):
        n: int

        def _get_result(self) -> Any:
            return self.n * 2

    assert Worked(n=2).result == 4
    assert Declared().result == "as declared"
    assert Declared(result="said").result == "said"
    assert Declared.model_validate(Declared(result="said").model_dump()).result == "said"
    assert StopEvent(result=[1]).model_dump() == {"result": [1]}
    assert StopEvent().model_dump() == {}
    assert StopEvent.model_validate({"result": 3}).result == 3
    assert Typed(answer=2).model_dump() == {"answer": 2}
    assert "answer=2" in repr(Typed(answer=2))
    assert str(Typed(answer=2)) == "Typed(answer=2)"
    assert str(StopEvent(result=[1])) == "[1]"


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: step(num_workers=0), "num_workers"),
        (lambda: step(num_workers=True), "num_workers"),
        (lambda: step(retry_policy=object()), "next"),
        (lambda: step(skip_graph_checks=["wrong"]), "wrong"),
    ],
)
def test_options_of_a_step_are_checked(make: Any, word: str) -> None:
    with pytest.raises(WorkflowValidationError, match=word):

        class _Bad(Workflow):
            @make()
            async def one(self, ev: StartEvent) -> StopEvent:
                return StopEvent()


def test_signatures_are_checked() -> None:
    with pytest.raises(WorkflowValidationError, match="must take an event"):

        class _NoEvent(Workflow):
            @step
            async def one(self, ctx: Context) -> StopEvent:
                return StopEvent()

    with pytest.raises(WorkflowValidationError, match="must say what it returns"):

        class _NoReturn(Workflow):
            @step
            async def one(self, ev: StartEvent):  # type: ignore[no-untyped-def]
                return StopEvent()

    with pytest.raises(WorkflowValidationError, match="must return events"):

        class _NotEvents(Workflow):
            @step
            async def one(self, ev: StartEvent) -> int:
                return 1

    with pytest.raises(WorkflowValidationError, match="is a generator"):

        class _Generator(Workflow):
            @step
            async def one(self, ev: StartEvent) -> StopEvent:  # type: ignore[misc]
                yield StopEvent()

    with pytest.raises(WorkflowValidationError, match="needs a type"):

        class _Untyped(Workflow):
            @step
            async def one(self, ev: StartEvent, other) -> StopEvent:  # type: ignore[no-untyped-def]
                return StopEvent()

    with pytest.raises(WorkflowValidationError, match="free function"):

        @step
        async def free(ev: StartEvent) -> StopEvent:
            return StopEvent()

    with pytest.raises(ValueError, match="at least 1"):
        Take(0)


def test_a_workflow_begins_and_ends_in_one_way() -> None:
    class _NoStart(Workflow):
        @step
        async def one(self, ev: A) -> StopEvent:
            return StopEvent()

    class _NoStop(Workflow):
        @step
        async def one(self, ev: StartEvent) -> A:
            return A()

        @step
        async def two(self, ev: A) -> None:
            return None

    class MyStart(StartEvent):
        pass

    class _TwoStarts(Workflow):
        @step
        async def one(self, ev: StartEvent) -> StopEvent:
            return StopEvent()

        @step
        async def two(self, ev: MyStart) -> StopEvent:
            return StopEvent()

    for kind, word in ((_NoStart, "StartEvent"), (_NoStop, "StopEvent"), (_TwoStarts, "MyStart")):
        with pytest.raises(WorkflowConfigurationError, match=word):
            kind()
    with pytest.raises(WorkflowValidationError, match="timeout"):
        Fine(timeout=-1)
    with pytest.raises(WorkflowValidationError, match="num_concurrent_runs"):
        Fine(num_concurrent_runs=0)


def test_a_state_needs_defaults_and_is_one() -> None:
    class Good(BaseModel):
        n: int = 0

    class _Needs(Workflow):
        @step
        async def one(self, ctx: Context[Needy], ev: StartEvent) -> StopEvent:
            return StopEvent()

    class _TwoTypes(Workflow):
        @step
        async def one(self, ctx: Context[Needy], ev: StartEvent) -> A:
            return A()

        @step
        async def two(self, ctx: Context[Good], ev: A) -> StopEvent:
            return StopEvent()

    with pytest.raises(WorkflowValidationError, match="need defaults: name"):
        _Needs()
    with pytest.raises(WorkflowValidationError, match="several types of state"):
        _TwoTypes()


def test_steps_are_inherited_and_overridden() -> None:
    class More(Fine):
        @step
        async def one(self, ev: StartEvent) -> A:
            return A()

        @step
        async def two(self, ev: A) -> StopEvent:
            return StopEvent(result=2)

    class Less(More):
        two = None

    assert set(More.steps_of_class()) == {"one", "two"}
    assert set(Less.steps_of_class()) == {"one"}
    assert set(Fine.steps_of_class()) == {"one"}

    class Freely(Workflow):
        pass

    @step(workflow=Freely)
    async def begin(ctx: Context, ev: StartEvent) -> StopEvent:
        return StopEvent(result="free")

    assert set(Freely.steps_of_class()) == {"begin"}
    with pytest.raises(WorkflowValidationError, match="already"):
        step(workflow=Freely)(begin)


def test_resources_are_found_in_signatures() -> None:
    def make() -> str:
        return "made"

    class _With(Workflow):
        @step
        async def one(self, ev: StartEvent, name: Annotated[str, Resource(make)]) -> StopEvent:
            return StopEvent(result=name)

    (spec,) = _With.steps_of_class().values()
    assert list(spec.resources) == ["name"]
    assert [slot.name for slot in spec.slots] == ["ev"]


def test_without_pydantic_it_says_so_in_one_line() -> None:
    code = (
        "import sys; sys.modules['pydantic'] = None\n"
        "import ironflow, ironflow.server\n"
        "try:\n    import ironflow.workflows\n"
        "except ImportError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "ironflow.workflows needs pydantic" in done.stdout
    assert len(done.stdout.strip().splitlines()) == 1


class _Marked(Event):
    name: str = "x"


class _Kept(_Marked):
    _notes: list[str] = PrivateAttr(default_factory=list)


class _Counted(_Marked):
    count: int = 0

    def model_post_init(self, context: Any, /) -> None:
        self.count += 1


class _Ended(StopEvent):
    total: int = 0
    _notes: list[str] = PrivateAttr(default_factory=list)


def test_an_event_has_its_private_attributes_and_further_fields_whatever_its_class() -> None:
    plain, kept, counted = _Marked(further=1), _Kept(further=2), _Counted(further=3)
    ended = _Ended(total=4, further=4)
    assert [each.get("further") for each in (plain, kept, counted, ended)] == [1, 2, 3, 4]
    assert (kept._notes, ended._notes, ended.result, counted.count) == ([], [], None, 1)
    kept._notes.append("seen")
    assert _Kept()._notes == []
    assert _Marked().get("further") is None
    assert plain.model_copy(deep=True).get("further") == 1
    assert StopEvent(result=5).result == 5


def test_steps_may_name_a_base_of_the_state() -> None:
    class Base(BaseModel):
        count: int = 1

    class Whole(Base):
        name: str = "n"

    class Both(Workflow):
        @step
        async def first(self, ctx: Context[Base], ev: StartEvent) -> A:
            raise AssertionError

        @step
        async def second(self, ctx: Context[Whole], ev: A) -> StopEvent:
            return StopEvent()

    assert Both().graph.state_type is Whole


def test_an_event_says_its_fields_under_the_names_that_others_use() -> None:
    event = Event(a=1)
    assert event.dict() == event.model_dump() == {"_data": {"a": 1}}
    assert event.to_dict() == {"a": 1}


@pytest.mark.parametrize(
    ("kind", "shown"),
    [
        ("builtins.ValueError", ValueError("bad")),
        ("no.such.module.Error", RuntimeError("no.such.module.Error: bad")),
        ("os.system", RuntimeError("os.system: bad")),
    ],
)
def test_a_failure_that_is_read_is_an_exception_again(kind: str, shown: Exception) -> None:
    facts = {"exception_type": kind, "exception_message": "bad"}
    event = WorkflowFailedEvent(step_name="one", exception=facts)
    assert isinstance(event.exception, type(shown))
    assert str(event.exception) == str(shown)
    assert event.model_dump()["exception"] == facts
