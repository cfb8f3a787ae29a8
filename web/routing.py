"""Routes as data: one table drives the dispatch and `/openapi.json`.

A handler gets a `Call` with everything decoded and answers `(status, view)`. Decoding, encoding and
what a route says about itself stand in its `Route`.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

import msgspec
from aiohttp import web

from ironflow.actors.engine import Engine
from ironflow.core.access.actions import requirement_of
from ironflow.core.clock import SECOND
from ironflow.core.errors import IronflowError
from ironflow.web.environments import Environments
from ironflow.web.fast_path import FAST_PATH, Headers, Reply, Serve
from ironflow.web.problems import explain_call, respond
from ironflow.web.queries import BodyDecoder, Query, QueryDecoder
from ironflow.web.readiness import JournalWatch
from ironflow.web.whole import Whole, read_whole
from ironflow.web.wire import View

Q = TypeVar("Q", bound=Query)
B = TypeVar("B")
Answer = tuple[int, View | Sequence[View] | None]

_encode = msgspec.json.Encoder().encode
_PLAIN = re.compile(r"[A-Za-z0-9_.=&-]+")
"""A query in which nothing is escaped."""


@dataclass(slots=True)
class State:
    """What handlers share. `started_at` in microseconds."""

    engine: Engine
    version: str
    started_at: int
    journal: JournalWatch
    environments: Environments | None = None
    """The others, where this is the application of the default one."""

    @property
    def uptime(self) -> float:
        """Seconds since the server started."""
        return (self.engine.clock.now() - self.started_at) / SECOND


STATE = web.AppKey("state", State)


class Call(Generic[Q, B]):
    """One request, decoded. `headers` go out with the answer, `sent_headers` came with the
    request.
    """

    __slots__ = ("_request", "body", "headers", "path", "query", "sent_headers", "state")

    def __init__(
        self,
        request: web.Request | None,
        state: State,
        query: Q,
        body: B,
        path: Mapping[str, str],
        sent_headers: Mapping[str, str],
    ) -> None:
        self._request, self.state, self.query, self.body = request, state, query, body
        self.path, self.sent_headers = path, sent_headers
        self.headers: dict[str, str] = {}

    @property
    def request(self) -> web.Request:
        """The request as aiohttp has it, which the fast path does without."""
        assert self._request is not None, "its route is fast"
        return self._request

    @property
    def engine(self) -> Engine:
        """Where writes and reads go."""
        return self.state.engine


Handle = Callable[[Call[Any, Any]], Awaitable[Answer]]


@dataclass(frozen=True, kw_only=True)
class Route:
    """One route: what dispatch and documentation need to know of it."""

    method: str
    path: str
    handle: Handle | None
    """None for a route that is served elsewhere and only described here."""
    summary: str
    tag: str
    statuses: Mapping[int, str]
    """What the statuses other than problems mean."""
    response: Any = None
    query: type[Query] = Query
    request: Any = None
    """The body, as documented."""
    decode_as: Any = None
    """The body, as decoded, where that differs."""
    optional_body: bool = False
    keyed: bool = False
    """Takes the `Idempotency-Key` header."""
    problems: tuple[int, ...] = ()
    """Statuses of refusals, beside those that every route of its shape has."""
    plain_refusals: bool = False
    """Refusals are `{"detail": reason}`, not problem documents."""
    content_type: str = "application/json"
    details: str = ""
    fast: bool = False
    """It always answers JSON, with no header but `Location`, and takes no look at the request
    itself: it may be answered on the fast path. Its path has one part that is not fixed.
    """
    name: str = field(default="")

    @property
    def refusals(self) -> list[int]:
        """Every status that comes with a problem, but for those of defects."""
        shape = {422} if self.handle is not None else set()
        if requirement_of(self.method, self.path) is not None:
            shape |= {401, 403}
        elif self.method != "GET":
            shape |= {403}
        if self.request is not None:
            shape |= {400, 413, 415}
        return sorted(shape.union(self.problems) - self.statuses.keys())

    @property
    def operation(self) -> str:
        """The operation's id."""
        return self.name or (self.handle.__name__ if self.handle is not None else "")


def add_routes(app: web.Application, routes: Iterable[Route], *, dev: bool = False) -> None:
    """Serve the routes that have a handler. `dev`: see `web.problems`."""
    fast, state = app.get(FAST_PATH), app[STATE]
    for route in routes:
        if route.handle is None:
            continue
        endpoint = _Endpoint(route, route.handle, state, dev=dev)
        app.router.add_route(route.method, route.path, endpoint.dispatch)
        if route.method == "GET":
            app.router.add_route("HEAD", route.path, endpoint.dispatch)
        if route.fast and fast is not None:
            fast.add_named(route.method, route.path, endpoint.serve, endpoint.bind)


class _Endpoint:
    """A route at work."""

    def __init__(self, route: Route, handle: Handle, state: State, *, dev: bool) -> None:
        self._route, self._handle, self._state, self._dev = route, handle, state, dev
        self._queries = QueryDecoder(route.query)
        kind = route.decode_as or route.request
        self._bodies: BodyDecoder | None = None
        if kind is not None:
            self._bodies = BodyDecoder(kind, optional=route.optional_body)

    async def dispatch(self, request: web.Request) -> web.StreamResponse:
        """Answer a request of aiohttp's."""
        query, bodies = self._queries.decode(request), self._bodies
        body = bodies.decode(await read_whole(request)) if bodies is not None else None
        call = Call(request, self._state, query, body, request.match_info, request.headers)
        status, view = await self._handle(call)
        if view is None:
            return web.Response(status=status, headers=call.headers)
        response = Whole(_encode(view), status)
        if call.headers:
            response.headers.update(call.headers)
        return response

    def bind(self, query: str) -> Serve | None:
        """What answers plain requests with this query (see `web.fast_path`)."""
        if not _PLAIN.fullmatch(query):
            return None
        try:
            decoded = self._queries.decode_text(query)
        except IronflowError:
            return None  # it is refused, with the reason
        return partial(self._serve, decoded)

    async def serve(self, headers: Headers, path: dict[str, str], raw: bytes) -> Reply:
        """Answer a plain request without a query."""
        return await self._serve(self._queries.default, headers, path, raw)

    async def _serve(
        self, query: Query, headers: Headers, path: dict[str, str], raw: bytes
    ) -> Reply:
        try:
            body = self._bodies.decode(raw) if self._bodies is not None else None
            call = Call(None, self._state, query, body, path, headers)
            status, view = await self._handle(call)
        except Exception as error:  # noqa: BLE001 - the one place where errors become responses
            where = f"{self._route.method} {self._route.path.format(**path)}"
            return respond(explain_call(where, error, self._state.engine.ids, dev=self._dev))
        data = b"" if view is None else _encode(view)
        return status, data, call.headers.get("Location", "")
