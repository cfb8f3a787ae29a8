"""The routes of the Prefect face as data, and how a request becomes a call and a value a response.

Paths are written as Prefect writes them, without the `/api` before them. A part `{id}` or
`{..._id}` is a UUID: anything else is not found. The other spelling of a trailing slash is a
redirect, which clients follow.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar, cast

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from ironflow.actors.engine import Engine
from ironflow.actors.prefect.doors import Ask
from ironflow.core.errors import Gone
from ironflow.core.prefect import commands
from ironflow.core.prefect.faults import (
    Fault,
    InvalidRequest,
    Refusal,
    parse_leniently,
)
from ironflow.core.prefect.scalars import parse_uuid
from ironflow.web.fast_path import FAST_PATH, Headers, Reply, Then
from ironflow.web.prefect.decoding import body_decoder, query_decoder
from ironflow.web.prefect.paths import PREFIX, explain_missing, is_ours
from ironflow.web.prefect.problems import respond, say, say_unexpected
from ironflow.web.whole import Whole, read_whole

Q = TypeVar("Q")
B = TypeVar("B")
T = TypeVar("T")

API_VERSION = "0.8.4"
"""The version of the API that this face speaks."""
OLDEST_API_VERSION = (0, 8, 0)
VERSION_HEADER = "X-PREFECT-API-VERSION"

Answer = tuple[int, object]
Result = Answer | web.StreamResponse
ENGINE = web.AppKey("prefect_engine", Engine)

_UUID = "[0-9a-fA-F]{8}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{12}"
_PART = re.compile(r"\{(\w+)\}")
_VERSION = re.compile(r"(\d{1,6})\.(\d{1,6})\.(\d{1,6})")
_encode = msgspec.json.Encoder().encode


class Call(Generic[Q, B]):
    """One request, decoded. `path` has UUIDs in their usual form; `raw` is the body as it came."""

    __slots__ = ("_request", "body", "engine", "path", "query", "raw")

    def __init__(
        self,
        request: web.Request | None,
        engine: Engine,
        path: dict[str, str],
        query: Q,
        body: B,
        raw: bytes,
    ) -> None:
        self._request, self.engine, self.path = request, engine, path
        self.query, self.body, self.raw = query, body, raw

    @property
    def request(self) -> web.Request:
        """The request as aiohttp has it, which the fast path does without."""
        assert self._request is not None, "its route is fast"
        return self._request

    def invalid(self, faults: Iterable[Fault]) -> InvalidRequest:
        """The refusal that shows the client its body beside what is wrong with it."""
        return InvalidRequest(list(faults), parse_leniently(self.raw))

    def decode_again(self, kind: type[T]) -> T:
        """The body as something else, all of it new. Raises `InvalidRequest`."""
        again: T = body_decoder(cast(Any, kind))(self.raw)
        return again


Handle = Callable[[Call[Any, Any]], Awaitable[Result]]


@dataclass(frozen=True, kw_only=True)
class Route:
    """One route: method, path, what its body and query are, and who handles it.

    `body` is a type that the JSON body is decoded to, bytes to leave that to the handler, None for
    a route that takes none; with `optional_body` an absent one is the type's default. `text` names
    path parts that end in `id` but are not UUIDs.
    """

    method: str
    path: str
    handle: Handle
    body: Any = None
    query: type[msgspec.Struct] | None = None
    optional_body: bool = False
    text: tuple[str, ...] = ()
    fast: bool = False
    """Its answer is JSON and takes no look at the request itself: it may be given on the fast
    path.
    """
    ask: Callable[[Call[Any, Any]], Ask | None] | None = None
    """Whom to ask what for a fast answer, where that is all there is to do; None: do as `handle`
    says.
    """

    @property
    def ids(self) -> tuple[str, ...]:
        """The path parts that are UUIDs."""
        names = _PART.findall(self.path)
        return tuple(n for n in names if (n == "id" or n.endswith("_id")) and n not in self.text)


def add_routes(app: web.Application, engine: Engine, routes: Iterable[Route]) -> None:
    """Serve the routes under `/api`."""
    app[ENGINE] = engine
    fast = app.get(FAST_PATH)
    for route in routes:
        endpoint = _Endpoint(route, engine)
        ids = route.ids
        pattern = _PART.sub(
            lambda found, ids=ids: (  # type: ignore[misc]
                f"{{{found[1]}:{_UUID}}}" if found[1] in ids else found[0]
            ),
            route.path,
        )
        app.router.add_route(route.method, PREFIX + pattern, endpoint.dispatch)
        if route.fast and fast is not None:
            direct = endpoint if route.ask is not None else None
            fast.add(route.method, PREFIX + route.path, endpoint.serve, direct)


class _Endpoint:
    """A route at work."""

    def __init__(self, route: Route, engine: Engine) -> None:
        self._route, self._engine = route, engine
        kind, self._takes_body = route.body, route.body is not None
        self._decode = (
            body_decoder(kind, optional=route.optional_body) if kind not in (None, bytes) else _keep
        )
        self._read_query = query_decoder(route.query) if route.query is not None else None

    async def dispatch(self, request: web.Request) -> web.StreamResponse:
        """Answer a request of aiohttp's."""
        try:
            _check_version(request.headers)
            path: dict[str, str] = dict(request.match_info)
            for name in self._route.ids:
                path[name] = parse_uuid(path[name]) or path[name]
            raw, body = b"", None
            if self._takes_body:
                raw = await read_whole(request)
                body = self._decode(raw)
            query = self._read_query(request.query) if self._read_query is not None else None
            result = await self._route.handle(Call(request, self._engine, path, query, body, raw))
        except Exception as error:  # noqa: BLE001 - the one place where errors become responses
            return self._refuse(error, request.path)
        if not isinstance(result, tuple):
            return result
        status, value = result
        if status == 204:
            return web.Response(status=204)
        return Whole(value if isinstance(value, bytes) else _encode(value), status)

    async def serve(self, headers: Headers, path: dict[str, str], raw: bytes) -> Reply:
        """Answer a plain request (see `web.fast_path`)."""
        try:
            _check_version(headers)
            body = self._decode(raw) if self._takes_body else None
            result = await self._route.handle(Call(None, self._engine, path, None, body, raw))
        except Exception as error:  # noqa: BLE001 - as above
            return self.refuse(error)
        assert isinstance(result, tuple)
        status, value = result
        return status, value if isinstance(value, bytes) else _encode(value)

    def ask(self, headers: Headers, path: dict[str, str], raw: bytes, then: Then) -> bool:
        """See `web.fast_path.Direct`."""
        assert self._route.ask is not None
        asked: Ask | None = None
        try:
            _check_version(headers)
            call = Call(None, self._engine, path, None, self._decode(raw), raw)
            asked = self._route.ask(call)
            if asked is None:
                return False
            told = partial(self._pass_on, then, asked.told)
            asked.ref.send(asked.message, told, trusted=False, at_once=True)
        except Exception as error:  # noqa: BLE001 - as above
            if asked is not None and asked.told is not None:
                asked.told(None)
            then(self.refuse(error))
        return True

    def _pass_on(
        self,
        then: Then,
        told: Callable[[commands.Reply | None], None] | None,
        reply: commands.Reply | None,
        error: Exception | None,
    ) -> None:
        if told is not None:
            told(reply)
        then(reply if reply is not None else self.refuse(error or Gone("there is no answer")))

    def refuse(self, error: Exception) -> Reply:
        """See `web.fast_path.Direct`."""
        return self._refuse(error, self._route.path)

    def _refuse(self, error: Exception, path: str) -> web.Response:
        response = respond(error)
        if response is None:
            if isinstance(error, web.HTTPException):
                raise error
            where = f"{self._route.method} {path}"
            response = say_unexpected(where, error, self._engine.ids.new())
        return response


def _keep(raw: bytes) -> Any:
    return raw


def _check_version(headers: Headers) -> None:
    version = headers.get(VERSION_HEADER)
    if version is not None and version != API_VERSION:
        check_version(version)


def make_middleware() -> Middleware:
    """Answers what no route of this face takes: the other spelling of a path, or nothing at all."""

    @web.middleware
    async def answer_unrouted(request: web.Request, handler: Handler) -> web.StreamResponse:
        refused = request.match_info.http_exception
        if refused is None or not is_ours(request.path):
            return await handler(request)
        if isinstance(refused, web.HTTPMethodNotAllowed):
            response = say(405, explain_missing(request.path) or "Method Not Allowed")
            response.headers["Allow"] = ", ".join(sorted(refused.allowed_methods))
            return response
        path = request.rel_url.raw_path
        other = path.removesuffix("/") if path.endswith("/") else f"{path}/"
        moved = request.rel_url.with_path(other, encoded=True)
        if request.query_string:
            moved = moved.with_query(request.rel_url.query)
        found = await request.app.router.resolve(request.clone(rel_url=moved))
        if found.http_exception is None or isinstance(
            found.http_exception, web.HTTPMethodNotAllowed
        ):
            # In full, because clients resolve a relative one against a base of their own.
            place = f"{request.scheme}://{request.host}{moved}"
            return web.Response(status=307, headers={"Location": place})
        return say(404, explain_missing(request.path) or "Not Found")

    return answer_unrouted


# -- parts of a request ---------------------------------------------------------------------------


def check_version(text: str) -> None:
    """Refuse clients that speak an API older than this face's. Raises `Refusal`."""
    found = _VERSION.fullmatch(text)
    if found is None:
        raise Refusal(
            400, f"{VERSION_HEADER} must be a version such as {API_VERSION}, not {text!r:.50}"
        )
    if tuple(map(int, found.groups())) < OLDEST_API_VERSION:
        oldest = ".".join(map(str, OLDEST_API_VERSION))
        raise Refusal(
            400, f"The request asks for API version {text}; this server speaks {oldest} or newer."
        )
