"""The actors of a function's intake: one debounce or batch for each value of the policy's key.

An event comes as a durable message, in the order of its emission, and is consumed in the commit
that records what it does. What waits is a row that lists read, and a durable timer; when it is due,
one commit empties the intake and holds the message that creates the run. So no event is lost, none
counts twice, and a run is created once, whatever ends the process in between. An idle intake is
dropped: it costs its stream.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Generic, TypeVar

import msgspec

from ironflow.actors.environment import Environment
from ironflow.actors.kernel import LATER, Ensure, Envelope
from ironflow.actors.outbox import encode_row, with_delivery
from ironflow.actors.stream import Renew, StreamActor
from ironflow.core import commands as c
from ironflow.core import intake as i
from ironflow.core.entries import UNREADABLE
from ironflow.core.errors import Damaged, NotFound, StorageError
from ironflow.core.messages import Message
from ironflow.storage.ports import (
    BLOB_REFS,
    BLOBS,
    DELIVERIES,
    INTAKES,
    OUTCOMES,
    TIMERS,
    Batch,
    IntakeRow,
    NewEntry,
)

log = logging.getLogger("ironflow.intake")

TIMER = "due"
RETRY_AFTER = 1.0
"""Seconds until a value that could not be read is read again."""
S = TypeVar("S", i.Debouncing, i.Batching, i.Single)
P = TypeVar("P", i.Debouncing, i.Batching)


class IntakeActor(StreamActor, Generic[S]):
    """What the three kinds of intake share: the fold, the commit, and messages taken once."""

    kinds: dict[str, type]
    """The entries of its stream, by kind."""
    state: S

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.taken: set[str] = set()
        """Messages whose effect is on its way to the disk."""
        self.unordered = False
        """After a failure: nothing is taken until all that was lost is sent again."""
        self.expected: deque[str] = deque()
        """What is sent again, oldest first; nothing is taken out of turn."""
        self.names = {struct: kind for kind, struct in self.kinds.items()}

    def fresh(self) -> S:
        """The state before the first entry."""
        raise NotImplementedError

    @property
    def function_id(self) -> str:
        """The function whose intake it is."""
        return i.parse_address(self.key)[0]

    async def start(self) -> None:
        """Fold the stream."""
        loaded = await self.environment.store.reader.load(self.address)
        self.state = self.fresh()
        try:
            if loaded.snapshot is not None:
                self.state = msgspec.json.decode(loaded.snapshot.data, type=type(self.state))
                self.snapshot_version = loaded.snapshot.version
            for entry in loaded.entries:
                self.state.apply(msgspec.json.decode(entry.data, type=self.kinds[entry.kind]))
                self.state.version = entry.version  # the oldest ones may have been retired
        except (*UNREADABLE, KeyError) as error:
            raise Damaged(self.address, str(error)) from error
        if self.cell.restarts:
            self.unordered = True
            self.renew_later()

    def receive(self, message: Message[Any], envelope: Envelope) -> object:
        """Take a message once, and in its turn, whoever brings it how often."""
        if isinstance(message, Renew):
            self.unordered = False
            self.expected.extend(self.environment.outbox.pending(self.address))
            self.environment.outbox.repost(self.address)
            if not self.expected:
                self.renew()
            return None
        if isinstance(message, Ensure):
            return None
        delivery = getattr(message, "delivery", None)
        if delivery is not None:
            if delivery in self.taken or not self.environment.outbox.has(self.address, delivery):
                return None
            if not self._is_in_turn(delivery):
                return None
            self.taken.add(delivery)
        return self.handle(message, envelope, Batch([], [], []))

    @property
    def is_behind(self) -> bool:
        """Whether messages that were sent before now have still to be taken."""
        return self.unordered or bool(self.expected)

    def _is_in_turn(self, delivery: str) -> bool:
        """Whether nothing older is to come again first; if it is, this comes again, too."""
        if self.unordered:
            return False
        if self.expected:
            if self.expected[0] != delivery:
                return False
            self.expected.popleft()
            if not self.expected:
                self.system.loop.call_soon(self._caught_up)
        return True

    def _caught_up(self) -> None:
        if self.cell.actor is self:
            self.renew()

    def handle(self, message: Message[Any], envelope: Envelope, batch: Batch) -> object:
        """Decide, and put what follows into `batch`."""
        raise NotImplementedError

    def renew(self) -> None:
        """Set again what may have been lost with a failure; all messages have been taken."""

    # -- the commit -------------------------------------------------------------------------------

    def record(self, batch: Batch, entries: Sequence[Any]) -> None:
        """Apply entries and put them into the batch."""
        now = self.environment.clock.now()
        for entry in entries:
            self.state.apply(entry)
            version, kind = self.state.version, self.names[type(entry)]
            batch.entries.append(
                NewEntry(self.address, version, now, kind, msgspec.json.encode(entry))
            )
        if entries and self.snapshot_is_due(self.state.version):
            self.add_snapshot(batch, self.state.version, msgspec.json.encode(self.state))

    def settle(
        self,
        batch: Batch,
        message: Message[Any],
        sends: Sequence[c.Send],
        envelope: Envelope | None,
        reply: object = None,
        then: Callable[[], None] | None = None,
    ) -> object:
        """Commit the batch with the messages that follow and the end of the one that caused it."""
        env, now = self.environment, self.environment.clock.now()
        delivery = getattr(message, "delivery", None)
        if delivery is not None:
            batch.deletes.append((DELIVERIES, (delivery,)))
        # Named for its cause, so that it keeps its name however often it is sent; on a restart the
        # messages of one moment are sent again in the order of their names.
        cause = f"{self.address}/{self.state.version:09d}"
        if not batch.entries and delivery is not None:
            cause += f"/~{delivery}"
        posts = []
        for number, send in enumerate(sends):
            name = f"{cause}/{number}"
            batch.puts.append((DELIVERIES, encode_row(send, name, now)))
            if isinstance(send.message, c.CreateRun):
                self._keep_input(batch, send)
            posts.append((send.target, name, with_delivery(send.message, name)))

        def committed() -> None:
            if delivery is not None:
                self.taken.discard(delivery)
                env.outbox.consumed(self.address, delivery)
            for post in posts:
                env.outbox.post(*post)
            if then is not None:
                then()

        self.commit(batch, envelope, reply, committed)
        return LATER

    def _keep_input(self, batch: Batch, send: c.Send) -> None:
        """The run's large input is kept for it from now on: the event may be retired before it."""
        create = send.message
        assert isinstance(create, c.CreateRun)
        digest = create.input.blob
        if digest is None:
            return
        batch.puts.append((BLOB_REFS, (send.target, digest)))
        if create.blob is not None:
            batch.puts.append((BLOBS, (digest, len(create.blob), create.blob)))

    def note(self, batch: Batch, outcome: c.Outcome) -> None:
        """Keep what became of a request, where events and repeated requests find it."""
        batch.puts.append((OUTCOMES, msgspec.structs.astuple(outcome)))
        self.environment.count_fate(outcome.function_id, outcome.fate)


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

    # -- what the two kinds differ in -------------------------------------------------------------

    def row(self) -> IntakeRow | None:
        """What waits, as lists see it."""
        raise NotImplementedError

    def digests(self) -> Sequence[str]:
        """The large values that what waits refers to."""
        raise NotImplementedError

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

    def row(self) -> IntakeRow | None:
        """See `PendingActor`."""
        state = self.state
        if state.latest is None:
            return None
        return IntakeRow(
            self.address, self.kind, *i.parse_address(self.key), state.run_id,
            state.latest.subject, state.first_at, state.due_at, state.count,
        )  # fmt: skip

    def digests(self) -> Sequence[str]:
        """See `PendingActor`."""
        latest = self.state.latest
        digest = latest.create.input.blob if latest is not None else None
        return () if digest is None else (digest,)

    def handle(self, message: Message[Any], envelope: Envelope, batch: Batch) -> object:
        """Understands `Defer`, too."""
        if not isinstance(message, c.Defer):
            return super().handle(message, envelope, batch)
        sends: list[c.Send] = []
        for entry in i.defer(self.state, message):
            if isinstance(entry, i.Started):
                sends.append(c.Send(f"run/{self.state.run_id}", self.state.create()))
            else:
                # What it takes the place of is referred to by its event alone from now on.
                batch.deletes.extend(
                    (BLOB_REFS, (f"run/{self.state.run_id}", digest)) for digest in self.digests()
                )
            self.record(batch, [entry])
        state = self.state
        assert state.latest is not None
        batch.puts.extend((BLOB_REFS, (f"run/{state.run_id}", d)) for d in self.digests())
        self.note(
            batch,
            c.Outcome(
                state.latest.subject, self.function_id, "debounced", state.run_id, message.at,
                state.due_at,
            ),
        )  # fmt: skip
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

    def row(self) -> IntakeRow | None:
        """See `PendingActor`."""
        state = self.state
        if not state.items:
            return None
        return IntakeRow(
            self.address, self.kind, *i.parse_address(self.key), state.run_id,
            state.items[-1].subject, state.items[0].at, state.due_at, len(state.items),
        )  # fmt: skip

    def digests(self) -> Sequence[str]:
        """See `PendingActor`."""
        return [d for item in self.state.items if (d := item.create.input.blob) is not None]

    def handle(self, message: Message[Any], envelope: Envelope, batch: Batch) -> object:
        """Understands `Collect`, too."""
        if not isinstance(message, c.Collect):
            return super().handle(message, envelope, batch)
        entries = i.collect(self.state, message)
        digests = set(self.digests())
        if message.create.input.blob is not None:
            digests.add(message.create.input.blob)
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
            if not isinstance(entry, i.Added):
                continue
            run_id = self.state.run_id
            digest = message.create.input.blob
            if digest is not None:
                batch.puts.append((BLOB_REFS, (f"run/{run_id}", digest)))
            self.note(
                batch,
                c.Outcome(
                    entry.request.subject, self.function_id, "batched", run_id, message.at,
                    entry.due_at,
                ),
            )  # fmt: skip
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
