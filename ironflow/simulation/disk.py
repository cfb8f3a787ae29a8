"""A store on a simulated disk: commits take time, are refused, and are torn when the power goes.

A commit reaches the disk, is synced, and is answered, in three steps between which the process may
die. What was synced is there afterwards. What had only reached the disk is there whole, or in part
and then not at all: its record carries a checksum, as a frame of SQLite's log does.
"""

from __future__ import annotations

import asyncio
import random
import zlib
from collections.abc import Callable
from typing import Any, Literal, Protocol

import msgspec

from ironflow.core.errors import StorageError, StorageFull
from ironflow.storage.memory.store import MemoryJournal, MemoryReader, MemoryStore
from ironflow.storage.memory.tables import Tables
from ironflow.storage.ports import TABLES, Batch, Entry, Loaded, NewEntry, RunRow
from ironflow.storage.relational.tables import RELATIONAL

Point = Literal["queued", "written", "synced", "answered"]
SECTOR = 512
_TABLES = {table.name: table for table in (*TABLES, *RELATIONAL)}


class Monitor(Protocol):
    """Who is told what happens on the disk, and may end the process over it."""

    def appended(self, batch: Batch) -> None:
        """An actor has queued a batch."""
        ...

    def committed(self, batches: list[Batch], entries: list[Entry]) -> None:
        """A commit is durable."""
        ...

    def refused(self) -> None:
        """A commit is refused for lack of space."""
        ...

    def passed(self, point: Point) -> bool:
        """A commit has come to `point`; True when the process died of it."""
        ...


class Latency:
    """How long this disk takes, and when it refuses: seconds, from a seed."""

    def __init__(self, rng: random.Random, *, slow: bool, full: bool) -> None:
        self._rng, self.slow, self.full = rng, slow, full
        self.calm = False
        """No more trouble: the simulation comes to its end."""

    def write(self) -> float:
        """Until the bytes are on their way."""
        return self._rng.choice((0.0, 0.0, 0.0002, 0.001))

    def sync(self) -> float:
        """Until the disk says that they are safe; a slow disk stalls now and then."""
        draw = self._rng.random()
        if self.slow and not self.calm and draw < 0.02:
            return self._rng.uniform(0.5, 20.0)
        return 0.0 if draw < 0.5 else self._rng.choice((0.0005, 0.002, 0.03))

    def read(self) -> float:
        """Until a query is answered."""
        return self._rng.choice((0.0, 0.0, 0.0001, 0.002))

    def is_full(self) -> bool:
        """Whether this commit finds no space."""
        return self.full and not self.calm and self._rng.random() < 0.04


class DiskJournal(MemoryJournal):
    """Commits in steps, with the bytes of the one that is under way."""

    monitor: Monitor

    def __init__(self, tables: Tables, latency: Latency) -> None:
        super().__init__(tables)
        self.latency = latency
        self.in_flight: bytes | None = None
        """What has reached the disk and is not synced."""
        self._dead: StorageError | None = None

    def append(self, batch: Batch, done: Callable[[Exception | None], None]) -> None:
        """See `ports.Journal`."""
        if self._dead is None:
            self.monitor.appended(batch)
        super().append(batch, done)

    def die(self, error: StorageError) -> None:
        """The process is gone: nothing is written or acknowledged any more."""
        self._dead = error
        self.refuse(error)

    def _write(self, batches: list[Batch]) -> None:
        if self._dead is None:
            self.monitor.passed("queued")
        if self._dead is not None:
            self._later(0.0, self._refused, self._dead)
        elif self.latency.is_full():
            self._later(self.latency.write(), self._fill_up)
        else:
            self._later(self.latency.write(), self._reach, batches)

    def _fill_up(self) -> None:
        if self._dead is None:
            self.monitor.refused()
        self._refused(self._dead or StorageFull("the disk is full"))

    def _reach(self, batches: list[Batch]) -> None:
        if self._dead is None:
            self.in_flight = encode(batches)
            self.monitor.passed("written")
        if self._dead is not None:
            self._refused(self._dead)
        else:
            self._later(self.latency.sync(), self._sync, batches)

    def _sync(self, batches: list[Batch]) -> None:
        if self._dead is not None:
            self._refused(self._dead)
            return
        self.in_flight = None
        outcome = self.keep(batches)
        self.monitor.committed(batches, [Entry._make(row) for row in outcome.rows])
        if self.monitor.passed("synced"):
            self._refused(StorageError("the process was killed"))
            return
        self._written(outcome)
        self.monitor.passed("answered")

    def _later(self, seconds: float, function: Callable[..., None], *args: Any) -> None:
        loop = asyncio.get_running_loop()
        if seconds > 0:
            loop.call_later(seconds, function, *args)
        else:
            loop.call_soon(function, *args)


class DiskReader(MemoryReader):
    """Queries that take a moment, before or after they look."""

    latency: Latency

    async def _pause(self) -> None:
        seconds = self.latency.read()
        if seconds:
            await asyncio.sleep(seconds)

    async def load(self, stream: str) -> Loaded:
        """See `ports.Reader`."""
        await self._pause()
        return await super().load(stream)

    async def run(self, run_id: str) -> RunRow | None:
        """See `ports.Reader`."""
        found = await super().run(run_id)
        await self._pause()
        return found

    async def blob(self, digest: str) -> bytes | None:
        """See `ports.Reader`."""
        await self._pause()
        return await super().blob(digest)


class DiskStore(MemoryStore):
    """See `ports.Store`. One process' view of the disk; `after_crash` is the next one's."""

    journal: DiskJournal

    def __init__(
        self,
        latency: Latency,
        rng: random.Random,
        monitor: Monitor,
        *,
        keeps_unsynced: bool = True,
        tables: Tables | None = None,
    ) -> None:
        self.latency, self.rng, self.monitor = latency, rng, monitor
        self.keeps_unsynced = keeps_unsynced
        self.tables = tables or Tables()
        self.journal = DiskJournal(self.tables, latency)
        self.journal.monitor = monitor
        if self.tables.log:
            self.journal._last_seq = self.tables.log[-1].seq
        self.reader = DiskReader(self.tables, self.journal)
        self.reader.latency = latency

    def after_crash(self) -> DiskStore:
        """What the next process finds: all that was synced, and of the rest what the disk kept."""
        torn = self.journal.in_flight
        self.journal.die(StorageError("the process was killed"))
        heir = DiskStore(
            self.latency,
            self.rng,
            self.monitor,
            keeps_unsynced=self.keeps_unsynced,
            tables=self.tables,
        )
        if torn is not None and self.keeps_unsynced:
            batches = decode(tear(torn, self.rng))
            if batches is not None:
                kept = heir.journal.keep(batches)
                if kept.rows:
                    heir.journal._last_seq = kept.rows[-1][0]
                self.monitor.committed(batches, [Entry._make(row) for row in kept.rows])
        return heir


def encode(batches: list[Batch]) -> bytes:
    """A commit as its record on the disk: length, checksum, content."""
    content = msgspec.msgpack.encode(
        [
            (
                [tuple(entry) for entry in batch.entries],
                [(table.name, tuple(row)) for table, row in batch.puts],
                [(table.name, tuple(key)) for table, key in batch.deletes],
            )
            for batch in batches
        ]
    )
    return len(content).to_bytes(8, "big") + _checksum(content).to_bytes(4, "big") + content


def decode(record: bytes) -> list[Batch] | None:
    """The commit of a record, None when it did not reach the disk whole."""
    length, check = int.from_bytes(record[:8], "big"), int.from_bytes(record[8:12], "big")
    content = record[12 : 12 + length]
    if len(record) < 12 or len(content) != length or _checksum(content) != check:
        return None
    return [
        Batch(
            [NewEntry(*entry) for entry in entries],
            [(_TABLES[name], tuple(row)) for name, row in puts],
            [(_TABLES[name], tuple(key)) for name, key in deletes],
        )
        for entries, puts, deletes in msgspec.msgpack.decode(content)
    ]


def _checksum(content: bytes) -> int:
    # Salted: a header of zeros must not be that of an empty content.
    return zlib.crc32(content, 0x49464C57)


def tear(record: bytes, rng: random.Random) -> bytes:
    """What the disk kept of a record that was not synced: all, none, a beginning, or a lacework."""
    match rng.choice(("whole", "nothing", "beginning", "sectors")):
        case "whole":
            return record
        case "nothing":
            return b""
        case "beginning":
            return record[: rng.randrange(len(record) + 1)]
        case _:
            parts = [record[i : i + SECTOR] for i in range(0, len(record), SECTOR)]
            return b"".join(part if rng.random() < 0.7 else bytes(len(part)) for part in parts)
