"""What `ironflow db` does: facts, backup, vacuum, checks. All functions block; call them outside of
an event loop.

Reading a database that a server has open is fine: `database_info`, `backup` and `check` see one
consistent moment and hold nobody up; so is one of an older schema, or in a folder that cannot be
written. `vacuum` needs the database for itself. Export and import are in
`storage.maintenance.ndjson`.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from ironflow.core.clock import Clock, SystemClock
from ironflow.core.crash_points import reach
from ironflow.core.errors import InvalidInput, NotFound, StorageError
from ironflow.storage.ports import StoreInfo
from ironflow.storage.sqlite import sql
from ironflow.storage.sqlite.connection import open_connection, set_up_reader
from ironflow.storage.sqlite.deferral import find_foreign, overlay, settle
from ironflow.storage.sqlite.errors import Broken, translate
from ironflow.storage.sqlite.lock import ProcessLock
from ironflow.storage.sqlite.reader import read_info
from ironflow.storage.sqlite.schema import migrations, recognize, sync_file

Progress = Callable[[int, int], None]
"""Called with how much is done and the total, in pages, rows or checks."""

PAGES_AT_ONCE = 1000


class CheckReport(msgspec.Struct, frozen=True, kw_only=True):
    """What `check` found: a sentence for each thing wrong, at most 20 of a kind."""

    findings: list[str]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings


def outdated(path: str | Path) -> str | None:
    """What to say of a database of an older schema, None for one of this version's."""
    with opened(path) as (connection, name):
        version, newest = recognize(connection, name), len(migrations())
    if version == newest:
        return None
    return (
        f"{name} has schema version {version}, older than this ironflow's {newest}: "
        "`ironflow serve` migrates it, after a backup of its own"
    )


def require_newest(path: str | Path) -> None:
    """Raise `StorageError` for a database of an older schema: what comes next reads, or writes, as
    this version does.
    """
    old = outdated(path)
    if old is not None:
        raise StorageError(old)


def database_info(path: str | Path) -> StoreInfo:
    """Facts about a database. Raises `NotFound`, or `StorageError` for a foreign file."""
    with opened(path) as (connection, name):
        # How durable commits are is a setting of the process that writes, not of the file.
        return read_info(connection, name, "")


def backup(path: str | Path, target: str | Path, progress: Progress | None = None) -> StoreInfo:
    """Copy the database to the new file `target`, as of this moment, also while a server writes;
    facts of the copy.

    The copy appears whole and durable or not at all. Raises `InvalidInput` when `target` exists.
    """
    copy = os.path.abspath(target)
    if os.path.exists(copy):
        raise InvalidInput("target", f"{copy} exists already")
    part = f"{copy}.part"
    remove_database(part)
    with opened(path) as (connection, name):
        # Its transaction pins the moment; without it every commit would start the copy anew.
        recognize(connection, name)
        try:
            with _closing(sqlite3.connect(part, isolation_level=None)) as destination:
                connection.backup(destination, pages=PAGES_AT_ONCE, progress=_pages(progress))
                settle(destination, part)
                destination.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            sync_file(part)
            reach("backup.copied")
            os.replace(part, copy)
            sync_file(os.path.dirname(copy))
        except (sqlite3.Error, OSError) as error:
            raise StorageError(f"cannot back up {name} to {copy}: {error}") from error
        finally:
            remove_database(part)
    return database_info(copy)


def vacuum(path: str | Path, clock: Clock | None = None) -> tuple[int, int]:
    """Give the space of deleted rows back to the file system; the sizes in bytes before and after.

    Raises `DatabaseInUse` while a server has the database open.
    """
    name = _existing(path)
    lock = ProcessLock(name, (clock or SystemClock()).now())
    try:
        with opened(name, write=True) as (connection, _):
            before = os.path.getsize(name)
            settle(connection, name)
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return before, os.path.getsize(name)
    finally:
        lock.release()


def check(path: str | Path, progress: Progress | None = None) -> CheckReport:
    """Check the file (every page, every index) and what ironflow relies on: see
    `queries/maintenance.sql`.

    No entry of another program is in the place of ours; versions of every stream count 1, 2, 3;
    blobs are there and hash to their name; rows have their streams.
    """
    checks: list[Callable[[sqlite3.Connection], Iterable[str]]] = [
        _broken_pages,
        lambda connection: find_foreign(connection, str(path)),
        *(_finder(name, sentence) for name, sentence in _SENTENCES.items()),
        _changed_blobs,
    ]
    findings: list[str] = []
    try:
        with opened(path) as (connection, name):
            for number, find in enumerate(checks, 1):
                try:
                    findings += find(connection)
                except sqlite3.DatabaseError as error:
                    findings.append(translate(error, name).message)
                if progress is not None:
                    progress(number, len(checks))
    except Broken as error:  # what is read before anything else cannot be
        findings.append(error.message)
    return CheckReport(findings=findings)


_SENTENCES = {
    "gaps": "{}: {} entries with versions {} to {}",
    "missing_blobs": "{} mentions blob {}, which is missing",
    "lost_runs": "run {} has no stream",
    "lost_events": "event {} has no stream",
    "snapshots_ahead": "{} has a snapshot of version {}, ahead of its entries",
}


def _finder(name: str, sentence: str) -> Callable[[sqlite3.Connection], Iterator[str]]:
    query = sql.load("maintenance")[name]
    return lambda connection: (sentence.format(*row) for row in connection.execute(query))


def _broken_pages(connection: sqlite3.Connection) -> Iterator[str]:
    for (finding,) in connection.execute("PRAGMA integrity_check(20)"):
        if finding != "ok":
            yield finding


def _changed_blobs(connection: sqlite3.Connection) -> Iterator[str]:
    for digest, size, data in connection.execute(sql.load("maintenance")["blobs"]):
        if hashlib.sha256(data).hexdigest() != digest or len(data) != size:
            yield f"blob {digest} does not have the content of that name"


@contextmanager
def opened(path: str | Path, *, write: bool = False) -> Iterator[tuple[sqlite3.Connection, str]]:
    """A checked connection to an existing database of ours, and its absolute path.

    To read, it is in a transaction that pins this moment, and sees what commits have put off.
    """
    name = _existing(path)
    with _closing(open_connection(name, mode=_mode(name, write))) as connection:
        if not recognize(connection, name):
            raise StorageError(f"{name} is empty: it has no ironflow database in it")
        try:
            if not write:
                connection.execute("BEGIN")
                overlay(connection, name)
                set_up_reader(connection)
            yield connection, name
        except sqlite3.Error as error:
            raise translate(error, name) from error
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")


@contextmanager
def _closing(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    try:
        yield connection
    finally:
        connection.close()


def _mode(name: str, write: bool) -> str:
    """How to open a file. Also to read it SQLite must be able to make the files of its log, when no
    server has done so; where it cannot, a file without a log is one that nobody changes.
    """
    if write or (os.access(name, os.W_OK) and os.access(os.path.dirname(name), os.W_OK)):
        return "rw"
    if not os.access(name, os.R_OK):
        raise StorageError(f"cannot read {name}: Permission denied")
    return "ro" if os.path.exists(f"{name}-wal") else "ro&immutable=1"


def _existing(path: str | Path) -> str:
    name = os.path.abspath(path)
    if not os.path.isfile(name):
        raise NotFound("database", name)
    return name


def _pages(progress: Progress | None) -> Callable[[int, int, int], object] | None:
    if progress is None:
        return None
    return lambda _status, remaining, total: progress(total - remaining, total)


def remove_database(path: str) -> None:
    """Remove a database file that nobody has open, with its log, if it exists."""
    for name in (path, f"{path}-wal", f"{path}-shm"):
        if os.path.exists(name):
            os.unlink(name)
