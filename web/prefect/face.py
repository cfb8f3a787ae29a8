"""Everything of the Prefect face, put into the application."""

from __future__ import annotations

from aiohttp import web

from ironflow.actors.engine import Engine
from ironflow.web.prefect import general_api
from ironflow.web.prefect.routing import add_routes

ROUTES = (*general_api.ROUTES,)


def add_prefect_face(app: web.Application, engine: Engine) -> None:
    """Serve the Prefect API under `/api`."""
    add_routes(app, engine, ROUTES)
