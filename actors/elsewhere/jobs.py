"""Executions that are elsewhere, with a worker or behind an endpoint: the lease, the job that is
handed over, and what is reported of it, turned into reports of the run.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

import msgspec

from ironflow.core.clock import SECOND, Clock, to_rfc3339
from ironflow.core.errors import Conflict, IronflowError, NotFound, StaleExecution, Suspended
from ironflow.core.functions.definition import FunctionSpec
from ironflow.core.functions.secrets import SecretSource
from ironflow.core.messages import Message
from ironflow.core.remote import pull
from ironflow.core.remote.reports import Answer, RecordedJob, Report, decode_report
from ironflow.core.runs import commands as c
from ironflow.core.runs.execution import Assignment
from ironflow.core.values.payloads import Failure

if TYPE_CHECKING:
    from ironflow.actors.runs.effects import LocalEffects
    from ironflow.actors.workers.fleet import Fleet

log = logging.getLogger("ironflow.jobs")

TOKEN_BYTES, TOKENS_AT_ONCE = 18, 64


class Lease(msgspec.Struct, eq=False):
    """An execution that is elsewhere, or on its way there."""

    assignment: Assignment
    holder: str
    """The worker, or the address of the endpoint."""
    token: str
    base: int
    """The position of the first step that this execution may report."""
    expires_at: float
    """By the loop's clock."""
    began_at: int
    delivered: bool = False
    is_ending: bool = False
    """Its body is over, which is just being recorded."""
    version: int = 0
    """Of the run when it was handed out."""
    places: dict[str, int] = {}
    """Positions of steps that this execution was the first to report, by key."""

    @property
    def job_id(self) -> str:
        """Unique among all executions."""
        return f"{self.assignment.run_id}.{self.assignment.execution}"

    def place(self, key: str) -> int:
        """The position of a step: where it was first reported, else the next one."""
        known = self.assignment.steps.get(key)
        if known is not None:
            return known.pos
        return self.places.setdefault(key, self.base + len(self.places))

    @property
    def has_progressed(self) -> bool:
        """Whether anything was recorded of the run since it was handed out."""
        return self.assignment.record().version != self.version


class Holder(Protocol):
    """Who keeps leases: the fleet of workers, or the endpoints."""

    clock: Clock

    def knows(self, function_id: str) -> bool:
        """Whether anything executes this function."""
        ...

    def close_lease(self, run_id: str, lease: Lease | None = None) -> None:
        """The execution is over: whatever is still said of it is refused."""
        ...

    def came_to_nothing(self, lease: Lease) -> None:
        """The execution has ended without anything new: handed out again at once, it would come
        back for ever.
        """
        ...


def new_lease(assignment: Assignment, holder: str, expires_at: float, now: int) -> Lease:
    """A lease with a token of its own. `expires_at` by the loop's clock, `now` in microseconds."""
    base = max((step.pos for step in assignment.steps.values()), default=-1) + 1
    version = assignment.record().version
    return Lease(assignment, holder, next(_tokens), base, expires_at, now, version=version)


def _make_tokens() -> Iterator[str]:
    """Texts of 24 random characters. The system is asked for many at once: a call of it costs more
    than all the rest of a lease.
    """
    while True:
        data = os.urandom(TOKEN_BYTES * TOKENS_AT_ONCE)
        for start in range(0, len(data), TOKEN_BYTES):
            yield base64.urlsafe_b64encode(data[start : start + TOKEN_BYTES]).decode()


_tokens = _make_tokens()


async def make_job(
    lease: Lease, spec: FunctionSpec | None, by_commands: bool, clock: Clock, source: SecretSource
) -> pull.Job:
    """What is handed over. Raises `NotFound` when the database has lost a value, or `source` has
    not a secret.
    """
    assignment = lease.assignment
    context = await _read_context(spec, source)
    # Our own executor gets the record itself, and fetches large values when asked.
    steps = []
    if not by_commands:
        steps = [s for key, s in assignment.steps.items() if key not in assignment.unsettled]
    values = {}
    for payload in (assignment.input, *(s.result for s in steps)):
        if payload is not None and payload.blob is not None:
            values[payload.blob] = await assignment.effects.blob(payload.blob)
    data, event = assignment.input.json, assignment.event
    left = lease.expires_at - asyncio.get_running_loop().time()
    return pull.Job(
        job_id=lease.job_id,
        run_id=assignment.run_id,
        function_id=assignment.function_id,
        attempt=assignment.attempt,
        max_attempts=assignment.options.retry.max_attempts,
        on_exhausted=assignment.options.on_exhausted,
        event=pull.job_event(
            assignment.run_id,
            event,
            assignment.created_at,
            data if data is not None else values[assignment.input.blob or ""],
            assignment.events,
        ),
        completed_steps=pull.finished_steps(assignment.run_id, steps, values),
        step_sequence_base=lease.base,
        execution_seq=assignment.execution,
        lease_token=lease.token,
        lease_expires_at=to_rfc3339(clock.now() + int(left * SECOND)),
        actor_id=assignment.actor or msgspec.UNSET,
        context=context,
        record=assignment.record() if by_commands else msgspec.UNSET,
    )


async def make_recorded_job(
    lease: Lease, spec: FunctionSpec | None, source: SecretSource
) -> RecordedJob:
    """The same for a worker whose jobs the server counts: it has our executor, and fetches large
    values when asked. Raises `NotFound` when `source` has not a secret.
    """
    assignment = lease.assignment
    context = await _read_context(spec, source)
    return RecordedJob(
        lease.job_id, assignment.execution, lease.token, assignment.record(), context
    )


async def _read_context(
    spec: FunctionSpec | None, source: SecretSource
) -> pull.JobContext | msgspec.UnsetType:
    names = spec.definition.secrets if spec is not None else ()
    return pull.JobContext(secrets=await source.read(names)) if names else msgspec.UNSET


async def end_execution(assignment: Assignment, end: c.EndExecution) -> None:
    """End an execution in the place of whoever had it."""
    try:
        await assignment.effects.ask(end)
    except (IronflowError, Suspended) as error:
        log.debug("run %s did not end so: %s", assignment.run_id, error)
    finally:
        assignment.effects.leave()


class StaleLease(Conflict):
    """The execution that the worker speaks of is not the one that owns the run."""

    code = "STALE_EXECUTION"

    def __init__(self, job_id: str) -> None:
        super().__init__(f"job {job_id}: another execution owns the run, or it has ended")


class RunNotRunning(Conflict):
    """The run was paused or cancelled under the worker."""

    code = "RUN_NOT_RUNNING"

    def __init__(self, run_id: str, directive: str) -> None:
        what = "paused" if directive == "suspend" else "cancelled"
        super().__init__(f"run {run_id} was {what}: let go of it")


def find_lease(fleet: Fleet, worker_id: str, job_id: str, execution: int, token: str) -> Lease:
    """The lease that a worker means, renewed by its word. Raises `NotFound` for a worker that is
    not registered, `StaleLease`.
    """
    worker = fleet.workers.get(worker_id)
    if worker is None:
        raise NotFound("worker", worker_id)
    worker.heard_at = fleet.clock.now()
    lease = check_fence(worker.jobs.get(job_id), job_id, execution, token)
    lease.expires_at = fleet.system.loop.time() + worker.lease
    return lease


def check_fence(lease: Lease | None, job_id: str, execution: int, token: str) -> Lease:
    """The lease, if that is what is meant. Raises `StaleLease`."""
    # The token is 24 random characters: nobody learns it from how long a comparison takes.
    if lease is None or lease.assignment.execution != execution or lease.token != token:
        raise StaleLease(job_id)
    return lease


async def report(holder: Holder, lease: Lease, update: pull.JobUpdate) -> None:
    """Record what an execution did, and its end. Durable when it returns; safe to repeat.

    Raises `StaleLease`, `RunNotRunning`, `InvalidInput` naming the field.
    """
    try:
        await _report(holder, lease, update)
    except StaleExecution as error:
        raise StaleLease(lease.job_id) from error


async def _report(holder: Holder, lease: Lease, update: pull.JobUpdate) -> None:
    assignment = lease.assignment
    run_id, execution, ask = assignment.run_id, assignment.execution, assignment.effects.ask
    # What makes no sense is refused before anything is recorded.
    steps = pull.record_steps(run_id, execution, assignment.attempt, lease.place, update)
    ending = _ending(holder, lease, update)
    directives = await asyncio.gather(*(ask(step) for step in steps))
    for directive in directives:
        if directive != "go":
            holder.close_lease(run_id, lease)
            raise RunNotRunning(run_id, directive)
    if ending is None:
        return
    directive = await ask(ending)
    if directive in ("go", None) and not lease.has_progressed:
        holder.came_to_nothing(lease)
        return
    holder.close_lease(run_id, lease)
    # Whatever came for the run while its end was on the way finds it without an owner.
    assignment.effects.leave()
    if directive not in ("go", None):
        raise RunNotRunning(run_id, directive)


class _Requested(NamedTuple):
    """A report whose command is with the run."""

    lease: Lease
    command: Message[Any]
    answer: asyncio.Future[Any]

    @property
    def effects(self) -> LocalEffects:
        """Where it was reported."""
        return cast("LocalEffects", self.lease.assignment.effects)


Begun = _Requested | Answer
"""A report that is with its run, or was refused at once."""


async def take_reports(
    holder: Holder, find: Callable[[Report], Lease], reports: Sequence[Report]
) -> list[Answer]:
    """Record commands of executions elsewhere that have our executor; an answer to each, or why it
    is refused. `find` raises `StaleLease` and the like.

    All are requested before any is awaited: they share commits, and those of one run are recorded
    in their order.
    """
    return await settle_reports(holder, request_reports(holder, find, reports))


def request_reports(
    holder: Holder, find: Callable[[Report], Lease], reports: Sequence[Report]
) -> list[Begun]:
    """The first half of `take_reports`: all are with their runs."""
    return [_request(holder, find, report) for report in reports]


async def settle_reports(holder: Holder, begun: Sequence[Begun]) -> list[Answer]:
    """The second half: the answers."""
    try:
        return [one if isinstance(one, Answer) else await _settle(holder, one) for one in begun]
    finally:
        for one in begun:  # nobody listens any more
            if isinstance(one, _Requested) and not one.answer.cancel():
                _ = one.answer.cancelled() or one.answer.exception()


def _request(holder: Holder, find: Callable[[Report], Lease], report: Report) -> Begun:
    try:
        lease = find(report)
        command = decode_report(report, lease.assignment.order)
        effects = cast("LocalEffects", lease.assignment.effects)
        if isinstance(command, c.ExecutionLeft):
            holder.close_lease(lease.assignment.run_id, lease)
            effects.leave()
            return Answer()
        create = command.create if isinstance(command, c.StartWait) else None
        if create is not None and not holder.knows(create.function_id):
            raise NotFound("function", create.function_id)
        return _Requested(lease, command, effects.request(command))
    except IronflowError as error:
        return Answer(code=error.code, message=error.message)


async def _settle(holder: Holder, one: _Requested) -> Answer:
    answer = one.answer
    try:
        if answer.done() and not answer.cancelled() and answer.exception() is None:
            directive = answer.result()  # most of a commit's are, once the first is
        else:
            directive = await one.effects.settle(one.command, answer)
    except IronflowError as error:
        return Answer(code=error.code, message=error.message)
    if isinstance(one.command, c.EndExecution) and directive == "go":
        holder.close_lease(one.lease.assignment.run_id, one.lease)
    return _ANSWERS.get(directive) or Answer(directive)


_ANSWERS = {word: Answer(word) for word in (None, "go")}


def _ending(
    holder: Holder, lease: Lease, update: pull.JobUpdate
) -> c.EndExecution | c.StartWait | c.RecordStep | c.FailStep | None:
    """The command that an execution's last report amounts to, None for a checkpoint."""
    assignment = lease.assignment
    if update.status == "progress":
        return None
    if update.status != "yielded":
        return pull.end_execution(assignment.execution, update)
    what = pull.check_yield(update)
    data = assignment.input.json
    wait = pull.start_wait(
        assignment.run_id,
        assignment.execution,
        assignment.depth,
        lease.place(pull.step_key(assignment.run_id, what.step_id)),
        holder.clock.now(),
        msgspec.json.decode(data) if data is not None else None,
        what,
    )
    target = wait.create.function_id if isinstance(wait, c.StartWait) and wait.create else None
    if target is None or holder.knows(target):
        return wait
    return c.FailStep(
        execution=wait.execution,
        key=wait.key,
        name=wait.name,
        pos=wait.pos,
        kind="invoke",
        error=Failure("NotFound", f"no function {target}", "not_found", retryable=False),
        attempt=assignment.attempt,
    )
