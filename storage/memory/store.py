"""The in-memory store: the semantics of the SQLite one without its files and threads.

For tests, simulation and runs that need no durability. A commit takes place on the next turn of the
loop, or after an injected delay; an injected fault can refuse it. Everything is gone when the
object is.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import islice
from operator import attrgetter, itemgetter
from typing import Any, Literal

import msgspec

from ironflow.core.errors import StorageError, StreamConflict
from ironflow.core.runs.commands import Outcome
from ironflow.storage import retention
from ironflow.storage.journal import GROUP_LIMIT, Fence, GroupJournal, Row, Written
from ironflow.storage.memory.tables import Key, Tables, remove_streams, retire
from ironflow.storage.ports import (
    BLOBS,
    DELIVERIES,
    EVENTS,
    FUNCTIONS,
    INTAKES,
    KEYS,
    META,
    OUTCOMES,
    RUN_ACTORS,
    RUN_LANES,
    RUNS,
    SNAPSHOTS,
    STARTS,
    TIMERS,
    WAITERS,
    Batch,
    Delivery,
    Entry,
    EventFilter,
    EventRow,
    FunctionRow,
    IntakeRow,
    LaneRow,
    Loaded,
    RetentionRule,
    Retired,
    RunFilter,
    RunRow,
    Snapshot,
    StoreInfo,
    Table,
    TimerRow,
    WaiterRow,
)

Fault = Callable[[list[Batch]], Exception | None]

_created = attrgetter("created_at", "id")
_TARGET, _NAME, _AT = 0, 1, 2
_seq = itemgetter(0)


class MemoryJournal(GroupJournal):
    """Applies batches to `Tables`, in the turn of the loop after the one that asked."""

    def __init__(
        self,
        tables: Tables,
        *,
        group_limit: int = GROUP_LIMIT,
        delay: Callable[[], float] | None = None,
        fault: Fault | None = None,
    ) -> None:
        super().__init__(group_limit=group_limit)
        self.tables, self.delay, self.fault = tables, delay, fault

    def _write(self, batches: list[Batch]) -> None:
        loop = asyncio.get_running_loop()
        if self.delay is None:
            loop.call_soon(self._apply, batches)
        else:
            loop.call_later(self.delay(), self._apply, batches)

    def _perform(self, job: Callable[..., Any]) -> None:
        asyncio.get_running_loop().call_soon(self._do, job)

    def _do(self, job: Callable[[Tables], Any]) -> None:
        try:
            result = job(self.tables)
        except Exception as error:  # noqa: BLE001 - handed to whoever awaits the job
            self._performed(None, error)
        else:
            self._performed(result, None)

    def _apply(self, batches: list[Batch]) -> None:
        error = self.fault(batches) if self.fault is not None else None
        if isinstance(error, StorageError):
            self._refused(error)
            return
        if error is not None:
            self._refused(StorageError(f"{type(error).__name__}: {error}"))
            return
        self._written(self.keep(batches))

    def keep(self, batches: list[Batch]) -> Written:
        """Change the tables by these batches, but for those that a lost stream forbids."""
        fence, rows, errors = Fence(), list[Row](), dict[int, Exception]()
        for index, batch in enumerate(batches):
            refused = fence.check(batch)
            if refused is None and (refused := self._conflict(batch)) is not None:
                fence.add(batch, refused)
            if refused is not None:
                errors[index] = refused
            else:
                self._keep(batch, rows)
        return Written(rows, errors)

    def _conflict(self, batch: Batch) -> StreamConflict | None:
        heads: dict[str, int] = {}
        for entry in batch.entries:
            head = heads.get(entry.stream)
            if head is None:
                head = self.tables.head(entry.stream)
            if entry.version != head + 1:
                return StreamConflict(entry.stream, entry.version)
            heads[entry.stream] = entry.version
        return None

    def _keep(self, batch: Batch, rows: list[Row]) -> None:
        tables = self.tables
        seq = self._last_seq + len(rows)
        for new in batch.entries:
            seq += 1
            entry = Entry(seq, *new)
            rows.append(entry)
            tables.log.append(entry)
            tables.streams.setdefault(new.stream, []).append(entry)
        for table, key in batch.deletes:
            tables.delete(table, tuple(key))
        for table, row in batch.puts:
            tables.put(table, row)


class MemoryReader:
    """See `ports.Reader`."""

    def __init__(self, tables: Tables, journal: MemoryJournal) -> None:
        self._tables, self._journal = tables, journal

    def _rows(self, table: Table) -> dict[Key, Row]:
        return self._tables.rows[table.name]

    async def load(self, stream: str) -> Loaded:
        """See `ports.Reader`."""
        row = self._rows(SNAPSHOTS).get((stream,))
        snapshot = Snapshot(row[1], row[2]) if row is not None else None
        after = snapshot.version if snapshot is not None else 0
        return Loaded(snapshot, await self.entries(stream, after, limit=-1))

    async def entries(self, stream: str, after: int = 0, limit: int = 1000) -> list[Entry]:
        """See `ports.Reader`."""
        found = self._tables.streams.get(stream, [])
        start = bisect_right(found, after, key=attrgetter("version"))
        return found[start:] if limit < 0 else found[start : start + limit]

    async def entry(self, stream: str, version: int) -> Entry | None:
        """See `ports.Reader`."""
        found = await self.entries(stream, version - 1, 1)
        return found[0] if found and found[0].version == version else None

    async def tail(self, after: int, limit: int = 1000) -> list[Entry]:
        """See `ports.Reader`."""
        start = bisect_right(self._tables.log, after, key=_seq)
        return self._tables.log[start : start + limit]

    async def run(self, run_id: str) -> RunRow | None:
        """See `ports.Reader`."""
        row = self._rows(RUNS).get((run_id,))
        return RunRow(*row) if row is not None else None

    async def runs(
        self, where: RunFilter, limit: int = 50, before: tuple[int, str] | None = None
    ) -> list[RunRow]:
        """See `ports.Reader`."""
        found = [r for r in self._matching(where) if before is None or _created(r) < before]
        return sorted(found, key=_created, reverse=True)[:limit]

    async def count_matching(self, where: RunFilter) -> int:
        """See `ports.Reader`."""
        return len(self._matching(where))

    def _matching(self, where: RunFilter) -> list[RunRow]:
        exact = {
            name: getattr(where, name)
            for name in ("function_id", "event_id", "event_name", "parent_id", "idempotency_key")
            if getattr(where, name) is not None
        }
        search = where.search or ""
        return [
            run
            for run in map(_run, self._rows(RUNS).values())
            if all(getattr(run, name) == value for name, value in exact.items())
            and where.kind in (None, run.kind)
            and (not where.statuses or run.status in where.statuses)
            and (search in run.id or search in run.function_id)
            and _within(run.created_at, where.since, where.until)
        ]

    async def unfinished(
        self,
        status: Literal["queued", "running"],
        limit: int = 1000,
        after: tuple[int, str] | None = None,
    ) -> list[RunRow]:
        """See `ports.Reader`."""
        found = [
            run
            for run in map(_run, self._rows(RUNS).values())
            if run.status == status
            and run.kind != "flow"
            and (after is None or _created(run) > after)
        ]
        return sorted(found, key=_created)[:limit]

    async def count_runs(self) -> dict[tuple[str, str], int]:
        """See `ports.Reader`."""
        counts: dict[tuple[str, str], int] = {}
        for run in map(_run, self._rows(RUNS).values()):
            key = run.function_id, run.status
            counts[key] = counts.get(key, 0) + 1
        return counts

    async def event(self, event_id: str) -> EventRow | None:
        """See `ports.Reader`."""
        row = self._rows(EVENTS).get((event_id,))
        return self._event(row) if row is not None else None

    async def events(
        self, where: EventFilter, limit: int = 50, before: tuple[int, str] | None = None
    ) -> list[EventRow]:
        """See `ports.Reader`."""
        found = [
            row
            for row in self._rows(EVENTS).values()
            if (not where.names or row[1] in where.names)
            and (where.source is None or row[3] == where.source)
            and _within(row[_AT], where.since, where.until)
            and (before is None or (row[_AT], row[0]) < before)
        ]
        found.sort(key=itemgetter(_AT, 0), reverse=True)
        events = (event for row in found if (event := self._event(row)) is not None)
        return list(islice(events, limit))

    def _event(self, row: Row) -> EventRow | None:
        entries = self._tables.streams.get(f"event/{row[0]}")
        return EventRow(*(*row, entries[0].data)) if entries else None

    async def timers(
        self, until: int, limit: int, after: tuple[int, str, str] | None = None
    ) -> list[TimerRow]:
        """See `ports.Reader`."""
        order = itemgetter(_AT, _TARGET, _NAME)
        due = sorted((row for row in self._rows(TIMERS).values() if row[_AT] <= until), key=order)
        start = bisect_right(due, after, key=order) if after is not None else 0
        return [TimerRow(*row) for row in due[start : start + limit]]

    async def waiters(self) -> list[WaiterRow]:
        """See `ports.Reader`."""
        return [WaiterRow(*row) for _, row in sorted(self._rows(WAITERS).items())]

    async def keys(self) -> list[str]:
        """See `ports.Reader`."""
        return [key_id for key_id, _ in self._rows(KEYS).values()]

    async def actors(self) -> dict[str, tuple[str, str | None]]:
        """See `ports.Reader`."""
        return {
            run_id: (actor, worker) for run_id, actor, worker in self._rows(RUN_ACTORS).values()
        }

    async def lanes(self) -> dict[str, LaneRow]:
        """See `ports.Reader`."""
        rows = self._rows(RUN_LANES).values()
        return {
            run_id: LaneRow(tuple(msgspec.json.decode(lanes)), *rank)
            for run_id, lanes, *rank in rows
        }

    async def starts(self) -> list[tuple[str, int, str]]:
        """See `ports.Reader`."""
        return [(lane, at, run_id) for lane, at, run_id in self._rows(STARTS).values()]

    async def intakes(
        self,
        kind: str,
        limit: int = 1000,
        after: tuple[str, str] | None = None,
        function_id: str | None = None,
    ) -> list[IntakeRow]:
        """See `ports.Reader`."""
        rows = sorted(
            (row for row in map(IntakeRow._make, self._rows(INTAKES).values()) if row.kind == kind),
            key=attrgetter("function_id", "key"),
        )
        return [
            row
            for row in rows
            if (after is None or (row.function_id, row.key) > after)
            and function_id in (None, row.function_id)
        ][:limit]

    async def intakes_of(self, run_ids: Sequence[str]) -> list[IntakeRow]:
        """See `ports.Reader`."""
        wanted = set(run_ids)
        rows = (IntakeRow(*row) for _, row in sorted(self._rows(INTAKES).items()))
        return [row for row in rows if row.run_id in wanted]

    async def outcomes(self, subjects: Sequence[str]) -> list[Outcome]:
        """See `ports.Reader`."""
        wanted = set(subjects)
        rows = self._rows(OUTCOMES)
        return [Outcome(*rows[key]) for key in sorted(rows) if key[0] in wanted]

    async def deliveries(self) -> list[Delivery]:
        """See `ports.Reader`."""
        return sorted(
            (Delivery(*row) for row in self._rows(DELIVERIES).values()), key=attrgetter("at", "id")
        )

    async def functions(self) -> list[FunctionRow]:
        """See `ports.Reader`."""
        return [FunctionRow(*row) for _, row in sorted(self._rows(FUNCTIONS).items())]

    async def blob(self, digest: str) -> bytes | None:
        """See `ports.Reader`."""
        row = self._rows(BLOBS).get((digest,))
        return row[2] if row is not None else None

    async def meta(self, key: str) -> str | None:
        """See `ports.Reader`."""
        row = self._rows(META).get((key,))
        return row[1] if row is not None else None

    async def select(
        self, query: str, values: Sequence[Any] | dict[str, Any] = (), *, quick: bool = False
    ) -> list[Row]:
        """See `ports.Reader`."""
        return self._tables.relations.select(query, values)

    async def info(self) -> StoreInfo:
        """See `ports.Reader`; sizes are those of the data."""
        tables = self._tables
        size = sum(len(entry.data) for entry in tables.log)
        size += sum(row[1] for row in self._rows(BLOBS).values())
        return StoreInfo(
            url="memory:",
            schema_version=0,
            durability="none",
            size=size,
            wal_size=0,
            last_seq=self._journal.last_seq,
            rows={"journal": len(tables.log)}
            | {name: len(r) for name, r in tables.rows.items()}
            | tables.relations.counts(),
        )


class MemoryStore:
    """See `ports.Store`. `fault` may refuse a commit, `delay` (seconds) put it off; both serve
    simulation."""

    def __init__(
        self,
        *,
        group_limit: int = GROUP_LIMIT,
        delay: Callable[[], float] | None = None,
        fault: Fault | None = None,
    ) -> None:
        self.tables = Tables()
        self.journal = MemoryJournal(self.tables, group_limit=group_limit, delay=delay, fault=fault)
        self.reader = MemoryReader(self.tables, self.journal)

    async def retire(self, rules: Sequence[RetentionRule], now: int, dry_run: bool) -> Retired:
        """See `ports.Store`."""
        limits = retention.limits(rules, now)
        return await self.journal.exclusive(lambda tables: retire(tables, limits, dry_run))

    async def forget(self, run_ids: Sequence[str]) -> int:
        """See `ports.Store`."""
        return await self.journal.exclusive(
            lambda tables: remove_streams(tables, set(run_ids), set()).entries
        )

    def after_crash(self) -> MemoryStore:
        """What a process finds that starts after this one was killed: all that was committed.

        This store refuses everything from now on, also what is on its way.
        """
        heir = MemoryStore()
        heir.tables = heir.journal.tables = self.tables
        heir.reader = MemoryReader(self.tables, heir.journal)
        heir.journal._last_seq = self.journal.last_seq
        killed = StorageError("the process was killed")
        self.journal.fault = lambda _: killed
        self.journal.refuse(killed)
        return heir

    async def close(self) -> None:
        """See `ports.Store`."""
        self.journal.refuse(StorageError("the store is closed"))
        await self.journal.flush()


def _run(row: Row) -> RunRow:
    return RunRow(*row)


def _within(at: int, since: int | None, until: int | None) -> bool:
    return (since is None or at >= since) and (until is None or at < until)
