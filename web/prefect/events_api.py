"""Events of the Prefect face: taken one by one or in lists, searched, counted, followed live."""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from aiohttp import WSCloseCode, WSMsgType, web

from ironflow.actors.engine import Engine
from ironflow.actors.prefect.feeds import Feeds
from ironflow.core.clock import SECOND, to_rfc3339
from ironflow.core.errors import IronflowError
from ironflow.core.prefect.event_filters import (
    EventFilter,
    bounded,
    parse_event_filter,
)
from ironflow.core.prefect.events import Event, decode_event, decode_events
from ironflow.core.prefect.faults import Fault, InvalidRequest, Refusal
from ironflow.core.prefect.scalars import parse_integer
from ironflow.core.values.json_text import is_too_deep
from ironflow.storage.relational.prefect_events import (
    count_events,
    count_events_by,
    count_events_in_time,
    select_accepted,
    select_events,
)
from ironflow.web.prefect import sockets
from ironflow.web.prefect.routing import Answer, Call, Route
from ironflow.web.whole import read_body

log = logging.getLogger("ironflow.web.prefect")

PAGE = 50
MOST = 200
"""Events of one page. Prefect's own server refuses more than 50, and its client asks for 100."""
MOST_SPANS = 1000
LEAST_INTERVAL, MOST_INTERVAL = 0.01, 1e6
BATCH = 500
"""Events of a socket that are taken together."""
MOST_PENDING = 5000
"""Events of a socket that may wait for the journal before no more of it is read."""
_UNITS = {"week": 604_800, "day": 86_400, "hour": 3600, "minute": 60, "second": 1}
_MONDAY = 4 * 86_400 * SECOND
"""The first Monday since the epoch: where weeks are counted from."""
COUNTABLES = ("day", "time", "event", "resource")


class PageQuery(msgspec.Struct, frozen=True, rename={"page_token": "page-token"}):
    """Which page."""

    page_token: str


class Position(msgspec.Struct, frozen=True):
    """What a page token holds: the question, and where the page before ended."""

    filter: Any
    limit: int
    newest: int
    at: int
    seq: int
    since: int
    until: int


# -- taking ---------------------------------------------------------------------------------------


async def create_events(call: Call[None, None]) -> Answer:
    """Take a list of events, all or none."""
    raw = await read_body(call.request)
    if is_too_deep(raw):
        raise InvalidRequest([Fault(("body",), "recursion", "is nested too deep")])
    events = decode_events(raw, call.engine.clock.now())
    # In pieces, so that others get their turn; who sends all again sends nothing twice.
    for start in range(0, len(events), BATCH):
        await call.engine.feeds.accept(events[start : start + BATCH])
    return 204, None


class Intake:
    """Events of one socket on their way to the journal: while one batch is written the next one
    gathers.
    """

    def __init__(self, feeds: Feeds) -> None:
        self.feeds = feeds
        self.pending: list[Event] = []
        self.error: Exception | None = None
        self._task: asyncio.Task[None] | None = None

    def put(self, event: Event) -> None:
        """Take an event."""
        self.pending.append(event)
        if self._task is None:
            self._task = asyncio.create_task(self._write())

    async def _write(self) -> None:
        try:
            while self.pending:
                batch, self.pending = self.pending[:BATCH], self.pending[BATCH:]
                await self.feeds.accept(batch)
        except Exception as error:  # noqa: BLE001 - whoever settles is told, and gives no pong
            self.error = error
        finally:
            self._task = None

    async def settle(self) -> None:
        """Return when everything taken is durable. Raises what kept it from being so."""
        while self._task is not None:
            # Whoever waits may give up; what was taken is written all the same.
            await asyncio.shield(self._task)
        if self.error is not None:
            raise self.error


async def take_events(request: web.Request, engine: Engine) -> web.StreamResponse:
    """One event a message, without answers. A ping is answered once all before it is durable:
    that is how a client knows what it need not send again.
    """
    socket = await sockets.open_socket(request, autoping=False)
    intake = Intake(engine.feeds)
    goodbye = asyncio.create_task(_say_goodbye(socket, engine.feeds))
    try:
        # A client without the subprotocol is one of old, which does not introduce itself.
        is_new = socket.ws_protocol == sockets.PROTOCOL
        let_in = sockets.shake_hands if is_new else sockets.admit
        await let_in(request, socket, engine, "events:emit")
        await _take(socket, intake, engine)
    except sockets.Closed:
        pass
    except InvalidRequest as error:
        fault = error.faults[0]
        where = ".".join(map(str, fault.where[1:]))
        reason = f"{where}: {fault.text}" if where else fault.text
        await sockets.close(socket, WSCloseCode.INVALID_TEXT, reason)
    except (IronflowError, TimeoutError) as error:
        await sockets.close(socket, WSCloseCode.TRY_AGAIN_LATER, str(error))
    except Exception:
        log.exception("events of a client could not be taken")
        await sockets.close(socket, WSCloseCode.INTERNAL_ERROR, "something went wrong here")
    finally:
        goodbye.cancel()
    return socket


async def _say_goodbye(socket: web.WebSocketResponse, feeds: Feeds) -> None:
    """When the server stops, send the client away; what it has sent is written first."""
    await feeds.closing.wait()
    await sockets.close(socket, WSCloseCode.GOING_AWAY, "the server is shutting down")


async def _take(socket: web.WebSocketResponse, intake: Intake, engine: Engine) -> None:
    try:
        async for message in socket:
            if message.type is WSMsgType.PING:
                await intake.settle()
                await socket.pong(message.data)
            elif message.type is WSMsgType.TEXT or message.type is WSMsgType.BINARY:
                data = message.data
                if is_too_deep(data if isinstance(data, bytes) else data.encode()):
                    raise InvalidRequest([Fault(("body",), "recursion", "is nested too deep")])
                intake.put(decode_event(data, engine.clock.now()))
                if len(intake.pending) > MOST_PENDING:
                    await intake.settle()
            if intake.error is not None:
                raise intake.error
    finally:
        await intake.settle()


# -- searching ------------------------------------------------------------------------------------


def _read_filter(value: Any, body: Any) -> EventFilter:
    faults: list[Fault] = []
    wanted = parse_event_filter({} if value is None else value, faults)
    if faults:
        raise InvalidRequest(faults, body)
    return wanted


async def read_events(call: Call[None, dict[str, Any]]) -> Answer:
    """The first page of a search."""
    body = call.body
    wanted = _read_filter(body.get("filter"), body)
    limit = PAGE if body.get("limit") is None else parse_integer(body["limit"])
    if limit is None or not 0 <= limit <= MOST:
        text = f"must be a whole number from 0 to {MOST}"
        kind = "int_parsing" if limit is None else "less_than_equal"
        raise InvalidRequest([Fault(("body", "limit"), kind, text, body["limit"])], body)
    await call.engine.feeds.ready()
    now, newest = call.engine.clock.now(), call.engine.feeds.events.last
    wanted = bounded(wanted, now)
    return 200, await _read_page(call, wanted, body.get("filter"), limit, newest, None)


async def read_next_events(call: Call[PageQuery, None]) -> Answer:
    """The page that a token stands for."""
    token = call.query.page_token
    try:
        padded = token + "=" * (-len(token) % 4)
        data = base64.b64decode(padded, altchars=b"-_", validate=True)
        position = msgspec.json.decode(data, type=Position)
        faults: list[Fault] = []
        wanted = parse_event_filter(position.filter or {}, faults)
    except (ValueError, binascii.Error, msgspec.MsgspecError, RecursionError) as error:
        raise Refusal(403, "Forbidden") from error
    if faults or not 1 <= position.limit <= MOST:
        raise Refusal(403, "Forbidden")
    wanted = wanted._replace(since=position.since, until=position.until)
    after = (position.at, position.seq)
    page = await _read_page(call, wanted, position.filter, position.limit, position.newest, after)
    return 200, page


async def _read_page(
    call: Call[Any, Any],
    wanted: EventFilter,
    asked: Any,
    limit: int,
    newest: int,
    after: tuple[int, int] | None,
) -> bytes:
    reader = call.engine.store.reader
    rows = await reader.select(*select_events(wanted, limit + 1, after=after, newest=newest))
    ((total,),) = await reader.select(*count_events(wanted, newest))
    page, next_page = rows[:limit], b"null"
    if len(rows) > limit > 0:
        _, at, seq = page[-1]
        since, until = wanted.since or 0, wanted.until or 0
        position = Position(asked, limit, newest, at, seq, since, until)
        token = base64.urlsafe_b64encode(msgspec.json.encode(position)).rstrip(b"=").decode()
        request = call.request
        place = f"{request.scheme}://{request.host}/api/events/filter/next?page-token={token}"
        next_page = msgspec.json.encode(place)
    events = ",".join(row[0] for row in page).encode()
    return b'{"events":[%s],"total":%d,"next_page":%s}' % (events, total, next_page)


# -- counting -------------------------------------------------------------------------------------


async def count_by(call: Call[None, dict[str, Any]]) -> Answer:
    """Events by name, by resource, or by spans of time."""
    body, countable = call.body, call.path["countable"]
    faults: list[Fault] = []
    if countable not in COUNTABLES:
        text = f"must be one of {', '.join(COUNTABLES)}"
        faults.append(Fault(("path", "countable"), "enum", text, countable))
    if "filter" not in body:
        faults.append(Fault(("body", "filter"), "missing", "Field required"))
    unit, interval = body.get("time_unit", "day"), body.get("time_interval", 1.0)
    if not isinstance(unit, str) or unit not in _UNITS:
        text = f"must be one of {', '.join(_UNITS)}"
        faults.append(Fault(("body", "time_unit"), "enum", text, unit))
    if (
        isinstance(interval, bool)
        or not isinstance(interval, int | float)
        or not LEAST_INTERVAL <= interval <= MOST_INTERVAL
    ):
        text = f"must be a number of at least {LEAST_INTERVAL}"
        faults.append(Fault(("body", "time_interval"), "greater_than_equal", text, interval))
    wanted = parse_event_filter(body.get("filter") or {}, faults)
    if faults:
        raise InvalidRequest(faults, body)
    wanted = bounded(wanted, call.engine.clock.now())
    if countable in ("event", "resource"):
        return 200, await _count_by_column(call.engine, wanted, countable)
    span = _UNITS[unit] * SECOND if countable == "day" else int(_UNITS[unit] * SECOND * interval)
    base = _MONDAY if unit == "week" else 0
    return 200, await _count_in_time(call.engine, wanted, span, base)


async def _count_by_column(engine: Engine, wanted: EventFilter, countable: str) -> object:
    column = "event" if countable == "event" else "resource_id"
    rows = await engine.store.reader.select(*count_events_by(wanted, column))
    return [
        {
            "value": value,
            "label": value,
            "count": count,
            "start_time": to_rfc3339(first),
            "end_time": to_rfc3339(last),
        }
        for value, count, first, last in rows
    ]


async def _count_in_time(engine: Engine, wanted: EventFilter, span: int, base: int) -> object:
    """Every span between the filter's ends, those without events too."""
    since, until = wanted.since or 0, wanted.until or 0
    start = base + (since - base) // span * span
    spans = max(0, (until - start) // span + 1)
    if spans > MOST_SPANS:
        raise Refusal(
            422,
            f"The given interval would make {spans} spans of time, and {MOST_SPANS} is the most: "
            "make the interval longer or the range shorter.",
        )
    rows = await engine.store.reader.select(*count_events_in_time(wanted, start, span))
    counts: dict[int, int] = dict(rows)
    return [
        {
            "value": str(number),
            "label": _label(start + number * span),
            "count": counts.get(number, 0),
            "start_time": to_rfc3339(start + number * span),
            "end_time": to_rfc3339(start + (number + 1) * span - 1),
        }
        for number in range(spans)
    ]


def _label(at: int) -> str:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at)).isoformat()


async def count_all(call: Call[None, None]) -> Answer:
    """The number of events that are kept."""
    ((total,),) = await call.engine.store.reader.select(*count_events(EventFilter()))
    return 200, total


# -- following ------------------------------------------------------------------------------------


class EventSource:
    """What one follower wants to see."""

    def __init__(self, engine: Engine, wanted: EventFilter) -> None:
        self.engine, self.wanted = engine, wanted
        self.live = engine.feeds.events

    def is_wanted(self, event: Event) -> bool:
        """Whether a live event is meant."""
        return self.wanted.matches(event)

    async def backfill(self, newest: int) -> AsyncIterator[list[bytes]]:
        """What there is already, oldest first."""
        wanted = self.wanted._replace(ascending=True)
        if wanted.since is None:
            wanted = bounded(wanted, self.engine.clock.now())._replace(until=wanted.until)
        after: tuple[int, int] | None = None
        while True:
            query = select_events(wanted, sockets.CHUNK, after=after, newest=newest)
            rows = await self.engine.store.reader.select(*query)
            yield [_frame(row[0]) for row in rows]
            if len(rows) < sockets.CHUNK:
                return
            after = rows[-1][1], rows[-1][2]

    async def catch_up(self, after: int) -> tuple[list[bytes], int]:
        """What was accepted behind `after`."""
        query = select_accepted(self.wanted, after, sockets.CHUNK)
        newest = self.live.last
        rows = await self.engine.store.reader.select(*query)
        cursor = rows[-1][2] if len(rows) == sockets.CHUNK else max(newest, after)
        return [_frame(row[0]) for row in rows if row[2] <= cursor], cursor


def _frame(body: str) -> bytes:
    return b'{"type":"event","event":%s}' % body.encode()


async def follow_events(request: web.Request, engine: Engine) -> web.StreamResponse:
    """Events as they come, after those that were there."""
    socket = await sockets.open_socket(request)
    try:
        await sockets.shake_hands(request, socket, engine, "events:subscribe")
        asked, backfill = await sockets.receive_filter(socket)
        faults: list[Fault] = []
        wanted = parse_event_filter(asked, faults, ("filter",))
        if faults:
            raise await sockets.refuse_filter(socket, faults[0])
        await engine.feeds.ready()
        await sockets.follow(request, socket, EventSource(engine, wanted), backfill)
    except sockets.Closed:
        pass
    return socket


ROUTES = (
    Route(method="POST", path="/events", handle=create_events),
    Route(method="POST", path="/events/filter", handle=read_events, body=dict, optional_body=True),
    Route(method="GET", path="/events/filter/next", handle=read_next_events, query=PageQuery),
    Route(method="POST", path="/events/count-by/{countable}", handle=count_by, body=dict),
    Route(method="GET", path="/events/count", handle=count_all),
)
