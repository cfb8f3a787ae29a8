"""Connections: the pragmas of writers and readers, and aiosqlite with one hop for a whole
function."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar
from urllib.parse import quote

import aiosqlite

from ironflow.core.errors import StorageError
from ironflow.storage.sqlite.schema import OLDEST_SQLITE

T = TypeVar("T")

SYNCHRONOUS = {"full": "FULL", "process": "NORMAL"}
"""`full` survives a power loss, `process` the death of the process (or kill -9) only."""

CHECKPOINT_PAGES = 4000
"""Some 16 MiB of log (see `storage.sqlite.wal`). Larger checkpoints are fewer, and each takes
longer.
"""


class Connection(aiosqlite.Connection):
    """An aiosqlite connection that runs a function of ours in its thread.

    aiosqlite offers a hop per statement; `_execute` and `_tx` under its methods take any function,
    and one hop for a batch is what makes it cheap. tests/unit/test_sqlite_connection.py pins both
    names.
    """

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        """Run `function(sqlite connection, *args)` in the thread. Raises what it does, or
        `StorageError` once closed."""
        if not self._running:
            raise StorageError("the database is closed")
        result: T = await self._execute(function, self.raw, *args)  # type: ignore[no-untyped-call]
        return result

    def submit(self, function: Callable[[], None]) -> None:
        """Run `function` in the thread. It must not raise: nobody would hear of it."""
        if not self._running:
            raise StorageError("the database is closed")
        loop = asyncio.get_running_loop()
        if hasattr(loop, "hold"):
            function = partial(_hold_time, loop, function)
            loop.hold()
        self._tx.put_nowait((None, function))

    @property
    def raw(self) -> sqlite3.Connection:
        """The connection itself, for use in its thread only."""
        if self._connection is None:
            raise StorageError("the database is closed")
        return self._connection


def _hold_time(loop: Any, function: Callable[[], None]) -> None:
    """In the thread: `function`, then virtual time (`ironflow.actors.kernel.virtual_time`) may go
    on.
    """
    try:
        function()
    finally:
        loop.call_soon_threadsafe(loop.release)


async def connect(connector: Callable[[], sqlite3.Connection]) -> Connection:
    """Start a thread and open a connection in it. Raises what `connector` does."""
    connection = Connection(connector, iter_chunk_size=64)
    # A store that was never closed (a failed test, a program that just ends) must not keep the
    # process alive; what was acknowledged is on the disk.
    connection._thread.daemon = True
    try:
        _ = await connection
    except BaseException:
        # Its thread still has something to tell the loop, which may be closed next.
        await asyncio.to_thread(connection._thread.join)
        raise
    return connection


def open_connection(
    path: str, *, mode: str = "rwc", busy_timeout: float = 5.0
) -> sqlite3.Connection:
    """An SQLite connection in autocommit mode; `mode` is rwc, rw or ro. Raises `StorageError`."""
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        oldest = ".".join(map(str, OLDEST_SQLITE))
        raise StorageError(f"this Python has SQLite {sqlite3.sqlite_version}, needed is {oldest}")
    try:
        return sqlite3.connect(
            f"file:{quote(path)}?mode={mode}",
            uri=True,
            timeout=busy_timeout,
            isolation_level=None,
            # aiosqlite opens in its thread and may close from another one.
            check_same_thread=False,
            cached_statements=256,
        )
    except sqlite3.Error as error:
        raise StorageError(f"cannot open {path}: {error}") from error


def set_up_writer(connection: sqlite3.Connection, path: str, durability: str) -> None:
    """WAL, and how often to wait for the disk. Raises `StorageError` where there is no WAL."""
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise StorageError(f"{path}: the file system does not support SQLite's write-ahead log")
    connection.execute(f"PRAGMA synchronous = {SYNCHRONOUS[durability]}")
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute(f"PRAGMA journal_size_limit = {CHECKPOINT_PAGES * 5120}")
    connection.execute("PRAGMA cache_size = -8000")


def set_up_reader(connection: sqlite3.Connection) -> None:
    """No writes, not even by mistake."""
    connection.execute("PRAGMA query_only = ON")
    connection.execute("PRAGMA cache_size = -4000")


def call_on(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *args: Any) -> None:
    """Call `function` on the loop, from a thread."""
    loop.call_soon_threadsafe(function, *args)
