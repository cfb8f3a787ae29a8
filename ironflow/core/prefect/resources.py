"""The filter language's one table: which fields each resource has, which operators each field takes
and which column it looks at, and in which orders a list may come.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ironflow.core.prefect.conditions import ALWAYS, Condition, Test

STATE_TYPES = (
    "SCHEDULED", "PENDING", "RUNNING", "COMPLETED", "FAILED", "CANCELLED", "CRASHED", "PAUSED",
    "CANCELLING",
)  # fmt: skip


class Field(NamedTuple):
    """One field: its column, what kind of values, and which operators.

    `columns` names another column for an operator; `combinable` fields have an `operator` key of
    their own; `parts` are fields inside this one; `build` makes the condition of a field whose
    operators do not simply add up.
    """

    column: str = ""
    kind: str = "text"
    operators: tuple[str, ...] = ("any_",)
    columns: Mapping[str, str] = {}
    combinable: bool = False
    parts: Mapping[str, Field] = {}
    build: Callable[[dict[str, Any]], Condition] | None = None
    required: tuple[str, ...] = ()


class Resource(NamedTuple):
    """What can be filtered by which fields and sorted in which orders (SQL with `{t}`).

    `table` is None while nothing of that kind is stored: such a filter is checked and finds
    nothing.
    """

    name: str
    table: str | None
    fields: Mapping[str, Field]
    sorts: Mapping[str, str]
    default_sort: str
    combinable: bool = True


def _task_flow_run(values: dict[str, Any]) -> Condition:
    """Without a word about null, only tasks inside a flow run are meant."""
    if values.get("is_null_"):
        return Test("flow_run_id", "null", True)
    if values.get("any_") is None:
        return Test("flow_run_id", "null", False)
    return Test("flow_run_id", "in", values["any_"])


def _exists(column: str) -> Callable[[dict[str, Any]], Condition]:
    """`exists_` and `is_null_` of something that the row is joined with."""

    def build(values: dict[str, Any]) -> Condition:
        wanted = values.get("exists_")
        if values.get("is_null_") is not None:
            wanted = not values["is_null_"]
        return ALWAYS if wanted is None else Test(column, "exists", wanted)

    return build


_SUBFLOW = "SELECT 1 FROM flow_runs s WHERE s.parent_task_run_id = {t}.id"
_NO_ROWS = "SELECT 1 WHERE 0"
BEGAN = "coalesce({t}.started_at, {t}.expected_at)"
"""When a flow run began, or is to begin, as SQL."""
_LASTED = (
    "({t}.run_time + CASE WHEN {t}.state_type = 'RUNNING' THEN {now} - {t}.state_at ELSE 0 END)"
)

_ID = Field("id", "uuid", ("any_", "not_any_"))
_NAME = Field("name", "text", ("any_", "like_"))
_TAGS_ALL = Field("tags", "tags", ("all_", "is_null_"), combinable=True)
_TAGS = Field("tags", "tags", ("all_", "any_", "is_null_"), combinable=True)
_SPAN = ("before_", "after_")


def _state(*operators: str) -> Field:
    return Field(
        combinable=True,
        parts={
            "type": Field("state_type", "state", operators),
            "name": Field("state_name", "text", operators),
        },
    )


def _orders(**sorts: str) -> dict[str, str]:
    """Sort orders with the id as the last word, so that pages never overlap."""
    found = {}
    for name, order in sorts.items():
        direction = "DESC" if name.endswith("_DESC") else "ASC"
        found[name] = f"{order} {direction}" + (
            "" if order == "{t}.id" else f", {{t}}.id {direction}"
        )
    return found


FLOWS = Resource(
    "flows",
    "flows",
    {
        "id": _ID,
        "deployment": Field(
            operators=("is_null_",), kind="boolean", combinable=True, build=_exists(_NO_ROWS)
        ),
        "name": _NAME,
        "tags": _TAGS_ALL,
    },
    _orders(
        CREATED_DESC="{t}.created_at",
        UPDATED_DESC="{t}.updated_at",
        NAME_ASC="{t}.name",
        NAME_DESC="{t}.name",
    ),
    "NAME_ASC",
)
FLOW_RUNS = Resource(
    "flow_runs",
    "flow_runs",
    {
        "id": _ID,
        "name": _NAME,
        "tags": _TAGS,
        "deployment_id": Field("deployment_id", "uuid", ("any_", "is_null_"), combinable=True),
        "work_queue_name": Field("work_queue_name", "text", ("any_", "is_null_"), combinable=True),
        "state": _state("any_", "not_any_"),
        "flow_version": Field("flow_version"),
        "start_time": Field(
            BEGAN, "moment", (*_SPAN, "is_null_"), columns={"is_null_": "started_at"}
        ),
        "end_time": Field("ended_at", "moment", (*_SPAN, "is_null_")),
        "expected_start_time": Field("expected_at", "moment", _SPAN),
        "next_scheduled_start_time": Field("next_scheduled_at", "moment", _SPAN),
        "parent_flow_run_id": Field("parent_flow_run_id", "uuid", combinable=True),
        "parent_task_run_id": Field(
            "parent_task_run_id", "uuid", ("any_", "is_null_"), combinable=True
        ),
        "idempotency_key": Field("idempotency_key", "text", ("any_", "not_any_")),
        "created_by": Field(
            "creator_id",
            "text",
            ("id_", "type_", "is_null_"),
            columns={
                "type_": "creator_type",
                "is_null_": "coalesce({t}.creator_id, {t}.creator_type, {t}.creator_name)",
            },
            combinable=True,
        ),
    },
    _orders(
        ID_DESC="{t}.id",
        START_TIME_ASC=BEGAN,
        START_TIME_DESC=BEGAN,
        EXPECTED_START_TIME_ASC="{t}.expected_at",
        EXPECTED_START_TIME_DESC="{t}.expected_at",
        NAME_ASC="{t}.name",
        NAME_DESC="{t}.name",
        NEXT_SCHEDULED_START_TIME_ASC="{t}.next_scheduled_at",
        END_TIME_DESC="{t}.ended_at",
    ),
    "ID_DESC",
)
TASK_RUNS = Resource(
    "task_runs",
    "task_runs",
    {
        "id": Field("id", "uuid"),
        "name": _NAME,
        "tags": _TAGS_ALL,
        "state": _state("any_"),
        "start_time": Field("started_at", "moment", (*_SPAN, "is_null_")),
        "end_time": Field("ended_at", "moment", (*_SPAN, "is_null_")),
        "expected_start_time": Field("expected_at", "moment", _SPAN),
        "subflow_runs": Field(operators=("exists_",), kind="boolean", build=_exists(_SUBFLOW)),
        "flow_run_id": Field(
            "flow_run_id", "uuid", ("any_", "is_null_"), combinable=True, build=_task_flow_run
        ),
    },
    _orders(
        ID_DESC="{t}.id",
        EXPECTED_START_TIME_ASC="{t}.expected_at",
        EXPECTED_START_TIME_DESC="{t}.expected_at",
        NAME_ASC="{t}.name",
        NAME_DESC="{t}.name",
        NEXT_SCHEDULED_START_TIME_ASC="{t}.next_scheduled_at",
        END_TIME_DESC="{t}.ended_at",
        DURATION_ASC=_LASTED,
        DURATION_DESC=_LASTED,
    ),
    "ID_DESC",
)
DEPLOYMENTS = Resource(
    "deployments",
    None,
    {
        "id": _ID,
        "name": _NAME,
        "flow_or_deployment_name": Field("name", "text", ("like_",)),
        "paused": Field("paused", "boolean", ("eq_",)),
        "tags": _TAGS,
        "work_queue_name": Field("work_queue_name"),
        "concurrency_limit": Field("concurrency_limit", "integer", ("ge_", "le_", "is_null_")),
    },
    _orders(
        CREATED_DESC="{t}.created_at",
        UPDATED_DESC="{t}.updated_at",
        NAME_ASC="{t}.name",
        NAME_DESC="{t}.name",
    ),
    "NAME_ASC",
)
WORK_POOLS = Resource(
    "work_pools",
    None,
    {"id": Field("id", "uuid"), "name": Field("name"), "type": Field("type")},
    {},
    "",
)
WORK_QUEUES = Resource(
    "work_pool_queues",
    None,
    {"id": Field("id", "uuid"), "name": Field("name", "text", ("any_", "startswith_"))},
    {},
    "",
)
LOGS = Resource(
    "logs",
    "logs",
    {
        "level": Field("level", "integer", ("ge_", "le_")),
        "timestamp": Field("at", "moment", _SPAN),
        "flow_run_id": Field("flow_run_id", "uuid"),
        "task_run_id": Field("task_run_id", "uuid", ("any_", "is_null_")),
        "text": Field("({t}.name || ' ' || {t}.message)", "text", ("query",), required=("query",)),
    },
    {"TIMESTAMP_ASC": "{t}.at ASC, {t}.seq ASC", "TIMESTAMP_DESC": "{t}.at DESC, {t}.seq DESC"},
    "TIMESTAMP_ASC",
)
RESOURCES = {
    resource.name: resource
    for resource in (FLOWS, FLOW_RUNS, TASK_RUNS, DEPLOYMENTS, WORK_POOLS, WORK_QUEUES, LOGS)
}
RESOURCES["work_queues"] = WORK_QUEUES
