"""How each entry of a run's stream changes the run. Pure: no I/O, no clock.

`apply` is the only way in which a run changes. Live operation, recovery, views of the past and
simulation are the same fold over the same entries. It changes the run in place, because a run of
100,000 steps cannot be copied for each of them.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from typing import Any

from ironflow.core.clock import SECOND
from ironflow.core.runs import entries as e
from ironflow.core.runs.entries import RunEntry
from ironflow.core.runs.state import (
    Run,
    Rung,
    RunStatus,
    Step,
    StepStatus,
    steps_from,
    workflow_of,
)
from ironflow.core.workflows.fold import APPLY
from ironflow.core.workflows.state import Signal, WorkflowState


def apply(run: Run, entry: RunEntry, at: int) -> None:
    """Change `run` by one entry that was recorded at `at`."""
    run.version += 1
    run.updated_at = at
    CHANGES[type(entry)](run, entry, at)


def replay(run_id: str, history: list[tuple[str, bytes, int]]) -> Run:
    """The run as of the last of these (kind, data, at): the same fold as live operation."""
    run = Run(run_id)
    for kind, data, at in history:
        apply(run, e.decode_entry(kind, data), at)
    return run


# -- the run --------------------------------------------------------------------------------------


def _create(run: Run, entry: e.RunCreated, at: int) -> None:
    run.kind, run.function_id, run.lanes = entry.kind, entry.function_id, entry.lanes
    run.priority, run.share = entry.priority, entry.share
    run.input, run.input_hash = entry.input, entry.input_hash
    run.options, run.event, run.parent = entry.options, entry.event, entry.parent
    run.idempotency_key, run.code = entry.idempotency_key, entry.code
    run.handler, run.actor = entry.handler, entry.actor
    run.events, run.merged = entry.events, entry.merged
    run.gate, run.behind = entry.gate, entry.behind
    if entry.behind is not None:
        run.status = RunStatus.WAITING
    if entry.kind == "workflow":
        # A copy: it changes in place, and the entry may be recorded a second time.
        run.workflow = copy.deepcopy(entry.workflow) if entry.workflow else WorkflowState()
    run.created_at = at
    run.deadline = _deadline(run, at)


def _start(run: Run, entry: e.RunStarted, at: int) -> None:
    run.status, run.execution = RunStatus.RUNNING, entry.execution
    run.code, run.worker = entry.code or run.code, entry.worker
    if entry.recovered:
        run.crashes += 1
    if run.started_at is None:
        run.started_at = at
    run.retry_at = None


def _wake(run: Run, entry: e.RunWoken, at: int) -> None:
    run.status = RunStatus.RUNNING


def _queue(run: Run, entry: e.RunQueued, at: int) -> None:
    run.status, run.retry_at = RunStatus.QUEUED, None
    run.crashes += entry.lost is not None


def _end_attempt_pause(run: Run, entry: e.AttemptDue, at: int) -> None:
    run.status, run.retry_at = RunStatus.QUEUED, None


def _park(run: Run, entry: e.RunParked, at: int) -> None:
    run.status = RunStatus.WAITING
    run.crashes = 0


def _fail_attempt(run: Run, entry: e.AttemptFailed, at: int) -> None:
    run.error, run.retry_at, run.status = entry.error, entry.retry_at, RunStatus.WAITING
    if entry.undelivered:
        run.crashes += 1
    else:
        run.attempt += 1
        run.crashes = 0


def _request_cancel(run: Run, entry: e.CancelRequested, at: int) -> None:
    if entry.rung is not None:
        run.rungs.append(Rung(entry.rung, entry.whom, at))
    else:
        run.cancelling, run.reason, run.pausing = entry, entry.reason, None


def _request_pause(run: Run, entry: e.PauseRequested, at: int) -> None:
    run.pausing = entry.reason


def _pause(run: Run, entry: e.RunPaused, at: int) -> None:
    run.status, run.reason, run.paused_cause = RunStatus.PAUSED, entry.reason, entry.cause
    run.pausing = None


def _resume(run: Run, entry: e.RunResumed, at: int) -> None:
    if run.paused_cause == "exhausted":
        run.attempt = 1
    # One that is behind another goes on waiting for the end of that one.
    run.status = RunStatus.QUEUED if run.behind is None else RunStatus.WAITING
    run.reason, run.paused_cause = None, None
    run.retry_at, run.pausing, run.crashes = None, None, 0


def _release(run: Run, entry: e.RunReleased, at: int) -> None:
    run.behind = None
    if run.status is RunStatus.WAITING:
        run.status = RunStatus.QUEUED


def _unwind(run: Run, entry: e.RunUnwinding, at: int) -> None:
    run.unwinding, run.error, run.pausing = entry, entry.error or run.error, None


def _complete(run: Run, entry: e.RunCompleted, at: int) -> None:
    run.result, run.error, run.reason = entry.result, None, None
    _end(run, RunStatus.COMPLETED, at)


def _fail(run: Run, entry: e.RunFailed, at: int) -> None:
    run.error = entry.error
    _end(run, RunStatus.FAILED, at)


def _cancel(run: Run, entry: e.RunCancelled, at: int) -> None:
    run.reason = entry.reason
    _end(run, RunStatus.CANCELLED, at)


def _progress(run: Run) -> None:
    run.crashes = 0
    # A record from a body that was thought to be parked: it still runs (a branch of the user's own
    # making).
    if run.status is RunStatus.WAITING and run.retry_at is None and not run.is_terminal:
        run.status = RunStatus.RUNNING


def _end(run: Run, status: RunStatus, at: int) -> None:
    run.status, run.ended_at = status, at
    for key in run.open:
        # Nothing waits any more, and views must not say so.
        step = run.steps[key]
        step.status, step.ended_at = StepStatus.CANCELLED, at
    run.open.clear()
    run.retry_at = run.pausing = run.cancelling = run.behind = None
    if run.workflow is not None:
        run.workflow.next_event += 1  # the event that ends the stream
        run.workflow.awaits = ()


def _deadline(run: Run, since: int) -> int | None:
    timeout = run.options.timeout
    return None if timeout is None else since + int(timeout * SECOND)


# -- steps of a function --------------------------------------------------------------------------


def _place(run: Run, scope: str, pos: int, key: str) -> None:
    order = run.order.get(scope)
    if order is None:
        order = run.order[scope] = []
    if pos == len(order):
        order.append(key)
        return
    while len(order) <= pos:
        order.append("")
    order[pos] = key


def _complete_step(run: Run, entry: e.StepCompleted, at: int) -> None:
    key = entry.key
    if key not in run.steps:
        _place(run, entry.scope, entry.pos, key)
    else:
        run.open.pop(key, None)
    run.steps[key] = Step(
        key,
        # Names repeat over thousands of runs; one copy in memory is enough.
        sys.intern(entry.name),
        entry.kind,
        StepStatus.COMPLETED,
        entry.pos,
        entry.scope,
        entry.attempt,
        entry.started_at,
        at,
        entry.result,
    )
    _progress(run)


def _fail_step(run: Run, entry: e.StepFailed, at: int) -> None:
    if entry.key not in run.steps:
        _place(run, entry.scope, entry.pos, entry.key)
    again = entry.retry_at is not None
    run.steps[entry.key] = Step(
        entry.key,
        sys.intern(entry.name),
        entry.kind,
        StepStatus.RETRYING if again else StepStatus.FAILED,
        entry.pos,
        entry.scope,
        entry.attempt,
        entry.started_at,
        at,
        error=entry.error,
        until=entry.retry_at,
    )
    if again:
        run.open[entry.key] = None
    else:
        run.open.pop(entry.key, None)
    _progress(run)
    if entry.parks and run.status is RunStatus.RUNNING:
        run.status = RunStatus.WAITING


def _end_step_pause(run: Run, entry: e.StepRetryDue, at: int) -> None:
    run.steps[entry.key].status = StepStatus.DUE
    run.open.pop(entry.key, None)


def _start_wait(run: Run, entry: e.WaitStarted, at: int) -> None:
    if entry.key not in run.steps:
        _place(run, entry.scope, entry.pos, entry.key)
    run.steps[entry.key] = Step(
        entry.key,
        sys.intern(entry.name),
        entry.kind,
        StepStatus.WAITING,
        entry.pos,
        entry.scope,
        started_at=at,
        until=entry.until,
        event=entry.event,
        match=entry.match,
        child=entry.child,
        target=entry.target,
        vital=entry.vital,
    )
    run.open[entry.key] = None
    _progress(run)
    if entry.parks and run.status is RunStatus.RUNNING:
        run.status = RunStatus.WAITING


_OUTCOMES = {
    "completed": StepStatus.COMPLETED,
    "timed_out": StepStatus.TIMED_OUT,
    "failed": StepStatus.FAILED,
    "cancelled": StepStatus.CANCELLED,
}


def _end_wait(run: Run, entry: e.WaitEnded, at: int) -> None:
    step = run.steps[entry.key]
    step.status, step.ended_at = _OUTCOMES[entry.outcome], at
    step.result, step.error = entry.result, entry.error
    run.open.pop(entry.key, None)


def _patch(run: Run, entry: e.StepPatched, at: int) -> None:
    step = run.steps[entry.key]
    if step.patched_at is None:
        step.original = step.result
    step.status, step.result, step.error = StepStatus.COMPLETED, entry.result, None
    step.patched_at, step.patched_by, step.injected = at, entry.by, entry.injected


# -- a workflow -----------------------------------------------------------------------------------


def _record_turn(run: Run, entry: e.TurnRecorded, at: int) -> None:
    state = run.workflow or workflow_of(run)
    for op in entry.ops:
        APPLY[type(op)](state, op, at)
    state.turns, state.awaits = entry.number, entry.awaits
    _progress(run)
    if entry.parks and run.status is RunStatus.RUNNING:
        run.status = RunStatus.WAITING
        state.next_event += 1  # readers are told that the workflow is idle


def _receive_signal(run: Run, entry: e.SignalReceived, at: int) -> None:
    state = workflow_of(run)
    state.inbox[entry.id] = Signal(entry.event, entry.step, entry.answers)
    state.next_signal = entry.id + 1
    state.outside += 1


def _end_pause(run: Run, entry: e.JobDue, at: int) -> None:
    state = workflow_of(run)
    state.outside += 1
    job = state.jobs.get(entry.job)
    if job is None:
        return
    if entry.wait is None:
        job.retry_at = None
    else:
        job.waits[entry.wait].timed_out = True


def _end_child(run: Run, entry: e.ChildReported, at: int) -> None:
    state = workflow_of(run)
    state.outside += 1
    job = state.jobs.get(entry.job)
    if job is not None and entry.key in job.children:
        child = job.children[entry.key]
        child.outcome, child.result, child.error = entry.outcome, entry.result, entry.error


# -- going back -----------------------------------------------------------------------------------


def _forget(run: Run, step: Step) -> None:
    del run.steps[step.key]
    order = run.order.get(step.scope, [])
    if step.pos < len(order) and order[step.pos] == step.key:
        order[step.pos] = ""  # mended code may ask for something else here


def _is_good(run: Run, step: Step) -> bool:
    """Whether a retry has no reason to do the step again."""
    if step.kind == "race":  # good if its winner is
        keys = run.order.get(step.key + "/", [])
        return any(key in run.steps and _is_good(run, run.steps[key]) for key in keys)
    return step.status is StepStatus.COMPLETED and step.kind != "block"


def _was_passed(run: Run, step: Step, seen: dict[str, int]) -> bool:
    """Whether the body went on after the step: something later is kept in its branch or in one
    that waited for it. `seen`: by scope how many kept steps began later.

    Scopes nest by two segments: a block or race, and its branch. Waits of one race begin in any
    order and say nothing of one another.
    """
    parts = step.scope.split("/")[:-1]
    if len(parts) % 2 == 0 and seen.get(step.scope):
        return True
    for size in range((len(parts) - 1) // 2 * 2, -1, -2):
        scope = "".join(part + "/" for part in parts[:size])
        enclosing = scope + parts[size] if size < len(parts) else ""
        if seen.get(scope, 0) > (enclosing in run.steps):
            return True
    return False


def _rewind(run: Run, entry: e.RunRewound, at: int) -> None:
    for step in steps_from(run, entry.key):
        run.open.pop(step.key, None)
        _forget(run, step)


def _reopen(run: Run, entry: e.RunReopened, at: int) -> None:
    seen: dict[str, int] = {}
    for step in reversed(list(run.steps.values())):
        # A failure that the body handled has led to what it did next: it stays. What was undone
        # must be undoable again.
        if step.kind == "compensate" or not (_is_good(run, step) or _was_passed(run, step, seen)):
            _forget(run, step)
        else:
            seen[step.scope] = seen.get(step.scope, 0) + 1
    run.open.clear()
    if run.workflow is not None:
        for job in run.workflow.jobs.values():
            # As good as new: every attempt that its policy allows is made again.
            job.retry_at = job.began_at = job.failed_at = job.error = None
            job.failures = 0
    run.status, run.ended_at, run.error, run.reason = RunStatus.QUEUED, None, None, None
    run.unwinding = run.cancelling = run.retry_at = run.result = None
    run.rungs.clear()
    run.attempt += 1
    run.crashes = 0
    run.deadline = _deadline(run, at)


CHANGES: dict[type, Callable[[Run, Any, int], None]] = {
    e.RunCreated: _create,
    e.RunStarted: _start,
    e.RunWoken: _wake,
    e.RunQueued: _queue,
    e.RunParked: _park,
    e.StepCompleted: _complete_step,
    e.StepFailed: _fail_step,
    e.StepRetryDue: _end_step_pause,
    e.WaitStarted: _start_wait,
    e.WaitEnded: _end_wait,
    e.AttemptFailed: _fail_attempt,
    e.AttemptDue: _end_attempt_pause,
    e.CancelRequested: _request_cancel,
    e.PauseRequested: _request_pause,
    e.RunPaused: _pause,
    e.RunResumed: _resume,
    e.RunUnwinding: _unwind,
    e.RunCompleted: _complete,
    e.RunFailed: _fail,
    e.RunCancelled: _cancel,
    e.RunReopened: _reopen,
    e.StepPatched: _patch,
    e.RunRewound: _rewind,
    e.TurnRecorded: _record_turn,
    e.SignalReceived: _receive_signal,
    e.JobDue: _end_pause,
    e.ChildReported: _end_child,
    e.RunReleased: _release,
}
"""By class of entry: a look-up, where a `match` would try one class after the other. That none is
missing is held by a test.
"""
