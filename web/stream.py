"""Live streams of the journal as server-sent events, resumable and without loss.

`GET /api/v1/stream` follows everything, `GET /api/v1/runs/{run_id}/stream` one run to its end. Each
frame's id is the entry's sequence number; a client that comes back with it (`Last-Event-ID`, or
`?after=`) goes on right behind it. Lines of comment keep idle connections alive. When the server
stops, a `shutdown` event asks clients to connect again.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import msgspec
from aiohttp import web

from ironflow.actors.engine import Engine
from ironflow.core.errors import InvalidInput, NotFound
from ironflow.core.expressions.patterns import compile_pattern
from ironflow.core.runs.state import TERMINAL
from ironflow.web.feed import Bell, Feed, Selection
from ironflow.web.queries import Query, QueryDecoder, check_run_id
from ironflow.web.tails import RunTail, Tail

HEARTBEAT = 15.0
"""Seconds without a frame after which a comment is sent."""
RECONNECT = 1000
"""Milliseconds that a client should wait before it connects again."""
GOODBYE = b"retry: %d\nevent: shutdown\ndata: {}\n\n" % RECONNECT
MAX_KINDS = 32
LIVE = web.RequestKey("live", bool)
"""On requests that are answered by a live stream: how long they take says nothing."""
_ENDINGS = frozenset(f"run.{status.value}" for status in TERMINAL)
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class StreamQuery(Query, frozen=True):
    """What of the journal is streamed, and from where: default from now on.

    `kind` takes patterns such as `run.*`, `stream` the beginning of a stream's name.
    """

    after: int | None = None
    kind: tuple[str, ...] = ()
    function_id: str | None = None
    stream: str = ""


class RunStreamQuery(Query, frozen=True):
    """From where one run is streamed (default from its beginning), and whether beyond its end."""

    after: int | None = None
    follow: bool = False


@dataclass(frozen=True, slots=True)
class Streams:
    """What the two routes share."""

    engine: Engine
    feed: Feed
    heartbeat: float


STREAMS = web.AppKey("streams", Streams)
_stream_query = QueryDecoder(StreamQuery)
_run_query = QueryDecoder(RunStreamQuery)


def add_stream_routes(
    app: web.Application,
    engine: Engine,
    *,
    heartbeat: float = HEARTBEAT,
    feed: Feed | None = None,
) -> None:
    """Serve the live streams; they end when the application shuts down. `heartbeat` in seconds."""
    if feed is None:
        feed = Feed(engine.store.journal, engine.store.reader)
    app[STREAMS] = Streams(engine, feed, heartbeat)
    app.router.add_get("/api/v1/stream", stream_entries, allow_head=False)
    app.router.add_get("/api/v1/runs/{run_id}/stream", stream_run, allow_head=False)
    app.on_shutdown.append(_close)


async def _close(app: web.Application) -> None:
    await app[STREAMS].feed.close()


async def stream_entries(request: web.Request) -> web.StreamResponse:
    """Every entry of the journal that is selected."""
    streams = request.app[STREAMS]
    feed, query = streams.feed, _stream_query.decode(request)
    assert isinstance(query, StreamQuery)
    if len(query.kind) > MAX_KINDS:
        raise InvalidInput("kind", f"more than {MAX_KINDS} patterns")
    for text in query.kind:
        compile_pattern(text, "kind")
    selection = Selection(query.kind, query.function_id, query.stream)
    bell, response = Bell(streams.heartbeat), _make_response()
    try:
        feed.attach(bell)
        after = _resume_after(request, query.after, feed.journal.last_seq)
        tail = Tail(feed, selection, feed.journal.last_seq if after is None else after)
        # The id alone: a client that loses the connection before the first frame misses nothing.
        await _begin(request, response, b"id: %d\n" % tail.cursor)
        while not feed.is_closed:
            data = await tail.read()
            if data is None:
                if bell.is_silent:
                    # With the id, so that a client of a rare kind does not begin far behind again.
                    data = b": heartbeat\nid: %d\n\n" % tail.cursor
                else:
                    feed.expect_news(bell)
                    await bell.wait()
                    continue
            await _write(response, bell, data, tail)
        await response.write(GOODBYE)
    except ConnectionResetError:
        return response  # nobody is there to read it
    finally:
        feed.detach(bell)
    return response


async def stream_run(request: web.Request) -> web.StreamResponse:
    """Every entry of one run. Raises `NotFound`."""
    streams = request.app[STREAMS]
    feed, query = streams.feed, _run_query.decode(request)
    assert isinstance(query, RunStreamQuery)
    run_id = check_run_id(request.match_info["run_id"])
    stream, bell, response = f"run/{run_id}", Bell(streams.heartbeat), _make_response()
    try:
        # First the bell, then what is stored: an entry is in one of them at least.
        feed.attach(bell, stream)
        row = await feed.reader.run(run_id)
        if row is None:
            raise NotFound("run", run_id)
        after = _resume_after(request, query.after, feed.journal.last_seq) or 0
        version = await _find_version(feed, stream, row.version, after) if after else 0
        tail = RunTail(feed, bell, stream, version, after)
        await _begin(request, response)
        while not feed.is_closed:
            data = await tail.read()
            if data is None:
                last_kind = tail.last_kind
                if row.kind == "flow" and last_kind is not None:
                    # Its entries do not say it: the row tells whether the last move was an end.
                    row, last_kind = await feed.reader.run(run_id) or row, None
                has_ended = last_kind in _ENDINGS or (
                    last_kind is None and row.ended_at is not None
                )
                if has_ended and not query.follow:
                    await response.write(_say_end(run_id, last_kind, row.status))
                    break
                if bell.is_silent:
                    data = b": heartbeat\n\n"
                else:
                    await bell.wait()
                    continue
            await _write(response, bell, data, tail)
        else:
            await response.write(GOODBYE)
    except ConnectionResetError:
        return response  # nobody is there to read it
    finally:
        feed.detach(bell, stream)
    return response


def _make_response() -> web.StreamResponse:
    response = web.StreamResponse(headers=_HEADERS)
    response.content_type = "text/event-stream"
    response.charset = "utf-8"
    return response


async def _begin(request: web.Request, response: web.StreamResponse, first: bytes = b"") -> None:
    request[LIVE] = True
    await response.prepare(request)
    await response.write(b"%sretry: %d\n\n" % (first, RECONNECT))


async def _write(
    response: web.StreamResponse, bell: Bell, data: bytes, tail: Tail | RunTail
) -> None:
    """Write, waiting as long as the client takes to read what it has been sent."""
    if data:
        await response.write(data)
        bell.touch()
    # A reader that catches up may find everything in memory and its socket ready: others get their
    # turn. One that has all waits anyway; a turn more is a tenth of what a frame costs it.
    if not tail.is_level:
        await asyncio.sleep(0)


def _resume_after(request: web.Request, after: int | None, newest: int) -> int | None:
    """The seq to go on behind. The header wins: a browser repeats the first address with it."""
    field, value = "after", after
    header = request.headers.get("Last-Event-ID")
    if header is not None:
        field = "Last-Event-ID"
        if not (header.isascii() and header.isdigit() and len(header) <= 18):
            raise InvalidInput(field, f"{header!r:.40} is not a sequence number of the journal")
        value = int(header)
    if value is None:
        return None
    if value < 0:
        raise InvalidInput(field, "must not be negative")
    if value > newest:
        raise InvalidInput(field, f"{value} is beyond the newest entry of the journal, {newest}")
    return value


async def _find_version(feed: Feed, stream: str, high: int, after: int) -> int:
    """A version whose entry, with all before it, has seq <= `after`; by halving, not by reading."""
    low = 0
    while low < high:
        middle = (low + high + 1) // 2
        entry = await feed.reader.entry(stream, middle)
        if entry is not None and entry.seq <= after:
            low = middle
        else:
            high = middle - 1
    return low


def _say_end(run_id: str, last_kind: str | None, status: str) -> bytes:
    if last_kind is not None:
        status = last_kind.removeprefix("run.")
    body = msgspec.json.encode({"run_id": run_id, "status": status})
    return b"event: end\ndata: %s\n\n" % body
