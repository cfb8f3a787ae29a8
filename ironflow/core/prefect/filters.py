"""The filter language of the Prefect API: one table says which fields each resource has, which
operators each field takes, and which column it looks at.

`parse_filter` turns a filter as it came into a `Condition` over columns, or adds what is wrong with
it to a list of faults. Storage turns conditions into SQL; nothing else knows the language.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from ironflow.core.clock import from_datetime
from ironflow.core.prefect.faults import Fault, InvalidRequest, Location, Refusal
from ironflow.core.prefect.texts import parse_text_query

MAX_LIMIT = 200
MAX_OFFSET = 2**62
MAX_LIKE = 1000
"""Characters of a `like_` or of a prefix."""
MAX_QUERY = 200
STATE_TYPES = (
    "SCHEDULED", "PENDING", "RUNNING", "COMPLETED", "FAILED", "CANCELLED", "CRASHED", "PAUSED",
    "CANCELLING",
)  # fmt: skip

_UUID = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}")


# -- conditions -----------------------------------------------------------------------------------


class Test(NamedTuple):
    """`column` (a name, or SQL with `{t}` for the table) compared with `value` by `test`.

    Tests: `in`, `not_in`, `like`, `starts`, `le`, `ge`, `gt`, `eq`, `after` (of several columns
    together), `null` (value: whether it is), `has_all`, `has_any`, `empty` (of a JSON list),
    `exists` (column is a condition of its own), `search` (value: a `TextQuery`).
    """

    column: str
    test: str
    value: Any


class Group(NamedTuple):
    """All of `parts`, or with `either` at least one; without parts always true."""

    parts: tuple[Condition, ...] = ()
    either: bool = False


Condition = Test | Group
ALWAYS = Group()


def combine(parts: list[Condition], either: bool = False) -> Condition:
    """One condition of several."""
    if len(parts) == 1:
        return parts[0]
    return Group(tuple(parts), either) if parts else ALWAYS


# -- the table ------------------------------------------------------------------------------------


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
_BEGAN = "coalesce({t}.started_at, {t}.expected_at)"
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
            _BEGAN, "moment", (*_SPAN, "is_null_"), columns={"is_null_": "started_at"}
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
        START_TIME_ASC=_BEGAN,
        START_TIME_DESC=_BEGAN,
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

_TESTS = {
    "any_": "in", "not_any_": "not_in", "id_": "in", "type_": "in", "like_": "like",
    "startswith_": "starts", "before_": "le", "after_": "ge", "le_": "le", "ge_": "ge",
    "eq_": "eq", "is_null_": "null", "query": "search", "exists_": "exists",
}  # fmt: skip
_TAG_TESTS = {"all_": "has_all", "any_": "has_any", "is_null_": "empty"}
_LISTS = frozenset({"any_", "not_any_", "all_", "id_", "type_", "startswith_"})
_TRUTHS = frozenset({"is_null_", "eq_", "exists_"})


# -- parsing --------------------------------------------------------------------------------------


def parse_filter(
    value: Any, resource: Resource, faults: list[Fault], where: Location = ()
) -> Condition:
    """A filter of one resource as a condition; what is wrong is added to `faults`."""
    return _parse_fields(value, resource.fields, resource.combinable, faults, where)


def _parse_fields(
    value: Any,
    fields: Mapping[str, Field],
    combinable: bool,
    faults: list[Fault],
    where: Location,
) -> Condition:
    if not isinstance(value, dict):
        faults.append(Fault(where, "model_attributes_type", "must be an object", value))
        return ALWAYS
    either, parts = False, list[Condition]()
    for name, inner in value.items():
        place = (*where, name)
        field = fields.get(name)
        if name == "operator" and combinable:
            either = _parse_operator(inner, faults, place)
        elif field is None:
            faults.append(_unknown(place, inner))
        elif inner is not None:
            parts.append(_parse_field(inner, field, faults, place))
    return combine([part for part in parts if part != ALWAYS], either)


def _parse_operator(value: Any, faults: list[Fault], where: Location) -> bool:
    if value not in ("and_", "or_"):
        faults.append(Fault(where, "enum", "must be 'and_' or 'or_'", value))
    return bool(value == "or_")


def _unknown(where: Location, value: Any) -> Fault:
    return Fault(where, "extra_forbidden", "Extra inputs are not permitted", value)


def _parse_field(value: Any, field: Field, faults: list[Fault], where: Location) -> Condition:
    if field.parts:
        return _parse_fields(value, field.parts, field.combinable, faults, where)
    if not isinstance(value, dict):
        faults.append(Fault(where, "model_attributes_type", "must be an object", value))
        return ALWAYS
    either, known = False, dict[str, Any]()
    missing = (name for name in field.required if name not in value)
    faults.extend(Fault((*where, name), "missing", "Field required", value) for name in missing)
    for name, operand in value.items():
        place = (*where, name)
        if name == "operator" and field.combinable:
            either = _parse_operator(operand, faults, place)
        elif name not in field.operators:
            faults.append(_unknown(place, operand))
        elif operand is not None:
            known[name] = _parse_operand(operand, name, field.kind, faults, place)
    if field.build is not None:
        return field.build(known)
    tests = _TAG_TESTS if field.kind == "tags" else _TESTS
    parts: list[Condition] = [
        Test(field.columns.get(name, field.column), tests[name], operand)
        for name, operand in known.items()
    ]
    return combine(parts, either)


def _parse_operand(
    value: Any, operator: str, kind: str, faults: list[Fault], where: Location
) -> Any:
    if operator in _TRUTHS:
        if not isinstance(value, bool):
            faults.append(Fault(where, "bool_type", "must be true or false", value))
        return value
    if operator in _LISTS:
        if not isinstance(value, list):
            faults.append(Fault(where, "list_type", "must be a list", value))
            return ()
        kind = "uuid" if operator == "id_" else kind
        items = [_parse_item(item, kind, faults, (*where, n)) for n, item in enumerate(value)]
        return tuple(dict.fromkeys(item for item in items if item is not None))
    if operator == "query":
        text = _parse_text(value, faults, where, MAX_QUERY)
        return parse_text_query(text)
    if operator == "like_":
        return _parse_text(value, faults, where, MAX_LIKE)
    return _parse_item(value, kind, faults, where)


def _parse_text(value: Any, faults: list[Fault], where: Location, most: int) -> str:
    if not isinstance(value, str):
        faults.append(Fault(where, "string_type", "must be a string", value))
        return ""
    if len(value) > most:
        text = f"must have at most {most} characters"
        faults.append(Fault(where, "string_too_long", text, value))
        return ""
    return value


def _parse_item(value: Any, kind: str, faults: list[Fault], where: Location) -> Any:
    fault: tuple[str, str]
    found: Any
    match kind:
        case "uuid":
            found = parse_uuid(value)
            fault = ("uuid_parsing", "must be a UUID")
        case "moment":
            found = parse_moment(value)
            fault = ("datetime_parsing", "must be a moment in time, as RFC 3339")
        case "state":
            found = value if value in STATE_TYPES else None
            fault = ("enum", f"must be one of {', '.join(STATE_TYPES)}")
        case "integer":
            found = parse_integer(value)
            fault = ("int_parsing", "must be a whole number")
        case _:
            found = value if isinstance(value, str) else None
            fault = ("string_type", "must be a string")
    if found is None:
        faults.append(Fault(where, *fault, value))
    return found


def parse_uuid(value: Any) -> str | None:
    """A UUID in its usual form, None for anything else."""
    if not isinstance(value, str):
        return None
    text = value.lower()
    if _UUID.fullmatch(text) is None:
        return None
    if len(text) == 36:
        return text
    text = text.replace("-", "")
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def parse_integer(value: Any) -> int | None:
    """A whole number that fits a column, None for anything else."""
    if isinstance(value, str) and re.fullmatch(r"-?\d{1,18}", value, re.ASCII):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not -(2**63) <= value < 2**63:
        return None
    return value


def parse_moment(value: Any) -> int | None:
    """A moment as microseconds, None for text that is none; one without a zone is UTC."""
    if not isinstance(value, str):
        return None
    try:
        moment = msgspec.convert(value, datetime)
    except msgspec.ValidationError:
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return from_datetime(moment)


# -- whole bodies ---------------------------------------------------------------------------------


class Selection(NamedTuple):
    """What of a resource is wanted: conditions by the name of the resource they are about."""

    resource: Resource
    conditions: Mapping[str, Condition]
    sort: str = ""
    limit: int = MAX_LIMIT
    offset: int = 0
    page: int = 1


class BodyShape(NamedTuple):
    """Which keys a body of a filter route may have; others are passed over."""

    resource: Resource
    filters: tuple[str, ...]
    sorted: bool = True
    paged: str = "offset"
    """`offset`, `page`, or nothing."""
    default_sort: str = ""
    most: int = MAX_LIMIT


def parse_selection(body: Any, shape: BodyShape) -> Selection:
    """The body of a filter, count or paginate route. Raises `InvalidRequest`, or `Refusal` for a
    limit out of range.
    """
    if body is None:
        body = {}
    if not isinstance(body, dict):
        raise InvalidRequest([Fault(("body",), "dict_type", "must be an object", body)], body)
    faults: list[Fault] = []
    conditions = {
        name: parse_filter(body[name], RESOURCES[name], faults, ("body", name))
        for name in shape.filters
        if body.get(name) is not None
    }
    limit, offset, page = shape.most, 0, 1
    if shape.paged:
        limit = _parse_limit(body.get("limit"), shape.most, faults)
    if shape.paged == "offset":
        offset = _parse_count(body, "offset", 0, faults)
    elif shape.paged == "page":
        page = _parse_count(body, "page", 1, faults)
        offset = min((page - 1) * limit, MAX_OFFSET)
    sort = shape.default_sort or shape.resource.default_sort
    if shape.sorted and body.get("sort") is not None:
        sort = body["sort"]
        if not isinstance(sort, str) or sort not in shape.resource.sorts:
            known = ", ".join(shape.resource.sorts)
            faults.append(Fault(("body", "sort"), "enum", f"must be one of {known}", sort))
    if faults:
        raise InvalidRequest(faults, body)
    return Selection(shape.resource, conditions, sort, limit, offset, page)


def parse_page(body: dict[str, Any]) -> tuple[int, int, list[Fault]]:
    """Limit, offset and faults of the body of a list that has no filters. Raises `Refusal`."""
    faults: list[Fault] = []
    limit = _parse_limit(body.get("limit"), MAX_LIMIT, faults)
    return limit, _parse_count(body, "offset", 0, faults), faults


def _parse_limit(value: Any, most: int, faults: list[Fault]) -> int:
    if value is None:
        return most
    limit = parse_integer(value)
    if limit is None:
        faults.append(Fault(("body", "limit"), "int_parsing", "must be a whole number", value))
        return most
    if limit > most:
        raise Refusal(422, f"Invalid limit: must be less than or equal to {most}.")
    if limit < 0:
        raise Refusal(422, "Invalid limit: must be greater than or equal to 0.")
    return limit


def _parse_count(body: dict[str, Any], name: str, least: int, faults: list[Fault]) -> int:
    if body.get(name) is None:
        return least
    found = parse_integer(body[name])
    if found is None:
        text = "must be a whole number"
        faults.append(Fault(("body", name), "int_parsing", text, body[name]))
        return least
    if found < least:
        text = f"must be greater than or equal to {least}"
        faults.append(Fault(("body", name), "greater_than_equal", text, found))
        return least
    return min(found, MAX_OFFSET)
