"""What can go wrong in a simulated case, by name, and when: all drawn from the seed.

Each kind draws from a source of chance of its own, so that leaving one out changes none of the
others.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any, Literal, get_args

import msgspec

from ironflow.actors.kernel.outbox import Outbox
from ironflow.actors.kernel.system import System
from ironflow.core.errors import Gone, InvalidInput
from ironflow.core.messages import Message

Fault = Literal[
    "crash", "torn", "down", "slow", "full", "clock", "late", "duplicate", "order", "operators"
]
MEANINGS: dict[Fault, str] = {
    "crash": "the process dies, at steps of a commit and between any two turns of the loop",
    "torn": "of what was not synced the disk keeps all, none, a beginning or some sectors",
    "down": "after some crashes the process stays down for minutes or hours",
    "slow": "some commits take seconds",
    "full": "some commits are refused for lack of space",
    "clock": "the wall clock is set forward and back, by up to a day",
    "late": "messages between actors arrive late",
    "duplicate": "messages between actors and timers' rings arrive more than once",
    "order": "which of the actors that are ready has its turn first",
    "operators": "runs are cancelled, paused, resumed and retried",
}
FAULTS: frozenset[Fault] = frozenset(get_args(Fault))
CRASH_POINTS = ("queued", "written", "synced", "answered")
MOST_CRASHES = 8
"""In a case of less than a day; longer ones have one more a day."""


def parse_faults(names: Iterable[str]) -> frozenset[Fault]:
    """The kinds of these names; `all`, `none`, and `-name` to leave one out.

    Raises `InvalidInput`.
    """
    chosen: set[Fault] = set()
    names = [name.strip() for name in names]
    if names and names[0].startswith("-"):
        chosen |= FAULTS
    for name in names:
        if name == "all":
            chosen |= FAULTS
        elif name == "none":
            chosen.clear()
        elif name.removeprefix("-") not in FAULTS:
            known = ", ".join(sorted(FAULTS))
            raise InvalidInput("faults", f"{name!r} is none of all, none, {known}")
        elif name.startswith("-"):
            chosen.discard(name[1:])
        else:
            chosen.add(name)  # type: ignore[arg-type]
    return frozenset(chosen)


class Crash(msgspec.Struct):
    """The next crash: at the `left`-th passing of `point` (`turn`: of the loop) from its arming."""

    point: str
    left: int
    down: float
    """Seconds until the process is started again."""


class Chance:
    """Sources of chance by name, from one seed."""

    def __init__(self, seed: int | str) -> None:
        self._seed = seed

    def of(self, name: str) -> random.Random:
        """The source of this name."""
        return random.Random(f"{self._seed}/{name}")


def plan_crashes(chance: Chance, faults: frozenset[Fault], days: float) -> list[Crash]:
    """The crashes of a case of so many days."""
    if "crash" not in faults:
        return []
    rng, downs = chance.of("crash"), chance.of("down")
    crashes = []
    for _ in range(rng.randint(0, MOST_CRASHES + int(days))):
        down = rng.choice((0.0, 0.0, 0.2, 3.0))
        if "down" in faults and downs.random() < 0.1:
            down = downs.choice((90.0, 1800.0, 7200.0))
        if rng.random() < 0.5:
            crashes.append(Crash(rng.choice(CRASH_POINTS), 1 + int(rng.expovariate(0.1)), down))
        else:
            crashes.append(Crash("turn", 1 + int(rng.expovariate(0.01)), down))
    return crashes


class UnreliableOutbox(Outbox):
    """Durable messages that come late, and again."""

    def __init__(self, system: System, rng: random.Random, *, late: bool, duplicate: bool) -> None:
        super().__init__(system)
        self._rng, self._late, self._duplicate = rng, late, duplicate
        self.calm = False

    def deliver(self, target: str, message: Message[Any]) -> None:
        """Hand a message to its target: now, later, or more than once."""
        rng = self._rng
        if self._late and not self.calm and rng.random() < 0.1:
            self._later(rng.choice((0.0, 0.01, 1.0, 20.0)), target, message)
        else:
            super().deliver(target, message)
        if self._duplicate and not self.calm and rng.random() < 0.1:
            self._later(rng.choice((0.0, 0.01, 1.0, 20.0)), target, message)

    def _later(self, seconds: float, target: str, message: Message[Any]) -> None:
        self._system.loop.call_later(seconds, self._post, target, message)

    def _post(self, target: str, message: Message[Any]) -> None:
        if not self._system.is_stopped:
            try:
                self._system.at(target).post(message)
            except Gone:
                return
