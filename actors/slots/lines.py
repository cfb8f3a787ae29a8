"""Runs that wait, in the order in which they are to begin: the higher priority first, then in turns
between the shares of a fair key, then by age.

Whatever is done costs the logarithm of what waits, never a look at all of it. The order is a
function of what waits (and of who had his turn last), so that it is the same again after a crash.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from typing import NamedTuple

SLACK = 16
"""Entries of a heap that may be out of date, beyond as many as are not, before it is made anew."""

Weight = Callable[[str], float]
"""The weight of a share by its value."""


class Ticket(NamedTuple):
    """A run that wants to begin. `came` (microseconds) is when it began to wait; a run that gives
    back what it was granted asks with the same ticket again, and so keeps its place.
    """

    run_id: str
    function_id: str
    came: int = 0
    lanes: tuple[str, ...] = ()
    priority: int = 0
    share: str | None = None

    @property
    def age(self) -> tuple[int, str]:
        """The older, the smaller; no two runs have the same."""
        return self.came, self.run_id

    @property
    def sort(self) -> tuple[tuple[str, ...], int, str | None]:
        """What runs that stand in one queue have in common."""
        return self.lanes, self.priority, self.share


class Queue:
    """Runs that differ in nothing but their age: what holds up one holds up all."""

    __slots__ = ("_heap", "line", "tickets")

    def __init__(self) -> None:
        self.tickets: dict[str, Ticket] = {}
        self._heap: list[tuple[int, str]] = []
        self.line: Line | None = None
        """Where it stands."""

    def __len__(self) -> int:
        return len(self.tickets)

    def add(self, ticket: Ticket) -> None:
        """Let a run wait."""
        self.tickets[ticket.run_id] = ticket
        heapq.heappush(self._heap, ticket.age)

    def discard(self, run_id: str) -> None:
        """The run no longer waits."""
        del self.tickets[run_id]
        if len(self._heap) > 2 * len(self.tickets) + SLACK:
            self._heap = [ticket.age for ticket in self.tickets.values()]
            heapq.heapify(self._heap)

    @property
    def head(self) -> Ticket:
        """The oldest. There must be one."""
        while True:
            came, run_id = self._heap[0]
            ticket = self.tickets.get(run_id)
            if ticket is not None and ticket.came == came:
                return ticket
            heapq.heappop(self._heap)

    def pop(self) -> Ticket:
        """Take the oldest."""
        ticket = self.head
        heapq.heappop(self._heap)
        del self.tickets[ticket.run_id]
        return ticket


class _Share:
    """The queues of one value of a fair key. `turn` grows with each run that is begun, the slower
    the greater its weight; the share with the smallest has the next one.
    """

    __slots__ = ("_heap", "key", "queues", "turn")

    def __init__(self, turn: float) -> None:
        self.turn = turn
        self.queues: dict[Queue, None] = {}
        self._heap: list[tuple[tuple[int, str], int, Queue]] = []
        self.key: tuple[float, tuple[int, str]] | None = None
        """Under which the share stands among the others."""

    def push(self, queue: Queue) -> None:
        self.queues[queue] = None
        if len(self._heap) > 2 * len(self.queues) + SLACK:
            self._heap = [(each.head.age, id(each), each) for each in self.queues]
            heapq.heapify(self._heap)
        else:
            heapq.heappush(self._heap, (queue.head.age, id(queue), queue))

    @property
    def head(self) -> Queue:
        """The queue with the oldest run."""
        while True:
            age, _, queue = self._heap[0]
            if queue in self.queues and queue.head.age == age:
                return queue
            heapq.heappop(self._heap)


class _Level:
    """The shares of one priority."""

    __slots__ = ("_heap", "now", "rested", "shares")

    def __init__(self) -> None:
        self.shares: dict[str | None, _Share] = {}
        self.rested: dict[str | None, float] = {}
        """Where shares stand in which nobody waits just now, as long as that is ahead of others."""
        self.now = 0.0
        self._heap: list[tuple[tuple[float, tuple[int, str]], str]] = []

    def push(self, name: str | None, share: _Share) -> None:
        """The share is new, or its key has changed."""
        share.key = (share.turn, share.head.head.age)
        if len(self._heap) > 2 * len(self.shares) + SLACK:
            self._heap = [
                (each.key, _sortable(known))
                for known, each in self.shares.items()
                if each.key is not None
            ]
            heapq.heapify(self._heap)
        else:
            heapq.heappush(self._heap, (share.key, _sortable(name)))

    def head(self) -> tuple[str | None, _Share]:
        """The share whose turn it is."""
        while True:
            key, sortable = self._heap[0]
            name = _share_name(sortable)
            share = self.shares.get(name)
            if share is not None and share.key == key:
                return name, share
            heapq.heappop(self._heap)

    def rest(self, name: str | None, share: _Share) -> None:
        """Nobody of the share waits any more. It must not gain a turn by coming back at once."""
        del self.shares[name]
        if share.turn > self.now:
            self.rested[name] = share.turn
        if len(self.rested) > 2 * len(self.shares) + SLACK:
            self.rested = {known: turn for known, turn in self.rested.items() if turn > self.now}


def _sortable(name: str | None) -> str:
    return "" if name is None else "=" + name


def _share_name(sortable: str) -> str | None:
    return sortable[1:] if sortable else None


class Line:
    """Queues that wait for the same thing, which `name` names."""

    def __init__(self, name: str, weight: Weight) -> None:
        self.name, self._weight = name, weight
        self._levels: dict[int, _Level] = {}
        self._heap: list[int] = []
        """The priorities, negative, each at least once."""
        self.queues: dict[Queue, None] = {}

    def __len__(self) -> int:
        return sum(map(len, self.queues))

    def __bool__(self) -> bool:
        return bool(self.queues)

    def add(self, queue: Queue) -> None:
        """Let a queue stand here, or note that its oldest run has changed."""
        ticket = queue.head
        queue.line = self
        self.queues[queue] = None
        level = self._levels.get(ticket.priority)
        if level is None:
            level = self._levels[ticket.priority] = _Level()
            if len(self._heap) > 2 * len(self._levels) + SLACK:
                self._heap = [-priority for priority in self._levels]
                heapq.heapify(self._heap)
            else:
                heapq.heappush(self._heap, -ticket.priority)
        share = level.shares.get(ticket.share)
        if share is None:
            turn = max(level.rested.pop(ticket.share, 0.0), level.now)
            share = level.shares[ticket.share] = _Share(turn)
        share.push(queue)
        level.push(ticket.share, share)

    def remove(self, queue: Queue, ticket: Ticket) -> None:
        """Let a queue go; `ticket` is any of its runs, also the last one, which has left it."""
        queue.line = None
        del self.queues[queue]
        level = self._levels[ticket.priority]
        share = level.shares[ticket.share]
        del share.queues[queue]
        if share.queues:
            level.push(ticket.share, share)
        else:
            level.rest(ticket.share, share)
            if not level.shares:
                del self._levels[ticket.priority]

    @property
    def head(self) -> Queue:
        """The queue whose oldest run is next. There must be one."""
        _, share = self._top().head()
        return share.head

    def _top(self) -> _Level:
        while -self._heap[0] not in self._levels:
            heapq.heappop(self._heap)
        return self._levels[-self._heap[0]]

    def take(self) -> Ticket:
        """The next run, which begins: its share has had a turn."""
        level = self._top()
        name, share = level.head()
        queue = share.head
        ticket = queue.pop()
        level.now = share.turn
        weight = 1.0 if name is None else self._weight(name)
        share.turn += 1.0 / weight
        if queue:
            self.add(queue)
        else:
            self.remove(queue, ticket)
        return ticket

    def __iter__(self) -> Iterator[Ticket]:
        """Those who wait, in the order in which they would begin if nothing changed."""
        for priority in sorted(self._levels, reverse=True):
            level = self._levels[priority]
            runs: dict[str | None, list[Ticket]] = {}
            for name, share in level.shares.items():
                tickets = [ticket for queue in share.queues for ticket in queue.tickets.values()]
                runs[name] = sorted(tickets, key=lambda ticket: ticket.age, reverse=True)
            turns = [
                (share.turn, runs[name][-1].age, _sortable(name))
                for name, share in level.shares.items()
            ]
            heapq.heapify(turns)
            while turns:
                turn, _, sortable = turns[0]
                name = _share_name(sortable)
                yield runs[name].pop()
                if runs[name]:
                    turn += 1.0 / (1.0 if name is None else self._weight(name))
                    heapq.heapreplace(turns, (turn, runs[name][-1].age, sortable))
                else:
                    heapq.heappop(turns)


class Row:
    """Runs that wait for one and the same thing, whatever their priority and share."""

    def __init__(self, weight: Weight) -> None:
        self._line = Line("", weight)
        self._queues: dict[tuple[int, str | None], Queue] = {}
        self._waiting: dict[str, Ticket] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, run_id: str) -> bool:
        return run_id in self._waiting

    def __iter__(self) -> Iterator[Ticket]:
        return iter(self._line)

    def add(self, ticket: Ticket) -> None:
        """Let a run wait that does not yet."""
        self._waiting[ticket.run_id] = ticket
        queue = self._queues.setdefault((ticket.priority, ticket.share), Queue())
        queue.add(ticket)
        if queue.line is None or queue.head is ticket:
            self._line.add(queue)

    def take(self) -> Ticket:
        """The run that begins next. There must be one."""
        ticket = self._line.take()
        self._forget(ticket)
        return ticket

    def discard(self, run_id: str) -> None:
        """The run no longer waits, if it did."""
        ticket = self._waiting.get(run_id)
        if ticket is not None:
            queue = self._queues[ticket.priority, ticket.share]
            drop(queue, ticket)
            self._forget(ticket)

    def _forget(self, ticket: Ticket) -> None:
        del self._waiting[ticket.run_id]
        key = ticket.priority, ticket.share
        if not self._queues[key]:
            del self._queues[key]


def drop(queue: Queue, ticket: Ticket) -> None:
    """Take one run out of a queue that stands in a line."""
    line, was_head = queue.line, queue.head is ticket
    queue.discard(ticket.run_id)
    if line is not None and not queue:
        line.remove(queue, ticket)
    elif line is not None and was_head:
        line.add(queue)
