"""What holds up the loop is reported by name: the function, the run, the step, the source line."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import ironflow.embedded
from ironflow import Context, function
from ironflow.core.blockages import MAX_FUNCTIONS, Blockage, Blockages
from ironflow.core.clock import SystemClock
from ironflow.sdk.watchdog import STARVED, Watchdog
from ironflow.workflows import Workflow, step
from ironflow.workflows.events import StartEvent, StopEvent

pytestmark = pytest.mark.blocks_the_loop
THRESHOLD = 0.02
Work = Callable[[], Awaitable[object]]


def hold_up() -> None:
    """Until the watchdog must name this: it looks from another thread, however slow that is, and
    names what it saw most often.
    """
    seen.clear()
    while not any(count > seen.elsewhere for count in seen.here.copy().values()):
        time.sleep(0.001)


class Seen:
    """The looks that watchdogs took at the stack: at lines while something holds it up, and all
    those, before or after, for which nobody is to blame.
    """

    def __init__(self) -> None:
        self.here: Counter[str] = Counter()
        self.elsewhere = 0

    def clear(self) -> None:
        """Count lines anew."""
        self.here.clear()

    def add(self, place: str) -> None:
        """One look."""
        if "test_watchdog.py:" in place:
            self.here[place] += 1
        else:
            self.elsewhere += 1


seen = Seen()


async def watched(work: Work, monkeypatch: pytest.MonkeyPatch) -> Blockage:
    """What is reported of this file while `work` runs: a busy machine is held up elsewhere, too."""
    look = Watchdog._look

    def noted(self: Watchdog) -> Any:
        found = look(self)
        seen.add(found.place)
        return found

    monkeypatch.setattr(Watchdog, "_look", noted)
    reported: asyncio.Queue[Blockage] = asyncio.Queue()
    watchdog = Watchdog(THRESHOLD, SystemClock(), reported.put_nowait)
    watchdog.start()
    try:
        await work()
        while "test_watchdog.py:" not in (found := await reported.get()).place:
            pass
        return found
    finally:
        watchdog.stop()


@function(id="holds-in-step", executor="loop")
async def holds_in_step(ctx: Context) -> None:
    await ctx.step.run("careless", hold_up)


@function(id="holds-in-body")
async def holds_in_body(ctx: Context) -> None:
    hold_up()


@function(id="holds-in-branch")
async def holds_in_branch(ctx: Context) -> None:
    async def branch(_: int) -> None:
        await ctx.step.run("in a branch", careless)

    await ctx.step.map("branches", branch, [1])


async def careless() -> None:
    hold_up()


@pytest.mark.parametrize(
    ("of", "name"),
    [(holds_in_step, "careless"), (holds_in_body, ""), (holds_in_branch, "in a branch")],
)
async def test_a_function_is_named_with_its_step_and_line(
    of: Any, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        await ironflow.embedded.run(of)

    found = await watched(work, monkeypatch)
    assert (found.function_id, found.step) == (of.id, name)
    assert "test_watchdog.py:" in found.place
    assert len(found.run_id) == 36
    assert found.seconds >= THRESHOLD
    lines = [r.getMessage() for r in caplog.records if r.name == "ironflow.watchdog"]
    lines = lines[next(n for n, line in enumerate(lines) if found.run_id in line) :]
    assert "held up" in lines[0]
    for part in (of.id, found.run_id, "test_watchdog.py:", name):
        assert part in lines[0]
    assert "goes on after" in lines[1]


class Careless(Workflow):
    @step
    async def thoughtless(self, ev: StartEvent) -> StopEvent:
        hold_up()
        return StopEvent()


async def test_a_step_of_a_workflow_is_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    workflow = Careless()

    async def work() -> None:
        await workflow.run()

    found = await watched(work, monkeypatch)
    assert (found.function_id, found.step) == ("Careless", "thoughtless")
    assert len(found.run_id) == 36
    lines = [r.getMessage() for r in caplog.records if found.run_id in r.getMessage()]
    assert "step 'thoughtless'" in lines[0]
    assert "ctx.once_in_process" in lines[0]


async def test_what_belongs_to_no_run_is_told_by_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        hold_up()

    found = await watched(work, monkeypatch)
    assert (found.function_id, found.run_id, found.step) == ("", "", "")
    assert "test_watchdog.py:" in found.place


def test_the_program_that_runs_the_loop_is_not_to_blame() -> None:
    """It stands on the stack all the time, this function here."""

    async def main() -> str:
        watchdog = Watchdog(60, SystemClock(), lambda found: None)

        def look() -> str:
            looks = (watchdog._look().place for _ in range(10_000))
            return next((place for place in looks if place == STARVED), "never")

        return await asyncio.to_thread(look)

    assert asyncio.run(main()) == STARVED


async def test_the_same_culprit_is_logged_once_a_minute_and_counted_each_time(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    counted: list[Blockage] = []
    twice = asyncio.Event()

    def count(found: Blockage) -> None:
        if found.place != STARVED:
            counted.append(found)
        if len(counted) == 2:
            twice.set()

    async def work() -> None:
        watchdog = Watchdog(THRESHOLD, SystemClock(), count)
        watchdog.start()
        while not twice.is_set():
            hold_up()
            await asyncio.sleep(THRESHOLD)
        watchdog.stop()

    await watched(work, monkeypatch)
    lines = [r for r in caplog.records if "held up" in r.getMessage()]
    places = {r.getMessage().split(" at ")[-1] for r in lines}
    assert len(counted) == 2
    assert len(lines) <= 2 * len(places)  # there are two watchdogs


async def test_while_all_is_well_nothing_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    reported: list[Blockage] = []
    watchdog = Watchdog(60.0, SystemClock(), reported.append)
    watchdog.start()
    await asyncio.sleep(0)
    watchdog.stop()
    watchdog._thread.join()
    assert reported == []
    assert not caplog.records


def test_counts_are_bounded() -> None:
    blockages = Blockages()
    for number in range(MAX_FUNCTIONS + 50):
        blockages.add(Blockage(0, 0.5, "app.py:1", f"function-{number}"))
    assert blockages.count == MAX_FUNCTIONS + 50
    assert blockages.seconds == (MAX_FUNCTIONS + 50) / 2
    assert len(blockages.by_function) == MAX_FUNCTIONS + 1
    assert blockages.by_function[""] == (50, 25.0)
    assert blockages.latest[-1].function_id == f"function-{MAX_FUNCTIONS + 49}"
