"""The actor of one worker: the poll that it holds open, its heartbeat, and the leases of what it
executes.

A worker that is not heard of for longer than its heartbeat allows is offline and gets nothing; each
of its jobs is lost when the lease runs out, and the run is queued again.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from ironflow.actors.kernel.actor import LATER, Actor, Envelope
from ironflow.actors.workers.exchange import NOTHING, News, is_open, take_news
from ironflow.actors.workers.fleet import BEATS, Fleet, Flush
from ironflow.actors.workers.queue import Worker
from ironflow.core.clock import SECOND, Clock
from ironflow.core.errors import NotFound
from ironflow.core.messages import Message

DROPPED = 8.0
"""Seconds after which a worker that has hung up, and asks for nothing, is taken to be draining."""
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
    window: int = 0
    """How many jobs it takes at a time, where the server is to keep count of them."""
    instance: str = ""
    """Differs from one process of this worker to the next, if it says so."""


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


class _Look(Message[None], frozen=True):
    """A lease may have run out, or the worker may be silent for too long."""


class WorkerActor(Actor):
    """One worker, named by the actor's key."""

    def __init__(self, fleet: Fleet, clock: Clock) -> None:
        self.fleet, self.clock = fleet, clock
        self.held: tuple[Envelope, PollJobs] | None = None
        self.poll_ends: asyncio.TimerHandle | None = None
        self.look: asyncio.TimerHandle | None = None
        self.look_at = 0.0
        self.hung_up_at: float | None = None
        """When the poll was dropped after which no other has come."""

    def is_quiet(self) -> bool:
        """Kept while the worker is known."""
        return self.key not in self.fleet.workers

    def stop(self) -> None:
        """A crash or the end: the worker registers again."""
        for alarm in (self.look, self.poll_ends):
            if alarm is not None:
                alarm.cancel()
        self.fleet.forget(self.key, f"worker {self.key} was forgotten")

    def receive(self, message: Message[Any], envelope: Envelope) -> object:
        """Understands the messages of this module, and `Flush`."""
        match message:
            case PollJobs():
                return self._poll(message, envelope)
            case Flush():
                return self._flush()
            case RegisterWorker():
                self._register(message)
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
            self._answer(NOTHING)
            self.fleet.lose_all(known, f"worker {self.key} was started anew")
            known.signals.clear()
        worker = known or Worker(self.key, message.functions, message.capacity, now, now)
        worker.functions, worker.capacity = message.functions, message.capacity
        worker.hostname, worker.labels = message.hostname, message.labels
        worker.version, worker.instance = message.version, message.instance
        worker.lease = self.fleet.lease
        if message.heartbeat is not None:
            worker.lease = BEATS * message.heartbeat
        worker.commands = message.commands
        worker.window = message.window if message.commands else 0
        worker.heard_at, worker.online, worker.draining = now, True, False
        self.hung_up_at = None
        self.fleet.enlist(worker)
        self._look_by(self.system.loop.time() + worker.lease * MISSED)

    def _worker(self) -> Worker:
        worker = self.fleet.workers.get(self.key)
        if worker is None:
            self.cell.leave_when_quiet()
            raise NotFound("worker", self.key)
        worker.heard_at = self.clock.now()
        if not worker.online:
            worker.online = True
            self._look_by(self.system.loop.time() + worker.lease * MISSED)
        return worker

    def _poll(self, message: PollJobs, envelope: Envelope) -> object:
        worker = self._worker()
        worker.draining, self.hung_up_at = False, None
        if self.held is not None:
            # It asks anew: the connection of the older poll is as good as gone.
            self._answer(NOTHING)
        worker.signals = [
            s for s in worker.signals if s.what == "dropped" or is_open(self.fleet, s.lease)
        ]
        worker.offered = [lease for lease in worker.offered if is_open(self.fleet, lease)]
        worker.asked = max(message.available - len(worker.offered), 0)
        self.held, worker.polling = (envelope, message), True
        self.fleet.queue.pump(worker)
        granted = worker.promised > 0
        if worker.offered or worker.signals:
            self.fleet.bring(worker)
        elif (message.wait <= 0 and not granted) or self.fleet.closed:
            self._let_go(worker)
            return NOTHING
        # What was just granted comes as soon as its commit is durable.
        wait = max(message.wait, GRANT_WAIT) if granted else message.wait
        self.poll_ends = self.system.later(wait, self.system.at(self.address), _PollOver(message))
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

    def _drain(self, worker: Worker) -> None:
        """It gets nothing new; who waited for it goes to others."""
        if not worker.draining:
            worker.draining, worker.asked = True, 0
            self.fleet.queue.fail_over(worker)

    # -- jobs -------------------------------------------------------------------------------------

    def _flush(self) -> object:
        """Something has come: it goes out with the held poll. What comes at one moment shares an
        answer: this message comes behind those that brought it.
        """
        worker = self.fleet.workers.get(self.key)
        if worker is None:
            return None
        worker.flushing = False
        if worker.offered:
            self._look_by(min(lease.expires_at for lease in worker.offered))
        if self.held is None or not (worker.offered or worker.signals):
            return None  # a job that was granted is still on its way; it brings the next flush
        return self._bring(worker)

    async def _bring(self, worker: Worker) -> None:
        if news := await take_news(self.fleet, worker):
            self._answer(news)

    def _answer(self, news: News) -> None:
        held, worker = self.held, self.fleet.workers.get(self.key)
        if worker is not None:
            self._let_go(worker)
        self.held = None
        if held is not None:
            self.cell.answer(held[0], news)

    def _let_go(self, worker: Worker) -> None:
        """There is no poll any more that could be answered."""
        self.held, worker.polling, worker.asked = None, False, 0
        if self.poll_ends is not None:
            self.poll_ends.cancel()
            self.poll_ends = None
        if worker.online:
            self._look_by(self.system.loop.time() + self._patience(worker))

    def _end_poll(self, poll: PollJobs) -> None:
        worker = self.fleet.workers.get(self.key)
        if worker is not None and self.held is not None and self.held[1] is poll:
            worker.heard_at = self.clock.now()  # whoever holds a poll to its end is there
            self._answer(NOTHING)

    def _hang_up(self, poll: PollJobs) -> None:
        """Whoever held the poll is gone: the connection broke, or the worker is about to end."""
        if self.held is not None and self.held[1] is poll:
            self._answer(NOTHING)
            self.hung_up_at = self.system.loop.time()
            self._look_by(self.hung_up_at + DROPPED)

    # -- silence ----------------------------------------------------------------------------------

    def _look(self) -> None:
        self.look = None
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
        self._look_again(worker, now)

    def _silence(self, worker: Worker) -> float:
        return (self.clock.now() - worker.heard_at) / SECOND

    def _patience(self, worker: Worker) -> float:
        """Seconds that it may go on saying nothing. Whoever holds a poll has nothing to say."""
        whole = worker.lease * MISSED if worker.online else FORGET_AFTER
        return whole if self.held is not None else max(whole - self._silence(worker), 0.0)

    def _look_again(self, worker: Worker, now: float) -> None:
        """Have `_Look` come when the first lease ends, or the worker has been silent for too
        long.
        """
        ends = [now + self._patience(worker)]
        ends += [lease.expires_at for lease in worker.jobs.values()]
        if self.hung_up_at is not None and not worker.draining:
            ends.append(self.hung_up_at + DROPPED)
        self._look_by(max(min(ends), now + 0.05))

    def _look_by(self, at: float) -> None:
        """Have `_Look` come at a moment of the loop's clock, if it does not come before. Leases are
        renewed far more often than they run out: that is only seen when it comes.
        """
        if self.look is not None:
            if self.look_at <= at:
                return
            self.look.cancel()
        self.look_at = at
        seconds = max(at - self.system.loop.time(), 0.0)
        self.look = self.system.later(seconds, self.system.at(self.address), _Look())
