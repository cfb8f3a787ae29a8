"""Slots of calls to endpoints: who has one, and who waits for one.

A function has as many calls at once as its endpoint wants, and an address has no more for all of
its functions together than the function that may have the most. Where an address is full, whoever
has waited longest comes first, whichever function that is for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from ironflow.actors.slots.waiting_rows import WaitingRows


@dataclass(slots=True, eq=False)
class _Address:
    """What is called: its functions, with how many calls each may have at once; how many there may
    be together, and how many are under way or granted.
    """

    url: str
    functions: dict[str, int] = field(default_factory=dict)
    most: int = 0
    active: int = 0


class CallSlots(ABC):
    """Runs by the functions that they are of."""

    def __init__(self, grant: Callable[[str], None]) -> None:
        """`grant(run_id)` tells a run that it may be sent."""
        self._grant = grant
        self._holders: dict[str, tuple[str, _Address]] = {}
        """Runs that are being sent or were granted to be, their functions and where these were."""
        self._busy: Counter[str] = Counter()
        """How many of them each function has."""
        self._addresses: dict[str, _Address] = {}
        self._places: dict[str, _Address] = {}
        """Where each function is."""
        self.rows: WaitingRows[str] = WaitingRows()
        """By function."""

    @abstractmethod
    def allowance(self, function_id: str) -> int:
        """How many calls of a function there may be at once now, if its address is not full."""

    def place(self, function_id: str, url: str | None, concurrency: int = 0) -> None:
        """A function is at this address, and may have so many calls at once; None: at none."""
        before = self._places.pop(function_id, None)
        if before is not None:
            del before.functions[function_id]
            before.most = max(before.functions.values(), default=0)
            self._forget(before)
        if url is not None:
            address = self._addresses.setdefault(url, _Address(url))
            address.functions[function_id] = concurrency
            address.most = max(address.functions.values())
            self._places[function_id] = address

    def _forget(self, address: _Address) -> None:
        if not address.functions and not address.active:
            self._addresses.pop(address.url, None)

    @property
    def active(self) -> int:
        """Calls that are under way or granted."""
        return len(self._holders)

    @property
    def queued(self) -> int:
        """Runs that wait to be sent."""
        return len(self.rows)

    def load(self, function_id: str) -> tuple[int, int]:
        """Calls of a function that are under way or granted, and runs that wait to be sent."""
        return self._busy[function_id], self.rows.size(function_id)

    def load_at(self, url: str) -> tuple[int, int]:
        """Calls of an address that are under way or granted, and how many there may be."""
        address = self._addresses.get(url)
        return (address.active, address.most) if address is not None else (0, 0)

    def acquire(self, run_id: str, function_id: str) -> bool:
        """Take a slot at once if one is free and nobody waits for it."""
        if run_id in self._holders:
            return True
        address = self._places.get(function_id)
        if address is None or self.rows.has(function_id) or not self._has_room(function_id):
            return False
        self._hold(run_id, function_id, address)
        return True

    def release(self, run_id: str, waits: bool = False) -> None:
        """The run does not execute, or no longer; `waits`: it still wants to, from its old
        place.
        """
        if not waits:
            self.rows.settle(run_id)
        held = self._holders.pop(run_id, None)
        if held is not None:
            function_id, address = held
            self._busy[function_id] -= 1
            if not self._busy[function_id]:
                del self._busy[function_id]
            address.active -= 1
            self._forget(address)
            self._pump(address)
            if self._places.get(function_id) is not address:
                self._pump_of(function_id)  # it has moved, and may have been full

    def enqueue(self, run_id: str, function_id: str) -> None:
        """Wait to be sent. Waiting twice is waiting once."""
        if run_id not in self._holders:
            self.rows.join(run_id, function_id)
            self._pump_of(function_id)

    def discard(self, run_id: str) -> None:
        """The run no longer wants to be sent."""
        self.rows.leave(run_id)

    def is_queued(self, run_id: str) -> bool:
        """Whether the run waits to be sent."""
        return run_id in self.rows

    def take_queued(self, function_id: str) -> list[str]:
        """The runs that waited to be sent; they no longer wait here."""
        return self.rows.clear(function_id)

    def pump(self, url: str) -> None:
        """An address may be called more often than before: grant what is free."""
        address = self._addresses.get(url)
        if address is not None:
            self._pump(address)

    def _pump_of(self, function_id: str) -> None:
        address = self._places.get(function_id)
        if address is not None:
            self._pump(address)

    def _pump(self, address: _Address) -> None:
        while address.active < address.most:
            waiting = [
                (first, function_id)
                for function_id in address.functions
                if (first := self.rows.first(function_id)) and self._has_room(function_id)
            ]
            if not waiting:
                return
            _, function_id = min(waiting)
            run_id = self.rows.take(function_id)
            self._hold(run_id, function_id, address)
            self._grant(run_id)

    def _has_room(self, function_id: str) -> bool:
        address = self._places[function_id]
        if address.active >= address.most:
            return False
        return self._busy[function_id] < self.allowance(function_id)

    def _hold(self, run_id: str, function_id: str, address: _Address) -> None:
        self._holders[run_id] = function_id, address
        self._busy[function_id] += 1
        address.active += 1
