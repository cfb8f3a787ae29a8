"""Who waits for which event: the waiter rows in memory, by event name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ironflow.core.expressions.compiled import Expression
from ironflow.core.expressions.patterns import PatternIndex
from ironflow.core.functions.definition import compile_filter


class Waiter(msgspec.Struct, frozen=True, eq=False):
    """A step of a run that waits for the first event which matches."""

    run_id: str
    step: str
    event: str
    match: Expression | None

    def accepts(self, event: Mapping[str, Any]) -> bool:
        """Whether the event is the one; it has the right name already."""
        return self.match is None or self.match.matches({"event": event, "data": event["data"]})


class WaiterIndex:
    """Waiters by run and step, and by the name of the event that they wait for."""

    def __init__(self) -> None:
        self._by_step: dict[tuple[str, str], Waiter] = {}
        self._by_event: PatternIndex[Waiter] = PatternIndex()

    def __len__(self) -> int:
        return len(self._by_step)

    def add(self, run_id: str, step: str, event: str, match: str | None) -> Waiter:
        """A step waits from now on."""
        self.remove(run_id, step)
        waiter = Waiter(run_id, step, event, compile_filter(match, "match"))
        self._by_step[run_id, step] = waiter
        self._by_event.add(event, waiter)
        return waiter

    def get(self, run_id: str, step: str) -> Waiter | None:
        """The waiter of a step."""
        return self._by_step.get((run_id, step))

    def remove(self, run_id: str, step: str) -> None:
        """A step waits no more."""
        waiter = self._by_step.pop((run_id, step), None)
        if waiter is not None:
            self._by_event.remove(waiter.event, waiter)

    def put_back(self, waiter: Waiter) -> None:
        """What it was taken for did not happen: it waits on."""
        if (waiter.run_id, waiter.step) not in self._by_step:
            self._by_step[waiter.run_id, waiter.step] = waiter
            self._by_event.add(waiter.event, waiter)

    def take(self, event: Mapping[str, Any]) -> list[Waiter]:
        """Those that waited for this event; they are removed, for each gets one event only."""
        found = [w for w in self._by_event.find(event["name"]) if w.accepts(event)]
        for waiter in found:
            self.remove(waiter.run_id, waiter.step)
        return found
