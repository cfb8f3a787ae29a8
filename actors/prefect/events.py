"""Events are kept: an actor takes those of clients in batches, drops those that it knows, commits
them and tells those who follow; old ones it deletes. Events of our own go with what they tell of,
in the same commit.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from ironflow.actors.environment import Environment
from ironflow.actors.kernel import LATER, Actor, Envelope
from ironflow.actors.prefect.live import Live, Published
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


class EventBook:
    """Numbers events in the order in which they are committed, and knows the newest ones. Others
    than the keeper may add events to a commit of their own.
    """

    def __init__(self, live: Live[Event]) -> None:
        self.live = live
        self.is_open = False
        """Whether what was there before has been read."""
        self._seq = 0
        self._known: dict[str, None] = {}

    def open(self, seq: int, known: Sequence[str]) -> None:
        """Go on counting behind `seq`; `known` are the ids of the newest events, oldest first."""
        self._seq = seq
        self._known = dict.fromkeys(known)
        self.live.begin(seq)
        self.is_open = True

    def add(self, events: Sequence[Event], batch: Batch) -> Published[Event]:
        """Add what is new to a batch, which must be appended to the journal before anything else
        happens; then `tell` or `forget` what this gives.
        """
        fresh: Published[Event] = []
        for event in events:
            if event.id in self._known:
                continue
            self._known[event.id] = None
            self._seq += 1
            put_event(batch, event, self._seq)
            fresh.append((self._seq, event, len(event.body)))
        while len(self._known) > REMEMBERED + len(events):
            del self._known[next(iter(self._known))]
        return fresh

    def tell(self, fresh: Published[Event]) -> None:
        """These events are durable."""
        if fresh:
            self.live.publish(fresh)

    def forget(self, fresh: Published[Event]) -> None:
        """These events were not written: they may come again."""
        for _, event, _ in fresh:
            self._known.pop(event.id, None)


class EventKeeper(Actor):
    """There is one. `keep` is how long events are kept, in seconds; 0 keeps them."""

    def __init__(self, environment: Environment, book: EventBook, keep: float) -> None:
        self.environment, self.book, self.keep = environment, book, keep
        self.alarm: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Go on counting where the last process ended, and know its newest events."""
        if not self.book.is_open:
            rows = await self.environment.store.reader.select(LAST_EVENTS, (REMEMBERED,))
            self.book.open(rows[0][0] if rows else 0, [row[1] for row in reversed(rows)])
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
        batch = Batch([], [], [])
        fresh = self.book.add(events, batch)

        def committed(error: Exception | None) -> None:
            if error is not None:
                self.book.forget(fresh)
                self.cell.refuse(envelope, error)
                return
            self.book.tell(fresh)
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
