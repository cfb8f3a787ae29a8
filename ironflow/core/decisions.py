"""What a run answers to a command: `decide(run, command, situation)` is pure and changes nothing.

A `Decision` holds the entries to record, the answer, and effects. Durable effects (timers, waiters, sends,
consumed deliveries) are committed with the entries; the others happen after the commit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from ironflow.core import commands as c
from ironflow.core import entries as e
from ironflow.core.clock import SECOND
from ironflow.core.entries import CancelOn, Failure, RunEntry
from ironflow.core.errors import Conflict, IdempotencyConflict, NotFound, StaleExecution
from ironflow.core.expressions import compile_path
from ironflow.core.messages import Message
from ironflow.core.runs import OPEN, Run, RunStatus, Step, StepStatus

MAX_CRASHES = 5
"""Times in a row that a run may take the process down before it is paused for good."""

CANCEL_STEP = "@cancel/"
TIMEOUT_TIMER = "timeout"
ATTEMPT_TIMER = "attempt"
STEP_TIMER = "step:"


class Situation(msgspec.Struct):
    """What the decision may depend on beside the run: the time, and what the process can offer."""

    now: int
    slot: bool = False
    """A slot to run the body in is reserved for this decision."""
    hot: bool = False
    """The body of the current execution is in memory."""
    code: str | None = None
    """Version of the code that would run the body now; None when nothing here serves the function."""
    max_crashes: int = MAX_CRASHES


class SetTimer(msgspec.Struct, frozen=True):
    """Durable: tell this run `TimerFired(name)` at `at`."""

    name: str
    at: int


class ClearTimer(msgspec.Struct, frozen=True):
    """Durable: forget a timer."""

    name: str


class AddWaiter(msgspec.Struct, frozen=True):
    """Durable: deliver the first event that matches."""

    step: str
    event: str
    match: str | None


class RemoveWaiter(msgspec.Struct, frozen=True):
    """Durable: no longer interested."""

    step: str


class Consume(msgspec.Struct, frozen=True):
    """Durable: the outbox row of this command has had its effect."""

    delivery: str


class StartBody(msgspec.Struct, frozen=True):
    """Start an execution of the body in the reserved slot."""


class WakeBody(msgspec.Struct, frozen=True):
    """Let the body in memory go on: with the step `key`, or with all that ended when it was parked."""

    key: str | None = None
    uses_slot: bool = False


class CancelBody(msgspec.Struct, frozen=True):
    """Unwind the body that is running."""


class DropBody(msgspec.Struct, frozen=True):
    """Let go of a parked body."""


class Enqueue(msgspec.Struct, frozen=True):
    """Wait for a slot."""


class Ended(msgspec.Struct, frozen=True):
    """Tell whoever waits for the end of the run."""


Effect = (
    SetTimer | ClearTimer | AddWaiter | RemoveWaiter | Consume | c.Send
    | StartBody | WakeBody | CancelBody | DropBody | Enqueue | Ended
)  # fmt: skip


class Decision(msgspec.Struct):
    """The entries to record, the answer to the asker, and what else is to happen."""

    entries: list[RunEntry]
    reply: Any = None
    effects: list[Effect] = []


def decide(run: Run, command: Message[Any], situation: Situation) -> Decision:
    """What `run` does about `command`. Raises an `IronflowError` for an expected no."""
    if not run.exists and type(command) is not c.CreateRun:
        delivery = getattr(command, "delivery", None)
        if delivery is not None:
            return Decision([], None, [Consume(delivery)])
        if isinstance(command, c.TimerFired):
            return Decision([], None, [ClearTimer(command.name)])
        raise NotFound("run", run.id)
    return _DECIDERS[type(command)](run, command, situation)


# -- creation and dispatch ------------------------------------------------------------------------


def _create(run: Run, command: c.CreateRun, s: Situation) -> Decision:
    done = [Consume(command.delivery)] if command.delivery else []
    if run.exists:
        if run.input_hash != command.input_hash and not command.delivery:
            raise IdempotencyConflict(command.idempotency_key or run.id, f"run {run.id}")
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
        )
    ]
    effects: list[Effect] = [*done]
    if options.timeout is not None:
        effects.append(SetTimer(TIMEOUT_TIMER, s.now + int(options.timeout * SECOND)))
    for index, rule in enumerate(options.cancel_on):
        effects.extend(watch_for_cancel(index, rule, command.input, command.blob))
    if s.slot and s.code is not None:
        entries.append(e.RunStarted(1, s.code))
        effects.append(StartBody())
        return Decision(entries, c.Created(run.id, True, "running"), effects)
    effects.append(Enqueue())
    return Decision(entries, c.Created(run.id, True, "queued"), effects)


def watch_for_cancel(
    index: int, rule: CancelOn, payload: e.Payload, blob: bytes | None = None
) -> list[AddWaiter]:
    """The waiter behind a `cancel_on` rule: the event must carry the value that the run's input has."""
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
    return Decision(*_begin(run, s))


def _begin(run: Run, s: Situation) -> tuple[list[RunEntry], None, list[Effect]]:
    """Entries and effects that give a run the reserved slot."""
    if s.hot:
        return [e.RunWoken()], None, [WakeBody(None, uses_slot=True)]
    return [e.RunStarted(run.execution + 1, s.code)], None, [StartBody()]


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
    return Decision([e.RunStarted(run.execution + 1, s.code, recovered=True)], None, [StartBody()])


def _leave(run: Run, command: c.ExecutionLeft, s: Situation) -> Decision:
    if run.status is RunStatus.QUEUED or (
        # The body went away without a word (its report was refused): the run must not stay ownerless.
        run.status is RunStatus.RUNNING and run.execution == command.execution and not s.hot
    ):
        entries: list[RunEntry] = [] if run.status is RunStatus.QUEUED else [e.RunQueued()]
        return Decision(entries, None, [Enqueue()])
    return Decision([])


# -- reports of the execution ---------------------------------------------------------------------


def _fence(run: Run, execution: int) -> None:
    if run.execution != execution or run.is_terminal:
        raise StaleExecution(run.id, execution, run.execution)


def _boundary(run: Run, entries: list[RunEntry]) -> c.Directive:
    """What the execution does next; a pause that was asked for takes effect here."""
    if run.cancelling is not None and run.unwinding is None:
        return "unwind"
    if run.status is RunStatus.PAUSED:
        return "suspend"
    if run.pausing is not None:
        entries.append(e.RunPaused(run.pausing))
        return "suspend"
    return "go"


def _record_step(run: Run, command: c.RecordStep, s: Situation) -> Decision:
    _fence(run, command.execution)
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
            effects.extend(_close_wait(run, known))
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
                effects.extend(_close_wait(run, loser))
    reply = _boundary(run, entries)
    return Decision(entries, reply, effects)


def _fail_step(run: Run, command: c.FailStep, s: Situation) -> Decision:
    _fence(run, command.execution)
    known = run.steps.get(command.key)
    entries: list[RunEntry] = []
    effects: list[Effect] = []
    if known is not None and (
        known.status is StepStatus.COMPLETED
        or (known.error is not None and known.attempt >= command.attempt)
    ):
        reply = _boundary(run, entries)  # reported before
        return Decision(entries, reply)
    if known is not None and known.status in OPEN:
        effects.extend(_close_wait(run, known))
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
    reply = _boundary(run, entries)
    return Decision(entries, reply, effects)


def _may_park(run: Run, waits: tuple[str, ...] | None) -> bool:
    """Whether a body that waits for `waits` (None: a branch is active) really has nothing to do.

    A wait may have ended while the report was on its way; then the body is being woken and must not park.
    """
    return waits is not None and all(key in run.open for key in waits)


def _start_wait(run: Run, command: c.StartWait, s: Situation) -> Decision:
    _fence(run, command.execution)
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
    return Decision(entries, _boundary(run, entries), effects)


def _park(run: Run, command: c.Park, s: Situation) -> Decision:
    _fence(run, command.execution)
    entries: list[RunEntry] = []
    if run.status is RunStatus.RUNNING and command.waits and _may_park(run, command.waits):
        entries.append(e.RunParked())
        if _boundary(run, entries) == "suspend":
            return Decision(entries, None, [DropBody()])
    return Decision(entries)


def _end_execution(run: Run, command: c.EndExecution, s: Situation) -> Decision:
    _fence(run, command.execution)
    if run.retry_at is not None:
        return Decision([], "go")  # reported before
    if command.outcome == "completed":
        return _finish(run, e.RunCompleted(command.result or e.NULL))
    if command.outcome == "compensated":
        if run.unwinding is None:
            raise Conflict(f"run {run.id} has nothing to compensate: it is not being unwound")
        return _finish(run, _final(run.unwinding))
    if run.unwinding is not None:
        # Unwound again after a crash: the outcome was settled before.
        if command.compensations:
            return Decision([], "compensate")
        return _finish(run, _final(run.unwinding))
    if run.cancelling is not None:
        outcome = run.cancelling.outcome
        error = _timeout_failure(run) if outcome == "timed_out" else None
        unwinding = e.RunUnwinding(outcome, error, run.cancelling.reason)
    else:
        error = command.error or Failure("Unwound", "the body was unwound", retryable=False)
        if error.retryable and run.attempt < run.options.retry.max_attempts:
            retry_at = s.now + int(run.options.retry.delay(run.attempt, run.id) * SECOND)
            entries: list[RunEntry] = [e.AttemptFailed(error, retry_at)]
            if run.pausing is not None:
                entries.append(e.RunPaused(run.pausing))
            elif run.status is RunStatus.PAUSED:
                entries.append(e.RunPaused(run.reason or "", run.paused_cause or "request"))
            return Decision(entries, "go", [SetTimer(ATTEMPT_TIMER, retry_at)])
        unwinding = e.RunUnwinding("failed", error)
    if command.compensations and unwinding.outcome in run.options.compensate_on:
        return Decision([unwinding], "compensate")
    return _finish(run, _final(unwinding))


def _final(unwinding: e.RunUnwinding) -> RunEntry:
    if unwinding.outcome == "cancelled":
        return e.RunCancelled(unwinding.reason)
    return e.RunFailed(unwinding.error or Failure("Unknown", unwinding.reason, retryable=False))


def _timeout_failure(run: Run) -> Failure:
    return Failure(
        "RunTimeout",
        f"the run took longer than its timeout of {run.options.timeout or 0.0:g} s",
        "run_timeout",
        retryable=False,
    )


def _finish(run: Run, last: RunEntry) -> Decision:
    """The end of the run: the last entry, everything it held released, its parent told."""
    effects: list[Effect] = []
    for key in run.open:
        effects.extend(_close_wait(run, run.steps[key]))
    if run.options.timeout is not None:
        effects.append(ClearTimer(TIMEOUT_TIMER))
    if run.retry_at is not None:
        effects.append(ClearTimer(ATTEMPT_TIMER))
    effects.extend(RemoveWaiter(f"{CANCEL_STEP}{i}") for i in range(len(run.options.cancel_on)))
    parent = run.parent
    if parent is not None and not parent.detached:
        effects.append(c.Send(f"run/{parent.run_id}", _report(run, parent, last)))
    effects.append(Ended())
    return Decision([last], "go", effects)


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


def _close_wait(run: Run, step: Step) -> list[Effect]:
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
        effects: list[Effect] = [*done, DropBody()]
        if run.retry_at is not None:
            effects.append(ClearTimer(ATTEMPT_TIMER))
        if s.slot and s.code is not None:
            entries.append(e.RunStarted(run.execution + 1, s.code))
            return Decision(entries, "running", [*effects, StartBody()])
        if run.status is not RunStatus.QUEUED:
            entries.append(e.RunQueued())
        return Decision(entries, "queued", [*effects, Enqueue()])
    if command.outcome == "timed_out":
        decision = _finish(run, e.RunFailed(_timeout_failure(run)))
    else:
        decision = _finish(run, e.RunCancelled(command.reason))
    status = "failed" if command.outcome == "timed_out" else "cancelled"
    return Decision(decision.entries, status, [*done, *decision.effects, DropBody()])


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
        entries: list[RunEntry] = [e.RunResumed()]
        effects: list[Effect] = [] if run.retry_at is None else [ClearTimer(ATTEMPT_TIMER)]
        if s.slot and s.code is not None:
            entries.append(e.RunStarted(run.execution + 1, s.code))
            return Decision(entries, "running", [*effects, StartBody()])
        return Decision(entries, "queued", [*effects, Enqueue()])
    if run.pausing is not None:
        return Decision([e.PauseRequested(None)], run.status.value)
    raise Conflict(f"run {run.id} is not paused: {run.status.value}")


def _retry(run: Run, command: c.RetryRun, s: Situation) -> Decision:
    if run.status not in (RunStatus.FAILED, RunStatus.CANCELLED):
        raise Conflict(f"run {run.id} has not failed: {run.status.value}")
    entries: list[RunEntry] = [e.RunReopened(command.reason)]
    effects: list[Effect] = []
    if run.options.timeout is not None:
        effects.append(SetTimer(TIMEOUT_TIMER, s.now + int(run.options.timeout * SECOND)))
    for index, rule in enumerate(run.options.cancel_on):
        effects.extend(watch_for_cancel(index, rule, run.input))
    if s.slot and s.code is not None:
        entries.append(e.RunStarted(run.execution + 1, s.code))
        return Decision(entries, "running", [*effects, StartBody()])
    return Decision(entries, "queued", [*effects, Enqueue()])


# -- what a run waited for ------------------------------------------------------------------------


def _wake(run: Run, key: str, entries: list[RunEntry], effects: list[Effect], s: Situation) -> Decision:
    """The wait `key` has ended (`entries` say so): see that the body goes on."""
    if run.status is RunStatus.RUNNING:
        effects.append(WakeBody(key))
    elif run.status is RunStatus.WAITING and run.retry_at is None:
        if s.slot and s.code is not None:
            more, _, then = _begin(run, s)
            entries.extend(more)
            effects.extend(then)
        else:
            entries.append(e.RunQueued())
            effects.append(Enqueue())
    return Decision(entries, None, effects)


def _fire_timer(run: Run, command: c.TimerFired, s: Situation) -> Decision:
    name = command.name
    if run.is_terminal:
        return Decision([], None, [ClearTimer(name)])
    if name == TIMEOUT_TIMER:
        if run.deadline is None:
            return Decision([], None, [ClearTimer(name)])
        if run.deadline > s.now:
            return _ring_later(name, run.deadline)
        reason = _timeout_failure(run).message
        decision = _cancel(run, c.CancelRun(reason=reason, outcome="timed_out"), s)
        return Decision(decision.entries, None, [*decision.effects, ClearTimer(name)])
    if name == ATTEMPT_TIMER:
        return _retry_function(run, s)
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
        ended = e.WaitEnded(step.key, "completed", e.NULL)
    else:
        ended = e.WaitEnded(step.key, "timed_out")
        effects = [*_close_wait(run, step)]
    return _wake(run, step.key, [ended], effects, s)


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
        return Decision([e.RunStarted(run.execution + 1, s.code)], None, [*clear, StartBody()])
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
    return _wake(run, step.key, entries, [*done, *_close_wait(run, step)], s)


def _end_child(run: Run, command: c.ChildEnded, s: Situation) -> Decision:
    done: list[Effect] = [Consume(command.delivery)] if command.delivery else []
    step = run.steps.get(command.step)
    if step is None or step.status is not StepStatus.WAITING or step.child != command.run_id:
        return Decision([], None, done)
    if step.until is not None:
        done.append(ClearTimer(STEP_TIMER + step.key))
    ended: RunEntry
    if command.status == "completed":
        ended = e.WaitEnded(step.key, "completed", command.result or e.NULL)
    else:
        error = command.error or Failure(
            "Cancelled", f"was cancelled: {command.reason}", "cancelled", retryable=False
        )
        ended = e.WaitEnded(step.key, "failed", error=error)
    return _wake(run, step.key, [ended], done, s)


_DECIDERS: dict[type, Callable[[Run, Any, Situation], Decision]] = {
    c.RecordStep: _record_step,
    c.CreateRun: _create,
    c.Dispatch: _dispatch,
    c.ExecutionLeft: _leave,
    c.FailStep: _fail_step,
    c.StartWait: _start_wait,
    c.Park: _park,
    c.EndExecution: _end_execution,
    c.CancelRun: _cancel,
    c.PauseRun: _pause,
    c.ResumeRun: _resume,
    c.RetryRun: _retry,
    c.TimerFired: _fire_timer,
    c.EventDelivered: _deliver_event,
    c.ChildEnded: _end_child,
}

COMMANDS = frozenset(_DECIDERS)
MAY_START = frozenset(
    {c.CreateRun, c.CancelRun, c.ResumeRun, c.RetryRun, c.TimerFired, c.EventDelivered, c.ChildEnded}
)
"""Commands after which the body may have to run: a slot is reserved before they are decided."""


