"""Errors of the Connect protocol: `{"code", "message", "details"}` with the protocol's codes."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from ironflow.core.clock import Ids
from ironflow.core.errors import InvalidInput, IronflowError, NotFound
from ironflow.web.problems import BEGUN, explain
from ironflow.web.wire import Problem

PREFIX = "/ironflow.v1."

STATUSES: dict[str, int] = {
    "canceled": 499,
    "unknown": 500,
    "invalid_argument": 400,
    "deadline_exceeded": 504,
    "not_found": 404,
    "already_exists": 409,
    "permission_denied": 403,
    "resource_exhausted": 429,
    "failed_precondition": 400,
    "aborted": 409,
    "out_of_range": 400,
    "unimplemented": 501,
    "internal": 500,
    "unavailable": 503,
    "data_loss": 500,
    "unauthenticated": 401,
}
"""The HTTP status of each code."""
_BY_CODE = {
    "idempotency_conflict": "already_exists",
    "stale_execution": "aborted",
    "storage_full": "resource_exhausted",
    "damaged": "data_loss",
}
_BY_STATUS = {
    400: "invalid_argument",
    401: "unauthenticated",
    403: "permission_denied",
    404: "not_found",
    409: "failed_precondition",
    413: "resource_exhausted",
    415: "invalid_argument",
    422: "invalid_argument",
    429: "resource_exhausted",
    500: "internal",
    501: "unimplemented",
    503: "unavailable",
    504: "deadline_exceeded",
    507: "resource_exhausted",
}


class Unimplemented(IronflowError):
    """This server does not do that."""

    code = "unimplemented"
    status = 501


class DeadlineExceeded(IronflowError):
    """The caller's deadline has passed; what was asked for may still happen."""

    code = "deadline_exceeded"
    status = 504


class Contended(IronflowError):
    """Somebody else was quicker; look again."""

    code = "aborted"
    status = 409
    reason = "contended"


def code_of(problem: Problem) -> str:
    """The protocol's word for a problem."""
    if problem.code in STATUSES:
        return problem.code
    return _BY_CODE.get(problem.code) or _BY_STATUS.get(problem.status, "unknown")


def envelope(error: Exception, problem: Problem) -> dict[str, Any]:
    """The error as JSON."""
    body: dict[str, Any] = {"code": code_of(problem), "message": problem.detail}
    match error:
        case NotFound():
            facts = {"resourceType": error.kind, "resourceId": error.key}
        case InvalidInput() if error.field:
            facts = {"resourceType": "field", "resourceId": error.field}
        case _:
            return body
    value = b"".join(
        _text_field(number, text) for number, text in enumerate(facts.values(), start=1)
    )
    encoded = base64.b64encode(value).decode().rstrip("=")
    body["details"] = [{"type": "ironflow.v1.ErrorInfo", "value": encoded, "debug": facts}]
    return body


def _text_field(number: int, text: str) -> bytes:
    """A string field in protobuf: an error must not need the library."""
    data = text.encode("utf-8", "backslashreplace")
    size, length = len(data), bytearray()
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    length.append(size)
    return bytes([number << 3 | 2]) + bytes(length) + data


def refuse(error: Exception, problem: Problem, headers: Mapping[str, str] = {}) -> web.Response:
    """The answer to a call that failed."""
    body = envelope(error, problem)
    more = dict(headers)
    if problem.retry_after is not None:
        more["Retry-After"] = str(max(1, math.ceil(problem.retry_after)))
    reason: str | None = getattr(error, "reason", None) if isinstance(error, Contended) else None
    if reason is not None:
        more["Ironflow-Error-Reason"] = reason
    return web.Response(
        body=msgspec.json.encode(_clean(body)),
        status=STATUSES[body["code"]],
        content_type="application/json",
        headers=more,
    )


def _clean(value: Any) -> Any:
    """Text from a request may hold what UTF-8 cannot."""
    match value:
        case str():
            return value.encode("utf-8", "backslashreplace").decode()
        case dict():
            return {key: _clean(item) for key, item in value.items()}
        case list():
            return [_clean(item) for item in value]
        case _:
            return value


def make_middleware(ids: Ids, *, dev: bool = False) -> Middleware:
    """Whatever goes wrong with a call of these services is said in their way."""

    @web.middleware
    async def answer_in_envelopes(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not request.path.startswith(PREFIX):
            return await handler(request)
        try:
            return await handler(request)
        except Exception as error:
            if request.get(BEGUN) or (isinstance(error, web.HTTPException) and error.status < 400):
                raise
            problem, headers = explain(request, error, ids, dev=dev)
            if isinstance(error, web.HTTPNotFound | web.HTTPMethodNotAllowed):
                problem = msgspec.structs.replace(problem, code="unimplemented")
            return refuse(error, problem, headers)

    return answer_in_envelopes
