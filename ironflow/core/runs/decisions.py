"""What a run answers to a command: `decide(run, command, situation)` is pure and changes nothing.

A `Decision` holds the entries to record, the answer, and effects. Here are creation, dispatch,
requests, and the ends of waits; what an execution reports is decided in
`ironflow.core.runs.reports`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from ironflow.core.clock import SECOND
from ironflow.core.errors import Conflict, IdempotencyConflict, NotFound, RateLimited
from ironflow.core.expressions.compiled import compile_path
from ironflow.core.messages import Message
from ironflow.core.runs import commands as c
from ironflow.core.runs import entries as e
from ironflow.core.runs import reports
from ironflow.core.runs.conclusions import close_wait, finish, timeout_failure, wait_failure
from ironflow.core.runs.effects import (
    ATTEMPT_TIMER,
    CANCEL_STEP,
    JOB_TIMER,
    STEP_TIMER,
    TIMEOUT_TIMER,
    AddWaiter,
    Barred,
    CancelBody,
    ClearTimer,
    Consume,
    Decision,
    DropBody,
    Effect,
    Enqueue,
    RemoveWaiter,
    SetTimer,
    Situation,
    StartBody,
)
from ironflow.core.runs.entries import CancelOn, RunEntry
from ironflow.core.runs.fold import apply
from ironflow.core.runs.state import OPEN, Run, RunStatus, StepStatus, steps_from
from ironflow.core.runs.waking import begin, start, wake
from ironflow.core.values.payloads import NULL, Failure, Payload
from ironflow.core.workflows import turns

UNRESOLVED = "THROTTLE_KEY_UNRESOLVED"
"""What a run fails with whose input has no value at the key of its throttle."""


def decide(run: Run, command: Message[Any], situation: Situation) -> Decision:
    """What `run` does about `command`. Raises an `IronflowError` for an expected no."""
    if run.version == 0 and type(command) is not c.CreateRun:
        delivery = getattr(command, "delivery", None)
        if delivery is not None:
            return Decision([], None, [Consume(delivery), *_give_back(run, command)])
        if isinstance(command, c.TimerFired):
            return Decision([], None, [ClearTimer(command.name)])
        raise NotFound("run", run.id)
    return _DECIDERS[type(command)](run, command, situation)


# -- creation and dispatch ------------------------------------------------------------------------


def _create(run: Run, command: c.CreateRun, s: Situation) -> Decision:
    done: list[Effect] = [Consume(command.delivery)] if command.delivery else []
    if run.exists:
        if run.input_hash != command.input_hash and not command.delivery:
            raise IdempotencyConflict(command.idempotency_key or run.id, f"run {run.id}")
        if run.is_terminal:
            done.extend(_give_back(run, command))
        return Decision([], c.Created(run.id, False, run.status), [*done])
    options = command.options or e.RunOptions()
    entries: list[RunEntry] = [
        e.RunCreated(
            command.function_id,
            command.input,
            command.input_hash,
            options,
            command.code,
            command.event,
            command.idempotency_key,
            command.parent,
            command.kind,
            command.handler,
            command.workflow,
            command.lanes,
            command.priority,
            command.share,
            command.events,
            command.merged,
            command.gate,
            command.behind,
            command.actor,
        )
    ]
    effects: list[Effect] = [*done]
    if s.barred is not None:
        return _skip(run, command, entries[0], s, s.barred)
    if options.timeout is not None:
        effects.append(SetTimer(TIMEOUT_TIMER, s.now + int(options.timeout * SECOND)))
    for index, rule in enumerate(options.cancel_on):
        effects.extend(watch_for_cancel(index, rule, command.input, command.blob))
    effects.extend(turns.job_timers(command.workflow))
    if command.behind is not None:
        return Decision(entries, c.Created(run.id, True, "waiting"), effects)
    if s.slot and s.code is not None:
        entries.append(start(run, s))
        effects.append(StartBody())
        return Decision(entries, c.Created(run.id, True, "running"), effects)
    effects.append(Enqueue())
    return Decision(entries, c.Created(run.id, True, "queued"), effects)


def _skip(
    run: Run, command: c.CreateRun, created: RunEntry, s: Situation, barred: Barred
) -> Decision:
    """Flow control forbids the run. Who asks for it himself is refused; of what an event, a
    schedule or a parent wanted, there is a run that says why it came to nothing.
    """
    last: RunEntry
    if barred.until is None:
        last = e.RunFailed(Failure(UNRESOLVED, barred.reason, UNRESOLVED, retryable=False))
    elif command.delivery is None:
        raise RateLimited(barred.reason, max((barred.until - s.now) / SECOND, 0.0))
    else:
        last = e.RunCancelled(barred.reason)
    made = Run(run.id)
    apply(made, created, s.now)
    decision = finish(made, last)
    done: list[Effect] = [Consume(command.delivery)] if command.delivery else []
    status = "cancelled" if barred.until is not None else "failed"
    reply = c.Created(run.id, True, status)
    return Decision([created, *decision.entries], reply, [*done, *decision.effects])


def _give_back(run: Run, command: Message[Any]) -> list[Effect]:
    """Tell the singleton that has let a run in that there is nothing for it to wait for."""
    gate: str | None = getattr(command, "gate", None)
    return [] if gate is None else [c.Send(gate, c.RunLeft(run_id=run.id))]


def _release(run: Run, command: c.ReleaseRun, s: Situation) -> Decision:
    """The run that this one was behind has ended."""
    effects: list[Effect] = [Consume(command.delivery)] if command.delivery else []
    if run.behind is None:
        return Decision([], None, effects)
    entries: list[RunEntry] = [e.RunReleased()]
    if run.status is RunStatus.WAITING:
        if s.slot and s.code is not None:
            entries.append(start(run, s))
            effects.append(StartBody())
        else:
            effects.append(Enqueue())
    return Decision(entries, None, effects)


def watch_for_cancel(
    index: int, rule: CancelOn, payload: Payload, blob: bytes | None = None
) -> list[AddWaiter]:
    """The waiter behind a `cancel_on` rule: the event must carry the value that the run's input
    has.
    """
    match = None
    if rule.match is not None:
        raw = payload.json if payload.json is not None else blob
        data = msgspec.json.decode(raw) if raw is not None else None
        value = compile_path(rule.match).get({"data": data}, None)
        if isinstance(value, dict | list | None):
            return []  # nothing to compare with: such a rule can never match
        match = f"event.{rule.match.removeprefix('$.').removeprefix('event.')} == {literal(value)}"
    return [AddWaiter(f"{CANCEL_STEP}{index}", rule.event, match)]


def literal(value: object) -> str:
    """A scalar as a literal of the expression language."""
    return msgspec.json.encode(value).decode()


def _dispatch(run: Run, command: c.Dispatch, s: Situation) -> Decision:
    if run.status is RunStatus.RUNNING and not s.hot:
        return _recover(run, s)
    if run.status is not RunStatus.QUEUED or s.code is None:
        return Decision([])
    if not s.slot:  # given back meanwhile, by a decision that had no use for it
        return Decision([], None, [Enqueue()])
    entries, effects = begin(run, s)
    return Decision(entries, None, effects)


def _recover(run: Run, s: Situation) -> Decision:
    """The process ended under the run's body."""
    if s.code is None:
        return Decision([])
    if run.crashes >= s.max_crashes:
        reason = (
            f"the process ended {run.crashes + 1} times in a row while this run was executing "
            "and it recorded nothing in between; resume it once the cause is mended"
        )
        return Decision([e.RunPaused(reason, "crash_loop")], None, [])
    return Decision([start(run, s, recovered=True)], None, [StartBody()])


def _leave(run: Run, command: c.ExecutionLeft, s: Situation) -> Decision:
    if run.status is RunStatus.QUEUED or (
        # The body went away without a word (its report was refused): the run must not stay
        # ownerless.
        run.status is RunStatus.RUNNING and run.execution == command.execution and not s.hot
    ):
        if run.status is RunStatus.QUEUED:
            return Decision([], None, [Enqueue()])
        if command.lost is not None and run.crashes >= s.max_crashes:
            reason = (
                f"{run.crashes + 1} workers in a row went away while they executed this run and "
                f"recorded nothing in between (the last: {command.lost}); resume it once the "
                "cause is mended"
            )
            return Decision([e.RunPaused(reason, "crash_loop")], None, [])
        return Decision([e.RunQueued(command.lost)], None, [Enqueue()])
    return Decision([])


# -- requests -------------------------------------------------------------------------------------


def _cancel(run: Run, command: c.CancelRun, s: Situation) -> Decision:
    done: list[Effect] = [Consume(command.delivery)] if command.delivery else []
    if run.is_terminal:
        if command.delivery or command.outcome == "timed_out":
            return Decision([], run.status.value, done)
        raise Conflict(f"run {run.id} has ended already: {run.status.value}")
    if run.cancelling is not None or run.unwinding is not None:
        return Decision([], run.status.value, done)
    request = e.CancelRequested(command.outcome, command.reason)
    if run.status is RunStatus.RUNNING:
        return Decision([request], run.status.value, [*done, CancelBody()])
    if command.outcome in run.options.compensate_on and run.steps:
        # The undo functions live in the body: replay it up to where it stood, then unwind it.
        entries: list[RunEntry] = [request]
        effects: list[Effect] = [*done, CancelBody(), DropBody()]
        if run.retry_at is not None:
            effects.append(ClearTimer(ATTEMPT_TIMER))
        if s.slot and s.code is not None:
            entries.append(start(run, s))
            return Decision(entries, "running", [*effects, StartBody()])
        if run.status is not RunStatus.QUEUED:
            entries.append(e.RunQueued())
        return Decision(entries, "queued", [*effects, Enqueue()])
    if command.outcome == "timed_out":
        decision = finish(run, e.RunFailed(timeout_failure(run)))
    else:
        decision = finish(run, e.RunCancelled(command.reason))
    status = "failed" if command.outcome == "timed_out" else "cancelled"
    # A branch of a paused run may still be executing a step.
    gone: list[Effect] = [CancelBody(), DropBody()]
    return Decision(decision.entries, status, [*done, *decision.effects, *gone])


def _pause(run: Run, command: c.PauseRun, s: Situation) -> Decision:
    if run.is_terminal:
        raise Conflict(f"run {run.id} has ended already: {run.status.value}")
    if run.cancelling is not None or run.unwinding is not None:
        raise Conflict(f"run {run.id} is being unwound and cannot be paused")
    if run.status is RunStatus.PAUSED or run.pausing is not None:
        return Decision([], run.status.value)
    if run.status is RunStatus.RUNNING:
        return Decision([e.PauseRequested(command.reason)], run.status.value)
    return Decision([e.RunPaused(command.reason)], "paused", [DropBody()])


def _resume(run: Run, command: c.ResumeRun, s: Situation) -> Decision:
    if run.status is RunStatus.PAUSED:
        entries, effects = _rewind(run, command.from_step)
        entries.append(e.RunResumed())
        if run.retry_at is not None:
            effects.append(ClearTimer(ATTEMPT_TIMER))
        if run.behind is not None:
            return Decision(entries, "waiting", effects)
        if s.slot and s.code is not None:
            entries.append(start(run, s))
            return Decision(entries, "running", [*effects, StartBody()])
        return Decision(entries, "queued", [*effects, Enqueue()])
    if run.pausing is not None and command.from_step is None:
        return Decision([e.PauseRequested(None)], run.status.value)
    raise Conflict(f"run {run.id} is not paused: {run.status.value}")


def _retry(run: Run, command: c.RetryRun, s: Situation) -> Decision:
    done: list[Effect] = [Consume(command.delivery)] if command.delivery else []
    if run.status not in (RunStatus.FAILED, RunStatus.CANCELLED):
        if command.delivery:
            if run.is_terminal:
                done.extend(_give_back(run, command))
            return Decision([], None, done)
        raise Conflict(f"run {run.id} has not failed: {run.status.value}")
    entries, effects = _rewind(run, command.from_step)
    entries.append(e.RunReopened(command.reason))
    effects += done
    if run.options.timeout is not None:
        effects.append(SetTimer(TIMEOUT_TIMER, s.now + int(run.options.timeout * SECOND)))
    for index, rule in enumerate(run.options.cancel_on):
        effects.extend(watch_for_cancel(index, rule, run.input, command.blob))
    # Those of a workflow's waits were cleared at its end; its pauses are over.
    effects.extend(timer for timer in turns.job_timers(run.workflow) if "/" in timer.name)
    if s.slot and s.code is not None:
        entries.append(start(run, s))
        return Decision(entries, "running", [*effects, StartBody()])
    return Decision(entries, "queued", [*effects, Enqueue()])


def _rewind(run: Run, key: str | None) -> tuple[list[RunEntry], list[Effect]]:
    """What it takes to forget a step and all later ones; what they wait for is let go of."""
    if key is None:
        return [], []
    if key not in run.steps or run.workflow is not None:
        raise NotFound("step", key)
    waiting = [step for step in steps_from(run, key) if step.status in OPEN]
    effects = [effect for step in waiting for effect in close_wait(run, step)]
    return [e.RunRewound(key)], effects


_PATCHABLE = frozenset({"run", "event", "invoke", "value"})
"""Kinds of steps whose result somebody reads."""


def _patch_step(run: Run, command: c.PatchStep, s: Situation) -> Decision:
    step = run.steps.get(command.key)
    if step is None or run.workflow is not None:
        raise NotFound("step", command.key)
    wanted = (RunStatus.PAUSED,) if command.injected else _STOPPED
    if run.status not in wanted:
        states = " or ".join(status.value for status in wanted)
        raise Conflict(f"run {run.id} is {run.status.value}: it must be {states} for this")
    if step.kind not in _PATCHABLE or step.ended_at is None or step.status in OPEN:
        raise Conflict(f"step {step.key} is a {step.kind} that is {step.status.value}")
    by, reason = command.by, command.reason
    return Decision([e.StepPatched(step.key, command.result, reason, by, command.injected)])


_STOPPED = (RunStatus.PAUSED, RunStatus.FAILED, RunStatus.CANCELLED)


# -- what a run waited for ------------------------------------------------------------------------


def _fire_timer(run: Run, command: c.TimerFired, s: Situation) -> Decision:
    name = command.name
    if run.is_terminal:
        return Decision([], None, [ClearTimer(name)])
    if name == TIMEOUT_TIMER:
        if run.deadline is None:
            return Decision([], None, [ClearTimer(name)])
        if run.deadline > s.now:
            return _ring_later(name, run.deadline)
        reason = timeout_failure(run).message
        decision = _cancel(run, c.CancelRun(reason=reason, outcome="timed_out"), s)
        return Decision(decision.entries, None, [*decision.effects, ClearTimer(name)])
    if name == ATTEMPT_TIMER:
        return _retry_function(run, s)
    if name.startswith(JOB_TIMER) and run.workflow is not None:
        return turns.fire_job_timer(run, name, s)
    step = run.steps.get(name.removeprefix(STEP_TIMER))
    if step is None or step.status not in OPEN or step.until is None:
        return Decision([], None, [ClearTimer(name)])
    if step.until > s.now:
        return _ring_later(name, step.until)
    effects: list[Effect] = [ClearTimer(name)]
    ended: RunEntry
    if step.status is StepStatus.RETRYING:
        ended = e.StepRetryDue(step.key)
    elif step.kind == "sleep":
        ended = e.WaitEnded(step.key, "completed", NULL)
    elif step.vital:
        decision = finish(run, e.RunFailed(wait_failure(step)))
        return Decision(
            [e.WaitEnded(step.key, "timed_out"), *decision.entries],
            None,
            [*effects, *decision.effects],
        )
    else:
        ended = e.WaitEnded(step.key, "timed_out")
        effects = [*close_wait(run, step)]
    return wake(run, step.key, [ended], effects, s)


def _ring_later(name: str, at: int) -> Decision:
    """The timer was set again since, or the wall clock was set back: it rings when it is due."""
    return Decision([], None, [SetTimer(name, at)])


def _retry_function(run: Run, s: Situation) -> Decision:
    clear: list[Effect] = [ClearTimer(ATTEMPT_TIMER)]
    if run.retry_at is None or run.status is not RunStatus.WAITING:
        return Decision([], None, clear)
    if run.retry_at > s.now:
        return _ring_later(ATTEMPT_TIMER, run.retry_at)
    if s.slot and s.code is not None:
        return Decision([start(run, s)], None, [*clear, StartBody()])
    return Decision([e.AttemptDue()], None, [*clear, Enqueue()])


def _deliver_event(run: Run, command: c.EventDelivered, s: Situation) -> Decision:
    done: list[Effect] = [Consume(command.delivery)] if command.delivery else []
    if command.step.startswith(CANCEL_STEP):
        if run.is_terminal:
            return Decision([], None, done)
        request = c.CancelRun(reason=f"cancelled by event {command.event_id}")
        decision = _cancel(run, request, s)
        return Decision(
            decision.entries, None, [*done, *decision.effects, RemoveWaiter(command.step)]
        )
    step = run.steps.get(command.step)
    if step is None or step.status is not StepStatus.WAITING:
        return Decision([], None, [*done, RemoveWaiter(command.step)])
    entries: list[RunEntry] = [e.WaitEnded(step.key, "completed", command.event)]
    return wake(run, step.key, entries, [*done, *close_wait(run, step)], s)


def _end_child(run: Run, command: c.ChildEnded, s: Situation) -> Decision:
    if run.workflow is not None:
        return turns.end_child(run, command, s)
    done: list[Effect] = [Consume(command.delivery)] if command.delivery else []
    step = run.steps.get(command.step)
    if step is None or step.status is not StepStatus.WAITING or step.child != command.run_id:
        return Decision([], None, done)
    if step.until is not None:
        done.append(ClearTimer(STEP_TIMER + step.key))
    ended: RunEntry
    if command.status == "completed":
        ended = e.WaitEnded(step.key, "completed", command.result or NULL)
    else:
        error = command.error or Failure(
            "Cancelled", f"was cancelled: {command.reason}", "cancelled", retryable=False
        )
        ended = e.WaitEnded(step.key, "failed", error=error)
    return wake(run, step.key, [ended], done, s)


_DECIDERS: dict[type, Callable[[Run, Any, Situation], Decision]] = {
    c.RecordStep: reports.record_step,
    c.RecordTurn: turns.record_turn,
    c.SendSignal: turns.send_signal,
    c.CreateRun: _create,
    c.Dispatch: _dispatch,
    c.ExecutionLeft: _leave,
    c.FailStep: reports.fail_step,
    c.StartWait: reports.start_wait,
    c.Park: reports.park,
    c.EndExecution: reports.end_execution,
    c.NoteCancel: reports.note_cancel,
    c.CancelRun: _cancel,
    c.PauseRun: _pause,
    c.ResumeRun: _resume,
    c.RetryRun: _retry,
    c.PatchStep: _patch_step,
    c.TimerFired: _fire_timer,
    c.EventDelivered: _deliver_event,
    c.ChildEnded: _end_child,
    c.ReleaseRun: _release,
}

COMMANDS = frozenset(_DECIDERS)
MAY_START = frozenset(
    {
        c.CreateRun,
        c.CancelRun,
        c.ResumeRun,
        c.RetryRun,
        c.TimerFired,
        c.EventDelivered,
        c.ChildEnded,
        c.SendSignal,
        c.ReleaseRun,
    }
)
"""Commands after which the body may have to run: a slot is reserved before they are decided."""
