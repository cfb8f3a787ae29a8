"""Runs that wait for a slot: rows of them, each in the order in which they came.

Whoever hands out slots keeps one: the pool of this process, the fleet of workers, the endpoints. A
run that is taken out of its row keeps its place until the grant was used: one that had no use for
it just then (its cancel came first, say) and still wants a slot stands where it stood.

Places are in the order of arrival. Where a function has a priority or a fair key, its places are
given to its runs by those: whoever waits longest for it holds a place for the best of them.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Hashable
from functools import partial
from typing import Generic, TypeVar

from ironflow.actors.slots import lines
from ironflow.actors.slots.lines import Ticket

Row = TypeVar("Row", bound=Hashable)
Entry = tuple[int, str]
"""A place, unique and growing with time, and the run that has it."""

BLOCK = 512
"""Entries that lie together: what moves when one goes, and what is counted at once."""


class Entries:
    """Entries in ascending order, in blocks: nothing walks through all of them."""

    __slots__ = ("_blocks",)

    def __init__(self) -> None:
        self._blocks: list[list[Entry]] = []

    def __bool__(self) -> bool:
        return bool(self._blocks)

    def __len__(self) -> int:
        return sum(map(len, self._blocks))

    @property
    def first(self) -> Entry:
        """The lowest entry. Raises `IndexError` when there is none."""
        return self._blocks[0][0]

    def add(self, entry: Entry) -> None:
        """Put an entry where it belongs: nearly always at the end."""
        blocks = self._blocks
        if not blocks or entry > blocks[-1][-1]:
            if not blocks or len(blocks[-1]) >= BLOCK:
                blocks.append([])
            blocks[-1].append(entry)
            return
        number = self._block_of(entry)
        block = blocks[number]
        insort(block, entry)
        if len(block) > 2 * BLOCK:
            blocks[number : number + 1] = [block[:BLOCK], block[BLOCK:]]

    def remove(self, entry: Entry) -> None:
        """Take an entry out that is in here."""
        number = self._block_of(entry)
        block = self._blocks[number]
        del block[bisect_left(block, entry)]
        if not block:
            del self._blocks[number]

    def before(self, entry: Entry) -> int:
        """How many are lower than an entry that is in here."""
        number = self._block_of(entry)
        block = self._blocks[number]
        return sum(map(len, self._blocks[:number])) + bisect_left(block, entry)

    def all(self) -> list[Entry]:
        """Every entry, lowest first."""
        return [entry for block in self._blocks for entry in block]

    def _block_of(self, entry: Entry) -> int:
        """The first block that does not end below the entry."""
        return bisect_left(self._blocks, entry, key=lambda block: block[-1])


class WaitingRows(Generic[Row]):
    """Who waits, in rows by whatever names them: a function, say."""

    def __init__(self) -> None:
        self._entries: dict[Row, Entries] = {}
        self._waiting: dict[str, tuple[int, Row]] = {}
        self._taken: dict[str, int] = {}
        """Places of runs that were granted a slot and may give it back."""
        self._last = 0
        self._ticket_of: Callable[[str], Ticket | None] = lambda run_id: None
        self._weight_of: Callable[[str, str], float] = lambda function_id, share: 1.0
        self._orders: dict[tuple[Row, str], lines.Row] = {}
        """Runs of functions with an order of their own, by row and function."""

    def order_by(
        self,
        ticket_of: Callable[[str], Ticket | None],
        weight_of: Callable[[str, str], float],
    ) -> None:
        """`ticket_of` is asked for the rank of a run whose function has an order of its own,
        `weight_of` what a share of a function weighs.
        """
        self._ticket_of, self._weight_of = ticket_of, weight_of

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, run_id: str) -> bool:
        return run_id in self._waiting

    def has(self, row: Row) -> bool:
        """Whether anybody waits in a row."""
        return row in self._entries

    def size(self, row: Row) -> int:
        """How many wait in a row."""
        return len(self._entries.get(row, ()))

    def row_of(self, run_id: str) -> Row | None:
        """Where a run waits, if it does."""
        found = self._waiting.get(run_id)
        return None if found is None else found[1]

    def join(self, run_id: str, row: Row) -> None:
        """Wait: at the end, or at the place that a grant without use was given back with. Who
        waits already stays where it is.
        """
        if run_id in self._waiting:
            return
        place = self._taken.pop(run_id, 0)
        if not place:
            self._last += 1
            place = self._last
        self._insert(run_id, place, row)

    def first(self, row: Row) -> Entry | None:
        """The place and the id of who waits longest in a row."""
        entries = self._entries.get(row)
        return None if entries is None else entries.first

    def take(self, row: Row) -> str:
        """Who is next in a row, and no longer waits. Raises `KeyError` for an empty row."""
        place, run_id = self._entries[row].first
        order = self._order_of(run_id, row)
        if order is not None and (best := order.take().run_id) != run_id:
            self._exchange(run_id, best)
            run_id = best
        self._remove(run_id)
        self._taken[run_id] = place
        return run_id

    def settle(self, run_id: str) -> None:
        """The grant was used, or is not wanted any more: its place is free."""
        self._taken.pop(run_id, None)

    def leave(self, run_id: str) -> None:
        """Wait no longer."""
        self._taken.pop(run_id, None)
        if run_id in self._waiting:
            self._remove(run_id)

    def move(self, run_id: str, row: Row) -> None:
        """Wait in another row, in the order of arrival there, too."""
        self._insert(run_id, self._remove(run_id), row)

    def clear(self, row: Row) -> list[str]:
        """Everybody who waited in a row, and no longer does."""
        entries = self._entries.pop(row, None)
        runs = [] if entries is None else [run_id for _, run_id in entries.all()]
        for run_id in runs:
            del self._waiting[run_id]
        for key in [key for key in self._orders if key[0] == row]:
            del self._orders[key]
        return runs

    def rows(self) -> list[Row]:
        """Every row in which anybody waits."""
        return list(self._entries)

    def members(self, row: Row) -> list[str]:
        """Who waits in a row, longest first."""
        entries = self._entries.get(row)
        return [] if entries is None else [run_id for _, run_id in entries.all()]

    def before(self, run_id: str) -> int | None:
        """How many runs of its row (of its function, if that has an order of its own) are before
        this one, None when it does not wait.
        """
        found = self._waiting.get(run_id)
        if found is not None and (order := self._order_of(run_id, found[1])) is not None:
            return next(n for n, ticket in enumerate(order) if ticket.run_id == run_id)
        return None if found is None else self._entries[found[1]].before((found[0], run_id))

    def _insert(self, run_id: str, place: int, row: Row) -> None:
        entries = self._entries.get(row)
        if entries is None:
            entries = self._entries[row] = Entries()
        entries.add((place, run_id))
        self._waiting[run_id] = (place, row)
        ticket = self._ticket_of(run_id)
        if ticket is not None:
            function_id = ticket.function_id
            order = self._orders.get((row, function_id))
            if order is None:
                order = lines.Row(partial(self._weight_of, function_id))
                self._orders[row, function_id] = order
            order.add(ticket)

    def _order_of(self, run_id: str, row: Row) -> lines.Row | None:
        ticket = self._ticket_of(run_id)
        order = self._orders.get((row, ticket.function_id)) if ticket is not None else None
        return order if order is not None and run_id in order else None

    def _exchange(self, first: str, second: str) -> None:
        """Let two runs of one row have each other's place."""
        (place, row), (other, _) = self._waiting[first], self._waiting[second]
        entries = self._entries[row]
        for entry in ((place, first), (other, second)):
            entries.remove(entry)
        for entry in ((other, first), (place, second)):
            entries.add(entry)
        self._waiting[first], self._waiting[second] = (other, row), (place, row)

    def _remove(self, run_id: str) -> int:
        place, row = self._waiting.pop(run_id)
        ticket = self._ticket_of(run_id)
        if ticket is not None and (order := self._orders.get((row, ticket.function_id))):
            order.discard(run_id)
        if ticket is not None and not self._orders.get((row, ticket.function_id)):
            self._orders.pop((row, ticket.function_id), None)
        entries = self._entries[row]
        entries.remove((place, run_id))
        if not entries:
            del self._entries[row]
        return place
