"""`open_sqlite`: a durable store in one file, for one process at a time.

One write connection with group commit and two read-only ones, each with its aiosqlite thread. A
second process is refused by a lock beside the file; a new or old file is migrated before anything
else sees it.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

from ironflow.core.clock import Clock, SystemClock
from ironflow.core.errors import ConfigError, StorageError
from ironflow.storage import retention
from ironflow.storage.journal import GROUP_LIMIT
from ironflow.storage.ports import RetentionRule, Retired
from ironflow.storage.sqlite.connection import (
    SYNCHRONOUS,
    Connection,
    connect,
    open_connection,
    set_up_reader,
    set_up_writer,
)
from ironflow.storage.sqlite.deferral import settle
from ironflow.storage.sqlite.errors import translate
from ironflow.storage.sqlite.lock import ProcessLock
from ironflow.storage.sqlite.reader import SqliteReader
from ironflow.storage.sqlite.retention import SqliteRetention
from ironflow.storage.sqlite.schema import migrate, recognize
from ironflow.storage.sqlite.wal import WriteAheadLog
from ironflow.storage.sqlite.writer import SqliteJournal, read_last_seq


class SqliteStore:
    """See `ports.Store`."""

    def __init__(
        self, journal: SqliteJournal, reader: SqliteReader, writer: Connection, lock: ProcessLock
    ) -> None:
        self.journal, self.reader = journal, reader
        self._writer, self._lock = writer, lock
        self._retention = SqliteRetention(journal, reader)
        self._closed = False

    async def retire(self, rules: Sequence[RetentionRule], now: int, dry_run: bool) -> Retired:
        """See `ports.Store`. Deletes in small transactions between the commits of others."""
        return await self._retention.retire(retention.limits(rules, now), dry_run)

    async def forget(self, run_ids: Sequence[str]) -> int:
        """See `ports.Store`."""
        return await self._retention.forget(run_ids)

    async def close(self) -> None:
        """See `ports.Store`. May be called again."""
        if self._closed:
            return
        self._closed = True
        self.journal.refuse(StorageError("the database is closed"))
        await self.journal.flush()
        await self.journal.finish()
        try:
            # Readers first: the last connection to close folds the log into the database.
            await self.reader.close()
            await self._writer.close()
        finally:
            self._lock.release()


async def open_sqlite(
    path: str | Path,
    *,
    durability: str = "full",
    clock: Clock | None = None,
    on_fatal: Callable[[StorageError], None] | None = None,
    group_limit: int = GROUP_LIMIT,
    busy_timeout: float = 5.0,
    max_pages: int | None = None,
) -> SqliteStore:
    """Open the database at `path`, and create or migrate it first.

    `durability` is `full` (survives a power loss) or `process` (survives the process). `on_fatal`
    is called on the loop when the database can no longer be used and the process should stop.
    `busy_timeout` is in seconds; `max_pages` bounds the size of the file. Raises `DatabaseInUse`,
    `SchemaTooNew` or another `StorageError`.
    """
    if durability not in SYNCHRONOUS:
        raise ConfigError(f"durability is {durability!r}, must be one of {', '.join(SYNCHRONOUS)}")
    name = os.path.abspath(path)  # noqa: ASYNC240 - looks at the path only, not at the disk
    opening = _Opening(name, durability, (clock or SystemClock()).now(), busy_timeout, max_pages)
    opened: list[Connection] = []
    try:
        writer = await connect(opening.open_writer)
        opened.append(writer)
        opened += [await connect(opening.open_reader), await connect(opening.open_reader)]
        last_seq = await writer.call(read_last_seq)
        journal = SqliteJournal(
            writer,
            name,
            last_seq,
            group_limit=group_limit,
            on_fatal=on_fatal,
            log=opening.log(),
            busy_timeout=busy_timeout,
            durability=durability,
        )
        reader = SqliteReader(name, durability, opened[1], opened[2], journal, on_fatal)
    except BaseException as error:
        for connection in reversed(opened):
            await connection.close()
        opening.release()
        if isinstance(error, sqlite3.Error):
            raise translate(error, name) from error
        raise
    return SqliteStore(journal, reader, writer, opening.locked())


class _Opening:
    """The blocking part, done in the threads of the connections."""

    def __init__(
        self, path: str, durability: str, now: int, busy_timeout: float, max_pages: int | None
    ) -> None:
        self.path, self.durability, self.now = path, durability, now
        self.busy_timeout, self.max_pages = busy_timeout, max_pages
        self._lock: ProcessLock | None = None
        self._log: WriteAheadLog | None = None

    def open_writer(self) -> sqlite3.Connection:
        """Lock, check, migrate; only then is the file touched."""
        try:
            os.makedirs(os.path.dirname(self.path), exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"cannot make the folder of {self.path}: {error.strerror}"
            ) from error
        self._lock = ProcessLock(self.path, self.now)
        connection = open_connection(self.path, busy_timeout=self.busy_timeout)
        try:
            known = recognize(connection, self.path)
            set_up_writer(connection, self.path, self.durability)
            settle(connection, self.path)
            if migrate(connection, self.path, self.now) != known:
                # Migrations leave a long log behind, for a database that is still small.
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            if self.max_pages is not None:
                connection.execute(f"PRAGMA max_page_count = {self.max_pages}")
            self._log = WriteAheadLog(self.path, synced=self.durability == "full")
        except BaseException:
            connection.close()
            raise
        return connection

    def open_reader(self) -> sqlite3.Connection:
        """A read-only connection."""
        connection = open_connection(self.path, mode="ro", busy_timeout=self.busy_timeout)
        set_up_reader(connection)
        return connection

    def log(self) -> WriteAheadLog:
        """The log, which is there once the writer is open."""
        if self._log is None:
            raise StorageError(f"{self.path} is not open")
        return self._log

    def locked(self) -> ProcessLock:
        """The lock, which is held once the writer is open."""
        if self._lock is None:
            raise StorageError(f"{self.path} is not open")
        return self._lock

    def release(self) -> None:
        """Give up what was locked."""
        if self._lock is not None:
            self._lock.release()
