"""The slots in which bodies execute in this process, and the order in which runs wait for one.

A run holds a slot exactly while its status is `running`. Queued runs wait first in, first out;
those of functions that nothing here serves wait until something does.
"""

from __future__ import annotations

from collections.abc import Callable

from ironflow.actors.slots.waiting_rows import WaitingRows

Grant = Callable[[str], None]
Serves = Callable[[str], bool]
ROW = ""
"""Here all wait in one row."""


class Pool:
    """`capacity` slots; `grant(run_id)` tells a waiting run that it holds one."""

    def __init__(self, capacity: int, serves: Serves, grant: Grant) -> None:
        if capacity < 1:
            raise ValueError("capacity must be at least 1")
        self.capacity = capacity
        self._serves, self._grant = serves, grant
        self._holders: set[str] = set()
        self.rows: WaitingRows[str] = WaitingRows()
        """One row, of functions that are served."""
        self._unserved: dict[str, dict[str, None]] = {}
        self._closed = False

    @property
    def active(self) -> int:
        """Slots in use."""
        return len(self._holders)

    @property
    def queued(self) -> int:
        """Runs that wait for a slot."""
        return len(self.rows)

    @property
    def unserved(self) -> int:
        """Runs of functions that nothing here serves."""
        return sum(len(runs) for runs in self._unserved.values())

    def acquire(self, run_id: str) -> bool:
        """Take a slot at once if one is free and nobody waits for it. A holder may ask again."""
        if run_id in self._holders:
            return True
        if self._closed or self.rows or len(self._holders) >= self.capacity:
            return False
        self._holders.add(run_id)
        return True

    def release(self, run_id: str, waits: bool = False) -> None:
        """Give the slot back, if the run holds one, to whoever waits longest; `waits`: the run
        still wants one, from its old place.
        """
        if not waits:
            self.rows.settle(run_id)
        if run_id in self._holders:
            self._holders.discard(run_id)
            if self.rows:
                self._pump()

    def enqueue(self, run_id: str, function_id: str) -> None:
        """Wait for a slot. Waiting twice is waiting once; a run that was just granted
        one does not wait.
        """
        if run_id in self._holders:
            return
        if not self._serves(function_id):
            self._unserved.setdefault(function_id, {})[run_id] = None
            return
        self.rows.join(run_id, ROW)
        self._pump()

    def discard(self, run_id: str, function_id: str) -> None:
        """The run no longer wants a slot."""
        self.rows.leave(run_id)
        waiting = self._unserved.get(function_id)
        if waiting is not None:
            waiting.pop(run_id, None)
            if not waiting:
                del self._unserved[function_id]

    def is_queued(self, run_id: str) -> bool:
        """Whether the run waits for a slot."""
        if run_id in self.rows:
            return True
        return bool(self._unserved) and any(run_id in runs for runs in self._unserved.values())

    def serve(self, function_id: str) -> None:
        """The function can be executed here from now on."""
        for run_id in self.take_unserved(function_id):
            self.enqueue(run_id, function_id)

    def take_unserved(self, function_id: str) -> list[str]:
        """The runs that waited for somebody to serve the function; they no longer wait here."""
        return list(self._unserved.pop(function_id, {}))

    def close(self) -> None:
        """Grant nothing any more: the process is draining."""
        self._closed = True

    def _pump(self) -> None:
        while self.rows and len(self._holders) < self.capacity and not self._closed:
            run_id = self.rows.take(ROW)
            self._holders.add(run_id)
            self._grant(run_id)
