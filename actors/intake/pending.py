"""The actors in which events wait before they become a run: one debounce or batch for each value
of the policy's key.

What waits is a row that lists read, and a durable timer; when it is due, one commit empties the
intake and holds the message that creates the run.
"""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import msgspec

from ironflow.actors.intake.actor import IntakeActor
from ironflow.actors.kernel.actor import Envelope
from ironflow.core.errors import NotFound, StorageError
from ironflow.core.functions import intake as i
from ironflow.core.messages import Message
from ironflow.core.runs import commands as c
from ironflow.storage.ports import BLOB_REFS, TIMERS, Batch, IntakeRow

log = logging.getLogger("ironflow.intake")

TIMER = "due"
RETRY_AFTER = 1.0
"""Seconds until a value that could not be read is read again."""
P = TypeVar("P", i.Debouncing, i.Batching)
Entry = i.Deferred | i.Added | i.Started | i.Dropped


class PendingActor(IntakeActor[P], Generic[P]):
    """An intake in which events wait: for quiet, or for more of them."""

    kind: str
    fate: c.Fate

    @abstractmethod
    def create(self, values: Mapping[str, bytes]) -> c.CreateRun:
        """The run that what waits becomes, out of these `values`, by digest."""

    def needs(self, entries: Sequence[Entry]) -> set[str]:
        """The digests of the values that `create` needs, when these entries start a run."""
        del entries
        return set()

    def handle(self, message: Message[Any], envelope: Envelope, batch: Batch) -> object:
        """Understands its timer, and an operator's word."""
        match message:
            case c.TimerFired():
                return self._ring(message, envelope, batch)
            case c.StartPending():
                outcome = self._outcome()
                return self._start("operator", message, envelope, batch, outcome)
            case c.DropPending():
                return self._drop(message, envelope, batch)
            case _:
                return super().handle(message, envelope, batch)

    def renew(self) -> None:
        """The timer may have rung into the crash."""
        self.arm(TIMER, self.state.due_at)

    def _outcome(self) -> c.Outcome:
        """What would become of what waits. Raises `NotFound` when nothing does."""
        row = self.row()
        if row is None:
            function_id, key = i.parse_address(self.key)
            raise NotFound(f"{self.kind} entry of function {function_id} with the key", key)
        return c.Outcome(
            row.event_id, row.function_id, self.fate, row.run_id, row.armed_at, row.due_at
        )

    def _ring(self, message: c.TimerFired, envelope: Envelope, batch: Batch) -> object:
        due_at = self.state.due_at
        if due_at is None:
            batch.deletes.append((TIMERS, (self.address, message.name)))
            return self.settle(batch, message, (), envelope)
        if self.is_behind:
            return None  # what was emitted before it comes first, and arms it then
        if due_at > self.environment.clock.now():
            self.arm(TIMER, self.state.due_at)
            return None
        cause: i.Cause = "quiet" if self.kind == "debounce" else "wait"
        return self._start(cause, message, envelope, batch)

    def _start(
        self,
        cause: i.Cause,
        message: Message[Any],
        envelope: Envelope,
        batch: Batch,
        reply: object = None,
    ) -> object:
        """What waits becomes a run."""
        entries = [i.Started(self.state.run_id, cause)]
        return self.follow(entries, message, envelope, batch, reply)

    def _drop(self, message: c.DropPending, envelope: Envelope, batch: Batch) -> object:
        outcome = self._outcome()
        self._let_go(batch)
        self.record(batch, [i.Dropped(message.reason)])
        return self._finish(batch, message, (), envelope, outcome)

    def follow(
        self,
        entries: Sequence[Entry],
        message: Message[Any],
        envelope: Envelope,
        batch: Batch,
        reply: object = None,
    ) -> object:
        """Commit what was decided, with the runs that it starts."""
        starts = any(isinstance(entry, i.Started) for entry in entries)
        digests = self.needs(entries) if starts else None
        if digests:
            return self._follow_with(digests, entries, message, batch, reply)
        return self._finish(batch, message, self._record(batch, entries, {}), envelope, reply)

    async def _follow_with(
        self,
        digests: set[str],
        entries: Sequence[Entry],
        message: Message[Any],
        batch: Batch,
        reply: object,
    ) -> object:
        """The same with values out of the blob table; answers `reply` once it is durable.
        Meanwhile nothing else is handled.
        """
        values = {digest: await self._value(digest) for digest in digests}
        durable: asyncio.Future[None] = self.system.loop.create_future()
        sends = self._record(batch, entries, values)
        self._finish(batch, message, sends, None, None, lambda: durable.set_result(None))
        await durable
        return reply

    async def _value(self, digest: str) -> bytes:
        while True:
            try:
                value = await self.environment.store.reader.blob(digest)
            except StorageError as error:
                if self.system.is_stopped:
                    raise
                log.warning("%s waits for the journal: %s", self.address, error)
                await asyncio.sleep(RETRY_AFTER)
                continue
            if value is None:
                log.error("%s: the value %s is lost; null stands in for it", self.address, digest)
            return b"null" if value is None else value

    def _record(
        self, batch: Batch, entries: Sequence[Entry], values: Mapping[str, bytes]
    ) -> list[c.Send]:
        """Put entries and what goes with each into the batch; answers the runs to be created."""
        sends: list[c.Send] = []
        for entry in entries:
            if isinstance(entry, i.Started):
                sends.append(c.Send(f"run/{self.state.run_id}", self.create(values)))
            elif isinstance(entry, i.Deferred):
                self._let_go(batch)  # what it takes the place of
            self.record(batch, [entry])
            if isinstance(entry, (i.Deferred, i.Added)):
                self._accept(batch, entry.request, entry.due_at)
        return sends

    def _accept(self, batch: Batch, request: i.Request, due_at: int) -> None:
        """A request waits now: its large value is kept for the run, and what became of it known."""
        run_id = self.state.run_id
        if request.digest is not None:
            batch.puts.append((BLOB_REFS, (f"run/{run_id}", request.digest)))
        function_id, subject = self.function_id, request.subject
        self.note(batch, c.Outcome(subject, function_id, self.fate, run_id, request.at, due_at))

    def _let_go(self, batch: Batch) -> None:
        """What waits is for no run: its large values are referred to by its events alone."""
        owner = f"run/{self.state.run_id}"
        for request in self.state.requests:
            if request.digest is not None:
                batch.deletes.append((BLOB_REFS, (owner, request.digest)))

    def _finish(
        self,
        batch: Batch,
        message: Message[Any],
        sends: Sequence[c.Send],
        envelope: Envelope | None,
        reply: object = None,
        then: Callable[[], None] | None = None,
    ) -> object:
        """Commit, with the row and the timer as the state has them now."""
        self.show(batch)
        self.set_timer(batch, TIMER, self.state.due_at, self.state.version)

        def committed() -> None:
            self.arm(TIMER, self.state.due_at)
            if then is not None:
                then()

        return self.settle(batch, message, sends, envelope, reply, committed)

    def row(self) -> IntakeRow | None:
        """What waits, as lists see it."""
        state, requests = self.state, self.state.requests
        if not requests:
            return None
        return IntakeRow(
            self.address, self.kind, *i.parse_address(self.key), state.run_id,
            requests[-1].subject, state.first_at, state.due_at, state.count,
        )  # fmt: skip


class DebounceActor(PendingActor[i.Debouncing]):
    """One debounce."""

    kind = "debounce"
    fate = "debounced"
    fold = i.Debouncing
    kinds = {  # noqa: RUF012 - a table
        "debounce.deferred": i.Deferred,
        "debounce.started": i.Started,
        "debounce.dropped": i.Dropped,
    }

    def handle(self, message: Message[Any], envelope: Envelope, batch: Batch) -> object:
        """Understands `Defer`, too."""
        if isinstance(message, c.Defer):
            return self.follow(i.defer(self.state, message), message, envelope, batch)
        return super().handle(message, envelope, batch)

    def create(self, values: Mapping[str, bytes]) -> c.CreateRun:
        """The run of the last event; its value stays where it is."""
        del values
        return self.state.create()


class BatchActor(PendingActor[i.Batching]):
    """One batch after the other."""

    kind = "batch"
    fate = "batched"
    fold = i.Batching
    kinds = {  # noqa: RUF012 - a table
        "batch.added": i.Added,
        "batch.started": i.Started,
        "batch.dropped": i.Dropped,
    }

    def handle(self, message: Message[Any], envelope: Envelope, batch: Batch) -> object:
        """Understands `Collect`, too."""
        if isinstance(message, c.Collect):
            return self.follow(i.collect(self.state, message), message, envelope, batch)
        return super().handle(message, envelope, batch)

    def create(self, values: Mapping[str, bytes]) -> c.CreateRun:
        """The run of all events, whose input is a list of their data."""
        create, blob = i.merge(self.state.items, values)
        return msgspec.structs.replace(create, blob=blob)

    def needs(self, entries: Sequence[Entry]) -> set[str]:
        """Every large value becomes part of the list."""
        added = [entry.request for entry in entries if isinstance(entry, i.Added)]
        requests = (*self.state.requests, *added)
        return {digest for request in requests if (digest := request.digest) is not None}
