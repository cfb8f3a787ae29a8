"""How the workflow paths answer: plain JSON bodies, and refusals as `{"detail": reason}`.

The clients of these paths know no problem documents, and take a 422 for a stored result that cannot
be read; what a caller does wrong is 400 here.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web

from ironflow.core.errors import InvalidInput, IronflowError
from ironflow.core.values.codec import TEXT_DEPTH
from ironflow.core.values.json_text import is_too_deep
from ironflow.web import whole
from ironflow.web.problems import LATE, clean

Handle = Callable[[web.Request], Awaitable[web.StreamResponse]]

_encode = msgspec.json.Encoder().encode


def reply(body: object, status: int = 200) -> web.Response:
    """A JSON answer."""
    return reply_text(_encode(body), status)


def reply_text(body: bytes, status: int = 200) -> web.Response:
    """An answer that is JSON text already."""
    return web.Response(body=body, status=status, content_type="application/json")


def refuse(status: int, detail: str) -> web.Response:
    """A refusal."""
    return reply({"detail": clean(detail)}, status)


class Refusal(Exception):
    """Ends a request with this status and reason."""

    def __init__(self, status: int, detail: str) -> None:
        self.status, self.detail = status, detail
        super().__init__(detail)


def answering(handle: Handle) -> Handle:
    """The handler with refusals turned into answers."""

    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            return await handle(request)
        except Exception as error:
            response = refusal_of(error)
            if response is None:
                raise
            return response

    return answer


def refusal_of(error: Exception) -> web.Response | None:
    """What is answered to what went wrong; None when nobody expected it, and the log has the
    rest.
    """
    match error:
        case Refusal():
            return refuse(error.status, error.detail)
        case InvalidInput():
            return refuse(400, error.message)
        case web.HTTPRequestEntityTooLarge():
            return refuse(413, f"the body is too large: {error.text}")
        case web.RequestPayloadError() | ConnectionError():
            return refuse(400, f"the body could not be read: {error}")
        case IronflowError() if error.code != IronflowError.code:
            response = refuse(error.status, error.message)
            again: float | None = getattr(error, "retry_after", None)
            if again is not None:
                response.headers["Retry-After"] = str(max(1, math.ceil(again)))
            return response
        case TimeoutError():
            return refuse(503, LATE)
        case _:
            return None


async def read_body(request: web.Request) -> dict[str, Any]:
    """The body, an object. Raises `Refusal`."""
    return decode_body(await whole.read_body(request))


def decode_body(data: bytes) -> dict[str, Any]:
    """The same of its bytes."""
    if is_too_deep(data, TEXT_DEPTH):
        raise Refusal(400, f"Invalid JSON body: it is nested deeper than {TEXT_DEPTH} levels")
    try:
        body = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refusal(400, f"Invalid JSON body: {error}") from error
    if not isinstance(body, dict):
        raise Refusal(400, "Invalid JSON body: expected an object")
    return body
