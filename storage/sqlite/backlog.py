"""What commits have put off, as it waits in memory: see `storage.sqlite.deferral`."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import NamedTuple

import msgspec

from ironflow.storage.ports import Entry, Table
from ironflow.storage.sqlite.changes import Change, Changes, Row, Said, collect

SEQ, STREAM, VERSION = 0, 1, 2
"""Columns in a row of the journal."""


class Piece(NamedTuple):
    """What one batch says of rows: in `deletes` are keys, in `puts` rows. Deletes come first."""

    deletes: Said
    puts: Said


class Place(msgspec.Struct, frozen=True):
    """Where a commit keeps what it puts off.

    `slot` counts from 1, `commit_id` ever upwards; `holds` is the commit whose slot it was before,
    None for a new one. A slot that holds another one was written by somebody else.
    """

    slot: int
    commit_id: int
    holds: int | None


class Taken(NamedTuple):
    """What waited, and the newest commit that it is of."""

    entries: list[Row]
    changes: list[Change]
    commit_id: int

    @property
    def size(self) -> int:
        """Bytes of the entries' data."""
        return sum([len(row[5]) for row in self.entries])


class _Waiting:
    """Entries, also by their streams, and changes of rows."""

    __slots__ = ("changes", "entries", "streams")

    def __init__(self) -> None:
        self.entries: list[Row] = []
        self.streams: dict[str, list[Row]] = {}
        self.changes: Changes = {}

    def __bool__(self) -> bool:
        return bool(self.entries or self.changes)


class Backlog:
    """What waits, for the loop: of two kinds, what is being written just now and what came
    since."""

    def __init__(self) -> None:
        self._new, self._under_way = _Waiting(), _Waiting()
        self._fresh: list[tuple[Sequence[Row], Sequence[Piece]]] = []
        """What belongs to the new and was not looked at yet."""
        self.rows = 0
        """How many wait to be written, about: a row that changes twice counts twice."""
        self._commit_id = 0
        self._slots: list[int] = []
        """The commit that each slot holds."""
        self._used = 0
        """Slots that hold what their tables do not show."""

    def place(self) -> Place:
        """Where the next commit keeps what it puts off."""
        used, slots = self._used, self._slots
        return Place(used + 1, self._commit_id + 1, slots[used] if used < len(slots) else None)

    def add(self, place: Place, entries: Sequence[Row], pieces: Sequence[Piece]) -> None:
        """This was committed, and is kept at `place`. Takes no time, because many wait for the end
        of a commit."""
        self._used, self._commit_id = place.slot, place.commit_id
        if place.holds is None:
            self._slots.append(place.commit_id)
        else:
            self._slots[place.slot - 1] = place.commit_id
        self._fresh.append((entries, pieces))
        self.rows += len(entries)
        for piece in pieces:
            self.rows += len(piece.deletes) + len(piece.puts)

    def _waiting(self) -> tuple[_Waiting, _Waiting]:
        """The new, all of it, and what is being written."""
        if self._fresh:
            self._sort()
        return self._new, self._under_way

    def _sort(self) -> None:
        new, fresh = self._new, self._fresh
        self._fresh = []
        for entries, pieces in fresh:
            new.entries += entries
            for row in entries:
                known = new.streams.get(row[STREAM])
                if known is None:
                    new.streams[row[STREAM]] = [row]
                else:
                    known.append(row)
            for piece in pieces:
                collect(piece.deletes, piece.puts, new.changes)

    # -- what waits -------------------------------------------------------------------------------

    def __bool__(self) -> bool:
        return bool(self._new or self._fresh)

    def holds(self, *tables: str) -> bool:
        """Whether rows of one of these tables wait; without tables: anything."""
        new, under_way = self._waiting()
        if not tables:
            return bool(new or under_way)
        return any(name in new.changes or name in under_way.changes for name in tables)

    def concerns(self, query: str) -> bool:
        """Whether a query could see a table of which rows wait."""
        for waiting in self._waiting():
            if waiting.entries and "journal" in query:
                return True
            for name in waiting.changes:
                if name in query:
                    return True
        return False

    def find(self, table: Table, key: Row) -> tuple[bool, Row | None]:
        """Whether the row of a key waits, and that row."""
        for waiting in self._waiting():
            change = waiting.changes.get(table.name)
            if change is not None and key in change.rows:
                return True, change.rows[key]
        return False, None

    def head(self, stream: str) -> int | None:
        """The newest version of a stream that waits."""
        for waiting in self._waiting():
            rows = waiting.streams.get(stream)
            if rows is not None:
                return int(rows[-1][VERSION])
        return None

    def entries_of(self, stream: str) -> list[Row]:
        """The entries of a stream that wait."""
        new, under_way = self._waiting()
        return [*under_way.streams.get(stream, []), *new.streams.get(stream, [])]

    def entries(self) -> list[Row]:
        """All entries that wait."""
        new, under_way = self._waiting()
        return [*under_way.entries, *new.entries]

    # -- writing it -------------------------------------------------------------------------------

    def take(self) -> Taken:
        """All of it, to be written now; then `written` or `give_back`."""
        taken, _ = self._waiting()
        self._under_way, self._new, self.rows = taken, _Waiting(), 0
        return Taken(taken.entries, list(taken.changes.values()), self._commit_id)

    def written(self) -> None:
        """What was taken is in its tables; its slots are free."""
        self._under_way, self._used = _Waiting(), 0

    def give_back(self) -> None:
        """What was taken could not be written; nothing was added meanwhile."""
        new = self._new = self._under_way
        self._under_way = _Waiting()
        self.rows = len(new.entries) + sum(len(change.rows) for change in new.changes.values())


def merge(found: list[Entry], waiting: Sequence[Row], order: int, after: int) -> list[Entry]:
    """Entries that were found in the journal, and those that waited when it was asked, in the order
    of one of their columns, in which they are behind `after`.

    What waits may have been written meanwhile, so that it is found as well.
    """
    if not waiting:
        return found
    known = {entry[order] for entry in found}
    new = [Entry._make(row) for row in waiting if row[order] > after and row[order] not in known]
    return sorted([*found, *new], key=itemgetter(order)) if new else found
