"""Every Connect service that is served."""

from __future__ import annotations

from aiohttp import web

from ironflow.web.connect import functions
from ironflow.web.connect.dispatch import Method, add_refusals, add_service

SERVICES: dict[str, dict[str, Method]] = {
    "IronflowService": {**functions.METHODS},
}
"""The methods that are served, by service; `ironflow.proto` has them all."""


def add_connect_face(app: web.Application) -> None:
    """Serve the methods, and refuse all others in the protocol's words."""
    for service, methods in SERVICES.items():
        add_service(app, service, methods)
    add_refusals(app)
