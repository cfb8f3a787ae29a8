"""How a Prefect flow run stands in the lists, steps and results of all runs."""

from __future__ import annotations

import msgspec

from ironflow.core.prefect.runs import History, Progress, TaskRun
from ironflow.core.prefect.states import AWAITING_RETRY, State
from ironflow.core.runs.entries import ParentRef
from ironflow.core.runs.execution import RunningStep
from ironflow.core.runs.state import Run, RunStatus, Step, StepStatus
from ironflow.core.values.payloads import NULL, Failure, Payload

_STATUSES = {
    "SCHEDULED": RunStatus.QUEUED,
    "PENDING": RunStatus.QUEUED,
    "RUNNING": RunStatus.RUNNING,
    "CANCELLING": RunStatus.RUNNING,
    "PAUSED": RunStatus.PAUSED,
    "COMPLETED": RunStatus.COMPLETED,
    "FAILED": RunStatus.FAILED,
    "CRASHED": RunStatus.FAILED,
    "CANCELLED": RunStatus.CANCELLED,
}
_STEP_STATUSES = {
    "COMPLETED": StepStatus.COMPLETED,
    "FAILED": StepStatus.FAILED,
    "CRASHED": StepStatus.FAILED,
    "CANCELLED": StepStatus.CANCELLED,
}


def status_of(state: State | None) -> RunStatus:
    """The status that a state means in the lists of all runs."""
    if state is None:
        return RunStatus.QUEUED
    if state.name == AWAITING_RETRY:
        return RunStatus.WAITING
    return _STATUSES[state.type]


def subject(history: History) -> tuple[Progress, str, int, int] | None:
    """What the stream is about, its name, and when it was created and changed: the flow run, or
    the one task run that has none.
    """
    flow = history.flow_run
    if flow is not None:
        return flow, flow.flow_name, flow.created_at, flow.updated_at
    task = history.tasks.get(history.id)
    if task is not None:
        return task, task.info.task_key, task.created_at, task.updated_at
    return None


def failure_of(state: State | None) -> Failure | None:
    """What went wrong, as far as a state says."""
    if state is None or state.type not in ("FAILED", "CRASHED"):
        return None
    return Failure(kind=state.name, message=state.message or "", code=state.type.lower())


def as_run(history: History, *, with_steps: bool = True) -> Run | None:
    """The run that lists and views of all runs show; its task runs are the steps."""
    found = subject(history)
    if found is None:
        return None
    progress, name, created, updated = found
    state = progress.state
    flow = history.flow_run
    run = Run(
        history.id,
        kind="flow",
        function_id=name,
        status=status_of(state),
        version=history.version,
        created_at=created,
        updated_at=updated,
        started_at=progress.started_at,
        ended_at=progress.ended_at,
        attempt=max(1, progress.run_count),
        execution=progress.run_count,
        input=NULL if flow is None else Payload(raw=msgspec.Raw(flow.info.parameters)),
        idempotency_key=None if flow is None else flow.info.idempotency_key,
        code=None if flow is None else flow.info.flow_version,
        error=failure_of(state),
        reason=None if state is None else state.message,
    )
    if state is not None and state.type == "COMPLETED":
        run.result = Payload(raw=msgspec.Raw(state.data))
    if flow is not None and flow.parent_flow_run_id is not None:
        run.parent = ParentRef(flow.parent_flow_run_id, flow.info.parent_task_run_id or "")
    for position, task in enumerate(history.tasks.values() if with_steps else ()):
        step = _step(task, position)
        run.steps[step.key] = step
        run.order.setdefault("", []).append(step.key)
    return run


def _step(task: TaskRun, position: int) -> Step:
    state = task.state
    status = StepStatus.WAITING
    if state is not None:
        retrying = state.name == AWAITING_RETRY
        status = StepStatus.RETRYING if retrying else _STEP_STATUSES.get(state.type, status)
    child = None if state is None else state.state_details.child_flow_run_id
    done = state is not None and state.type == "COMPLETED"
    return Step(
        task.info.id,
        task.info.name,
        "run" if child is None else "invoke",
        status,
        position,
        "",
        max(1, task.run_count),
        task.started_at or 0,
        task.ended_at,
        Payload(raw=msgspec.Raw(state.data)) if done and state is not None else None,
        error=failure_of(state),
        until=task.next_scheduled_at,
        child=None if child is None else str(child),
    )


def running_steps(history: History) -> list[RunningStep]:
    """The task runs that a client executes now, as far as it has said so."""
    return [
        RunningStep(task.info.id, task.info.name, task.run_count, task.state.at)
        for task in history.tasks.values()
        if task.state is not None and task.state.type == "RUNNING"
    ]
