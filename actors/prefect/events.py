"""The actor that keeps events: it takes them in batches, drops those that it knows, commits them
and tells those who follow. Old ones it deletes.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from ironflow.actors.environment import Environment
from ironflow.actors.kernel import LATER, Actor, Envelope
from ironflow.actors.prefect.live import Live
from ironflow.core.clock import SECOND
from ironflow.core.errors import StorageError
from ironflow.core.messages import Message
from ironflow.core.prefect.events import Event
from ironflow.storage.ports import Batch
from ironflow.storage.prefect_events import (
    LAST_EVENTS,
    OLDEST_EVENTS,
    delete_events,
    put_event,
)

log = logging.getLogger("ironflow.prefect.events")

REMEMBERED = 20_000
"""Ids of the newest events that are held in memory: one that comes again is not told twice. Of
older ones the database takes only the first.
"""
CLEAN_UP_EVERY = 3600.0
"""Seconds between two rounds of deleting what is too old."""
DELETED_AT_ONCE = 200


class StoreEvents(Message[int], frozen=True):
    """Keep these events; answers, once they are durable, how many of them are new."""

    events: tuple[Event, ...]


class DeleteOld(Message[int], frozen=True):
    """Delete some of the events that are too old; answers how many went."""


class EventKeeper(Actor):
    """There is one. `keep` is how long events are kept, in seconds; 0 keeps them."""

    def __init__(self, environment: Environment, live: Live[Event], keep: float) -> None:
        self.environment, self.live, self.keep = environment, live, keep
        self.seq = 0
        self.alarm: asyncio.TimerHandle | None = None
        self.known: dict[str, None] = {}

    async def start(self) -> None:
        """Go on counting where the last life ended, and know its newest events again."""
        store = self.environment.store
        await store.journal.flush()  # a life before this one may have left something on its way
        rows = await store.reader.select(LAST_EVENTS, (REMEMBERED,))
        self.seq = max([self.live.last, *(row[0] for row in rows[:1])])
        self.known = dict.fromkeys(row[1] for row in reversed(rows))
        self.live.begin(self.seq)
        if self.keep:
            self._later(0.0)

    def receive(self, message: Message[Any], envelope: Envelope) -> object:
        """Understands `StoreEvents` and `DeleteOld`."""
        match message:
            case StoreEvents():
                return self._store(message.events, envelope)
            case DeleteOld():
                return self._delete_old()
            case _:
                return super().receive(message, envelope)

    def _store(self, events: tuple[Event, ...], envelope: Envelope) -> object:
        batch, fresh = Batch([], [], []), list[tuple[int, Event, int]]()
        for event in events:
            if event.id in self.known:
                continue
            self.known[event.id] = None
            self.seq += 1
            put_event(batch, event, self.seq)
            fresh.append((self.seq, event, len(event.body)))
        while len(self.known) > REMEMBERED + len(events):
            del self.known[next(iter(self.known))]

        def committed(error: Exception | None) -> None:
            if error is not None:
                for _, event, _ in fresh:
                    self.known.pop(event.id, None)
                self.cell.refuse(envelope, error)
                return
            if fresh:
                self.live.publish(fresh)
            self.cell.answer(envelope, len(fresh))

        # Also without anything new: the first of a pair may still be on its way to the disk.
        self.environment.store.journal.append(batch, committed)
        return LATER

    async def _delete_old(self) -> int:
        """A piece at a time, so that events that come in meanwhile need not wait."""
        store, batch = self.environment.store, Batch([], [], [])
        cutoff = self.environment.clock.now() - int(self.keep * SECOND)
        rows = []
        try:
            oldest = await store.reader.select(OLDEST_EVENTS, (DELETED_AT_ONCE,))
            rows = [row for row in oldest if row[0] < cutoff]
            if rows:
                delete_events(batch, rows)
                await store.journal.commit(batch)
        except StorageError as error:
            log.warning("old events could not be deleted now: %s", error)
        self._later(0.0 if len(rows) == DELETED_AT_ONCE else CLEAN_UP_EVERY)
        return len(rows)

    def _later(self, seconds: float) -> None:
        self.stop()
        self.alarm = self.system.later(seconds, self.system.at(self.address), DeleteOld())

    def stop(self) -> None:
        """Nothing rings any more."""
        if self.alarm is not None:
            self.alarm.cancel()
