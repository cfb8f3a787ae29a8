"""Decisions about event-driven workflows: their turns, events from outside, timers and children."""

from __future__ import annotations

from ironflow.core.errors import Conflict
from ironflow.core.runs import commands as c
from ironflow.core.runs import entries as e
from ironflow.core.runs.conclusions import finish
from ironflow.core.runs.effects import (
    ClearTimer,
    Consume,
    Decision,
    Effect,
    SetTimer,
    Situation,
    job_timer,
    split_job_timer,
)
from ironflow.core.runs.entries import RunEntry
from ironflow.core.runs.reports import boundary, fence
from ironflow.core.runs.state import Run, workflow_of
from ironflow.core.runs.waking import wake
from ironflow.core.values.payloads import NULL, Failure
from ironflow.core.workflows.state import (
    ChildStarted,
    JobFailed,
    JobWaits,
    WaitMet,
    WorkflowState,
    signal_key,
)


def record_turn(run: Run, command: c.RecordTurn, s: Situation) -> Decision:
    """A workflow's steps did something, or there is nothing left for them to do."""
    fence(run, command.execution)
    state = run.workflow or workflow_of(run)
    if command.number <= state.turns:
        return Decision([], boundary(run, []))  # reported before
    if command.number != state.turns + 1:
        raise Conflict(f"turn {command.number} of run {run.id} comes after turn {state.turns}")
    parks = command.parks and _may_park(run, state, command)
    entries: list[RunEntry] = [
        e.TurnRecorded(
            command.number,
            command.ops,
            state.next_event,
            parks,
            command.awaits if parks else (),
        )
    ]
    effects: list[Effect] = [*command.creates]
    if not _TIMED.isdisjoint(map(type, command.ops)):
        effects = [*_timers(command), *effects]
    if command.end is not None:
        return _end(run, command, entries, effects)
    return Decision(entries, boundary(run, entries), effects)


def _may_park(run: Run, state: WorkflowState, command: c.RecordTurn) -> bool:
    """Whether the execution knows of everything that came: otherwise it is being woken. Nor may it
    park when it is to be unwound.
    """
    if run.cancelling is not None and run.unwinding is None:
        return False
    return command.seen == state.outside and command.end is None


_TIMED = frozenset((JobWaits, JobFailed, WaitMet))
"""Operations that may set a timer or clear one."""


def _timers(command: c.RecordTurn) -> list[Effect]:
    effects: list[Effect] = []
    for op in command.ops:
        if type(op) is JobWaits:
            if op.until is not None:
                effects.append(SetTimer(job_timer(op.job, op.key), op.until))
        elif type(op) is JobFailed and op.retry_at is not None:
            effects.append(SetTimer(job_timer(op.job), op.retry_at))
        elif type(op) is WaitMet:
            effects.append(ClearTimer(job_timer(op.job, op.key)))
    return effects


def _end(
    run: Run, command: c.RecordTurn, entries: list[RunEntry], effects: list[Effect]
) -> Decision:
    end = command.end
    assert end is not None
    if run.cancelling is not None and end.error is not None:
        # Asked to end while it was failing: the turn stands, the end is the one that was asked for.
        return Decision(entries, "unwind", effects)
    last: RunEntry = e.RunCompleted(end.result or NULL)
    if end.error is not None:
        last = e.RunFailed(end.error)
    decision = finish(run, last)
    kept = [effect for effect in effects if not isinstance(effect, SetTimer)]
    cleared = [ClearTimer(effect.name) for effect in effects if isinstance(effect, SetTimer)]
    orphans = _orphans(run, command)
    return Decision(
        [*entries, *decision.entries], "go", [*kept, *decision.effects, *cleared, *orphans]
    )


def _orphans(run: Run, command: c.RecordTurn) -> list[Effect]:
    """Children that this very turn started and that nobody awaits any more."""
    reason = f"run {run.id} no longer waits for it"
    return [
        c.Send(f"run/{op.run_id}", c.CancelRun(reason=reason))
        for op in command.ops
        if isinstance(op, ChildStarted)
    ]


def send_signal(run: Run, command: c.SendSignal, s: Situation) -> Decision:
    """An event from outside: recorded before anybody is told that it was sent."""
    done: list[Effect] = [Consume(command.delivery)] if command.delivery else []
    if run.is_terminal or run.workflow is None:
        if command.delivery:
            return Decision([], None, done)
        what = "is no workflow" if run.workflow is None else f"has ended already: {run.status}"
        raise Conflict(f"run {run.id} {what}")
    number = run.workflow.next_signal
    told = e.SignalReceived(number, command.event, command.step, command.answers)
    entries: list[RunEntry] = [told]
    return wake(run, signal_key(number), entries, done, s, number)


def fire_job_timer(run: Run, name: str, s: Situation) -> Decision:
    """A retry of a job is due, or one of its waits has timed out."""
    clear: list[Effect] = [ClearTimer(name)]
    job_id, key = split_job_timer(name)
    job = workflow_of(run).jobs.get(job_id)
    if job is None:
        return Decision([], None, clear)
    if key is None:
        if job.retry_at is None:
            return Decision([], None, clear)
        if job.retry_at > s.now:
            return Decision([], None, [SetTimer(name, job.retry_at)])
    else:
        wait = job.waits.get(key)
        if wait is None or wait.event is not None or wait.timed_out or wait.until is None:
            return Decision([], None, clear)
        if wait.until > s.now:
            return Decision([], None, [SetTimer(name, wait.until)])
    entries: list[RunEntry] = [e.JobDue(job_id, key)]
    return wake(run, name, entries, clear, s)


def end_child(run: Run, command: c.ChildEnded, s: Situation) -> Decision:
    """A run that a step started has ended."""
    done: list[Effect] = [Consume(command.delivery)] if command.delivery else []
    job_id, key = split_job_timer(command.step)
    job = workflow_of(run).jobs.get(job_id)
    child = job.children.get(key or "") if job is not None else None
    if run.is_terminal or child is None or child.outcome is not None:
        return Decision([], None, done)
    outcome: e.WaitOutcome = "completed"
    error = command.error
    if command.status != "completed":
        outcome = "cancelled" if command.status == "cancelled" else "failed"
        error = error or Failure(
            "Cancelled", f"was cancelled: {command.reason}", "cancelled", retryable=False
        )
    entries: list[RunEntry] = [e.ChildReported(job_id, key or "", outcome, command.result, error)]
    return wake(run, command.step, entries, done, s)


def job_timers(state: WorkflowState | None) -> list[SetTimer]:
    """The timers that a workflow's jobs hold."""
    timers: list[SetTimer] = []
    for job in state.jobs.values() if state is not None else ():
        if job.retry_at is not None:
            timers.append(SetTimer(job_timer(job.id), job.retry_at))
        timers.extend(
            SetTimer(job_timer(job.id, key), wait.until)
            for key, wait in job.waits.items()
            if wait.until is not None and wait.event is None and not wait.timed_out
        )
    return timers
