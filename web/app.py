"""The HTTP application: middlewares, the native API, live streams, metrics, and its description.

Nothing here logs requests; `/metrics` counts them. The server runs it with
`handler_cancellation=True`, so that a connection that is dropped frees whatever its request waits
for.
"""

from __future__ import annotations

from functools import cache

import msgspec
from aiohttp import web, web_app

from ironflow.actors.engine import Engine
from ironflow.web import (
    apikeys_api,
    audit_api,
    breakers_api,
    directory_api,
    endpoints_api,
    events_api,
    functions_api,
    intakes_api,
    keys_api,
    lanes_api,
    roles_api,
    runs_api,
    server_api,
    workers_api,
)
from ironflow.web.access import Gate, make_access_middleware
from ironflow.web.connect.face import add_connect_face
from ironflow.web.connect.refusals import make_middleware as make_connect_middleware
from ironflow.web.environments import PLACE, Environments, Opener
from ironflow.web.fast_path import FAST_PATH, FastPath
from ironflow.web.limits import HeldLimits
from ironflow.web.metrics import Metrics
from ironflow.web.openapi import describe_api
from ironflow.web.prefect.face import add_prefect_face
from ironflow.web.prefect.routing import make_middleware as make_prefect_middleware
from ironflow.web.problems import make_middleware, note_prepared
from ironflow.web.readiness import JournalWatch
from ironflow.web.routing import STATE, Route, State, add_routes
from ironflow.web.stream import RunStreamQuery, StreamQuery, add_stream_routes
from ironflow.web.wire.workers import AnswersView, ReportsRequest
from ironflow.web.workflows import described
from ironflow.web.workflows.face import add_workflow_routes
from ironflow.web.workflows.origins import Origins

BODY_LIMIT = 16 * 1024 * 1024
"""Bytes of a request body."""

ELSEWHERE = (
    Route(
        method="GET",
        path="/api/v1/stream",
        handle=None,
        name="stream_entries",
        summary="Follow the journal (server-sent events)",
        tag="streams",
        query=StreamQuery,
        content_type="text/event-stream",
        statuses={200: "Entries as they are committed"},
        problems=(422, 503),
    ),
    Route(
        method="GET",
        path="/api/v1/runs/{run_id}/stream",
        handle=None,
        name="stream_run",
        summary="Follow one run (server-sent events)",
        tag="streams",
        query=RunStreamQuery,
        content_type="text/event-stream",
        statuses={200: "The run's entries as they are committed, then `end`"},
        problems=(404, 422, 503),
    ),
    Route(
        method="POST",
        path=f"{PLACE}/api/v1/executions/commands",
        handle=None,
        name="report_execution_of_environment",
        summary="Report what happened in an execution behind an endpoint of an environment",
        tag="endpoints",
        request=ReportsRequest,
        response=AnswersView,
        statuses={200: "An answer to each report"},
        problems=(422, 429, 503),
    ),
    Route(
        method="GET",
        path="/metrics",
        handle=None,
        name="get_metrics",
        summary="Metrics for Prometheus",
        tag="server",
        content_type="text/plain",
        statuses={200: "Prometheus text format"},
    ),
    Route(
        method="GET",
        path="/openapi.json",
        handle=None,
        name="get_openapi",
        summary="This description",
        tag="server",
        response=dict,
        statuses={200: "OpenAPI 3.1"},
    ),
)
ROUTES = (
    *events_api.ROUTES,
    *functions_api.ROUTES,
    *runs_api.ROUTES,
    *server_api.ROUTES,
    *workers_api.ROUTES,
    *endpoints_api.ROUTES,
    *breakers_api.ROUTES,
    *intakes_api.ROUTES,
    *lanes_api.ROUTES,
    *keys_api.ROUTES,
    *apikeys_api.ROUTES,
    *directory_api.ROUTES,
    *roles_api.ROUTES,
    *audit_api.ROUTES,
)


def make_app(
    engine: Engine,
    *,
    version: str,
    started_at: int,
    dev: bool = False,
    body_limit: int = BODY_LIMIT,
    workflow_origins: tuple[str, ...] = (),
    page_at_root: bool = False,
    opener: Opener | None = None,
    streams_per_key: int = 1000,
    polls_per_key: int = 10_000,
) -> web.Application:
    """The application over an engine. `started_at` in microseconds, `body_limit` in bytes,
    `workflow_origins`: web pages that may call the workflow paths (see `web.workflows.origins`);
    `page_at_root`: the workflow debugger is what `/` shows; `opener` makes the engines of other
    environments, which get applications of their own behind this one; a key may hold
    `streams_per_key` streams and `polls_per_key` requests that wait.
    """
    metrics, origins = Metrics(engine), Origins(workflow_origins)

    def build(of: Engine) -> web.Application:
        inner = web.Application(client_max_size=body_limit)
        _fill(inner, State(of, version, started_at, JournalWatch(of)), Metrics(of), origins)
        return inner

    environments = Environments(engine.registrar, engine.keyring, opener, build)
    problems = make_middleware(engine.ids, dev=dev, exempt=origins.exempts)
    app = web.Application(
        client_max_size=body_limit,
        middlewares=[
            metrics.middleware,
            origins.answer_preflights,
            problems,
            make_connect_middleware(engine.ids, dev=dev),
            make_prefect_middleware(),
            make_access_middleware(
                engine, environments, HeldLimits(streams_per_key, polls_per_key)
            ),
        ],
    )
    state = State(engine, version, started_at, JournalWatch(engine), environments)
    app[FAST_PATH] = FastPath(Gate(engine, environments), body_limit, metrics.count_request)
    app.router.add_post(f"{PLACE}/api/v1/executions/commands", environments.serve_place)
    _fill(app, state, metrics, origins, page_at_root=page_at_root, dev=dev)
    app.on_cleanup.append(_let_go)
    return app


async def _let_go(app: web.Application) -> None:
    """aiohttp remembers the last thousand handlers for good, and with each its application: a
    process that starts one server after the other, as tests do, would keep hundreds of engines.
    """
    web_app._cached_build_middleware.cache_clear()


def _fill(
    app: web.Application,
    state: State,
    metrics: Metrics,
    origins: Origins,
    *,
    page_at_root: bool = False,
    dev: bool = False,
) -> None:
    """Every route over one engine."""
    engine = state.engine
    app[STATE] = state
    app.on_response_prepare.append(note_prepared)
    served = [route for route in ROUTES if not (page_at_root and route.path == "/")]
    add_routes(app, served, dev=dev)
    add_connect_face(app)
    app.router.add_get("/openapi.json", _serve_openapi)
    metrics.add_routes(app)
    add_stream_routes(app, engine)
    add_workflow_routes(app, engine, origins, page_at_root=page_at_root)
    add_prefect_face(app, engine)


@cache
def _describe(version: str) -> bytes:
    """Made when it is first asked for: no start waits for it, and environments share it."""
    return msgspec.json.encode(describe_api([*ROUTES, *ELSEWHERE, *described.ROUTES], version))


async def _serve_openapi(request: web.Request) -> web.StreamResponse:
    body = _describe(request.app[STATE].version)
    return web.Response(body=body, content_type="application/json")
