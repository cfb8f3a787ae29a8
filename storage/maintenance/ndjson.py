"""A whole database as NDJSON, readable by anything: a header, a line for each row, and an end with
the counts.

`{"ironflow": "export", "schema": 1}`, then `{"journal": [...]}` with the columns in the order of
the table, where bytes are `{"utf8": text}` or, if they are not text, `{"base64": text}`; then
`{"end": {"journal": 12, ...}}`.
"""

from __future__ import annotations

import base64
import os
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import msgspec

from ironflow.core.clock import Clock, SystemClock
from ironflow.core.errors import InvalidInput, StorageError
from ironflow.storage.maintenance.files import Progress, opened, remove_database, require_newest
from ironflow.storage.ports import TABLES, Table
from ironflow.storage.relational.tables import RELATIONAL
from ironflow.storage.sqlite import statements
from ironflow.storage.sqlite.connection import open_connection, set_up_writer
from ironflow.storage.sqlite.errors import translate
from ironflow.storage.sqlite.lock import ProcessLock
from ironflow.storage.sqlite.schema import migrate, migrations, sync_file

EXPORTED = (statements.JOURNAL, *TABLES, *RELATIONAL)
_BY_NAME = {table.name: table for table in EXPORTED}
ROWS_AT_ONCE = 500


class _Header(msgspec.Struct, forbid_unknown_fields=True):
    ironflow: str
    schema: int


class _Invalid(Exception):
    """Why a line is not acceptable."""


def export_ndjson(path: str | Path, out: IO[bytes], progress: Progress | None = None) -> int:
    """Write the database at `path`, as of this moment, to `out`; the number of rows. Raises
    `StorageError` for one of an older schema.
    """
    require_newest(path)
    encode = msgspec.json.Encoder().encode
    counts: dict[str, int] = {}
    with opened(path) as (connection, _):
        total = sum(_count(connection, table) for table in EXPORTED)
        (schema,) = connection.execute("SELECT max(version) FROM migrations").fetchone()
        out.write(encode(_Header("export", schema)) + b"\n")
        for table in EXPORTED:
            names = ", ".join(table.columns)
            keys = ", ".join(table.columns[: table.key])
            counts[table.name] = 0
            for row in connection.execute(f"SELECT {names} FROM {table.name} ORDER BY {keys}"):
                out.write(encode({table.name: [_to_json(value) for value in row]}) + b"\n")
                counts[table.name] += 1
                if progress is not None and sum(counts.values()) % ROWS_AT_ONCE == 0:
                    progress(sum(counts.values()), total)
        out.write(encode({"end": counts}) + b"\n")
    if progress is not None:
        progress(total, total)
    return total


def import_ndjson(
    path: str | Path,
    source: Iterable[bytes],
    progress: Progress | None = None,
    clock: Clock | None = None,
) -> int:
    """Make the new database `path` from the lines of an export; the number of rows.

    The database appears whole or not at all. Raises `InvalidInput` with the number of the line that
    is wrong, or when `path` exists.
    """
    name = os.path.abspath(path)
    if os.path.exists(name) and os.path.getsize(name):
        raise InvalidInput("path", f"{name} exists already; import into a new database")
    now = (clock or SystemClock()).now()
    part = f"{name}.part"
    lock = ProcessLock(name, now)
    try:
        remove_database(part)
        total = _fill(part, source, now, progress)
        sync_file(part)
        os.replace(part, name)
        sync_file(os.path.dirname(name))
    except OSError as error:
        raise StorageError(f"cannot write {name}: {error}") from error
    finally:
        remove_database(part)
        lock.release()
    return total


def _fill(part: str, source: Iterable[bytes], now: int, progress: Progress | None) -> int:
    connection = open_connection(part)
    try:
        set_up_writer(connection, part, "full")
        migrate(connection, part, now)
        connection.execute("BEGIN IMMEDIATE")
        total = _insert(connection, source, progress)
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.Error as error:
        raise translate(error, part) from error
    finally:
        connection.close()
    return total


def _insert(
    connection: sqlite3.Connection, source: Iterable[bytes], progress: Progress | None
) -> int:
    counts = dict.fromkeys(_BY_NAME, 0)
    found: dict[str, int] | None = None
    number = 0
    try:
        for number, line in _lines(source):
            if number == 1:
                _check_header(line)
                continue
            if found is not None:
                raise _Invalid("there is more after the end")
            table, value = _decode(line)
            if table is None:
                found = value
                continue
            _insert_row(connection, table, value)
            counts[table.name] += 1
            if progress is not None and number % ROWS_AT_ONCE == 0:
                progress(number, 0)
        if found is None:
            raise _Invalid("the export was cut off: its end is missing")
        if found != counts:
            raise _Invalid("the counts at the end are not those of the rows")
    except _Invalid as error:
        raise InvalidInput(f"line {number}", str(error)) from error
    return sum(counts.values())


def _lines(source: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    for number, line in enumerate(source, 1):
        if line.strip():
            yield number, line


def _check_header(line: bytes) -> None:
    try:
        header = msgspec.json.decode(line, type=_Header)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise _Invalid(f"this is not an export of ironflow: {error}") from error
    if header.ironflow != "export":
        raise _Invalid("this is not an export of ironflow")
    if header.schema != len(migrations()):
        known = len(migrations())
        raise _Invalid(f"the export has schema version {header.schema}, this ironflow has {known}")


def _decode(line: bytes) -> tuple[Table | None, Any]:
    try:
        pairs = msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise _Invalid(f"no JSON object: {error}") from error
    if len(pairs) != 1:
        raise _Invalid("one row is expected, as {table: [columns]}")
    ((name, value),) = pairs.items()
    if name == "end":
        return None, value
    table = _BY_NAME.get(name)
    if table is None:
        raise _Invalid(f"there is no table {name!r}")
    if not isinstance(value, list) or len(value) != len(table.columns):
        raise _Invalid(f"{name} needs {len(table.columns)} columns: {', '.join(table.columns)}")
    return table, value


def _insert_row(connection: sqlite3.Connection, table: Table, value: list[Any]) -> None:
    row = [_from_json(v, column) for v, column in zip(value, table.columns, strict=True)]
    if row[0] is None:
        raise _Invalid(f"{table.columns[0]} is missing")
    try:
        connection.execute(statements.insert(table, replace=False)[1], row)
    except (sqlite3.IntegrityError, OverflowError, UnicodeError) as error:
        raise _Invalid(str(error)) from error


def _count(connection: sqlite3.Connection, table: Table) -> int:
    (count,) = connection.execute(f"SELECT count(*) FROM {table.name}").fetchone()
    return int(count)


def _to_json(value: Any) -> Any:
    if not isinstance(value, bytes):
        return value
    try:
        return {"utf8": value.decode("utf-8")}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode("ascii")}


def _from_json(value: Any, column: str) -> Any:
    if isinstance(value, dict):
        match value:
            case {"utf8": str(text), **rest} if not rest:
                return text.encode("utf-8")
            case {"base64": str(text), **rest} if not rest:
                try:
                    return base64.b64decode(text, validate=True)
                except ValueError as error:
                    raise _Invalid(f"{column}: {error}") from error
        raise _Invalid(f"{column}: neither utf8 nor base64")
    if value is not None and (isinstance(value, bool) or not isinstance(value, (str, int, float))):
        raise _Invalid(f"{column}: {type(value).__name__} is not a value of a column")
    return value
