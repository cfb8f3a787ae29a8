"""Who executes in which lane, and who waits for a place in it, in the order in which they begin.

An index, and no actor of its own: its whole state is which runs execute, which are queued and since
when, and what began of late, and that is in the runs' own commits. It is rebuilt from them at the
start.

Runs with the same lanes, priority and share stand in one queue, and a queue stands in the line of
one lane: the first that has no room for them. So a lane that is full holds up a queue, however many
runs are in it, and no run is looked at before its turn.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from ironflow.actors.slots.lines import Line, Queue, Ticket, drop
from ironflow.actors.slots.windows import Windows
from ironflow.core.functions.lanes import is_throttle, is_windowed, parse_lane

Admit = Callable[[Ticket], None]
"""Told of a run that has its places and may go on to a slot."""
NO_LIMIT = 1 << 60


class LaneState(NamedTuple):
    """A lane as it is now: the runs that hold a place, and those that wait, in order.

    Where runs count for a period (a throttle, a rate limit) those that count hold a place:
    `opens_at` is when there is room for the next one, in a lane that is full.
    """

    name: str
    limit: int
    holders: tuple[str, ...]
    waiting: tuple[Ticket, ...]
    opens_at: int | None = None

    def position(self, run_id: str) -> int:
        """How many begin before this run."""
        return next(n for n, ticket in enumerate(self.waiting) if ticket.run_id == run_id)


class Lanes:
    """Places in lanes. `limit_of` says how many a lane has, now; `weight_of` what a share of a
    function weighs.
    """

    def __init__(
        self,
        limit_of: Callable[[str], int],
        weight_of: Callable[[str, str], float],
        admit: Admit,
        windows: Windows,
    ) -> None:
        self._limit_of, self._weight_of, self._admit = limit_of, weight_of, admit
        self.windows = windows
        windows.on_room = self.pump
        self._holders: dict[str, dict[str, None]] = {}
        self._held: dict[str, tuple[str, ...]] = {}
        self._lines: dict[str, Line] = {}
        self._queues: dict[tuple[tuple[str, ...], int, str | None], Queue] = {}
        self._waiting: dict[str, Ticket] = {}

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
        if run_id in self._waiting or self._closed_to_new(lanes) is not None:
            return False
        self._hold(run_id, lanes)
        return True

    def hold(self, run_id: str, lanes: tuple[str, ...]) -> None:
        """The run has its places, however full the lanes are: it had them before the start."""
        if lanes and run_id not in self._held:
            self._hold(run_id, lanes)

    def enqueue(self, ticket: Ticket) -> None:
        """Wait for places, or go on if there are. Waiting twice is waiting once."""
        run_id, lanes = ticket.run_id, ticket.lanes
        if run_id in self._waiting:
            return
        held = run_id in self._held
        # Asked once: in a lane that counts for a period there may be room a moment later, and who
        # stood in the line of another one then would never be admitted.
        closed = None if held else self._closed_to_new(lanes)
        if closed is None:
            if not held:
                self._hold(run_id, lanes)
            self._admit(ticket)
            return
        self._waiting[run_id] = ticket
        queue = self._queues.get(ticket.sort)
        if queue is None:
            queue = self._queues[ticket.sort] = Queue()
        queue.add(ticket)
        if queue.line is None:
            self._stand(queue, closed)
        elif queue.head is ticket:
            queue.line.add(queue)

    def begin(self, run_id: str, at: int) -> None:
        """The first start of a run is durable: its throttle counts it."""
        lanes = self._held.get(run_id, ())
        rest = tuple(lane for lane in lanes if not is_throttle(lane))
        if len(rest) < len(lanes):
            self._held[run_id] = rest
            if not rest:
                del self._held[run_id]
        for lane in lanes:
            if is_throttle(lane):
                self.windows.begin(lane, run_id, at)

    def holds(self, run_id: str) -> bool:
        """Whether a run has a place in any lane."""
        return run_id in self._held

    def release(self, run_id: str) -> None:
        """Give the places back, to those whose turn it is."""
        lanes = self._held.pop(run_id, ())
        for lane in lanes:
            if is_throttle(lane):
                self.windows.free(lane, run_id)
                continue
            holders = self._holders[lane]
            holders.pop(run_id, None)
            if not holders:
                del self._holders[lane]
        for lane in lanes:
            self.pump(lane)

    def discard(self, run_id: str) -> None:
        """The run no longer wants anything."""
        ticket = self._waiting.pop(run_id, None)
        if ticket is not None:
            queue = self._queues[ticket.sort]
            lane = self._lane_of(queue)
            drop(queue, ticket)
            if not queue:
                del self._queues[ticket.sort]
                self._forget_empty(lane)
        self.release(run_id)

    def pump(self, lane: str) -> None:
        """Admit those who wait for the lane, as far as there are places."""
        while (line := self._lines.get(lane)) is not None and self._room(lane) > 0:
            queue = line.head
            head = queue.head
            blocked = self._first_full(head.lanes) if len(head.lanes) > 1 else None
            if blocked is not None:
                line.remove(queue, head)
                self._forget_empty(lane)
                self._stand(queue, blocked)
                continue
            ticket = line.take()
            if not queue:
                del self._queues[ticket.sort]
                self._forget_empty(lane)
            del self._waiting[ticket.run_id]
            self._hold(ticket.run_id, ticket.lanes)
            self._admit(ticket)

    def refresh(self) -> None:
        """Limits have changed."""
        for lane in list(self._lines):
            self.pump(lane)

    def blocked(self, run_id: str) -> LaneState | None:
        """The lane that a run waits for, if it does."""
        ticket = self._waiting.get(run_id)
        if ticket is None:
            return None
        queue = self._queues[ticket.sort]
        return self.state(self._lane_of(queue))

    def state(self, lane: str) -> LaneState:
        """One lane."""
        waiting = tuple(self._lines.get(lane, ()))
        if not is_windowed(lane):
            holders = tuple(self._holders.get(lane, ()))
            return LaneState(lane, self._limit_of(lane), holders, waiting)
        counted = [start.run_id for start in self.windows.counted(lane)]
        holders = (*counted, *self.windows.reserved(lane))
        opens_at = self.windows.opens_at(lane)
        return LaneState(lane, self._limit_of(lane), holders, waiting, opens_at)

    def states(
        self, limit: int | None = None, after: str = "", function_id: str | None = None
    ) -> list[LaneState]:
        """Lanes in which anybody is, by name: at most `limit` after a name, of one function or of
        all.
        """
        names = sorted({*self._holders, *self._lines, *self.windows.names()})
        found: list[LaneState] = []
        for name in names[bisect_right(names, after) :]:
            if len(found) == limit:
                break
            if function_id is None or parse_lane(name)[0] == function_id:
                state = self.state(name)
                if state.holders or state.waiting:
                    found.append(state)
        return found

    def waiting_by_policy(self) -> dict[str, int]:
        """How many runs wait for a place among those that execute, and how many for a throttle."""
        counts = {"concurrency": 0, "throttle": 0}
        for lane, line in self._lines.items():
            counts["throttle" if is_throttle(lane) else "concurrency"] += len(line)
        return counts

    def _stand(self, queue: Queue, lane: str) -> None:
        line = self._lines.get(lane)
        if line is None:
            function_id = parse_lane(lane)[0]
            line = self._lines[lane] = Line(lane, partial(self._weight_of, function_id))
        line.add(queue)

    def _lane_of(self, queue: Queue) -> str:
        assert queue.line is not None
        return queue.line.name

    def _forget_empty(self, lane: str) -> None:
        line = self._lines.get(lane)
        if line is not None and not line:
            del self._lines[lane]

    def _hold(self, run_id: str, lanes: tuple[str, ...]) -> None:
        self._held[run_id] = lanes
        for lane in lanes:
            if is_throttle(lane):
                self.windows.reserve(lane, run_id)
            else:
                self._holders.setdefault(lane, {})[run_id] = None

    def _room(self, lane: str) -> int:
        if is_throttle(lane):
            return self.windows.room(lane)
        return self._limit_of(lane) - len(self._holders.get(lane, ()))

    def _first_full(self, lanes: tuple[str, ...]) -> str | None:
        for lane in lanes:
            if self._room(lane) < 1:
                return lane
        return None

    def _closed_to_new(self, lanes: tuple[str, ...]) -> str | None:
        """The first lane that lets nobody pass who comes now: it is full, or others wait for it."""
        for lane in lanes:
            if lane in self._lines or self._room(lane) < 1:
                return lane
        return None
