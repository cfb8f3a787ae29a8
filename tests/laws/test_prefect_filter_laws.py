"""Filters of the Prefect API: SQL over real tables finds exactly what a plain reading of the filter
finds row by row, on every store alike.
"""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws.prefect_filter_reading import (
    EPOCH,
    IDS,
    NAMES,
    TAGS,
    ids,
    micros,
    names,
    plainly,
    rows,
    tags,
)

from ironflow.core.prefect import bodies as run_bodies
from ironflow.core.prefect.faults import InvalidRequest, Refusal
from ironflow.core.prefect.filters import BodyShape, parse_selection
from ironflow.core.prefect.resources import FLOW_RUNS, FLOWS, STATE_TYPES, TASK_RUNS
from ironflow.core.prefect.states import TERMINAL
from ironflow.storage.relational import prefect_filters
from ironflow.storage.relational.prefect_filters import LATENESS, RUN_TIME, count_rows, select_rows
from ironflow.storage.relational.prefect_runs import FLOW_RUNS as FLOW_RUN_TABLE
from ironflow.storage.relational.prefect_runs import FLOWS as FLOW_TABLE
from ironflow.storage.relational.prefect_runs import TASK_RUNS as TASK_RUN_TABLE
from ironflow.storage.relational.tables import Relations

EVERYTHING = ("flows", "flow_runs", "task_runs", "deployments", "work_pools", "work_pool_queues")
TYPES = ["RUNNING", "COMPLETED", "FAILED"]


def moment(second: int) -> str:
    return (EPOCH + timedelta(seconds=second)).isoformat()


# -- rows ------------------------------------------------------------------------------------------


seconds = st.integers(0, 2)
perhaps = lambda values: st.none() | values  # noqa: E731
run_columns = {
    "id": ids,
    "name": names,
    "tags": tags,
    "state_type": perhaps(st.sampled_from(TYPES)),
    "state_name": perhaps(st.sampled_from(["Running", "Late"])),
    "started_at": perhaps(seconds),
    "expected_at": perhaps(seconds),
    "ended_at": perhaps(seconds),
    "next_scheduled_at": perhaps(seconds),
}
flow_rows = rows(id=ids, tags=tags)
flow_run_rows = rows(
    **run_columns,
    flow_id=ids,
    deployment_id=perhaps(ids),
    parent_task_run_id=perhaps(ids),
    parent_flow_run_id=perhaps(ids),
    idempotency_key=perhaps(names),
    work_queue_name=perhaps(names),
    flow_version=perhaps(names),
    creator_id=perhaps(ids),
    creator_type=perhaps(names),
)
task_run_rows = rows(**run_columns, flow_run_id=perhaps(ids))
databases = st.fixed_dictionaries(
    {"flows": flow_rows, "flow_runs": flow_run_rows, "task_runs": task_run_rows}
)
DEFAULTS = {
    "created_at": 0, "updated_at": 0, "auto_scheduled": 0, "run_count": 0, "run_time": 0,
    "body": b"{}", "dynamic_key": "0",
}  # fmt: skip
MOMENTS = {"started_at", "expected_at", "ended_at", "next_scheduled_at"}


def fill(relations: Relations, data: dict[str, list[dict[str, Any]]]) -> None:
    tables = {"flows": FLOW_TABLE, "flow_runs": FLOW_RUN_TABLE, "task_runs": TASK_RUN_TABLE}
    for name, table in tables.items():
        relations.connection.execute(f"DELETE FROM {name}")
        for number, row in enumerate(data[name]):
            found = {**DEFAULTS, "task_key": str(number), **row}
            if name == "flows":
                found["name"] = f"{NAMES[number]}"
            if name == "flow_runs" and "ended_at" in row:
                # As the fold has it: what ends a run has a moment, and nothing else has one.
                is_over = row["state_type"] in TERMINAL
                row["ended_at"] = found["ended_at"] = (row["ended_at"] or 0) if is_over else None
            found["tags"] = json.dumps(row["tags"])
            found |= {
                key: micros(found[key]) for key in MOMENTS & found.keys() if found[key] is not None
            }
            relations.put(table, tuple(found.get(column) for column in table.columns))


# -- filters ---------------------------------------------------------------------------------------


truths = st.booleans()


@st.composite
def some(draw: st.DrawFn, **parts: st.SearchStrategy[Any]) -> dict[str, Any]:
    """One or two of the parts: with more, hardly a row would ever be found."""
    chosen = draw(st.lists(st.sampled_from(sorted(parts)), min_size=1, max_size=2, unique=True))
    found = {name: draw(parts[name]) for name in chosen}
    if "operator" in parts and len(chosen) == 2:
        found.setdefault("operator", draw(parts["operator"]))
    return found


def among(values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(values, max_size=3)


operators = st.sampled_from(["and_", "or_"])
spans = {"before_": seconds.map(moment), "after_": seconds.map(moment)}
likes = st.sampled_from(["a", "B", "%", "_", "ÜB", ""])
field_id = some(any_=among(ids), not_any_=among(ids))
field_name = some(any_=among(names), like_=likes)
tag = st.sampled_from(TAGS)
states = {
    "type": some(any_=among(st.sampled_from(TYPES))),
    "name": some(any_=among(st.just("Late"))),
}
not_states = {
    "type": some(any_=among(st.sampled_from(TYPES)), not_any_=among(st.sampled_from(TYPES))),
    "name": some(any_=among(st.just("Late")), not_any_=among(st.just("Late"))),
}
flow_filters = some(
    operator=operators,
    id=field_id,
    name=field_name,
    tags=some(operator=operators, all_=among(tag), is_null_=truths),
    deployment=some(is_null_=truths),
)
flow_run_filters = some(
    operator=operators,
    id=field_id,
    name=field_name,
    tags=some(operator=operators, all_=among(tag), any_=among(tag), is_null_=truths),
    deployment_id=some(operator=operators, any_=among(ids), is_null_=truths),
    work_queue_name=some(operator=operators, any_=among(names), is_null_=truths),
    state=some(operator=operators, **not_states),
    flow_version=some(any_=among(names)),
    start_time=some(**spans, is_null_=truths),
    end_time=some(**spans, is_null_=truths),
    expected_start_time=some(**spans),
    next_scheduled_start_time=some(**spans),
    parent_flow_run_id=some(operator=operators, any_=among(ids)),
    parent_task_run_id=some(operator=operators, any_=among(ids), is_null_=truths),
    idempotency_key=some(any_=among(names), not_any_=among(names)),
    created_by=some(operator=operators, id_=among(ids), type_=among(names), is_null_=truths),
)
task_run_filters = some(
    operator=operators,
    id=some(any_=among(ids)),
    name=field_name,
    tags=some(operator=operators, all_=among(tag), is_null_=truths),
    state=some(operator=operators, **states),
    start_time=some(**spans, is_null_=truths),
    end_time=some(**spans, is_null_=truths),
    expected_start_time=some(**spans),
    subflow_runs=some(exists_=truths),
    flow_run_id=some(operator=operators, any_=among(ids), is_null_=truths),
)
FILTERS = {"flows": flow_filters, "flow_runs": flow_run_filters, "task_runs": task_run_filters}


# -- the plain reading -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def relations() -> Relations:
    return Relations()


bodies = some(**FILTERS) | some(**FILTERS, deployments=st.just({}), work_pools=st.just({}))


@given(data=databases, body=bodies, kind=st.sampled_from(["flows", "flow_runs", "task_runs"]))
def test_sql_finds_what_a_plain_reading_finds(
    relations: Relations, data: dict[str, Any], body: dict[str, Any], kind: str
) -> None:
    for number, flow in enumerate(data["flows"]):
        flow["name"] = NAMES[number]
    fill(relations, data)
    resource = {"flows": FLOWS, "flow_runs": FLOW_RUNS, "task_runs": TASK_RUNS}[kind]
    selection = parse_selection(body, BodyShape(resource, EVERYTHING))
    found = [row[0] for row in relations.select(*select_rows(selection, "{t}.id", 0))]
    assert sorted(found) == sorted(plainly(kind, body, data))
    ((count,),) = relations.select(*count_rows(selection))
    assert count == len(found)


@given(
    data=databases,
    wanted=flow_run_filters,
    sort=st.sampled_from(sorted(FLOW_RUNS.sorts)),
    size=st.integers(1, 3),
)
def test_pages_are_a_division_of_the_whole_in_its_order(
    relations: Relations, data: dict[str, Any], wanted: dict[str, Any], sort: str, size: int
) -> None:
    assert_pages_divide(relations, data, wanted, sort, size)


@given(
    data=databases,
    wanted=st.fixed_dictionaries({"type": some(any_=among(st.sampled_from(TYPES)))})
    | st.fixed_dictionaries({"name": some(any_=among(st.sampled_from(["Running", "Late"])))}),
    sort=st.sampled_from(["START_TIME_ASC", "START_TIME_DESC"]),
    size=st.integers(1, 3),
    crowd=st.integers(1, 2),
    near=st.integers(1, 5),
)
def test_a_crowd_is_found_among_the_first_of_all(
    relations: Relations,
    data: dict[str, Any],
    wanted: dict[str, Any],
    sort: str,
    size: int,
    crowd: int,
    near: int,
) -> None:
    """Where many runs are in a state, as far as a few of all are enough, and where they are not."""
    with mock.patch.multiple(prefect_filters, CROWD=crowd, NEAR=near):
        assert_pages_divide(relations, data, {"state": wanted}, sort, size)


@pytest.mark.parametrize("sort", ["START_TIME_ASC", "START_TIME_DESC"])
@pytest.mark.parametrize("near", [1, 2, 3, 9])
def test_a_crowd_that_began_at_once_is_in_the_order_of_ids(
    relations: Relations, sort: str, near: int
) -> None:
    """Those of the last moment that was looked at may not be all of that moment."""
    run = {"name": "n", "tags": [], "flow_id": IDS[0], "state_type": "RUNNING", "started_at": 1}
    runs = [{**run, "id": id_} for id_ in sorted(IDS, reverse=True)]
    data = {"flows": [], "flow_runs": runs, "task_runs": []}
    with mock.patch.multiple(prefect_filters, CROWD=1, NEAR=near):
        assert_pages_divide(relations, data, {"state": {"type": {"any_": ["RUNNING"]}}}, sort, 1)


def assert_pages_divide(
    relations: Relations, data: dict[str, Any], wanted: dict[str, Any], sort: str, size: int
) -> None:
    for number, flow in enumerate(data["flows"]):
        flow["name"] = NAMES[number]
    fill(relations, data)
    shape = BodyShape(FLOW_RUNS, EVERYTHING)
    body = {"flow_runs": wanted, "sort": sort}
    whole = relations.select(*select_rows(parse_selection(body, shape), "{t}.id", 0))
    pages: list[Any] = []
    for offset in range(0, len(whole) + 1, size):
        page = parse_selection({**body, "limit": size, "offset": offset}, shape)
        pages += relations.select(*select_rows(page, "{t}.id", 0))
    assert pages == whole
    assert sorted(id_ for (id_,) in whole) == sorted(
        plainly("flow_runs", {"flow_runs": wanted}, data)
    )
    column = FLOW_RUNS.sorts[sort].replace("{t}", "t")
    plain = relations.select(f"SELECT t.id FROM flow_runs t ORDER BY {column}", ())
    assert whole == [row for row in plain if row in whole]


@given(data=databases, now=st.integers(-1, 3))
def test_estimates_are_the_same_in_sql(
    relations: Relations, data: dict[str, Any], now: int
) -> None:
    for number, flow in enumerate(data["flows"]):
        flow["name"] = NAMES[number]
    fill(relations, data)
    selection = parse_selection({}, BodyShape(FLOW_RUNS, EVERYTHING))
    columns = ", ".join(f"{{t}}.{name}" for name in run_bodies.COLUMNS)
    query = select_rows(selection, f"{RUN_TIME}, {LATENESS}, {columns}", micros(now))
    rows = relations.select(*query)
    for lasted, late, _, kind, at, expected, started, run_time in rows:
        assert lasted == run_bodies.estimated_run_time(kind, at, run_time, micros(now))
        assert late == run_bodies.estimated_lateness(kind, expected, started, micros(now))
    whole = [(b'{"id":1', *row[:2]) for row in rows]
    each = [run_bodies.render((b'{"id":1', *row[3:]), micros(now)) for row in rows]
    assert run_bodies.render_list(whole) == b"[%b]" % b",".join(each)


def test_a_crowd_is_not_sorted(relations: Relations) -> None:
    """No plan but the last resort sorts more than what was looked through."""
    body = {"flow_runs": {"state": {"type": {"any_": ["RUNNING"]}}}, "sort": "START_TIME_DESC"}
    query = select_rows(parse_selection(body, BodyShape(FLOW_RUNS, EVERYTHING)), "{t}.body", 0)
    plan = relations.select(f"EXPLAIN QUERY PLAN {query.text}", query.values)
    details = {id_: (parent, detail) for id_, parent, _, detail in plan}
    scans = [detail for _, detail in details.values() if detail.startswith("SCAN")]
    assert "SCAN t USING INDEX flow_runs_began" in scans
    assert not [detail for detail in scans if detail == "SCAN t"], plan
    near = next(id_ for id_, (_, detail) in details.items() if detail == "MATERIALIZE near")
    assert not [d for parent, d in details.values() if parent == near and "TEMP B-TREE" in d]


ENDED = ["COMPLETED", "FAILED", "CRASHED", "CANCELLED"]


@pytest.mark.parametrize("sort", ["START_TIME_ASC", "START_TIME_DESC", "EXPECTED_START_TIME_DESC"])
@pytest.mark.parametrize("states", [ENDED[:1], ENDED[:2], ENDED])
def test_pages_of_several_states_are_merged_from_an_index_each(
    relations: Relations, sort: str, states: list[str]
) -> None:
    """No branch reads a table from one end to the other or sorts what it finds; only the page
    itself is sorted, which is what is left of the branches.
    """
    body = {"flow_runs": {"state": {"type": {"any_": states}}}, "sort": sort}
    selection = parse_selection(body, BodyShape(FLOW_RUNS, EVERYTHING))
    query = select_rows(selection, "{t}.body", 0)
    plan = relations.select(f"EXPLAIN QUERY PLAN {query.text}", query.values)
    index = "flow_runs_state_began" if sort.startswith("START") else "flow_runs_state_expected"
    # (id, parent, unused, detail): the sort of the page stands at the top, next to its rows.
    details = [(parent, detail) for _, parent, _, detail in plan]
    assert sum(f"INDEX {index} (state_type=?" in detail for _, detail in details) == len(states)
    assert [parent for parent, detail in details if "TEMP B-TREE" in detail] == [0]
    scans = [detail for _, detail in details if detail.startswith("SCAN")]
    assert all("subquery" in detail for detail in scans), plan


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
fields = st.sampled_from(
    ["id", "name", "tags", "state", "start_time", "operator", "flow_run_id", "parent_task_run_id"]
)
keys = st.sampled_from(["any_", "like_", "before_", "is_null_", "operator", "type", "not_any_"])
hostile = json_values | st.dictionaries(
    fields, json_values | st.dictionaries(keys, json_values, max_size=2), max_size=3
)


def parse_or_refuse(body: Any) -> Any:
    try:
        return parse_selection(body, BodyShape(FLOW_RUNS, EVERYTHING))
    except (InvalidRequest, Refusal) as refused:
        return refused


@given(
    body=st.dictionaries(
        st.sampled_from([*EVERYTHING, "sort", "limit", "offset", "x"]), hostile, max_size=4
    )
    | json_values,
)
def test_any_json_is_a_filter_or_refused(relations: Relations, body: Any) -> None:
    selection = parse_or_refuse(body)
    if isinstance(selection, InvalidRequest):
        assert selection.faults
        assert all(fault.where[0] == "body" and fault.text for fault in selection.faults)
        return
    if isinstance(selection, Refusal):
        assert selection.status == 422
        return
    relations.select(*select_rows(selection, "{t}.id", 0))
    assert 0 <= selection.limit <= 200


@pytest.mark.parametrize(
    ("body", "where", "kind"),
    [
        ({"flow_runs": {"nope": {}}}, ("body", "flow_runs", "nope"), "extra_forbidden"),
        (
            {"flow_runs": {"name": {"eq_": 1}}},
            ("body", "flow_runs", "name", "eq_"),
            "extra_forbidden",
        ),
        ({"flow_runs": {"operator": "xor_"}}, ("body", "flow_runs", "operator"), "enum"),
        (
            {"flow_runs": {"id": {"any_": ["x"]}}},
            ("body", "flow_runs", "id", "any_", 0),
            "uuid_parsing",
        ),
        (
            {"flow_runs": {"tags": {"all_": "x"}}},
            ("body", "flow_runs", "tags", "all_"),
            "list_type",
        ),
        (
            {"flow_runs": {"state": {"type": {"any_": ["NO"]}}}},
            ("body", "flow_runs", "state", "type", "any_", 0),
            "enum",
        ),
        (
            {"flow_runs": {"start_time": {"before_": "soon"}}},
            ("body", "flow_runs", "start_time", "before_"),
            "datetime_parsing",
        ),
        ({"flow_runs": 5}, ("body", "flow_runs"), "model_attributes_type"),
        ({"sort": "SIDEWAYS"}, ("body", "sort"), "enum"),
        ({"offset": -1}, ("body", "offset"), "greater_than_equal"),
        ({"limit": "many"}, ("body", "limit"), "int_parsing"),
        (
            {"deployments": {"paused": {"eq_": "x"}}},
            ("body", "deployments", "paused", "eq_"),
            "bool_type",
        ),
    ],
)
def test_faults_name_the_place(body: Any, where: tuple[Any, ...], kind: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_selection(body, BodyShape(FLOW_RUNS, EVERYTHING))
    assert [(fault.where, fault.kind) for fault in refused.value.faults] == [(where, kind)]


@pytest.mark.parametrize(("limit", "word"), [(201, "less"), (-1, "greater")])
def test_a_limit_out_of_range_is_refused(limit: int, word: str) -> None:
    with pytest.raises(Refusal, match=f"must be {word} than or equal to") as refused:
        parse_selection({"limit": limit}, BodyShape(FLOW_RUNS, EVERYTHING))
    assert refused.value.status == 422


@pytest.mark.parametrize(
    ("field", "column"),
    [
        ("expected_start_time", "expected_at"),
        ("end_time", "ended_at"),
        ("next_scheduled_start_time", "next_scheduled_at"),
        ("start_time", "started_at"),
        ("start_time", "expected_at"),
    ],
)
def test_before_and_after_include_the_moment_itself(
    relations: Relations, field: str, column: str
) -> None:
    """A run that has not started is found by when it is expected to."""
    empty = dict.fromkeys(run_columns)
    runs = [
        {
            **empty,
            "id": IDS[n],
            "flow_id": IDS[0],
            "name": "x",
            "tags": [],
            "state_type": "COMPLETED",
            column: n,
        }
        for n in range(3)
    ]
    fill(relations, {"flows": [], "flow_runs": runs, "task_runs": []})
    shape = BodyShape(FLOW_RUNS, EVERYTHING)
    for operator, found in (("before_", IDS[:2]), ("after_", IDS[1:3])):
        selection = parse_selection({"flow_runs": {field: {operator: moment(1)}}}, shape)
        rows = relations.select(*select_rows(selection, "{t}.id", 0))
        assert sorted(row[0] for row in rows) == found


def test_long_lists_are_no_more_than_a_statement_can_be(relations: Relations) -> None:
    texts = [f"{number}" for number in range(20_000)]
    lists = {"any_": texts, "not_any_": texts}
    wanted = {
        "name": {"any_": texts},
        "idempotency_key": lists,
        "tags": {"any_": texts, "all_": texts},
        "id": {"any_": [f"{number:08x}-0000-4000-8000-000000000000" for number in range(20_000)]},
        "state": {"name": lists, "type": {"any_": [*TYPES] * 9}},
    }
    fill(relations, {"flows": [], "flow_runs": [], "task_runs": []})
    body = {
        "flow_runs": wanted,
        "flows": {"tags": {"all_": texts}},
        "task_runs": {"tags": {"all_": texts}},
    }
    selection = parse_selection(body, BodyShape(FLOW_RUNS, EVERYTHING))
    assert relations.select(*select_rows(selection, "{t}.id", 0)) == []


def test_every_state_is_known() -> None:
    body = {"flow_runs": {"state": {"type": {"any_": list(STATE_TYPES)}}}}
    assert parse_selection(body, BodyShape(FLOW_RUNS, EVERYTHING)).conditions
