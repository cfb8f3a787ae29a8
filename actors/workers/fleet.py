"""Workers that ask for work, and the runs that wait for them: the slots and the `Host` of bodies
that are executed in other processes.

What is here is memory only. A worker that a server does not know registers again; a run whose
worker is lost is queued again by its record. Nothing polls: a run that becomes ready answers a held
poll at once, and a poll that finds runs waiting is answered at once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from ironflow.actors.elsewhere.host import Elsewhere
from ironflow.actors.elsewhere.jobs import Lease, end_execution, new_lease
from ironflow.actors.workers.affinity import Actor
from ironflow.actors.workers.queue import LEASE, Signal, Worker, WorkerQueue
from ironflow.core.clock import Clock
from ironflow.core.messages import Message
from ironflow.core.runs import commands as c
from ironflow.core.runs.entries import CancelRung
from ironflow.core.runs.execution import Assignment

if TYPE_CHECKING:
    from ironflow.actors.kernel.system import System

log = logging.getLogger("ironflow.workers")

BEATS = 3
"""Heartbeats that a lease lasts."""
CANCEL_GRACE = 30.0
"""Seconds that a worker's body has to unwind and to compensate, before it is ended without it."""
PICK_UP = 10.0
"""Seconds that a job which was made for a poll waits for another one, when that poll is gone."""


class Flush(Message[None], frozen=True):
    """There is something for the worker that is this actor's key: a job, or a signal."""


class Fleet(Elsewhere):
    """Pull functions, their workers, their queue, and the executions that workers have."""

    def __init__(
        self,
        clock: Clock,
        system: System,
        grant: Callable[[str], None],
        knows: Callable[[str], bool],
        lease: float = LEASE,
        patience: float = 0.0,
    ) -> None:
        """`grant(run_id)` tells a run that a worker was chosen for it; `knows` whether anything
        executes a function. `patience`: see `WorkerQueue`.
        """
        super().__init__(clock, system, knows)
        self.lease = lease
        self.queue = WorkerQueue(system.call_later, self._specs, grant, patience)
        self.workers: Mapping[str, Worker] = self.queue.workers

    def held_up(self, function_id: str) -> str | None:
        """Why no run of a function is handed out now, if that is not for want of room."""
        spec = self._specs.get(function_id)
        if spec is None or any(worker.takes(spec) for worker in self.workers.values()):
            return None
        wanted = ", ".join(f"{name}={value}" for name, value in spec.definition.labels.items())
        labelled = f" with the labels {wanted}" if wanted else ""
        return f"no worker{labelled} that takes function {function_id!r} is connected"

    # -- slots ------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Draining: nothing is handed out any more."""
        return self.queue.closed

    @property
    def active(self) -> int:
        """Executions that workers have or are about to get."""
        return len(self.leases) + len(self.queue.reserved)

    @property
    def queued(self) -> int:
        """Runs that wait for a worker."""
        return len(self.queue.rows)

    def acquire(self, run_id: str, function_id: str) -> bool:
        """Choose a worker at once, if one asks for work now and nobody waits for it."""
        return run_id in self.leases or self.queue.acquire(run_id, function_id)

    def prefer(self, run_id: str, actor: Actor, worker_id: str | None) -> None:
        """The run has an actor; `worker_id` had it last. To be said whenever it asks for a slot."""
        if run_id not in self.leases:
            self.queue.prefer(run_id, actor, worker_id)

    def chosen(self, run_id: str) -> str | None:
        """The worker that was chosen for a run, or has it."""
        lease = self.leases.get(run_id)
        return self.queue.reserved.get(run_id) if lease is None else lease.holder

    def release(self, run_id: str, waits: bool = False) -> None:
        """The run does not execute, or no longer; `waits`: it still wants to, from its old
        place.
        """
        self.queue.release(run_id, waits)
        self.close_lease(run_id)

    def enqueue(self, run_id: str, function_id: str) -> None:
        """Wait for a worker. Waiting twice is waiting once."""
        if run_id not in self.leases and run_id not in self.queue.reserved:
            self.queue.enqueue(run_id, function_id)

    def discard(self, run_id: str) -> None:
        """The run no longer wants a worker."""
        self.queue.leave(run_id)

    def is_queued(self, run_id: str) -> bool:
        """Whether the run waits for a worker."""
        return run_id in self.queue.rows

    def take_queued(self, function_id: str) -> list[str]:
        """The runs that waited for a worker; they no longer wait here."""
        return self.queue.clear(function_id)

    def held_up_by_actor(self, run_id: str) -> str | None:
        """Which worker a run waits for, if its actor is with one."""
        found = self.queue.waits_for(run_id)
        if found is None:
            return None
        actor, worker_id = found
        before = self.queue.rows.before(run_id) or 0
        worker = self.workers.get(worker_id)
        if worker is None:
            state = "which is expected back after the start of the server"
        else:
            state = f"which has {len(worker.jobs)} of the {worker.capacity} runs that it takes"
        return f"its actor {actor!r} is with worker {worker_id}, {state}; {before} wait before it"

    def close(self) -> None:
        """Hand out nothing any more: the process is draining."""
        self.queue.close()

    # -- the Host ---------------------------------------------------------------------------------

    def start(self, assignment: Assignment) -> None:
        """Hand an execution to the worker that was chosen for it."""
        worker = self.queue.use(assignment.run_id)
        if worker is None or self.closed:
            assignment.effects.leave()
            return
        expires_at = self.system.loop.time() + PICK_UP
        lease = new_lease(assignment, worker.id, expires_at, self.clock.now())
        self.leases[assignment.run_id] = worker.jobs[lease.job_id] = lease
        worker.offered.append(lease)
        self.bring(worker)

    def wake(self, run_id: str, execution: int, key: str | None) -> bool:
        """Tell the worker that a wait of a body which is active has ended. A body that is parked is
        gone, and so is one that can only yield.
        """
        lease = self._held(run_id, execution)
        if lease is None or key is None:
            return False
        return self._tell(lease, Signal(lease, "woken", key))

    def cancel(self, run_id: str, execution: int) -> None:
        """Unwind an execution. A worker that hears no signals learns of it at its next report;
        nobody waits for it.
        """
        lease = self._held(run_id, execution)
        if lease is None:
            return
        if self._tell(lease, Signal(lease, "cancelled")):
            self._note(lease, "asked")
            self.system.call_later(CANCEL_GRACE, partial(self._end_cancelled, lease))
        else:
            self._end_cancelled(lease)

    def _end_cancelled(self, lease: Lease) -> None:
        if self.leases.get(lease.assignment.run_id) is lease:
            self._note(lease, "abandoned")
            execution = lease.assignment.execution
            end = c.EndExecution(execution=execution, outcome="unwound")
            _ = self._spawn(end_execution(lease.assignment, end))

    def _note(self, lease: Lease, rung: CancelRung) -> None:
        """Have the run's history say what was done to end its body."""
        note = c.NoteCancel(lease.assignment.execution, rung, f"worker {lease.holder}")
        self.system.ref("run", lease.assignment.run_id).post(note)

    def drop(self, run_id: str) -> None:
        """The execution no longer owns the run."""
        lease = self.leases.get(run_id)
        if lease is not None:
            self._tell(lease, Signal(lease, "dropped"))
        self.close_lease(run_id)

    def _tell(self, lease: Lease, signal: Signal) -> bool:
        worker = self.workers.get(lease.holder)
        if worker is None or not worker.commands:
            return False
        worker.signals.append(signal)
        self.bring(worker)
        return True

    # -- what is on its way -----------------------------------------------------------------------

    def bring(self, worker: Worker) -> None:
        """Something is there for a worker: the answer to reports that are just being recorded
        takes it along, else the poll that it holds open.
        """
        if not worker.flushing and not (worker.reporting and worker.window):
            worker.flushing = True
            self.system.ref("worker", worker.id).post(Flush())

    # -- leases -----------------------------------------------------------------------------------

    def close_lease(self, run_id: str, lease: Lease | None = None) -> None:
        """The execution is over: whatever its worker still says is refused."""
        held = self.leases.get(run_id)
        if held is None or (lease is not None and held is not lease):
            return
        del self.leases[run_id]
        worker = self.workers.get(held.holder)
        if worker is not None and worker.jobs.pop(held.job_id, None) is not None:
            worker.ending -= held.is_ending
            self.queue.pump(worker)

    def came_to_nothing(self, lease: Lease) -> None:
        """The worker gives the run back as it got it: its budget counts that."""
        run_id = lease.assignment.run_id
        if self.leases.get(run_id) is lease:
            self.close_lease(run_id, lease)
            lease.assignment.effects.leave(f"worker {lease.holder} recorded nothing")

    def enlist(self, worker: Worker) -> None:
        """A worker is there, or says anew what it is."""
        self.queue.admit(worker)
        self.queue.fail_over(worker)

    def forget(self, worker_id: str, reason: str) -> None:
        """A worker is gone, and what it had with it."""
        worker = self.queue.remove(worker_id)
        if worker is not None:
            self.lose_all(worker, reason)

    def lose_all(self, worker: Worker, reason: str) -> None:
        """The worker has nothing any more: its runs are queued again."""
        for lease in list(worker.jobs.values()):
            self.lose(lease, reason)

    def lose(self, lease: Lease, reason: str) -> None:
        """The worker is gone: the run is queued again, and its budget counts it."""
        run_id = lease.assignment.run_id
        if self.leases.get(run_id) is lease:
            self.close_lease(run_id, lease)
            log.warning("run %s lost its worker: %s", run_id, reason)
            lease.assignment.effects.leave(reason)
