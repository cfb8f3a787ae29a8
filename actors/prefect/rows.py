"""The rows that filters, the API and the lists of all runs read of a flow run and its task runs."""

from __future__ import annotations

from typing import Any

import msgspec

from ironflow.core.prefect.lists import status_of, subject
from ironflow.core.prefect.runs import FlowRun, History, Progress, TaskRun

Row = tuple[Any, ...]
_encode = msgspec.json.Encoder().encode


def _tags(tags: list[str]) -> str:
    return _encode(tags).decode() if tags else "[]"


def _how_far(run: Progress) -> Row:
    """The columns that flow runs and task runs share: from `state_id` to `run_time`."""
    state = run.state
    named = (None,) * 4 if state is None else (state.id, state.type, state.name, state.at)
    return (
        *named,
        run.run_count,
        run.expected_at,
        run.next_scheduled_at,
        run.started_at,
        run.ended_at,
        run.run_time,
    )


def flow_run_row(run: FlowRun, body: bytes) -> Row:
    """The columns of `FLOW_RUNS`."""
    info, creator = run.info, run.info.created_by
    return (
        info.id,
        info.flow_id,
        run.created_at,
        info.deployment_id,
        info.parent_task_run_id,
        run.parent_flow_run_id,
        info.idempotency_key,
        creator.id if creator is not None else None,
        creator.type if creator is not None else None,
        creator.display_value if creator is not None else None,
        int(info.auto_scheduled),
        info.name,
        run.updated_at,
        info.flow_version,
        info.deployment_version,
        info.work_queue_id,
        info.work_queue_name,
        info.work_pool_id,
        info.work_pool_name,
        _tags(info.tags),
        *_how_far(run),
        body,
    )


def task_run_row(run: TaskRun, body: bytes) -> Row:
    """The columns of `TASK_RUNS`."""
    info = run.info
    return (
        info.id,
        info.flow_run_id,
        info.task_key,
        info.dynamic_key,
        run.created_at,
        info.name,
        run.updated_at,
        info.cache_key,
        info.task_version,
        _tags(info.tags),
        *_how_far(run),
        body,
    )


def row_facts(history: History) -> tuple[object, ...]:
    """What the row among all runs must follow; the rest may wait for one of these to change."""
    found = subject(history)
    assert found is not None
    progress, name, _, _ = found
    state = progress.state
    message = state.message if state is not None else None
    times = progress.started_at, progress.ended_at
    version = history.flow_run.info.flow_version if history.flow_run is not None else None
    return name, status_of(state), *times, progress.run_count, message, version


def run_row(history: History) -> Row:
    """The columns of `RUNS`: a flow run, or a task run that has none, among all runs."""
    found = subject(history)
    assert found is not None
    progress, name, created, updated = found
    flow, state = history.flow_run, progress.state
    return (
        history.id,
        name,
        status_of(state).value,
        created,
        progress.started_at,
        progress.ended_at,
        updated,
        max(1, progress.run_count),
        history.version,
        None,
        None,
        flow.info.idempotency_key if flow is not None else None,
        flow.parent_flow_run_id if flow is not None else None,
        flow.info.flow_version if flow is not None else None,
        state.message[:500] if state is not None and state.message else None,
        0,
        "flow",
    )
