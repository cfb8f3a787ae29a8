"""What the machine can do at best, with nothing of ironflow: the figures that ours are divided
by.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from pathlib import Path

import aiosqlite

ROW = b'{"key":"step#0","name":"step","pos":0,"kind":"run","result":{"json":1},"started_at":1}'


class BareGroupCommit:
    """The least that a group-committing writer can be: a list, one aiosqlite connection, one future
    a row.
    """

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self.connection = connection
        self.waiting: list[tuple[tuple[object, ...], asyncio.Future[None]]] = []
        self.task: asyncio.Task[None] | None = None
        self.seq = 0

    async def append(self) -> None:
        """Return when one row is durable."""
        self.seq += 1
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.append(((self.seq, "run/x", self.seq, self.seq, "step", ROW), future))
        if self.task is None:
            self.task = asyncio.get_running_loop().create_task(self._drain())
        await future

    async def _drain(self) -> None:
        while self.waiting:
            batch, self.waiting = self.waiting, []
            await self.connection.executemany(
                "INSERT INTO journal VALUES (?, ?, ?, ?, ?, ?)", [row for row, _ in batch]
            )
            await self.connection.commit()
            for _, future in batch:
                future.set_result(None)
        self.task = None


async def group_commit(
    folder: Path, callers: int, seconds: float, durability: str
) -> dict[str, float]:
    """Rows per second of `callers` coroutines that each await one row after the other."""
    level = "FULL" if durability == "full" else "NORMAL"
    async with aiosqlite.connect(folder / "bare.db") as connection:
        await connection.execute("PRAGMA journal_mode = WAL")
        await connection.execute(f"PRAGMA synchronous = {level}")
        await connection.execute(
            "CREATE TABLE journal (seq INTEGER PRIMARY KEY, stream TEXT, version INTEGER,"
            " at INTEGER, kind TEXT, data BLOB)"
        )
        await connection.commit()
        writer = BareGroupCommit(connection)
        end = time.perf_counter() + seconds
        latencies: list[float] = []

        async def caller() -> None:
            while (began := time.perf_counter()) < end:
                await writer.append()
                latencies.append(time.perf_counter() - began)

        began, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(caller() for _ in range(callers)))
        spent = time.perf_counter() - began
        return summary(len(latencies), spent, time.process_time() - cpu, latencies)


def summary(count: int, seconds: float, cpu: float, latencies: list[float]) -> dict[str, float]:
    """A scenario's figures: per second, CPU microseconds each, and latency percentiles in
    milliseconds.
    """
    ordered = sorted(latencies)
    return {
        "count": count,
        "per_second": count / seconds,
        "cpu_us": cpu / max(count, 1) * 1e6,
        "p50_ms": ordered[len(ordered) // 2] * 1e3,
        "p99_ms": ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))] * 1e3,
    }


def sqlite_version() -> str:
    """Of the library that both sides use."""
    return sqlite3.sqlite_version
