"""What workers report of their jobs: checked against the lease, turned into reports of the run."""

from __future__ import annotations

import asyncio

import msgspec

from ironflow.actors.fleet import Fleet, Lease
from ironflow.core import commands as c
from ironflow.core import pull
from ironflow.core.entries import Failure
from ironflow.core.errors import Conflict, IronflowError, NotFound, StaleExecution
from ironflow.core.remote import Answer, Report, decode_report


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
    lease = worker.jobs.get(job_id)
    # The token is 24 random characters: nobody learns it from how long a comparison takes.
    if lease is None or lease.assignment.execution != execution or lease.token != token:
        raise StaleLease(job_id)
    lease.expires_at = fleet.system.loop.time() + worker.lease
    return lease


async def report(fleet: Fleet, lease: Lease, update: pull.JobUpdate) -> None:
    """Record what an execution did, and its end. Durable when it returns; safe to repeat.

    Raises `StaleLease`, `RunNotRunning`, `InvalidInput` naming the field.
    """
    try:
        await _report(fleet, lease, update)
    except StaleExecution as error:
        raise StaleLease(lease.job_id) from error


async def _report(fleet: Fleet, lease: Lease, update: pull.JobUpdate) -> None:
    assignment = lease.assignment
    run_id, execution, ask = assignment.run_id, assignment.execution, assignment.effects.ask
    ending = _ending(fleet, lease, update)  # refused before anything is recorded
    steps = pull.record_steps(run_id, execution, assignment.attempt, lease.base, update)
    directives = await asyncio.gather(*(ask(step) for step in steps))
    for directive in directives:
        if directive != "go":
            fleet.close_lease(run_id, lease)
            raise RunNotRunning(run_id, directive)
    if ending is None:
        return
    directive = await ask(ending)
    fleet.close_lease(run_id, lease)
    # Whatever came for the run while its end was on the way finds it without an owner.
    assignment.effects.leave()
    if directive not in ("go", None):
        raise RunNotRunning(run_id, directive)


async def take_report(fleet: Fleet, worker_id: str, report: Report) -> Answer:
    """Record one command of a worker with our executor; its answer, or why it is refused."""
    try:
        lease = find_lease(
            fleet, worker_id, report.job_id, report.execution_seq, report.lease_token
        )
        command = decode_report(report)
        if isinstance(command, c.ExecutionLeft):
            fleet.close_lease(lease.assignment.run_id, lease)
            lease.assignment.effects.leave()
            return Answer()
        create = command.create if isinstance(command, c.StartWait) else None
        if create is not None and not fleet.knows(create.function_id):
            raise NotFound("function", create.function_id)
        directive = await lease.assignment.effects.ask(command)
    except IronflowError as error:
        return Answer(code=error.code, message=error.message)
    if isinstance(command, c.EndExecution) and directive == "go":
        fleet.close_lease(lease.assignment.run_id, lease)
    return Answer(directive)


def _ending(
    fleet: Fleet, lease: Lease, update: pull.JobUpdate
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
        lease.base + update.step_offset + len(update.steps),
        fleet.clock.now(),
        msgspec.json.decode(data) if data is not None else None,
        what,
    )
    target = wait.create.function_id if isinstance(wait, c.StartWait) and wait.create else None
    if target is None or fleet.knows(target):
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
