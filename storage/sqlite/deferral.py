"""What commits put off.

A run that goes on changes its row, and perhaps ten entries of indexes, with every commit, for
people who look at it once in a while; and an entry of the journal belongs into two trees, in pages
of their own. So a commit writes all that as one row of the table `deferred`, which is as durable;
entries and changes themselves wait in memory, where the next change of the same row takes the place
of the last. They are written to their tables when somebody wants to read these, when there are
many, or after a moment. That is a transaction which need not wait for the disk: were it lost,
`deferred` would still be there. Its rows are not deleted then but used again: a page that is there
costs a commit half of what a new one does.

A database whose process died has rows in `deferred`: they are written before anything else is done
with it (`settle`). Who only looks at a database sees its tables as if they were (`overlay`), and so
do we ourselves while there is no space to write them (`tentatively`, for queries that name indexes
or row ids).
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from ironflow.core.errors import StorageError
from ironflow.storage.ports import TABLES, Batch, Table
from ironflow.storage.relational.tables import RELATIONAL
from ironflow.storage.sqlite import statements
from ironflow.storage.sqlite.backlog import Piece, Place, Taken
from ironflow.storage.sqlite.changes import (
    Change,
    Changes,
    Row,
    Said,
    collect,
    put_changes,
    put_rows,
)
from ironflow.storage.sqlite.errors import Broken
from ironflow.storage.sqlite.foreign import foreign_entries, intrusion
from ironflow.storage.sqlite.statements import JOURNAL, put_entries

log = logging.getLogger("ironflow.storage")

MOST_ROWS = 768
"""Rows that wait at most, about: writing them takes some milliseconds. A caller alone meets that
once in a hundred and fifty requests.
"""
LINGER = 0.5
"""Seconds that rows wait at most, about, for the sake of others who look into the file."""

DEFERRED = Table("deferred", 1, ("slot", "commit_id", "data"))
_BY_NAME = {table.name: table for table in (JOURNAL, *TABLES, *RELATIONAL)}
_MARK = statements.insert(DEFERRED, replace=True)[1]
_NEW = "INSERT INTO deferred (slot, commit_id, data) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
_AGAIN = "UPDATE deferred SET commit_id = ?, data = ? WHERE slot = ? AND commit_id = ?"
NEWER = (
    "SELECT data FROM main.deferred WHERE slot > 0 AND commit_id > coalesce("
    "(SELECT commit_id FROM main.deferred WHERE slot = 0), 0) ORDER BY commit_id"
)
"""What the tables do not show."""
_WIDTH = "SELECT count(*) FROM pragma_table_info(?, 'main')"
_encode = msgspec.msgpack.Encoder().encode

Named = list[tuple[str, Row]]


def split(batch: Batch) -> tuple[Piece, Piece]:
    """What a batch does to rows at once, and later."""
    now: tuple[list[Any], list[Any]] = ([], [])
    later: tuple[list[Any], list[Any]] = ([], [])
    for place, changes in enumerate((batch.deletes, batch.puts)):
        for change in changes:
            (later if change[0].deferred else now)[place].append(change)
    return Piece(*now), Piece(*later)


def encode(entries: Sequence[Row], pieces: Sequence[Piece]) -> bytes:
    """A row's `data`. Raises ValueError for values that no database takes."""
    said: list[tuple[Named, Named]] = []
    if pieces:
        said = [(_named(piece.deletes), _named(piece.puts)) for piece in pieces]
    if entries:
        said.append(([], [(JOURNAL.name, row) for row in entries]))
    try:
        return _encode(said)
    except (TypeError, OverflowError, msgspec.MsgspecError) as error:
        raise ValueError(f"a row has no such value: {error}") from error


def write(connection: sqlite3.Connection, place: Place, data: bytes) -> None:
    """Put a row into `deferred`, as part of a commit. Raises `Broken` when it has become somebody
    else's."""
    if place.holds is None:
        done = connection.execute(_NEW, (place.slot, place.commit_id, data))
    else:
        done = connection.execute(_AGAIN, (place.commit_id, data, place.slot, place.holds))
    if done.rowcount != 1:
        raise Broken("another program has written to the database")


def _mark(connection: sqlite3.Connection, commit_id: int) -> None:
    """The tables show what was put off up to this commit."""
    connection.execute(_MARK, (0, commit_id, b""))


def _named(said: Said) -> Named:
    return [(table.name, row) for table, row in said]


def put_all(connection: sqlite3.Connection, taken: Taken) -> None:
    """Write it to its tables, as part of a transaction, and note that in `deferred`."""
    put_entries(connection, taken.entries)
    put_changes(connection, taken.changes)
    _mark(connection, taken.commit_id)


def put_singly(connection: sqlite3.Connection, taken: Taken) -> None:
    """As `put_all`, but a row that its table does not take is left out and reported.

    That would be a mistake of ours, and must not keep all others from being written. Not so an
    entry that is there already: raises `Broken`, and nothing is lost.
    """
    try:
        put_entries(connection, taken.entries)
    except sqlite3.IntegrityError as error:
        raise intrusion(connection, taken.entries, error) from error
    for change in taken.changes:
        keys = statements.delete(change.table)
        for key, row in change.rows.items():
            with _alone(connection, change.table, key):
                if key in change.gone:
                    statements.write_rows(connection, keys, [key], change.table.key)
                if row is not None:
                    narrow = key in change.narrow
                    put_rows(connection, change.narrowly if narrow else change.table, [row])
    _mark(connection, taken.commit_id)


@contextmanager
def _alone(connection: sqlite3.Connection, table: Table, key: Row) -> Iterator[None]:
    """What is done within concerns one row, and is undone when its table does not take that."""
    connection.execute("SAVEPOINT row")
    try:
        yield
    except (sqlite3.IntegrityError, sqlite3.DataError, OverflowError, ValueError) as error:
        connection.execute("ROLLBACK TO row")
        log.error(  # noqa: TRY400 - where it happened says nothing
            "%s does not take the row of %r: %s", table.name, key, error
        )
    connection.execute("RELEASE row")


def settle(connection: sqlite3.Connection, path: str) -> int:
    """Write what the process left that had the database before; the number of its commits.

    For the only process that writes, before migrations: a row has the columns of its day, which
    are the first of those that its table has ever since. Raises `StorageError`.
    """
    if not _has_deferred(connection):
        return 0
    connection.execute("BEGIN IMMEDIATE")
    try:
        changes, count = _read(connection, path)
        entries = _entries(changes.pop(JOURNAL.name, None))
        put_singly(connection, Taken(entries, list(changes.values()), 0))
        connection.execute("DELETE FROM deferred")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return count


def find_foreign(connection: sqlite3.Connection, path: str) -> list[str]:
    """A sentence for each row of the journal that keeps an entry which was put off from its place.
    Raises `StorageError`."""
    if not _has_deferred(connection):
        return []
    changes, _ = _read(connection, path)
    return list(foreign_entries(connection, _entries(changes.get(JOURNAL.name))))


def _entries(change: Change | None) -> list[Row]:
    return [] if change is None else [row for row in change.rows.values() if row is not None]


def overlay(connection: sqlite3.Connection, path: str) -> None:
    """Have a connection see every table as if what is deferred were written, for as long as its
    transaction lasts. It must be in one. Raises `StorageError`.

    Views that stand before the tables: what is kept in them is of this connection alone.
    """
    if not _has_deferred(connection):
        return
    changes, count = _read(connection, path)
    if not count:
        return
    for change in changes.values():
        table = change.table
        # A database that was not migrated yet has fewer columns, and so have its rows.
        (width,) = connection.execute(_WIDTH, (table.name,)).fetchone()
        columns, keys = ", ".join(table.columns[:width]), ", ".join(table.columns[: table.key])
        name, base = f"temp.{table.name}_later", f"main.{table.name}"
        connection.execute(f"CREATE TEMP TABLE {table.name}_later AS SELECT * FROM {base} LIMIT 0")
        connection.execute(f"CREATE TEMP TABLE {table.name}_said AS SELECT {keys} FROM {name}")
        put = f"INSERT INTO {name} ({columns}) VALUES ({', '.join('?' * width)})"
        connection.executemany(put, [row for row in change.rows.values() if row is not None])
        said = f"INSERT INTO temp.{table.name}_said VALUES ({', '.join('?' * table.key)})"
        connection.executemany(said, list(change.rows))
        connection.execute(
            f"CREATE TEMP VIEW {table.name} AS SELECT {columns} FROM {base} WHERE ({keys}) NOT IN"
            f" (SELECT {keys} FROM temp.{table.name}_said) UNION ALL SELECT {columns} FROM {name}"
        )


@contextmanager
def tentatively(connection: sqlite3.Connection, path: str) -> Iterator[None]:
    """Have a connection that may write see every table as if what is deferred were written, until
    the end of the block. Raises `StorageError`.

    It is written indeed, with all indexes, in a transaction that is taken back: its pages stay in
    memory, so it needs no space. Nobody else can commit meanwhile.
    """
    for setting in ("temp_store = MEMORY", "cache_spill = OFF"):
        connection.execute(f"PRAGMA {setting}")
    connection.execute("BEGIN IMMEDIATE")
    try:
        changes, _ = _read(connection, path)
        entries = _entries(changes.pop(JOURNAL.name, None))
        put_singly(connection, Taken(entries, list(changes.values()), 0))
        yield
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _has_deferred(connection: sqlite3.Connection) -> bool:
    query = "SELECT count(*) FROM main.sqlite_master WHERE type = 'table' AND name = 'deferred'"
    return bool(connection.execute(query).fetchone()[0])


def _read(connection: sqlite3.Connection, path: str) -> tuple[Changes, int]:
    """What `deferred` says, and in how many rows."""
    changes: Changes = {}
    count = 0
    for (data,) in connection.execute(NEWER):
        count += 1
        try:
            for deletes, puts in msgspec.msgpack.decode(data, type=list[tuple[Named, Named]]):
                collect(list(_tabled(deletes)), list(_tabled(puts)), changes)
        except (msgspec.DecodeError, KeyError, ValueError, UnicodeError) as error:
            raise StorageError(f"{path}: what was deferred is unreadable: {error}") from error
    return changes, count


def _tabled(named: Named) -> Iterator[tuple[Table, Row]]:
    for name, row in named:
        table = _BY_NAME[name]
        if table.key < len(row) < len(table.columns):
            table = table._replace(columns=table.columns[: len(row)])
        yield table, row
