"""The kernel's side of one live actor: its mailbox, its turns, its crashes and its leaving.

Everything happens on the event loop and in turns that the system gives; at most one message, or the
coroutine that a message began, is under way at any time. Actors see a few of the methods here:
`answer`, `refuse`, `crash` and `leave_when_quiet`.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
import logging
from collections import OrderedDict, deque
from collections.abc import Coroutine
from enum import Enum
from types import CoroutineType
from typing import TYPE_CHECKING, Any, final

from ironflow.actors.kernel.actor import LATER, Actor, Behavior, Ensure, Envelope
from ironflow.core.errors import Gone, IronflowError, Overloaded, StorageError

if TYPE_CHECKING:
    from ironflow.actors.kernel.system import System

log = logging.getLogger("ironflow.actors")

TURN_BUDGET = 64
"""Messages that one actor handles before the others get their turn."""

LONGEST_PAUSE = 5.0
"""Seconds that a crashed actor rests at most before its next start."""


class CellState(Enum):
    """Where a live actor stands."""

    DORMANT = "dormant"  # no actor object yet, or dropped after a crash
    STARTING = "starting"
    READY = "ready"
    BUSY = "busy"  # a coroutine of the actor is under way
    RESTING = "resting"  # crashed, waits for its next start
    STOPPED = "stopped"


# An attribute of an Enum is looked up through its metaclass; these are read for every message.
_DORMANT, _READY, _STOPPED = CellState.DORMANT, CellState.READY, CellState.STOPPED

_NOT_OURS = (KeyboardInterrupt, SystemExit, GeneratorExit)


@final
class Cell:
    """The kernel's side of one live actor: its mailbox and where it stands."""

    __slots__ = (
        "_crashes", "_failed_starts", "_peers", "_queued", "_rest", "_revive", "_unread", "_work",
        "actor", "address", "behavior", "box", "chore", "handled", "key", "leaving", "restarts",
        "state", "system", "touched", "unanswered",
    )  # fmt: skip

    def __init__(
        self,
        system: System,
        address: str,
        behavior: Behavior,
        peers: OrderedDict[Cell, None] | None,
    ) -> None:
        """`peers` are the cells of its kind that may be dropped, the longest idle first."""
        self.system, self.address, self.behavior = system, address, behavior
        self.key = address.partition("/")[2]
        self.box: deque[Envelope] = deque()
        self.unanswered: dict[Envelope, None] = {}  # in the order in which they came
        self.actor: Actor | None = None
        self.chore: asyncio.Task[None] | None = None
        self.state = CellState.DORMANT
        self.handled = self.restarts = 0
        self.leaving = False
        self.touched = system.loop.time()
        self._peers = peers
        self._queued = self._revive = False
        self._failed_starts = self._unread = 0
        self._crashes: deque[float] | None = None  # made with the first: a deque is 600 bytes
        self._work: Coroutine[Any, Any, object] | None = None
        self._rest: asyncio.TimerHandle | None = None

    # -- messages ---------------------------------------------------------------------------------

    def deliver(self, envelope: Envelope, *, at_once: bool = False) -> None:
        """Put an envelope into the mailbox; `at_once`: it may be handled before this returns."""
        if self.state is _STOPPED:
            raise Gone(f"{self.address} has stopped")
        box = self.box
        if not envelope.trusted and len(box) + len(self.unanswered) >= self.behavior.bound:
            raise Overloaded(f"the mailbox of {self.address}")
        box.append(envelope)
        if not self._queued:
            self._queued = True
            if at_once:
                self.system.give_turn(self)
            else:
                self.system.enqueue(self)

    def run(self) -> None:
        """Take a turn: start the actor if need be, and handle what waits."""
        self._queued = False
        box = self.box
        if self.state is _DORMANT and (box or self._revive):
            self._wake()
        budget = TURN_BUDGET
        while box and budget and self.state is _READY:
            budget -= 1
            self._handle(box.popleft())
        if self.state is _READY:
            self.touched = self.system.loop.time()
            if self._peers is not None:
                self._peers.move_to_end(self)
            if box:
                self._requeue()
            elif self.leaving:
                self.passivate()

    def answer(self, envelope: Envelope, value: object) -> None:
        """Answer an envelope that `receive` kept."""
        self.unanswered.pop(envelope, None)
        envelope.answer(value)
        if self.leaving:
            self._requeue()

    def refuse(self, envelope: Envelope, error: Exception) -> None:
        """Refuse an envelope that `receive` kept."""
        self.unanswered.pop(envelope, None)
        envelope.fail(error)
        if self.leaving:
            self._requeue()

    # -- leaving ----------------------------------------------------------------------------------

    def passivate(self) -> bool:
        """Drop the actor if nothing is under way; it comes back with its next message."""
        if self.box or self.unanswered or self._revive:
            return False
        if self.state is not _DORMANT:
            actor = self.actor
            if self.state is not _READY or actor is None or not self._is_quiet(actor):
                return False
        self.close(Gone(f"{self.address} was idle"))
        self.system.forget(self)
        return True

    def leave_when_quiet(self) -> None:
        """Passivate as soon as nothing is under way, unless another message is handled first."""
        self.leaving = True
        self._requeue()

    def close(self, error: Exception) -> None:
        """Stop for good: whatever waits is refused with `error`."""
        if self.state is _STOPPED:
            return
        self.state = CellState.STOPPED
        self._drop(error)
        while self.box:
            self.box.popleft().fail(copy.copy(error))

    # -- crashes ----------------------------------------------------------------------------------

    def crash(self, error: BaseException) -> None:
        """Drop the actor after a failure and start it again.

        The mailbox stays, unanswered asks end, too many crashes escalate.
        """
        if self.actor is not None:
            self._fail(error)

    def suspend(self, error: Exception) -> None:
        """Drop the actor but keep its mailbox, until `resume`."""
        if self.state is not _STOPPED:
            self._drop(error)
            self.state = CellState.RESTING

    def resume(self) -> asyncio.Future[None]:
        """Start the actor again; the future ends when it is up, before anything else it is sent."""
        reply: asyncio.Future[None] = self.system.loop.create_future()
        self.box.appendleft(Envelope(Ensure(), reply, trusted=True))
        self._end_rest()
        self._requeue()
        return reply

    def _fail(self, error: BaseException) -> None:
        started = self.state not in {CellState.DORMANT, CellState.STARTING}
        self.restarts += 1
        # A journal that cannot be read or written is no fault of the actor: no crash is counted.
        if isinstance(error, StorageError):
            self._drop(error)
            if not started:
                self._unread += 1
                self._refuse_asks(error)
            self._start_after(self._pause(self._unread))
            return
        log.error("%s crashed: %r", self.address, error, exc_info=error)
        self._drop(Gone(f"{self.address} crashed: {error!r}"))
        if not started:
            self._failed_starts += 1
        restart, now = self.behavior.restart, self.system.loop.time()
        if self._crashes is None:
            self._crashes = deque(maxlen=restart.burst + 1)
        self._crashes.append(now)
        recent = sum(1 for at in self._crashes if now - at < restart.period)
        if max(recent, self._failed_starts) > restart.burst:
            self.system.escalate(self, error)
        elif recent > 1 or isinstance(error, asyncio.CancelledError):
            # Who cancels our task probably takes the whole loop down: nothing is started at once.
            self._start_after(self._pause(recent - 1))
        else:
            self._start_after(0.0)

    def _pause(self, times: int) -> float:
        return min(self.behavior.restart.pause * 2.0 ** min(max(times - 1, 0), 30), LONGEST_PAUSE)

    def _start_after(self, pause: float) -> None:
        self._revive = True
        if pause > 0:
            self.state = CellState.RESTING
            self._rest = self.system.loop.call_later(pause, self._end_rest)
        else:
            self.state = CellState.DORMANT
            self._requeue()

    def _end_rest(self) -> None:
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None
        if self.state is CellState.RESTING:
            self.state = CellState.DORMANT
            self._requeue()

    def _refuse_asks(self, error: StorageError) -> None:
        # Nobody knows when the journal comes back; whoever asks decides whether to ask again.
        waiting = list(self.box)
        self.box.clear()
        for envelope in waiting:
            if envelope.reply is None:
                self.box.append(envelope)
            else:
                envelope.fail(copy.copy(error))

    def _drop(self, error: Exception) -> None:
        """Let go of the actor; what it has not answered is refused with `error`."""
        actor, self.actor = self.actor, None
        chore, self.chore = self.chore, None
        work, self._work = self._work, None
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None
        if chore is not None and not chore.done():
            self.system.unwind(self.address, chore)
        if work is not None and inspect.getcoroutinestate(work) == inspect.CORO_CREATED:
            work.close()  # its task is cancelled before it began to await it
        if actor is not None:
            try:
                actor.stop()
            except Exception:
                log.exception("%s failed to stop", self.address)
        unanswered, self.unanswered = self.unanswered, {}
        for envelope in unanswered:
            envelope.fail(copy.copy(error))  # a traceback of its own for each asker

    def _is_quiet(self, actor: Actor) -> bool:
        try:
            return actor.is_quiet()
        except Exception as error:  # noqa: BLE001 - any failure of an actor is a crash
            self.crash(error)
            return False

    # -- turns ------------------------------------------------------------------------------------

    def _requeue(self) -> None:
        if not self._queued and self.state is not _STOPPED:
            self._queued = True
            self.system.enqueue(self)

    def _wake(self) -> None:
        old = self.system.unwinding.get(self.address)
        if old is not None:
            # The last life is still cleaning up after a message; two lives must not overlap.
            self.state = CellState.RESTING
            self._rest = self.system.loop.call_later(LONGEST_PAUSE, self._overdue, old)
            old.add_done_callback(self._unwound)
            return
        self._revive = False
        try:
            actor = self.behavior.make()
        except Exception as error:  # noqa: BLE001 - any failure of an actor is a crash
            self._fail(error)
            return
        actor.settle_in(self)
        self.actor, self.leaving = actor, False
        self.state = CellState.STARTING
        try:
            started = actor.start_at_once()
        except Exception as error:  # noqa: BLE001 - any failure of an actor is a crash
            self._fail(error)
            return
        if started:
            self._begin()
        else:
            self.chore = self.system.loop.create_task(self._start(actor))

    def _unwound(self, _: object) -> None:
        if self._rest is not None:
            self._end_rest()

    def _overdue(self, old: asyncio.Task[None]) -> None:
        log.warning("%s: a cancelled handler does not end", self.address)
        old.remove_done_callback(self._unwound)
        self.system.unwinding.pop(self.address, None)
        self._end_rest()

    def _begin(self) -> None:
        self.chore = None
        self.state = CellState.READY
        self._failed_starts = self._unread = 0

    async def _start(self, actor: Actor) -> None:
        try:
            await actor.start()
        except _NOT_OURS:
            raise
        except BaseException as error:
            if self.actor is actor:
                self.chore = None
                self._fail(error)
            if isinstance(error, asyncio.CancelledError):
                raise
            return
        if self.actor is actor:
            self._begin()
            # Straight on: another turn would only add latency to the message that woke us.
            self.run()

    def _handle(self, envelope: Envelope) -> None:
        actor = self.actor
        assert actor is not None
        self.handled += 1
        self.leaving = False
        try:
            answer = actor.receive(envelope.message, envelope)
        except IronflowError as no:
            envelope.fail(no)
        except _NOT_OURS:
            raise
        except BaseException as error:  # noqa: BLE001 - any failure of an actor is a crash
            envelope.fail(Gone(f"{self.address} crashed: {error!r}"))
            if self.actor is actor:
                self._fail(error)
        else:
            if answer is LATER:
                self._keep(actor, envelope)
            elif type(answer) is CoroutineType:
                self._keep(actor, envelope, answer)
            else:
                envelope.answer(answer)

    def _keep(
        self, actor: Actor, envelope: Envelope, work: Coroutine[Any, Any, object] | None = None
    ) -> None:
        reply = envelope.reply
        if self.actor is not actor:
            # The actor stopped or crashed itself while it handled this very message.
            if work is not None:
                work.close()
            envelope.fail(Gone(f"{self.address} crashed or stopped before it answered"))
        elif work is not None:
            self.state = CellState.BUSY
            self.unanswered[envelope] = None
            self._work = work
            self.chore = self.system.loop.create_task(self._await(actor, work, envelope))
        elif reply is not None and not reply.done():
            self.unanswered[envelope] = None

    async def _await(
        self, actor: Actor, work: Coroutine[Any, Any, object], envelope: Envelope
    ) -> None:
        try:
            value = await work
        except IronflowError as no:
            self.refuse(envelope, no)
        except _NOT_OURS:
            raise
        except BaseException as error:
            if self.actor is actor:
                self.chore = self._work = None
                self._fail(error)
            if isinstance(error, asyncio.CancelledError):
                raise
        else:
            self.answer(envelope, value)
        if self.actor is actor:
            self.chore = self._work = None
            self.state = CellState.READY
            self._requeue()
