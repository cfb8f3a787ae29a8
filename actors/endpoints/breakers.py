"""The actor of one circuit breaker: its key is `<function id>|<endpoint>`. Its state is in the
journal, so that a restart neither forgets an outage nor sends a herd after it.
"""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from ironflow.actors.environment import Environment
from ironflow.actors.kernel.actor import LATER, Ensure, Envelope
from ironflow.actors.stream import Renew, StreamActor
from ironflow.core.messages import Message
from ironflow.core.remote.breaker import (
    KINDS,
    Breaker,
    BreakerEntry,
    BreakerPolicy,
    BreakerStatus,
    OperatorSpoke,
    ProbeAllowed,
    Word,
    on_failure,
    on_success,
)
from ironflow.core.runs import commands as c
from ironflow.storage.ports import Batch, NewEntry

TIMER = "probe"
_TYPES = {kind: struct for struct, kind in KINDS.items()}

IDLE_AFTER = 300.0
"""Seconds after which a breaker that no function uses is let go of. The journal has its state, and
it is there again before anything is sent.
"""


class Gates(Protocol):
    """What stands before the calls, and is told of breakers."""

    def set_gate(self, key: str, breaker: Breaker) -> None:
        """A breaker has changed."""
        ...

    def uses(self, key: str) -> bool:
        """Whether there may be calls that this breaker decides about."""
        ...

    def drop_gate(self, key: str) -> None:
        """A breaker that is not used is no longer in memory."""
        ...


class NoteFailure(Message[BreakerStatus], frozen=True):
    """A call did not come through. Answers the status that follows."""

    reason: str
    policy: BreakerPolicy


class NoteSuccess(Message[BreakerStatus], frozen=True):
    """A call came through."""


class Speak(Message[BreakerStatus], frozen=True):
    """An operator's word."""

    word: Word


class BreakerActor(StreamActor):
    """One breaker."""

    state: Breaker

    def __init__(self, environment: Environment, gates: Gates) -> None:
        super().__init__(environment)
        self.gates = gates

    def is_quiet(self) -> bool:
        """See `Actor`: a breaker that is used stays."""
        return super().is_quiet() and not self.gates.uses(self.key)

    def stop(self) -> None:
        """See `Actor`. What a breaker that is used said last, goes on to count."""
        super().stop()
        if not self.gates.uses(self.key):
            self.gates.drop_gate(self.key)

    async def start(self) -> None:
        """Fold the stream, and tell the gates."""
        loaded = await self.environment.store.reader.load(self.address)
        self.state = Breaker()
        if loaded.snapshot is not None:
            self.state = msgspec.json.decode(loaded.snapshot.data, type=Breaker)
            self.snapshot_version = loaded.snapshot.version
        for entry in loaded.entries:
            self.state.apply(msgspec.json.decode(entry.data, type=_TYPES[entry.kind]), entry.at)
        self.gates.set_gate(self.key, self.state)
        if self.cell.restarts:
            self.renew_later()

    def receive(self, message: Message[Any], envelope: Envelope) -> object:
        """Understands the messages of this module and its timer."""
        now = self.environment.clock.now()
        entry: BreakerEntry | None = None
        match message:
            case NoteFailure():
                entry = on_failure(self.state, message.policy, message.reason, now)
            case NoteSuccess():
                entry = on_success(self.state)
            case Speak():
                entry = OperatorSpoke(message.word)
            case c.TimerFired():
                return self._ring(now, envelope)
            case Renew():
                self.arm(TIMER, self.state.until)
                return None
            case Ensure():
                return None
            case _:
                return super().receive(message, envelope)
        if entry is None:
            return self.state.status
        return self._record(entry, now, envelope)

    def _ring(self, now: int, envelope: Envelope) -> object:
        if self.state.status is not BreakerStatus.OPEN or self.state.until is None:
            return None
        if self.state.until > now:
            self.arm(TIMER, self.state.until)
            return None
        return self._record(ProbeAllowed(), now, envelope)

    def _record(self, entry: BreakerEntry, now: int, envelope: Envelope) -> object:
        state = self.state
        state.apply(entry, now)
        data = msgspec.json.encode(entry)
        batch = Batch(
            [NewEntry(self.address, state.version, now, KINDS[type(entry)], data)], [], []
        )
        until = state.until
        self.set_timer(batch, TIMER, until, state.version)
        if self.snapshot_is_due(state.version):
            self.add_snapshot(batch, state.version, msgspec.json.encode(state))
        # At once: no call may slip through between the decision and its commit.
        self.gates.set_gate(self.key, state)
        self.commit(batch, envelope, state.status, lambda: self.arm(TIMER, until))
        return LATER
