"""The actors in which events wait before they become a run: one debounce or batch for each value
of the policy's key.

What waits is a row that lists read, and a durable timer; when it is due, one commit empties the
intake and holds the message that creates the run.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Generic, TypeVar

import msgspec

from ironflow.actors.intake import IntakeActor
from ironflow.actors.kernel import Envelope
from ironflow.actors.stream import StreamActor
from ironflow.core import commands as c
from ironflow.core import intake as i
from ironflow.core.errors import NotFound, StorageError
from ironflow.core.messages import Message
from ironflow.storage.ports import BLOB_REFS, INTAKES, TIMERS, Batch, IntakeRow

log = logging.getLogger("ironflow.intake")

TIMER = "due"
RETRY_AFTER = 1.0
"""Seconds until a value that could not be read is read again."""
P = TypeVar("P", i.Debouncing, i.Batching)


class PendingActor(IntakeActor[P], Generic[P]):
    """An intake in which events wait: for quiet, or for more of them."""

    kind: str
    fate: c.Fate

    def handle(self, message: Message[Any], envelope: Envelope, batch: Batch) -> object:
        """Understands its event, its timer, and an operator's word."""
        match message:
            case c.TimerFired():
                return self._ring(message, envelope, batch)
            case c.StartPending():
                outcome = self._outcome()
                return self._start("operator", message, envelope, batch, outcome)
            case c.DropPending():
                return self._drop(message, envelope, batch)
            case _:
                return StreamActor.receive(self, message, envelope)

    def renew(self) -> None:
        """The timer may have rung into the crash."""
        self._arm()

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
            self._arm()
            return None
        cause: i.Cause = "quiet" if self.kind == "debounce" else "wait"
        return self._start(cause, message, envelope, batch, None)

    def _drop(self, message: c.DropPending, envelope: Envelope, batch: Batch) -> object:
        outcome = self._outcome()
        for digest in self.digests():
            batch.deletes.append((BLOB_REFS, (f"run/{outcome.run_id}", digest)))
        self.record(batch, [i.Dropped(message.reason)])
        return self.finish(batch, message, (), envelope, outcome)

    def finish(
        self,
        batch: Batch,
        message: Message[Any],
        sends: Sequence[c.Send],
        envelope: Envelope | None,
        reply: object = None,
        then: Callable[[], None] | None = None,
    ) -> object:
        """Commit, with the row and the timer as the state has them now."""
        row, version = self.row(), self.state.version
        if row is None or row.due_at is None:
            batch.deletes.append((INTAKES, (self.address,)))
            batch.deletes.append((TIMERS, (self.address, TIMER)))
        else:
            batch.puts.append((INTAKES, row))
            batch.puts.append((TIMERS, (self.address, TIMER, row.due_at, version)))

        def committed() -> None:
            self._arm()
            if then is not None:
                then()

        return self.settle(batch, message, sends, envelope, reply, committed)

    def _arm(self) -> None:
        due_at = self.state.due_at
        if due_at is None:
            self.environment.timers.disarm(self.address, TIMER)
        else:
            self.environment.timers.arm(self.address, TIMER, due_at)

    def row(self) -> IntakeRow | None:
        """What waits, as lists see it."""
        state, requests = self.state, self.state.requests
        if not requests:
            return None
        return IntakeRow(
            self.address, self.kind, *i.parse_address(self.key), state.run_id,
            requests[-1].subject, state.first_at, state.due_at, state.count,
        )  # fmt: skip

    def digests(self) -> list[str]:
        """The large values that what waits refers to."""
        return [d for request in self.state.requests if (d := request.digest) is not None]

    def accept(self, batch: Batch, request: i.Request, due_at: int) -> None:
        """A request waits now: its large value is kept for the run, and what became of it known."""
        run_id = self.state.run_id
        if request.digest is not None:
            batch.puts.append((BLOB_REFS, (f"run/{run_id}", request.digest)))
        function_id, subject = self.function_id, request.subject
        self.note(batch, c.Outcome(subject, function_id, self.fate, run_id, request.at, due_at))

    def _start(
        self,
        cause: i.Cause,
        message: Message[Any],
        envelope: Envelope,
        batch: Batch,
        reply: object,
    ) -> object:
        """What waits becomes a run."""
        raise NotImplementedError


class DebounceActor(PendingActor[i.Debouncing]):
    """One debounce."""

    kind = "debounce"
    fate = "debounced"
    kinds = {  # noqa: RUF012 - a table
        "debounce.deferred": i.Deferred,
        "debounce.started": i.Started,
        "debounce.dropped": i.Dropped,
    }

    def fresh(self) -> i.Debouncing:
        """Nothing waits."""
        return i.Debouncing()

    def handle(self, message: Message[Any], envelope: Envelope, batch: Batch) -> object:
        """Understands `Defer`, too."""
        if not isinstance(message, c.Defer):
            return super().handle(message, envelope, batch)
        sends: list[c.Send] = []
        for entry in i.defer(self.state, message):
            owner = f"run/{self.state.run_id}"
            if isinstance(entry, i.Started):
                sends.append(c.Send(owner, self.state.create()))
            else:
                # What it takes the place of is referred to by its event alone from now on.
                batch.deletes.extend((BLOB_REFS, (owner, d)) for d in self.digests())
            self.record(batch, [entry])
            if isinstance(entry, i.Deferred):
                self.accept(batch, entry.request, entry.due_at)
        return self.finish(batch, message, sends, envelope)

    def _start(
        self,
        cause: i.Cause,
        message: Message[Any],
        envelope: Envelope,
        batch: Batch,
        reply: object,
    ) -> object:
        run_id, create = self.state.run_id, self.state.create()
        self.record(batch, [i.Started(run_id, cause)])
        return self.finish(batch, message, [c.Send(f"run/{run_id}", create)], envelope, reply)


class BatchActor(PendingActor[i.Batching]):
    """One batch after the other."""

    kind = "batch"
    fate = "batched"
    kinds = {  # noqa: RUF012 - a table
        "batch.added": i.Added,
        "batch.started": i.Started,
        "batch.dropped": i.Dropped,
    }

    def fresh(self) -> i.Batching:
        """Nothing waits."""
        return i.Batching()

    def handle(self, message: Message[Any], envelope: Envelope, batch: Batch) -> object:
        """Understands `Collect`, too."""
        if not isinstance(message, c.Collect):
            return super().handle(message, envelope, batch)
        entries = i.collect(self.state, message)
        digests = {d for d in (*self.digests(), message.create.input.blob) if d is not None}
        if digests and any(isinstance(entry, i.Started) for entry in entries):
            return self._with_values(
                digests, lambda values, then: self._collect(message, batch, values, None, then)
            )
        return self._collect(message, batch, {}, envelope)

    def _collect(
        self,
        message: c.Collect,
        batch: Batch,
        values: Mapping[str, bytes],
        envelope: Envelope | None,
        then: Callable[[], None] | None = None,
    ) -> object:
        sends: list[c.Send] = []
        for entry in i.collect(self.state, message):
            if isinstance(entry, i.Started):
                sends.append(self._merged(values))
            self.record(batch, [entry])
            if isinstance(entry, i.Added):
                self.accept(batch, entry.request, entry.due_at)
        return self.finish(batch, message, sends, envelope, None, then)

    def _merged(self, values: Mapping[str, bytes]) -> c.Send:
        create, blob = i.merge(self.state.items, values)
        return c.Send(f"run/{self.state.run_id}", msgspec.structs.replace(create, blob=blob))

    def _start(
        self,
        cause: i.Cause,
        message: Message[Any],
        envelope: Envelope,
        batch: Batch,
        reply: object,
    ) -> object:
        def start(
            values: Mapping[str, bytes],
            envelope: Envelope | None,
            then: Callable[[], None] | None = None,
        ) -> object:
            send = self._merged(values)
            self.record(batch, [i.Started(self.state.run_id, cause)])
            return self.finish(batch, message, [send], envelope, reply, then)

        digests = set(self.digests())
        if not digests:
            return start({}, envelope)
        return self._with_values(digests, lambda values, then: start(values, None, then), reply)

    async def _with_values(
        self,
        digests: Collection[str],
        work: Callable[[Mapping[str, bytes], Callable[[], None]], object],
        reply: object = None,
    ) -> object:
        """Do `work` with these values out of the blob table; answers `reply` once it is durable.
        Meanwhile nothing else is handled.
        """
        values = {digest: await self._value(digest) for digest in digests}
        durable: asyncio.Future[None] = self.system.loop.create_future()
        work(values, lambda: durable.set_result(None))
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
