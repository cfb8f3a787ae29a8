"""Keys: list, make, revoke, rotate. A key itself is shown once, when it is made."""

from __future__ import annotations

from ironflow.core.access import Key
from ironflow.core.durations import parse_duration
from ironflow.core.errors import InvalidInput
from ironflow.web import wire
from ironflow.web.queries import Query, check_text
from ironflow.web.routing import Answer, Call, Route
from ironflow.web.views import moment

LONGEST_GRACE = 7 * 86400.0
"""Seconds for which a rotated key may stay good."""


def key_view(key: Key, now: int) -> wire.KeyView:
    """A key on the wire, without what opens anything."""
    return wire.KeyView(
        id=key.id,
        name=key.name,
        role=key.role,
        shown=key.shown,
        status="active" if key.is_good(now) else "ended",
        created_at=moment(key.created_at) or "",
        expires_at=moment(key.expires_at),
        reason=key.reason,
    )


async def list_keys(call: Call[Query, None]) -> Answer:
    """Every key, newest first."""
    now = call.engine.clock.now()
    return 200, wire.KeyPage(items=[key_view(key, now) for key in call.engine.keyring.all()])


async def create_key(call: Call[Query, wire.CreateKeyRequest]) -> Answer:
    """Make a key."""
    body, engine = call.body, call.engine
    lifetime = None
    if body.expires_in is not None:
        lifetime = parse_duration(body.expires_in, "expires_in")
        if lifetime <= 0:
            raise InvalidInput("expires_in", "must be more than nothing")
    name = check_text(body.name, "name")
    key, secret = await engine.keyring.create(name, body.role, lifetime=lifetime)
    return 201, wire.NewKeyView(key=key_view(key, engine.clock.now()), secret=secret)


async def revoke_key(call: Call[Query, None]) -> Answer:
    """Refuse a key from now on."""
    key = await call.engine.keyring.revoke(call.path["key_id"])
    return 200, key_view(key, call.engine.clock.now())


async def rotate_key(call: Call[Query, wire.RotateKeyRequest]) -> Answer:
    """A new key like this one."""
    grace = parse_duration(call.body.grace, "grace")
    if grace > LONGEST_GRACE:
        raise InvalidInput("grace", "is longer than 7 days")
    key, secret = await call.engine.keyring.rotate(call.path["key_id"], grace)
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
        problems=(401, 503, 507),
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
