"""Keys: list, make, revoke, rotate. A key itself is shown once, when it is made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ironflow.core.access.keys import Key, PermissionDenied
from ironflow.core.durations import parse_duration
from ironflow.core.errors import InvalidInput, NotFound
from ironflow.web.queries import Query, check_text
from ironflow.web.routing import Answer, Call, Route
from ironflow.web.scope import bound_environment, check_grantable
from ironflow.web.views import moment
from ironflow.web.wire import access as wire

LONGEST_GRACE = 7 * 86400.0
"""Seconds for which a rotated key may stay good."""


def key_view(key: Key, now: int) -> wire.KeyView:
    """A key on the wire, without what opens anything."""
    return wire.KeyView(
        id=key.id,
        name=key.name,
        role=key.roles[0],
        roles=list(key.roles),
        shown=key.shown,
        status="active" if key.is_good(now) else "ended",
        environment=key.environment,
        created_at=moment(key.created_at) or "",
        expires_at=moment(key.expires_at),
        last_used_at=moment(key.last_used_at),
        reason=key.reason,
    )


async def list_keys(call: Call[Query, None]) -> Answer:
    """Every key, newest first."""
    now, bound = call.engine.clock.now(), bound_environment(call.request)
    keys = [k for k in call.engine.keyring.all() if bound is None or k.environment == bound]
    return 200, wire.KeyPage(items=[key_view(key, now) for key in keys])


async def create_key(call: Call[Query, wire.CreateKeyRequest]) -> Answer:
    """Make a key."""
    body, engine = call.body, call.engine
    lifetime = None
    if body.expires_in is not None:
        lifetime = parse_duration(body.expires_in, "expires_in")
        if lifetime <= 0:
            raise InvalidInput("expires_in", "must be more than nothing")
    name = check_text(body.name, "name")
    roles = find_roles(call, body.roles or [body.role or "developer"])
    key, secret = await engine.keyring.create(
        name, roles, lifetime=lifetime, environment=find_environment(call, body.environment)
    )
    return 201, wire.NewKeyView(key=key_view(key, engine.clock.now()), secret=secret)


async def change_key_roles(call: Call[Query, wire.KeyRoles]) -> Answer:
    """Give a key other roles."""
    key = find_key(call)
    check_grantable(call.request, key.roles)
    roles = find_roles(call, call.body.role_ids)
    changed = await call.engine.keyring.change_roles(key.id, roles)
    return 200, key_view(changed, call.engine.clock.now())


async def revoke_key(call: Call[Query, None]) -> Answer:
    """Refuse a key from now on."""
    key = await call.engine.keyring.revoke(find_key(call).id)
    return 200, key_view(key, call.engine.clock.now())


def find_roles(call: Call[Query, Any], given: Sequence[str]) -> tuple[str, ...]:
    """The ids of roles that the caller may give. Raises `InvalidInput`, `PermissionDenied`."""
    try:
        roles = call.engine.registrar.directory.role_ids(given)
    except NotFound as error:
        raise InvalidInput("role", error.message) from None
    check_grantable(call.request, roles)
    return roles


def find_environment(call: Call[Query, Any], given: str | None) -> str | None:
    """The id of the environment that a new key is bound to: a key that is bound itself makes keys
    of its own environment only. Raises `NotFound`, `PermissionDenied`.
    """
    directory, bound = call.engine.registrar.directory, bound_environment(call.request)
    if bound is None:
        return directory.environment(given).id if given is not None else None
    if given is not None and not directory.names(bound, given):
        raise PermissionDenied("this key is bound to another environment")
    return bound


def find_key(call: Call[Query, Any]) -> Key:
    """The key of the path, where the caller's key may see it. Raises `NotFound`."""
    key, bound = call.engine.keyring.get(call.path["key_id"]), bound_environment(call.request)
    if bound is not None and key.environment != bound:
        raise NotFound("key", call.path["key_id"])
    return key


async def rotate_key(call: Call[Query, wire.RotateKeyRequest]) -> Answer:
    """A new key like this one."""
    grace = parse_duration(call.body.grace, "grace")
    if grace > LONGEST_GRACE:
        raise InvalidInput("grace", "is longer than 7 days")
    old = find_key(call)
    check_grantable(call.request, old.roles)
    key, secret = await call.engine.keyring.rotate(old.id, grace)
    return 201, wire.NewKeyView(key=key_view(key, call.engine.clock.now()), secret=secret)


ROUTES = (
    Route(
        method="GET",
        path="/api/v1/keys",
        handle=list_keys,
        summary="List keys",
        tag="keys",
        response=wire.KeyPage,
        statuses={200: "Every key, newest first"},
        problems=(401,),
    ),
    Route(
        method="POST",
        path="/api/v1/keys",
        handle=create_key,
        summary="Make a key; it is shown this once",
        details="The first key must be an admin's. Once there is a key every request needs one.",
        tag="keys",
        request=wire.CreateKeyRequest,
        response=wire.NewKeyView,
        statuses={201: "The key, and its secret"},
        problems=(401, 404, 503, 507),
    ),
    Route(
        method="PUT",
        path="/api/v1/keys/{key_id}/roles",
        handle=change_key_roles,
        summary="Give a key other roles, from now on",
        tag="keys",
        request=wire.KeyRoles,
        response=wire.KeyView,
        statuses={200: "The key as it is now"},
        problems=(401, 404, 409, 503, 507),
    ),
    Route(
        method="DELETE",
        path="/api/v1/keys/{key_id}",
        handle=revoke_key,
        summary="Refuse a key from now on",
        tag="keys",
        response=wire.KeyView,
        statuses={200: "The key as it is now"},
        problems=(401, 404, 409, 503, 507),
    ),
    Route(
        method="POST",
        path="/api/v1/keys/{key_id}/rotate",
        handle=rotate_key,
        summary="Replace a key; the old one stays good for a while",
        tag="keys",
        request=wire.RotateKeyRequest,
        optional_body=True,
        response=wire.NewKeyView,
        statuses={201: "The new key, and its secret"},
        problems=(401, 404, 409, 503, 507),
    ),
)
