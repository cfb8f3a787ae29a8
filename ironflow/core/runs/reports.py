"""Decisions about what the execution of a run's body reports: steps, waits, and its end.

Every report carries the execution's number; that of one which no longer owns the run is refused.
"""

from __future__ import annotations

from ironflow.core.clock import SECOND
from ironflow.core.errors import Conflict, StaleExecution
from ironflow.core.runs import commands as c
from ironflow.core.runs import entries as e
from ironflow.core.runs.conclusions import close_wait, final, finish, timeout_failure
from ironflow.core.runs.effects import (
    ATTEMPT_TIMER,
    STEP_TIMER,
    AddWaiter,
    Decision,
    DropBody,
    Effect,
    SetTimer,
    Situation,
)
from ironflow.core.runs.entries import RunEntry
from ironflow.core.runs.state import OPEN, TERMINAL, Run, RunStatus, StepStatus
from ironflow.core.values.payloads import NULL, Failure


def fence(run: Run, execution: int) -> None:
    """Refuse the report of an execution that does not own the run. Raises `StaleExecution`."""
    if run.execution != execution or run.status in TERMINAL:
        raise StaleExecution(run.id, execution, run.execution)


def boundary(run: Run, entries: list[RunEntry]) -> c.Directive:
    """What the execution does next; a pause that was asked for takes effect here."""
    if run.cancelling is not None and run.unwinding is None:
        return "unwind"
    if run.status is RunStatus.PAUSED:
        return "suspend"
    if run.pausing is not None:
        entries.append(e.RunPaused(run.pausing))
        return "suspend"
    return "go"


def record_step(run: Run, command: c.RecordStep, s: Situation) -> Decision:
    """A step has its result; waits that lost a race against it end with it."""
    fence(run, command.execution)
    known = run.steps.get(command.key)
    entries: list[RunEntry] = []
    effects: list[Effect] = []
    if known is None or known.status is not StepStatus.COMPLETED:
        entries.append(
            e.StepCompleted(
                command.key,
                command.name,
                command.pos,
                command.kind,
                command.result,
                command.scope,
                command.attempt,
                command.started_at,
            )
        )
        if known is not None and known.status in OPEN:
            effects.extend(close_wait(run, known))
        if command.sends:
            effects.extend(command.sends)
        cancels = command.cancels
        if command.kind == "block":
            # It failed: whatever its other branches wait for must not come back to life.
            cancels = tuple(key for key in run.open if key.startswith(command.key + "/"))
        for key in cancels:
            loser = run.steps.get(key)
            if loser is not None and loser.status in OPEN:
                entries.append(e.WaitEnded(key, "cancelled"))
                effects.extend(close_wait(run, loser))
    reply = boundary(run, entries)
    return Decision(entries, reply, effects)


def fail_step(run: Run, command: c.FailStep, s: Situation) -> Decision:
    """An attempt of a step failed: it waits for its next one, or has failed for good."""
    fence(run, command.execution)
    known = run.steps.get(command.key)
    entries: list[RunEntry] = []
    effects: list[Effect] = []
    if known is not None and (
        known.status is StepStatus.COMPLETED
        or (known.error is not None and known.attempt >= command.attempt)
    ):
        reply = boundary(run, entries)  # reported before
        return Decision(entries, reply)
    if known is not None and known.status in OPEN:
        effects.extend(close_wait(run, known))
    retry_at = None
    if command.retry_in is not None:
        retry_at = s.now + int(command.retry_in * SECOND)
        effects.append(SetTimer(STEP_TIMER + command.key, retry_at))
    parks = retry_at is not None and _may_park(run, command.parks)
    entries.append(
        e.StepFailed(
            command.key,
            command.name,
            command.pos,
            command.kind,
            command.error,
            command.scope,
            command.attempt,
            command.started_at,
            retry_at,
            parks,
        )
    )
    reply = boundary(run, entries)
    return Decision(entries, reply, effects)


def _may_park(run: Run, waits: tuple[str, ...] | None) -> bool:
    """Whether a body that waits for `waits` (None: a branch is active) really has nothing to do.

    A wait may have ended while the report was on its way; then the body is being woken and must not
    park. Nor must one that is to be unwound: if the process ended now, only what it waits for would
    bring it back.
    """
    if waits is None or (run.cancelling is not None and run.unwinding is None):
        return False
    return all(key in run.open for key in waits)


def start_wait(run: Run, command: c.StartWait, s: Situation) -> Decision:
    """A branch begins to wait, or finds its wait as the journal has it."""
    fence(run, command.execution)
    if run.cancelling is not None and run.unwinding is None:
        return Decision([], "unwind")
    parks = _may_park(run, command.parks)
    known = run.steps.get(command.key)
    entries: list[RunEntry] = []
    effects: list[Effect] = []
    if known is None:
        entries.append(
            e.WaitStarted(
                command.key,
                command.name,
                command.pos,
                command.kind,
                command.scope,
                command.until,
                command.event,
                command.match,
                command.child,
                command.create.function_id if command.create is not None else None,
                parks,
                command.vital,
            )
        )
        if command.until is not None:
            effects.append(SetTimer(STEP_TIMER + command.key, command.until))
        if command.event is not None:
            effects.append(AddWaiter(command.key, command.event, command.match))
            if command.lookback is not None:
                since = s.now - int(command.lookback * SECOND)
                look = c.LookBack(run_id=run.id, step=command.key, since=since)
                effects.append(c.Send("router/", look))
        if command.create is not None and command.child is not None:
            effects.append(c.Send(f"run/{command.child}", command.create))
    elif known.status in OPEN and parks and run.status is RunStatus.RUNNING:
        entries.append(e.RunParked())
    return Decision(entries, boundary(run, entries), effects)


def park(run: Run, command: c.Park, s: Situation) -> Decision:
    """No branch is active any more."""
    fence(run, command.execution)
    entries: list[RunEntry] = []
    if run.status is RunStatus.RUNNING and command.waits and _may_park(run, command.waits):
        entries.append(e.RunParked())
        if boundary(run, entries) == "suspend":
            return Decision(entries, None, [DropBody()])
    return Decision(entries)


def note_cancel(run: Run, command: c.NoteCancel, s: Situation) -> Decision:
    """Somebody was told to end the body: it stands in the run's history."""
    fence(run, command.execution)
    ending = run.cancelling
    if ending is None or any((r.rung, r.whom) == (command.rung, command.whom) for r in run.rungs):
        return Decision([])
    whom = command.whom[:200]
    return Decision([e.CancelRequested(ending.outcome, ending.reason, command.rung, whom)])


def end_execution(run: Run, command: c.EndExecution, s: Situation) -> Decision:
    """The body ended: the run ends with it, is tried again, or runs its compensations first."""
    fence(run, command.execution)
    if run.retry_at is not None:
        return Decision([], "go")  # reported before
    if command.outcome == "completed":
        return finish(run, e.RunCompleted(command.result or NULL))
    if command.outcome == "compensated":
        if run.unwinding is None:
            raise Conflict(f"run {run.id} has nothing to compensate: it is not being unwound")
        return finish(run, final(run.unwinding))
    if run.unwinding is not None:
        # Unwound again after a crash: the outcome was settled before.
        if command.compensations:
            return Decision([], "compensate")
        return finish(run, final(run.unwinding))
    if run.cancelling is not None:
        outcome = run.cancelling.outcome
        error = timeout_failure(run) if outcome == "timed_out" else None
        unwinding = e.RunUnwinding(outcome, error, run.cancelling.reason)
    else:
        error = command.error or Failure("Unwound", "the body was unwound", retryable=False)
        again = _try_again(run, command, error, s)
        if again is not None:
            return again
        unwinding = e.RunUnwinding("failed", error)
    if command.compensations and unwinding.outcome in run.options.compensate_on:
        return Decision([unwinding], "compensate")
    return finish(run, final(unwinding))


def _try_again(run: Run, command: c.EndExecution, error: Failure, s: Situation) -> Decision | None:
    """The body failed: another attempt, or a pause once they are used up; None when it fails for
    good.
    """
    if command.undelivered:
        return _deliver_later(run, command, error, s)
    if not error.retryable:
        return None
    if run.attempt < run.options.retry.max_attempts:
        delay = run.options.retry.delay(run.attempt, run.id)
        if command.retry_after is not None:
            delay = min(command.retry_after, run.options.retry.max_delay)
        return _attempt_at(run, e.AttemptFailed(error, s.now + int(delay * SECOND)))
    if run.options.on_exhausted == "pause":
        reason = f"its {run.attempt} attempts are used up: {error.kind}: {error.message}"
        return Decision([e.RunPaused(reason[:500], "exhausted")], "go")
    return None


def _attempt_at(run: Run, failed: e.AttemptFailed) -> Decision:
    entries: list[RunEntry] = [failed]
    if run.pausing is not None:
        entries.append(e.RunPaused(run.pausing))
    elif run.status is RunStatus.PAUSED:
        entries.append(e.RunPaused(run.reason or "", run.paused_cause or "request"))
    return Decision(entries, "go", [SetTimer(ATTEMPT_TIMER, failed.retry_at)])


def _deliver_later(run: Run, command: c.EndExecution, error: Failure, s: Situation) -> Decision:
    """Whoever has the body could not be reached: it is tried again, ever later, until that is
    hopeless.
    """
    if run.crashes >= s.max_crashes:
        reason = f"{run.crashes + 1} times in a row: {error.message}; resume it once that is mended"
        return Decision([e.RunPaused(reason[:500], "crash_loop")], "go")
    delay = run.options.retry.delay(run.crashes + 1, run.id)
    if command.retry_after is not None:
        delay = command.retry_after
    at = s.now + int(delay * SECOND)
    return _attempt_at(run, e.AttemptFailed(error, at, undelivered=True))
