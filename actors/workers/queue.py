"""Which worker gets which run: the workers there are, the runs that wait for one, and the grants.

A run waits in the row of its function, for whoever asks for work first. One with an actor that is
with a worker already waits for that very worker, also while it is full; it waits for anyone again
when the worker goes offline, drains, or no longer takes the function.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal

import msgspec

from ironflow.actors.elsewhere.jobs import Lease
from ironflow.actors.slots.waiting_rows import WaitingRows
from ironflow.actors.slots.windows import Later
from ironflow.actors.workers.affinity import Actor, Bindings
from ironflow.core.functions.definition import FunctionSpec

LEASE = 90.0
"""Seconds that a worker keeps a job without a word of it, unless it says how often it beats."""
RETURN_SECONDS = 10.0
"""After a start, how long runs wait for the workers that had them: those come back one by one."""
ANYONE = ""
"""In place of a worker's id: the row is for whoever comes."""

Row = tuple[str, str]
"""A function, and the worker that its runs wait for."""


class Signal(msgspec.Struct, frozen=True, eq=False):
    """Something that a worker is told of a job that it has."""

    lease: Lease
    what: Literal["woken", "cancelled", "dropped"]
    key: str = ""


class Worker(msgspec.Struct, eq=False):
    """A worker as it registered. Moments are microseconds."""

    id: str
    functions: frozenset[str]
    capacity: int
    registered_at: int
    heard_at: int
    hostname: str = ""
    labels: dict[str, str] = {}
    version: dict[str, str] = {}
    lease: float = LEASE
    """Seconds that it keeps a job without a word of it."""
    instance: str = ""
    """Differs from one process of this worker to the next, if it says so."""
    online: bool = True
    draining: bool = False
    """It ends what it has and takes nothing new."""
    commands: bool = False
    """It runs our executor: it reports commands and hears signals (`core.remote.reports`)."""
    asked: int = 0
    """Jobs that the poll it holds open may still be answered with, where there is no window."""
    window: int = 0
    """Jobs that it takes at a time, whatever brings them to it; 0: as many as each poll says."""
    polling: bool = False
    """It holds a poll open."""
    reporting: int = 0
    """Reports of it that are being recorded, whose answers may bring it jobs."""
    promised: int = 0
    """Grants whose jobs are not made yet."""
    ending: int = 0
    """Jobs whose end is being recorded: they take no room any more."""
    jobs: dict[str, Lease] = {}
    offered: list[Lease] = []
    """Jobs that are not on their way to it yet."""
    signals: list[Signal] = []
    """What it is to be told of jobs that it has."""
    flushing: bool = False
    """Its actor is about to bring it what is there."""

    @property
    def credit(self) -> int:
        """Jobs that may be granted to it now."""
        if not self.window:
            return self.asked
        if not (self.polling or self.reporting):
            return 0
        return self.window - self.load

    @property
    def load(self) -> int:
        """Jobs that it has or is about to get, but those that are as good as ended."""
        return len(self.jobs) + self.promised - self.ending

    @property
    def status(self) -> str:
        """`online`, `draining` or `offline`."""
        if not self.online:
            return "offline"
        return "draining" if self.draining else "online"

    def takes(self, spec: FunctionSpec) -> bool:
        """Whether it may be handed runs of this function."""
        wanted = spec.definition.labels
        return (
            self.online
            and not self.draining
            and spec.id in self.functions
            and all(self.labels.get(name) == value for name, value in wanted.items())
        )


class WorkerQueue:
    """Slots of workers. `specs` are the functions that workers execute, by id."""

    def __init__(
        self,
        later: Later,
        specs: Mapping[str, FunctionSpec],
        grant: Callable[[str], None],
        patience: float = 0.0,
    ) -> None:
        """`later` calls something after a number of seconds; `grant(run_id)` tells a run that a
        worker was chosen for it. `patience`: seconds that a run waits for its actor's worker while
        that is full; 0 is as long as it takes.
        """
        self._later, self._specs, self._grant = later, specs, grant
        self._patience = patience
        self.workers: dict[str, Worker] = {}
        self.reserved: dict[str, str] = {}
        """Run id to worker id, from the grant until the job is made."""
        self.bindings = Bindings()
        self.rows: WaitingRows[Row] = WaitingRows()
        self._actors: dict[str, tuple[Actor, str | None]] = {}
        """Of runs that ask for a slot: the actor, and who had the run last."""
        self._alarms: dict[str, asyncio.TimerHandle] = {}
        """When runs that wait for a certain worker have waited long enough."""
        self._expecting = False
        self.closed = False
        """Draining: nothing is handed out any more."""

    # -- asking for a slot ------------------------------------------------------------------------

    def prefer(self, run_id: str, actor: Actor, worker_id: str | None) -> None:
        """The run has an actor; `worker_id` had it last. Said again whenever it asks."""
        self._actors[run_id] = (actor, worker_id)

    def acquire(self, run_id: str, function_id: str) -> bool:
        """Choose a worker at once, if one asks for work now and nobody waits for it."""
        if run_id in self.reserved:
            return True
        worker_id = self._worker_of(run_id, function_id)
        if self.closed or self.rows.has((function_id, worker_id)):
            return False
        worker = self._idle_worker(function_id, worker_id)
        if worker is None:
            return False
        self._reserve(run_id, worker)
        return True

    def enqueue(self, run_id: str, function_id: str) -> None:
        """Wait for a worker. Waiting twice is waiting once."""
        worker_id = self._worker_of(run_id, function_id)
        row = (function_id, worker_id)
        if self.rows.row_of(run_id) != row:
            if run_id in self.rows:
                self.rows.move(run_id, row)
            else:
                self.rows.join(run_id, row)
            self._forget_alarm(run_id)
            if worker_id != ANYONE and self._patience:
                give_up = partial(self._give_up, run_id, row)
                self._alarms[run_id] = self._later(self._patience, give_up)
        worker = self._idle_worker(function_id, worker_id)
        if worker is not None:
            self.pump(worker)

    def release(self, run_id: str, waits: bool) -> None:
        """The run has no use for its grant; `waits`: it will ask again, from its old place."""
        if not waits:
            self.rows.settle(run_id)
            self._actors.pop(run_id, None)
        worker_id = self.reserved.pop(run_id, None)
        if worker_id is not None and (worker := self.workers.get(worker_id)) is not None:
            worker.promised -= 1
            worker.asked += worker.polling
            self.pump(worker)

    def use(self, run_id: str) -> Worker | None:
        """The run is executed now: the worker that was chosen, if it is still there."""
        self.rows.settle(run_id)
        self._actors.pop(run_id, None)
        worker = self.workers.get(self.reserved.pop(run_id, ""))
        if worker is not None:
            worker.promised -= 1
        return worker

    def leave(self, run_id: str) -> None:
        """The run no longer wants a worker."""
        self.rows.leave(run_id)
        self._actors.pop(run_id, None)
        self._forget_alarm(run_id)

    def clear(self, function_id: str) -> list[str]:
        """The runs that waited for a worker; they no longer wait here."""
        rows = [row for row in self.rows.rows() if row[0] == function_id]
        runs = [run_id for row in rows for run_id in self.rows.clear(row)]
        for run_id in runs:
            self._forget_alarm(run_id)
        return runs

    def waits_for(self, run_id: str) -> tuple[str, str] | None:
        """The actor and the worker that a run waits for, if it waits for a certain one."""
        row = self.rows.row_of(run_id)
        if row is None or row[1] == ANYONE:
            return None
        found = self._actors.get(run_id)
        return (found[0].value if found is not None else "", row[1])

    # -- workers ----------------------------------------------------------------------------------

    def pump(self, worker: Worker) -> None:
        """Grant runs to a worker that asks for work, those that wait longest first."""
        while len(self.rows) and worker.credit > 0 and not self.closed:
            row = self._next_row(worker)
            if row is None:
                return
            run_id = self.rows.take(row)
            # The actor of who waits for anyone may have come to be with somebody meanwhile.
            owner = self._worker_of(run_id, row[0]) if row[1] == ANYONE else worker.id
            if owner in (ANYONE, worker.id):
                self._reserve(run_id, worker)
                self._grant(run_id)
            else:
                self.enqueue(run_id, row[0])

    def _next_row(self, worker: Worker) -> Row | None:
        """The row of whoever has waited longest of those that a worker may have."""
        heads = [
            (head, row)
            for row in self.rows.rows()
            if row[0] in worker.functions
            and (row[1] == ANYONE or row[1] == worker.id)
            and (head := self.rows.first(row)) is not None
            and self._may_have(worker, row)
        ]
        if len(heads) > 1:
            return min(heads)[1]
        return heads[0][1] if heads else None

    def admit(self, worker: Worker) -> None:
        """A worker is there."""
        worker.promised = sum(holder == worker.id for holder in self.reserved.values())
        self.workers[worker.id] = worker

    def fail_over(self, worker: Worker) -> None:
        """Runs that wait for a worker, although it does not take them any more, wait for anyone."""
        for row in self.rows.rows():
            if row[1] == worker.id and not self._may_have(worker, row):
                self._open(row)

    def remove(self, worker_id: str) -> Worker | None:
        """The worker is not known any more."""
        worker = self.workers.pop(worker_id, None)
        if worker is not None:
            self.bindings.release_all(worker_id)
            for row in self.rows.rows():
                if row[1] == worker_id:
                    self._open(row)
        return worker

    def expect_workers(self) -> None:
        """The process has just started: runs wait a moment for the workers that had them."""
        self._expecting = True
        self._later(RETURN_SECONDS, self._expect_no_more)

    def _expect_no_more(self) -> None:
        self._expecting = False
        for row in self.rows.rows():
            if row[1] != ANYONE and row[1] not in self.workers:
                self._open(row)

    def close(self) -> None:
        """Hand out nothing any more: the process is draining."""
        self.closed = True
        for worker in self.workers.values():
            worker.asked = 0

    def _open(self, row: Row) -> None:
        """Whoever waits in a row of one worker waits for anyone."""
        for run_id in self.rows.members(row):
            self.rows.move(run_id, (row[0], ANYONE))
            self._forget_alarm(run_id)
        spec = self._specs.get(row[0])
        for worker in list(self.workers.values()):
            if spec is not None and worker.credit > 0 and worker.takes(spec):
                self.pump(worker)

    def _give_up(self, run_id: str, row: Row) -> None:
        """The worker of the run's actor was full for too long: another one may have both."""
        del self._alarms[run_id]
        if self.rows.row_of(run_id) == row and (found := self._actors.get(run_id)) is not None:
            actor, _ = found
            self.bindings.release(actor)
            self._actors[run_id] = (actor, None)
            self.enqueue(run_id, row[0])

    def _forget_alarm(self, run_id: str) -> None:
        alarm = self._alarms.pop(run_id, None)
        if alarm is not None:
            alarm.cancel()

    def _may_have(self, worker: Worker, row: Row) -> bool:
        spec = self._specs.get(row[0])
        return spec is not None and worker.takes(spec)

    def _worker_of(self, run_id: str, function_id: str) -> str:
        """The worker of the run's actor, if it has one that takes the run."""
        found = self._actors.get(run_id)
        if found is None:
            return ANYONE
        actor, last = found
        worker_id = self.bindings.get(actor)
        if worker_id is not None and self._is_there(worker_id, function_id):
            return worker_id
        if worker_id is not None:
            self.bindings.release(actor)
        elif last is not None and self._is_there(last, function_id):
            self.bindings.bind(actor, last)
            return last
        return ANYONE

    def _is_there(self, worker_id: str, function_id: str) -> bool:
        worker = self.workers.get(worker_id)
        if worker is None:
            return self._expecting
        return self._may_have(worker, (function_id, worker_id))

    def _idle_worker(self, function_id: str, worker_id: str) -> Worker | None:
        """Of those that ask for work now, the one that can begin with it soonest; or the one that
        it must be.
        """
        spec = self._specs.get(function_id)
        if spec is None:
            return None
        if worker_id != ANYONE:
            one = self.workers.get(worker_id)
            return one if one is not None and one.credit > 0 and one.takes(spec) else None
        idle = [w for w in self.workers.values() if w.credit > 0 and w.takes(spec)]
        if len(idle) > 1:
            return max(idle, key=_room)
        return idle[0] if idle else None

    def _reserve(self, run_id: str, worker: Worker) -> None:
        self._forget_alarm(run_id)
        worker.asked -= 1
        worker.promised += 1
        self.reserved[run_id] = worker.id
        if (found := self._actors.get(run_id)) is not None:
            self.bindings.bind(found[0], worker.id)


def _room(worker: Worker) -> tuple[int, int]:
    """Jobs that a worker would begin at once, then those that it would keep for a moment."""
    credit = worker.credit
    return min(credit, worker.capacity - worker.load), credit
