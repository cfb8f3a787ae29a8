"""Refusals as a Prefect client expects them: `{"detail": ...}`, or a list of faults in the body.

Whatever is raised under `/api` becomes one of these here. What may go well a moment later (a full
disk, a full mailbox, a server that is shutting down) is a 503 with `Retry-After`, because that is
what the client tries again.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from typing import Any

import msgspec
from aiohttp import web

from ironflow.core.errors import (
    Draining,
    Gone,
    InvalidInput,
    IronflowError,
    NotFound,
    Overloaded,
    StorageError,
    StorageFull,
)
from ironflow.core.prefect.faults import MESSAGE, Fault, InvalidRequest, Refusal, parse_path

log = logging.getLogger("ironflow.web.prefect")

RETRY_AFTER = 1.0
"""Seconds after which a client may try again, unless the refusal says otherwise."""
SERVER_DETAIL = "Internal Server Error"
UNCLEAR = "The request may or may not have had its effect; the answer did not come in time."

_encode = msgspec.json.Encoder().encode


def respond(error: Exception) -> web.Response | None:
    """The response to an error, None for one that nobody expected."""
    match error:
        case InvalidRequest():
            return _say_faults(error.faults, error.body)
        case InvalidInput():
            where = ("body", *parse_path(f".{error.field}"))
            return _say_faults([Fault(where, "value_error", error.reason)], None)
        case NotFound():
            return say(404, f"{error.kind[:1].upper()}{error.kind[1:]} not found")
        case Refusal():
            return say(error.status, error.detail, error.retry_after)
        case Overloaded() | Gone() | Draining() | StorageFull():
            retry_after: float = getattr(error, "retry_after", None) or RETRY_AFTER
            return say(503, error.message, retry_after)
        case StorageError() if error.status < 500:
            return say(503, error.message, RETRY_AFTER)
        case TimeoutError():
            return say(503, UNCLEAR, RETRY_AFTER)
        case IronflowError() if error.code != IronflowError.code:
            return say(error.status, error.message, getattr(error, "retry_after", None))
        case web.HTTPRequestEntityTooLarge():
            return say(413, f"The body is too large: {error.text}")
        case web.RequestPayloadError() | ConnectionError():
            return say(400, f"The body could not be read: {error}")
        case _:
            return None


def say(status: int, detail: object, retry_after: float | None = None) -> web.Response:
    """A refusal with its reason; `retry_after` in seconds."""
    headers = {} if retry_after is None else {"Retry-After": str(max(1, math.ceil(retry_after)))}
    body = _encode({"detail": _clean(detail) if isinstance(detail, str) else detail})
    return web.Response(body=body, status=status, content_type="application/json", headers=headers)


def say_unexpected(where: str, error: Exception, error_id: str) -> web.Response:
    """A defect of ours: the log has the traceback, the client an id to ask about."""
    log.error("error %s at %s", error_id, _clean(where), exc_info=error)
    return say(500, f"{SERVER_DETAIL}; the log has it under error {error_id}")


def _say_faults(faults: Iterable[Fault], body: Any) -> web.Response:
    try:
        encoded = _encode_faults(faults, body)
    except (UnicodeEncodeError, RecursionError):
        # Text of a query may hold what UTF-8 cannot.
        cleaned = (
            Fault(tuple(_clean(str(part)) for part in fault.where), fault.kind, _clean(fault.text))
            for fault in faults
        )
        encoded = _encode_faults(cleaned, None)
    return web.Response(body=encoded, status=422, content_type="application/json")


def _encode_faults(faults: Iterable[Fault], body: Any) -> bytes:
    listed = [
        {"type": kind, "loc": where, "msg": text, "input": value}
        for where, kind, text, value in faults
    ]
    return _encode({"exception_message": MESSAGE, "exception_detail": listed, "request_body": body})


def _clean(text: str) -> str:
    """Text from a request may hold lone surrogates, which JSON in UTF-8 cannot."""
    return text.encode("utf-8", "backslashreplace").decode()
