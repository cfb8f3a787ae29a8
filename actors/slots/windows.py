"""How many runs began, or were made, in the last period: at most a number of them in any stretch of
time as long as it.

Each one is remembered until its period is over: in memory, and as a row that is written in the
commit of the very thing that it counts, so that no crash gives anybody a second start. What is on
its way to the disk holds a place, too. Nothing polls: one alarm rings when the oldest is over.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

from ironflow.core.clock import SECOND, Clock

LONGEST_ALARM = 30.0
"""Seconds after which the wall clock is read again, in case it was set forward."""
FORGOTTEN_AT_ONCE = 8
"""Rows of the past that a commit deletes which writes one: more than one, so that they run out."""

Later = Callable[[float, Callable[[], None]], asyncio.TimerHandle]


class Start(NamedTuple):
    """A row of `starts`: something that counts in a window, at a moment in microseconds."""

    lane: str
    at: int
    run_id: str


class _Window:
    __slots__ = ("due", "reserved", "starts")

    def __init__(self) -> None:
        self.reserved: dict[str, None] = {}
        self.starts: deque[Start] = deque()
        self.due: int | None = None
        """When the alarm rings for it."""


class Windows:
    """Windows by the names of their lanes."""

    def __init__(
        self,
        terms: Callable[[str], tuple[int, int]],
        clock: Clock,
        later: Later,
    ) -> None:
        """`terms` are limit and period (microseconds) of a lane."""
        self._terms, self._clock, self._later = terms, clock, later
        self.on_room: Callable[[str], None] = lambda lane: None
        """Told of a lane whose oldest start is over."""
        self._windows: dict[str, _Window] = {}
        self._dues: list[tuple[int, str]] = []
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at: int | None = None
        self._over: deque[Start] = deque()
        self._stopped = False

    def __len__(self) -> int:
        return len(self._windows)

    def names(self) -> Iterable[str]:
        """Every lane in which anything counts."""
        return self._windows.keys()

    def load(self, starts: Iterable[Start]) -> None:
        """What the journal has, at the start of the process."""
        for start in sorted(starts, key=lambda start: start.at):
            self._count(start)
        for lane in list(self._windows):
            self._trim(lane)

    def stop(self) -> None:
        """Ring no more."""
        self._stopped = True
        if self._alarm is not None:
            self._alarm.cancel()

    def terms(self, lane: str) -> tuple[int, int]:
        """Limit and period (microseconds) of a lane."""
        return self._terms(lane)

    def room(self, lane: str) -> int:
        """How many more may begin now."""
        limit = self._terms(lane)[0]
        window = self._trim(lane)
        return limit if window is None else limit - len(window.reserved) - len(window.starts)

    def opens_at(self, lane: str) -> int | None:
        """When there is room again in a lane that has none, by time alone: None if it depends on
        who has a place and has not begun.
        """
        limit, period = self._terms(lane)
        window = self._trim(lane)
        if window is None:
            return None
        first = len(window.starts) + len(window.reserved) - limit
        return window.starts[first].at + period if 0 <= first < len(window.starts) else None

    def counted(self, lane: str) -> tuple[Start, ...]:
        """What counts in a lane now, oldest first."""
        window = self._trim(lane)
        return tuple(window.starts) if window is not None else ()

    def reserved(self, lane: str) -> tuple[str, ...]:
        """The runs that have a place and have not begun."""
        window = self._windows.get(lane)
        return tuple(window.reserved) if window is not None else ()

    def reserve(self, lane: str, run_id: str) -> None:
        """Hold a place for a run."""
        self._windows.setdefault(lane, _Window()).reserved[run_id] = None

    def free(self, lane: str, run_id: str) -> None:
        """The run does not begin; nothing happens if it has."""
        window = self._windows.get(lane)
        if window is not None:
            window.reserved.pop(run_id, None)
            self._forget_empty(lane, window)

    def begin(self, lane: str, run_id: str, at: int) -> None:
        """The run has begun, and that is durable."""
        window = self._windows.get(lane)
        if window is not None:
            window.reserved.pop(run_id, None)
        self._count(Start(lane, at, run_id))

    def take_over(self) -> list[Start]:
        """Some rows whose time is over, to be deleted in the next commit."""
        return [self._over.popleft() for _ in range(min(len(self._over), FORGOTTEN_AT_ONCE))]

    def _count(self, start: Start) -> None:
        window = self._windows.setdefault(start.lane, _Window())
        starts = window.starts
        starts.append(start)
        if len(starts) > 1 and starts[-2].at > start.at:  # commits end in the order of decisions
            window.starts = deque(sorted(starts, key=lambda each: each.at))
        self._arm(start.lane, window)

    def _trim(self, lane: str) -> _Window | None:
        window = self._windows.get(lane)
        if window is None:
            return None
        over = self._clock.now() - self._terms(lane)[1]
        while window.starts and window.starts[0].at <= over:
            self._over.append(window.starts.popleft())
        return None if self._forget_empty(lane, window) else window

    def _forget_empty(self, lane: str, window: _Window) -> bool:
        empty = not window.starts and not window.reserved
        if empty:
            del self._windows[lane]
        return empty

    # -- the alarm --------------------------------------------------------------------------------

    def _arm(self, lane: str, window: _Window) -> None:
        if window.due is None and window.starts:
            window.due = window.starts[0].at + self._terms(lane)[1]
            heapq.heappush(self._dues, (window.due, lane))
            self._set_alarm()

    def _set_alarm(self) -> None:
        if self._stopped or not self._dues or self._alarm_at == self._dues[0][0]:
            return
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_at = self._dues[0][0]
        seconds = (self._alarm_at - self._clock.now()) / SECOND
        self._alarm = self._later(min(max(seconds, 0.0), LONGEST_ALARM), self._ring)

    def _ring(self) -> None:
        self._alarm = self._alarm_at = None
        now = self._clock.now()
        while self._dues and self._dues[0][0] <= now:
            _, lane = heapq.heappop(self._dues)
            window = self._windows.get(lane)
            if window is not None:
                window.due = None
            window = self._trim(lane)
            if window is not None:
                self._arm(lane, window)
            self.on_room(lane)
        self._set_alarm()
