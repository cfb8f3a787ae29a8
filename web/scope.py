"""What the key of a request may see of the server itself."""

from __future__ import annotations

from aiohttp import web

from ironflow.core.access import Key, PermissionDenied

KEY = web.RequestKey("api_key", Key)
"""The key of a request, where one is needed."""


def bound_environment(request: web.Request) -> str | None:
    """The environment that the key of a request is bound to; None for all of them."""
    key = request.get(KEY)
    return key.environment if key is not None else None


def check_unbound(request: web.Request) -> None:
    """Refuse a key that is bound to an environment. Raises `PermissionDenied`."""
    if bound_environment(request) is not None:
        raise PermissionDenied("this key is bound to an environment, and this is about all of them")
