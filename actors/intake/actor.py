"""What the actors of a function's intake have in common; there is one for each value of a policy's
key.

A request comes as a durable message, in the order of its emission, and is consumed in the commit
that records what it does, with the messages that follow from it. So no event is lost, none counts
twice, and a run is created once, whatever ends the process in between. An idle intake is dropped:
it costs its stream.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import msgspec

from ironflow.actors.environment import Environment
from ironflow.actors.kernel.actor import LATER, Ensure, Envelope
from ironflow.actors.kernel.outbox import encode_row, with_delivery
from ironflow.actors.stream import Renew, StreamActor
from ironflow.core.errors import Damaged
from ironflow.core.functions import intake as i
from ironflow.core.messages import Message
from ironflow.core.runs import commands as c
from ironflow.core.runs.entries import UNREADABLE
from ironflow.storage.ports import (
    BLOB_REFS,
    BLOBS,
    DELIVERIES,
    INTAKES,
    OUTCOMES,
    Batch,
    Entry,
    IntakeRow,
    NewEntry,
    Snapshot,
)

S = TypeVar("S", i.Debouncing, i.Batching, i.Single)


class IntakeActor(StreamActor, ABC, Generic[S]):
    """What the three kinds of intake share: the fold, the commit, and messages taken once."""

    fold: type[S]
    """The state; made without arguments it is the one before the first entry."""
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
        self.overtaken = False
        """Something came before what is due, and was not taken."""
        self.names = {struct: kind for kind, struct in self.kinds.items()}

    @property
    def function_id(self) -> str:
        """The function whose intake it is."""
        return i.parse_address(self.key)[0]

    @classmethod
    def read(cls, stream: str, snapshot: Snapshot | None, entries: Sequence[Entry]) -> S:
        """The state that a snapshot and the entries after it make. Raises `Damaged`."""
        state: S = cls.fold()
        try:
            if snapshot is not None:
                state = msgspec.json.decode(snapshot.data, type=cls.fold)
            for entry in entries:
                state.apply(msgspec.json.decode(entry.data, type=cls.kinds[entry.kind]))
                state.version = entry.version  # the oldest ones may have been retired
        except (*UNREADABLE, KeyError) as error:
            raise Damaged(stream, str(error)) from error
        return state

    async def start(self) -> None:
        """Read the stream."""
        loaded = await self.environment.store.reader.load(self.address)
        self.state = self.read(self.address, loaded.snapshot, loaded.entries)
        if loaded.snapshot is not None:
            self.snapshot_version = loaded.snapshot.version
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
                self.overtaken = True
                return False
            self.expected.popleft()
            if self.overtaken:
                # What was passed over, new messages among it, is expected from now on.
                self.overtaken = False
                pending = self.environment.outbox.pending(self.address)
                self.expected = deque(d for d in pending if d not in self.taken and d != delivery)
                self.system.loop.call_soon(self._ask_again)
            elif not self.expected:
                self.system.loop.call_soon(self._caught_up)
        return True

    def _ask_again(self) -> None:
        """What was passed over is sent once more: nobody else would."""
        if self.cell.actor is self:
            self.environment.outbox.repost(self.address)
            if not self.expected:
                self.renew()

    def _caught_up(self) -> None:
        if self.cell.actor is self:
            self.renew()

    def handle(self, message: Message[Any], envelope: Envelope, batch: Batch) -> object:
        """Decide, and put what follows into `batch`: what each kind of intake understands. Raises
        `TypeError` for all else.
        """
        del batch
        return super().receive(message, envelope)

    def renew(self) -> None:
        """Set again what may have been lost with a failure; all messages have been taken."""

    @abstractmethod
    def row(self) -> IntakeRow | None:
        """What is here, as lists see it; None: nothing."""

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

    def show(self, batch: Batch) -> None:
        """Have lists see what is here now."""
        row = self.row()
        if row is None:
            batch.deletes.append((INTAKES, (self.address,)))
        else:
            batch.puts.append((INTAKES, row))

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
