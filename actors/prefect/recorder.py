"""Task runs from the events of clients: how an unmodified client says how its tasks went.

Reports come in batches, in any order, late, and more than once; the actor of the flow run keeps
what is newest (`core.prefect.runs`). `record` returns when all of it is durable.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from ironflow.core.clock import SECOND, to_datetime
from ironflow.core.errors import NotFound
from ironflow.core.prefect.commands import RecordTaskRuns
from ironflow.core.prefect.events import Event
from ironflow.core.prefect.runs import (
    EMPTY,
    GivenLabels,
    TaskInputs,
    TaskRunInfo,
    TaskRunPolicy,
    TaskRunRecorded,
)
from ironflow.core.prefect.states import (
    NULL,
    State,
    StateDetails,
    StateType,
    default_name,
    in_utc,
    micros,
)

if TYPE_CHECKING:
    from ironflow.actors.kernel.system import System

log = logging.getLogger("ironflow.prefect.recorder")

TASK_EVENT = "prefect.task-run."
FLOW_RUN = "prefect.flow-run."
RESOURCE, ROLE, ORCHESTRATION = (
    "prefect.resource.id",
    "prefect.resource.role",
    "prefect.orchestration",
)


class _ReportedTaskRun(msgspec.Struct, kw_only=True):
    """`payload.task_run`."""

    name: str = ""
    task_key: str
    dynamic_key: str
    cache_key: str | None = None
    cache_expiration: datetime | None = None
    task_version: str | None = None
    empirical_policy: TaskRunPolicy = msgspec.field(default_factory=TaskRunPolicy)
    tags: list[str] = []
    labels: GivenLabels = {}
    task_inputs: msgspec.Raw = EMPTY
    run_count: int = 0
    flow_run_run_count: int = 0
    expected_start_time: datetime | None = None
    next_scheduled_start_time: datetime | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None
    total_run_time: float = 0.0


class _ReportedState(msgspec.Struct, kw_only=True):
    """`payload.validated_state`."""

    type: StateType
    name: str | None = None
    message: str | None = None
    data: msgspec.Raw = NULL
    state_details: StateDetails = msgspec.field(default_factory=StateDetails)


class _Payload(msgspec.Struct, kw_only=True):
    task_run: _ReportedTaskRun
    validated_state: _ReportedState


_decode = msgspec.json.Decoder(_Payload).decode
_check_inputs = msgspec.json.Decoder(TaskInputs).decode


def is_report(event: Event) -> bool:
    """Whether an event says how a task run went, and its client is the one to say it."""
    return event.event.startswith(TASK_EVENT) and event.resource.get(ORCHESTRATION) == "client"


def read_report(event: Event) -> TaskRunRecorded:
    """What an event says of a task run. Raises `msgspec.ValidationError`, `ValueError`."""
    payload = _decode(event.payload)
    task, state = payload.task_run, payload.validated_state
    if task.task_inputs != EMPTY:
        _check_inputs(task.task_inputs)
    task_run_id = event.resource[RESOURCE].removeprefix(TASK_EVENT)
    flow_run_id = next(
        (
            related[RESOURCE].removeprefix(FLOW_RUN)
            for related in event.related
            if related.get(ROLE) == "flow-run"
        ),
        None,
    )
    details = msgspec.structs.replace(
        state.state_details,
        scheduled_time=in_utc(state.state_details.scheduled_time),
        cache_expiration=in_utc(state.state_details.cache_expiration),
        pause_timeout=in_utc(state.state_details.pause_timeout),
    )
    details.flow_run_id = flow_run_id  # type: ignore[assignment]
    details.task_run_id = task_run_id  # type: ignore[assignment]
    info = TaskRunInfo(
        id=task_run_id,
        name=task.name,
        flow_run_id=flow_run_id,
        task_key=task.task_key,
        dynamic_key=task.dynamic_key,
        cache_key=task.cache_key,
        cache_expiration=micros(task.cache_expiration),
        task_version=task.task_version,
        empirical_policy=task.empirical_policy,
        tags=task.tags,
        labels=task.labels,
        task_inputs=task.task_inputs,
    )
    return TaskRunRecorded(
        info=info,
        state=State(
            id=event.id,
            type=state.type,
            name=state.name or default_name(state.type),
            timestamp=to_datetime(event.occurred),
            message=state.message,
            data=state.data,
            state_details=details,
        ),
        run_count=task.run_count,
        flow_run_run_count=task.flow_run_run_count,
        expected_at=micros(task.expected_start_time),
        next_scheduled_at=micros(task.next_scheduled_start_time),
        started_at=micros(task.start_time),
        ended_at=micros(task.end_time),
        run_time=round(task.total_run_time * SECOND),
    )


class Recorder:
    """Brings reports to the flow runs that they are of."""

    def __init__(self, system: System, is_id: Callable[[str], bool]) -> None:
        self._system, self._is_id = system, is_id

    async def record(self, events: Sequence[Event]) -> None:
        """Record what the events say of task runs; the others are passed over. Durable when it
        returns. Raises `Overloaded`, `Gone` or a `StorageError` when some of it may be missing.
        """
        reports: dict[str, list[TaskRunRecorded]] = {}
        for event in events:
            if not is_report(event):
                continue
            try:
                report = read_report(event)
            except (msgspec.ValidationError, msgspec.DecodeError, ValueError) as error:
                log.warning("event %s is no report of a task run: %s", event.id, error)
                continue
            owner = report.info.flow_run_id or report.info.id
            if self._is_id(owner) and self._is_id(report.info.id):
                reports.setdefault(owner, []).append(report)
        asks = [
            self._system.ref("flow_run", owner).ask(
                RecordTaskRuns(tuple(found)), None, trusted=True
            )
            for owner, found in reports.items()
        ]
        if not asks:
            return
        # All are brought to their end, so that a failure of one does not hide that of another.
        failures = [
            outcome
            for outcome in await asyncio.gather(*asks, return_exceptions=True)
            if isinstance(outcome, BaseException) and not isinstance(outcome, NotFound)
        ]
        if failures:
            raise failures[0]
