"""Queries on SQLite: each is one function in the thread of a read-only connection.

Two connections: one for what actors wait for (loads and single rows), one for pages and counts, so
that a long list does not hold up a wake-up. In WAL mode a query sees everything that was committed
when it began; rows that commits have put off (`storage.sqlite.deferral`) are written first, or,
while the disk is full, shown to people who look as if they were.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import msgspec

from ironflow.core.errors import StorageError, StorageFull
from ironflow.core.runs.commands import Outcome
from ironflow.storage.ports import (
    DELIVERIES,
    EVENTS,
    INTAKES,
    OUTCOMES,
    RUN_ACTORS,
    RUN_LANES,
    RUNS,
    STARTS,
    TABLES,
    TIMERS,
    WAITERS,
    Delivery,
    Entry,
    EventFilter,
    EventRow,
    FunctionRow,
    IntakeRow,
    LaneRow,
    Loaded,
    RunFilter,
    RunRow,
    Snapshot,
    StoreInfo,
    Table,
    TimerRow,
    WaiterRow,
)
from ironflow.storage.relational.tables import RELATIONAL
from ironflow.storage.sqlite import sql
from ironflow.storage.sqlite.backlog import SEQ, VERSION, merge
from ironflow.storage.sqlite.connection import Connection, open_connection, set_up_reader
from ironflow.storage.sqlite.deferral import overlay, tentatively
from ironflow.storage.sqlite.errors import Broken, translate
from ironflow.storage.sqlite.page_queries import RUN_COLUMNS, events_query, runs_query
from ironflow.storage.sqlite.writer import SqliteJournal

LOADS_AT_ONCE = 64
_TABLES = "SELECT name FROM main.sqlite_master WHERE type = 'table'"

Row = tuple[Any, ...]
T = TypeVar("T")


class SqliteReader:
    """See `ports.Reader`."""

    def __init__(
        self,
        path: str,
        durability: str,
        lookups: Connection,
        scans: Connection,
        journal: SqliteJournal,
        on_fatal: Callable[[StorageError], None] | None = None,
    ) -> None:
        self._path, self._durability, self._on_fatal = path, durability, on_fatal
        self._lookups, self._scans = lookups, scans
        self._writer, self._backlog = journal, journal.backlog
        self._loop = asyncio.get_running_loop()
        self._asked: dict[str, list[asyncio.Future[Loaded]]] = {}
        self._loading = False
        self._trying = asyncio.Lock()
        self._journal, self._reads = sql.load("journal"), sql.load("reads")

    # -- streams ----------------------------------------------------------------------------------

    async def load(self, stream: str) -> Loaded:
        """See `ports.Reader`."""
        future: asyncio.Future[Loaded] = self._loop.create_future()
        self._asked.setdefault(stream, []).append(future)
        if not self._loading:
            self._loading = True
            self._loop.call_soon(self._start_loads)
        return await future

    def _start_loads(self) -> None:
        """Take what waits, as a commit does; whoever asks from now on gets a query of its own."""
        streams = list(self._asked)[:LOADS_AT_ONCE]
        if not streams:
            self._loading = False
            return
        group = {stream: self._asked.pop(stream) for stream in streams}
        waiting = {stream: self._backlog.entries_of(stream) for stream in streams}
        try:
            self._lookups.submit(lambda: self._read_loads(group, waiting))
        except StorageError as error:
            self._loop.call_soon(self._finish_loads, group, {}, error)

    def _read_loads(
        self, group: dict[str, list[asyncio.Future[Loaded]]], waiting: dict[str, list[Row]]
    ) -> None:
        """In the thread."""
        found, failure = dict[str, Loaded](), None
        try:
            for stream, rows in waiting.items():
                found[stream] = self._read_load(self._lookups.raw, stream, rows)
        except Exception as error:  # noqa: BLE001 - handed to whoever awaits
            failure = self._translated(error)
        self._loop.call_soon_threadsafe(self._finish_loads, group, found, failure)

    def _read_load(self, connection: sqlite3.Connection, stream: str, waiting: list[Row]) -> Loaded:
        row = connection.execute(self._journal["snapshot"], (stream,)).fetchone()
        snapshot = Snapshot(*row) if row is not None else None
        after = snapshot.version if snapshot is not None else 0
        rows = connection.execute(self._journal["stream"], (stream, after, -1))
        entries = merge(list(map(Entry._make, rows)), waiting, VERSION, after)
        return Loaded(snapshot, entries)

    def _finish_loads(
        self,
        group: dict[str, list[asyncio.Future[Loaded]]],
        found: dict[str, Loaded],
        error: Exception | None,
    ) -> None:
        self._start_loads()
        for stream, futures in group.items():
            loaded = found.get(stream)
            for future in futures:
                if future.done():
                    continue
                if loaded is not None:
                    future.set_result(loaded)
                else:
                    future.set_exception(error or StorageError(f"{stream} was not read"))

    async def entries(self, stream: str, after: int = 0, limit: int = 1000) -> list[Entry]:
        """See `ports.Reader`."""
        waiting = self._backlog.entries_of(stream)
        rows = await self._fetch(self._scans, self._journal["stream"], (stream, after, limit))
        found = merge(list(map(Entry._make, rows)), waiting, VERSION, after)
        return found[:limit] if limit >= 0 else found

    async def entry(self, stream: str, version: int) -> Entry | None:
        """See `ports.Reader`."""
        for row in self._backlog.entries_of(stream):
            if row[VERSION] == version:
                return Entry._make(row)
        rows = await self._fetch(self._lookups, self._journal["entry"], (stream, version))
        return Entry._make(rows[0]) if rows else None

    async def tail(self, after: int, limit: int = 1000) -> list[Entry]:
        """See `ports.Reader`."""
        waiting = self._backlog.entries()
        rows = await self._fetch(self._scans, self._journal["tail"], (after, limit))
        return merge(list(map(Entry._make, rows)), waiting, SEQ, after)[:limit]

    # -- runs -------------------------------------------------------------------------------------

    async def run(self, run_id: str) -> RunRow | None:
        """See `ports.Reader`."""
        waits, row = self._backlog.find(RUNS, (run_id,))
        if not waits:
            query = self._reads["run"].format(columns=RUN_COLUMNS)
            row = next(iter(await self._fetch(self._lookups, query, (run_id,))), None)
        return RunRow(*row) if row is not None else None

    async def runs(
        self, where: RunFilter, limit: int = 50, before: tuple[int, str] | None = None
    ) -> list[RunRow]:
        """See `ports.Reader`."""
        query, values = runs_query(where, limit, before)
        return [RunRow(*row) for row in await self._look(RUNS, query, values)]

    async def count_matching(self, where: RunFilter) -> int:
        """See `ports.Reader`."""
        query, values = runs_query(where, -1, None)
        rows = await self._look(RUNS, f"SELECT count(*) FROM ({query})", values)
        return int(rows[0][0])

    async def unfinished(
        self,
        status: Literal["queued", "running"],
        limit: int = 1000,
        after: tuple[int, str] | None = None,
    ) -> list[RunRow]:
        """See `ports.Reader`."""
        await self._settle(RUNS)
        at, id_ = after or (-(2**63), "")
        query = self._reads["unfinished"].replace("{columns}", RUN_COLUMNS)
        values = {"status": status, "limit": limit, "after_at": at, "after_id": id_}
        return [RunRow(*row) for row in await self._fetch(self._scans, query, values)]

    async def count_runs(self) -> dict[tuple[str, str], int]:
        """See `ports.Reader`."""
        rows = await self._look(RUNS, self._reads["count_runs"])
        return {(function_id, status): count for function_id, status, count in rows}

    # -- events -----------------------------------------------------------------------------------

    async def event(self, event_id: str) -> EventRow | None:
        """See `ports.Reader`."""
        rows = await self._look(EVENTS, self._reads["event"], (event_id,), self._lookups)
        return EventRow(*rows[0]) if rows else None

    async def events(
        self, where: EventFilter, limit: int = 50, before: tuple[int, str] | None = None
    ) -> list[EventRow]:
        """See `ports.Reader`."""
        query, values = events_query(where, limit, before)
        return [EventRow(*row) for row in await self._look(EVENTS, query, values)]

    # -- the rest ---------------------------------------------------------------------------------

    async def timers(
        self, until: int, limit: int, after: tuple[int, str, str] | None = None
    ) -> list[TimerRow]:
        """See `ports.Reader`."""
        await self._settle(TIMERS)
        at, target, name = after or (-(2**63), "", "")
        values: dict[str, Any] = {"until": until, "limit": limit, "after_at": at}
        values |= {"after_target": target, "after_name": name}
        rows = await self._fetch(self._lookups, self._reads["timers"], values)
        return [TimerRow(*row) for row in rows]

    async def waiters(self) -> list[WaiterRow]:
        """See `ports.Reader`."""
        await self._settle(WAITERS)
        return [WaiterRow(*row) for row in await self._fetch(self._scans, self._reads["waiters"])]

    async def keys(self) -> list[str]:
        """See `ports.Reader`."""
        return [key_id for (key_id,) in await self._fetch(self._scans, self._reads["keys"])]

    async def actors(self) -> dict[str, tuple[str, str | None]]:
        """See `ports.Reader`."""
        await self._settle(RUN_ACTORS)
        rows = await self._fetch(self._scans, self._reads["actors"])
        return {run_id: (actor, worker) for run_id, actor, worker in rows}

    async def lanes(self) -> dict[str, LaneRow]:
        """See `ports.Reader`."""
        await self._settle(RUN_LANES)
        rows = await self._fetch(self._scans, self._reads["lanes"])
        return {
            run_id: LaneRow(tuple(msgspec.json.decode(lanes)), *rank)
            for run_id, lanes, *rank in rows
        }

    async def starts(self) -> list[tuple[str, int, str]]:
        """See `ports.Reader`."""
        await self._settle(STARTS)
        return await self._fetch(self._scans, self._reads["starts"])

    async def intakes(
        self,
        kind: str,
        limit: int = 1000,
        after: tuple[str, str] | None = None,
        function_id: str | None = None,
    ) -> list[IntakeRow]:
        """See `ports.Reader`."""
        await self._settle(INTAKES)
        values: dict[str, Any] = {"kind": kind, "limit": limit, "only": function_id}
        values |= dict(zip(("function_id", "key"), after or ("", None), strict=True))
        rows = await self._fetch(self._scans, self._reads["intakes"], values)
        return [IntakeRow(*row) for row in rows]

    async def intakes_of(self, run_ids: Sequence[str]) -> list[IntakeRow]:
        """See `ports.Reader`."""
        await self._settle(INTAKES)
        values = (msgspec.json.encode(run_ids).decode(),)
        rows = await self._fetch(self._lookups, self._reads["intakes_of"], values)
        return [IntakeRow(*row) for row in rows]

    async def outcomes(self, subjects: Sequence[str]) -> list[Outcome]:
        """See `ports.Reader`."""
        if not subjects:
            return []
        await self._settle(OUTCOMES)
        values = (msgspec.json.encode(subjects).decode(),)
        rows = await self._fetch(self._lookups, self._reads["outcomes"], values)
        return [Outcome(*row) for row in rows]

    async def deliveries(self) -> list[Delivery]:
        """See `ports.Reader`."""
        await self._settle(DELIVERIES)
        return [Delivery(*row) for row in await self._fetch(self._scans, self._reads["deliveries"])]

    async def functions(self) -> list[FunctionRow]:
        """See `ports.Reader`."""
        rows = await self._fetch(self._scans, self._reads["functions"])
        return [FunctionRow(*row) for row in rows]

    async def blob(self, digest: str) -> bytes | None:
        """See `ports.Reader`."""
        rows = await self._fetch(self._lookups, self._reads["blob"], (digest,))
        return rows[0][0] if rows else None

    async def meta(self, key: str) -> str | None:
        """See `ports.Reader`."""
        rows = await self._fetch(self._lookups, self._reads["meta"], (key,))
        return rows[0][0] if rows else None

    async def select(
        self, query: str, values: Sequence[Any] | dict[str, Any] = (), *, quick: bool = False
    ) -> list[Row]:
        """See `ports.Reader`."""
        if self._backlog.concerns(query):
            try:
                await self._writer.settle()
            except StorageFull:
                async with self._trying:  # each keeps everybody else from writing
                    return await asyncio.to_thread(self._read_tentatively, query, values)
        return await self._fetch(self._lookups if quick else self._scans, query, values)

    async def info(self) -> StoreInfo:
        """See `ports.Reader`. Counts every row, so the cost grows with the database."""
        return await self.scan(read_info, self._path, self._durability)

    async def scan(self, function: Callable[..., T], *args: Any) -> T:
        """Run `function(connection, *args)` where long queries run."""
        try:
            await self._settle()
        except StorageFull:
            return await asyncio.to_thread(self._read_apart, function, *args)
        result: T = await self._call(self._scans, function, *args)
        return result

    async def close(self) -> None:
        """Close both connections."""
        await self._lookups.close()
        await self._scans.close()

    # -- running a query --------------------------------------------------------------------------

    async def _settle(self, *tables: Table) -> None:
        """Return when what was acknowledged is in these tables; without any: in all."""
        if self._backlog.holds(*[table.name for table in tables]):
            await self._writer.settle()

    async def _look(
        self,
        table: Table,
        query: str,
        values: Sequence[Any] | dict[str, Any] = (),
        connection: Connection | None = None,
    ) -> list[Row]:
        """Rows of a table as everybody may see them, also while there is no space to write there
        what was put off. By default where long queries run.
        """
        try:
            await self._settle(table)
        except StorageFull:
            return await asyncio.to_thread(self._read_apart, _fetch, query, values)
        return await self._fetch(connection or self._scans, query, values)

    def _read_apart(self, function: Callable[..., T], *args: Any) -> T:
        """In any thread: `function(connection, *args)` on a connection that sees what is put off as
        if it were written. It costs more the more that is, and needs no space.
        """
        connection = open_connection(self._path, mode="ro")
        try:
            connection.execute("PRAGMA temp_store = MEMORY")
            connection.execute("BEGIN")
            overlay(connection, self._path)
            set_up_reader(connection)
            return function(connection, *args)
        except Exception as error:
            raise self._translated(error) from error
        finally:
            connection.close()

    def _read_tentatively(self, query: str, values: Sequence[Any] | dict[str, Any]) -> list[Row]:
        """In any thread: as `_read_apart`, for queries that name indexes or row ids."""
        connection = open_connection(self._path, mode="rw")
        try:
            with tentatively(connection, self._path):
                return _fetch(connection, query, values)
        except Exception as error:
            raise self._translated(error) from error
        finally:
            connection.close()

    async def _fetch(
        self, connection: Connection, query: str, values: Sequence[Any] | dict[str, Any] = ()
    ) -> list[Row]:
        rows: list[Row] = await self._call(connection, _fetch, query, values)
        return rows

    async def _call(self, connection: Connection, function: Callable[..., Any], *args: Any) -> Any:
        try:
            return await connection.call(function, *args)
        except Exception as error:
            raise self._translated(error) from error

    def _translated(self, error: Exception) -> Exception:
        """Errors of SQLite in our words; the ones for good are also told to whoever must stop."""
        if not isinstance(error, sqlite3.Error):
            return error
        problem = translate(error, self._path)
        if isinstance(problem, Broken) and self._on_fatal is not None:
            self._loop.call_soon_threadsafe(self._on_fatal, problem)
        return problem


def _fetch(
    connection: sqlite3.Connection, query: str, values: Sequence[Any] | dict[str, Any]
) -> list[Row]:
    return connection.execute(query, values).fetchall()


def read_info(connection: sqlite3.Connection, path: str, durability: str) -> StoreInfo:
    """The facts about an open database; one of an older schema lacks some tables."""
    there = {name for (name,) in connection.execute(_TABLES)}
    names = ["journal", *(table.name for table in (*TABLES, *RELATIONAL))]
    rows = {
        name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0]
        for name in names
        if name in there
    }
    (version,) = connection.execute("SELECT max(version) FROM migrations").fetchone()
    (last_seq,) = connection.execute(sql.load("journal")["last_seq"]).fetchone()
    return StoreInfo(
        url=f"sqlite:///{path}",
        schema_version=version,
        durability=durability,
        size=os.path.getsize(path),
        wal_size=_size(f"{path}-wal"),
        last_seq=last_seq,
        rows=rows,
    )


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except FileNotFoundError:
        return 0
