"""One commit, prepared on the loop, and how it is written in the connection's thread."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from ironflow.core.errors import StreamConflict
from ironflow.storage import statements
from ironflow.storage.changes import Change, Changes, Row, collect, put_changes
from ironflow.storage.deferral import Piece, Place, Taken, encode, put_all, split, write
from ironflow.storage.ports import Batch, Table
from ironflow.storage.wal import pages_of

FAULTS = (OverflowError, UnicodeError, ValueError)
"""Errors of binding or encoding a value; those of SQLite itself are `sqlite3.Error`."""


MANY = 24
"""Batches in a commit from which it puts nothing off. Its rows share statements and pages; to keep
them twice would cost more than what later changes of the same rows save.
"""


class BatchFault(Exception):
    """A statement failed because of what it was given."""


class Plan:
    """One commit, prepared: journal rows, what is done to the rows of tables at once, and what
    later.

    `later` has a piece for each batch that puts something off, under the batch's index; it is
    kept at `place`. A large commit puts nothing off: `settled` is then what others have put off,
    which it writes first.
    """

    __slots__ = (
        "batches", "changes", "deferred", "doubtful", "is_large", "later", "place", "rows", "seq",
        "settled", "unknown",
    )  # fmt: skip

    def __init__(self, batches: list[Batch], seq: int, place: Place) -> None:
        self.batches, self.seq, self.place = batches, seq, place
        self.settled: Taken | None = None
        self.rows: list[Row] = []
        self.changes: Changes = {}
        self.later: dict[int, Piece] = {}
        self.deferred: bytes | None = None
        self.unknown: dict[str, int] = {}
        self.doubtful = False
        self.is_large = len(batches) >= MANY
        """Whether rows are written with it."""

    def add(self, index: int, batch: Batch) -> None:
        """What a batch does to rows."""
        if self.is_large:
            collect(batch.deletes, batch.puts, self.changes)
            return
        now, later = split(batch)
        if now.deletes or now.puts:
            collect(now.deletes, now.puts, self.changes)
        if later.deletes or later.puts:
            self.later[index] = later

    def encode(self) -> None:
        """What is put off, as the commit keeps it."""
        if self.later:
            try:
                self.deferred = encode(self.later.values())
            except ValueError:
                self.doubtful = True

    @property
    def is_plain(self) -> bool:
        """Whether it is one statement, which is a transaction of its own."""
        return (
            not (self.changes or self.later or self.settled or self.unknown)
            and 0 < len(self.rows) <= statements.MOST_ROWS
        )

    def pages(self) -> int:
        """About how many pages of the database it changes."""
        size = sum([len(row[5]) for row in self.rows]) + len(self.deferred or b"")
        changes = list(self.changes.values())
        if self.settled is not None:
            changes += self.settled.changes
        return pages_of(len(self.rows), size, sizes_of(changes) if changes else [])


def sizes_of(changes: Iterable[Change]) -> list[tuple[Table, int]]:
    """How many rows of each table."""
    return [(change.table, len(change.rows)) for change in changes]


def put_plan(connection: sqlite3.Connection, plan: Plan) -> None:
    """Write all of it. Raises `BatchFault` when a stream is not where it should be."""
    if plan.unknown:
        found = statements.read_heads(connection, list(plan.unknown))
        if found != plan.unknown:
            raise BatchFault("a stream is elsewhere")
    if plan.settled is not None:
        put_all(connection, plan.settled)
    _put_entries(connection, plan.rows)
    if plan.changes:
        put_changes(connection, plan.changes.values())
    if plan.deferred is not None:
        write(connection, plan.place, plan.deferred)


def put_batch(connection: sqlite3.Connection, plan: Plan, index: int, seq: int) -> list[Row]:
    """Write one batch; its journal rows. Raises `StreamConflict`."""
    batch = plan.batches[index]
    heads = statements.read_heads(connection, list({entry.stream for entry in batch.entries}))
    rows: list[Row] = []
    for number, entry in enumerate(batch.entries, 1):
        if entry.version != heads[entry.stream] + 1:
            raise StreamConflict(entry.stream, entry.version)
        heads[entry.stream] = entry.version
        rows.append((seq + number, *entry))
    _put_entries(connection, rows)
    now = batch if plan.is_large else split(batch)[0]
    changes: Changes = {}
    collect(now.deletes, now.puts, changes)
    put_changes(connection, changes.values())
    if index in plan.later:
        write(connection, plan.place.behind(index), encode([plan.later[index]]))
    return rows


def _put_entries(connection: sqlite3.Connection, rows: list[Row]) -> None:
    if rows:
        statements.write_rows(connection, _INSERT_ENTRIES, rows, len(statements.JOURNAL.columns))


_INSERT_ENTRIES = statements.insert(statements.JOURNAL, replace=False)
