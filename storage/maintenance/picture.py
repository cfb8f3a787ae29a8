"""A database as it stands at one moment, for `ironflow.actors.audit`: blocking, read-only."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

from ironflow.storage.maintenance.files import opened
from ironflow.storage.ports import Entry, Table

_ENTRIES = (
    "SELECT seq, stream, version, at, kind, data FROM journal"
    " WHERE stream >= ? AND stream < ? ORDER BY stream, version"
)


class SqlitePicture:
    """Rows and entries through a connection whose transaction pins the moment."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def rows(self, table: Table, key: str) -> Sequence[tuple[Any, ...]]:
        """The rows of a table whose first column is `key`, in the order of their keys."""
        columns, order = ", ".join(table.columns), ", ".join(table.columns[: table.key])
        query = f"SELECT {columns} FROM {table.name} WHERE {table.columns[0]} = ? ORDER BY {order}"
        return self._connection.execute(query, (key,)).fetchall()

    def messages(self, target: str) -> Sequence[tuple[Any, ...]]:
        """The durable messages to a target."""
        query = "SELECT id, target, kind, data, at FROM deliveries WHERE target = ?"
        return self._connection.execute(query, (target,)).fetchall()

    def streams(self, prefix: str) -> Iterator[tuple[str, list[Entry]]]:
        """Every stream whose name begins with `prefix`, with all its entries."""
        # A cursor of its own: the laws ask for rows meanwhile.
        rows = self._connection.cursor().execute(_ENTRIES, (prefix, f"{prefix}\U0010ffff"))
        for stream, entries in groupby(map(Entry._make, rows), key=lambda entry: entry.stream):
            yield stream, list(entries)


@contextmanager
def picture_of(path: str | Path) -> Iterator[SqlitePicture]:
    """The picture of a database file, also while a server writes to it.

    Raises `NotFound`, or `StorageError` for a foreign or damaged file.
    """
    with opened(path) as (connection, _):
        yield SqlitePicture(connection)
