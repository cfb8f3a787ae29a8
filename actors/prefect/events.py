"""Events are kept: an actor takes those of clients in batches, drops those that it knows, commits
them and tells those who follow; old ones it deletes. Events of our own go with what they tell of,
in the same commit.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import islice
from typing import Any

from ironflow.actors.environment import Environment
from ironflow.actors.kernel.actor import LATER, Actor, Envelope
from ironflow.actors.prefect.live import Live, Published
from ironflow.core.clock import SECOND
from ironflow.core.errors import StorageError
from ironflow.core.messages import Message
from ironflow.core.prefect.events import Event
from ironflow.storage.ports import Batch, Done
from ironflow.storage.relational.prefect_events import (
    LAST_EVENTS,
    LOOSE_EVENTS,
    OLDEST_EVENTS,
    Loose,
    delete_events,
    enter_resources,
    put_event,
    read_loose,
)

log = logging.getLogger("ironflow.prefect.events")

REMEMBERED = 20_000
"""Ids of the newest events that are held in memory: one that comes again is not told twice. Of
older ones the database takes only the first.
"""
LOOSE = 64
"""Events whose resources are entered in one piece."""
ENTERED_AT_ONCE = 1000
"""At most: an import may bring any number."""
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

    def __init__(self, live: Live[Event], append: Callable[[Batch, Done], None]) -> None:
        """`append` is the journal's."""
        self.live, self._append = live, append
        self.is_open = False
        """Whether what was there before has been read."""
        self._seq = 0
        self._known: dict[str, None] = {}
        self._loose: deque[Loose] = deque()
        self._entering = False

    def open(self, seq: int, known: Sequence[str], loose: Iterable[Loose]) -> None:
        """Go on counting behind `seq`; `known` are the ids of the newest events, oldest first,
        `loose` are those whose resources are not entered yet.
        """
        self._seq = seq
        self._known = dict.fromkeys(known)
        self._loose.extend(loose)
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
            self._loose.append(put_event(batch, event, self._seq))
            fresh.append((self._seq, event, len(event.body)))
        while len(self._known) > REMEMBERED + len(events):
            del self._known[next(iter(self._known))]
        return fresh

    def tell(self, fresh: Published[Event]) -> None:
        """These events are durable."""
        if fresh:
            self.live.publish(fresh)
        if len(self._loose) >= LOOSE and not self._entering:
            self._entering = True
            self.enter(self._entered)

    def enter(self, done: Done) -> None:
        """Enter the resources of the oldest events of which that is not done; `done` as the journal
        calls it. Those of an event that is not written after all do no harm.
        """
        batch, some = Batch([], [], []), list(islice(self._loose, ENTERED_AT_ONCE))
        enter_resources(batch, some)

        def entered(error: Exception | None) -> None:
            while error is None and self._loose and self._loose[0].seq <= some[-1].seq:
                self._loose.popleft()
            done(error)

        self._append(batch, entered)

    def _entered(self, error: Exception | None) -> None:
        self._entering = False  # after an error the next event tries again

    @property
    def has_loose(self) -> bool:
        """Whether there are events whose resources are not entered."""
        return bool(self._loose)

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
            select = self.environment.store.reader.select
            rows = await select(LAST_EVENTS, (REMEMBERED,))
            loose = [read_loose(row) for row in await select(LOOSE_EVENTS)]
            if not self.book.is_open:
                known = [row[1] for row in reversed(rows)]
                self.book.open(rows[0][0] if rows else 0, known, loose)
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
                # Else the resources of an event would be entered after it has gone.
                await self._enter()
                delete_events(batch, rows)
                await store.journal.commit(batch)
        except StorageError as error:
            log.warning("old events could not be deleted now: %s", error)
        self._later(0.0 if len(rows) == DELETED_AT_ONCE else CLEAN_UP_EVERY)
        return len(rows)

    async def _enter(self) -> None:
        while self.book.has_loose:
            future: asyncio.Future[None] = self.system.loop.create_future()
            self.book.enter(partial(_settle, future))
            await future

    def _later(self, seconds: float) -> None:
        self.stop()
        self.alarm = self.system.later(seconds, self.system.at(self.address), DeleteOld())

    def stop(self) -> None:
        """Nothing rings any more."""
        if self.alarm is not None:
            self.alarm.cancel()


def _settle(future: asyncio.Future[None], error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
