"""Events and logs of the Prefect API: what SQL finds is what the same filter says of each item
live; pages divide the whole; any JSON is an event or refused.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironflow.core.clock import from_datetime
from ironflow.core.prefect.event_filters import EventFilter, parse_event_filter
from ironflow.core.prefect.events import Event, decode_event, decode_events
from ironflow.core.prefect.faults import Fault, InvalidRequest
from ironflow.core.prefect.filters import BodyShape, parse_selection
from ironflow.core.prefect.logs import LogLine, is_wanted
from ironflow.core.prefect.resources import LOGS
from ironflow.core.prefect.texts import parse_text_query
from ironflow.storage.ports import Batch
from ironflow.storage.relational.prefect_events import (
    LOG_COLUMNS,
    count_events,
    enter_resources,
    put_event,
    put_log,
    select_accepted,
    select_events,
)
from ironflow.storage.relational.prefect_filters import select_rows
from ironflow.storage.relational.tables import Relations

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
IDS = [f"{n:08x}-0000-4000-8000-000000000000" for n in range(5)]
NAMES = ["a.b", "a.bc", "b", "prefect.flow-run.Running"]
RESOURCES = ["r1", "r10", "r2", 'q"uote']
ROLES = ["flow", "tag", ""]
LABELS = ["kind", "name", 'o"dd']
VALUES = ["x", "xy", "!x", "*"]


def moment(second: int) -> str:
    return (EPOCH + timedelta(seconds=second)).isoformat()


labels = st.dictionaries(st.sampled_from(LABELS), st.sampled_from(VALUES), max_size=2)
resources = st.builds(
    lambda key, more: {**more, "prefect.resource.id": key}, st.sampled_from(RESOURCES), labels
)
related = st.builds(
    lambda resource, role: {**resource, "prefect.resource.role": role},
    resources,
    st.sampled_from(ROLES),
)
events = st.lists(
    st.builds(
        lambda key, name, second, resource, others, word: Event(
            key,
            name,
            from_datetime(EPOCH + timedelta(seconds=second)),
            0,
            resource,
            tuple(others),
            json.dumps({"word": word}).encode(),
        ),
        st.sampled_from(IDS),
        st.sampled_from(NAMES),
        st.integers(0, 3),
        resources,
        st.lists(related, max_size=2),
        st.sampled_from(["Hello", "wörld", "a b"]),
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda event: event.id,
)


@st.composite
def some(draw: st.DrawFn, **parts: st.SearchStrategy[Any]) -> dict[str, Any]:
    """One or two of the parts: with more, hardly an event would ever be found."""
    chosen = draw(st.lists(st.sampled_from(sorted(parts)), min_size=1, max_size=2, unique=True))
    return {name: draw(parts[name]) for name in chosen}


def among(values: list[str]) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(values), max_size=2)


spec = st.dictionaries(
    st.sampled_from([*LABELS, "prefect.resource.id"]),
    st.sampled_from(["x", "x*", "!x", "!x*", "*", "r1*"]) | among(["x", "xy", "!xy", "*"]),
    max_size=2,
)
related_filter = some(
    id=among(RESOURCES),
    role=among(ROLES),
    labels=spec,
    resources_in_roles=st.lists(
        st.tuples(st.sampled_from(RESOURCES), st.sampled_from(ROLES)).map(list), max_size=2
    ),
)
any_filter = some(id=among(RESOURCES), id_prefix=among(["r", "r1"]), labels=spec)
filters = some(
    occurred=some(since=st.integers(0, 3).map(moment), until=st.integers(0, 3).map(moment)),
    event=some(
        name=among(NAMES),
        exclude_name=among(NAMES),
        prefix=among(["a", "a.", "prefect.", ""]),
        exclude_prefix=among(["a.b", "b"]),
    ),
    resource=some(id=among(RESOURCES), id_prefix=among(["r", "r1"]), labels=spec),
    related=related_filter | st.lists(related_filter, max_size=2),
    any_resource=any_filter | st.lists(any_filter, max_size=2),
    id=some(id=among(IDS)),
    text=some(query=st.sampled_from(["hello", "-hello", "+a +b", '"a b"', "r10 WÖRLD", "", "!"])),
    order=st.sampled_from(["ASC", "DESC"]),
)


def parse(value: dict[str, Any]) -> EventFilter:
    faults: list[Fault] = []
    wanted = parse_event_filter(value, faults)
    assert faults == []
    return wanted


@pytest.fixture(scope="module")
def relations() -> Relations:
    return Relations()


def fill(relations: Relations, found: list[Event], entered: int = 0) -> None:
    """Of the first `entered` events the resources are entered."""
    for table in ("prefect_events", "event_resources", "event_marks"):
        relations.connection.execute(f"DELETE FROM {table}")
    batch = Batch([], [], [])
    loose = [put_event(batch, event, seq) for seq, event in enumerate(found, 1)]
    enter_resources(batch, loose[:entered])
    for table, row in batch.puts:
        relations.put(table, row)


def ids_of(rows: list[Any]) -> list[str]:
    return [json.loads(row[0])["id"] for row in rows]


@given(found=events, value=filters, entered=st.integers(0, 6))
def test_stored_and_live_events_are_found_alike(
    relations: Relations, found: list[Event], value: dict[str, Any], entered: int
) -> None:
    fill(relations, found, entered)
    wanted = parse(value)
    live = [event for event in found if wanted.matches(event)]
    rows = relations.select(*select_events(wanted, 100))
    way = 1 if wanted.ascending else -1
    order = {event.id: (way * event.occurred, way * seq) for seq, event in enumerate(found)}
    assert ids_of(rows) == sorted((event.id for event in live), key=order.__getitem__)
    assert relations.select(*count_events(wanted)) == [(len(live),)]
    accepted = relations.select(*select_accepted(wanted, 0, 100))
    assert ids_of(accepted) == [event.id for event in live]


@given(found=events, value=filters, size=st.integers(1, 3), distinct=st.booleans())
def test_pages_of_events_divide_the_whole(
    relations: Relations, found: list[Event], value: dict[str, Any], size: int, distinct: bool
) -> None:
    fill(relations, found)
    wanted = parse(value)._replace(distinct=distinct)
    whole = relations.select(*select_events(wanted, 100))
    pages: list[Any] = []
    after = None
    while rows := relations.select(*select_events(wanted, size, after=after)):
        pages += rows
        after = (rows[-1][1], rows[-1][2])
    assert pages == whole
    if distinct:
        resources = [json.loads(row[0])["resource"]["prefect.resource.id"] for row in whole]
        every = relations.select(*select_events(wanted._replace(distinct=False), 100))
        all_resources = [json.loads(row[0])["resource"]["prefect.resource.id"] for row in every]
        assert resources == list(dict.fromkeys(all_resources))
        assert relations.select(*count_events(wanted)) == [(len(whole),)]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
hostile_events = st.dictionaries(
    st.sampled_from(["occurred", "event", "resource", "related", "payload", "id", "follows", "x"]),
    json_values
    | st.just(moment(1))
    | st.just(IDS[0])
    | st.just({"prefect.resource.id": "r"})
    | st.just([]),
    min_size=3,
)


@given(value=hostile_events | json_values, many=st.booleans())
def test_any_json_is_an_event_or_refused(relations: Relations, value: Any, many: bool) -> None:
    data = json.dumps([value] if many else value).encode()
    try:
        found = decode_events(data, 5) if many else [decode_event(data, 5)]
    except InvalidRequest as refused:
        assert refused.faults  # noqa: PT017 - both ends are good ones
        return
    fill(relations, found)
    assert len(relations.select(*select_events(EventFilter(), 10))) == len(found)
    assert json.loads(found[0].body)["received"] == "1970-01-01T00:00:00.000005Z"


@given(
    value=st.dictionaries(
        st.sampled_from(
            ["event", "resource", "related", "id", "text", "any_resource", "occurred", "order", "x"]
        ),
        json_values
        | st.dictionaries(
            st.sampled_from(
                [
                    "id",
                    "labels",
                    "prefix",
                    "since",
                    "query",
                    "role",
                    "resources_in_roles",
                    "distinct",
                ]
            ),
            json_values,
        ),
    )
)
def test_any_json_is_a_filter_of_events_or_faulty(relations: Relations, value: Any) -> None:
    faults: list[Fault] = []
    wanted = parse_event_filter(value, faults)
    assert all(fault.where[:2] == ("body", "filter") for fault in faults)
    if not faults:
        relations.select(*select_events(wanted, 10))


def many(count: int, text: str = "x") -> list[str]:
    return [f"{text}{number}" for number in range(count)]


HUGE = [
    {"event": {"prefix": many(1000), "exclude_prefix": many(1000, "y"), "name": many(1000)}},
    {"id": {"id": [f"{n:08x}-0000-4000-8000-000000000000" for n in range(1000)]}},
    {"resource": {"id_prefix": many(1000), "labels": {"kind": [*many(500, "!y"), *many(500)]}}},
    {"resource": {"labels": {key: [f"{text}*" for text in many(1000)] for key in many(50)}}},
    {"related": [{"role": many(1000), "id": many(1000)}] * 50},
    {"related": {"resources_in_roles": [["a", text] for text in many(1000)]}},
    {"any_resource": [{"id_prefix": many(9)}] * 50},
    {"text": {"query": "a " * 100}},
]


@pytest.mark.parametrize("value", HUGE)
def test_the_largest_filters_are_no_more_than_a_statement_can_be(
    relations: Relations, value: dict[str, Any]
) -> None:
    found = [
        Event(
            IDS[n],
            name,
            n,
            0,
            {"prefect.resource.id": name, "kind": name},
            ({"prefect.resource.id": "a", "prefect.resource.role": name},)[: n % 2],
            b'{"word":"a"}',
        )
        for n, name in enumerate(["x7", "x77", "x", "z"])
    ]
    fill(relations, found, 2)
    wanted = parse(value)
    live = [event.id for event in found if wanted.matches(event)]
    assert sorted(ids_of(relations.select(*select_events(wanted, 10)))) == live


@pytest.mark.parametrize(
    "value",
    [
        {"event": {"prefix": many(1001)}},
        {"related": [{"id": ["a"]}] * 51},
        {"related": {"resources_in_roles": [["a", "b"]] * 1001}},
        {"resource": {"labels": dict.fromkeys(many(51), "x")}},
        {"resource": {"labels": {"kind": many(1001)}}},
        {"text": {"query": "a" * 201}},
        {"event": {"name": ["a" * 1001]}},
    ],
)
def test_larger_filters_are_refused(value: dict[str, Any]) -> None:
    faults: list[Fault] = []
    parse_event_filter(value, faults)
    assert [fault.kind in ("too_long", "string_too_long") for fault in faults] == [True]


# -- logs -----------------------------------------------------------------------------------------

lines = st.lists(
    st.builds(
        lambda run, task, level, second, message: LogLine(
            IDS[0],
            run,
            task,
            level,
            from_datetime(EPOCH + timedelta(seconds=second)),
            0,
            "n",
            message,
        ),
        st.none() | st.sampled_from(IDS[:2]),
        st.none() | st.sampled_from(IDS[:2]),
        st.integers(0, 3).map(lambda n: n * 10),
        st.integers(0, 3),
        st.sampled_from(["Boom", "all good", "boom again"]),
    ),
    min_size=1,
    max_size=6,
)
log_filters = some(
    operator=st.sampled_from(["and_", "or_"]),
    level=some(ge_=st.integers(0, 30), le_=st.integers(0, 30)),
    timestamp=some(before_=st.integers(0, 3).map(moment), after_=st.integers(0, 3).map(moment)),
    flow_run_id=some(any_=among(IDS[:2])),
    task_run_id=some(any_=among(IDS[:2]), is_null_=st.booleans()),
    text=some(query=st.sampled_from(["boom", "-boom", "+boom +again", '"all good"'])),
)


@given(found=lines, value=log_filters, descending=st.booleans())
def test_stored_and_live_log_lines_are_found_alike(
    relations: Relations, found: list[LogLine], value: dict[str, Any], descending: bool
) -> None:
    relations.connection.execute("DELETE FROM logs")
    batch = Batch([], [], [])
    for seq, line in enumerate(found, 1):
        put_log(batch, line, seq)
    for table, row in batch.puts:
        relations.put(table, row)
    sort = "TIMESTAMP_DESC" if descending else "TIMESTAMP_ASC"
    selection = parse_selection({"logs": value, "sort": sort}, BodyShape(LOGS, ("logs",)))
    rows = relations.select(*select_rows(selection, LOG_COLUMNS, 0))
    live = [line for line in found if is_wanted(selection.conditions["logs"], line)]
    numbered = [(line.at, number, line) for number, line in enumerate(live)]
    ordered = [line for *_, line in sorted(numbered, key=itemgetter(0, 1), reverse=descending)]
    assert [LogLine(*row) for row in rows] == ordered


@pytest.mark.parametrize(
    ("query", "text", "found"),
    [
        ("error", "An ERROR", True),
        ("error warning", "a warning", True),
        ("error -debug", "error in debug", False),
        ("error !debug", "error", True),
        ("+a +b", "a", False),
        ('"time out"', "a time out", True),
        ('"time out"', "time is out", False),
        ('-"time out"', "time out", False),
        ("", "anything", True),
        ("-", "a - b", True),
    ],
)
def test_text_queries(query: str, text: str, found: bool) -> None:
    assert parse_text_query(query).matches(text) == found
