"""Why a run stands where it stands, in plain words, and what will wake it.

`wake_sources` names what every unfinished run must hold: something that will bring it on without
anybody asking for it, or an operator who paused it. `explain` says the same in sentences. Both are
pure: they read the run's record and are told what only the process knows (which steps execute, its
place in the queue).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import msgspec

from ironflow.core.clock import SECOND, to_rfc3339
from ironflow.core.durations import format_duration
from ironflow.core.runs.effects import ATTEMPT_TIMER, STEP_TIMER, job_timer
from ironflow.core.runs.execution import RunningStep
from ironflow.core.runs.state import Run, RunStatus, Step, StepStatus
from ironflow.core.values.payloads import Failure
from ironflow.core.workflows.state import WorkflowState

SourceKind = Literal[
    "timer", "waiter", "child", "signal", "slot", "execution", "operator", "predecessor"
]
ReasonKind = Literal[
    "timer", "event", "run", "retry", "slot", "function", "step", "recovery",
    "pause", "cancel", "unwind", "timeout", "ended", "none",
]  # fmt: skip

LONGEST_TEXT = 300
"""Characters of an error's message that a sentence quotes."""


class WakeSource(msgspec.Struct, frozen=True):
    """What will bring a run on: a durable timer, an event waiter, a child run, an event that is
    sent to it (`signal`), its place in the queue for a slot, the execution that is under way, the
    operator who paused it, or the end of the run whose place it takes (`predecessor`).

    `name` is the timer's name, the event pattern, a run's id, the function's id, the number of the
    execution or the cause of the pause; `due_at` is when a timer rings.
    """

    kind: SourceKind
    name: str
    step: str | None = None
    due_at: int | None = None


class Reason(msgspec.Struct, frozen=True):
    """One thing that a run waits for, or that is to be known of it. `due_at`: it ends by itself."""

    kind: ReasonKind
    text: str
    step: str | None = None
    due_at: int | None = None


class Explanation(msgspec.Struct, frozen=True):
    """Why a run stands where it stands: a sentence, and the reasons behind it, main ones first."""

    run_id: str
    status: RunStatus
    summary: str
    reasons: list[Reason]


# -- what wakes it --------------------------------------------------------------------------------


def wake_sources(run: Run) -> list[WakeSource]:
    """Everything that will bring `run` on; empty only when it has ended (or for a defect).

    Its time limit and `cancel_on` events are not named: they end a run, they do not bring it on.
    """
    if run.is_terminal or not run.exists:
        return []
    match run.status:
        case RunStatus.QUEUED:
            return [WakeSource("slot", run.function_id)]
        case RunStatus.RUNNING:
            return [WakeSource("execution", str(run.execution))]
        case RunStatus.PAUSED:
            return [WakeSource("operator", run.paused_cause or "request")]
        case _:
            return _waiting_sources(run)


def _waiting_sources(run: Run) -> list[WakeSource]:
    if run.behind is not None:
        return [WakeSource("predecessor", run.behind)]
    if run.retry_at is not None:
        # Until then a wait that ends is recorded, but wakes nobody.
        return [WakeSource("timer", ATTEMPT_TIMER, due_at=run.retry_at)]
    if run.workflow is not None:
        return _job_sources(run.workflow)
    return [source for key in run.open for source in _step_sources(run.steps[key])]


def _job_sources(state: WorkflowState) -> list[WakeSource]:
    """What brings on a workflow: its jobs' timers and waits, its children, and, when nothing is
    under way, an event from outside.
    """
    sources = []
    for job in state.jobs.values():
        step = f"{job.step}#{job.id}"
        if job.retry_at is not None:
            sources.append(WakeSource("timer", job_timer(job.id), step, job.retry_at))
        for key, wait in job.waits.items():
            if wait.event is not None or wait.timed_out:
                continue
            sources.append(WakeSource("signal", wait.type, step))
            if wait.until is not None:
                sources.append(WakeSource("timer", job_timer(job.id, key), step, wait.until))
        sources.extend(
            WakeSource("child", child.run_id, step)
            for child in job.children.values()
            if child.outcome is None
        )
    if not state.jobs:
        sources.extend(WakeSource("signal", name) for name in state.awaits or ("*",))
    return sources


def _step_sources(step: Step) -> list[WakeSource]:
    sources = []
    if step.until is not None:
        sources.append(WakeSource("timer", STEP_TIMER + step.key, step.key, step.until))
    if step.event is not None:
        sources.append(WakeSource("waiter", step.event, step.key))
    if step.child is not None:
        sources.append(WakeSource("child", step.child, step.key))
    return sources


# -- in words -------------------------------------------------------------------------------------


def explain(
    run: Run,
    now: int,
    *,
    running: Sequence[RunningStep] = (),
    served: bool = True,
    queue_position: int | None = None,
    held_up: str | None = None,
) -> Explanation:
    """Why `run` stands where it stands at `now` (microseconds).

    `running` are the steps that execute in this process, `served` says whether it can execute the
    function, `queue_position` is the number of runs before this one in the queue, None when it is
    not in it; `held_up` says why no run of its function is begun, although there may be room.
    """
    if run.is_terminal:
        summary, reasons = _describe_end(run)
    else:
        match run.status:
            case RunStatus.QUEUED:
                summary, reasons = _describe_queued(run, served, queue_position, held_up)
            case RunStatus.RUNNING:
                summary, reasons = _describe_running(run, now, running, served, queue_position)
            case RunStatus.PAUSED:
                summary, reasons = _describe_paused(run, now)
            case _:
                summary, reasons = _describe_waiting(run, now)
        reasons += _describe_pending(run)
        if run.deadline is not None and run.cancelling is None and run.unwinding is None:
            text = (
                f"the run may take until {_moment(run.deadline)} ({_distance(run.deadline, now)})"
            )
            reasons.append(Reason("timeout", text, due_at=run.deadline))
    return Explanation(run.id, run.status, summary, reasons)


def _describe_queued(
    run: Run, served: bool, position: int | None, held_up: str | None
) -> tuple[str, list[Reason]]:
    begin = "go on" if run.execution else "start"
    if not served:
        text = (
            f"no process serves function {run.function_id!r}: the run will {begin} "
            "as soon as one registers it"
        )
        return f"Queued: {text}.", [Reason("function", text)]
    if held_up is not None:
        return f"Queued: {held_up}.", [Reason("slot", held_up), *_describe_rank(run)]
    if position is None:
        text = f"the run waits for its turn to {begin}"
    elif position == 0:
        text = f"the run is next to {begin}, as soon as a slot is free"
    else:
        text = f"all slots are taken; {_count(position, 'run')} will {begin} before this one"
    return f"Queued: {text}.", [Reason("slot", text), *_describe_rank(run)]


def _describe_rank(run: Run) -> Iterable[Reason]:
    """What its place among those that wait depends on, beside its age."""
    if run.priority:
        yield Reason("slot", f"its priority is {run.priority}; without one it would be 0")
    if run.share is not None:
        yield Reason("slot", f"it takes turns with others as one of {run.share!r}")


def _describe_running(
    run: Run, now: int, running: Sequence[RunningStep], served: bool, position: int | None
) -> tuple[str, list[Reason]]:
    reasons = [
        Reason(
            "step",
            f"step {step.name!r} has been executing for {_span(now - step.started_at)}"
            + (f" (attempt {step.attempt})" if step.attempt > 1 else ""),
            step.key,
        )
        for step in running
    ]
    if running:
        text = _join([f"step {s.name!r} for {_span(now - s.started_at)}" for s in running])
        summary = f"Running: {text}."
    elif position is not None or not served:
        text = "the process that executed the run has ended; it is picked up again " + (
            "as soon as a slot is free"
            if served
            else f"as soon as a process serves function {run.function_id!r}"
        )
        summary = f"Running: {text}."
        reasons.append(Reason("recovery" if served else "function", text))
    else:
        text = (
            f"the function's own code is executing, between steps, since {_moment(run.updated_at)}"
            if run.worker is None
            else f"worker {run.worker} has it; its last word came at {_moment(run.updated_at)}"
        )
        summary = f"Running: {text}."
        reasons.append(Reason("step", text))
    if run.crashes:
        text = (
            f"the process ended {_count(run.crashes, 'time')} in a row while the run was "
            f"executing; this is execution {run.execution}"
        )
        reasons.append(Reason("recovery", text))
    return summary, reasons + _describe_open(run, now)


def _describe_waiting(run: Run, now: int) -> tuple[str, list[Reason]]:
    reasons = _describe_open(run, now)
    if run.behind is not None:
        text = (
            f"function {run.function_id!r} is a singleton: run {run.behind}, whose place this one "
            "takes, is being cancelled and must have ended first"
        )
        return f"Waiting: {text}.", [Reason("run", text)]
    if run.retry_at is not None:
        attempts = run.options.retry.max_attempts
        text = (
            f"attempt {run.attempt} of {max(attempts, run.attempt)} of the function is due "
            f"{_due(run.retry_at, now)}" + _after(run.error)
        )
        reasons.insert(0, Reason("retry", text, due_at=run.retry_at))
        return f"Waiting: {text}.", reasons
    if not reasons:
        text = "nothing recorded will wake the run; this is a defect of ironflow, please report it"
        return f"Waiting: {text}.", [Reason("none", text)]
    if len(reasons) == 1:
        return f"Waiting: {reasons[0].text}.", reasons
    timed = [r for r in reasons if r.due_at is not None]
    nearest = min(timed, key=lambda r: r.due_at or 0) if timed else reasons[0]
    return f"Waiting for {len(reasons)} steps; next: {nearest.text}.", reasons


def _describe_paused(run: Run, now: int) -> tuple[str, list[Reason]]:
    why = run.reason or "no reason was given"
    resume = f"`ironflow runs resume {run.id}` lets it go on"
    reasons = [Reason("pause", f"{why}; {resume}")]
    if run.error is not None and run.retry_at is not None:
        reasons.append(Reason("retry", f"its last attempt failed: {_failure(run.error)}"))
    return f"Paused since {_moment(run.updated_at)}: {why}. {resume}.", [
        *reasons,
        *_describe_open(run, now),
    ]


def _describe_open(run: Run, now: int) -> list[Reason]:
    if run.workflow is not None:
        return list(_describe_jobs(run.workflow, now))
    return [_describe_step(run.steps[key], now) for key in run.open]


def _describe_jobs(state: WorkflowState, now: int) -> Iterable[Reason]:
    for job in state.jobs.values():
        name, key = f"step {job.step!r}", f"{job.step}#{job.id}"
        if job.retry_at is not None:
            text = f"{name}: attempt {job.failures + 1} is due {_due(job.retry_at, now)}"
            yield Reason("retry", text + _after(job.error), key, job.retry_at)
        for wait in job.waits.values():
            if wait.event is None and not wait.timed_out:
                text = f"{name} waits for an event {_bare(wait.type)}" + _fields(wait.requirements)
                if wait.until is not None:
                    text += f", at most until {_moment(wait.until)} ({_distance(wait.until, now)})"
                yield Reason("event", text, key, wait.until)
        for child in job.children.values():
            if child.outcome is None:
                text = f"{name} waits for run {child.run_id} of workflow {child.workflow!r} to end"
                yield Reason("run", text, key)
    if not state.jobs and state.begun:
        names = [_bare(name) for name in state.awaits]
        what = " or ".join(names) if names else "of any class that a step takes"
        yield Reason("event", f"nothing is under way: the workflow waits for an event {what}")


def _bare(name: str) -> str:
    return name.rpartition(".")[2]


def _fields(requirements: dict[str, Any]) -> str:
    if not requirements:
        return ""
    return " with " + _join([f"{name} = {value!r}" for name, value in requirements.items()])


def _describe_step(step: Step, now: int) -> Reason:
    name = f"step {step.name!r}"
    if step.status is StepStatus.RETRYING:
        at = step.until or now
        text = f"{name}: attempt {step.attempt + 1} is due {_due(at, now)}" + _after(step.error)
        return Reason("retry", text, step.key, step.until)
    if step.event is not None:
        match = f" with {step.match}" if step.match else ""
        text = f"{name} waits for an event {step.event!r}{match}" + _limit(step, now)
        return Reason("event", text, step.key, step.until)
    if step.child is not None:
        of = f" of function {step.target!r}" if step.target else ""
        text = f"{name} waits for run {step.child}{of} to end" + _limit(step, now)
        return Reason("run", text, step.key, step.until)
    at = step.until or now
    return Reason(
        "timer", f"{name} sleeps until {_moment(at)} ({_distance(at, now)})", step.key, at
    )


def _describe_pending(run: Run) -> list[Reason]:
    """What was asked of the run and is under way."""
    reasons = []
    if run.unwinding is not None:
        how = {"failed": "has failed", "cancelled": "was cancelled", "timed_out": "ran out of time"}
        done = sum(1 for s in run.steps.values() if s.kind == "compensate" and s.ended_at)
        cause = run.unwinding.reason or (
            _failure(run.unwinding.error) if run.unwinding.error is not None else ""
        )
        text = (
            f"the run {how[run.unwinding.outcome]} and its compensations run, {done} ended so far"
        )
        reasons.append(Reason("unwind", text + (f": {cause}" if cause else "")))
    elif run.cancelling is not None:
        text = f"the run is to end ({run.cancelling.reason}); its body is being unwound"
        reasons.append(Reason("cancel", text))
    reasons += [Reason("cancel", text) for text in describe_rungs(run)]
    if run.pausing is not None:
        text = f"a pause was asked for ({run.pausing}); it takes effect at the next step boundary"
        reasons.append(Reason("pause", text))
    return reasons


_RUNGS = {
    "asked": "was asked to end it",
    "terminated": "got SIGTERM",
    "killed": "was killed",
    "abandoned": "is not waited for any longer",
}


def describe_rungs(run: Run) -> list[str]:
    """What was done to end the body of a run, step by step."""
    return [f"{one.whom} {_RUNGS[one.rung]}, at {_moment(one.at)}" for one in run.rungs]


def _describe_end(run: Run) -> tuple[str, list[Reason]]:
    ended = run.ended_at if run.ended_at is not None else run.updated_at
    began = run.started_at if run.started_at is not None else run.created_at
    when = f"at {_moment(ended)}, after {_span(ended - began)}"
    again = f"`ironflow runs retry {run.id}` tries it again from there"
    match run.status:
        case RunStatus.COMPLETED:
            text = f"Completed {when}."
        case RunStatus.FAILED:
            cause = _failure(run.error) if run.error is not None else "for an unknown reason"
            tries = f" in attempt {run.attempt}" if run.attempt > 1 else ""
            text = f"Failed {when}{tries}: {cause}. {again}."
        case _:
            text = f"Cancelled {when}: {run.reason or 'no reason was given'}. {again}."
    reasons = [Reason("ended", text)]
    reasons += [Reason("cancel", text) for text in describe_rungs(run)]
    for step in run.steps.values():
        if step.status is StepStatus.FAILED and step.error is not None:
            text = f"step {step.name!r} failed in attempt {step.attempt}: {_failure(step.error)}"
            reasons.append(Reason("step", text, step.key))
    return reasons[0].text, reasons


# -- words ----------------------------------------------------------------------------------------


def _limit(step: Step, now: int) -> str:
    if step.until is None:
        return ", without a time limit"
    return f", at most until {_moment(step.until)} ({_distance(step.until, now)})"


def _after(error: Failure | None) -> str:
    return f", after {_failure(error)}" if error is not None else ""


def _failure(error: Failure) -> str:
    message = error.message
    if len(message) > LONGEST_TEXT:
        message = message[: LONGEST_TEXT - 1] + "…"
    return f"{error.kind}: {message}" if message else error.kind


def _due(at: int, now: int) -> str:
    return f"{_distance(at, now)}, at {_moment(at)}" if at > now else "now"


def _distance(at: int, now: int) -> str:
    return f"in {_span(at - now)}" if at > now else "due now"


def _span(micros: int) -> str:
    return format_duration(max(micros, 0) / SECOND)


def _moment(at: int) -> str:
    return to_rfc3339(at)[:19] + "Z"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _join(parts: Iterable[str]) -> str:
    *most, last = parts
    return f"{', '.join(most)} and {last}" if most else last
