"""What the rest of ironflow may ask of storage: small protocols, and the rows that cross them.

A `Store` is one database with a `Journal` (the only writer) and a `Reader` (queries that see every
acknowledged write). Drivers translate their own errors into `ironflow.core.errors` here and nowhere
else. The rows have a module of their own (`ironflow.storage.rows`); everybody gets them from here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import msgspec

from ironflow.core.runs.commands import Outcome
from ironflow.storage.rows import (
    BLOB_REFS,
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
    TABLES,
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
    NewEntry,
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

__all__ = [
    "BLOBS",
    "BLOB_REFS",
    "DELIVERIES",
    "EVENTS",
    "FUNCTIONS",
    "INTAKES",
    "KEYS",
    "META",
    "OUTCOMES",
    "RUNS",
    "RUN_ACTORS",
    "RUN_LANES",
    "SNAPSHOTS",
    "STARTS",
    "TABLES",
    "TIMERS",
    "WAITERS",
    "Batch",
    "Delivery",
    "Done",
    "Entry",
    "EventFilter",
    "EventRow",
    "FunctionRow",
    "IntakeRow",
    "Journal",
    "JournalStats",
    "LaneRow",
    "Loaded",
    "NewEntry",
    "Reader",
    "RetentionRule",
    "Retired",
    "RunFilter",
    "RunRow",
    "Snapshot",
    "Store",
    "StoreInfo",
    "Table",
    "TimerRow",
    "WaiterRow",
]

Done = Callable[[Exception | None], None]


class JournalStats(msgspec.Struct):
    """Running totals of the journal since start; `waiting` is the depth of the queue now, and
    `lately_refused` counts the appends that were refused since the last commit.
    """

    commits: int = 0
    entries: int = 0
    failures: int = 0
    lately_refused: int = 0
    waiting: int = 0


class Journal(Protocol):
    """The only writer. Appends of one caller are committed in the order in which they were made."""

    stats: JournalStats

    @property
    def last_seq(self) -> int:
        """The newest committed sequence number, 0 when empty."""
        ...

    def append(self, batch: Batch, done: Done) -> None:
        """Queue a batch for the next commit; never blocks, must be called on the event loop.

        `done(None)` is called on the loop once the batch is durable, `done(error)` when nothing of
        it was written: `StreamConflict` (the fence), `StorageFull`, or another `StorageError`. A
        batch that fails takes with it every batch queued after it that touches one of its streams,
        so that versions stay gapless. Callbacks run in the order of the appends, and before any
        subscriber hears of the entries.
        """
        ...

    async def commit(self, batch: Batch) -> None:
        """`append`, awaited. Raises what `done` would be told."""
        ...

    async def flush(self) -> None:
        """Return when everything appended so far is committed or refused."""
        ...

    def subscribe(self, listener: Callable[[Sequence[Entry]], None]) -> Callable[[], None]:
        """Call `listener` with the entries of each commit, in order, after their callbacks. Returns
        an unsubscriber."""
        ...

    def on_commit(self, observer: Callable[[int, float], None]) -> None:
        """Tell `observer` the number of entries and the seconds of each commit (for metrics)."""
        ...


class Reader(Protocol):
    """Queries. Each sees all that was acknowledged before it was asked."""

    async def load(self, stream: str) -> Loaded:
        """What an actor wakes from. Loads asked for in the same turn of the loop share one
        query."""
        ...

    async def entries(self, stream: str, after: int = 0, limit: int = 1000) -> list[Entry]:
        """Entries of a stream with version > `after`, oldest first."""
        ...

    async def entry(self, stream: str, version: int) -> Entry | None:
        """One entry."""
        ...

    async def tail(self, after: int, limit: int = 1000) -> list[Entry]:
        """Entries of all streams with seq > `after`, oldest first."""
        ...

    async def run(self, run_id: str) -> RunRow | None:
        """One run's row."""
        ...

    async def runs(
        self, where: RunFilter, limit: int = 50, before: tuple[int, str] | None = None
    ) -> list[RunRow]:
        """Runs, newest first by (created_at, id), strictly before that key when given."""
        ...

    async def unfinished(
        self,
        status: Literal["queued", "running"],
        limit: int = 1000,
        after: tuple[int, str] | None = None,
    ) -> list[RunRow]:
        """Runs of this status that this process executes (not those of a client's own process, kind
        `flow`), oldest first by (created_at, id), strictly after that key."""
        ...

    async def count_matching(self, where: RunFilter) -> int:
        """Number of the runs that `runs` would give, without a limit."""
        ...

    async def count_runs(self) -> dict[tuple[str, str], int]:
        """Number of runs by (function_id, status)."""
        ...

    async def event(self, event_id: str) -> EventRow | None:
        """One event."""
        ...

    async def events(
        self, where: EventFilter, limit: int = 50, before: tuple[int, str] | None = None
    ) -> list[EventRow]:
        """Events, newest first by (at, id), strictly before that key when given."""
        ...

    async def timers(
        self, until: int, limit: int, after: tuple[int, str, str] | None = None
    ) -> list[TimerRow]:
        """Timers with at <= `until`, by (at, target, name), strictly after that key."""
        ...

    async def waiters(self) -> list[WaiterRow]:
        """Every run that waits for an event."""
        ...

    async def keys(self) -> list[str]:
        """The ids of every key of the API."""
        ...

    async def actors(self) -> dict[str, tuple[str, str | None]]:
        """The actor of every run that has one and has not ended, and its last worker."""
        ...

    async def lanes(self) -> dict[str, LaneRow]:
        """The lanes and the rank of every run that has some and has not ended."""
        ...

    async def starts(self) -> list[tuple[str, int, str]]:
        """What counts for throttles and rate limits: lane, moment, run id."""
        ...

    async def intakes(
        self,
        kind: str,
        limit: int = 1000,
        after: tuple[str, str] | None = None,
        function_id: str | None = None,
    ) -> list[IntakeRow]:
        """What waits with intakes of a kind, by (function_id, key), strictly after that key."""
        ...

    async def intakes_of(self, run_ids: Sequence[str]) -> list[IntakeRow]:
        """What waits to become one of these runs; of singletons, those that they hold."""
        ...

    async def outcomes(self, subjects: Sequence[str]) -> list[Outcome]:
        """What became of these events (or other requests for runs) at intakes, by function."""
        ...

    async def deliveries(self) -> list[Delivery]:
        """Every durable message not yet consumed, oldest first by (at, id)."""
        ...

    async def functions(self) -> list[FunctionRow]:
        """Every registered function, by id."""
        ...

    async def blob(self, digest: str) -> bytes | None:
        """A large value by its SHA-256 hex digest."""
        ...

    async def meta(self, key: str) -> str | None:
        """A fact about the database."""
        ...

    async def select(
        self, query: str, values: Sequence[Any] | dict[str, Any] = (), *, quick: bool = False
    ) -> list[tuple[Any, ...]]:
        """The rows of a query over the relational tables (`ironflow.storage.relational.tables`).

        `quick`: it looks up a few rows by key, and need not queue behind long lists.
        """
        ...

    async def info(self) -> StoreInfo:
        """Facts about the database."""
        ...


class Store(Protocol):
    """One open database."""

    @property
    def journal(self) -> Journal:
        """The only writer."""
        ...

    @property
    def reader(self) -> Reader:
        """Queries."""
        ...

    async def retire(self, rules: Sequence[RetentionRule], now: int, dry_run: bool) -> Retired:
        """Apply retention: delete (or, dry, count) ended runs and events with their entries,
        snapshots and blobs that nothing refers to any more. Unfinished runs, and runs whose parent
        is unfinished, stay."""
        ...

    async def forget(self, run_ids: Sequence[str]) -> int:
        """Delete these runs with all that belongs to them, whatever their status; the number of
        entries that went. Their actors must have nothing on its way to the journal."""
        ...

    async def close(self) -> None:
        """Commit what waits and close; later appends are refused."""
        ...
