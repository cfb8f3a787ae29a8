"""Why a Prefect flow run stands where it stands, in plain words. Its client moves it: what it waits
for is a process, a time, or an answer.
"""

from __future__ import annotations

from ironflow.core.clock import SECOND, to_rfc3339
from ironflow.core.durations import format_duration
from ironflow.core.prefect.lists import running_steps, status_of, subject
from ironflow.core.prefect.runs import FlowRun, History, Progress
from ironflow.core.prefect.states import AWAITING_RETRY, LATE, State, micros
from ironflow.core.runs.explain import LONGEST_TEXT, Explanation, Reason

MOST_TASKS = 20
"""Running tasks that are named."""


def explain_flow_run(history: History, now: int) -> Explanation:
    """Why the flow run, or the task run that has none, stands where it stands at `now`
    (microseconds).
    """
    found = subject(history)
    assert found is not None
    progress = found[0]
    state = progress.state
    reasons = _reasons(history, progress, state, now)
    return Explanation(history.id, status_of(state), reasons[0].text, reasons)


def _reasons(history: History, progress: Progress, state: State | None, now: int) -> list[Reason]:
    if state is None:
        return [Reason("step", "it has no state yet; its client has to report one")]
    if progress.is_terminal:
        text = f"it ended as {state.name} at {to_rfc3339(state.at)}"
        if state.message:
            text += f": {state.message[:LONGEST_TEXT]}"
        return [Reason("ended", text)]
    reasons = [_main_reason(history, state, now)]
    for task in running_steps(history)[:MOST_TASKS]:
        ago = format_duration(max(0, now - task.started_at) / SECOND)
        text = f"its client executes task {task.name!r} since {ago} (attempt {task.attempt})"
        reasons.append(Reason("step", text, task.key))
    return reasons


def _main_reason(history: History, state: State, now: int) -> Reason:
    run = history.flow_run
    match state.type:
        case "SCHEDULED":
            return _scheduled(state, now)
        case "PENDING":
            return Reason("step", f"a process has taken it ({state.name}) and has to start it")
        case "PAUSED":
            return _paused(state)
        case "CANCELLING":
            return Reason("cancel", "it is to be cancelled; its process has to stop and say so")
        case _:
            return _running(run, state, now)


def _scheduled(state: State, now: int) -> Reason:
    at = state.scheduled_at
    if state.name == AWAITING_RETRY:
        return Reason("retry", "its last attempt failed; its client tries it again", due_at=at)
    if at is not None and at > now:
        return Reason("timer", f"it is scheduled for {to_rfc3339(at)}", due_at=at)
    late = " and is late" if state.name == LATE else ""
    return Reason("slot", f"it is due{late}: no process has taken it yet")


def _paused(state: State) -> Reason:
    due_at = micros(state.state_details.pause_timeout)
    text = "it is paused until somebody resumes it"
    if due_at is not None:
        text += f", and fails if that has not happened by {to_rfc3339(due_at)}"
    if state.state_details.pause_reschedule:
        text += "; its process has ended and another one will go on"
    return Reason("pause", text, due_at=due_at)


def _running(run: FlowRun | None, state: State, now: int) -> Reason:
    ago = format_duration(max(0, now - state.at) / SECOND)
    what = "flow" if run is not None else "task"
    attempt = f" (attempt {run.run_count})" if run is not None and run.run_count > 1 else ""
    return Reason("step", f"its client executes the {what} since {ago}{attempt}")
