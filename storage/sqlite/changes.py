"""What commits do to the rows of tables, merged by key, and written in as few statements as there
are kinds of changes."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import Any

from ironflow.storage.ports import Table
from ironflow.storage.sqlite import statements

Row = tuple[Any, ...]
Said = Sequence[tuple[Table, Row]]
"""Rows that are put, or keys that are deleted, each with its table."""


class Change:
    """What happens to one table: the row that is put under a key, or None where it goes.

    `gone` are the keys whose row goes first, whatever is put then. `narrow` are those whose rows
    need only what changes according to `narrowly`; a table has one narrow form at most.
    """

    __slots__ = ("_fixed", "gone", "narrow", "narrowly", "rows", "table")

    def __init__(self, table: Table) -> None:
        self.table, self.narrowly = table, table
        self._fixed: Callable[[Row], Any] | None = None
        self.rows: dict[Row, Row | None] = {}
        self.gone: set[Row] = set()
        self.narrow: set[Row] = set()

    def put(self, table: Table, row: Row) -> None:
        """The row of its key is this one, but for the fixed columns of a row that is under way. A
        narrow put counts for the rest of the row, too, when that is under way."""
        key = row[: table.key]
        if not table.is_narrow:
            self.table = table
            if self._fixed is None and table.fixed:
                self._fixed = _fixed(table)
            self.narrow.discard(key)
        elif key not in self.rows:
            self.narrowly = table
            self.narrow.add(key)
        if self._fixed is not None:
            old = self.rows.get(key)
            if old is not None and self._fixed(old) != self._fixed(row):
                kept = zip(self.table.columns, old, row, strict=True)
                row = tuple([was if name in self.table.fixed else now for name, was, now in kept])
        self.rows[key] = row

    def delete(self, key: Row) -> None:
        """There is no row of this key."""
        self.rows[key] = None
        self.gone.add(key)
        self.narrow.discard(key)


def _fixed(table: Table) -> Callable[[Row], Any]:
    """What takes out of a row the columns that never change."""
    return itemgetter(*[table.columns.index(name) for name in table.fixed])


Changes = dict[str, Change]


def collect(deletes: Said, puts: Said, changes: Changes) -> None:
    """Add what one batch does: of one key the last counts, and in a batch a put counts after a
    delete."""
    for table, key in deletes:
        known = changes.get(table.name)
        if known is None:
            known = changes[table.name] = Change(table)
        known.delete(tuple(key))
    for table, row in puts:
        known = changes.get(table.name)
        if known is None:
            known = changes[table.name] = Change(table)
        known.put(table, row)


def put_changes(connection: sqlite3.Connection, changes: Iterable[Change]) -> None:
    """Write them."""
    for change in changes:
        table, rows, narrow = change.table, change.rows, change.narrow
        if change.gone:
            statements.write_rows(
                connection, statements.delete(table), list(change.gone), table.key
            )
        puts = [row for row in rows.values() if row is not None]
        if narrow:
            moves = [row for row in puts if row[: table.key] in narrow]
            puts = [row for row in puts if row[: table.key] not in narrow]
            put_rows(connection, change.narrowly, moves)
        if puts:
            put_rows(connection, table, puts)


def put_rows(connection: sqlite3.Connection, table: Table, rows: Sequence[Row]) -> None:
    """Insert rows, or change of those that are there the columns that may change."""
    statements.write_rows(
        connection, statements.insert(table, replace=True), rows, len(table.columns)
    )
