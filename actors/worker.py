"""The actor of one worker: the poll that it holds open, its heartbeat, and the leases of what it
executes.

A worker that is not heard of for longer than its heartbeat allows is offline and gets nothing; each
of its jobs is lost when the lease runs out, and the run is queued again.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ironflow.actors.fleet import BEATS, Fleet, Offer, Signal
from ironflow.actors.jobs import Lease, make_job
from ironflow.actors.kernel import LATER, Actor, Envelope
from ironflow.actors.worker_queue import Worker
from ironflow.core import pull
from ironflow.core.clock import SECOND, Clock
from ironflow.core.errors import NotFound
from ironflow.core.messages import Message
from ironflow.core.remote import Signals, Woken

DROPPED = 8.0
"""Seconds after which a worker that has hung up, and asks for nothing, is taken to be draining."""
DELIVERY = 30.0
"""Seconds until a job that was sent to a worker must be acknowledged: the connection may have
broken under the answer.
"""
MISSED = 0.5
"""The part of a lease after which a worker that says nothing is offline: a heartbeat and a half."""
FORGET_AFTER = 600.0
"""Seconds after which a worker that is offline and has nothing is forgotten."""


GRANT_WAIT = 2.0
"""Seconds for which a poll that was not to wait is held all the same, when runs were granted."""


class RegisterWorker(Message[None], frozen=True, kw_only=True):
    """The worker is there, and what it takes. Again: it takes this from now on."""

    functions: frozenset[str]
    capacity: int
    hostname: str = ""
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    version: dict[str, str] = msgspec.field(default_factory=dict)
    heartbeat: float | None = None
    """Seconds between its heartbeats, if it says so."""
    commands: bool = False
    instance: str = ""
    """Differs from one process of this worker to the next, if it says so."""


class News(msgspec.Struct, frozen=True):
    """The answer to a poll."""

    jobs: list[pull.Job]
    signals: Signals = Signals()


class PollJobs(Message[News], frozen=True, kw_only=True):
    """The worker has room for `available` jobs and waits up to `wait` seconds for the first."""

    available: int
    wait: float


class PollDropped(Message[None], frozen=True):
    """Whoever waits for the answer to this poll is gone."""

    poll: PollJobs


class Heartbeat(Message[None], frozen=True):
    """The worker lives, and has these jobs."""

    jobs: frozenset[str]
    draining: bool = False
    """It ends what it has and takes nothing new."""


class Leave(Message[None], frozen=True):
    """The worker is about to end, and has nothing."""


class _PollOver(Message[None], frozen=True):
    """The poll was held long enough."""

    poll: PollJobs


class _Flush(Message[None], frozen=True):
    """Answer the held poll with what was offered."""


class _Look(Message[None], frozen=True):
    """A lease may have run out, or the worker may be silent for too long."""


class WorkerActor(Actor):
    """One worker, named by the actor's key."""

    def __init__(self, fleet: Fleet, clock: Clock) -> None:
        self.fleet, self.clock = fleet, clock
        self.held: tuple[Envelope, PollJobs] | None = None
        self.offered: list[Lease] = []
        self.signals: list[Signal] = []
        self.flushing = False
        self.look_at: float | None = None
        self.hung_up_at: float | None = None
        """When the poll was dropped after which no other has come."""

    def is_quiet(self) -> bool:
        """Kept while the worker is known."""
        return self.key not in self.fleet.workers

    def stop(self) -> None:
        """A crash or the end: the worker registers again."""
        self.fleet.forget(self.key, f"worker {self.key} was forgotten")

    def receive(self, message: Message[Any], envelope: Envelope) -> object:
        """Understands the messages of this module, and `Offer`."""
        match message:
            case PollJobs():
                return self._poll(message, envelope)
            case _Flush():
                return self._flush()
            case RegisterWorker():
                self._register(message)
            case Offer():
                self._offer(message.lease)
            case Signal():
                self._signal(message)
            case Heartbeat():
                self._beat(message)
            case PollDropped():
                self._hang_up(message.poll)
            case _PollOver():
                self._end_poll(message.poll)
            case Leave():
                self.fleet.forget(self.key, f"worker {self.key} has ended")
                self.cell.leave_when_quiet()
            case _Look():
                self._look()
            case _:
                return super().receive(message, envelope)
        return None

    # -- what the worker says ---------------------------------------------------------------------

    def _register(self, message: RegisterWorker) -> None:
        now, known = self.clock.now(), self.fleet.workers.get(self.key)
        if known is not None and known.instance != message.instance:
            # Its process was started anew: what the old one had is gone with it.
            self.fleet.lose_all(known, f"worker {self.key} was started anew")
        worker = Worker(
            self.key,
            message.functions,
            message.capacity,
            known.registered_at if known is not None else now,
            now,
            message.hostname,
            message.labels,
            message.version,
            self.fleet.lease if message.heartbeat is None else BEATS * message.heartbeat,
            message.instance,
            commands=message.commands,
            jobs=known.jobs if known is not None else {},
        )
        self.hung_up_at = None
        self.fleet.enlist(worker)
        self._set_look()

    def _worker(self) -> Worker:
        worker = self.fleet.workers.get(self.key)
        if worker is None:
            self.cell.leave_when_quiet()
            raise NotFound("worker", self.key)
        worker.heard_at, worker.online = self.clock.now(), True
        return worker

    def _poll(self, message: PollJobs, envelope: Envelope) -> object:
        worker = self._worker()
        worker.draining, self.hung_up_at = False, None
        if self.held is not None:
            # It asks anew: the connection of the older poll is as good as gone.
            self._answer([])
        self.signals = [s for s in self.signals if s.what == "dropped" or self._is_open(s.lease)]
        self.offered = [lease for lease in self.offered if self._is_open(lease)]
        worker.credit = max(message.available - len(self.offered), 0)
        self.held = (envelope, message)
        self.fleet.queue.pump(worker)
        granted = worker.credit < message.available
        if self.offered or self.signals:
            self._flush_soon()
        elif (message.wait <= 0 and not granted) or self.fleet.closed:
            worker.credit = 0
            self.held = None
            return News([])
        # What was just granted comes as soon as its commit is durable.
        wait = max(message.wait, GRANT_WAIT) if granted else message.wait
        self.system.later(wait, self.system.at(self.address), _PollOver(message))
        return LATER

    def _beat(self, message: Heartbeat) -> None:
        worker = self._worker()
        expires_at = self.system.loop.time() + worker.lease
        for job_id in message.jobs:
            lease = worker.jobs.get(job_id)
            if lease is not None and lease.delivered:
                lease.expires_at = expires_at
        if message.draining:
            self._drain(worker)
        self._set_look()

    def _drain(self, worker: Worker) -> None:
        """It gets nothing new; who waited for it goes to others."""
        if not worker.draining:
            worker.draining, worker.credit = True, 0
            self.fleet.queue.fail_over(worker)

    # -- jobs -------------------------------------------------------------------------------------

    def _offer(self, lease: Lease) -> None:
        self.offered.append(lease)
        if self.held is not None:
            self._flush_soon()
        self._set_look()

    def _signal(self, signal: Signal) -> None:
        self.signals.append(signal)
        if self.held is not None:
            self._flush_soon()

    def _flush_soon(self) -> None:
        """After what is in the mailbox already: offers of one moment share an answer."""
        if not self.flushing:
            self.flushing = True
            self.system.at(self.address).post(_Flush())

    async def _flush(self) -> None:
        self.flushing = False
        if self.held is None or not (self.offered or self.signals):
            return  # a job that was granted is still on its way; it brings the next flush
        offered, self.offered = [lease for lease in self.offered if self._is_open(lease)], []
        worker = self.fleet.workers.get(self.key)
        by_commands = worker is not None and worker.commands
        jobs = []
        for lease in offered:
            lease.expires_at = self.system.loop.time() + DELIVERY
            try:
                jobs.append(await make_job(lease, by_commands, self.clock))
            except NotFound as error:
                self.fleet.lose(lease, f"its record cannot be read: {error}")
        if jobs or self.signals:
            for lease in offered:
                lease.delivered = True
            self._answer(jobs)
        self._set_look()

    def _answer(self, jobs: list[pull.Job]) -> None:
        held, self.held = self.held, None
        worker = self.fleet.workers.get(self.key)
        if worker is not None:
            worker.credit = 0
        if held is None:
            return
        told, self.signals = self.signals, []
        self.cell.answer(held[0], News(jobs, self._encode(told)))

    def _encode(self, told: list[Signal]) -> Signals:
        woken = []
        for signal in told:
            step = signal.lease.assignment.record().steps.get(signal.key)
            if signal.what == "woken" and step is not None:
                woken.append(Woken(signal.lease.job_id, step))
        return Signals(
            tuple(woken),
            tuple(s.lease.job_id for s in told if s.what == "cancelled"),
            tuple(s.lease.job_id for s in told if s.what == "dropped"),
        )

    def _end_poll(self, poll: PollJobs) -> None:
        if self.held is not None and self.held[1] is poll:
            self._answer([])

    def _hang_up(self, poll: PollJobs) -> None:
        """Whoever held the poll is gone: the connection broke, or the worker is about to end."""
        if self.held is not None and self.held[1] is poll:
            self._answer([])
            self.hung_up_at = self.system.loop.time()
            self._set_look()

    def _is_open(self, lease: Lease) -> bool:
        return self.fleet.leases.get(lease.assignment.run_id) is lease

    # -- silence ----------------------------------------------------------------------------------

    def _look(self) -> None:
        self.look_at = None
        worker = self.fleet.workers.get(self.key)
        if worker is None:
            return
        now, silent = self.system.loop.time(), self._silence(worker)
        for lease in list(worker.jobs.values()):
            if lease.expires_at <= now:
                if lease.delivered:
                    seconds = (self.clock.now() - lease.began_at) / SECOND
                    self.fleet.lose(
                        lease, f"worker {worker.id} was not heard of it; it had it {seconds:.0f} s"
                    )
                else:  # never picked up: nobody is to blame
                    self.fleet.close_lease(lease.assignment.run_id, lease)
                    lease.assignment.effects.leave()
        if worker.online and silent >= worker.lease * MISSED and self.held is None:
            worker.online = False
            self.fleet.queue.fail_over(worker)
        if self.hung_up_at is not None and now - self.hung_up_at >= DROPPED:
            self._drain(worker)
        if not worker.online and not worker.jobs and silent >= FORGET_AFTER:
            self.fleet.forget(self.key, f"worker {self.key} was forgotten")
            self.cell.leave_when_quiet()
            return
        self._set_look()

    def _silence(self, worker: Worker) -> float:
        return (self.clock.now() - worker.heard_at) / SECOND

    def _set_look(self) -> None:
        """Have `_Look` come when the first lease ends, or the worker has been silent for too
        long.
        """
        worker = self.fleet.workers.get(self.key)
        if worker is None:
            return
        now = self.system.loop.time()
        patience = worker.lease * MISSED if worker.online else FORGET_AFTER
        ends = [now + max(patience - self._silence(worker), 0.0)]
        ends += [lease.expires_at for lease in worker.jobs.values()]
        if self.hung_up_at is not None and not worker.draining:
            ends.append(self.hung_up_at + DROPPED)
        at = max(min(ends), now + 0.05)
        if self.look_at is None or at < self.look_at - 0.001:
            self.look_at = at
            self.system.later(at - now, self.system.at(self.address), _Look())
