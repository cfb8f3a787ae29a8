"""One commit, prepared on the loop, and how it is written in the connection's thread."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from ironflow.core.errors import StreamConflict
from ironflow.storage.ports import Batch, Table
from ironflow.storage.sqlite import statements
from ironflow.storage.sqlite.backlog import Piece, Place, Taken
from ironflow.storage.sqlite.changes import Change, Changes, Row, collect, put_changes
from ironflow.storage.sqlite.deferral import encode, put_all, split, write
from ironflow.storage.sqlite.foreign import foreign_entries, intrusion
from ironflow.storage.sqlite.statements import put_entries
from ironflow.storage.sqlite.wal import pages_of

FAULTS = (OverflowError, UnicodeError, ValueError)
"""Errors of binding or encoding a value; those of SQLite itself are `sqlite3.Error`."""


MANY = 24
"""Batches in a commit from which it puts nothing off. Its rows share statements and pages; to keep
them twice would cost more than what later changes of the same rows save.
"""
MUCH = 16384
"""Bytes of entries in a commit from which it puts nothing off: they would fill pages of their own
twice.
"""


class BatchFault(Exception):
    """A statement failed because of what it was given."""


class Plan:
    """One commit, prepared: journal rows, what is done to the rows of tables at once, and what
    later.

    What is put off, the rows of the journal and what is done `later`, is kept at `place`. A large
    commit puts nothing off, nor does one whose batches are written one by one because it is
    `doubtful`: `settled` is then what others have put off, which it writes first, so that the
    journal never has an entry without those before it.
    """

    __slots__ = (
        "batches", "changes", "deferred", "doubtful", "is_large", "later", "place", "rows", "seq",
        "settled", "size", "unknown",
    )  # fmt: skip

    def __init__(self, batches: list[Batch], seq: int, place: Place) -> None:
        self.batches, self.seq, self.place = batches, seq, place
        self.settled: Taken | None = None
        self.rows: list[Row] = []
        self.changes: Changes = {}
        self.later: list[Piece] = []
        self.deferred: bytes | None = None
        self.unknown: dict[str, int] = {}
        self.doubtful = False
        self.size = 0
        """Bytes of the entries' data."""
        for batch in batches:
            for entry in batch.entries:
                self.size += len(entry[4])
        self.is_large = len(batches) >= MANY or self.size > MUCH
        """Whether all rows are written with it."""

    def add(self, batch: Batch) -> None:
        """What a batch does to rows."""
        if self.is_large:
            collect(batch.deletes, batch.puts, self.changes)
            return
        now, later = split(batch)
        if now.deletes or now.puts:
            collect(now.deletes, now.puts, self.changes)
        if later.deletes or later.puts:
            self.later.append(later)

    def encode(self) -> None:
        """What is put off, as the commit keeps it."""
        if (self.rows or self.later) and not self.is_large:
            try:
                self.deferred = encode(self.rows, self.later)
            except ValueError:
                self.doubtful = True

    @property
    def is_plain(self) -> bool:
        """Whether it is one statement, which is a transaction of its own."""
        return self.deferred is not None and not self.changes

    def pages(self) -> int:
        """About how many pages of the database it changes."""
        changes = sizes_of(self.changes.values()) if self.changes else []
        if self.deferred is not None:
            return pages_of(0, len(self.deferred), changes)
        rows, size = len(self.rows), self.size
        if self.settled is not None:
            rows += len(self.settled.entries)
            size += self.settled.size
            changes += sizes_of(self.settled.changes)
        return pages_of(rows, size, changes)


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
    if plan.deferred is not None:
        write(connection, plan.place, plan.deferred)
    else:
        put_entries(connection, plan.rows)
    if plan.changes:
        put_changes(connection, plan.changes.values())


def put_batch(connection: sqlite3.Connection, batch: Batch, seq: int) -> list[Row]:
    """Write one batch, all of it; its journal rows. Raises `StreamConflict`, or `Broken` when
    another program's entry is in the place of one."""
    heads = statements.read_heads(connection, list({entry.stream for entry in batch.entries}))
    rows: list[Row] = []
    for number, entry in enumerate(batch.entries, 1):
        if entry.version != heads[entry.stream] + 1:
            raise StreamConflict(entry.stream, entry.version)
        heads[entry.stream] = entry.version
        rows.append((seq + number, *entry))
    try:
        put_entries(connection, rows)
    except sqlite3.IntegrityError as error:
        if any(foreign_entries(connection, rows)):
            # Their versions fit, but not their numbers: no batch will ever be taken again.
            raise intrusion(connection, rows, error) from error
        raise
    changes: Changes = {}
    collect(batch.deletes, batch.puts, changes)
    put_changes(connection, changes.values())
    return rows
