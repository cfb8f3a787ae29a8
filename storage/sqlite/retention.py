"""Retention on SQLite: chunks of streams are deleted in transactions of their own, between the
commits of others.

Everything of a stream goes in one transaction, so that a crash leaves no half of it. Which runs and
events may go is decided inside that transaction: a run that was revived meanwhile stays.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from ironflow.core.crash_points import reach
from ironflow.storage.ports import Retired
from ironflow.storage.relational.tables import deletions
from ironflow.storage.retention import EVENTS, INTAKES, Limit
from ironflow.storage.sqlite import sql

if TYPE_CHECKING:
    from ironflow.storage.sqlite.reader import SqliteReader
    from ironflow.storage.sqlite.writer import SqliteJournal

CHUNK_STREAMS = 64
CHUNK_ENTRIES = 2000
"""A chunk ends when it has this many entries, unless its first stream alone has more."""

NEVER = (-(2**63), "")
Key = tuple[int, str]


class Range(NamedTuple):
    """A limit with its key: what is at or before `until` is beyond the newest ones to keep."""

    limit: Limit
    until: Key

    @property
    def stream(self) -> str:
        """Prefix of the streams."""
        return "event/" if self.limit.kind == EVENTS else "run/"


class SqliteRetention:
    """Deletes through the journal's connection, counts through the reader's."""

    def __init__(self, journal: SqliteJournal, reader: SqliteReader) -> None:
        self._journal, self._reader = journal, reader

    async def retire(self, limits: list[Limit], dry_run: bool) -> Retired:
        """Delete what is beyond the limits, or count it."""
        ranges = [await self._reader.scan(find_range, limit) for limit in limits]
        if dry_run:
            return await self._reader.scan(count, ranges)
        total = Retired()
        for range_ in ranges:
            after: Key | None = NEVER
            while after is not None:
                job = partial(_delete_chunk, range_=range_, after=after)
                part, after = await self._journal.exclusive(job)
                reach("retention.chunk")
                total = _add(total, part)
        for limit in limits:
            if limit.kind == EVENTS and limit.cutoff is not None:
                await self._retire_intakes(limit.cutoff)
        return total

    async def _retire_intakes(self, cutoff: int) -> None:
        """Delete the streams of intakes that are idle since then, and what became of requests that
        nobody can ask for any more. They are not counted: nobody asked for them to be kept.
        """
        for prefix in INTAKES:
            after: str | None = prefix
            while after is not None:
                job = partial(_delete_intakes, prefix=prefix, after=after, cutoff=cutoff)
                after = await self._journal.exclusive(job)
        while await self._journal.exclusive(partial(_delete_outcomes, cutoff=cutoff)):
            pass

    async def forget(self, run_ids: Sequence[str]) -> int:
        """Delete runs, whatever their status; the number of entries that went."""
        return await self._journal.exclusive(partial(_forget, run_ids=run_ids))


def find_range(connection: sqlite3.Connection, limit: Limit) -> Range:
    """Look up where the newest ones to keep end."""
    if limit.keep is None:
        return Range(limit, NEVER)
    name = "newest_event_to_go" if limit.kind == EVENTS else "newest_run_to_go"
    values = {"keep": limit.keep} | ({} if limit.kind == EVENTS else {"kind": limit.kind})
    key = connection.execute(sql.load("retention")[name], values).fetchone()
    return Range(limit, key or NEVER)


def _candidates(connection: sqlite3.Connection, range_: Range, after: Key, count: int) -> list[Key]:
    limit = range_.limit
    cutoff = NEVER[0] if limit.cutoff is None else limit.cutoff
    last = max(range_.until, (cutoff, ""))
    values: dict[str, int | str] = {
        "after_at": after[0],
        "after_id": after[1],
        "last_at": last[0],
        "last_id": last[1],
        "until_at": range_.until[0],
        "until_id": range_.until[1],
        "cutoff": cutoff,
        "limit": count,
    }
    if limit.kind != EVENTS:
        values["kind"] = limit.kind
    name = "events" if limit.kind == EVENTS else "runs"
    return connection.execute(sql.load("retention")[name], values).fetchall()


def count(connection: sqlite3.Connection, ranges: list[Range]) -> Retired:
    """What would be deleted, as of one moment."""
    queries = sql.load("retention")
    references: Counter[str] = Counter()
    runs = events = entries = 0
    connection.execute("BEGIN")
    try:
        for range_ in ranges:
            after: Key | None = NEVER
            while after is not None:
                keys = _candidates(connection, range_, after, 1000)
                for _, id_ in keys:
                    stream = range_.stream + id_
                    entries += connection.execute(queries["count_entries"], (stream,)).fetchone()[0]
                    references.update(
                        h for (h,) in connection.execute(queries["references"], (stream,))
                    )
                if range_.limit.kind == EVENTS:
                    events += len(keys)
                else:
                    runs += len(keys)
                after = keys[-1] if keys else None
        sizes = []
        for digest, number in references.items():
            if connection.execute(queries["count_references"], (digest,)).fetchone()[0] == number:
                sizes += connection.execute(queries["blob_size"], (digest,)).fetchall()
    finally:
        connection.execute("ROLLBACK")
    return Retired(
        runs=runs,
        events=events,
        entries=entries,
        blobs=len(sizes),
        blob_bytes=sum(size for (size,) in sizes),
    )


def _delete_chunk(
    connection: sqlite3.Connection, range_: Range, after: Key
) -> tuple[Retired, Key | None]:
    """Delete some streams after a key; what went, and the key to go on after, None at the end."""
    keys = _candidates(connection, range_, after, CHUNK_STREAMS)
    if not keys:
        return Retired(), None
    keep_last_seq(connection)
    total = Retired()
    last = after
    for last in keys:
        total = _add(total, _delete_stream(connection, range_.stream, last[1]))
        reach("retention.deleted")
        if total.entries >= CHUNK_ENTRIES:
            break
    return total, last


def keep_last_seq(connection: sqlite3.Connection) -> None:
    """Remember the newest sequence number, whose entry may be about to go."""
    journal = sql.load("journal")
    (seq,) = connection.execute(journal["last_seq"]).fetchone()
    connection.execute(journal["keep_last_seq"], (str(seq),))


def _delete_stream(connection: sqlite3.Connection, prefix: str, id_: str) -> Retired:
    """Delete a run (`run/`) or event (`event/`) with all that belongs to it."""
    queries, stream = sql.load("retention"), prefix + id_
    blobs = blob_bytes = 0
    digests = connection.execute(queries["references"], (stream,)).fetchall()
    entries = connection.execute(queries["delete_entries"], (stream,)).rowcount
    for name in ("delete_snapshot", "delete_references", "delete_timers"):
        connection.execute(queries[name], (stream,))
    connection.execute(queries["delete_outcomes"], (id_,))
    if prefix == "event/":
        connection.execute(queries["delete_event"], (id_,))
    else:
        connection.execute(queries["delete_run"], (id_,))
        connection.execute(queries["delete_waiters"], (id_,))
        connection.execute(queries["delete_timers"], (f"flow_run/{id_}",))
        for statement, by in deletions():
            connection.execute(statement, (id_ if by == "run" else stream,))
    for (digest,) in digests:
        sizes = connection.execute(queries["blob_size"], (digest,)).fetchall()
        if connection.execute(queries["delete_blob"], {"hash": digest}).rowcount:
            blobs += 1
            blob_bytes += sizes[0][0]
    kind = "events" if prefix == "event/" else "runs"
    return msgspec.structs.replace(
        Retired(entries=entries, blobs=blobs, blob_bytes=blob_bytes), **{kind: 1}
    )


def _delete_intakes(
    connection: sqlite3.Connection, prefix: str, after: str, cutoff: int
) -> str | None:
    """Delete idle intakes after a stream; the stream to go on after, None at the end."""
    queries = sql.load("retention")
    keep_last_seq(connection)
    entries = 0
    for _ in range(CHUNK_STREAMS):
        values = {"after": after, "end": f"{prefix}\U0010ffff"}
        (stream,) = connection.execute(queries["next_intake"], values).fetchone()
        if stream is None:
            return None
        after = stream
        idle = connection.execute(queries["idle_since"], {"stream": stream}).fetchone()
        if idle is None or idle[0] >= cutoff:
            continue
        entries += connection.execute(queries["delete_entries"], (stream,)).rowcount
        connection.execute(queries["delete_snapshot"], (stream,))
        reach("retention.deleted")
        if entries >= CHUNK_ENTRIES:
            break
    return after


def _delete_outcomes(connection: sqlite3.Connection, cutoff: int) -> int:
    values = {"cutoff": cutoff, "limit": CHUNK_ENTRIES}
    return connection.execute(sql.load("retention")["stale_outcomes"], values).rowcount


def _forget(connection: sqlite3.Connection, run_ids: Sequence[str]) -> int:
    keep_last_seq(connection)
    return sum(_delete_stream(connection, "run/", id_).entries for id_ in run_ids)


def _add(total: Retired, part: Retired) -> Retired:
    return Retired(
        **{name: getattr(total, name) + getattr(part, name) for name in Retired.__struct_fields__}
    )
