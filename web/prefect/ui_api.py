"""What Prefect's own user interface asks beside the API of its clients."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from ironflow.core.clock import SECOND, to_rfc3339
from ironflow.core.errors import InvalidInput, NotFound
from ironflow.core.prefect import bodies
from ironflow.core.prefect.faults import Fault, InvalidRequest, Refusal
from ironflow.core.prefect.filters import BodyShape, parse_selection
from ironflow.core.prefect.resources import FLOW_RUNS, STATE_TYPES, TASK_RUNS
from ironflow.core.prefect.scalars import parse_moment, parse_uuid
from ironflow.core.prefect.schemas import Mismatch, find_mismatches
from ironflow.storage.relational.prefect_filters import select_rows, where_rows
from ironflow.web.prefect.answers import query_route
from ironflow.web.prefect.routing import Answer, Call, Route

MOST_IDS = 200
SPANS = 20
"""Spans of time of the dashboard's counts."""
Ids = Annotated[list[str], msgspec.Meta(max_length=MOST_IDS)]
_RELATED = ("flows", "flow_runs", "task_runs", "deployments")
HISTORY = BodyShape(
    FLOW_RUNS, (*_RELATED, "work_pools"), default_sort="EXPECTED_START_TIME_DESC", most=1000
)
TASK_COUNT = BodyShape(TASK_RUNS, _RELATED, paged="")
DASHBOARD = BodyShape(TASK_RUNS, (*_RELATED, "work_pools", "work_queues"), paged="")
_MARKS = "(SELECT value FROM json_each(?))"


class FlowIds(msgspec.Struct, frozen=True):
    """Which flows."""

    flow_ids: Ids


class FlowRunIds(msgspec.Struct, frozen=True):
    """Which flow runs."""

    flow_run_ids: Ids


class ValidateBody(msgspec.Struct, frozen=True, rename={"schema_": "schema"}):
    """Values, and the schema that they are held against."""

    schema_: dict[str, Any]
    values: dict[str, Any]


class StatesQuery(msgspec.Struct, frozen=True):
    """Which states: a beginning of their name or type."""

    query: Annotated[str, msgspec.Meta(max_length=100)] = ""
    order_by: Literal["NAME_ASC", "LAST_SEEN_DESC"] = "LAST_SEEN_DESC"
    limit: Annotated[int, msgspec.Meta(ge=1, le=200)] = 200


def _check_ids(call: Call[Any, Any], name: str, texts: list[str]) -> list[str]:
    found, faults = [], []
    for number, text in enumerate(texts):
        one = parse_uuid(text)
        if one is None:
            faults.append(Fault(("body", name, number), "uuid_parsing", "must be a UUID", text))
        else:
            found.append(one)
    if faults:
        raise call.invalid(faults)
    return found


def _pack(ids: list[str]) -> str:
    return msgspec.json.encode(ids).decode()


# -- flows ----------------------------------------------------------------------------------------


async def count_deployments(call: Call[None, FlowIds]) -> Answer:
    """How many deployments each flow has: none are stored."""
    return 200, dict.fromkeys(_check_ids(call, "flow_ids", call.body.flow_ids), 0)


async def read_next_runs(call: Call[None, FlowIds]) -> Answer:
    """The next scheduled run of each flow, null for one without."""
    ids = _check_ids(call, "flow_ids", call.body.flow_ids)
    found: dict[str, Any] = dict.fromkeys(ids)
    rows = await call.engine.store.reader.select(
        "SELECT id, flow_id, name, state_name, min(next_scheduled_at) FROM flow_runs "
        f"WHERE flow_id IN {_MARKS} AND state_type = 'SCHEDULED' "
        "AND next_scheduled_at IS NOT NULL GROUP BY flow_id",
        (_pack(ids),),
    )
    for run_id, flow_id, name, state, at in rows:
        found[flow_id] = {
            "id": run_id,
            "flow_id": flow_id,
            "name": name,
            "state_name": state,
            "state_type": "SCHEDULED",
            "next_scheduled_start_time": to_rfc3339(at),
        }
    return 200, found


# -- flow runs ------------------------------------------------------------------------------------


async def read_run_history(call: Call[None, dict[str, Any]]) -> Answer:
    """Flow runs as points: when, how long, how late."""
    selection, now = parse_selection(call.body, HISTORY), call.engine.clock.now()
    columns = (
        "{t}.id, {t}.state_type, {t}.state_at, {t}.expected_at, {t}.started_at, {t}.run_time, "
        "{t}.created_at"
    )
    rows = await call.engine.store.reader.select(*select_rows(selection, columns, now))
    return 200, [
        {
            "id": run_id,
            "state_type": kind,
            "timestamp": to_rfc3339(next(at for at in (started, expected, created) if at)),
            "duration": bodies.estimated_run_time(kind, state_at, run_time, now) / SECOND,
            "lateness": bodies.estimated_lateness(kind, expected, started, now) / SECOND,
        }
        for run_id, kind, state_at, expected, started, run_time, created in rows
        if kind is not None
    ]


async def count_task_runs_of(call: Call[None, FlowRunIds]) -> Answer:
    """How many task runs each flow run has; those that stand for subflows do not count."""
    ids = _check_ids(call, "flow_run_ids", call.body.flow_run_ids)
    found = dict.fromkeys(ids, 0)
    rows = await call.engine.store.reader.select(
        f"SELECT k.flow_run_id, count(*) FROM task_runs k WHERE k.flow_run_id IN {_MARKS} "
        "AND NOT EXISTS (SELECT 1 FROM flow_runs s WHERE s.parent_task_run_id = k.id) GROUP BY 1",
        (_pack(ids),),
    )
    found.update(dict(rows))
    return 200, found


# -- task runs ------------------------------------------------------------------------------------


async def count_task_runs_by_state(call: Call[None, dict[str, Any]]) -> Answer:
    """How many task runs are in each type of state."""
    where, values = where_rows(parse_selection(call.body, TASK_COUNT), call.engine.clock.now())
    rows = await call.engine.store.reader.select(
        f"SELECT t.state_type, count(*) FROM task_runs t WHERE {where} GROUP BY 1", values
    )
    counts: dict[str, int] = dict(rows)
    return 200, {kind: counts.get(kind, 0) for kind in STATE_TYPES}


async def read_dashboard_counts(call: Call[None, dict[str, Any]]) -> Answer:
    """Task runs that completed and failed, in equal spans from the filter's `start_time.after_`."""
    engine, body = call.engine, call.body
    if not isinstance(body.get("task_runs"), dict):
        fault = Fault(("body", "task_runs"), "missing", "Field required", body)
        raise InvalidRequest([fault], body)
    selection = parse_selection(body, DASHBOARD)
    span = body["task_runs"].get("start_time") or {}
    start = parse_moment(span.get("after_"))
    if start is None:
        raise Refusal(422, "task_runs.start_time.after_ is required")
    end = parse_moment(span.get("before_")) or engine.clock.now()
    step = max(1, -(-(end - start) // SPANS))
    where, values = where_rows(selection, engine.clock.now())
    rows = await engine.store.reader.select(
        "SELECT max(0, min(?, (t.started_at - ?) / ?)), sum(t.state_type = 'COMPLETED'), "
        f"sum(t.state_type IN ('FAILED', 'CRASHED')) FROM task_runs t WHERE {where} GROUP BY 1",
        [SPANS - 1, start, step, *values],
    )
    found = [{"completed": 0, "failed": 0} for _ in range(SPANS)]
    for number, completed, failed in rows:
        found[number] = {"completed": completed or 0, "failed": failed or 0}
    return 200, found


async def read_task_run(call: Call[None, None]) -> Answer:
    """A task run with the name of its flow run. Raises `NotFound`."""
    columns = ", ".join(f"t.{name}" for name in bodies.COLUMNS)
    rows = await call.engine.store.reader.select(
        f"SELECT {columns}, r.name FROM task_runs t "
        "LEFT JOIN flow_runs r ON r.id = t.flow_run_id WHERE t.id = ?",
        (call.path["id"],),
        quick=True,
    )
    if not rows:
        raise NotFound("task run", call.path["id"])
    body = bodies.render(rows[0][:-1], call.engine.clock.now())
    return 200, body[:-1] + b',"flow_run_name":%b}' % msgspec.json.encode(rows[0][-1])


# -- states and schemas ---------------------------------------------------------------------------


async def read_observed_states(call: Call[StatesQuery, None]) -> Answer:
    """The names and types of states that runs are in, with when each was entered first and last."""
    query = call.query
    order = "2, 1" if query.order_by == "NAME_ASC" else "4 DESC, 2, 1"
    found = "SELECT state_type, state_name, state_at FROM {} WHERE state_type IS NOT NULL"
    rows = await call.engine.store.reader.select(
        f"SELECT state_type, state_name, min(state_at), max(state_at) FROM "
        f"({found.format('flow_runs')} UNION ALL {found.format('task_runs')}) "
        "WHERE substr(lower(state_name), 1, length(?)) = lower(?) "
        f"OR substr(lower(state_type), 1, length(?)) = lower(?) GROUP BY 1, 2 ORDER BY {order} "
        "LIMIT ?",
        (*[query.query] * 4, query.limit),
    )
    return 200, [
        {
            "state_type": kind,
            "state_name": name,
            "first_seen": to_rfc3339(first),
            "last_seen": to_rfc3339(last),
        }
        for kind, name, first, last in rows
    ]


async def validate_values(call: Call[None, ValidateBody]) -> Answer:
    """What of some values does not fit a schema, by where it stands."""
    try:
        found = find_mismatches(call.body.schema_, call.body.values)
    except InvalidInput as error:
        raise Refusal(422, f"Invalid schema: {error.reason}") from error
    return 200, {"errors": _nest(found), "valid": not found}


def _nest(found: list[Mismatch]) -> list[Any]:
    """Mismatches as a tree of properties and indices."""
    here: list[Any] = [one.text for one in found if not one.path]
    parts: dict[str | int, list[Mismatch]] = {}
    for one in found:
        if one.path:
            inner = Mismatch(one.path[1:], one.text)
            parts.setdefault(one.path[0], []).append(inner)
    for part, inner_ in parts.items():
        key = "index" if isinstance(part, int) else "property"
        here.append({key: part, "errors": _nest(inner_)})
    return here


ROUTES = (
    Route(
        method="POST", path="/ui/flows/count-deployments", handle=count_deployments, body=FlowIds
    ),
    Route(method="POST", path="/ui/flows/next-runs", handle=read_next_runs, body=FlowIds),
    query_route("/ui/flow_runs/history", read_run_history),
    Route(
        method="POST",
        path="/ui/flow_runs/count-task-runs",
        handle=count_task_runs_of,
        body=FlowRunIds,
    ),
    query_route("/ui/task_runs/count", count_task_runs_by_state),
    query_route("/ui/task_runs/dashboard/counts", read_dashboard_counts),
    Route(method="GET", path="/ui/task_runs/{id}", handle=read_task_run),
    Route(method="GET", path="/observed-states", handle=read_observed_states, query=StatesQuery),
    Route(method="POST", path="/ui/schemas/validate", handle=validate_values, body=ValidateBody),
)
