"""Remote procedures of the Connect protocol (`POST /ironflow.v1.<Service>/<Method>`), JSON codec.

Names of fields are taken in lowerCamelCase and in snake_case; unknown ones are passed over. Answers
are in lowerCamelCase, errors `{"code", "message"}` with the protocol's codes.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
from aiohttp import web

from ironflow.core.errors import InvalidInput, IronflowError
from ironflow.web.problems import Malformed, invalid_body
from ironflow.web.routing import STATE, State

Method = Callable[[State, Any], Awaitable[Mapping[str, Any]]]

CODES: dict[int, str] = {
    400: "invalid_argument",
    401: "unauthenticated",
    403: "permission_denied",
    404: "not_found",
    409: "aborted",
    413: "resource_exhausted",
    422: "invalid_argument",
    429: "resource_exhausted",
    503: "unavailable",
    507: "resource_exhausted",
}
STATUSES: dict[str, int] = {
    "invalid_argument": 400,
    "unauthenticated": 401,
    "permission_denied": 403,
    "not_found": 404,
    "aborted": 409,
    "already_exists": 409,
    "failed_precondition": 400,
    "resource_exhausted": 429,
    "unavailable": 503,
    "unimplemented": 501,
    "internal": 500,
}
OPAQUE = frozenset({"data", "input", "output", "metadata", "labels", "dataValue", "weights"})
"""Fields with a user's own JSON, whose keys are not ours to rename."""

_SNAKE = re.compile(r"_([a-z0-9])")


def camel(value: Any) -> Any:
    """A message with the names of its fields in lowerCamelCase."""
    if isinstance(value, dict):
        renamed = {_SNAKE.sub(lambda found: found[1].upper(), key): v for key, v in value.items()}
        return {key: v if key in OPAQUE else camel(v) for key, v in renamed.items()}
    if isinstance(value, list):
        return [camel(item) for item in value]
    return value


def add_method(app: web.Application, service: str, name: str, kind: Any, method: Method) -> None:
    """Serve one unary method; `kind` is the struct that its request is decoded into."""

    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            content_type = request.content_type
            if content_type != "application/json":
                return fail("unimplemented", f"the codec {content_type} is not spoken here", 415)
            message = _decode(await request.read(), kind)
            answer = await method(request.app[STATE], message)
        except IronflowError as error:
            if error.code in STATUSES:
                return fail(error.code, error.message)
            return fail(CODES.get(error.status, "internal"), error.message)
        return web.Response(body=msgspec.json.encode(answer), content_type="application/json")

    app.router.add_post(f"/ironflow.v1.{service}/{name}", handle)


def fail(code: str, message: str, status: int | None = None) -> web.Response:
    """An error of the protocol."""
    body = msgspec.json.encode({"code": code, "message": message})
    return web.Response(body=body, status=status or STATUSES[code], content_type="application/json")


def _decode(data: bytes, kind: Any) -> Any:
    try:
        value = msgspec.json.decode(data or b"{}")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"the body is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidInput("body", "must be a JSON object")
    try:
        return msgspec.convert(camel(value), kind)
    except msgspec.ValidationError as error:
        raise invalid_body(error) from error
