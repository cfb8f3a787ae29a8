"""What the machine can do at best, with nothing of ironflow: the figures that ours are divided
by.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from pathlib import Path

import aiosqlite
from harness.load import closed_loop
from harness.processes import Meter, own_rss
from harness.scenario import Figures, Setting, summary

ROW = b'{"key":"step#0","name":"step","pos":0,"kind":"run","result":{"json":1},"started_at":1}'
INSERT = "INSERT INTO journal VALUES (?, ?, ?, ?, ?, ?)"
TABLE = (
    "CREATE TABLE journal (seq INTEGER PRIMARY KEY, stream TEXT, version INTEGER, at INTEGER,"
    " kind TEXT, data BLOB)"
)


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
            await self.connection.executemany(INSERT, [row for row, _ in batch])
            await self.connection.commit()
            for _, future in batch:
                future.set_result(None)
        self.task = None


def pragmas(durability: str) -> tuple[str, str]:
    """As ironflow sets them."""
    level = "FULL" if durability == "full" else "NORMAL"
    return "PRAGMA journal_mode = WAL", f"PRAGMA synchronous = {level}"


async def group_commit(setting: Setting) -> Figures:
    """Rows per second of `at_once` coroutines that each await one row after the other."""
    async with aiosqlite.connect(setting.folder / "bare.db") as connection:
        for line in (*pragmas(setting.durability), TABLE):
            await connection.execute(line)
        await connection.commit()
        writer = BareGroupCommit(connection)
        meter = Meter()
        load = await closed_loop([writer.append] * setting.case["at_once"], setting.seconds)
        figures = summary(load.count, load.seconds, meter.seconds(), load.latencies)
        return {**figures, "rss_mib": own_rss()}


async def plain_commit(setting: Setting) -> Figures:
    """One row, one commit, one after the other, in one thread that does nothing else: the disk."""
    return _commit_rows(setting.folder / "plain.db", setting)


def _commit_rows(path: Path, setting: Setting) -> Figures:
    connection = sqlite3.connect(path, isolation_level=None)
    for line in (*pragmas(setting.durability), TABLE):
        connection.execute(line)
    latencies: list[float] = []
    meter, began = Meter(), time.perf_counter()
    while (start := time.perf_counter()) < began + setting.seconds:
        connection.execute(INSERT, (None, "run/x", len(latencies), 1, "step", ROW))
        latencies.append(time.perf_counter() - start)
    spent = time.perf_counter() - began
    connection.close()
    return summary(len(latencies), spent, meter.seconds(), latencies)
