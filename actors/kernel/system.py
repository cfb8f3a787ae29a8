"""The actor system: names, turns, services in order, the root that crash loops end at, statistics.

Services (actors that must always be there) start in the order in which they are given and stop in
reverse. A service that crashes too often takes the services after it with it, and they start again
in order; when that happens too often, too, the root gives up, `on_fatal` is told and nothing new is
accepted: better dead than lying.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import random
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import msgspec

from ironflow.actors.kernel.actor import Actor, Behavior, Ensure, Envelope, Ref, Restart
from ironflow.actors.kernel.cell import Cell, CellState
from ironflow.core.clock import Clock, Ids
from ironflow.core.errors import Gone, IronflowError, NotFound
from ironflow.core.messages import Message

log = logging.getLogger("ironflow.actors")

CELLS_AT_ONCE = 128
"""Actors that get a turn before timers and sockets are served."""

SWEEP_SECONDS = 1.0
"""At least as long between two looks for idle actors; none is taken when no actor could be idle."""

SWEEP_AT_ONCE = 1000

LONGEST_GOODBYE = 5.0
"""Seconds that `System.stop` waits for cancelled handlers to end."""

ROOT_RESTART = Restart(burst=3, period=60.0)


class ActorStatistics(msgspec.Struct, frozen=True):
    """One live actor: mailbox depth, messages handled, restarts, and seconds since its last."""

    address: str
    state: str
    mailbox: int
    handled: int
    restarts: int
    idle: float


class KindStatistics(msgspec.Struct):
    """All live actors of one kind."""

    live: int = 0
    mailbox: int = 0
    deepest: int = 0
    handled: int = 0
    restarts: int = 0


class Escalated(Message[None], frozen=True):
    """To the root: the actor at `address` crashed too often."""

    address: str
    reason: str


class Root(Actor):
    """Decides what becomes of actors that crash in a loop."""

    def receive(self, message: Message[Any], envelope: Envelope) -> object:
        """Understands `Escalated`."""
        if isinstance(message, Escalated):
            self.system.handle_escalation(message)
            return None
        return super().receive(message, envelope)


class System:
    """All actors of one process, on one event loop."""

    def __init__(
        self,
        clock: Clock,
        ids: Ids,
        *,
        on_fatal: Callable[[str], None] | None = None,
        order: random.Random | None = None,
    ) -> None:
        """`order`, when given, shuffles whose turn comes first; order per sender holds anyway."""
        self.loop = asyncio.get_running_loop()
        self.clock, self.ids = clock, ids
        self.on_fatal = on_fatal or (lambda reason: log.critical("%s", reason))
        self._order = order
        self._cells: dict[str, Cell] = {}
        self._behaviors: dict[str, Behavior] = {}
        self._idle: dict[str, OrderedDict[Cell, None]] = {}
        self._services: list[str] = []
        self._ready: deque[Cell] = deque()
        self._turning = False
        self._stopped = ""
        self._sweep: asyncio.TimerHandle | None = None
        self._fatalities: deque[float] = deque(maxlen=ROOT_RESTART.burst + 1)
        self._restarting: asyncio.Task[None] | None = None
        self._retired: dict[str, KindStatistics] = {}
        self.unwinding: dict[str, asyncio.Task[None]] = {}
        # Handlers run in this context: else each would inherit that of whoever woke the system up.
        self._context = contextvars.copy_context()
        self.register(Behavior("root", Root, idle_after=None))

    def register(self, behavior: Behavior) -> None:
        """Make a kind known. Registering a kind twice is an error in the wiring."""
        if behavior.kind in self._behaviors:
            raise ValueError(f"actor kind {behavior.kind!r} is registered already")
        self._behaviors[behavior.kind] = behavior
        if behavior.idle_after is not None:
            self._idle[behavior.kind] = OrderedDict()

    def ref(self, kind: str, key: str = "") -> Ref:
        """The name of an actor, live or not."""
        return Ref(self, f"{kind}/{key}")

    def at(self, address: str) -> Ref:
        """The name behind a full address `kind/key`."""
        return Ref(self, address)

    def cell(self, address: str) -> Cell:
        """The live cell behind an address, made when there is none.

        Raises `Gone` after `stop`, `NotFound` for a kind that is not registered.
        """
        cell = self._cells.get(address)
        return cell if cell is not None else self._make_cell(address)

    @property
    def is_stopped(self) -> bool:
        """Whether the system has stopped, or given up, and takes nothing new."""
        return bool(self._stopped)

    def is_live(self, address: str) -> bool:
        """Whether the actor is in memory now."""
        return address in self._cells

    async def start(self, services: Sequence[Ref] = ()) -> None:
        """Start the services in order; each has finished `Actor.start` before the next begins.

        Raises `Gone` when one crashes too often, `StorageError` when one cannot read its state.
        """
        for ref in services:
            self._services.append(ref.address)
            await ref.ask(Ensure(), timeout=None, trusted=True)

    async def stop(self) -> None:
        """Refuse everything new and stop every actor: the newest first, then services in reverse.

        Returns when the handlers that this cancelled have ended.
        """
        self._stopped = self._stopped or "the actor system has stopped"
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        if self._restarting is not None:
            self._restarting.cancel()
        services = set(self._services)
        dynamic = [address for address in reversed(self._cells) if address not in services]
        for address in [*dynamic, *reversed(self._services)]:
            cell = self._cells.get(address)
            if cell is not None:
                cell.close(Gone(f"{address} has stopped"))
                self.forget(cell)
        self._ready.clear()
        ending = set(self.unwinding.values())
        if self._restarting is not None:
            ending.add(self._restarting)
        # An actor may stop the system from a handler, which then is not waited for.
        ending = {task for task in ending if task is not asyncio.current_task()}
        if ending:
            await asyncio.wait(ending, timeout=LONGEST_GOODBYE)

    def later(self, seconds: float, ref: Ref, message: Message[Any]) -> asyncio.TimerHandle:
        """Send a message to an actor after a while; nothing durable. Cancel through the handle."""
        return self.loop.call_later(seconds, self._post, ref, message)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        """Call something after a while, in the context of nobody; nothing durable."""
        return self.loop.call_later(seconds, callback, context=self._context)

    # -- for the kernel ---------------------------------------------------------------------------

    def enqueue(self, cell: Cell) -> None:
        """Give a cell a turn soon."""
        self._ready.append(cell)
        if not self._turning:
            self._turning = True
            self.loop.call_soon(self._turn, context=self._context)

    def give_turn(self, cell: Cell) -> None:
        """Give a cell a turn here and now if no other waits for one, else soon: whoever asks a lone
        actor need not wait for another round of the loop.
        """
        if self._turning or self._order is not None:
            self.enqueue(cell)
            return
        self._turning = True
        try:
            self._context.run(cell.run)
        finally:
            if self._ready:
                self.loop.call_soon(self._turn, context=self._context)
            else:
                self._turning = False

    def forget(self, cell: Cell) -> None:
        """Let go of a cell that is closed."""
        if self._cells.get(cell.address) is cell:
            del self._cells[cell.address]
            peers = self._idle.get(cell.behavior.kind)
            if peers is not None:
                peers.pop(cell, None)
            total = self._retired.setdefault(cell.behavior.kind, KindStatistics())
            total.handled += cell.handled
            total.restarts += cell.restarts

    def unwind(self, address: str, chore: asyncio.Task[None]) -> None:
        """Cancel what a dropped actor was doing; its next life begins when that has ended."""
        self.unwinding[address] = chore
        chore.add_done_callback(lambda _: self._unwound(address, chore))
        chore.cancel()

    def escalate(self, cell: Cell, error: BaseException) -> None:
        """A cell crashed too often: stop it and tell the root."""
        cell.close(Gone(f"{cell.address} crashed too often, last: {error!r}"))
        self.forget(cell)
        if not self._stopped:
            self.ref("root").post(Escalated(cell.address, repr(error)))

    # -- crash loops ------------------------------------------------------------------------------

    def handle_escalation(self, message: Escalated) -> None:
        """The root's decision.

        A service is restarted with those after it; another actor stays down until its next message.
        """
        log.error("%s crashed too often and was stopped: %s", message.address, message.reason)
        if message.address not in self._services:
            return
        if self._restarting is not None:
            # Those that it has not reached yet come after the one that failed now.
            self._restarting.cancel()
            self._restarting = None
        now = self.loop.time()
        self._fatalities.append(now)
        recent = sum(1 for at in self._fatalities if now - at < ROOT_RESTART.period)
        tail = self._services[self._services.index(message.address) :]
        if recent > ROOT_RESTART.burst:
            self._give_up(tail, f"{message.address} cannot be kept alive: {message.reason}")
            return
        for address in reversed(tail):
            self.cell(address).suspend(Gone(f"{address} is restarted"))
        self._restarting = self.loop.create_task(self._restart(tail))

    def _give_up(self, tail: Sequence[str], reason: str) -> None:
        self._stopped = reason
        for address in reversed(tail):
            cell = self._cells.get(address)
            if cell is not None:
                cell.close(Gone(reason))
                self.forget(cell)
        self.on_fatal(reason)

    async def _restart(self, tail: Sequence[str]) -> None:
        for address in tail:
            cell = self.cell(address)
            while True:
                try:
                    await cell.resume()
                    break
                except IronflowError as error:
                    if cell.state is CellState.STOPPED:
                        return  # escalated again, and the root decides anew
                    log.warning("%s is not up yet: %s", address, error)
                    await asyncio.sleep(cell.behavior.restart.pause)
        self._restarting = None

    # -- statistics -------------------------------------------------------------------------------

    def statistics(self) -> list[ActorStatistics]:
        """Every live actor."""
        now = self.loop.time()
        return [
            ActorStatistics(
                cell.address,
                cell.state.value,
                len(cell.box) + len(cell.unanswered),
                cell.handled,
                cell.restarts,
                round(now - cell.touched, 3),
            )
            for cell in self._cells.values()
        ]

    def statistics_by_kind(self) -> dict[str, KindStatistics]:
        """Totals by kind; `handled` and `restarts` include actors that are no longer live."""
        totals = {
            kind: KindStatistics(handled=old.handled, restarts=old.restarts)
            for kind, old in self._retired.items()
        }
        for cell in self._cells.values():
            total = totals.setdefault(cell.behavior.kind, KindStatistics())
            depth = len(cell.box) + len(cell.unanswered)
            total.live += 1
            total.mailbox += depth
            total.deepest = max(total.deepest, depth)
            total.handled += cell.handled
            total.restarts += cell.restarts
        return totals

    # -- turns ------------------------------------------------------------------------------------

    def _make_cell(self, address: str) -> Cell:
        if self._stopped:
            raise Gone(self._stopped)
        kind = address.partition("/")[0]
        behavior = self._behaviors.get(kind)
        if behavior is None:
            raise NotFound("actor kind", kind)
        peers = self._idle.get(kind)
        cell = self._cells[address] = Cell(self, address, behavior, peers)
        if peers is not None:
            peers[cell] = None
            sweep, due = self._sweep, cell.touched + (behavior.idle_after or 0.0)
            if sweep is None or sweep.when() > due + SWEEP_SECONDS:
                self._set_sweep()
        return cell

    def _unwound(self, address: str, chore: asyncio.Task[None]) -> None:
        if self.unwinding.get(address) is chore:
            del self.unwinding[address]

    def _turn(self) -> None:
        ready = self._ready
        turns = min(len(ready), CELLS_AT_ONCE)
        if self._order is not None:
            shuffled = list(ready)
            self._order.shuffle(shuffled)
            ready.clear()
            ready.extend(shuffled)
        # Cells that become ready meanwhile wait for the next turn.
        while turns and ready:
            turns -= 1
            ready.popleft().run()
        if ready:
            self.loop.call_soon(self._turn, context=self._context)
        else:
            self._turning = False

    def _post(self, ref: Ref, message: Message[Any]) -> None:
        if not self._stopped:
            ref.post(message)

    def _set_sweep(self) -> None:
        """Have idle actors looked for when the first may be idle."""
        now = self.loop.time()
        due = [
            next(iter(peers)).touched + (self._behaviors[kind].idle_after or 0.0)
            for kind, peers in self._idle.items()
            if peers
        ]
        if not due:
            return
        at = max(min(due), now + SWEEP_SECONDS)
        if self._sweep is not None:
            if self._sweep.when() <= at:
                return
            self._sweep.cancel()
        self._sweep = self.loop.call_at(at, self._drop_idle, context=self._context)

    def _drop_idle(self) -> None:
        self._sweep = None
        # A millisecond of slack for the rounding of floats: else a second pass is needed.
        now = self.loop.time() + 0.001
        for kind, peers in self._idle.items():
            idle_after = self._behaviors[kind].idle_after or 0.0
            for cell in list(islice(peers, SWEEP_AT_ONCE)):
                if now - cell.touched < idle_after:
                    break
                if not cell.passivate():
                    cell.touched = now
                    peers.move_to_end(cell)
        self._set_sweep()
