"""Numbered SQL migrations, and the checks that a file is a database of ours which this version
understands.

Those that a database lacks run in one transaction, and each is recorded with the SHA-256 of its
text: an applied one that has changed since is refused. A database with content is copied to
`<db>.backup-<version>-<time>` first.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from contextlib import suppress
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from ironflow.core.clock import to_datetime
from ironflow.core.crash_points import reach
from ironflow.core.errors import SchemaTooNew, StorageError
from ironflow.storage.sqlite.errors import translate

APPLICATION_ID = 0x49464C57  # "IFLW"
OLDEST_SQLITE = (3, 32, 0)  # row values, upserts, and statements with more than 999 parameters

_RECORD = """CREATE TABLE IF NOT EXISTS migrations (
  version INTEGER PRIMARY KEY, name TEXT NOT NULL, checksum TEXT NOT NULL,
  applied_at INTEGER NOT NULL)"""


class Migration(NamedTuple):
    """One numbered file: `version` and `name` come from `NNNN_name.sql`."""

    version: int
    name: str
    text: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the text, as hex. Line ends do not count, so that a checkout on Windows
        agrees."""
        return hashlib.sha256(self.text.encode()).hexdigest()


@cache
def migrations() -> tuple[Migration, ...]:
    """All migrations of this version, in order. Raises ValueError when a number is missing or
    double."""
    folder = files("ironflow.storage.sqlite").joinpath("migrations")
    found = []
    for file in folder.iterdir():
        stem, _, suffix = file.name.rpartition(".")
        if suffix == "sql":
            number, _, name = stem.partition("_")
            text = file.read_text(encoding="utf-8").replace("\r\n", "\n")
            found.append(Migration(int(number), name, text))
    found.sort()
    if [migration.version for migration in found] != list(range(1, len(found) + 1)):
        raise ValueError(f"migrations are not numbered 1 to {len(found)}")
    return tuple(found)


@cache
def statements(text: str) -> tuple[str, ...]:
    """The statements of a script, one by one; semicolons inside strings and triggers do not end
    one."""
    found, pending = [], ""
    for line in text.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            found.append(pending.strip())
            pending = ""
    if pending.strip() and not all(part.startswith("--") for part in pending.strip().splitlines()):
        raise ValueError(f"the last statement does not end: {pending.strip()[:60]!r}")
    return tuple(found)


def schema_version(connection: sqlite3.Connection, path: str, known: int) -> int:
    """The schema version of a database, 0 when it is new.

    Raises `StorageError` when the file is something else, `SchemaTooNew` when it is beyond `known`.
    """
    try:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (objects,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if application != APPLICATION_ID:
            if application or objects:
                raise StorageError(f"{path} is an SQLite database, but not one of ironflow")
            return 0
        (version,) = connection.execute("SELECT max(version) FROM migrations").fetchone()
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_NOTADB:
            raise StorageError(f"{path} is not a database: choose another file") from error
        raise translate(error, path) from error
    if version > known:
        raise SchemaTooNew(path, version, known)
    return int(version)


def recognize(connection: sqlite3.Connection, path: str) -> int:
    """The schema version of a database whose migrations are those of this version, as far as they
    go; 0 when it is new. Raises as `migrate` does.
    """
    found = schema_version(connection, path, len(migrations()))
    if found:
        # Pages that cannot be read are for those to tell who look at every page.
        with suppress(sqlite3.DatabaseError):
            _compare(connection, path, migrations())
    return found


def migrate(
    connection: sqlite3.Connection,
    path: str,
    now: int,
    wanted: tuple[Migration, ...] | None = None,
) -> int:
    """Bring an open database (in autocommit mode) to the newest schema; the version it has then.

    Raises `SchemaTooNew`, and `StorageError` for a foreign file or an applied migration that has
    changed.
    """
    wanted = migrations() if wanted is None else wanted
    found = schema_version(connection, path, len(wanted))
    if found:
        _compare(connection, path, wanted)
    if found < len(wanted):
        if found:
            backup_copy(connection, path, found, now)
        _apply(connection, path, wanted[found:], now)
    return len(wanted)


def backup_copy(connection: sqlite3.Connection, path: str, version: int, now: int) -> str:
    """Copy the database beside itself, durably; the path of the copy."""
    target = f"{path}.backup-{version}-{to_datetime(now):%Y%m%dT%H%M%S}"
    part = f"{target}.part"
    try:
        if os.path.exists(part):
            os.unlink(part)  # a process that died over it
        connection.execute("VACUUM INTO ?", (part,))
        reach("migration.backup")
        sync_file(part)
        os.replace(part, target)
        sync_file(os.path.dirname(target))
    except (sqlite3.Error, OSError) as error:
        raise StorageError(
            f"cannot back up {path} to {target} before migrating: {error}"
        ) from error
    return target


def sync_file(path: str) -> None:
    """Have the system write a file, or the names in a folder, to the disk."""
    if os.name == "nt" and os.path.isdir(path):
        return  # Windows opens no folders
    descriptor = os.open(path, os.O_RDONLY if os.path.isdir(path) else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _compare(connection: sqlite3.Connection, path: str, wanted: tuple[Migration, ...]) -> None:
    for version, checksum in connection.execute("SELECT version, checksum FROM migrations"):
        if wanted[version - 1].checksum != checksum:
            raise StorageError(
                f"{path}: migration {version} is not the one that was applied; "
                "use the ironflow that made this database, or a release of it"
            )


def _apply(
    connection: sqlite3.Connection, path: str, missing: tuple[Migration, ...], now: int
) -> None:
    """All in one transaction: a database is of the old schema or of the new one, and a new one
    waits for the disk once.
    """
    where = "before the first migration"
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(_RECORD)
        for migration in missing:
            where = f"in migration {migration.version} ({migration.name})"
            for statement in statements(migration.text):
                connection.execute(statement)
                reach("migration.statement")
            row = (migration.version, migration.name, migration.checksum, now)
            connection.execute("INSERT INTO migrations VALUES (?, ?, ?, ?)", row)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute("COMMIT")
        reach("migration.committed")
    except sqlite3.Error as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        problem = translate(error, path)
        problem.add_note(where)
        raise problem from error
