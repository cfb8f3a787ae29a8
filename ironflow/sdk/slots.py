"""The jobs that a worker has: so many execute at once, and a few are there before their turn.

A job that the server sends once it has heard that a slot is free takes a round trip to come, and a
slot whose bodies are as short as that stands empty half of the time. So the worker asks for some
more, as many as its slots take up in about a round trip: none where bodies are long. One that
waits here for longer all the same, because this body is not like those before it, is given back.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

import msgspec

from ironflow.core.remote.reports import RecordedJob, Shadow
from ironflow.sdk.link import RemoteEffects

PATIENCE = 0.2
"""Seconds after which a job that waits for a slot is given back: others may be idle."""
AHEAD = 1.5
"""Jobs that are asked for ahead, for each one that is taken up in a round trip."""
NEWEST = 0.2
"""Weight of the newest body in what is known of how long bodies take."""


class Held(msgspec.Struct, eq=False):
    """A job that this worker has."""

    job: RecordedJob
    shadow: Shadow
    effects: RemoteEffects
    since: float = 0.0
    """When it came, then when it began, by the loop's clock."""
    executes: bool = False

    @property
    def run_id(self) -> str:
        """The run."""
        return self.job.record.id


class Slots:
    """Jobs by their ids, and whose turn it is."""

    def __init__(
        self,
        concurrency: int,
        begin: Callable[[Held], None],
        give_back: Callable[[Held], None],
    ) -> None:
        """`begin` is called for a job whose turn it is, `give_back` for one that waited too
        long.
        """
        self.loop = asyncio.get_running_loop()
        self.concurrency, self._begin, self._give_back = concurrency, begin, give_back
        self.jobs: dict[str, Held] = {}
        """All of them."""
        self._waiting: deque[Held] = deque()
        self._executing = 0
        self._seconds = float("inf")
        """How long bodies take, the newest counting most; nothing is known yet."""
        self._alarm: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self.jobs)

    def window(self, round_trip: float) -> int:
        """How many jobs this worker takes at a time, where the way to the server and back takes so
        many seconds.
        """
        taken_up = self.concurrency * round_trip / max(self._seconds, round_trip, 1e-6)
        return self.concurrency + min(round(AHEAD * taken_up), self.concurrency)

    def add(self, held: Held) -> None:
        """A job has come."""
        self.jobs[held.job.job_id] = held
        held.since = self.loop.time()
        if self._executing < self.concurrency:
            self._start(held)
            return
        self._waiting.append(held)
        if self._alarm is None:
            self._alarm = self.loop.call_later(PATIENCE, self._lose_patience)

    def free(self, held: Held) -> None:
        """Its body is over, or out of memory: its slot is somebody else's."""
        if not held.executes:
            return
        held.executes = False
        self._executing -= 1
        seconds = self.loop.time() - held.since
        if self._seconds == float("inf"):
            self._seconds = seconds
        self._seconds += NEWEST * (seconds - self._seconds)
        while self._waiting and self._executing < self.concurrency:
            self._start(self._waiting.popleft())

    def remove(self, held: Held) -> None:
        """The job is over."""
        if self.jobs.get(held.job.job_id) is held:
            del self.jobs[held.job.job_id]
        self.free(held)

    def withdraw(self, held: Held) -> bool:
        """Have a job not begin any more; False when it has begun."""
        if held not in self._waiting:
            return False
        self._waiting.remove(held)
        return True

    def give_back_waiting(self) -> None:
        """Give back whatever has not begun."""
        waiting, self._waiting = self._waiting, deque()
        for held in waiting:
            self._give_back(held)
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _start(self, held: Held) -> None:
        held.since, held.executes = self.loop.time(), True
        self._executing += 1
        self._begin(held)

    def _lose_patience(self) -> None:
        self._alarm = None
        if not self._waiting:
            return
        now = self.loop.time()
        left = self._waiting[0].since + PATIENCE - now
        if left > 0.001:
            self._alarm = self.loop.call_later(left, self._lose_patience)
            return
        # Those that execute now are longer than the ones before them; nothing is asked for ahead
        # until shorter ones have come again.
        self._seconds = max(self._seconds, PATIENCE)
        self.give_back_waiting()
