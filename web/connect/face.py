"""Every Connect service that is served."""

from __future__ import annotations

from aiohttp import web

from ironflow.web.connect import events, functions, runs, server, subscriptions, time_travel
from ironflow.web.connect.dispatch import Method, add_refusals, add_service

SERVICES: dict[str, dict[str, Method]] = {
    "IronflowService": {**functions.METHODS, **events.METHODS, **runs.METHODS, **server.METHODS},
    "TimeTravelService": time_travel.TIME_TRAVEL_METHODS,
    "AuditService": time_travel.AUDIT_METHODS,
    "PubSubService": subscriptions.METHODS,
}
"""The methods that are served, by service; `ironflow.proto` has them all."""


def add_connect_face(app: web.Application) -> None:
    """Serve the methods, and refuse all others in the protocol's words."""
    for service, methods in SERVICES.items():
        add_service(app, service, methods)
    add_refusals(app)
