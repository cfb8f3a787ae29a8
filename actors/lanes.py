"""Who executes in which lane, and who waits for a place in it, in the order in which they came.

An index, and no actor of its own: its whole state is which runs execute and which are queued, and
that is in the runs' own commits. It is rebuilt from them at the start.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable
from typing import NamedTuple

Admit = Callable[[str, str], None]
"""Told of a run (and its function) that has its places and may go on to a slot."""
NO_LIMIT = 1 << 60


class LaneState(NamedTuple):
    """A lane as it is now: the runs that hold a place, and those that wait, first in first out."""

    name: str
    limit: int
    holders: tuple[str, ...]
    waiting: tuple[str, ...]


class Lanes:
    """Places in lanes. `limit_of` says how many a lane has, now."""

    def __init__(self, limit_of: Callable[[str], int], admit: Admit) -> None:
        self._limit_of, self._admit = limit_of, admit
        self._holders: dict[str, dict[str, None]] = {}
        self._held: dict[str, tuple[str, ...]] = {}
        self._queues: dict[str, list[tuple[int, str]]] = {}
        """By the first lane that has no place for the run: when it came, and its id."""
        self._waiting: dict[str, tuple[int, str, str, tuple[str, ...]]] = {}
        """By run: when it came, the lane whose queue it is in, its function, all its lanes."""
        self._came = 0

    def __len__(self) -> int:
        return len(self._holders)

    @property
    def queued(self) -> int:
        """Runs that wait for a place."""
        return len(self._waiting)

    def acquire(self, run_id: str, lanes: tuple[str, ...]) -> bool:
        """Take a place in every lane at once, unless one is full or somebody waits for it."""
        if run_id in self._held:
            return True
        if run_id in self._waiting or any(self._queues.get(lane) for lane in lanes):
            return False
        if self._first_full(lanes) is not None:
            return False
        self._hold(run_id, lanes)
        return True

    def enqueue(self, run_id: str, function_id: str, lanes: tuple[str, ...]) -> None:
        """Wait for places, or go on if there are. Waiting twice is waiting once."""
        if run_id in self._waiting:
            return
        if self.acquire(run_id, lanes):
            self._admit(run_id, function_id)
            return
        blocked = next((lane for lane in lanes if self._queues.get(lane)), None)
        blocked = self._first_full(lanes) or blocked or lanes[0]
        self._came += 1
        self._wait(run_id, self._came, blocked, function_id, lanes)

    def release(self, run_id: str) -> None:
        """Give the places back, to those who wait longest."""
        lanes = self._held.pop(run_id, ())
        for lane in lanes:
            holders = self._holders[lane]
            holders.pop(run_id, None)
            if not holders:
                del self._holders[lane]
        for lane in lanes:
            self.pump(lane)

    def discard(self, run_id: str) -> None:
        """The run no longer wants anything."""
        found = self._waiting.pop(run_id, None)
        if found is not None:
            came, lane, _, _ = found
            queue = self._queues[lane]
            queue.remove((came, run_id))
            if not queue:
                del self._queues[lane]
        self.release(run_id)

    def pump(self, lane: str) -> None:
        """Admit those who wait for the lane, as far as there are places."""
        while (queue := self._queues.get(lane)) and self._room(lane) > 0:
            came, run_id = queue.pop(0)
            if not queue:
                del self._queues[lane]
            _, _, function_id, lanes = self._waiting.pop(run_id)
            blocked = self._first_full(lanes)
            if blocked is not None:
                self._wait(run_id, came, blocked, function_id, lanes)
                continue
            self._hold(run_id, lanes)
            self._admit(run_id, function_id)

    def refresh(self) -> None:
        """Limits have changed."""
        for lane in list(self._queues):
            self.pump(lane)

    def blocked(self, run_id: str) -> LaneState | None:
        """The lane that a run waits for, if it does."""
        found = self._waiting.get(run_id)
        return None if found is None else self.state(found[1])

    def state(self, lane: str) -> LaneState:
        """One lane."""
        return LaneState(
            lane,
            self._limit_of(lane),
            tuple(self._holders.get(lane, ())),
            tuple(run_id for _, run_id in self._queues.get(lane, ())),
        )

    def states(self) -> list[LaneState]:
        """Every lane in which anybody is, by name."""
        return [self.state(lane) for lane in sorted({*self._holders, *self._queues})]

    def _wait(
        self, run_id: str, came: int, lane: str, function_id: str, lanes: tuple[str, ...]
    ) -> None:
        insort(self._queues.setdefault(lane, []), (came, run_id))
        self._waiting[run_id] = (came, lane, function_id, lanes)

    def _hold(self, run_id: str, lanes: tuple[str, ...]) -> None:
        self._held[run_id] = lanes
        for lane in lanes:
            self._holders.setdefault(lane, {})[run_id] = None

    def _room(self, lane: str) -> int:
        return self._limit_of(lane) - len(self._holders.get(lane, ()))

    def _first_full(self, lanes: tuple[str, ...]) -> str | None:
        return next((lane for lane in lanes if self._room(lane) < 1), None)
