"""An actor that does what it is asked and notes what happens to it, for the laws of the kernel."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from ironflow.actors.kernel.actor import LATER, Actor, Envelope
from ironflow.core.errors import Conflict, StorageError
from ironflow.core.messages import Message

WAYS = (
    "answer", "refuse", "crash", "exit",
    "later", "later refused", "later crash", "crash at once",
    "work", "work refused", "work crash", "work cancelled", "work interrupted",
    "storage", "leave",
)  # fmt: skip
ADDRESSES = ("probe/a", "probe/b", "probe/c")


class Do(Message[int], frozen=True):
    """Something to do, in one of `WAYS`; `number` counts what its sender sent to this actor."""

    sender: str
    number: int
    way: str
    delay: float = 0.0


class Unheard(BaseException):
    """Not an Exception, and still a crash of one actor only."""


class World:
    """What happened, seen from outside the actors."""

    def __init__(self) -> None:
        self.handled: dict[str, list[Do]] = {address: [] for address in ADDRESSES}
        self.inside: dict[str, Do | None] = dict.fromkeys(ADDRESSES)
        self.alive: dict[str, int] = dict.fromkeys(ADDRESSES, 0)
        self.starts: dict[str, int] = dict.fromkeys(ADDRESSES, 0)
        self.failing: dict[str, deque[str]] = {address: deque() for address in ADDRESSES}
        self.broken: list[str] = []


class Probe(Actor):
    """Does what it is told, and notes whatever breaks a law."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.seen = 0
        self.started = False
        self.kept: set[Envelope] = set()

    async def start(self) -> None:
        world = self.world
        if world.alive[self.address]:
            world.broken.append(f"{self.address} lives twice")
        if world.inside[self.address] is not None:
            world.broken.append(f"{self.address} starts during {world.inside[self.address]}")
        self.started = True
        world.alive[self.address] += 1
        world.starts[self.address] += 1
        self.base = len(world.handled[self.address])
        await asyncio.sleep(0.01)
        if world.failing[self.address]:
            how = world.failing[self.address].popleft()
            raise StorageError(how) if how == "storage" else RuntimeError(how)

    def stop(self) -> None:
        if self.started:
            self.world.alive[self.address] -= 1

    def is_quiet(self) -> bool:
        return not self.kept

    def receive(self, message: Message[Any], envelope: Envelope) -> object:
        if not isinstance(message, Do):
            return super().receive(message, envelope)
        self._enter(message)
        if message.way.startswith("work"):
            return self._work(message)
        try:
            return self._act(message, envelope)
        finally:
            self.world.inside[self.address] = None

    def _enter(self, message: Do) -> None:
        world = self.world
        if world.inside[self.address] is not None:
            world.broken.append(f"{message} during {world.inside[self.address]}")
        world.inside[self.address] = message
        world.handled[self.address].append(message)
        self.seen += 1
        if self.seen != len(world.handled[self.address]) - self.base:
            world.broken.append(f"{self.address} remembers a former life")

    def _act(self, message: Do, envelope: Envelope) -> object:
        match message.way:
            case "refuse":
                raise Conflict("no")
            case "crash":
                raise ZeroDivisionError("crash")
            case "exit":
                raise Unheard
            case "crash at once":
                self.cell.crash(ZeroDivisionError("crash in the middle"))
                return LATER
            case "storage":
                self.cell.crash(StorageError("the disk is gone"))
                return LATER
            case "leave":
                self.cell.leave_when_quiet()
            case "later" | "later refused" | "later crash":
                self.kept.add(envelope)
                self.system.loop.call_later(message.delay, self._finish, message, envelope)
                return LATER
            case _:
                pass
        return message.number

    def _finish(self, message: Do, envelope: Envelope) -> None:
        """After the commit, so to say. The actor may be gone by then."""
        self.kept.discard(envelope)
        if self.cell.actor is not self:
            return
        if message.way == "later":
            self.cell.answer(envelope, message.number)
        elif message.way == "later refused":
            self.cell.refuse(envelope, Conflict("no"))
        else:
            self.cell.crash(ZeroDivisionError("crash after the commit"))

    async def _work(self, message: Do) -> int:
        try:
            await asyncio.sleep(message.delay)
            match message.way:
                case "work refused":
                    raise Conflict("no")
                case "work crash":
                    raise ZeroDivisionError("crash")
                case "work cancelled":
                    lost: asyncio.Future[None] = self.system.loop.create_future()
                    lost.cancel()
                    await lost
                case "work interrupted":
                    self.cell.crash(ZeroDivisionError("crash in the middle"))
                    await asyncio.sleep(1.0)
                case _:
                    pass
            return message.number
        finally:
            if self.world.inside[self.address] is not message:
                self.world.broken.append(f"{message} ends beside another message")
            self.world.inside[self.address] = None


class Asked:
    """An ask under way, and the message that it was about."""

    task: asyncio.Task[int]
    full = False

    def __init__(self, address: str, message: Do) -> None:
        self.address, self.message = address, message
