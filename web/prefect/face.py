"""Everything of the Prefect face, put into the application."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from aiohttp import web

from ironflow.actors.engine import Engine
from ironflow.web.prefect import (
    events_api,
    flow_runs_api,
    flows_api,
    general_api,
    graphs_api,
    logs_api,
    run_inputs_api,
    run_states_api,
    searches_api,
    task_runs_api,
    ui_api,
    unstored_api,
)
from ironflow.web.prefect.paths import PREFIX
from ironflow.web.prefect.problems import say
from ironflow.web.prefect.routing import add_routes

ROUTES = (
    *general_api.ROUTES,
    *flow_runs_api.ROUTES,
    *task_runs_api.ROUTES,
    *flows_api.ROUTES,
    *run_inputs_api.ROUTES,
    *run_states_api.ROUTES,
    *graphs_api.ROUTES,
    *events_api.ROUTES,
    *logs_api.ROUTES,
    *searches_api.ROUTES,
    *ui_api.ROUTES,
    *unstored_api.ROUTES,
)
SOCKETS: tuple[tuple[str, Callable[[web.Request, Engine], Awaitable[web.StreamResponse]]], ...] = (
    ("/events/in", events_api.take_events),
    ("/events/out", events_api.follow_events),
    ("/logs/out", logs_api.follow_logs),
)


def add_prefect_face(app: web.Application, engine: Engine) -> None:
    """Serve the Prefect API under `/api`."""
    add_routes(app, engine, ROUTES)
    for path, serve in SOCKETS:
        handler = partial(_serve, serve=serve, engine=engine)
        app.router.add_get(PREFIX + path, handler, allow_head=False)


async def _serve(
    request: web.Request,
    *,
    serve: Callable[[web.Request, Engine], Awaitable[web.StreamResponse]],
    engine: Engine,
) -> web.StreamResponse:
    try:
        return await serve(request, engine)
    except web.HTTPBadRequest as error:
        return say(400, error.text or "This is a websocket.")
