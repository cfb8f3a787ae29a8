"""What the key of a request may see of the server itself."""

from __future__ import annotations

from collections.abc import Iterable

from aiohttp import web

from ironflow.core.access.keys import ADMIN, Key, PermissionDenied

KEY = web.RequestKey("api_key", Key)
"""The key of a request, where one is needed."""


def bound_environment(request: web.Request) -> str | None:
    """The environment that the key of a request is bound to; None for all of them."""
    key = request.get(KEY)
    return key.environment if key is not None else None


def check_admin(request: web.Request) -> None:
    """Refuse whoever could give itself more than it has. Raises `PermissionDenied`."""
    check_unbound(request)
    key = request.get(KEY)
    if key is not None and ADMIN not in key.roles:
        raise PermissionDenied("only an admin's key changes what keys may do")


def check_grantable(request: web.Request, roles: Iterable[str]) -> None:
    """Refuse to give a key roles that the giver does not have, but for an admin. Raises
    `PermissionDenied`.
    """
    key = request.get(KEY)
    if key is not None and ADMIN not in key.roles:
        more = sorted(set(roles) - set(key.roles))
        if more:
            raise PermissionDenied(f"only an admin's key gives roles that it has not: {more[0]}")


def check_unbound(request: web.Request) -> None:
    """Refuse a key that is bound to an environment. Raises `PermissionDenied`."""
    if bound_environment(request) is not None:
        raise PermissionDenied("this key is bound to an environment, and this is about all of them")
