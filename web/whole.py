"""Whole requests and answers: bodies that are all there, read and written in one piece.

Most are a few hundred bytes of JSON. aiohttp reads a body as a stream and puts the head of a
response together from parts that may each be anything; here a head is five lines of text.
"""

from __future__ import annotations

from functools import lru_cache
from http import HTTPStatus

from aiohttp import HttpVersion11, hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http import SERVER_SOFTWARE

from ironflow.web.bodies import is_packed, unpack

JSON = "application/json"
LONG = 64 * 1024
"""Bytes of a body that is not copied behind its head."""

_PHRASES = {status.value: status.phrase for status in HTTPStatus}


class Whole(web.Response):
    """A response that is all there: `body` and its `content_type`.

    On the wire it is what `web.Response` would be (tests/api/test_whole.py compares them, because
    what is skipped here has names with an underscore). Where more is asked for than a body over
    HTTP/1.1 on a connection that stays open, be it a header that somebody has added, it leaves
    everything to `web.Response`.
    """

    def __init__(self, body: bytes, status: int = 200, content_type: str = JSON) -> None:
        super().__init__(body=body, status=status, content_type=content_type)
        self._whole = body

    async def _start(self, request: web.BaseRequest) -> AbstractStreamWriter:
        if (
            request.version != HttpVersion11
            or not request.keep_alive
            or request.method == hdrs.METH_HEAD
            or self._body is not self._whole
        ):
            return await super()._start(request)
        self._req = request
        writer = self._payload_writer = request._payload_writer
        await request._prepare_hook(self)
        body, headers = self._whole, self._headers
        if len(headers) != 1 or self._cookies or self._compression or self._keep_alive is False:
            headers[hdrs.CONTENT_LENGTH] = str(len(body))
            await self._prepare_headers()
            await self._write_headers()
            return writer
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has hung up")
        head = _encode_head(self._status, headers[hdrs.CONTENT_TYPE], len(body))
        if len(body) < LONG:
            transport.write(head + body)
        else:
            # Not `writelines`: up to Python 3.12.8 and 3.13.1 asyncio's pauses nobody.
            transport.write(head)
            transport.write(body)
        self._keep_alive = self._eof_sent = True
        self._body_length = len(head) + len(body)
        self._req = self._payload_writer = None
        # A client that asks and does not read is waited for.
        await writer.drain()
        return writer


@lru_cache(64)
def _around(status: int, content_type: str, date: str) -> tuple[bytes, bytes]:
    """A head before and behind its length. Within a second nearly all are the same."""
    before = f"HTTP/1.1 {status} {_PHRASES[status]}\r\nContent-Type: {content_type}\r\n"
    behind = f"\r\nDate: {date}\r\nServer: {SERVER_SOFTWARE}\r\n\r\n"
    return f"{before}Content-Length: ".encode(), behind.encode()


def _encode_head(status: int, content_type: str, length: int) -> bytes:
    before, behind = _around(status, content_type, rfc822_formatted_time())
    return b"%b%d%b" % (before, length, behind)


def encode_answer(status: int, body: bytes, location: str = "") -> bytes:
    """What `Whole` writes on a connection that stays open. `location`: a path of ours."""
    before, behind = _around(status, JSON, rfc822_formatted_time())
    if location:
        return b"%b%d\r\nLocation: %b%b%b" % (
            before, len(body), location.encode("ascii"), behind, body,
        )  # fmt: skip
    return b"%b%d%b%b" % (before, len(body), behind, body)


def encode_response(response: web.Response) -> bytes:
    """The same of a response with headers of its own, whose body is bytes that are all there."""
    body = response.body
    assert isinstance(body, bytes)
    lines = [f"HTTP/1.1 {response.status} {_PHRASES[response.status]}"]
    lines += [f"{name}: {value}" for name, value in response.headers.items()]
    lines += [f"Content-Length: {len(body)}"]
    lines += [f"Date: {rfc822_formatted_time()}", f"Server: {SERVER_SOFTWARE}", "", ""]
    return "\r\n".join(lines).encode() + body


READ = web.RequestKey("read_before", bytes)
"""The body of a request that was looked at before it was handled."""


async def read_ahead(request: web.Request) -> bytes:
    """The body of a request that is still to be handled. Raises `HTTPRequestEntityTooLarge`."""
    body = request[READ] = await read_body(request)
    return body


async def read_body(request: web.Request) -> bytes:
    """The body of a request, unpacked. Raises `HTTPRequestEntityTooLarge`, and what
    `bodies.unpack` does."""
    if READ in request:
        return request[READ]
    body = await request.read()
    return await unpack(request, body) if is_packed(request) else body


async def read_whole(request: web.Request) -> bytes:
    """The same, and quicker for one that is all there."""
    content = request.content
    if READ in request or not content.is_eof() or is_packed(request):
        return await read_body(request)
    body = content.read_nowait()
    if 0 < request.client_max_size < len(body):
        raise web.HTTPRequestEntityTooLarge(request.client_max_size)
    return body
