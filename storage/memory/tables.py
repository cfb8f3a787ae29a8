"""The committed state of a store in memory, and retention over it."""

from __future__ import annotations

from typing import Any

from ironflow.storage import retention
from ironflow.storage.journal import Row
from ironflow.storage.ports import (
    BLOB_REFS,
    BLOBS,
    EVENTS,
    INTAKES,
    OUTCOMES,
    RUNS,
    SNAPSHOTS,
    TABLES,
    TIMERS,
    WAITERS,
    Entry,
    Retired,
    RunRow,
    Table,
)
from ironflow.storage.relational.tables import NAMES as RELATIONAL_NAMES
from ironflow.storage.relational.tables import Relations

Key = tuple[Any, ...]
_AT = 2


class Tables:
    """The committed state: entries by stream and by `seq`, and the rows of each projection by
    key."""

    def __init__(self) -> None:
        self.log: list[Entry] = []
        self.streams: dict[str, list[Entry]] = {}
        self.rows: dict[str, dict[Key, Row]] = {table.name: {} for table in TABLES}
        self.relations = Relations()

    def head(self, stream: str) -> int:
        """The newest version of a stream, 0 when it has no entries."""
        entries = self.streams.get(stream)
        return entries[-1].version if entries else 0

    def put(self, table: Table, row: Row) -> None:
        """Insert a row or change the columns that may change."""
        if table.name in RELATIONAL_NAMES:
            self.relations.put(table, row)
            return
        rows, key = self.rows[table.name], row[: table.key]
        old = rows.get(key)
        if old is not None and table.fixed:
            kept = zip(table.columns, old, row, strict=True)
            row = tuple(was if name in table.fixed else now for name, was, now in kept)
        rows[key] = tuple(row)

    def delete(self, table: Table, key: Key) -> None:
        """Delete the row of a key."""
        if table.name in RELATIONAL_NAMES:
            self.relations.delete(table, key)
        else:
            self.rows[table.name].pop(key, None)

    def forget(self, streams: set[str]) -> int:
        """Remove the entries of `streams`; how many there were."""
        count = sum(len(self.streams.pop(stream, ())) for stream in streams)
        if count:
            self.log = [entry for entry in self.log if entry.stream not in streams]
        return count


def retire(tables: Tables, limits: list[retention.Limit], dry_run: bool) -> Retired:
    """Delete what is beyond the limits, or count it."""
    rows = tables.rows
    runs = [RunRow(*row) for row in rows[RUNS.name].values()]
    open_runs = {run.id for run in runs if run.status not in retention.ENDED}
    needed = {run.event_id for run in runs if run.id in open_runs}
    gone_runs, gone_events = set[str](), set[str]()
    for limit in limits:
        if limit.kind == retention.EVENTS:
            aged = sorted((row[_AT], row[_AT], row[0]) for row in rows[EVENTS.name].values())
            gone_events.update(id_ for id_ in limit.beyond(aged) if id_ not in needed)
        else:
            ended = [run for run in runs if run.status == limit.kind]
            aged = sorted((run.created_at, _ended_at(run), run.id) for run in ended)
            parents = {run.id: run.parent_id for run in ended}
            gone_runs.update(id_ for id_ in limit.beyond(aged) if parents[id_] not in open_runs)
    retired = remove_streams(tables, gone_runs, gone_events, dry_run=dry_run)
    if not dry_run:
        for limit in limits:
            if limit.kind == retention.EVENTS and limit.cutoff is not None:
                _remove_intakes(tables, limit.cutoff)
    return retired


def _remove_intakes(tables: Tables, cutoff: int) -> None:
    rows = tables.rows
    idle = {
        stream
        for stream, entries in tables.streams.items()
        if stream.startswith(retention.INTAKES)
        and (stream,) not in rows[INTAKES.name]
        and entries[-1].at < cutoff
    }
    _remove(rows[SNAPSHOTS.name], idle)
    stale = {
        key[0]
        for key, row in rows[OUTCOMES.name].items()
        if row[4] < cutoff and key[:1] not in rows[EVENTS.name] and key[:1] not in rows[RUNS.name]
    }
    _remove(rows[OUTCOMES.name], stale)
    tables.forget(idle)


def remove_streams(
    tables: Tables, gone_runs: set[str], gone_events: set[str], *, dry_run: bool = False
) -> Retired:
    """Delete these runs and events with all that belongs to them, or count that."""
    rows = tables.rows
    streams = {f"run/{id_}" for id_ in gone_runs} | {f"event/{id_}" for id_ in gone_events}
    refs = rows[BLOB_REFS.name]
    kept = {hash_ for stream, hash_ in refs if stream not in streams}
    orphans = {hash_ for stream, hash_ in refs if stream in streams and hash_ not in kept}
    blobs = [rows[BLOBS.name][hash_,] for hash_ in orphans if (hash_,) in rows[BLOBS.name]]
    retired = Retired(
        runs=len(gone_runs),
        events=len(gone_events),
        entries=sum(len(tables.streams.get(stream, ())) for stream in streams),
        blobs=len(blobs),
        blob_bytes=sum(blob[1] for blob in blobs),
    )
    if not dry_run:
        tables.forget(streams)
        _remove(rows[RUNS.name], gone_runs)
        _remove(rows[EVENTS.name], gone_events)
        _remove(rows[WAITERS.name], gone_runs)
        _remove(rows[OUTCOMES.name], gone_runs | gone_events)
        for table in (SNAPSHOTS, BLOB_REFS):
            _remove(rows[table.name], streams)
        _remove(rows[TIMERS.name], streams | {f"flow_run/{id_}" for id_ in gone_runs})
        _remove(rows[BLOBS.name], orphans)
        tables.relations.forget(gone_runs)
    return retired


def _ended_at(run: RunRow) -> int:
    return run.updated_at if run.ended_at is None else run.ended_at


def _remove(rows: dict[Key, Row], first: set[str]) -> None:
    for key in [key for key in rows if key[0] in first]:
        del rows[key]
