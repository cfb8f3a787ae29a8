"""Events: emit one or many, list, get."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Annotated

import msgspec

from ironflow.actors.engine import Engine
from ironflow.core.errors import Draining, Gone, InvalidInput, IronflowError, NotFound
from ironflow.core.expressions.patterns import validate_event_name
from ironflow.core.values.json_text import keep_json
from ironflow.storage.ports import EventFilter
from ironflow.web.outcomes import Judge
from ironflow.web.problems import describe
from ironflow.web.queries import (
    BodyDecoder,
    Moment,
    Query,
    check_id,
    check_key,
    check_text,
    decode_cursor,
    encode_cursor,
    to_micros,
)
from ironflow.web.routing import Answer, Call, Route
from ironflow.web.views import Values, event_views
from ironflow.web.wire import events as wire

MAX_BATCH = 1000
"""Events in one request."""
SCAN_CAP = 10_000
"""Events whose names are counted for one answer."""
SCANNED_AT_ONCE = 500


class EmitBody(wire.EmitRequest, frozen=True):
    """`EmitRequest` with its data as text, so that no number in it is rounded."""

    data: msgspec.Raw = msgspec.Raw(b"null")


class EventsQuery(Query, frozen=True):
    """Which events: every given filter must hold; `since` <= at < `until`."""

    name: tuple[str, ...] = ()
    source: str | None = None
    since: Moment | None = None
    until: Moment | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=200)] = 50
    cursor: str | None = None
    full: bool = False


class EventNamesQuery(Query, frozen=True):
    """Of which events: every given filter must hold; `since` <= at < `until`."""

    source: str | None = None
    since: Moment | None = None
    until: Moment | None = None


_decode_item = BodyDecoder(EmitBody).decode


async def emit_event(call: Call[Query, EmitBody]) -> Answer:
    """Emit an event."""
    key = check_key(call.sent_headers, call.body.idempotency_key)
    view = await _emit(call.engine, call.body, key, "")
    call.headers["Location"] = f"/api/v1/events/{view.event_id}"
    return (201 if view.created else 200), view


async def _emit(engine: Engine, body: EmitBody, key: str | None, field: str) -> wire.EmitView:
    data = keep_json(body.data, f"{field}data")
    emitted = await engine.emit(body.name, data, idempotency_key=key)
    judge = await Judge.of(engine, emitted.outcomes)
    return wire.EmitView(
        event_id=emitted.event_id,
        run_ids=list(emitted.run_ids),
        created=emitted.created,
        outcomes=[judge.view(outcome) for outcome in emitted.outcomes],
    )


async def emit_batch(call: Call[Query, list[msgspec.Raw]]) -> Answer:
    """Emit events together; each is stored or refused for itself."""
    if len(call.body) > MAX_BATCH:
        raise InvalidInput("body", f"has more than {MAX_BATCH} events")
    if call.engine.draining:
        raise Draining
    # Started in order and awaited together, so that one commit can take many.
    items = await asyncio.gather(
        *(_emit_item(call.engine, raw, index) for index, raw in enumerate(call.body))
    )
    return 200, wire.BatchView(items=list(items))


async def _emit_item(engine: Engine, raw: msgspec.Raw, index: int) -> wire.BatchItem:
    field = f"[{index}]"
    try:
        body: EmitBody = _decode_item(bytes(raw), field)
        key = body.idempotency_key
        if key is not None:
            check_text(key, f"{field}.idempotency_key")
        view = await _emit(engine, body, key, f"{field}.")
    except IronflowError as error:
        return wire.BatchItem(ok=False, problem=describe(error))
    except TimeoutError:
        return wire.BatchItem(ok=False, problem=describe(Gone("the answer did not come in time")))
    return wire.BatchItem(ok=True, event=view)


async def list_events(call: Call[EventsQuery, None]) -> Answer:
    """Events, newest first."""
    query = call.query
    for name in query.name:
        validate_event_name(name, "name")
    where = EventFilter(
        names=query.name,
        source=query.source,
        since=to_micros(query.since),
        until=to_micros(query.until),
    )
    before = decode_cursor(query.cursor)
    rows = await call.engine.store.reader.events(where, query.limit + 1, before)
    page = rows[: query.limit]
    values = Values(call.engine, full=query.full)
    more = len(rows) > len(page)
    return 200, wire.EventPage(
        items=await event_views(call.engine, page, values),
        next_cursor=encode_cursor(page[-1].at, page[-1].id) if more else None,
    )


async def list_event_names(call: Call[EventNamesQuery, None]) -> Answer:
    """How often which name occurs among the newest events."""
    query, counts, scanned = call.query, Counter[str](), 0
    where = EventFilter(
        source=query.source, since=to_micros(query.since), until=to_micros(query.until)
    )
    before: tuple[int, str] | None = None
    more = True
    while more and scanned < SCAN_CAP:
        size = min(SCANNED_AT_ONCE, SCAN_CAP - scanned)
        rows = await call.engine.store.reader.events(where, size + 1, before)
        more = len(rows) > size
        page = rows[:size]
        counts.update(row.name for row in page)
        scanned += len(page)
        if page:
            before = page[-1].at, page[-1].id
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    names = [wire.EventNameView(name=name, count=count) for name, count in ranked]
    return 200, wire.EventNamesView(names=names, scanned=scanned, scan_cap=SCAN_CAP, truncated=more)


async def get_event(call: Call[Query, None]) -> Answer:
    """One event, whole."""
    event_id = check_id("event", call.path["event_id"])
    row = await call.engine.store.reader.event(event_id)
    if row is None:
        raise NotFound("event", event_id)
    (view,) = await event_views(call.engine, [row], Values(call.engine, full=True))
    return 200, view


ROUTES = (
    Route(
        method="POST",
        path="/api/v1/events",
        handle=emit_event,
        summary="Emit an event",
        details="Durable, with the runs that it starts, when it answers. The same idempotency key "
        "and name again find the first event; with other data that is a conflict. A function that "
        "is debounced or takes batches starts its run later: see `outcomes`.",
        tag="events",
        request=wire.EmitRequest,
        decode_as=EmitBody,
        keyed=True,
        response=wire.EmitView,
        statuses={201: "The event is stored", 200: "The idempotency key was seen before"},
        problems=(409, 429, 503, 507),
    ),
    Route(
        method="POST",
        path="/api/v1/events/batch",
        handle=emit_batch,
        summary="Emit many events",
        details=f"At most {MAX_BATCH}. Each is stored or refused for itself: see each `ok`.",
        tag="events",
        request=list[wire.EmitRequest],
        decode_as=list[msgspec.Raw],
        response=wire.BatchView,
        statuses={200: "What became of each event, in order"},
        problems=(503,),
    ),
    Route(
        method="GET",
        path="/api/v1/events",
        handle=list_events,
        summary="List events, newest first",
        tag="events",
        query=EventsQuery,
        response=wire.EventPage,
        statuses={200: "A page of events"},
        problems=(503,),
    ),
    Route(
        method="GET",
        path="/api/v1/events/names",
        handle=list_event_names,
        summary="Count the names of the newest events",
        tag="events",
        query=EventNamesQuery,
        response=wire.EventNamesView,
        statuses={200: "Names, the most frequent first"},
        problems=(503,),
    ),
    Route(
        method="GET",
        path="/api/v1/events/{event_id}",
        handle=get_event,
        summary="Get an event",
        tag="events",
        response=wire.EventView,
        statuses={200: "The event"},
        problems=(404, 503),
    ),
)
