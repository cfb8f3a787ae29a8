"""Failures of workflows, in this process: limits, cancels, retries, handlers of errors."""

from __future__ import annotations

import asyncio

import pytest
from workflow_parts import Done, Failing, Odd, Part, Slow

from ironflow.workflows import Context, Workflow, catch_error, step, workers
from ironflow.workflows.errors import WorkflowCancelledByUser, WorkflowDone, WorkflowTimeoutError
from ironflow.workflows.events import (
    HumanResponseEvent,
    StartEvent,
    StepFailedEvent,
    StopEvent,
    WorkflowCancelledEvent,
    WorkflowFailedEvent,
    WorkflowTimedOutEvent,
)
from ironflow.workflows.retry_policy import retry_policy, stop_after_attempt, wait_fixed


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


class Stubborn(Workflow):
    is_over: asyncio.Event

    @step
    async def cling(self, ev: StartEvent) -> StopEvent:
        while not self.is_over.is_set():
            try:
                await self.is_over.wait()
            except asyncio.CancelledError:
                continue
        return StopEvent(result="too late")


async def test_a_step_that_does_not_let_itself_be_cancelled_is_named_and_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(workers, "GRACE", 0.01)
    workflow = Stubborn()
    workflow.is_over = asyncio.Event()
    handler = workflow.run()
    await asyncio.sleep(0.02)
    await handler.cancel_run(timeout=30)
    workflow.is_over.set()
    with pytest.raises(WorkflowCancelledByUser):
        await handler
    assert "its step cling goes on" in caplog.text


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
