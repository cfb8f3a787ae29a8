"""An actor that does what it is told, and a journal of what happened, for tests of the kernel."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from typing import Any

from ironflow.actors.kernel.actor import LATER, Actor, Behavior, Ensure, Envelope
from ironflow.actors.kernel.system import System
from ironflow.actors.kernel.virtual_time import virtual_clock
from ironflow.core.clock import Ids
from ironflow.core.messages import Message


class Say(Message[str], frozen=True):
    text: str = ""


class Later(Message[str], frozen=True):
    """Kept until the test answers it."""


class Wait(Message[str], frozen=True):
    """Answered by a coroutine after `seconds`."""

    seconds: float


class Crash(Message[None], frozen=True):
    pass


class CrashWith(Message[None], frozen=True):
    error: Exception


class Call(Message[Any], frozen=True):
    """Answered with what `function(actor)` gives."""

    function: Callable[[Any], object]


class Journal:
    """What all lives of all actors of a test share."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str]] = []
        self.kept: list[tuple[Talker, Envelope]] = []
        self.starts: list[tuple[str, float]] = []
        self.stops: list[str] = []
        self.start_errors: list[BaseException] = []
        self.start_seconds = 0.0
        self.lives: list[weakref.ref[Talker]] = []
        self.busy = False


class Talker(Actor):
    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        journal.lives.append(weakref.ref(self))

    async def start(self) -> None:
        self.journal.starts.append((self.address, now()))
        if self.journal.start_seconds:
            await asyncio.sleep(self.journal.start_seconds)
        if self.journal.start_errors:
            raise self.journal.start_errors.pop(0)

    def stop(self) -> None:
        self.journal.stops.append(self.address)

    def is_quiet(self) -> bool:
        return not self.journal.busy

    def receive(self, message: Message[Any], envelope: Envelope) -> object:
        match message:
            case Say():
                self.journal.said.append((self.address, message.text))
                return message.text
            case Later():
                self.journal.kept.append((self, envelope))
                return LATER
            case Wait():
                return self.wait(message.seconds)
            case Crash():
                raise ZeroDivisionError("crash")
            case CrashWith():
                self.cell.crash(message.error)
                return LATER
            case Call():
                return message.function(self)
            case _:
                return super().receive(message, envelope)

    async def wait(self, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "waited"


def now() -> float:
    return asyncio.get_running_loop().time()


def build(**options: Any) -> tuple[System, Journal]:
    """A system with one kind, `talker`."""
    clock, journal = virtual_clock(), Journal()
    known = {"on_fatal", "order"} & options.keys()
    system = System(clock, Ids(clock), **{name: options.pop(name) for name in known})
    system.register(Behavior("talker", lambda: Talker(journal), **options))
    return system, journal


async def settle(system: System, address: str = "talker/a") -> None:
    """Until the mailbox of the actor has been seen to."""
    await system.at(address).ask(Ensure(), trusted=True)
