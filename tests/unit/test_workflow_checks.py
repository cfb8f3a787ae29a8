"""What is said of steps that cannot work together, when their workflow is made."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from workflow_parts import A, B, Fine

from ironflow.workflows import Context, Workflow, catch_error, step
from ironflow.workflows.collect import Collect, Take
from ironflow.workflows.errors import WorkflowValidationError
from ironflow.workflows.events import (
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StepFailedEvent,
    StopEvent,
)


class _Orphan(Workflow):
    @step
    async def one(self, ev: StartEvent) -> StopEvent:
        return StopEvent()

    @step
    async def two(self, ev: A) -> StopEvent:
        return StopEvent()


class _Waste(Workflow):
    @step
    async def one(self, ev: StartEvent) -> A | StopEvent:
        return A()


class _TakesStop(Workflow):
    @step
    async def one(self, ev: StartEvent) -> StopEvent:
        return StopEvent()

    @step
    async def two(self, ev: StopEvent) -> None:
        return None


class _Circle(Workflow):
    @step
    async def one(self, ev: StartEvent) -> StopEvent | A:
        return A()

    @step
    async def two(self, ev: A) -> B:
        return B()

    @step
    async def three(self, ev: B) -> A:
        return A()


class _Lost(Workflow):
    @step
    async def one(self, ev: StartEvent) -> StopEvent:
        return StopEvent()

    @step
    async def two(self, ev: A) -> B:
        return B()

    @step
    async def three(self, ev: B) -> A | StopEvent:
        return A()


class _Sink(Workflow):
    @step
    async def one(self, ev: StartEvent) -> StopEvent:
        return StopEvent()

    @step
    async def two(self, ev: StartEvent) -> A:
        return A()

    @step
    async def three(self, ev: A) -> None:
        return None


class _Answers(Workflow):
    @step
    async def one(self, ev: StartEvent) -> StopEvent | HumanResponseEvent:
        return StopEvent()


class _TakesQuestions(Workflow):
    @step
    async def one(self, ev: StartEvent) -> StopEvent:
        return StopEvent()

    @step
    async def two(self, ev: InputRequiredEvent) -> StopEvent:
        return StopEvent()


def test_events_that_nobody_makes_or_takes() -> None:
    for kind, word in (
        (_Orphan, "never produced: A"),
        (_Waste, "never taken: A"),
        (_TakesStop, "a run is over then"),
        (_Circle, "from 'two', 'three' no way leads to an end"),
        (_Sink, "from 'two' no way leads to an end"),
        (_Lost, "nothing leads to"),
        (_TakesQuestions, "nothing leads to 'two'"),
        (_Answers, "never taken: HumanResponseEvent"),
    ):
        with pytest.raises(WorkflowValidationError, match=word):
            kind()
        kind(disable_validation=True)
    _Circle(skip_graph_checks=["dead_end"])
    _Sink(skip_graph_checks=["dead_end"])
    _Lost(skip_graph_checks=["reachability"])
    _TakesQuestions(skip_graph_checks=["reachability"])
    _Answers(skip_graph_checks=["terminal_event"])
    with pytest.raises(WorkflowValidationError, match="no way leads"):
        _Sink(skip_graph_checks=["reachability", "terminal_event"])


def test_questions_and_answers_need_no_partner() -> None:
    class _Human(Workflow):
        @step
        async def ask(self, ev: StartEvent) -> InputRequiredEvent:
            return InputRequiredEvent()

        @step
        async def answer(self, ev: HumanResponseEvent) -> StopEvent:
            return StopEvent()

    assert _Human().validate()
    assert not Fine().validate()


def test_lists_need_a_fan_out() -> None:
    class _Alone(Workflow):
        @step
        async def one(self, ev: StartEvent) -> A:
            return A()

        @step
        async def two(self, evs: Annotated[list[A], Collect(Take(1))]) -> StopEvent:
            return StopEvent()

    with pytest.raises(WorkflowValidationError, match="collect_events"):
        _Alone()

    class _HalfFed(Workflow):
        @step
        async def one(self, ev: StartEvent) -> list[A]:
            return []

        @step
        async def two(self, ev: StartEvent) -> B:
            return B()

        @step
        async def three(self, evs: list[A | B]) -> StopEvent:
            return StopEvent()

    with pytest.raises(WorkflowValidationError, match=r"joins list\[B\]"):
        _HalfFed()
    with pytest.raises(WorkflowValidationError, match="can join one list"):

        class _Two(Workflow):
            @step
            async def one(self, a: list[A], b: list[B]) -> StopEvent:
                return StopEvent()


class _Apart(Workflow):
    @step
    async def one(self, ev: StartEvent) -> list[A]:
        return []

    @step
    async def two(self, ev: StartEvent) -> B:
        return B()

    @step
    async def join(self, a: A, b: B) -> StopEvent:
        return StopEvent()


class _Together(_Apart):
    @step
    async def two(self, ev: A) -> B:
        return B()


class _Sending(_Apart):
    """An event that is sent is outside of the fan-outs of whoever sends it."""

    @step
    async def three(self, ctx: Context, ev: A) -> A:
        return A()


def test_events_that_are_taken_together_meet_in_one_fan_out() -> None:
    told = "'a' comes out of the list that 'one' returns; 'b' comes outside of any list"
    with pytest.raises(WorkflowValidationError, match=told):
        _Apart()
    _Together()
    _Sending()


def test_error_handlers_are_checked() -> None:
    def build(*handlers: tuple[list[str] | None, str]) -> type[Workflow]:
        body: dict[str, Any] = {"__module__": __name__, "one": Fine.__dict__["one"]}
        for number, (covers, name) in enumerate(handlers):

            async def handle(self: Any, ev: StepFailedEvent) -> StopEvent:
                return StopEvent()

            handle.__name__ = name or f"h{number}"
            body[handle.__name__] = catch_error(for_steps=covers)(handle)
        return type("_Caught", (Workflow,), body)

    build((None, "a"))()
    build((["one"], "a"), (None, "b"))()
    for handlers, word in (
        ([(None, "a"), (None, "b")], "only one"),
        ([(["one"], "a"), (["one"], "b")], "two error handlers"),
        ([(["nope"], "a")], "no step"),
        ([(["b"], "a"), (None, "b")], "cannot be for the error handler"),
    ):
        with pytest.raises(WorkflowValidationError, match=word):
            build(*handlers)()  # type: ignore[arg-type]
    with pytest.raises(WorkflowValidationError, match="StepFailedEvent"):

        class _Wrong(Workflow):
            @catch_error
            async def bad(self, ev: A) -> StopEvent:
                return StopEvent()
