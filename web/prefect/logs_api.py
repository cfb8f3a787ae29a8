"""Log lines of the Prefect face: taken in lists, searched, downloaded, followed live."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

from aiohttp import web

from ironflow.actors.engine import Engine
from ironflow.core.clock import to_datetime
from ironflow.core.errors import NotFound
from ironflow.core.prefect.conditions import ALWAYS, Condition, Test, combine
from ironflow.core.prefect.faults import Fault
from ironflow.core.prefect.filters import BodyShape, Selection, parse_filter, parse_selection
from ironflow.core.prefect.logs import LogLine, decode_logs, is_wanted
from ironflow.core.prefect.resources import LOGS
from ironflow.storage.relational.prefect_events import LOG_COLUMNS
from ironflow.storage.relational.prefect_filters import select_rows
from ironflow.web.prefect import sockets
from ironflow.web.prefect.routing import Answer, Call, Route

SHAPE = BodyShape(LOGS, ("logs",))
DOWNLOAD_ROWS = 1000
BATCH = 1000
"""Lines that are kept together: with more, others would wait."""
CSV_COLUMNS = ("timestamp", "level", "flow_run_id", "task_run_id", "message")


async def create_logs(call: Call[None, bytes]) -> Answer:
    """Keep a list of lines, all or none."""
    engine = call.engine
    lines = decode_logs(call.body, engine.clock.now(), engine.ids.new)
    for start in range(0, len(lines), BATCH):
        await engine.feeds.store_logs(lines[start : start + BATCH])
    return 201, None


async def read_logs(call: Call[None, dict[str, Any]]) -> Answer:
    """A page of lines."""
    rows = await _select(call.engine, parse_selection(call.body, SHAPE))
    return 200, b"[%s]" % b",".join(line.body for line in rows)


async def _select(engine: Engine, selection: Selection) -> list[LogLine]:
    query = select_rows(selection, LOG_COLUMNS, engine.clock.now())
    return [LogLine(*row) for row in await engine.store.reader.select(*query)]


async def download_logs(call: Call[None, None]) -> web.StreamResponse:
    """Every line of a flow run, as CSV. Raises `NotFound`."""
    engine, run_id = call.engine, call.path["id"]
    query = "SELECT name FROM flow_runs WHERE id = ?"
    found = await engine.store.reader.select(query, (run_id,), quick=True)
    if not found:
        raise NotFound("flow run", run_id)
    file = quote(f"{found[0][0]}-logs.csv", safe="")
    disposition = f"attachment; filename=\"flow-run-logs.csv\"; filename*=UTF-8''{file}"
    response = web.StreamResponse(headers={"Content-Disposition": disposition})
    response.content_type, response.charset = "text/csv", "utf-8"
    await response.prepare(call.request)
    await response.write(_write_rows([CSV_COLUMNS]))
    async for lines in _read_all(engine, Test("flow_run_id", "in", (run_id,)), None):
        rows = [
            (
                to_datetime(ln.at).isoformat(" "),
                ln.level,
                ln.flow_run_id,
                ln.task_run_id,
                ln.message,
            )
            for ln in lines
        ]
        await response.write(_write_rows(rows))
    await response.write_eof()
    return response


def _write_rows(rows: list[Any]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode("utf-8", "replace")


async def _read_all(
    engine: Engine, condition: Condition, newest: int | None
) -> AsyncIterator[list[LogLine]]:
    """Every line, oldest first, up to `newest` in the order of acceptance."""
    bounds: list[Condition] = [] if newest is None else [Test("seq", "le", newest)]
    after: list[Condition] = []
    while True:
        where = combine([part for part in (condition, *bounds, *after) if part != ALWAYS])
        selection = Selection(LOGS, {"logs": where}, "TIMESTAMP_ASC", DOWNLOAD_ROWS)
        columns = f"{LOG_COLUMNS}, {{t}}.seq"
        query = select_rows(selection, columns, engine.clock.now())
        rows = await engine.store.reader.select(*query)
        yield [LogLine(*row[:-1]) for row in rows]
        if len(rows) < DOWNLOAD_ROWS:
            return
        after = [Test("({t}.at, {t}.seq)", "after", (rows[-1][4], rows[-1][-1]))]


# -- following ------------------------------------------------------------------------------------


class LogSource:
    """What one follower wants to see."""

    def __init__(self, engine: Engine, wanted: Condition) -> None:
        self.engine, self.wanted = engine, wanted
        self.live = engine.feeds.logs

    def is_wanted(self, line: LogLine) -> bool:
        """Whether a live line is meant."""
        return is_wanted(self.wanted, line)

    async def backfill(self, newest: int) -> AsyncIterator[list[bytes]]:
        """What there is already, oldest first."""
        async for lines in _read_all(self.engine, self.wanted, newest):
            yield [line.frame for line in lines]

    async def catch_up(self, after: int) -> tuple[list[bytes], int]:
        """What was accepted behind `after`."""
        newest = self.live.last
        where = combine([Test("seq", "gt", after), self.wanted])
        selection = Selection(LOGS, {"logs": where}, "ACCEPTED", sockets.CHUNK)
        columns = f"{LOG_COLUMNS}, {{t}}.seq"
        query = select_rows(selection, columns, self.engine.clock.now())
        rows = await self.engine.store.reader.select(*query)
        cursor = rows[-1][-1] if len(rows) == sockets.CHUNK else max(newest, after)
        return [LogLine(*row[:-1]).frame for row in rows if row[-1] <= cursor], cursor


async def follow_logs(request: web.Request, engine: Engine) -> web.StreamResponse:
    """Lines as they come, after those that were there."""
    socket = await sockets.open_socket(request)
    try:
        await sockets.shake_hands(request, socket, engine, "events:subscribe")
        asked, backfill = await sockets.receive_filter(socket)
        faults: list[Fault] = []
        wanted = parse_filter(asked, LOGS, faults, ("filter",))
        if faults:
            raise await sockets.refuse_filter(socket, faults[0])
        await engine.feeds.ready()
        await sockets.follow(request, socket, LogSource(engine, wanted), backfill)
    except sockets.Closed:
        pass
    return socket


ROUTES = (
    Route(method="POST", path="/logs/", handle=create_logs, body=bytes, fast=True),
    Route(
        method="POST",
        path="/logs/filter",
        handle=read_logs,
        body=dict,
        optional_body=True,
        fast=True,
    ),
    Route(method="GET", path="/flow_runs/{id}/logs/download", handle=download_logs),
)
