"""The actor that keeps what runs log: in batches, durable, told to those who follow.

A run's lines go when the run goes; lines of no run, or of one that is not known here, when they are
too old.
"""

from __future__ import annotations

import asyncio
import logging
from itertools import takewhile
from typing import Any

from ironflow.actors.environment import Environment
from ironflow.actors.kernel.actor import LATER, Actor, Envelope
from ironflow.actors.prefect.live import Live
from ironflow.core.clock import SECOND
from ironflow.core.errors import StorageError
from ironflow.core.messages import Message
from ironflow.core.prefect.logs import LogLine
from ironflow.storage.ports import META, Batch
from ironflow.storage.relational.prefect_events import (
    LAST_LOG,
    LOGS,
    SWEEP_LOGS,
    SWEPT_LOGS,
    put_log,
)

log = logging.getLogger("ironflow.prefect.logs")

CLEAN_UP_EVERY = 3600.0
"""Seconds between two rounds of deleting what is too old."""
SWEPT_AT_ONCE = 2000


class StoreLogs(Message[None], frozen=True):
    """Keep these lines; answers once they are durable."""

    lines: tuple[LogLine, ...]


class DeleteOldLogs(Message[int], frozen=True):
    """Delete some of the lines of no run that are too old; answers how many went."""


class LogKeeper(Actor):
    """There is one. `keep` is how long lines of no known run are kept, in seconds; 0 keeps them."""

    def __init__(self, environment: Environment, live: Live[LogLine], keep: float) -> None:
        self.environment, self.live, self.keep = environment, live, keep
        self.seq = self.swept = 0
        self.alarm: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Go on counting where the last life ended."""
        store = self.environment.store
        await store.journal.flush()  # a life before this one may have left something on its way
        rows = await store.reader.select(LAST_LOG, (), quick=True)
        self.swept = int(await store.reader.meta(SWEPT_LOGS) or 0)
        # Behind what was looked at, too: the newest lines may be deleted.
        self.seq = max(self.live.last, rows[0][0], self.swept)
        self.live.begin(self.seq)
        if self.keep:
            self._later(0.0)

    def receive(self, message: Message[Any], envelope: Envelope) -> object:
        """Understands `StoreLogs` and `DeleteOldLogs`."""
        match message:
            case StoreLogs():
                return self._store(message.lines, envelope)
            case DeleteOldLogs():
                return self._delete_old()
            case _:
                return super().receive(message, envelope)

    def _store(self, lines: tuple[LogLine, ...], envelope: Envelope) -> object:
        batch, told = Batch([], [], []), list[tuple[int, LogLine, int]]()
        for line in lines:
            self.seq += 1
            put_log(batch, line, self.seq)
            told.append((self.seq, line, len(line.message)))

        def committed(error: Exception | None) -> None:
            if error is not None:
                self.cell.refuse(envelope, error)
                return
            if told:
                self.live.publish(told)
            self.cell.answer(envelope, None)

        self.environment.store.journal.append(batch, committed)
        return LATER

    async def _delete_old(self) -> int:
        """Look at each line once, when it is old enough: one whose run is here goes with its run. A
        piece at a time, so that lines that come in meanwhile need not wait.
        """
        store, batch = self.environment.store, Batch([], [], [])
        cutoff = self.environment.clock.now() - int(self.keep * SECOND)
        old: list[tuple[Any, ...]] = []
        try:
            rows = await store.reader.select(SWEEP_LOGS, (self.swept, SWEPT_AT_ONCE))
            old = list(takewhile(lambda row: row[1] < cutoff, rows))
            if old:
                batch.deletes.extend((LOGS, (seq,)) for seq, _, is_loose in old if is_loose)
                batch.puts.append((META, (SWEPT_LOGS, str(old[-1][0]))))
                await store.journal.commit(batch)
                self.swept = old[-1][0]
        except StorageError as error:
            log.warning("old log lines could not be deleted now: %s", error)
            old = []
        self._later(0.0 if len(old) == SWEPT_AT_ONCE else CLEAN_UP_EVERY)
        return len(batch.deletes)

    def _later(self, seconds: float) -> None:
        self.stop()
        self.alarm = self.system.later(seconds, self.system.at(self.address), DeleteOldLogs())

    def stop(self) -> None:
        """Nothing rings any more."""
        if self.alarm is not None:
            self.alarm.cancel()
