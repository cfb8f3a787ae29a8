"""Routes as data: one table drives the dispatch and `/openapi.json`.

A handler gets a `Call` with everything decoded and answers `(status, view)`. Decoding, encoding and
what a route says about itself stand in its `Route`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import msgspec
from aiohttp import web

from ironflow.actors.engine import Engine
from ironflow.core.actions import requirement_of
from ironflow.core.clock import SECOND
from ironflow.web.environments import Environments
from ironflow.web.queries import BodyDecoder, Query, QueryDecoder
from ironflow.web.readiness import JournalWatch
from ironflow.web.whole import Whole, read_whole
from ironflow.web.wire import View

Q = TypeVar("Q", bound=Query)
B = TypeVar("B")
Answer = tuple[int, View | Sequence[View] | None]

_encode = msgspec.json.Encoder().encode


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
    """One request, decoded. `headers` go out with the answer."""

    __slots__ = ("body", "headers", "path", "query", "request", "state")

    def __init__(self, request: web.Request, state: State, query: Q, body: B) -> None:
        self.request, self.state, self.query, self.body = request, state, query, body
        self.path: Mapping[str, str] = request.match_info
        self.headers: dict[str, str] = {}

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
            shape |= {400, 413}
        return sorted(shape.union(self.problems) - self.statuses.keys())

    @property
    def operation(self) -> str:
        """The operation's id."""
        return self.name or (self.handle.__name__ if self.handle is not None else "")


def add_routes(app: web.Application, routes: Iterable[Route]) -> None:
    """Serve the routes that have a handler."""
    for route in routes:
        if route.handle is not None:
            app.router.add_route(route.method, route.path, _dispatch(route, route.handle))
            if route.method == "GET":
                app.router.add_route("HEAD", route.path, _dispatch(route, route.handle))


def _dispatch(
    route: Route, handle: Handle
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    queries = QueryDecoder(route.query)
    kind = route.decode_as or route.request
    bodies = BodyDecoder(kind, optional=route.optional_body) if kind is not None else None

    async def dispatch(request: web.Request) -> web.StreamResponse:
        query = queries.decode(request)
        body = bodies.decode(await read_whole(request)) if bodies is not None else None
        call = Call(request, request.app[STATE], query, body)
        status, view = await handle(call)
        if view is None:
            return web.Response(status=status, headers=call.headers)
        response = Whole(_encode(view), status)
        if call.headers:
            response.headers.update(call.headers)
        return response

    return dispatch
