"""What the rest of ironflow may ask of storage: small protocols and the rows that cross them.

A `Store` is one database with a `Journal` (the only writer) and a `Reader` (queries that see every
acknowledged write). Drivers translate their own errors into `ironflow.core.errors` here and nowhere
else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import msgspec

from ironflow.core.commands import Outcome
from ironflow.core.entries import RunKind


class Entry(NamedTuple):
    """One fact in the journal. `seq` orders all of them; `version` counts the entries of one stream
    from 1."""

    seq: int
    stream: str
    version: int
    at: int
    kind: str
    data: bytes


class NewEntry(NamedTuple):
    """An entry that has no `seq` yet."""

    stream: str
    version: int
    at: int
    kind: str
    data: bytes


class Table(NamedTuple):
    """A projection table: `columns` in order, the first `key` of them are the primary key.

    `fixed` columns never change once a row exists: a later put must repeat them, and does not
    rewrite them. A column that is rewritten, even as it was, costs a write in each index that it
    stands in: `narrowed` gives a table that says more of them are as they were.

    Rows of a `deferred` table may be written some time after their commit, which keeps them
    elsewhere until then (`storage.deferral`). Beside the primary key it has no unique one that a
    caller could violate, because such a row could not be refused any more; and columns are only
    ever appended.
    """

    name: str
    key: int
    columns: tuple[str, ...]
    fixed: tuple[str, ...] = ()
    is_narrow: bool = False
    deferred: bool = False

    def narrowed(self, *fixed: str) -> Table:
        """The same table for puts of rows that are there and whose `fixed` columns are as they
        were."""
        return self._replace(fixed=(*self.fixed, *fixed), is_narrow=True)


class Batch(msgspec.Struct):
    """What one actor commits in one piece: entries, projection rows, row keys to delete.

    Within a batch the deletes come first: a key that is both deleted and put ends up put.
    """

    entries: list[NewEntry] = []
    puts: list[tuple[Table, tuple[Any, ...]]] = []
    deletes: list[tuple[Table, tuple[Any, ...]]] = []


Done = Callable[[Exception | None], None]


RUNS = Table(
    "runs",
    1,
    (
        "id", "function_id", "status", "created_at", "started_at", "ended_at", "updated_at",
        "attempt", "version", "event_id", "event_name", "idempotency_key", "parent_id", "code",
        "reason", "crashes", "kind",
    ),
    (
        "function_id", "created_at", "event_id", "event_name", "idempotency_key", "parent_id",
        "kind",
    ),
    deferred=True,
)  # fmt: skip
TIMERS = Table("timers", 2, ("target", "name", "at", "version"), deferred=True)
WAITERS = Table("waiters", 2, ("run_id", "step", "event", "match", "since"), deferred=True)
RUN_LANES = Table("run_lanes", 1, ("run_id", "lanes", "priority", "share"), deferred=True)
STARTS = Table("starts", 3, ("lane", "at", "run_id"), deferred=True)
RUN_ACTORS = Table("run_actors", 1, ("run_id", "actor", "worker"), deferred=True)
DELIVERIES = Table("deliveries", 1, ("id", "target", "kind", "data", "at"), deferred=True)
EVENTS = Table("events", 1, ("id", "name", "at", "source", "idempotency_key"), deferred=True)
FUNCTIONS = Table(
    "functions",
    1,
    ("id", "version", "hash", "spec", "updated_at", "status", "created_at", "revision"),
)
BLOBS = Table("blobs", 1, ("hash", "size", "data"), ("size", "data"))
BLOB_REFS = Table("blob_refs", 2, ("stream", "hash"))
SNAPSHOTS = Table("snapshots", 1, ("stream", "version", "data"))
KEYS = Table("keys", 1, ("id", "created_at"))
INTAKES = Table(
    "intakes",
    1,
    (
        "address", "kind", "function_id", "key", "run_id", "event_id", "armed_at", "due_at",
        "size",
    ),
    deferred=True,
)  # fmt: skip
OUTCOMES = Table(
    "outcomes", 2, ("subject", "function_id", "fate", "run_id", "at", "due_at"), deferred=True
)
META = Table("meta", 1, ("key", "value"))
TABLES = (
    RUNS, RUN_LANES, RUN_ACTORS, STARTS, TIMERS, WAITERS, DELIVERIES, EVENTS, FUNCTIONS, BLOBS,
    BLOB_REFS, SNAPSHOTS, KEYS, INTAKES, OUTCOMES, META,
)  # fmt: skip


class LaneRow(NamedTuple):
    """Where a run needs places, and its rank among those that wait."""

    lanes: tuple[str, ...] = ()
    priority: int = 0
    share: str | None = None


class RunRow(msgspec.Struct, frozen=True):
    """A row of `runs`, the columns of `RUNS` in order. Moments are microseconds; `None` is not
    yet."""

    id: str
    function_id: str
    status: str
    created_at: int
    started_at: int | None
    ended_at: int | None
    updated_at: int
    attempt: int
    version: int
    event_id: str | None
    event_name: str | None
    idempotency_key: str | None
    parent_id: str | None
    code: str | None
    reason: str | None
    crashes: int
    kind: RunKind


class RunFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which runs: every given field must hold. `since` <= created_at < `until`."""

    function_id: str | None = None
    kind: RunKind | None = None
    statuses: tuple[str, ...] = ()
    event_id: str | None = None
    event_name: str | None = None
    parent_id: str | None = None
    idempotency_key: str | None = None
    search: str | None = None
    """Part of the id or of the function's."""
    since: int | None = None
    until: int | None = None


class EventRow(msgspec.Struct, frozen=True):
    """A row of `events` with the data of its journal entry (`event/<id>`, version 1)."""

    id: str
    name: str
    at: int
    source: str
    idempotency_key: str | None
    data: bytes


class EventFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which events; `names` are exact names. `since` <= at < `until`."""

    names: tuple[str, ...] = ()
    source: str | None = None
    since: int | None = None
    until: int | None = None


class TimerRow(NamedTuple):
    """A durable timer: tell `target` that `name`, set at `version`, is due at `at`."""

    target: str
    name: str
    at: int
    version: int


class WaiterRow(NamedTuple):
    """A run that waits for an event: `match` is a filter expression or None."""

    run_id: str
    step: str
    event: str
    match: str | None
    since: int


class Delivery(NamedTuple):
    """A durable message that its target has not yet consumed."""

    id: str
    target: str
    kind: str
    data: bytes
    at: int


class IntakeRow(NamedTuple):
    """What waits with one intake of a function, by the value of its policy's key.

    `kind`: `debounce`, `batch` or `singleton`. `run_id` is the run that it will become; of a
    singleton the one that is under way. `event_id` is the newest request. `size` are the requests
    in it; of a singleton the runs that have not ended.
    """

    address: str
    kind: str
    function_id: str
    key: str
    run_id: str
    event_id: str
    armed_at: int
    due_at: int | None
    size: int


class FunctionRow(msgspec.Struct, frozen=True):
    """A registered function: `spec` is its JSON definition, `version` counts changes of `hash`,
    `revision` is the newest entry of its stream."""

    id: str
    version: int
    hash: str
    spec: bytes
    updated_at: int
    status: str
    created_at: int
    revision: int


class Snapshot(NamedTuple):
    """The encoded state of a stream's actor as of `version`."""

    version: int
    data: bytes


class Loaded(NamedTuple):
    """What an actor wakes from: the newest snapshot, if any, and the entries after it."""

    snapshot: Snapshot | None
    entries: list[Entry]


class StoreInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Facts for `db info`, `doctor` and metrics; sizes in bytes."""

    url: str
    schema_version: int
    durability: str
    size: int
    wal_size: int
    last_seq: int
    rows: dict[str, int]


class JournalStats(msgspec.Struct):
    """Running totals of the journal since start; `waiting` is the depth of the queue now, and
    `lately_refused` counts the appends that were refused since the last commit.
    """

    commits: int = 0
    entries: int = 0
    failures: int = 0
    lately_refused: int = 0
    waiting: int = 0


class RetentionRule(msgspec.Struct, frozen=True, kw_only=True):
    """What may be deleted: ended runs or events older than `max_age` (microseconds) or beyond the
    newest `max_count`.

    `kind` is `events` or a terminal run status: `completed`, `failed`, `cancelled`.
    """

    kind: str
    max_age: int | None = None
    max_count: int | None = None


class Retired(msgspec.Struct, frozen=True, kw_only=True):
    """What retention found or deleted, in rows, and in bytes of blobs."""

    runs: int = 0
    events: int = 0
    entries: int = 0
    blobs: int = 0
    blob_bytes: int = 0


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
        """The rows of a query over the relational tables (`ironflow.storage.relational`).

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
