"""How long a client may take over a request: a head must come within a time, and a body must keep
coming. Whoever holds a connection and says next to nothing would otherwise hold it for ever, and a
few hundred of them all that the process may have.

A request that comes in one piece, as nearly all do, sets no timer. A connection that is kept open
between requests is another matter, and aiohttp's own.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler

from ironflow.web.problems import NotHttp, clean, describe, respond

log = logging.getLogger("ironflow.web")

HEAD_SECONDS = 30.0
"""From the connection, or from the first byte of a later request, to the end of its head."""
BODY_SECONDS = 30.0
"""Between two looks at a body that is still coming."""
BODY_BYTES = 16 * 1024
"""What must have come of it meanwhile, unless that was its end."""
TIMED_OUT = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


RELIED_ON = (
    "_close", "_current_request", "_force_close", "_handler_waiter", "_keepalive_timeout", "_loop",
    "_manager", "_messages", "_next_keepalive_close_time", "_paused", "_reading_paused",
    "_request_count", "_request_in_progress", "_upgraded", "_waiter",
)  # fmt: skip
"""What is used here and in `web.fast_path` of aiohttp's connection without being promised."""
LONGEST_REASON = 200
"""Characters of what is said of a request that cannot be read; it may repeat parts of it."""


class PatientHandler(RequestHandler):
    """A connection whose client is waited for, but not for ever."""

    __slots__ = ("_came", "_deadline", "_due", "_payload")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The first request is due."""
        super().connection_made(transport)
        self._deadline: asyncio.TimerHandle | None = None
        self._payload: StreamReader | None = None
        self._came = 0
        self._await_head()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Nobody is waited for."""
        self._calm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Something came: the whole of a request, or a part of one."""
        before = self._request_count
        super().data_received(data)
        if self._request_count != before:
            self._calm()
            payload = self._messages[-1][1] if self._messages else None
            if payload is not None and not payload.is_eof():
                self._await_body(payload)
        elif self._deadline is None and self._current_request is None and not self._upgraded:
            self._await_head()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what is no request as any refusal is answered. The log need not know: it is the
        client's mistake.
        """
        if not isinstance(exc, HttpProcessingError) or request.writer.output_size:
            return super().handle_error(request, status, exc, message)
        first = clean((message or "").split("\n", 1)[0]) or "this is not HTTP"
        response = respond(describe(NotHttp(first[:LONGEST_REASON])))
        response.force_close()
        return response

    def _await_head(self) -> None:
        self._deadline = self._loop.call_later(HEAD_SECONDS, self._give_up)

    def _await_body(self, payload: StreamReader) -> None:
        self._payload, self._came = payload, payload.total_bytes
        self._deadline = self._loop.call_later(BODY_SECONDS, self._look)

    def _look(self) -> None:
        payload = self._payload
        self._deadline = None
        if payload is None or payload.is_eof():
            self._calm()
        elif payload.total_bytes - self._came < BODY_BYTES and not self._reading_paused:
            # It is not we who take no more.
            self._give_up()
        else:
            self._await_body(payload)

    def _calm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._payload = None

    def _give_up(self) -> None:
        self._calm()
        request, transport = self._current_request, self.transport
        if transport is None:
            return
        if request is None or request._payload_writer.output_size == 0:
            transport.write(TIMED_OUT)
            transport.close()
        else:
            transport.abort()


class PatientRunner(web.AppRunner):
    """Runs an application on connections of that kind; with an aiohttp that has no such
    connections any more, on its own.
    """

    __slots__ = ()

    def __init__(self, app: web.Application, **options: Any) -> None:
        """Compressed bodies are left as they are: see `web.bodies`."""
        super().__init__(app, auto_decompress=False, **options)

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        unknown = [name for name in RELIED_ON if not hasattr(RequestHandler, name)]
        if unknown:
            log.warning(
                "aiohttp %s has changed (%s): slow clients are not hung up on, and answers take"
                " longer", aiohttp.__version__, ", ".join(unknown),
            )  # fmt: skip
        else:
            self._set_kind(server)
        return server

    def _set_kind(self, server: web.Server) -> None:
        server.__class__ = _PatientServer


class _PatientServer(web.Server):
    """Makes the connections."""

    def __call__(self) -> RequestHandler:
        return PatientHandler(self, loop=self._loop, **self._kwargs)
