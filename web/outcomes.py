"""What became of events, in words: from the outcomes that intakes keep, and what is there now."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence

from ironflow.actors.engine import Engine
from ironflow.actors.events.router import EventEmitted
from ironflow.core.clock import to_rfc3339
from ironflow.core.runs.commands import Outcome
from ironflow.storage.ports import IntakeRow, RunRow
from ironflow.web.wire import events as wire


def plain_outcomes(event: EventEmitted) -> Iterator[wire.OutcomeView]:
    """Of functions that start a run for each event, and of filters."""
    for function_id, run_id in zip(event.functions, event.runs, strict=False):
        yield wire.OutcomeView(
            function_id=function_id,
            fate="started",
            run_id=run_id,
            due_at=None,
            text=f"run {run_id} was started",
        )
    for function_id in event.filtered:
        yield wire.OutcomeView(
            function_id=function_id,
            fate="filtered",
            run_id=None,
            due_at=None,
            text="it did not pass the trigger's expression",
        )


class Judge:
    """Says what became of requests, knowing which runs there are and what still waits."""

    def __init__(self, waiting: Mapping[str, IntakeRow], runs: Mapping[str, RunRow]) -> None:
        self._waiting, self._runs = waiting, runs

    @classmethod
    async def of(cls, engine: Engine, outcomes: Sequence[Outcome]) -> Judge:
        """With what is to be known of these."""
        deferred = {o.run_id for o in outcomes if o.fate in ("debounced", "batched")}
        if not deferred:
            return cls({}, {})
        reader = engine.store.reader
        rows = await reader.intakes_of(sorted(deferred))
        waiting = {row.run_id: row for row in rows if row.kind != "singleton"}
        there = sorted(deferred - waiting.keys())
        runs = await asyncio.gather(*map(reader.run, there))
        return cls(waiting, {run.id: run for run in runs if run is not None})

    def view(self, outcome: Outcome) -> wire.OutcomeView:
        """One of them, as it is now."""
        run_id: str | None = outcome.run_id
        due_at: int | None = None
        if outcome.fate == "started":
            text = f"run {run_id} was started"
        elif outcome.fate == "skipped":
            text = f"run {run_id} was there, and the function is a singleton: it started none"
        elif (row := self._waiting.get(outcome.run_id)) is not None:
            run_id, due_at = None, row.due_at
            text = self._describe_waiting(outcome, row)
        elif (run := self._runs.get(outcome.run_id)) is not None:
            text = self._describe_run(outcome, run)
        else:
            text, run_id = f"it was {outcome.fate}, and no run came of what waited with it", None
        return wire.OutcomeView(
            function_id=outcome.function_id,
            fate=outcome.fate,
            run_id=run_id,
            due_at=None if due_at is None else to_rfc3339(due_at),
            text=text,
        )

    def _describe_waiting(self, outcome: Outcome, row: IntakeRow) -> str:
        when = to_rfc3339(row.due_at or 0)[:19] + "Z"
        if outcome.fate == "batched":
            return f"it waits in a batch of {row.size}, which starts at {when} or when it is full"
        newest = row.event_id == outcome.subject
        what = "it waits for quiet" if newest else "a newer event has taken its place"
        return f"{what}; a run with the newest of {row.size} starts at {when} if no more come"

    def _describe_run(self, outcome: Outcome, run: RunRow) -> str:
        if outcome.fate == "batched":
            return f"run {run.id} was started with its batch"
        if run.event_id == outcome.subject:
            return f"run {run.id} was started with it once it was quiet"
        return f"a newer event took its place, and run {run.id} was started with that"
