"""Which worker the runs of an actor go to. An actor is a function and a value of its actor key."""

from __future__ import annotations

from typing import NamedTuple

MOST_ACTORS = 100_000
"""Actors that are remembered; beyond that the one that was idle for longest is forgotten, and may
go anywhere.
"""


class Actor(NamedTuple):
    """What runs that belong together have in common."""

    function_id: str
    value: str


class Bindings:
    """Actors and their workers. Memory only: what a restart needs is in the runs' records."""

    def __init__(self, most: int = MOST_ACTORS) -> None:
        self._most = most
        self._workers: dict[Actor, str] = {}
        self._counts: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._workers)

    def get(self, actor: Actor) -> str | None:
        """The worker of an actor."""
        return self._workers.get(actor)

    def bind(self, actor: Actor, worker_id: str) -> None:
        """The actor is with this worker, and was just in use."""
        self.release(actor)
        self._workers[actor] = worker_id  # at the end: in the order of their last use
        self._counts[worker_id] = self._counts.get(worker_id, 0) + 1
        if len(self._workers) > self._most:
            self.release(next(iter(self._workers)))

    def release(self, actor: Actor) -> None:
        """The actor may go anywhere."""
        worker_id = self._workers.pop(actor, None)
        if worker_id is not None:
            self._counts[worker_id] -= 1
            if not self._counts[worker_id]:
                del self._counts[worker_id]

    def release_all(self, worker_id: str) -> None:
        """The actors of a worker may go anywhere."""
        for actor in [a for a, holder in self._workers.items() if holder == worker_id]:
            self.release(actor)

    def count(self, worker_id: str) -> int:
        """How many actors a worker has."""
        return self._counts.get(worker_id, 0)
