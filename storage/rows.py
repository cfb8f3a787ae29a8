"""What crosses the ports of storage: entries, the tables of projections, their rows, and what a
reader is asked for. Moments are microseconds since the epoch.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from ironflow.core.runs.entries import RunKind


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
    elsewhere until then (`storage.sqlite.deferral`). Beside the primary key it has no unique one
    that a caller could violate, because such a row could not be refused any more; and columns are
    only ever appended.
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
