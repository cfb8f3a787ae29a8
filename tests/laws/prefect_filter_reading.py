"""What filters of Prefect mean, read plainly: the model that SQL is held against."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from ironflow.core.prefect.filters import BodyShape, parse_selection
from ironflow.core.prefect.resources import FLOWS

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
IDS = [f"{n:08x}-0000-4000-8000-000000000000" for n in range(4)]
NAMES = ["Alpha", "beta", "be%ta", "B_ta", "über"]
TAGS = ["red", "green", "a'b", ""]


def micros(second: int) -> int:
    return int((EPOCH + timedelta(seconds=second)).timestamp()) * 1_000_000


names, ids = st.sampled_from(NAMES), st.sampled_from(IDS)
tags = st.lists(st.sampled_from(TAGS), max_size=3, unique=True)


def rows(**columns: st.SearchStrategy[Any]) -> st.SearchStrategy[list[dict[str, Any]]]:
    row = st.fixed_dictionaries(columns)
    return st.lists(row, min_size=2, max_size=4, unique_by=lambda r: r["id"])


def like(value: str, pattern: str) -> bool:
    """What LIKE '%pattern%' says, ASCII letters alike."""
    lower = {c: c + 32 for c in range(65, 91)}
    value, pattern = value.translate(lower), f"%{pattern}%".translate(lower)
    reachable = {0}
    for char in pattern:
        if char == "%":
            reachable = {n for start in reachable for n in range(start, len(value) + 1)}
        else:
            reachable = {n + 1 for n in reachable if n < len(value) and char in ("_", value[n])}
    return len(value) in reachable


def holds(operator: str, value: Any, wanted: Any) -> bool:
    """One operator; a comparison with nothing never holds."""
    match operator:
        case "any_" | "id_" | "type_":
            return value in wanted and value is not None
        case "not_any_":
            return not wanted or (value is not None and value not in wanted)
        case "like_":
            return like(value, wanted)
        case "before_":
            return value is not None and micros(value) <= stamp(wanted)
        case "after_":
            return value is not None and micros(value) >= stamp(wanted)
        case "is_null_":
            return (value is None) == wanted
    raise AssertionError(operator)


def tags_hold(operator: str, value: Any, found: list[str]) -> bool:
    if operator == "is_null_":
        return (not found) == value
    return set(value) <= set(found) if operator == "all_" else bool(set(value) & set(found))


def stamp(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp()) * 1_000_000


def joined(results: list[bool], part: dict[str, Any]) -> bool:
    if not results:
        return True
    return any(results) if part.get("operator") == "or_" else all(results)


COLUMNS = {
    "end_time": "ended_at",
    "expected_start_time": "expected_at",
    "next_scheduled_start_time": "next_scheduled_at",
    "start_time": "started_at",
}


def field_holds(kind: str, name: str, part: dict[str, Any], row: dict[str, Any], data: Any) -> Any:
    """Whether a field of a filter holds, None when it says nothing."""
    asked = {key: value for key, value in part.items() if key != "operator"}
    if kind == "task_runs" and name == "flow_run_id":
        if asked.get("is_null_"):
            return row["flow_run_id"] is None
        if "any_" not in asked:
            return row["flow_run_id"] is not None
        return row["flow_run_id"] in asked["any_"]
    if name == "subflow_runs":
        exists = any(run["parent_task_run_id"] == row["id"] for run in data["flow_runs"])
        return exists == asked["exists_"] if asked else None
    if name == "deployment":
        return asked["is_null_"] if asked else None
    if name == "state":
        results = []
        for inner, column in (("type", "state_type"), ("name", "state_name")):
            if part.get(inner):
                results.append(all(holds(op, row[column], v) for op, v in part[inner].items()))
        return joined(results, part) if results else None
    results = []
    for operator, value in asked.items():
        if name == "tags":
            results.append(tags_hold(operator, value, row["tags"]))
            continue
        found = row.get(COLUMNS.get(name, name))
        if name == "start_time" and kind == "flow_runs" and operator != "is_null_":
            found = row["started_at"] if row["started_at"] is not None else row["expected_at"]
        if name == "created_by":
            found = row["creator_type"] if operator == "type_" else row["creator_id"]
            if operator == "is_null_":
                found = found if found is not None else row["creator_type"]
        results.append(holds(operator, found, value))
    return joined(results, part) if results else None


def row_holds(kind: str, wanted: dict[str, Any], row: dict[str, Any], data: Any) -> bool:
    found = [
        field_holds(kind, name, part, row, data)
        for name, part in wanted.items()
        if name != "operator"
    ]
    return joined([result for result in found if result is not None], wanted)


def plainly(kind: str, body: dict[str, Any], data: dict[str, Any]) -> set[str]:
    """The ids of the rows that a body asks for."""
    if {"deployments", "work_pools", "work_pool_queues"} & body.keys():
        return set()

    def fits(other: str, row: dict[str, Any]) -> bool:
        return row_holds(other, body.get(other, {}), row, data)

    def runs_of(row: dict[str, Any]) -> list[dict[str, Any]]:
        return [run for run in data["flow_runs"] if run["flow_id"] == row["id"]]

    def tasks_of(run: dict[str, Any]) -> list[dict[str, Any]]:
        return [task for task in data["task_runs"] if task["flow_run_id"] == run["id"]]

    def flow_fits(run: dict[str, Any]) -> bool:
        # A filter that says nothing does not ask whether the flow is there.
        says = parse_selection(body, BodyShape(FLOWS, ("flows",), paged="")).conditions["flows"]
        if says == ():
            return True
        return any(flow["id"] == run["flow_id"] and fits("flows", flow) for flow in data["flows"])

    found = set()
    for row in data[kind]:
        if not fits(kind, row):
            continue
        good = True
        if kind == "flow_runs":
            good = "flows" not in body or _silent(body["flows"]) or flow_fits(row)
            if "task_runs" in body:
                good = good and any(fits("task_runs", task) for task in tasks_of(row))
        elif kind == "task_runs" and {"flows", "flow_runs"} & body.keys():
            good = any(
                run["id"] == row["flow_run_id"]
                and fits("flow_runs", run)
                and ("flows" not in body or _silent(body["flows"]) or flow_fits(run))
                for run in data["flow_runs"]
            )
        elif kind == "flows" and {"flow_runs", "task_runs"} & body.keys():
            good = any(
                fits("flow_runs", run)
                and ("task_runs" not in body or any(fits("task_runs", t) for t in tasks_of(run)))
                for run in runs_of(row)
            )
        if good:
            found.add(row["id"])
    return found


def _silent(wanted: dict[str, Any]) -> bool:
    """Whether a filter says nothing at all."""
    shape = BodyShape(FLOWS, ("flows",), paged="")
    return not getattr(parse_selection({"flows": wanted}, shape).conditions["flows"], "parts", True)
