"""Lists, counts and pages: a body becomes a selection, a selection SQL, its rows a body."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

from ironflow.actors.engine import Engine
from ironflow.actors.prefect.doors import Ask
from ironflow.core.clock import SECOND, from_datetime, to_rfc3339
from ironflow.core.prefect import bodies
from ironflow.core.prefect.faults import Fault, Refusal
from ironflow.core.prefect.filters import BodyShape, Selection, parse_selection
from ironflow.core.prefect.states import micros
from ironflow.storage.relational.prefect_filters import (
    LATENESS,
    RUN_TIME,
    count_rows,
    fill,
    select_rows,
    where_rows,
)
from ironflow.web.prefect.requests import HistoryBody, SetState
from ironflow.web.prefect.routing import Answer, Call, Handle, Route

MOST_INTERVALS = 500
"""Intervals of one history."""
RUN_COLUMNS = f"{{t}}.body, {RUN_TIME}, {LATENESS}"
LAST_MOMENT = from_datetime(datetime.max.replace(tzinfo=UTC))
_encode = msgspec.json.Encoder().encode


class _IntervalState(msgspec.Struct):
    state_type: str
    state_name: str
    count_runs: int
    sum_estimated_run_time: float
    sum_estimated_lateness: float


class _Interval(msgspec.Struct):
    interval_start: str
    interval_end: str
    states: list[_IntervalState]


class _Page(msgspec.Struct):
    results: msgspec.Raw
    count: int
    limit: int
    pages: int
    page: int


async def list_runs(engine: Engine, selection: Selection) -> bytes:
    """Flow runs or task runs as a JSON array."""
    now = engine.clock.now()
    query = select_rows(selection, RUN_COLUMNS, now)
    return bodies.render_list(await engine.store.reader.select(query.text, query.values))


async def list_whole(engine: Engine, selection: Selection) -> bytes:
    """Things whose bodies are kept whole as a JSON array."""
    query = select_rows(selection, "{t}.body", engine.clock.now())
    rows = await engine.store.reader.select(query.text, query.values)
    return b"[%b]" % b",".join([row[0] for row in rows])


async def number_of(engine: Engine, selection: Selection) -> int:
    """How many there are."""
    query = count_rows(selection, engine.clock.now())
    found: int = (await engine.store.reader.select(query.text, query.values))[0][0]
    return found


async def find_ids(engine: Engine, selection: Selection) -> list[str]:
    """The ids of a page."""
    query = select_rows(selection, "{t}.id", engine.clock.now())
    return [row[0] for row in await engine.store.reader.select(query.text, query.values)]


async def page(engine: Engine, selection: Selection, results: bytes) -> bytes:
    """A page with its place among all pages."""
    total = await number_of(engine, selection)
    limit = selection.limit
    pages = -(-total // limit) if limit else 0
    return _encode(_Page(msgspec.Raw(results), total, limit, pages, selection.page))


def read_limit(call: Call[Any, dict[str, Any]], most: int) -> int:
    """The limit of a bulk request, 1 to `most`. Raises `InvalidRequest`."""
    limit = call.body.get("limit", most)
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= most:
        text = f"must be a whole number from 1 to {most}"
        raise call.invalid([Fault(("body", "limit"), "int_type", text, limit)])
    return limit


async def average_lateness(engine: Engine, selection: Selection) -> float | None:
    """How many seconds later than expected runs began, on average; None without any."""
    now = engine.clock.now()
    where, values = where_rows(selection, now)
    lateness = fill(LATENESS, "t", now)
    query = f"SELECT avg({lateness}) FROM {selection.resource.table} t WHERE {where}"
    average = (await engine.store.reader.select(query, values))[0][0]
    return None if average is None else average / SECOND


async def count_by_interval(call: Call[Any, dict[str, Any]], shape: BodyShape) -> Answer:
    """Runs by the interval in which they were expected to begin, and by state."""
    engine = call.engine
    span = call.decode_again(HistoryBody)
    selection = parse_selection(call.body, shape)
    if span.history_interval_seconds < 1:
        raise Refusal(422, "History interval must not be less than 1 second.")
    start, end = micros(span.history_start) or 0, micros(span.history_end) or 0
    step = round(min(span.history_interval_seconds, 10.0**9) * SECOND)
    count_ = min(max(0, -(-(end - start) // step)), MOST_INTERVALS)
    end = start + count_ * step
    if end > LAST_MOMENT:
        raise Refusal(422, "History intervals must end before the year 10000.")
    now = engine.clock.now()
    where, values = where_rows(selection, now)
    run_time, lateness = fill(RUN_TIME, "t", now), fill(LATENESS, "t", now)
    rows = await engine.store.reader.select(
        f"SELECT (t.expected_at - ?) / ?, t.state_type, t.state_name, count(*), sum({run_time}), "
        f"sum({lateness}) FROM {selection.resource.table} t "
        f"WHERE {where} AND t.expected_at >= ? AND t.expected_at < ? AND t.state_type IS NOT NULL "
        "GROUP BY 1, 2, 3 ORDER BY 1, 2, 3",
        [start, step, *values, start, end],
    )
    intervals = [
        _Interval(to_rfc3339(start + n * step), to_rfc3339(start + (n + 1) * step), [])
        for n in range(count_)
    ]
    for number, kind, name, runs, run_time, lateness in rows:
        state = _IntervalState(kind, name, runs, run_time / SECOND, lateness / SECOND)
        intervals[number].states.append(state)
    return 200, _encode(intervals)


# -- routes ---------------------------------------------------------------------------------------


def list_routes(
    path: str,
    *,
    filter: BodyShape,
    count: BodyShape,
    paginate: BodyShape,
    listing: Callable[[Engine, Selection], Awaitable[bytes]] = list_runs,
) -> tuple[Route, ...]:
    """The questions about many things below `path`, alike for all of them but for what a
    `BodyShape` says.
    """

    async def filter_them(call: Call[None, dict[str, Any]]) -> Answer:
        return 200, await listing(call.engine, parse_selection(call.body, filter))

    async def count_them(call: Call[None, dict[str, Any]]) -> Answer:
        return 200, await number_of(call.engine, parse_selection(call.body, count))

    async def paginate_them(call: Call[None, dict[str, Any]]) -> Answer:
        selection = parse_selection(call.body, paginate)
        return 200, await page(call.engine, selection, await listing(call.engine, selection))

    return (
        query_route(f"{path}/filter", filter_them),
        query_route(f"{path}/count", count_them),
        query_route(f"{path}/paginate", paginate_them),
    )


def history_route(path: str, shape: BodyShape) -> Route:
    """The question about runs by interval and state below `path`."""

    async def read_history(call: Call[None, dict[str, Any]]) -> Answer:
        return await count_by_interval(call, shape)

    return Route(method="POST", path=f"{path}/history", handle=read_history, body=dict)


def state_route(path: str, handle: Handle, ask: Callable[[Call[Any, Any]], Ask | None]) -> Route:
    """A state for the run at `path`; `ask` is the same on the fast path."""
    return Route(
        method="POST", path=f"{path}/set_state", handle=handle, body=SetState, fast=True, ask=ask
    )


def query_route(path: str, handle: Handle) -> Route:
    """A question whose body may be left out."""
    return Route(method="POST", path=path, handle=handle, body=dict, optional_body=True, fast=True)
