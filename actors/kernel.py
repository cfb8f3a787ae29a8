"""The actor kernel: mailboxes, typed ask and tell, revival, restarts. Nothing here knows what ironflow is for.

An actor is named by an address `kind/key`. `system.ref(kind, key)` always answers; the first message wakes
the actor (`Actor.start` rebuilds its state) and an idle one is dropped again, so that it costs no task and
no memory. `Actor.receive` is called with one message at a time and returns the answer, a coroutine (the
mailbox waits for it), or `LATER` when the actor answers the envelope itself, typically after a commit.

Laws, each held by a test: messages of one sender arrive in order; one message is handled at a time; none is
handled twice; every ask ends; a full mailbox refuses and never grows; the mailbox survives a restart.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from enum import Enum
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Final, TypeVar, final

import msgspec

from ironflow.core.errors import Gone, IronflowError, Overloaded, StorageError
from ironflow.core.messages import Message

if TYPE_CHECKING:
    from ironflow.actors.system import System

R = TypeVar("R")
log = logging.getLogger("ironflow.actors")

LATER: Final = object()
"""Returned by `receive`: the actor kept the envelope and answers it itself."""

TURN_BUDGET = 64
"""Messages that one actor handles before the others get their turn."""


class Ensure(Message[None], frozen=True):
    """Wakes an actor and asks nothing of it."""


class CellState(Enum):
    """Where a live actor stands."""

    DORMANT = "dormant"  # no actor object yet, or dropped after a crash
    STARTING = "starting"
    READY = "ready"
    BUSY = "busy"  # a coroutine of the actor is under way
    RESTING = "resting"  # crashed, waits for its next start
    STOPPED = "stopped"


class Restart(msgspec.Struct, frozen=True):
    """How often an actor may crash: more than `burst` times in `period` seconds escalates to the root."""

    burst: int = 5
    period: float = 30.0
    pause: float = 0.1
    """Seconds before the second restart in a row; doubles up to 5 s. The first is at once."""


class Behavior(msgspec.Struct, frozen=True):
    """How actors of one kind are made and kept."""

    kind: str
    make: Callable[[], Actor]
    bound: int = 1000
    idle_after: float | None = 60.0
    """Seconds without a message after which the actor is dropped; `None` keeps it."""
    restart: Restart = Restart()


class Envelope:
    """A message on its way, and where its answer goes."""

    # Slots and no dataclass: one is made for every message.
    __slots__ = ("message", "reply", "trusted")

    def __init__(
        self, message: Message[Any], reply: asyncio.Future[Any] | None, trusted: bool = False
    ) -> None:
        self.message, self.reply, self.trusted = message, reply, trusted

    def answer(self, value: object) -> None:
        """End the ask with a value; a late answer to an asker that gave up is dropped."""
        reply = self.reply
        if reply is not None and not reply.done():
            reply.set_result(value)

    def fail(self, error: Exception) -> None:
        """End the ask with an error; for a tell the error has nowhere to go and is logged."""
        reply = self.reply
        if reply is None:
            log.debug("told %s, refused: %s", type(self.message).__name__, error)
        elif not reply.done():
            reply.set_exception(error)


class Actor:
    """Base class. State lives in the object; the kernel makes a new object for every revival."""

    cell: Cell

    @property
    def address(self) -> str:
        """`kind/key`."""
        return self.cell.address

    @property
    def key(self) -> str:
        """What names this actor among its kind."""
        return self.cell.key

    @property
    def system(self) -> System:
        """The system it lives in."""
        return self.cell.system

    async def start(self) -> None:
        """Rebuild the state. Runs before the first message of every life."""

    def receive(self, message: Message[Any], envelope: Envelope) -> object:
        """Handle one message: return the answer, a coroutine giving it, or `LATER`.

        An `IronflowError` raised here is an expected no: it travels to the asker and the actor lives on.
        Any other exception is a crash.
        """
        if isinstance(message, Ensure):
            return None
        raise TypeError(f"{type(self).__name__} does not understand {type(message).__name__}")

    def is_quiet(self) -> bool:
        """Whether the object may be dropped now without losing anything."""
        return True

    def stop(self) -> None:
        """Let go of what the object holds; called when it is dropped, also after a crash."""


@final
class Ref:
    """A name that stays good: across crashes, restarts and passivation of the actor behind it."""

    __slots__ = ("address", "system")

    def __init__(self, system: System, address: str) -> None:
        self.system, self.address = system, address

    def __repr__(self) -> str:
        return f"Ref({self.address!r})"

    def tell(self, message: Message[Any]) -> None:
        """Leave a message. Raises `Overloaded` when the mailbox is full, `Gone` when the system has stopped."""
        self.system.cell(self.address).deliver(Envelope(message, None))

    def post(self, message: Message[Any]) -> None:
        """`tell` for timers, durable deliveries and other messages that are bounded elsewhere: never refused for room."""
        self.system.cell(self.address).deliver(Envelope(message, None, trusted=True))

    async def ask(self, message: Message[R], timeout: float | None = 30.0, *, trusted: bool = False) -> R:
        """Send a message and wait for its answer, at most `timeout` seconds.

        Raises the actor's refusal, `Overloaded`, `Gone` when it crashed or stopped, or `TimeoutError`.
        """
        reply: asyncio.Future[R] = self.system.loop.create_future()
        self.system.cell(self.address).deliver(Envelope(message, reply, trusted))
        if timeout is None:
            return await reply
        async with asyncio.timeout(timeout):
            return await reply


@final
class Cell:
    """The kernel's side of one live actor: its mailbox and where it stands."""

    __slots__ = (
        "_chore", "_crashes", "_queued", "_rest", "actor", "address", "behavior", "box", "handled", "key",
        "leaving", "restarts", "state", "system", "touched", "unanswered",
    )  # fmt: skip

    def __init__(self, system: System, address: str, key: str, behavior: Behavior) -> None:
        self.system, self.address, self.key, self.behavior = system, address, key, behavior
        self.box: deque[Envelope] = deque()
        self.unanswered: set[Envelope] = set()
        self.actor: Actor | None = None
        self.state = CellState.DORMANT
        self.handled = self.restarts = 0
        self.leaving = False
        self.touched = system.loop.time()
        self._queued = False
        self._crashes: deque[float] = deque(maxlen=behavior.restart.burst + 1)
        self._chore: asyncio.Task[None] | None = None
        self._rest: asyncio.TimerHandle | None = None

    def deliver(self, envelope: Envelope) -> None:
        """Put an envelope into the mailbox."""
        if self.state is CellState.STOPPED:
            raise Gone(f"{self.address} has stopped")
        if (
            len(self.box) + len(self.unanswered) >= self.behavior.bound
            and not envelope.trusted
        ):
            raise Overloaded(f"the mailbox of {self.address}")
        self.box.append(envelope)
        if not self._queued:
            self._queued = True
            self.system.enqueue(self)

    def run(self) -> None:
        """Take a turn: start the actor if need be, and handle what waits."""
        self._queued = False
        if self.state is CellState.DORMANT and self.box:
            self._wake()
        box, budget = self.box, TURN_BUDGET
        while box and budget and self.state is CellState.READY:
            budget -= 1
            self._handle(box.popleft())
        if self.state is CellState.READY:
            self.touched = self.system.loop.time()
            if box:
                self._requeue()
            elif self.leaving:
                self.passivate()

    def passivate(self) -> bool:
        """Drop the actor if nothing is under way; it comes back with its next message."""
        actor = self.actor
        if self.state is CellState.DORMANT and not self.box:
            self.system.forget(self)
            return True
        if self.state is not CellState.READY or self.box or self.unanswered or actor is None:
            return False
        if not actor.is_quiet():
            return False
        actor.stop()
        self.actor = None
        self.state = CellState.DORMANT
        self.system.forget(self)
        return True

    def leave_when_quiet(self) -> None:
        """Passivate as soon as nothing is under way."""
        self.leaving = True
        if not self._queued:
            self._requeue()

    def answer(self, envelope: Envelope, value: object) -> None:
        """Answer an envelope that `receive` kept."""
        self.unanswered.discard(envelope)
        envelope.answer(value)

    def refuse(self, envelope: Envelope, error: Exception) -> None:
        """Refuse an envelope that `receive` kept."""
        self.unanswered.discard(envelope)
        envelope.fail(error)

    def crash(self, error: Exception) -> None:
        """Drop the actor after a failure; the mailbox stays, unanswered asks end, too many crashes escalate."""
        if self.state is CellState.STOPPED:
            return
        # A journal that cannot write now is no fault of the actor: asks learn the reason, no crash is counted.
        storage = isinstance(error, StorageError)
        if not storage:
            log.error("%s crashed: %r", self.address, error, exc_info=error)
        self._drop(error if storage else Gone(f"{self.address} crashed: {error!r}"))
        self.restarts += 1
        now = self.system.loop.time()
        if not storage:
            self._crashes.append(now)
        restart = self.behavior.restart
        if len(self._crashes) > restart.burst and now - self._crashes[0] < restart.period:
            self.system.escalate(self, error)
            return
        recent = sum(1 for at in self._crashes if now - at < restart.period)
        if recent <= 1 and not storage:
            self.state = CellState.DORMANT
            self._requeue()
            return
        self.state = CellState.RESTING
        pause = min(restart.pause * 2 ** max(recent - 2, 0), 5.0)
        self._rest = self.system.loop.call_later(pause, self._end_rest)

    def close(self, error: Exception) -> None:
        """Stop for good: whatever waits is refused with `error`."""
        if self.state is CellState.STOPPED:
            return
        if self._rest is not None:
            self._rest.cancel()
        self._drop(error)
        self.state = CellState.STOPPED
        while self.box:
            self.box.popleft().fail(error)

    def _drop(self, error: Exception) -> None:
        actor, self.actor = self.actor, None
        chore, self._chore = self._chore, None
        if chore is not None and not chore.done():
            chore.cancel()
        if actor is not None:
            try:
                actor.stop()
            except Exception as fault:
                log.error("%s failed to stop: %r", self.address, fault, exc_info=fault)
        unanswered, self.unanswered = self.unanswered, set()
        for envelope in unanswered:
            envelope.fail(error)

    def _requeue(self) -> None:
        if not self._queued and self.state is not CellState.STOPPED:
            self._queued = True
            self.system.enqueue(self)

    def _end_rest(self) -> None:
        self._rest = None
        if self.state is CellState.RESTING:
            self.state = CellState.DORMANT
            self._requeue()

    def _wake(self) -> None:
        try:
            actor = self.behavior.make()
        except Exception as error:
            self.crash(error)
            return
        actor.cell = self
        self.actor, self.leaving = actor, False
        self.state = CellState.STARTING
        self._chore = self.system.loop.create_task(self._start(actor))

    async def _start(self, actor: Actor) -> None:
        try:
            await actor.start()
        except Exception as error:
            if self.actor is actor:
                self._chore = None
                self.crash(error)
            return
        if self.actor is actor:
            self._chore = None
            self.state = CellState.READY
            # Straight on: another turn of the loop would only add latency to the message that woke us.
            self.run()

    def _handle(self, envelope: Envelope) -> None:
        actor = self.actor
        assert actor is not None
        self.handled += 1
        try:
            answer = actor.receive(envelope.message, envelope)
        except IronflowError as no:
            envelope.fail(no)
        except Exception as error:
            envelope.fail(Gone(f"{self.address} crashed: {error!r}"))
            self.crash(error)
        else:
            if answer is LATER:
                if envelope.reply is not None and not envelope.reply.done():
                    self.unanswered.add(envelope)
            elif type(answer) is CoroutineType:
                self.state = CellState.BUSY
                self.unanswered.add(envelope)
                self._chore = self.system.loop.create_task(self._await(actor, answer, envelope))
            else:
                envelope.answer(answer)

    async def _await(
        self, actor: Actor, work: Coroutine[Any, Any, object], envelope: Envelope
    ) -> None:
        try:
            value = await work
        except IronflowError as no:
            if self.actor is not actor:
                return
            self.refuse(envelope, no)
        except Exception as error:
            if self.actor is actor:
                self._chore = None
                self.crash(error)
            return
        else:
            if self.actor is not actor:
                return
            self.answer(envelope, value)
        self._chore = None
        self.state = CellState.READY
        self._requeue()
