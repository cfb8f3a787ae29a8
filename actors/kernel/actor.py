"""The actor kernel: actors, typed ask and tell. It knows nothing of workflows.

An actor is named by an address `kind/key`. `system.ref(kind, key)` always answers; the first
message wakes the actor (`Actor.start` rebuilds its state) and an idle one is dropped again, so that
it costs no task and no memory. `Actor.receive` is called with one message at a time and returns the
answer, a coroutine (the mailbox waits for it), or `LATER` when the actor answers the envelope
itself, typically after a commit.

Laws, each held by a test: messages of one sender arrive in order; one message is handled at a time;
none is handled twice; every ask ends; a full mailbox refuses and never grows; the mailbox survives
a restart, and an actor that crashed is started again whether or not a message waits for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar, final

import msgspec

from ironflow.core.messages import Message

if TYPE_CHECKING:
    from ironflow.actors.kernel.cell import Cell
    from ironflow.actors.kernel.system import System

R = TypeVar("R")
log = logging.getLogger("ironflow.actors")

LATER: Final = object()
"""Returned by `receive`: the actor kept the envelope and answers it itself."""


class Ensure(Message[None], frozen=True):
    """Wakes an actor and asks nothing of it."""


class Restart(msgspec.Struct, frozen=True):
    """How often an actor may crash before it escalates to the root.

    That is more than `burst` times in `period` seconds, or in more than `burst` starts in a row.
    """

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


class Reply(Protocol):
    """Where an answer goes: a future, as a rule."""

    def done(self) -> bool:
        """Whether nobody wants it any more."""
        ...

    def set_result(self, result: Any, /) -> None:
        """This is the answer."""
        ...

    def set_exception(self, exception: Exception, /) -> None:
        """There is none, for this reason."""
        ...


class Told(msgspec.Struct, frozen=True, eq=False):
    """The `Reply` of somebody who is called when it is there, and not a turn of the loop later."""

    tell: Callable[[Any, Exception | None], None]

    def done(self) -> bool:
        """See `Reply`."""
        return False

    def set_result(self, result: Any, /) -> None:
        """See `Reply`."""
        self.tell(result, None)

    def set_exception(self, exception: Exception, /) -> None:
        """See `Reply`."""
        self.tell(None, exception)


class Envelope(msgspec.Struct, frozen=True, eq=False):
    """A message on its way, and where its answer goes."""

    # A struct is made without a call of Python; one is made for every message.
    message: Message[Any]
    reply: Reply | None
    trusted: bool = False

    def answer(self, value: object) -> None:
        """End the ask with a value; a late answer to an asker that gave up is dropped."""
        reply = self.reply
        if type(reply) is Told:
            reply.tell(value, None)
        elif reply is not None and not reply.done():
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
    system: System
    """The system it lives in."""
    address: str
    """`kind/key`."""
    key: str
    """What names this actor among its kind."""

    def settle_in(self, cell: Cell) -> None:
        """Become the actor of a cell: called once, before anything else."""
        self.cell, self.system = cell, cell.system
        self.address, self.key = cell.address, cell.key

    def start_at_once(self) -> bool:
        """Rebuild the state here and now, if nothing has to be read for it; False: await `start`.

        It saves a task and the trip to the disk.
        """
        return type(self).start is Actor.start

    async def start(self) -> None:
        """Rebuild the state. Runs before the first message of every life, or `start_at_once`."""

    def receive(self, message: Message[Any], envelope: Envelope) -> object:
        """Handle one message: return the answer, a coroutine giving it, or `LATER`.

        An `IronflowError` raised here is an expected no: it travels to the asker and the actor
        lives on. Any other exception is a crash.
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
        """Leave a message.

        Raises `Overloaded` when the mailbox is full, `Gone` when the system has stopped.
        """
        self.system.cell(self.address).deliver(Envelope(message, None))

    def post(self, message: Message[Any]) -> None:
        """`tell`, never refused for room: for timers and others that are bounded elsewhere."""
        self.system.cell(self.address).deliver(Envelope(message, None, trusted=True))

    def request(self, message: Message[R], *, at_once: bool = False) -> asyncio.Future[R]:
        """`ask` without waiting, never refused for room: for those that have several things to ask
        at once. A task for each would cost more than the message. `at_once` as for `ask`.
        """
        system = self.system
        reply: asyncio.Future[R] = system.loop.create_future()
        envelope = Envelope(message, reply, trusted=True)
        system.cell(self.address).deliver(envelope, at_once=at_once)
        return reply

    def send(
        self,
        message: Message[R],
        then: Callable[[R | None, Exception | None], None],
        *,
        trusted: bool = True,
        at_once: bool = False,
    ) -> None:
        """`request` without a future: `then` is called with the answer, or with why there is none.
        `trusted` and `at_once` as for `ask`.
        """
        envelope = Envelope(message, Told(then), trusted)
        self.system.cell(self.address).deliver(envelope, at_once=at_once)

    async def ask(
        self,
        message: Message[R],
        timeout: float | None = 30.0,
        *,
        trusted: bool = False,
        at_once: bool = False,
    ) -> R:
        """Send a message and wait for its answer, at most `timeout` seconds. With `at_once` the
        actor handles it in this very turn of the loop, if nothing else waits for one.

        Raises the actor's refusal, `Overloaded`, `TimeoutError`, or `Gone` when it crashed or
        stopped. The message may still be handled after a time-out or when the asker is cancelled.
        """
        system = self.system
        reply: asyncio.Future[R] = system.loop.create_future()
        system.cell(self.address).deliver(Envelope(message, reply, trusted), at_once=at_once)
        alarm = None
        if timeout is not None and not reply.done():
            # Half the price of asyncio.timeout, and no cancellation to tell from one of the caller.
            alarm = system.loop.call_later(timeout, _expire, reply, self.address, timeout)
        try:
            return await reply
        finally:
            if alarm is not None:
                alarm.cancel()


def _expire(reply: asyncio.Future[Any], address: str, timeout: float) -> None:
    if not reply.done():
        reply.set_exception(TimeoutError(f"{address} did not answer within {timeout:g} s"))
