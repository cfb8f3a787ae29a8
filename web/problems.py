"""Errors on the wire: every refusal is `application/problem+json` (RFC 9457) with a stable `code`.

The middleware here is the only place where exceptions become responses. What nobody expected
becomes a 500 with an id that the log has beside the traceback; the traceback itself never leaves
the process.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable
from http import HTTPStatus

import msgspec
from aiohttp import HttpVersion10, web
from aiohttp.typedefs import Handler, Middleware

from ironflow.core.clock import Ids
from ironflow.core.errors import Gone, InvalidInput, IronflowError
from ironflow.web.wire import Problem

log = logging.getLogger("ironflow.web")

CONTENT_TYPE = "application/problem+json"
LATE = "the answer did not come in time; what was asked for may still happen"

_PATH = re.compile(r" - at `(key in )?(\$.*)`$", re.DOTALL)
_MISSING = re.compile(r"Object (?:missing required|contains unknown) field `(.+)`$", re.DOTALL)
_encode = msgspec.json.Encoder().encode
BEGUN = web.RequestKey("response_begun", bool)
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class Malformed(IronflowError):
    """The body is not JSON."""

    code = "malformed"
    status = 400


class CrossOrigin(IronflowError):
    """A web page of another site may not change anything here, nor follow anything."""

    code = "cross_origin"
    status = 403


def invalid_body(error: msgspec.ValidationError, field: str = "") -> InvalidInput:
    """A decoding error as the refusal that names the field; `field` is where the body stands."""
    text = str(error)
    reason = _PATH.sub("", text)
    found = _PATH.search(text)
    path = found.group(2).removeprefix("$").removeprefix(".") if found is not None else ""
    named = _MISSING.match(reason)
    parts = [field, path, named.group(1) if named is not None else ""]
    where = ".".join(part for part in parts if part).replace(".[", "[")
    return InvalidInput(where or "body", reason)


class NotHttp(IronflowError):
    """What came is not a request."""

    code = "bad_request"
    status = 400


def describe(error: IronflowError) -> Problem:
    """What the wire says of a refusal."""
    retry_after: float | None = getattr(error, "retry_after", None)
    field: str | None = getattr(error, "field", None)
    return Problem(
        title=_title(error.status),
        status=error.status,
        detail=clean(error.message),
        code=error.code,
        field=clean(field) if field else None,
        retry_after=retry_after,
        error=error.code if error.code.isupper() else None,
    )


def respond(problem: Problem, headers: dict[str, str] | None = None) -> web.Response:
    """A problem as a response, with `Retry-After` when trying again may help."""
    headers = dict(headers or {})
    if problem.retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(problem.retry_after)))
    return web.Response(
        body=_encode(problem), status=problem.status, content_type=CONTENT_TYPE, headers=headers
    )


def make_middleware(
    ids: Ids, *, dev: bool = False, exempt: Callable[[web.Request], bool] | None = None
) -> Middleware:
    """Turns exceptions into problems. With `dev` a 500 names the exception, not the traceback.
    `exempt`: requests whose origin somebody else has judged.
    """

    @web.middleware
    async def answer_problems(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            if request.version < HttpVersion10:
                raise NotHttp("a request names its version of HTTP, 1.0 or 1.1")
            if _can_reach_across(request) and not (exempt and exempt(request)):
                _check_origin(request)
            return await handler(request)
        except Exception as error:
            if request.get(BEGUN):
                raise  # half an answer is out: all that is left is to end the connection
            if isinstance(error, web.HTTPException) and error.status < 400:
                raise
            return respond(*explain(request, error, ids, dev=dev))

    return answer_problems


def explain(
    request: web.Request, error: Exception, ids: Ids, *, dev: bool
) -> tuple[Problem, dict[str, str]]:
    """What is said of any error, and headers that go with it; one that nobody expected is
    logged.
    """
    problem, headers = _translate(request, error)
    where = f"{request.method} {clean(request.path)}"
    return problem or unexpected(where, error, ids.new(), dev=dev), headers


def explain_call(where: str, error: Exception, ids: Ids, *, dev: bool) -> Problem:
    """The same of an error of what a request asked for at `where`, when it was read already."""
    return _translate_ours(error) or unexpected(clean(where), error, ids.new(), dev=dev)


async def note_prepared(request: web.Request, response: web.StreamResponse) -> None:
    """The response has begun (for the application's `on_response_prepare`)."""
    request[BEGUN] = True
    if request.content.exception() is not None:
        # The body is beyond reading, and so is what follows on the connection: without its end
        # aiohttp would try again, and log the client's mistake as ours.
        response.force_close()
        response.headers["Connection"] = "close"
        request.content.feed_eof()


def _can_reach_across(request: web.Request) -> bool:
    """Whether a browser would let a page of another site do harm with this: change something, or
    open a websocket, of which it may read all.
    """
    return request.method not in _SAFE_METHODS or "Upgrade" in request.headers


def _check_origin(request: web.Request) -> None:
    """Browsers say where a request comes from; the API has no keys: other sites are refused."""
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        allowed = site in ("same-origin", "none")
    else:
        origin = request.headers.get("Origin")
        allowed = origin is None or origin.partition("://")[2] == request.host
    if not allowed:
        raise CrossOrigin


def _translate(request: web.Request, error: Exception) -> tuple[Problem | None, dict[str, str]]:
    """What is said of an error, None for one that nobody expected; and headers that go with it."""
    match error:
        case web.HTTPException():
            return _describe_http(request, error)
        case web.RequestPayloadError() | ConnectionError():
            return describe(Malformed(f"the body could not be read: {error}")), {}
        case _:
            return _translate_ours(error), {}


def _translate_ours(error: Exception) -> Problem | None:
    match error:
        case IronflowError() if error.code != IronflowError.code:
            return describe(error)
        case TimeoutError():
            return describe(Gone(LATE))
        case _:
            return None


def _describe_http(
    request: web.Request, error: web.HTTPException
) -> tuple[Problem, dict[str, str]]:
    status, headers = error.status, dict[str, str]()
    detail, code = error.text or _title(status), _title(status).lower().replace(" ", "_")
    if isinstance(error, web.HTTPNotFound):
        detail, code = f"there is nothing at {request.path}; see /openapi.json", "not_found"
    elif isinstance(error, web.HTTPMethodNotAllowed):
        headers["Allow"] = allow = ", ".join(sorted(error.allowed_methods))
        detail = f"{request.method} is not allowed at {request.path}, only {allow}"
    elif isinstance(error, web.HTTPRequestEntityTooLarge):
        detail, code = f"the body is too large: {error.text}", "too_large"
    return Problem(title=_title(status), status=status, detail=clean(detail), code=code), headers


def unexpected(where: str, error: Exception, error_id: str, *, dev: bool = False) -> Problem:
    """What is said of an error that nobody expected, at `where`; the log has the rest."""
    log.error("error %s at %s", error_id, where, exc_info=error)
    detail = f"something went wrong here; the log has it under error {error_id}"
    if dev:
        detail += f": {type(error).__name__}: {error}"
    return Problem(title=_title(500), status=500, detail=clean(detail), code=IronflowError.code)


def _title(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"


def clean(text: str) -> str:
    """Text from a request may hold lone surrogates, which JSON in UTF-8 cannot."""
    return text.encode("utf-8", "backslashreplace").decode()
