"""Events, memos and answers that are too large for an entry and lie in the blob table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from ironflow.core.values.payloads import INLINE_LIMIT
from ironflow.workflows import Context, Workflow, step
from ironflow.workflows.errors import ContextSerdeError
from ironflow.workflows.events import (
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StopEvent,
)
from ironflow.workflows.objects import MOST_LARGE

LARGE = "ä" * INLINE_LIMIT


class Word(BaseModel):
    text: str


class Page(Event):
    text: str
    word: Any = None
    number: int = 0


class Reading(Workflow):
    """Holds a page, what it collected, and a memo while it waits."""

    @step
    async def begin(self, ev: StartEvent) -> Page:
        return Page(text=LARGE, word=Word(text="a"))

    @step
    async def read(self, ctx: Context, ev: Page) -> StopEvent:
        held = ctx.collect_events(ev, [Page])
        memo = await ctx.once("copy", lambda: LARGE + "copy")
        answer = await ctx.wait_for_event(HumanResponseEvent, InputRequiredEvent(), timeout=None)
        assert held is not None
        same = [ev.text == LARGE, held[0].text == LARGE, memo == LARGE + "copy"]
        return StopEvent(result=[*same, type(ev.word).__name__, len(answer.response)])


def place(where: str, folder: Path, name: str) -> dict[str, Any]:
    return {} if where == "memory" else {"db": folder / f"{name}.db"}


async def until_asked(handler: Any) -> None:
    async for event in handler.stream_events():
        if isinstance(event, InputRequiredEvent):
            return


@pytest.mark.parametrize("where", ["memory", "file"])
async def test_a_large_answer_reaches_a_run_that_is_in_memory(where: str, tmp_path: Path) -> None:
    handler = Reading(timeout=30).run(**place(where, tmp_path, "a"))
    await until_asked(handler)
    await handler.send_event(HumanResponseEvent(response=LARGE))
    assert await handler == [True, True, True, "Word", len(LARGE)]


@pytest.mark.parametrize("first", ["memory", "file"])
@pytest.mark.parametrize("second", ["memory", "file"])
async def test_a_context_has_all_of_what_is_under_way_in_it(
    first: str, second: str, tmp_path: Path
) -> None:
    workflow = Reading(timeout=30)
    handler = workflow.run(**place(first, tmp_path, "first"))
    await until_asked(handler)
    written = json.dumps(handler.ctx.to_dict())
    assert '"blob"' not in written
    await handler.cancel_run()
    again = workflow.run(
        ctx=Context.from_dict(workflow, json.loads(written)), **place(second, tmp_path, "second")
    )
    await again.send_event(HumanResponseEvent(response="yes"))
    # A run in memory has the model itself, and writes what JSON says of it.
    kind = "dict" if first == "memory" else "Word"
    assert await again == [True, True, True, kind, 3]


async def test_a_context_that_refers_to_what_it_does_not_contain_is_refused() -> None:
    workflow = Reading(timeout=30)
    handler = workflow.run()
    await until_asked(handler)
    written = json.loads(json.dumps(handler.ctx.to_dict()))
    await handler.cancel_run()
    (job,) = written["ironflow"]["jobs"].values()
    job["events"][0]["value"] = {"blob": "0" * 64, "size": 70_000}
    with pytest.raises(ContextSerdeError, match="does not contain"):
        Context.from_dict(workflow, written)


async def test_a_run_holds_no_large_event_that_is_over() -> None:
    class Turning(Workflow):
        most = 0

        @step
        async def turn(self, ctx: Context, ev: StartEvent | Page) -> Page | StopEvent:
            number = ev.number if isinstance(ev, Page) else 0
            body = ctx._step("look").body
            self.most = max(self.most, len(body.objects.large))
            if number == 5 * MOST_LARGE:
                return StopEvent(result=number)
            return Page(text=f"{number} {LARGE}", number=number + 1)

    workflow = Turning(timeout=30)
    assert await workflow.run() == 5 * MOST_LARGE
    assert 0 < workflow.most <= MOST_LARGE + 3
