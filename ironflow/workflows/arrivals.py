"""What came to a run from outside: events, timers, ends of children."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import TYPE_CHECKING

from ironflow.core.values.payloads import Payload
from ironflow.core.workflows.state import (
    Collected,
    FanFed,
    Job,
    JobAdded,
    Signal,
    SignalTaken,
    Streamed,
    TurnOp,
    WaitMet,
    signal_key,
)
from ironflow.core.workflows.stream import INTERNAL, built_in
from ironflow.workflows.routing import Delivery

if TYPE_CHECKING:
    from ironflow.workflows.interpreter import Interpreter

log = logging.getLogger("ironflow.workflows")


class Arrivals:
    """How far an execution knows of what the journal has beside its own turns."""

    def __init__(self, body: Interpreter) -> None:
        self.body = body
        self.seen = -1  # what the record holds already has not been taken in by this execution
        self.next_signal = min(body.state.inbox, default=body.state.next_signal)
        self._children: dict[tuple[int, str], asyncio.Future[None]] = {}
        self._fetching: asyncio.Task[bytes] | None = None

    def take_in(self) -> None:
        """Signals, timers and ends of children that the journal has and that are new here."""
        record = self.body.record
        if record.outside == self.seen:
            return
        seen = record.outside
        while self.next_signal < record.next_signal:
            if signal_key(self.next_signal) in self.body.unsettled:
                seen = self.seen  # it wakes the run once it is stored; until then it has not come
                break
            signal = record.inbox.get(self.next_signal)
            if signal is not None:
                if not self.body.objects.has(signal.event.value):
                    self._fetch(signal.event.value)
                    seen = self.seen  # as above: it comes once its text is here
                    break
                self._take_signal(self.next_signal, signal)
            self.next_signal += 1
        self.seen = seen
        for job in list(self.body.state.jobs.values()):
            known = record.jobs.get(job.id)
            if known is not None and known is not job:
                self._follow(job, known)

    def _fetch(self, payload: Payload) -> None:
        """Read what is too large for the journal, and go on then."""
        if self._fetching is None:
            self._fetching = self.body.loop.create_task(self.body.objects.load(payload))
            self._fetching.add_done_callback(self._fetched)

    def _fetched(self, task: asyncio.Task[bytes]) -> None:
        self._fetching = None
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            self.body.wake(None)
        else:
            self.body.leave(error)

    def _take_signal(self, number: int, signal: Signal) -> None:
        data = signal.event
        self.body.emit(SignalTaken(number))
        kind = self.body.function.class_of(data.type)
        if kind is None:
            log.warning("run %s: nobody knows events of class %s", self.body.run_id, data.type)
            return
        event = self.body.objects.get(data, kind)
        decided = len(self.body.ops)
        self.body.router.deliver(Delivery(event, data), signal.step)
        if signal.answers is not None:
            self._tell_answer(signal.answers, kind, self.body.ops[decided:])

    def _tell_answer(self, question: int, kind: type, ops: list[TurnOp]) -> None:
        """Tell readers which question an event has answered, and which jobs have the answer; an
        event that nobody takes has answered none.
        """
        if any(isinstance(op, JobAdded | WaitMet | Collected | FanFed) for op in ops):
            jobs = [op.job for op in ops if isinstance(op, JobAdded | WaitMet)]
            value = {"question": question, "event_type": kind.__name__, "jobs": jobs}
            told = built_in("QuestionAnswered", value, INTERNAL)
            self.body.emit(Streamed(told, internal=True))

    def _follow(self, job: Job, known: Job) -> None:
        """What happened to a job beside its step."""
        ready = False
        if job.retry_at is not None and known.retry_at is None:
            job.retry_at = None
            ready = True
        for key, wait in known.waits.items():
            own = job.waits.get(key)
            if own is not None and wait.timed_out and not own.timed_out and own.event is None:
                own.timed_out = ready = True
        for key, child in known.children.items():
            mine = job.children.get(key)
            if mine is not None and child.outcome is not None and mine.outcome is None:
                mine.outcome, mine.result, mine.error = child.outcome, child.result, child.error
                future = self._children.pop((job.id, key), None)
                if future is not None and not future.done():
                    future.set_result(None)
        if ready:
            self.body.router.settle(job)
            if job.id not in self.body.workers.active:
                self.body.router.enqueue(job)

    def child_end(self, job_id: int, key: str) -> Awaitable[None]:
        """When a child has ended."""
        future = self._children.get((job_id, key))
        if future is None:
            future = self._children[job_id, key] = self.body.loop.create_future()
            if self.body.state.jobs[job_id].children[key].outcome is not None:
                future.set_result(None)
        return asyncio.shield(future)

    def forget_children(self, job_id: int) -> None:
        """The step of a job is over: whoever in it still waits for a child waits in vain."""
        for key in [key for key in self._children if key[0] == job_id]:
            self._children.pop(key).cancel()
