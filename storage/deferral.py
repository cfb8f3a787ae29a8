"""Rows that commits put off.

A run that goes on changes its row, and perhaps ten entries of indexes, with every commit, for
people who look at it once in a while. So a commit writes what is changed as one row of the table
`deferred`, which is as durable; the changes themselves wait in memory, where the next change of the
same row takes the place of the last. They are written to their tables when somebody wants to read
these, when there are many, or after a moment. That is a transaction which need not wait for the
disk: were it lost, `deferred` would still be there. Its rows are not deleted then but used again: a
page that is there costs a commit half of what a new one does.

A database whose process died has rows in `deferred`: they are written before anything else is done
with it (`settle`). Who only looks at a database sees its tables as if they were (`overlay`).
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import msgspec

from ironflow.core.errors import StorageError
from ironflow.storage import statements
from ironflow.storage.changes import Change, Changes, Row, Said, collect, put_changes, put_rows
from ironflow.storage.ports import TABLES, Batch, Table
from ironflow.storage.relational import RELATIONAL

log = logging.getLogger("ironflow.storage")

MOST_ROWS = 512
"""Rows that wait at most, about: writing them takes some milliseconds."""
LINGER = 0.5
"""Seconds that rows wait at most, about, for the sake of others who look into the file."""

DEFERRED = Table("deferred", 1, ("slot", "commit_id", "data"))
_BY_NAME = {table.name: table for table in (*TABLES, *RELATIONAL)}
_PUT = statements.insert(DEFERRED, replace=True)
NEWER = (
    "SELECT data FROM main.deferred WHERE slot > 0 AND commit_id > coalesce("
    "(SELECT commit_id FROM main.deferred WHERE slot = 0), 0) ORDER BY commit_id"
)
"""What the tables do not show."""
_WIDTH = "SELECT count(*) FROM pragma_table_info(?, 'main')"
_encode = msgspec.msgpack.Encoder().encode

Named = list[tuple[str, Row]]


class Piece(NamedTuple):
    """What one batch says of rows: in `deletes` are keys, in `puts` rows. Deletes come first."""

    deletes: Said
    puts: Said


def split(batch: Batch) -> tuple[Piece, Piece]:
    """What a batch does to rows at once, and later."""
    now: tuple[list[Any], list[Any]] = ([], [])
    later: tuple[list[Any], list[Any]] = ([], [])
    for place, changes in enumerate((batch.deletes, batch.puts)):
        for change in changes:
            (later if change[0].deferred else now)[place].append(change)
    return Piece(*now), Piece(*later)


def encode(pieces: Iterable[Piece]) -> bytes:
    """A row's `data`. Raises ValueError for values that no database takes."""
    try:
        return _encode([(_named(piece.deletes), _named(piece.puts)) for piece in pieces])
    except (TypeError, OverflowError, msgspec.MsgspecError) as error:
        raise ValueError(f"a row has no such value: {error}") from error


class Place(NamedTuple):
    """Where a commit keeps what it puts off. `slot` counts from 1, `commit_id` ever upwards."""

    slot: int
    commit_id: int

    def behind(self, count: int) -> Place:
        """The place that comes so many later."""
        return Place(self.slot + count, self.commit_id + count)


def write(connection: sqlite3.Connection, place: Place, data: bytes) -> None:
    """Put a row into `deferred`, as part of a commit."""
    connection.execute(_PUT[1], (*place, data))


def _mark(connection: sqlite3.Connection, commit_id: int) -> None:
    """The tables show what was put off up to this commit."""
    connection.execute(_PUT[1], (0, commit_id, b""))


def _named(said: Said) -> Named:
    return [(table.name, row) for table, row in said]


class Taken(NamedTuple):
    """What waited, and the newest commit that it is of."""

    changes: list[Change]
    commit_id: int


class Backlog:
    """What waits in memory, for the loop. `under_way` is what is being written just now."""

    def __init__(self) -> None:
        self.changes: Changes = {}
        self.under_way: Changes = {}
        self.rows = 0
        """About how many rows wait."""
        self.next = Place(1, 1)
        """Where the next commit keeps what it puts off."""

    def add(self, piece: Piece) -> None:
        """A batch was committed."""
        self.rows += len(piece.deletes) + len(piece.puts)
        collect(piece.deletes, piece.puts, self.changes)

    def holds(self, *tables: str) -> bool:
        """Whether rows of one of these tables wait; without tables: of any."""
        if not self.changes and not self.under_way:
            return False
        if not tables:
            return True
        return any(name in self.changes or name in self.under_way for name in tables)

    def concerns(self, query: str) -> bool:
        """Whether a query could see a table of which rows wait."""
        for changes in (self.changes, self.under_way):
            for name in changes:
                if name in query:
                    return True
        return False

    def find(self, table: Table, key: Row) -> tuple[bool, Row | None]:
        """Whether the row of a key waits, and that row."""
        for changes in (self.changes, self.under_way):
            change = changes.get(table.name)
            if change is not None and key in change.rows:
                return True, change.rows[key]
        return False, None

    def take(self) -> Taken:
        """All of it, to be written now; then `written` or `give_back`."""
        self.under_way, self.changes, self.rows = self.changes, {}, 0
        return Taken(list(self.under_way.values()), self.next.commit_id - 1)

    def written(self) -> None:
        """What was taken is in its tables; its slots are free."""
        self.under_way = {}
        self.next = Place(1, self.next.commit_id)

    def give_back(self) -> None:
        """What was taken could not be written; nothing was added meanwhile."""
        self.changes, self.under_way = self.under_way, {}
        self.rows = sum(len(change.rows) for change in self.changes.values())


def put_all(connection: sqlite3.Connection, taken: Taken) -> None:
    """Write changes to their tables, as part of a transaction, and note that in `deferred`."""
    put_changes(connection, taken.changes)
    _mark(connection, taken.commit_id)


def put_singly(connection: sqlite3.Connection, taken: Taken) -> None:
    """As `put_all`, but a row that its table does not take is left out and reported.

    That would be a mistake of ours, and must not keep all others from being written.
    """
    for change in taken.changes:
        keys = statements.delete(change.table)
        for key, row in change.rows.items():
            connection.execute("SAVEPOINT row")
            try:
                if key in change.gone:
                    statements.write_rows(connection, keys, [key], change.table.key)
                if row is not None:
                    narrow = key in change.narrow
                    put_rows(connection, change.narrowly if narrow else change.table, [row])
            except (sqlite3.IntegrityError, sqlite3.DataError, OverflowError, ValueError) as error:
                connection.execute("ROLLBACK TO row")
                log.error(  # noqa: TRY400 - where it happened says nothing
                    "%s does not take the row of %r: %s", change.table.name, key, error
                )
            connection.execute("RELEASE row")
    _mark(connection, taken.commit_id)


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
        put_singly(connection, Taken(list(changes.values()), 0))
        connection.execute("DELETE FROM deferred")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return count


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
