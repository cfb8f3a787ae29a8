"""How a run ends: its last entry, everything that it held released, its parent told."""

from __future__ import annotations

import msgspec

from ironflow.core.runs import commands as c
from ironflow.core.runs import entries as e
from ironflow.core.runs.effects import (
    ATTEMPT_TIMER,
    CANCEL_STEP,
    STEP_TIMER,
    TIMEOUT_TIMER,
    ClearTimer,
    Decision,
    Effect,
    Ended,
    RemoveWaiter,
    job_timer,
)
from ironflow.core.runs.entries import RunEntry
from ironflow.core.runs.state import Run, Step
from ironflow.core.values.payloads import Failure


def final(unwinding: e.RunUnwinding) -> RunEntry:
    """The last entry of a run whose outcome is settled."""
    if unwinding.outcome == "cancelled":
        return e.RunCancelled(unwinding.reason)
    return e.RunFailed(unwinding.error or Failure("Unknown", unwinding.reason, retryable=False))


def timeout_failure(run: Run) -> Failure:
    """What a run that took too long fails with."""
    if run.workflow is not None:
        active = sorted({job.step for job in run.workflow.jobs.values() if job.began_at})
        limit = run.options.timeout or 0.0
        return Failure(
            "WorkflowTimeoutError",
            f"Workflow timed out after {limit:g}s",
            "run_timeout",
            retryable=False,
            facts={"timeout": limit, "active_steps": active},
        )
    return Failure(
        "RunTimeout",
        f"the run took longer than its timeout of {run.options.timeout or 0.0:g} s",
        "run_timeout",
        retryable=False,
    )


def wait_failure(step: Step) -> Failure:
    """What a run fails with when a vital wait ended in vain."""
    return Failure(
        "WaitTimeout",
        f"step {step.name!r} waited for {step.event!r} in vain",
        "wait_timeout",
        retryable=False,
    )


def finish(run: Run, last: RunEntry) -> Decision:
    """The end of the run: the last entry, everything it held released, its parent told."""
    effects: list[Effect] = []
    for key in run.open:
        effects.extend(close_wait(run, run.steps[key]))
    effects.extend(_release_jobs(run))
    if run.options.timeout is not None:
        effects.append(ClearTimer(TIMEOUT_TIMER))
    if run.retry_at is not None:
        effects.append(ClearTimer(ATTEMPT_TIMER))
    effects.extend(RemoveWaiter(f"{CANCEL_STEP}{i}") for i in range(len(run.options.cancel_on)))
    parent = run.parent
    if parent is not None and not parent.detached:
        effects.append(c.Send(f"run/{parent.run_id}", _report(run, parent, last)))
    if run.gate is not None:
        effects.append(c.Send(run.gate, c.RunLeft(run_id=run.id)))
    effects.append(Ended())
    return Decision([last], "go", effects)


def _release_jobs(run: Run) -> list[Effect]:
    """Let go of what a workflow's jobs hold: their timers, and the runs that they have started."""
    effects: list[Effect] = []
    for job in run.workflow.jobs.values() if run.workflow is not None else ():
        if job.retry_at is not None:
            effects.append(ClearTimer(job_timer(job.id)))
        effects.extend(
            ClearTimer(job_timer(job.id, key))
            for key, wait in job.waits.items()
            if wait.until is not None and wait.event is None
        )
        reason = f"run {run.id} no longer waits for it"
        effects.extend(
            c.Send(f"run/{child.run_id}", c.CancelRun(reason=reason))
            for child in job.children.values()
            if child.outcome is None
        )
    return effects


def _report(run: Run, parent: e.ParentRef, last: RunEntry) -> c.ChildEnded:
    told = c.ChildEnded(
        step=parent.step, run_id=run.id, function_id=run.function_id, status="completed"
    )
    match last:
        case e.RunCompleted():
            return msgspec.structs.replace(told, result=last.result)
        case e.RunFailed():
            return msgspec.structs.replace(told, status="failed", error=last.error)
        case e.RunCancelled():
            return msgspec.structs.replace(told, status="cancelled", reason=last.reason)
        case _:
            raise TypeError(f"{type(last).__name__} does not end a run")


def close_wait(run: Run, step: Step) -> list[Effect]:
    """Let go of what an open step holds: its timer, its waiter, the run that it invoked."""
    effects: list[Effect] = []
    if step.until is not None:
        effects.append(ClearTimer(STEP_TIMER + step.key))
    if step.event is not None:
        effects.append(RemoveWaiter(step.key))
    if step.child is not None:
        reason = f"run {run.id} no longer waits for it"
        effects.append(c.Send(f"run/{step.child}", c.CancelRun(reason=reason)))
    return effects
