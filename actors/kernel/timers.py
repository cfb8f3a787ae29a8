"""Durable timers: rows in the journal's database, a heap of the near ones in memory, one alarm on
the loop.

A timer is set and cleared in the commit of the entry that needs it; this module only rings. A timer
that rings too often (after a crash, or because it was set again) is harmless: its actor knows what
it waits for.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections.abc import Callable, Mapping
from contextvars import copy_context

from ironflow.core.clock import SECOND, Clock
from ironflow.core.crash_points import reach
from ironflow.core.errors import StorageError
from ironflow.storage.ports import Reader

log = logging.getLogger("ironflow.timers")

HORIZON = 15 * 60 * SECOND
"""Timers that are due within this time are held in memory."""
PAGE = 10_000
LONGEST_ALARM = 30.0
"""Seconds after which the wall clock is read again, so that a clock that was set forward is
noticed.
"""

AT_ONCE = 1000
"""Timers rung in one turn of the loop."""

Ring = Callable[[str, str], None]


class Timers:
    """Rings `ring(target, name)` for every timer that is due."""

    def __init__(self, clock: Clock, ring: Ring) -> None:
        self._clock, self._ring = clock, ring
        # Alarms set one another: none may keep the context of the run that happened to set the
        # first.
        self._context = copy_context()
        self._heap: list[tuple[int, str, str]] = []
        self._due: dict[tuple[str, str], int] = {}
        self._horizon = 0
        self._alarm: asyncio.TimerHandle | None = None
        self._refill: asyncio.Task[None] | None = None
        self._reader: Reader | None = None
        self._stopped = False
        self.lateness = 0.0
        """Seconds by which the last timer rang late."""

    def __len__(self) -> int:
        return len(self._due)

    async def start(self, reader: Reader) -> None:
        """Load the timers that are due soon, and ring those that are due already."""
        self._reader = reader
        await self._load()
        self._set_alarm()

    def stop(self) -> None:
        """Ring no more."""
        self._stopped = True
        if self._alarm is not None:
            self._alarm.cancel()
        if self._refill is not None:
            self._refill.cancel()

    def arm(self, target: str, name: str, at: int) -> None:
        """A timer was set; the same name again replaces it."""
        if at > self._horizon:
            self._due.pop((target, name), None)  # the row is enough until the horizon reaches it
            return
        self._due[target, name] = at
        heapq.heappush(self._heap, (at, target, name))
        if self._heap[0][0] == at:
            self._set_alarm()

    def disarm(self, target: str, name: str) -> None:
        """A timer was cleared."""
        self._due.pop((target, name), None)
        # Entries of cleared timers stay in the heap until they surface; rebuild when they outweigh
        # the rest.
        if len(self._heap) > 2 * len(self._due) + 1000:
            self._heap = [(at, *key) for key, at in self._due.items()]
            heapq.heapify(self._heap)

    @property
    def horizon(self) -> int:
        """Timers due until then are in memory."""
        return self._horizon

    def pending(self) -> Mapping[tuple[str, str], int]:
        """When the timers in memory are due, by target and name."""
        return self._due

    def next_due(self) -> int | None:
        """When the next timer in memory is due."""
        heap = self._heap
        while heap and self._due.get(heap[0][1:]) != heap[0][0]:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    async def _load(self) -> None:
        assert self._reader is not None
        until = self._clock.now() + HORIZON
        # First the horizon, then the reading: a timer is armed after its commit, so one that is set
        # meanwhile is either in the rows that are read or armed against the new horizon.
        self._horizon = until
        after: tuple[int, str, str] | None = None
        while True:
            page = await self._reader.timers(until, PAGE, after)
            for row in page:
                key = (row.target, row.name)
                if key not in self._due:
                    self._due[key] = row.at
                    heapq.heappush(self._heap, (row.at, row.target, row.name))
            if len(page) < PAGE:
                return
            after = (page[-1].at, page[-1].target, page[-1].name)

    def _set_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self._stopped:
            return
        now = self._clock.now()
        wakes = [] if self._refill is not None else [self._horizon - HORIZON // 3]
        due = self.next_due()
        if due is not None:
            wakes.append(due)
        seconds = (min(wakes) - now) / SECOND if wakes else LONGEST_ALARM
        self._alarm = asyncio.get_running_loop().call_later(
            min(max(seconds, 0.0), LONGEST_ALARM), self._wake, context=self._context
        )

    def _wake(self) -> None:
        self._alarm = None
        now = self._clock.now()
        rung = 0
        while (due := self.next_due()) is not None and due <= now and rung < AT_ONCE:
            at, target, name = heapq.heappop(self._heap)
            del self._due[target, name]
            self.lateness = (now - at) / SECOND
            rung += 1
            reach("timer.ringing")
            self._ring(target, name)
            reach("timer.rung")
        if now >= self._horizon - HORIZON // 3 and self._refill is None and not self._stopped:
            self._refill = asyncio.get_running_loop().create_task(self._extend())
        self._set_alarm()

    async def _extend(self) -> None:
        try:
            await self._load()
        except StorageError as error:
            log.warning("timers could not be read, trying again: %s", error)
            await asyncio.sleep(1.0)
        finally:
            self._refill = None
            self._set_alarm()
