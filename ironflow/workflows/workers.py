"""Takes jobs up, executes their steps, and says what came of them."""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import TYPE_CHECKING, Any

import msgspec

from ironflow.core.clock import SECOND
from ironflow.core.runs import commands as c
from ironflow.core.values.payloads import Failure
from ironflow.core.workflows.state import Job, JobBegan, JobCancelled, JobEnded, JobFailed, JobLeft
from ironflow.workflows.codec import encode_event
from ironflow.workflows.context import Context
from ironflow.workflows.errors import WorkflowRuntimeError
from ironflow.workflows.invocation import Invocation, Waits, current_invocation, taken_of
from ironflow.workflows.outcomes import failure_of, next_attempt, recover
from ironflow.workflows.steps import StepSpec
from ironflow.workflows.vocabulary import is_event, is_stop, makes_events

if TYPE_CHECKING:
    from ironflow.workflows.interpreter import Interpreter

log = logging.getLogger("ironflow.workflows")

GRACE = 5.0
"""Seconds that steps get to end when their run is cancelled."""


class Workers:
    """The steps of one execution that are under way."""

    def __init__(self, body: Interpreter) -> None:
        self.body = body
        self.active: dict[int, Invocation] = {}
        self.tasks: dict[int, asyncio.Task[None]] = {}
        self.errors: dict[int, Exception] = {}
        """What the last attempts of jobs raised."""
        self._taken: dict[str, set[int]] = {}
        """By step the numbers of the workers that are busy."""

    def dispatch(self) -> None:
        """Take up what waits and finds a worker."""
        queues = self.body.router.queues
        if not queues or self.body.leaving or self.body.pausing or self.body.end is not None:
            return
        for step, queue in list(queues.items()):
            spec = self.body.definition.steps.get(step)
            if spec is None:
                self._fail_unknown(step)
                continue
            taken = self._taken.setdefault(step, set())
            while queue and len(taken) < spec.num_workers:
                job = self.body.state.jobs.get(queue.popleft())
                if job is None or job.id in self.active:
                    continue
                worker = 0
                while worker in taken:
                    worker += 1
                taken.add(worker)
                self._begin(job, spec, worker)
            if not queue:
                del queues[step]

    def are_taken(self, step: str, coming: int) -> bool:
        """Whether all workers of a step are, or will be by the `coming` jobs."""
        spec = self.body.definition.steps.get(step)
        taken = self._taken.get(step)
        return spec is not None and coming + (len(taken) if taken else 0) >= spec.num_workers

    def _begin(self, job: Job, spec: StepSpec, worker: int) -> None:
        body = self.body
        coming = body.router.coming.get(spec.name)
        if coming:
            coming.discard(job.id)
        invocation = self.active[job.id] = Invocation(body, job, spec, worker)
        began = JobBegan(job.id, spec.name, invocation.taken, worker)
        body.emit(began, invocation.started_at)
        body.flush_later()
        if body.workflow.verbose:
            _tell(invocation, f"takes {invocation.taken}")
        self.tasks[job.id] = body.loop.create_task(
            self._execute(invocation), context=body.context.copy()
        )

    async def _execute(self, invocation: Invocation) -> None:
        """One execution of a step, in a task of its own."""
        current_invocation.set(invocation)
        body, spec = self.body, invocation.spec
        result: Any = None
        error: BaseException | None = None
        context = Context.inside(invocation) if spec.context is not None else None
        try:
            if spec.is_plain and body.executor.intercept is None:
                arguments = invocation.arguments(context)
                result = await body.workflow.function_of(spec)(**arguments)
            else:
                result = await invocation.call(context)
        except asyncio.CancelledError as cancelled:
            task = asyncio.current_task()
            if (
                self.body.unwinding
                or self.body.end is not None
                or (task is not None and task.cancelling())
            ):
                self._let_go(invocation)
                raise
            error = cancelled
        except (Exception, Waits, SystemExit) as raised:  # noqa: BLE001 - concluded below
            error = raised
        if self.body.unwinding or self.body.end is not None or invocation.over:
            self._let_go(invocation)
            return
        try:
            self._conclude(invocation, result, error)
        except Exception as raised:  # noqa: BLE001 - such as a result that cannot be stored
            invocation.held = []
            try:
                self._fail(invocation, raised)
            except Exception as broken:  # noqa: BLE001 - such as one that its retry policy raises
                self._give_up(invocation, broken)
        self._let_go(invocation)

    def _let_go(self, invocation: Invocation) -> None:
        job, step = invocation.job, invocation.spec.name
        if self.active.get(job.id) is not invocation:
            return  # it was cancelled before it had begun, and is let go of already
        invocation.over = True
        if job.children:
            self.body.arrivals.forget_children(job.id)
        self.active.pop(job.id, None)
        self.tasks.pop(job.id, None)
        self._taken[step].discard(invocation.worker)
        self.body.note_step_ended()

    def _conclude(self, invocation: Invocation, result: Any, error: BaseException | None) -> None:
        """A step has made something, waits for an event, or has failed."""
        if invocation.has_store:
            invocation.store.take_back(keep=error is None)
        if error is None:
            self._end(invocation, result)
        elif isinstance(error, Waits):
            self._leave(invocation)
        else:
            self._fail(invocation, error)

    def _end(self, invocation: Invocation, result: Any) -> None:
        body, job, spec = self.body, invocation.job, invocation.spec
        output = self._hand_on(invocation, result)
        ended = JobEnded(job.id, spec.name, invocation.taken, invocation.worker, output)
        body.emit(ended, invocation.started_at)  # the state does not note when
        if body.workflow.verbose:
            _tell(invocation, f"has made {output or 'no event'}")
        self.errors.pop(job.id, None)
        body.objects.forget(job)
        if job.fans:
            body.router.leave(job)

    def _hand_on(self, invocation: Invocation, result: Any) -> str | None:
        """Let what a step returned go its way, behind what it sent; the name of what that was.

        It is prepared first: it may have no stored form, and then nothing is sent.
        """
        body, router, job = self.body, self.body.router, invocation.job
        kind = type(result)
        if result is None:
            invocation.release(goes_on=False)
            return None
        if not makes_events(kind):
            members = self._members(invocation.spec, result)
            prepared = [router.prepare(event, job, inside=True) for event in members]
            invocation.release(goes_on=False)
            router.fan_out(prepared, job)
            return f"list[{type(members[0]).__name__}]" if members else None
        if is_stop(kind):
            text = encode_event(result, body.keep)
            invocation.release(goes_on=False)
            body.finish(result, text)
        else:
            delivery = router.prepare(result, job, inside=True)
            if invocation.held:
                invocation.release(goes_on=False)
            if body.end is None:
                router.deliver(delivery)
        return kind.__name__

    def _leave(self, invocation: Invocation) -> None:
        """A step waits for an event, and is entered again when that comes."""
        job = invocation.job
        invocation.release(goes_on=True)
        left = JobLeft(job.id, invocation.spec.name, invocation.taken, invocation.worker)
        self.body.emit(left)
        if self.body.workflow.verbose:
            _tell(invocation, "waits for an event")
        met = any(w.event is not None or w.timed_out for w in job.waits.values())
        if not job.is_waiting and met:
            self.body.fresh.append(job.id)  # it came while the step was on its way out

    def _members(self, spec: StepSpec, result: Any) -> list[Any]:
        """The events of a fan-out that a step returned. Raises `WorkflowRuntimeError`."""
        if isinstance(result, list) and spec.fans_out and all(is_event(each) for each in result):
            return result
        raise WorkflowRuntimeError(
            f"step {spec.name!r} must return an event or None, not {type(result).__name__}"
        )

    def _fail(self, invocation: Invocation, error: BaseException) -> None:
        job, spec = invocation.job, invocation.spec
        now = self.body.clock.now()
        if self.body.workflow.verbose:
            _tell(invocation, f"has failed: {type(error).__name__}: {error}")
        failure = failure_of(error, spec.name, job.failures + 1, now - (job.began_at or now))
        pause = next_attempt(invocation, error, now)
        op = JobFailed(job.id, spec.name, invocation.taken, invocation.worker, failure)
        if pause is not None and isinstance(error, Exception):
            self.errors[job.id] = error
            self.body.emit(msgspec.structs.replace(op, retry_at=now + int(pause * SECOND)))
            return
        handler = self.body.definition.handler_for(spec.name, job.recoveries)
        if handler is not None and isinstance(error, Exception):
            event = recover(invocation, error, now)
            delivery = self.body.router.prepare(event, job, inside=True)
            used = job.recoveries.get(handler.name, 0) + 1
            delivery.recoveries = {**job.recoveries, handler.name: used}
            self.body.router.add(handler.name, (delivery.data,), delivery)
            self.body.emit(msgspec.structs.replace(op, caught=True))
            self.errors.pop(job.id, None)
            self.body.objects.forget(job)
            self.body.router.leave(job)
            return
        self.body.emit(op)
        self.body.function.keep_error(self.body.run_id, error)
        self.body.fail(failure)

    def _give_up(self, invocation: Invocation, error: Exception) -> None:
        """What is to be done about a failure has failed itself: the run fails with that."""
        job, spec = invocation.job, invocation.spec
        taken = max(self.body.clock.now() - (job.began_at or invocation.started_at), 0)
        failure = failure_of(error, spec.name, job.failures + 1, taken)
        op = JobFailed(job.id, spec.name, invocation.taken, invocation.worker, failure)
        self.body.emit(op)
        self.body.function.keep_error(self.body.run_id, error)
        self.body.fail(failure)

    def _fail_unknown(self, step: str) -> None:
        """The code has changed, and the step of a job is gone."""
        failure = Failure(
            "WorkflowStepDoesNotExistError",
            f"the workflow has no step {step!r} any more; a run that is under way needs it",
            retryable=False,
            facts={"step": step},
        )
        self.body.fail(failure)

    def drop(self, job: Job, by: int, mark: str) -> None:
        """Cancel a job, as the step of the job `by` asks: at once here, in the journal with what
        that step does. Children that it started are cancelled, too.
        """
        body, invocation = self.body, self.active.get(job.id)
        if invocation is not None:
            invocation.break_off()
        worker = invocation.worker if invocation is not None else 0
        body.emit(JobCancelled(job.id, job.step, taken_of(job), worker, by, mark))
        reason = f"step {job.step} of run {body.run_id}, which awaits it, was cancelled"
        for child in job.children.values():
            if child.outcome is None:
                body.creates.append(c.Send(f"run/{child.run_id}", c.CancelRun(reason=reason)))
        self.errors.pop(job.id, None)
        body.objects.forget(job)
        body.router.drop(job)
        if invocation is None:
            return
        task = self.tasks[job.id]
        task.cancel()
        # One that has not begun ends without a word of its own.
        task.add_done_callback(lambda _: self._let_go(invocation))
        late = body.loop.call_later(GRACE, self._tell_late, invocation)
        task.add_done_callback(lambda _: late.cancel())

    def _tell_late(self, invocation: Invocation) -> None:
        step = invocation.spec.name
        log.warning("run %s: step %s was cancelled by another, but goes on", self.body.run_id, step)

    def cancel(self) -> None:
        """Cancel what executes."""
        for task in self.tasks.values():
            task.cancel()

    async def stop(self) -> None:
        """Cancel what executes and wait for it, within limits: code may refuse."""
        tasks = list(self.tasks.values())
        for task in tasks:
            task.cancel()
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=GRACE)
        if late:
            names = ", ".join(sorted({i.spec.name for i in self.active.values()}))
            log.warning("run %s was cancelled, but its step %s goes on", self.body.run_id, names)


def _tell(invocation: Invocation, what: str) -> None:
    """What `Workflow(verbose=True)` is for."""
    sys.stdout.write(f"[{invocation.body.run_id}] step {invocation.spec.name} {what}\n")
