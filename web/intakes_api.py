"""What waits before it becomes a run: debounced events, batches, singletons."""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

import msgspec

from ironflow.actors.engine import Engine
from ironflow.core.access.directory import DEFAULT_ENVIRONMENT
from ironflow.core.clock import to_rfc3339
from ironflow.core.errors import NotFound
from ironflow.core.functions.definition import Definition
from ironflow.core.functions.flow_control import FlowControl
from ironflow.core.functions.intake import Intake
from ironflow.storage.ports import FunctionRow, IntakeRow
from ironflow.web.queries import Query
from ironflow.web.routing import Answer, Call, Handle, Route
from ironflow.web.wire.intakes import (
    BatchEntryView,
    BatchPage,
    DebounceEntryView,
    PendingView,
    SingletonEntryView,
    SingletonPage,
)

EMPTY = "-"
"""The empty key in a path; it is the base64url of nothing."""
ROWS_AT_ONCE = 1000
MOST = 10_000
"""Entries in one answer."""

Kind = Literal["debounce", "batch"]


class IntakesQuery(Query, frozen=True):
    """Of which function, and how many."""

    function_id: str | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=MOST)] = 1000


def encode_key(key: str) -> str:
    """A key as it stands in paths."""
    return base64.urlsafe_b64encode(key.encode()).rstrip(b"=").decode() or EMPTY


def decode_key(text: str, kind: str) -> str:
    """The key of a path. Raises `NotFound` for text that is none."""
    if text in (EMPTY, ""):
        return ""
    try:
        padded = text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4)
        return base64.b64decode(padded, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise NotFound(f"{kind} entry: no base64url", text) from None


async def _rows(engine: Engine, kind: str, query: IntakesQuery) -> AsyncIterator[IntakeRow]:
    """What waits, of one function or of all, at most `limit`."""
    found, after = 0, None
    while found < query.limit:
        size = min(ROWS_AT_ONCE, query.limit - found)
        page = await engine.store.reader.intakes(kind, size, after, query.function_id)
        for row in page:
            yield row
        if len(page) < size:
            return
        found += size
        after = (page[-1].function_id, page[-1].key)


async def _known(engine: Engine) -> dict[str, tuple[FunctionRow, Definition]]:
    return {row.id: (row, definition) for row, definition in await engine.functions()}


async def _pending(
    call: Call[IntakesQuery, None], kind: Kind
) -> AsyncIterator[tuple[IntakeRow, FlowControl, dict[str, Any]]]:
    """What waits of one kind, its function's flow control, and what both kinds say of it."""
    known = await _known(call.engine)
    async for row in _rows(call.engine, kind, call.query):
        function, definition = known[row.function_id]
        facts: dict[str, Any] = {
            "environment_id": call.engine.environment_id,
            "function_id": row.function_id,
            "function_version": function.version,
            "path_key": encode_key(row.key),
            "event_id": row.event_id,
            "events": row.size,
            "armed_at": to_rfc3339(row.armed_at),
            "fires_at": to_rfc3339(row.due_at or 0),
        }
        yield row, definition.flow_control, facts


async def list_debounce_entries(call: Call[IntakesQuery, None]) -> Answer:
    """Debounced events that wait, by function and key."""
    views = []
    async for row, control, facts in _pending(call, "debounce"):
        period = control.debounce.period if control.debounce is not None else 0
        views.append(
            DebounceEntryView(debounce_key=row.key, period_ms=round(period * 1000), **facts)
        )
    return 200, views


async def list_batches(call: Call[IntakesQuery, None]) -> Answer:
    """Batches that are not full, by function and key."""
    views = []
    async for row, control, facts in _pending(call, "batch"):
        size = control.batch.size if control.batch is not None else 0
        views.append(BatchEntryView(batch_key=row.key, size=size, **facts))
    return 200, BatchPage(items=views)


async def list_singletons(call: Call[IntakesQuery, None]) -> Answer:
    """Singletons that hold a run, by function and key."""
    views = [
        SingletonEntryView(
            environment_id=call.engine.environment_id,
            function_id=row.function_id,
            singleton_key=row.key,
            run_id=row.run_id,
            next_run_id=row.event_id if row.event_id != row.run_id else None,
        )
        async for row in _rows(call.engine, "singleton", call.query)
    ]
    return 200, SingletonPage(items=views)


def _intake(call: Call[Query, None], kind: Kind) -> Intake:
    """The intake of a path. Raises `NotFound`."""
    environment, own = call.path["environment"], call.engine.environment_id
    if environment != own and (environment, own) != ("default", DEFAULT_ENVIRONMENT):
        raise NotFound("environment", environment)
    return Intake(kind, call.path["function_id"], decode_key(call.path.get("key", ""), kind))


def _canceller(kind: Kind) -> Handle:
    async def cancel(call: Call[Query, None]) -> Answer:
        intake = _intake(call, kind)
        outcome = await call.engine.intakes.drop(intake.address, "cancelled by request")
        return 200, PendingView(
            status="cancelled",
            function_id=intake.function_id,
            key=intake.key,
            run_id=None,
            event_id=outcome.subject,
        )

    return cancel


def _starter(kind: Kind) -> Handle:
    async def start(call: Call[Query, None]) -> Answer:
        intake = _intake(call, kind)
        outcome = await call.engine.intakes.start(intake.address)
        return 200, PendingView(
            status="started",
            function_id=intake.function_id,
            key=intake.key,
            run_id=outcome.run_id,
            event_id=outcome.subject,
        )

    return start


def _entry_routes(kind: Kind, base: str, what: str) -> list[Route]:
    entry = f"{base}/{{environment}}/{{function_id}}"
    cancel: dict[str, Any] = {
        "method": "DELETE",
        "handle": _canceller(kind),
        "tag": "flow control",
        "response": PendingView,
        "statuses": {200: "They are forgotten"},
        "problems": (404, 503, 507),
    }
    return [
        Route(
            path=f"{entry}/{{key}}",
            summary=f"Forget {what}",
            details="No run comes of them. `key` is base64url without padding, `-` if empty.",
            name=f"cancel_{kind}",
            **cancel,
        ),
        Route(
            path=f"{entry}/",
            summary=f"Forget {what} of the empty key",
            name=f"cancel_{kind}_without_key",
            **cancel,
        ),
        Route(
            method="POST",
            path=f"{entry}/{{key}}/fire",
            handle=_starter(kind),
            summary=f"Start {what} now",
            tag="flow control",
            response=PendingView,
            statuses={200: "The run is created"},
            problems=(404, 503, 507),
            name=f"fire_{kind}",
        ),
    ]


_DEBOUNCE = "/api/v1/debounce/entries"
_BATCHES = "/api/v1/batches"

ROUTES = (
    Route(
        method="GET",
        path=_DEBOUNCE,
        handle=list_debounce_entries,
        summary="List debounced events that wait",
        tag="flow control",
        query=IntakesQuery,
        response=list[DebounceEntryView],
        statuses={200: "What waits, by function and key"},
        problems=(503,),
    ),
    *_entry_routes("debounce", _DEBOUNCE, "debounced events"),
    Route(
        method="GET",
        path=_BATCHES,
        handle=list_batches,
        summary="List batches that are not full",
        tag="flow control",
        query=IntakesQuery,
        response=BatchPage,
        statuses={200: "What waits, by function and key"},
        problems=(503,),
    ),
    *_entry_routes("batch", _BATCHES, "a batch"),
    Route(
        method="GET",
        path="/api/v1/singletons",
        handle=list_singletons,
        summary="List singletons that hold a run",
        tag="flow control",
        query=IntakesQuery,
        response=SingletonPage,
        statuses={200: "Who is under way, by function and key"},
        problems=(503,),
    ),
)
