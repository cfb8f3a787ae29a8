"""Who may ask what: a key in each request, once the server has any.

The key comes as `Authorization: Bearer`, as the password of Basic authentication, or as
`X-API-Key`; websockets of Prefect's client send it in their first message.
"""

from __future__ import annotations

import base64
import binascii

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from ironflow.actors.engine import Engine
from ironflow.core.access import Key, right_for

KEY = web.RequestKey("api_key", Key)
SOCKETS = ("/api/events/in", "/api/events/out", "/api/logs/out")
"""Websockets whose first message has the key."""


def secret_of(request: web.Request) -> str | None:
    """The key that a request carries."""
    found = request.headers.get("X-API-Key")
    if found:
        return found
    scheme, _, rest = request.headers.get("Authorization", "").partition(" ")
    rest = rest.strip()
    if scheme.lower() == "bearer":
        return rest
    if scheme.lower() == "basic":
        try:
            text = base64.b64decode(rest, validate=True).decode()
        except (binascii.Error, ValueError):
            return None
        return text.partition(":")[2] or text
    return None


def make_access_middleware(engine: Engine) -> Middleware:
    """Refuses requests without a key that is good for them."""

    @web.middleware
    async def check_key(request: web.Request, handler: Handler) -> web.StreamResponse:
        if engine.keyring.is_needed:
            right = right_for(request.method, request.path)
            is_socket = request.path in SOCKETS and "Upgrade" in request.headers
            if right is not None and not is_socket:
                request[KEY] = engine.keyring.check(secret_of(request), right)
        return await handler(request)

    return check_key
