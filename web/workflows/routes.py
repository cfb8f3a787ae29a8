"""The workflow paths: start, look, send, cancel. Decode, ask the engine's doors, encode."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from aiohttp import web

from ironflow.actors.engine import Engine
from ironflow.actors.workflows.doors import RUNNING
from ironflow.actors.workflows.handlers import HandlerRow
from ironflow.core.errors import Conflict, InvalidInput, NotFound
from ironflow.core.workflows.face import WorkflowFace
from ironflow.core.workflows.state import WorkflowState
from ironflow.web import whole
from ironflow.web.queries import check_text, decode_cursor, encode_cursor
from ironflow.web.routing import STATE
from ironflow.web.workflows import views
from ironflow.web.workflows.answers import Refusal, decode_body, read_body, reply, reply_text

STATUSES = {"running": RUNNING, "completed": ("completed",), "failed": ("failed",)}
STATUSES["cancelled"] = ("cancelled",)
RUN_STATUSES = frozenset(status for statuses in STATUSES.values() for status in statuses)
PAGE = 500
"""Handlers that are read from the database at once."""
MAX_LIMIT = 1000
CANCEL_SECONDS = 10.0
"""How long an answer to a cancel waits for the steps to be unwound."""


def engine_of(request: web.Request) -> Engine:
    """Where writes and reads go."""
    return request.app[STATE].engine


# -- workflows ------------------------------------------------------------------------------------


async def list_workflows(request: web.Request) -> web.Response:
    """The names of what is served."""
    return reply({"workflows": engine_of(request).workflows.names()})


def find_face(request: web.Request) -> tuple[str, WorkflowFace]:
    """The workflow that the path names. Raises `Refusal`."""
    name = request.match_info["name"]
    return name, face_of(engine_of(request), name)


def face_of(engine: Engine, name: str) -> WorkflowFace:
    """The workflow of a name. Raises `Refusal`."""
    try:
        return engine.workflows.face(name)
    except NotFound as error:
        raise Refusal(404, f"Workflow {name!r:.200} not found") from error


async def get_schema(request: web.Request) -> web.Response:
    """Schemas of the start and the stop event."""
    _, face = find_face(request)
    return reply({"start": face.start_schema(), "stop": face.stop_schema()})


async def get_event_schemas(request: web.Request) -> web.Response:
    """Schemas of every event that the workflow knows."""
    _, face = find_face(request)
    return reply({"events": face.event_schemas()})


async def get_graph(request: web.Request) -> web.Response:
    """What the debugger draws."""
    _, face = find_face(request)
    return reply({"graph": face.representation()})


# -- start ----------------------------------------------------------------------------------------


class Wanted:
    """A run that was asked for, checked."""

    __slots__ = ("data", "handler_id", "name", "state")

    def __init__(self, name: str, face: WorkflowFace, body: dict[str, Any]) -> None:
        self.name = name
        self.handler_id = _read_handler_id(body.get("handler_id"))
        self.state = _read_context(face, body.get("context"))
        self.data = face.read_start(_read_start(body))


def _read_start(body: dict[str, Any]) -> object:
    """What the start event is to be built from; an empty text says that there is none."""
    given = body.get("start_event", "")
    if given != "":
        return given
    kwargs = body.get("kwargs")
    if kwargs is None:
        return {}
    if not isinstance(kwargs, dict):
        raise InvalidInput("kwargs", "must be an object")
    return kwargs


def _read_handler_id(given: object) -> str | None:
    if given is None or given == "":
        return None
    if not isinstance(given, str):
        raise InvalidInput("handler_id", "must be text")
    return check_text(given, "handler_id")


def _read_context(face: WorkflowFace, given: object) -> WorkflowState | None:
    if given is None or given == {}:
        return None
    if not isinstance(given, dict):
        raise InvalidInput("context", "must be an object")
    return face.read_context(given)


async def run(request: web.Request) -> web.Response:
    """Start a run and answer with its end; a connection that is closed gives up the wait only."""
    name, engine = request.match_info["name"], engine_of(request)
    face_of(engine, name)  # before the body is read
    status, text = await run_to_end(engine, name, await whole.read_body(request))
    return reply_text(text, status)


async def run_to_end(engine: Engine, name: str, body: bytes) -> tuple[int, bytes]:
    """What `run` answers: status and JSON text. Raises `Refusal` and what the engine refuses."""
    wanted = Wanted(name, face_of(engine, name), decode_body(body))
    started, ended = await engine.workflows.start_and_wait(
        name, wanted.data, handler_id=wanted.handler_id, state=wanted.state
    )
    if ended is None:  # it was paused or purged meanwhile
        return await _describe(engine, await engine.workflows.handler(started.handler_id))
    row = views.row_of(ended, started.handler_id)
    result = await engine.load_payload(ended.result) if ended.result is not None else None
    return views.CODES[row.status], views.encode_handler(row, result)


async def run_nowait(request: web.Request) -> web.Response:
    """Start a run; it is stored when this answers."""
    name, engine = request.match_info["name"], engine_of(request)
    face_of(engine, name)  # before the body is read
    status, text = await begin_run(engine, name, await whole.read_body(request))
    return reply_text(text, status)


async def begin_run(engine: Engine, name: str, body: bytes) -> tuple[int, bytes]:
    """What `run_nowait` answers."""
    wanted = Wanted(name, face_of(engine, name), decode_body(body))
    workflows = engine.workflows
    started = await workflows.start(
        name, wanted.data, handler_id=wanted.handler_id, state=wanted.state
    )
    row = await workflows.handler(started.handler_id)
    return 200, views.encode_handler(row)


# -- handlers -------------------------------------------------------------------------------------


async def find_handler(request: web.Request) -> HandlerRow:
    """The handler that the path names. Raises `Refusal`."""
    handler_id = request.match_info["handler_id"]
    try:
        check_text(handler_id, "handler_id")
        return await engine_of(request).workflows.handler(handler_id)
    except (NotFound, InvalidInput) as error:
        raise Refusal(404, "Handler not found") from error


async def get_handler(request: web.Request) -> web.Response:
    """A run as it stands: 202 while it runs, 200 when it completed, 500 when it did not."""
    return await _answer_handler(request, await find_handler(request))


async def _answer_handler(request: web.Request, row: HandlerRow) -> web.Response:
    status, text = await _describe(engine_of(request), row)
    return reply_text(text, status)


async def _describe(engine: Engine, row: HandlerRow) -> tuple[int, bytes]:
    view = await engine.workflows.view(row)
    return views.CODES[views.wire_status(row.status)], views.encode_view(view)


async def get_result(request: web.Request) -> web.Response:
    """The same with the bare result: a plain stop event's payload, another one's fields."""
    row = await find_handler(request)
    view = await engine_of(request).workflows.view(row)
    result = views.unwrap(view.result) if view.result is not None else None
    return reply_text(views.encode_view(view, result), views.CODES[views.wire_status(row.status)])


async def list_handlers(request: web.Request) -> web.StreamResponse:
    """Handlers, newest first: all of them, or with `limit` a page and a cursor for the next.

    `handler_id`, several times, asks for those alone; `status` is what the clients of old know,
    `run_status` tells waiting runs from running ones; `include_results=false` leaves the results
    out.
    """
    query = request.query
    runs = _read_statuses(query.getall("status", ()), query.getall("run_status", ()))
    names = tuple(name for name in query.getall("workflow_name", ()) if name)
    for name in names:
        check_text(name, "workflow_name")
    limit = _read_limit(query.get("limit"))
    before = decode_cursor(query.get("cursor") or None)
    with_results = query.get("include_results", "true").lower() == "true"
    ids = tuple(text for text in query.getall("handler_id", ()) if text)
    if ids:
        rows = await _find_handlers(engine_of(request), ids, runs, names)
        found = [await _encode_row(request, row, with_results) for row in rows]
        return reply_text(b'{"handlers":[%s],"next_cursor":null}' % b",".join(found))
    if runs is not None and not runs:
        return reply({"handlers": [], "next_cursor": None})
    pages = _pages(engine_of(request), runs or (), names, before, limit)
    response = web.StreamResponse()
    response.content_type = "application/json"
    first, cursor = True, "null"
    async for rows, cursor in pages:  # noqa: B007 - the last one is written at the end
        parts = [await _encode_row(request, row, with_results) for row in rows]
        if first:
            await response.prepare(request)
            await response.write(b'{"handlers":[')
        if parts:
            await response.write((b"" if first else b",") + b",".join(parts))
        first = False
    await response.write(b'],"next_cursor":%s}' % cursor.encode())
    await response.write_eof()
    return response


def _read_statuses(statuses: Sequence[str], runs: Sequence[str]) -> tuple[str, ...] | None:
    """The statuses of runs that are asked for, None: any. Blank values are dropped, and unknown
    ones match nothing.
    """
    given = [text for text in statuses if text], [text for text in runs if text]
    if not any(given):
        return None
    wanted = [status for text in given[0] for status in STATUSES.get(text, ())]
    known = [text for text in given[1] if text in RUN_STATUSES]
    if not given[0]:
        return tuple(known)
    return tuple(status for status in wanted if status in known or not given[1])


async def _find_handlers(
    engine: Engine, ids: tuple[str, ...], statuses: tuple[str, ...] | None, names: tuple[str, ...]
) -> list[HandlerRow]:
    """The handlers of these names that there are and that the other filters let through."""
    if len(ids) > MAX_LIMIT:
        raise InvalidInput("handler_id", f"more than {MAX_LIMIT} of them at once")
    rows = []
    for handler_id in dict.fromkeys(ids):
        try:
            row = await engine.workflows.handler(check_text(handler_id, "handler_id"))
        except NotFound:
            continue
        if (statuses is None or row.status in statuses) and (not names or row.workflow in names):
            rows.append(row)
    return sorted(rows, key=lambda row: (row.created_at, row.id), reverse=True)


async def _pages(
    engine: Engine,
    statuses: tuple[str, ...],
    names: tuple[str, ...],
    before: tuple[int, str] | None,
    limit: int | None,
) -> AsyncIterator[tuple[list[HandlerRow], str]]:
    """Rows up to the limit, and the cursor behind them as JSON."""
    left = limit
    while True:
        size = PAGE if left is None else min(PAGE, left)
        rows = await engine.workflows.handlers(
            statuses=statuses, workflows=names, limit=size + 1, before=before
        )
        page, more = rows[:size], len(rows) > size
        if left is not None:
            left -= len(page)
        if page:
            before = (page[-1].created_at, page[-1].id)
        is_last = not more or left == 0
        cursor = f'"{encode_cursor(*before)}"' if is_last and more and before else "null"
        yield page, cursor
        if is_last:
            return


async def _encode_row(request: web.Request, row: HandlerRow, with_result: bool) -> bytes:
    if not with_result or not row.is_terminal:
        return views.encode_handler(row)
    return views.encode_view(await engine_of(request).workflows.view(row))


def _read_limit(text: str | None) -> int | None:
    if text is None or text == "":
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 6 and 1 <= int(text) <= MAX_LIMIT):
        raise InvalidInput("limit", f"{text!r:.40} is not a number from 1 to {MAX_LIMIT}")
    return int(text)


# -- steer ----------------------------------------------------------------------------------------


async def send_event(request: web.Request) -> web.Response:
    """Hand a run an event; it is stored when this answers."""
    body = await read_body(request)
    row = await find_handler(request)
    given = body.get("event")
    if not given:
        raise Refusal(400, "Event data is required")
    step = body.get("step")
    if step is not None and not isinstance(step, str):
        raise InvalidInput("step", "must be text")
    answers = _read_question(body.get("answers"))
    workflows = engine_of(request).workflows
    if row.is_terminal:
        raise Refusal(409, "Workflow already completed")
    try:
        face = workflows.face(row.workflow)
    except NotFound as error:
        raise Refusal(404, f"Workflow {row.workflow!r} not found") from error
    event = face.read_event(given)
    if step:
        face.check_step(step, event.type)
    try:
        await workflows.send(row.run_id, event.type, event.value, step or None, answers=answers)
    except Conflict as error:
        raise Refusal(409, "Workflow already completed") from error
    return reply({"status": "sent"})


def _read_question(given: object) -> int | None:
    if given is None:
        return None
    if not isinstance(given, int) or isinstance(given, bool) or not 0 <= given < 2**53:
        raise InvalidInput("answers", "must be the sequence of a question in the run's stream")
    return given


async def cancel(request: web.Request) -> web.Response:
    """End a run; with `purge` delete it and everything about it, also when it has ended."""
    row = await find_handler(request)
    engine = engine_of(request)
    if request.query.get("purge", "false").lower() == "true":
        await engine.workflows.purge(row)
        return reply({"status": "deleted"})
    if row.is_terminal:
        raise Refusal(404, f"Handler not found: {row.id} is not running, it is {row.status}")
    try:
        await engine.cancel(row.run_id, "cancelled by request")
    except Conflict as error:
        raise Refusal(404, f"Handler not found: {row.id} has just ended") from error
    await engine.wait(row.run_id, CANCEL_SECONDS)
    return reply({"status": "cancelled"})
