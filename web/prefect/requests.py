"""Bodies of requests about flows and runs. Ids are kept as text in their usual form."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec

from ironflow.core.errors import InvalidInput
from ironflow.core.prefect.runs import (
    FlowRunInfo,
    FlowRunPolicy,
    GivenLabels,
    TaskInputs,
    TaskRunInfo,
    TaskRunPolicy,
)
from ironflow.core.prefect.states import StateCreate, micros

Object = dict[str, msgspec.Raw]
"""A JSON object whose values are only passed through."""
MAX_PARAMETERS = 512 * 1024
"""Bytes of a flow run's parameters as compact JSON, all ASCII: so does Prefect measure."""
MOST_ESCAPED = 3
"""Times that text gets longer by that, at most."""
FlowName = Annotated[str, msgspec.Meta(pattern=r"^[^/%&><]+$")]

_encode = msgspec.json.Encoder().encode
UNSET = msgspec.UNSET
Unset = msgspec.UnsetType


class Body(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Base of request bodies that take no other fields."""


class FlowCreate(Body):
    """A flow, to be created or found by its name."""

    name: FlowName
    tags: list[str] = []
    labels: GivenLabels | None = None


class FlowUpdate(Body):
    """Other tags for a flow."""

    tags: list[str] = []


class FlowRunCreate(Body):
    """A flow run, to be created or found by its idempotency key."""

    flow_id: UUID
    state: StateCreate | None = None
    name: str | None = None
    flow_version: str | None = None
    parameters: Object = {}
    context: Object = {}
    parent_task_run_id: UUID | None = None
    infrastructure_document_id: UUID | None = None
    empirical_policy: FlowRunPolicy = msgspec.field(default_factory=FlowRunPolicy)
    tags: list[str] = []
    labels: GivenLabels | None = None
    idempotency_key: str | None = None
    work_pool_name: str | None = None
    work_queue_name: str | None = None
    job_variables: Object | None = None
    deployment_id: UUID | None = None

    def info(self) -> FlowRunInfo:
        """The flow run that it asks for, without an id."""
        return FlowRunInfo(
            id="",
            name=self.name or "",
            flow_id=str(self.flow_id),
            deployment_id=text(self.deployment_id),
            work_queue_name=self.work_queue_name,
            flow_version=self.flow_version,
            parameters=pack_parameters(self.parameters),
            idempotency_key=self.idempotency_key,
            context=pack(self.context),
            tags=self.tags,
            labels=self.labels or {},
            parent_task_run_id=text(self.parent_task_run_id),
            infrastructure_document_id=text(self.infrastructure_document_id),
            work_pool_name=self.work_pool_name,
            job_variables=pack(self.job_variables or {}),
        )


class FlowRunUpdate(Body):
    """Changes of a flow run."""

    name: str | Unset | None = UNSET
    flow_version: str | Unset | None = UNSET
    parameters: Object | Unset = UNSET
    empirical_policy: FlowRunPolicy | Unset = UNSET
    tags: list[str] | Unset = UNSET
    infrastructure_pid: str | Unset | None = UNSET
    job_variables: Object | Unset | None = UNSET


class SetState(msgspec.Struct, kw_only=True):
    """A proposal of a state."""

    state: StateCreate
    force: bool | None = False


class Resume(msgspec.Struct, kw_only=True):
    """What a paused flow run is told."""

    run_input: Object | None = None


class InputCreate(msgspec.Struct, kw_only=True):
    """Something for a flow run, under a key."""

    key: str
    value: str
    sender: str | None = None


class InputFilter(msgspec.Struct, kw_only=True):
    """Inputs whose keys begin with a prefix."""

    prefix: str
    limit: Annotated[int, msgspec.Meta(ge=0)] = 1
    exclude_keys: list[str] = []


class HistoryBody(msgspec.Struct, kw_only=True):
    """Which intervals; the filters beside them are read by their own rules."""

    history_start: datetime
    history_end: datetime
    history_interval_seconds: float


class BulkSetState(msgspec.Struct, kw_only=True):
    """A proposal of a state for many flow runs."""

    state: StateCreate
    force: bool | None = False


class TaskRunCreate(Body):
    """A task run, to be created or found by its keys."""

    task_key: str
    dynamic_key: str
    id: UUID | None = None
    state: StateCreate | None = None
    name: str | None = None
    flow_run_id: UUID | None = None
    cache_key: str | None = None
    cache_expiration: datetime | None = None
    task_version: str | None = None
    empirical_policy: TaskRunPolicy = msgspec.field(default_factory=TaskRunPolicy)
    tags: list[str] = []
    labels: GivenLabels | None = None
    task_inputs: TaskInputs = {}

    def info(self) -> TaskRunInfo:
        """The task run that it asks for; id and name may be empty."""
        return TaskRunInfo(
            id=text(self.id) or "",
            name=self.name or "",
            flow_run_id=text(self.flow_run_id),
            task_key=self.task_key,
            dynamic_key=self.dynamic_key,
            cache_key=self.cache_key,
            cache_expiration=micros(self.cache_expiration),
            task_version=self.task_version,
            empirical_policy=self.empirical_policy,
            tags=self.tags,
            labels=self.labels or {},
            task_inputs=pack(self.task_inputs),
        )


class TaskRunUpdate(Body):
    """Changes of a task run."""

    name: str | None = None


class OfFlowRun(msgspec.Struct, frozen=True):
    """Which flow run."""

    flow_run_id: UUID


class OfTaskRun(msgspec.Struct, frozen=True):
    """Which task run."""

    task_run_id: UUID


def text(value: UUID | None) -> str | None:
    """An id in its usual form."""
    return None if value is None else str(value)


def pack_parameters(parameters: Object) -> msgspec.Raw:
    """Parameters of a flow run as JSON text. Raises `InvalidInput` when that is too long."""
    packed = pack(parameters)
    if MOST_ESCAPED * len(bytes(packed)) > MAX_PARAMETERS:
        size = len(json.dumps(json.loads(bytes(packed)), separators=(",", ":")))
        if size > MAX_PARAMETERS:
            raise InvalidInput(
                "parameters", f"take {size:,} bytes as JSON, and {MAX_PARAMETERS:,} are the most"
            )
    return packed


def pack(value: dict[str, Any]) -> msgspec.Raw:
    """An object as JSON text."""
    return msgspec.Raw(_encode(value))
