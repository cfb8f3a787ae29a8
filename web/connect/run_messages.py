"""Runs and steps as messages."""

from __future__ import annotations

from ironflow.actors.engine import Engine
from ironflow.core.functions.definition import Placement
from ironflow.core.remote.pull import step_id
from ironflow.core.runs.state import Run, Step, StepStatus
from ironflow.core.values.payloads import Failure, Payload
from ironflow.storage.ports import RunRow
from ironflow.web.connect.json_codec import Plain
from ironflow.web.connect.values import show

STATUSES = {
    "queued": "RUN_STATUS_WAITING_FOR_CAPACITY",
    "running": "RUN_STATUS_RUNNING",
    "waiting": "RUN_STATUS_WAITING",
    "paused": "RUN_STATUS_PAUSED",
    "completed": "RUN_STATUS_COMPLETED",
    "failed": "RUN_STATUS_FAILED",
    "cancelled": "RUN_STATUS_CANCELLED",
}
BY_STATUS = {name: status for status, name in STATUSES.items()}
TEXT = {"queued": "waiting_for_capacity"}
"""Statuses whose word in this protocol is another one."""
_TYPES = {
    "sleep": ("STEP_TYPE_SLEEP", "sleep"),
    "event": ("STEP_TYPE_WAIT_FOR_EVENT", "wait_for_event"),
    "invoke": ("STEP_TYPE_INVOKE_FUNCTION", "invoke_function"),
    "compensate": ("STEP_TYPE_COMPENSATE", "compensate"),
}
_STEP_STATUSES = {
    StepStatus.COMPLETED: "STEP_STATUS_COMPLETED",
    StepStatus.FAILED: "STEP_STATUS_FAILED",
    StepStatus.RETRYING: "STEP_STATUS_RETRYING",
    StepStatus.DUE: "STEP_STATUS_RETRYING",
    StepStatus.WAITING: "STEP_STATUS_WAITING",
    StepStatus.TIMED_OUT: "STEP_STATUS_TIMED_OUT",
    StepStatus.CANCELLED: "STEP_STATUS_DEAD",
}
_MODES: dict[Placement, str] = {
    "push": "EXECUTION_MODE_PUSH",
    "pull": "EXECUTION_MODE_PULL",
    "embedded": "EXECUTION_MODE_UNSPECIFIED",
}
_WAITS = {"sleep": "sleep", "event": "wait_event", "invoke": "invoke_function"}
MAX_INT32 = 2**31 - 1


def row_id(run: Run, step: Step) -> str:
    """What names a step among those of all runs."""
    return f"{run.id}:{step.key}"


def step_type(step: Step) -> tuple[str, str]:
    """The type of a step, as an enum and in words."""
    return _TYPES.get(step.kind, ("STEP_TYPE_INVOKE", "invoke"))


def error_message(error: Failure | None) -> Plain | None:
    """What went wrong."""
    if error is None:
        return None
    return {
        "message": error.message,
        "code": error.code,
        "retryable": error.retryable,
        "stack": error.trace,
    }


async def load(engine: Engine, payload: Payload | None) -> bytes | None:
    """The JSON text of a value, wherever it is kept."""
    return None if payload is None else await engine.load_payload(payload)


async def run_message(engine: Engine, run: Run) -> Plain:
    """A run, whole."""
    spec = engine.host.spec(run.function_id)
    lease = engine.fleet.leases.get(run.id)
    parent = run.parent
    return {
        "id": run.id,
        "functionId": run.function_id,
        "eventId": run.event.id if run.event is not None else "",
        "eventName": run.event.name if run.event is not None else "",
        "executionMode": _MODES[spec.definition.placement] if spec is not None else None,
        "workerId": lease.holder if lease is not None else "",
        **show("input", await load(engine, run.input)),
        **show("output", await load(engine, run.result)),
        "error": error_message(run.error),
        "status": STATUSES[run.status],
        "attempt": run.attempt,
        "maxAttempts": run.options.retry.max_attempts,
        "createdAt": run.created_at,
        "startedAt": run.started_at,
        "endedAt": run.ended_at,
        "updatedAt": run.updated_at,
        "pauseRequested": run.pausing is not None,
        "pauseReason": _pause_reason(run),
        "parentRunId": parent.run_id if parent is not None else "",
        "parentStepId": step_id(parent.run_id, parent.step) if parent is not None else "",
        "timeoutAt": run.deadline,
        "version": min(run.version, MAX_INT32),
        "functionVersion": await engine.catalog.version_at(run.function_id, run.created_at),
        "environmentId": engine.environment_id,
        "cancellationCause": run.reason or "" if run.status == "cancelled" else "",
    }


def row_message(row: RunRow) -> Plain:
    """A run as far as its row tells."""
    return {
        "id": row.id,
        "functionId": row.function_id,
        "eventId": row.event_id or "",
        "eventName": row.event_name or "",
        "status": STATUSES[row.status],
        "attempt": row.attempt,
        "createdAt": row.created_at,
        "startedAt": row.started_at,
        "endedAt": row.ended_at,
        "updatedAt": row.updated_at,
        "parentRunId": row.parent_id or "",
    }


def _pause_reason(run: Run) -> str:
    if run.status == "paused":
        return "injection" if run.paused_cause == "request" else run.paused_cause or "injection"
    if run.status != "waiting":
        return ""
    waits = [_WAITS.get(run.steps[key].kind, "retry") for key in run.open]
    return waits[0] if waits else "retry"


async def step_message(engine: Engine, run: Run, step: Step) -> Plain:
    """A step, whole."""
    sleeps = step.kind == "sleep" and step.status is StepStatus.WAITING
    took = None
    if step.ended_at is not None and step.started_at:
        took = max(0, step.ended_at - step.started_at) // 1000
    waits = step.kind == "event"
    return {
        "id": row_id(run, step),
        "runId": run.id,
        "stepId": step_id(run.id, step.key),
        "stepType": step_type(step)[0],
        "sequence": step.pos,
        "status": "STEP_STATUS_SLEEPING" if sleeps else _STEP_STATUSES[step.status],
        "storedStatus": step.status.value,
        **show("output", await load(engine, step.result)),
        **show("originalOutput", await load(engine, step.original)),
        "error": error_message(step.error),
        "attempt": step.attempt,
        "durationMs": min(took, MAX_INT32) if took is not None else None,
        "durationMsFull": took,
        "startedAt": step.started_at or None,
        "endedAt": step.ended_at,
        "createdAt": step.started_at or None,
        "updatedAt": step.patched_at or step.ended_at,
        "sleepUntil": step.until if step.kind == "sleep" else None,
        "waitEventName": step.event or "",
        "waitTimeout": step.until if waits else None,
        "childRunId": step.child or "",
        "compensationFor": step.name.removeprefix("compensate:")
        if step.kind == "compensate"
        else "",
        "patchedAt": step.patched_at,
        "patchedBy": step.patched_by,
    }
