"""Who gets an event: queues of steps, joins of several parameters, fan-outs and their ends.

Everything here is decided once, by the code that executes the workflow, and recorded as operations.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, Any

import msgspec
from pydantic_core import to_jsonable_python

from ironflow.core.values.payloads import NULL
from ironflow.core.workflows.state import (
    Collected,
    EventData,
    FanClosed,
    FanFed,
    FanFired,
    FanOpened,
    Job,
    JobAdded,
    Streamed,
    WaitMet,
    WorkflowState,
)
from ironflow.core.workflows.stream import INTERNAL, built_in
from ironflow.workflows.codec import encode_event, payload_of
from ironflow.workflows.errors import WorkflowRuntimeError
from ironflow.workflows.steps import StepSpec
from ironflow.workflows.vocabulary import is_input_required, is_internal, is_stop, wire_name

if TYPE_CHECKING:
    from ironflow.workflows.interpreter import Interpreter

log = logging.getLogger("ironflow.workflows")


class Delivery(msgspec.Struct, eq=False):
    """An event on its way: itself, its stored form, the fan-outs it belongs to, and its budget."""

    event: Any
    data: EventData
    fans: tuple[int, ...] = ()
    recoveries: dict[str, int] = {}
    by: int | None = None


class Router:
    """The routing of one execution of a workflow."""

    def __init__(self, body: Interpreter) -> None:
        self.body = body
        self.queues: dict[str, deque[int]] = {}
        """Jobs that wait for a worker, by step; none is empty."""
        self.members: dict[int, int] = {}
        """By fan-out how many jobs belong to it."""
        self.coming: dict[str, set[int]] = {}
        """By step the jobs that were added here and that no worker has taken up yet."""
        self.waiting: dict[str, dict[int, None]] = {}
        """By full name of an event's class the jobs that wait for one."""

    @property
    def state(self) -> WorkflowState:
        """What is under way."""
        return self.body.state

    def restore(self) -> None:
        """Queue what the journal has."""
        for fan in self.state.fans.values():
            self.members[fan.id] = 0
        for job in self.state.jobs.values():
            self._count(job.fans, 1)
            for wait in job.waits.values():
                if wait.event is None and not wait.timed_out:
                    self.waiting.setdefault(wait.type, {})[job.id] = None
            met = any(w.event is not None or w.timed_out for w in job.waits.values())
            if job.retry_at is None and (met or not job.is_waiting):
                self.enqueue(job)
        for fan_id in list(self.members):
            if not self.members[fan_id]:
                self.close(fan_id)

    def _count(self, fans: tuple[int, ...], by: int) -> None:
        for fan in fans:
            if fan in self.members:
                self.members[fan] += by

    def enqueue(self, job: Job) -> None:
        """A job may be taken up as soon as a worker is free."""
        queue = self.queues.get(job.step)
        if queue is None:
            queue = self.queues[job.step] = deque()
        if job.id not in queue:
            queue.append(job.id)

    # -- events -----------------------------------------------------------------------------------

    def prepare(self, event: Any, job: Job | None, *, inside: bool) -> Delivery:
        """An event that a step returned (`inside` its fan-outs) or sent."""
        data = self.body.objects.store(event, self.body.blobs)
        if job is None:
            return Delivery(event, data)
        return Delivery(event, data, job.fans if inside else (), dict(job.recoveries), job.id)

    def deliver(self, delivery: Delivery, step: str | None = None) -> None:
        """Route an event; one that ends the run ends it."""
        if is_stop(type(delivery.event)):
            self.body.finish(delivery.event, encode_event(delivery.event, self.body.keep))
            return
        if is_input_required(type(delivery.event)):
            text = encode_event(delivery.event, self.body.keep)
            self.stream(text, delivery.event)
        self.route(delivery, step)

    def stream(self, text: bytes, event: Any, job: int | None = None, mark: str = "") -> None:
        """Write an event to the stream."""
        internal = is_internal(type(event))
        self.body.emit(Streamed(payload_of(text, self.body.blobs), job, mark, internal))
        self.body.ring()

    def note_unhandled(self, event: Any, step: str | None) -> None:
        """Tell readers who ask for it that nobody takes an event."""
        value = {
            "event_type": type(event).__name__,
            "qualified_name": wire_name(type(event)),
            "step_name": step,
            "idle": not self.body.workers.active,
        }
        if is_input_required(type(event)):
            return
        self.body.emit(Streamed(built_in("UnhandledEvent", value, INTERNAL), internal=True))

    def route(self, delivery: Delivery, step: str | None = None) -> None:
        """Deliver an event to every step that takes it (or to `step`), and to whoever waits."""
        kind = type(delivery.event)
        takers = self.body.definition.takers(kind)
        if step is not None:
            takers = [spec for spec in takers if spec.name == step]
        handled = False
        for spec in takers:
            if spec.join is None and len(spec.slots) <= 1:
                self.add(spec.name, (delivery.data,), delivery)
                handled = True
            else:
                handled = self._give(spec, delivery) or handled
        if self.waiting and (step is None or not takers):
            handled = self._answer(delivery, step) or handled
        if not handled:
            self.note_unhandled(delivery.event, step)

    def _give(self, spec: StepSpec, delivery: Delivery) -> bool:
        """To a step that takes several at once."""
        if spec.join is not None:
            return self._feed(spec, delivery)
        self._gather(spec, delivery)
        return True

    def add(
        self,
        step: str,
        data: tuple[EventData, ...],
        delivery: Delivery,
    ) -> int:
        """A new job; it is taken up once it is recorded."""
        body = self.body
        job_id = body.state.next_job
        fans = delivery.fans
        coming = self.coming.get(step)
        if coming is None:
            coming = self.coming[step] = set()
        queued = body.workers.are_taken(step, len(coming))
        coming.add(job_id)
        body.emit(JobAdded(job_id, step, data, fans, delivery.recoveries, delivery.by, queued))
        if fans:
            self._count(fans, 1)
        body.fresh.append(job_id)
        return job_id

    def _answer(self, delivery: Delivery, step: str | None) -> bool:
        """Hand an event to every step that waits for one like it."""
        waiting = self.waiting.get(delivery.data.type)
        if waiting is None:
            return False
        found = False
        for job_id in list(waiting):
            job = self.state.jobs.get(job_id)
            if job is None or (step is not None and job.step != step):
                continue
            for key, wait in job.waits.items():
                if (
                    wait.event is None
                    and not wait.timed_out
                    and wait.type == delivery.data.type
                    and meets(delivery.event, wait.requirements)
                ):
                    self.body.emit(WaitMet(job_id, key, delivery.data))
                    self.body.fresh.append(job_id)
                    found = True
            self.settle(job)
        return found

    def settle(self, job: Job) -> None:
        """A wait of the job has ended: what it no longer waits for is forgotten."""
        types = {w.type for w in job.waits.values() if w.event is None and not w.timed_out}
        for kind in {w.type for w in job.waits.values()} - types:
            waiting = self.waiting.get(kind)
            if waiting is not None:
                waiting.pop(job.id, None)
                if not waiting:
                    del self.waiting[kind]

    def drop(self, job: Job) -> None:
        """A job is no more: nothing comes to it, and its fan-outs do not wait for it."""
        for kind in {wait.type for wait in job.waits.values()}:
            waiting = self.waiting.get(kind)
            if waiting is not None:
                waiting.pop(job.id, None)
                if not waiting:
                    del self.waiting[kind]
        coming = self.coming.get(job.step)
        if coming:
            coming.discard(job.id)
        if job.fans:
            self.leave(job)

    def begin_wait(self, job_id: int, kind: str) -> None:
        """A job waits for an event of a class."""
        self.waiting.setdefault(kind, {})[job_id] = None

    # -- several parameters -----------------------------------------------------------------------

    def _gather(self, spec: StepSpec, delivery: Delivery) -> None:
        """One event for each parameter, oldest first, makes a job."""
        buffer = f"@join/{spec.name}/{'.'.join(map(str, delivery.fans))}"
        held = [*self.state.buffers.get(buffer, []), delivery.data]
        chosen: list[int] = []
        for slot in spec.slots:
            names = {wire_name(kind) for kind in slot.types}
            index = next(
                (n for n, e in enumerate(held) if e.type in names and n not in chosen), None
            )
            if index is None:
                self.body.emit(Collected(buffer, delivery.data))
                return
            chosen.append(index)
        data = tuple(held[index] for index in chosen)
        self.body.emit(Collected(buffer, delivery.data, released=data))
        for index, left in enumerate(held):
            if index not in chosen:
                self.body.emit(Collected(buffer, left))
        self.add(spec.name, data, delivery)

    # -- fan-outs ---------------------------------------------------------------------------------

    def fan_out(self, members: list[Delivery], job: Job) -> None:
        """A step returned a list: each of its events is a line of its own."""
        fan_id = self.state.next_fan
        joins = self.body.definition.joins(job.step)
        self.body.emit(FanOpened(fan_id, job.fans, joins, dict(job.recoveries)))
        self.members[fan_id] = 0
        for delivery in members:
            delivery.fans = (*job.fans, fan_id)
            self.route(delivery)
        if not self.members[fan_id]:
            self.close(fan_id)

    def _feed(self, spec: StepSpec, delivery: Delivery) -> bool:
        """An event comes to a step that joins the innermost fan-out which it belongs to."""
        fan_id = next(
            (
                fan
                for fan in reversed(delivery.fans)
                if fan in self.state.fans and spec.name in self.state.fans[fan].joins
            ),
            None,
        )
        if fan_id is None:
            log.warning(
                "run %s: %s was sent outside of a fan-out and cannot join the list of step %r",
                self.body.run_id,
                type(delivery.event).__name__,
                spec.name,
            )
            return False
        fan = self.state.fans[fan_id]
        if spec.name in fan.fired:
            return True  # entered already with as many as it wanted
        self.body.emit(FanFed(fan_id, spec.name, delivery.data))
        join = spec.join
        enough = join.take if join is not None else None
        if enough is not None and len(fan.collected.get(spec.name, ())) >= enough:
            self._fire(fan_id, spec.name)
            self.body.emit(FanFired(fan_id, spec.name))
        return True

    def _fire(self, fan_id: int, step: str) -> None:
        fan = self.state.fans[fan_id]
        held = tuple(fan.collected.get(step, ()))
        around = Delivery(None, EventData("", NULL), fan.fans, dict(fan.recoveries))
        self.add(step, held, around)

    def leave(self, job: Job) -> None:
        """A job has ended: fan-outs of which it was the last member are over."""
        self._count(job.fans, -1)
        for fan_id in reversed(job.fans):
            if fan_id in self.members and not self.members[fan_id]:
                self.close(fan_id)

    def close(self, fan_id: int) -> None:
        """A fan-out is over: whoever joins it is entered, with whatever came of it."""
        fan = self.state.fans[fan_id]
        for step in fan.joins:
            if step not in fan.fired:
                self._fire(fan_id, step)
        del self.members[fan_id]
        self.body.emit(FanClosed(fan_id))

    def check_step(self, step: str, kind: type) -> None:
        """Raises `WorkflowRuntimeError` when there is no such step, or it does not take that."""
        spec = self.body.definition.plain.get(step)
        if spec is None:
            raise WorkflowRuntimeError(f"there is no step {step!r}")
        if not spec.accepts(kind):
            raise WorkflowRuntimeError(f"step {step!r} does not take {kind.__name__}")


def meets(event: Any, requirements: dict[str, Any]) -> bool:
    """Whether an event has the fields that a wait asks for."""
    if not requirements:
        return True
    return all(_is_like(getattr(event, name, None), each) for name, each in requirements.items())


def _is_like(found: Any, wanted: Any) -> bool:
    """Whether a field's value is what a wait asks for, or its JSON form is."""
    try:
        return bool(found == wanted) or bool(to_jsonable_python(found) == wanted)
    except Exception:  # noqa: BLE001 - it has no JSON form, or cannot be compared
        return False
