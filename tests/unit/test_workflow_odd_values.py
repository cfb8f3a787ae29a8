"""What steps may say that a journal cannot hold as it is: it is refused or rewritten with a clear
word, in the step that says it. A run never hangs for it.
"""

from __future__ import annotations

import asyncio
import math
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from ironflow.core.clock import FOREVER
from ironflow.core.errors import NotSerializable
from ironflow.workflows import Context, Workflow, catch_error, step
from ironflow.workflows.errors import WorkflowRuntimeError
from ironflow.workflows.events import (
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StepFailedEvent,
    StopEvent,
)
from ironflow.workflows.retry_policy import ask, retry_policy, stop_after_attempt, wait_none

BROKEN = "a name \udcff that is no UTF-8"


class Colour(Enum):
    RED = "red"


class Inner(Event):
    n: int


class Answer(HumanResponseEvent):
    about: Any = None


class Waiting(Workflow):
    @step
    async def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
        answer = await ctx.wait_for_event(
            Answer, InputRequiredEvent(), requirements={"about": WANTED[ev.case]}, timeout=FOREVER
        )
        return StopEvent(result=answer.response)


WANTED: dict[str, Any] = {
    "enum": Colour.RED,
    "moment": datetime(2026, 1, 1, tzinfo=UTC),
    "uuid": UUID(int=7),
    "model": Inner(n=1),
    "tuple": (1, 2),
    "keys": {1: 2},
    "large": 2**80,
}


@pytest.mark.parametrize("case", WANTED)
@pytest.mark.parametrize("where", ["memory", "file"])
async def test_a_wait_asks_for_values_of_any_type_that_has_a_json_form(
    case: str, where: str, tmp_path: Path
) -> None:
    place = {} if where == "memory" else {"db": tmp_path / "runs.db"}
    handler = Waiting().run(case=case, **place)
    async for event in handler.stream_events():
        if isinstance(event, InputRequiredEvent):
            await handler.send_event(Answer(about="another", response="no"))
            await handler.send_event(Answer(about=WANTED[case], response="yes"))
    assert await handler == "yes"


async def test_a_wait_for_what_has_no_json_form_is_refused_and_the_run_fails() -> None:
    class Lost(Workflow):
        @step
        async def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await ctx.wait_for_event(Answer, requirements={"about": object()})
            return StopEvent()

    with pytest.raises(NotSerializable, match=r"\$\.about"):
        await Lost(timeout=30).run()


async def test_an_answer_with_an_object_is_compared_by_the_fields_that_are_asked_for() -> None:
    class Named(Workflow):
        @step
        async def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
            wanted = {"user": "ann"}
            answer = await ctx.wait_for_event(Answer, InputRequiredEvent(), requirements=wanted)
            return StopEvent(result=type(answer.about).__name__)

    handler = Named(timeout=30).run()
    async for event in handler.stream_events():
        if isinstance(event, InputRequiredEvent):
            await handler.send_event(Answer(about=asyncio.Lock(), user="ann"))
    assert await handler == "Lock"


async def test_an_error_that_is_no_utf_8_fails_its_run_and_can_be_caught(tmp_path: Path) -> None:
    class Failing(Workflow):
        @step(retry_policy=retry_policy(wait=wait_none(), stop=stop_after_attempt(2)))
        async def one(self, ev: StartEvent) -> StopEvent:
            raise ValueError(BROKEN)

    class Caught(Failing):
        @catch_error
        async def mend(self, ev: StepFailedEvent) -> StopEvent:
            return StopEvent(result=[ascii(ev.exception), ev.attempts])

    with pytest.raises(ValueError, match="that is no UTF-8"):
        await Failing(timeout=30).run(db=tmp_path / "failing.db")
    said, attempts = await Caught(timeout=30).run(db=tmp_path / "caught.db")
    assert "that is no UTF-8" in said
    assert attempts == 2


async def test_names_and_values_that_are_no_utf_8_are_refused_where_they_are_said(
    tmp_path: Path,
) -> None:
    class Naming(Workflow):
        @step
        async def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
            calls: list[Any] = [
                lambda: ctx.store.set("value", BROKEN),
                lambda: ctx.store.set(BROKEN, 1),
                lambda: ctx.once(BROKEN, int),
                lambda: ctx.once("name", lambda: BROKEN),
                lambda: ctx.wait_for_event(Answer, waiter_id=BROKEN),
            ]
            refused = []
            for call in calls:
                try:
                    await call()
                except (NotSerializable, WorkflowRuntimeError) as error:
                    refused.append(type(error).__name__)
            return StopEvent(result=refused)

    kinds = ["NotSerializable"] * 2 + ["WorkflowRuntimeError", "NotSerializable"]
    assert await Naming(timeout=30).run(db=tmp_path / "a.db") == [*kinds, "WorkflowRuntimeError"]


class Saying:
    """A policy that says something, once."""

    def __init__(self, said: Any) -> None:
        self.said = said

    def next(self, elapsed_time: float, attempts: int, error: Exception) -> Any:
        if attempts > 1:
            return None
        return self.said() if callable(self.said) else self.said


@pytest.mark.parametrize("said", [math.nan, "soon", lambda: 1 // 0])
async def test_a_retry_policy_that_is_broken_fails_the_run_with_what_is_wrong_with_it(
    said: Any,
) -> None:
    class Trying(Workflow):
        @step(retry_policy=Saying(said))
        async def one(self, ev: StartEvent) -> StopEvent:
            raise KeyError("first")

    with pytest.raises((ValueError, ZeroDivisionError)):
        await Trying(timeout=30).run()


def test_pauses_are_durations_that_a_timer_can_have() -> None:
    error = ValueError("no")
    assert ask(Saying(math.inf), 0, 1, error, 0) == FOREVER
    assert ask(Saying(-1), 0, 1, error, 0) == 0
    assert ask(Saying(timedelta(seconds=2)), 0, 1, error, 0) == 2


@pytest.mark.parametrize("timeout", [math.inf, 1e300])
async def test_a_timeout_that_never_comes_is_none(timeout: float, tmp_path: Path) -> None:
    class Patient(Workflow):
        @step
        async def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
            answer = await ctx.wait_for_event(Answer, InputRequiredEvent(), timeout=timeout)
            return StopEvent(result=answer.response)

    handler = Patient(timeout=timeout).run(db=tmp_path / "patient.db")
    async for event in handler.stream_events():
        if isinstance(event, InputRequiredEvent):
            await handler.send_event(Answer(response="at last"))
    assert await handler == "at last"


async def test_once_calls_once_for_several_tasks_of_a_step_at_a_time() -> None:
    calls: list[str] = []

    async def charge() -> int:
        calls.append("charge")
        await asyncio.sleep(0)
        return len(calls)

    async def fail() -> int:
        calls.append("fail")
        await asyncio.sleep(0)
        raise ValueError("declined")

    class Paying(Workflow):
        @step
        async def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
            both = await asyncio.gather(*(ctx.once("charge", charge) for _ in range(3)))
            failed = await asyncio.gather(
                *(ctx.once("fail", fail) for _ in range(2)), return_exceptions=True
            )
            return StopEvent(result=[both, [str(each) for each in failed]])

    # A call that failed was not made: the next one makes it.
    assert await Paying(timeout=30).run() == [[1, 1, 1], ["declined", "declined"]]
    assert calls == ["charge", "fail", "fail"]


async def test_the_empty_path_is_the_whole_store() -> None:
    class Looking(Workflow):
        @step
        async def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await ctx.store.set("a", 1)
            return StopEvent(result=(await ctx.store.get("")).to_dict())

    assert await Looking().run() == {"a": 1}
