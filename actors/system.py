"""The actor system: names, turns, services in order, the root that crash loops escalate to, statistics.

Services (actors that must always be there) start in the order in which they are given and stop in reverse.
A service that crashes too often takes the services after it with it and they start again in order; when that
happens too often, too, the root gives up and `on_fatal` is told: better dead than lying.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from ironflow.actors.kernel import (
    Actor,
    Behavior,
    Cell,
    CellState,
    Ensure,
    Envelope,
    Ref,
    Restart,
)
from ironflow.core.clock import Clock, Ids
from ironflow.core.errors import Gone, NotFound
from ironflow.core.messages import Message

log = logging.getLogger("ironflow.actors")

SWEEP_SECONDS = 5.0
ROOT_RESTART = Restart(burst=3, period=60.0)


class ActorStatistics(msgspec.Struct, frozen=True):
    """One live actor: its mailbox depth, messages handled, restarts, and how long it has been idle (seconds)."""

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
        """`order`, when given, shuffles whose turn comes first (for simulation); order per sender holds regardless."""
        self.loop = asyncio.get_running_loop()
        self.clock, self.ids = clock, ids
        self.on_fatal = on_fatal or (lambda reason: log.critical("%s", reason))
        self._order = order
        self._cells: dict[str, Cell] = {}
        self._behaviors: dict[str, Behavior] = {}
        self._services: list[str] = []
        self._ready: deque[Cell] = deque()
        self._turning = False
        self._stopped = False
        self._sweep: asyncio.TimerHandle | None = None
        self._fatalities: deque[float] = deque(maxlen=ROOT_RESTART.burst + 1)
        self._retired: dict[str, KindStatistics] = {}
        self.register(Behavior("root", Root, idle_after=None))

    def register(self, behavior: Behavior) -> None:
        """Make a kind known. Registering a kind twice is an error in the wiring."""
        if behavior.kind in self._behaviors:
            raise ValueError(f"actor kind {behavior.kind!r} is registered already")
        self._behaviors[behavior.kind] = behavior

    def ref(self, kind: str, key: str = "") -> Ref:
        """The name of an actor, live or not."""
        return Ref(self, f"{kind}/{key}")

    def at(self, address: str) -> Ref:
        """The name behind a full address `kind/key`."""
        return Ref(self, address)

    def cell(self, address: str) -> Cell:
        """The live cell behind an address, made when there is none. Raises `Gone` after `stop`."""
        cell = self._cells.get(address)
        if cell is None:
            if self._stopped:
                raise Gone("the actor system has stopped")
            kind, _, key = address.partition("/")
            behavior = self._behaviors.get(kind)
            if behavior is None:
                raise NotFound("actor kind", kind)
            cell = self._cells[address] = Cell(self, address, key, behavior)
        return cell

    @property
    def is_stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopped

    def is_live(self, address: str) -> bool:
        """Whether the actor is in memory now."""
        return address in self._cells

    async def start(self, services: Sequence[Ref] = ()) -> None:
        """Start the services in order; each has finished `Actor.start` before the next begins."""
        self._sweep = self.loop.call_later(SWEEP_SECONDS, self._drop_idle)
        for ref in services:
            self._services.append(ref.address)
            await ref.ask(Ensure(), timeout=None)

    async def stop(self) -> None:
        """Refuse everything new and stop every actor: the newest first, the services last, in reverse order."""
        self._stopped = True
        if self._sweep is not None:
            self._sweep.cancel()
        services = set(self._services)
        dynamic = [address for address in reversed(self._cells) if address not in services]
        for address in [*dynamic, *reversed(self._services)]:
            cell = self._cells.pop(address, None)
            if cell is not None:
                cell.close(Gone(f"{address} has stopped"))
        self._ready.clear()

    def later(self, seconds: float, ref: Ref, message: Message[Any]) -> asyncio.TimerHandle:
        """Send a message to an actor after a while; nothing durable. Cancel through the handle."""
        return self.loop.call_later(seconds, self._post, ref, message)

    def enqueue(self, cell: Cell) -> None:
        """Give a cell a turn soon. For the kernel."""
        self._ready.append(cell)
        if not self._turning:
            self._turning = True
            self.loop.call_soon(self._turn)

    def forget(self, cell: Cell) -> None:
        """Let go of a passivated cell. For the kernel."""
        if self._cells.get(cell.address) is cell:
            del self._cells[cell.address]
            self._retire(cell)

    def escalate(self, cell: Cell, error: Exception) -> None:
        """A cell crashed too often: stop it and tell the root. For the kernel."""
        cell.close(Gone(f"{cell.address} crashed too often, last: {error!r}"))
        self.forget(cell)
        if not self._stopped:
            self.ref("root").post(Escalated(cell.address, repr(error)))

    def handle_escalation(self, message: Escalated) -> None:
        """The root's decision: a service is restarted with those after it, anything else stays down until its next message."""
        log.error("%s crashed too often and was stopped: %s", message.address, message.reason)
        if message.address not in self._services:
            return
        now = self.loop.time()
        self._fatalities.append(now)
        if (
            len(self._fatalities) > ROOT_RESTART.burst
            and now - self._fatalities[0] < ROOT_RESTART.period
        ):
            self.on_fatal(f"{message.address} cannot be kept alive: {message.reason}")
            return
        tail = self._services[self._services.index(message.address) :]
        for address in reversed(tail):
            cell = self._cells.pop(address, None)
            if cell is not None:
                cell.close(Gone(f"{address} is restarted"))
                self._retire(cell)
        for address in tail:
            self.at(address).post(Ensure())

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

    def _retire(self, cell: Cell) -> None:
        total = self._retired.setdefault(cell.behavior.kind, KindStatistics())
        total.handled += cell.handled
        total.restarts += cell.restarts

    def _turn(self) -> None:
        ready, self._ready = self._ready, deque()
        if self._order is not None:
            shuffled = list(ready)
            self._order.shuffle(shuffled)
            ready = deque(shuffled)
        # Cells that become ready meanwhile wait for the next turn, so that timers and sockets are served between.
        for cell in ready:
            cell.run()
        if self._ready:
            self.loop.call_soon(self._turn)
        else:
            self._turning = False

    def _post(self, ref: Ref, message: Message[Any]) -> None:
        if not self._stopped:
            ref.post(message)

    def _drop_idle(self) -> None:
        now = self.loop.time()
        for cell in self._idle(now):
            cell.passivate()
        self._sweep = self.loop.call_later(SWEEP_SECONDS, self._drop_idle)

    def _idle(self, now: float) -> Iterable[Cell]:
        return [
            cell
            for cell in self._cells.values()
            if cell.behavior.idle_after is not None
            and cell.state in (CellState.READY, CellState.DORMANT)
            and now - cell.touched >= cell.behavior.idle_after
        ]
