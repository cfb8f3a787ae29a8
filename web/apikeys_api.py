"""Keys as the protocol's SDKs ask for them; the same keys as those of `web.keys_api`."""

from __future__ import annotations

from ironflow.core.access.keys import SHOWN, Key
from ironflow.core.durations import parse_duration
from ironflow.core.errors import InvalidInput
from ironflow.web.keys_api import find_environment, find_key, find_roles
from ironflow.web.queries import Query, check_text
from ironflow.web.routing import Answer, Call, Route
from ironflow.web.scope import bound_environment, check_grantable
from ironflow.web.views import moment
from ironflow.web.wire import access as wire

GRACE = 86_400.0
"""Seconds for which a key stays good after it was rotated."""


class ListQuery(Query, frozen=True):
    """`platform`: keys of the platform, of which there are none here."""

    platform: bool = False


def _facts(key: Key) -> wire.ApiKeyView:
    return wire.ApiKeyView(
        id=key.id,
        name=key.name,
        key_prefix=key.shown[:SHOWN],
        environment_id=key.environment or "",
        role_ids=list(key.roles),
        tool_scopes=[],
        created_at=moment(key.created_at) or "",
        expires_at=moment(key.expires_at),
        last_used_at=moment(key.last_used_at),
    )


def _fresh(key: Key, secret: str) -> wire.NewApiKeyView:
    view = _facts(key)
    return wire.NewApiKeyView(
        key=secret, **{name: getattr(view, name) for name in view.__struct_fields__}
    )


async def list_api_keys(call: Call[ListQuery, None]) -> Answer:
    """Keys that are good now, newest first."""
    now, bound = call.engine.clock.now(), bound_environment(call.request)
    keys = [k for k in call.engine.keyring.all() if k.is_good(now)]
    if call.query.platform:
        return 200, []
    return 200, [_facts(key) for key in keys if bound in (None, key.environment)]


async def get_api_key(call: Call[Query, None]) -> Answer:
    """One key."""
    return 200, _facts(find_key(call))


async def create_api_key(call: Call[Query, wire.CreateApiKeyRequest]) -> Answer:
    """Make a key."""
    body = call.body
    if body.platform:
        raise InvalidInput("platform", "this server has no platform above it")
    if body.tool_scopes:
        raise InvalidInput("tool_scopes", "are not known here: give the key a role")
    lifetime = parse_duration(body.expires_in, "expires_in") if body.expires_in else None
    if lifetime is not None and lifetime <= 0:
        raise InvalidInput("expires_in", "must be more than nothing")
    key, secret = await call.engine.keyring.create(
        check_text(body.name, "name"),
        find_roles(call, body.role_ids or ["developer"]),
        lifetime=lifetime,
        environment=find_environment(call, body.env_id or None),
    )
    return 201, _fresh(key, secret)


async def rotate_api_key(call: Call[Query, None]) -> Answer:
    """A new key like this one, which stays good for a day."""
    old = find_key(call)
    check_grantable(call.request, old.roles)
    key, secret = await call.engine.keyring.rotate(old.id, GRACE)
    return 201, _fresh(key, secret)


async def change_api_key_roles(call: Call[Query, wire.KeyRoles]) -> Answer:
    """Give a key other roles."""
    key = find_key(call)
    check_grantable(call.request, key.roles)
    roles = find_roles(call, call.body.role_ids)
    return 200, _facts(await call.engine.keyring.change_roles(key.id, roles))


async def delete_api_key(call: Call[Query, None]) -> Answer:
    """Refuse a key from now on."""
    await call.engine.keyring.revoke(find_key(call).id)
    return 204, None


_KEY = "/api/v1/apikeys/{key_id}"
_WRITES = (401, 409, 503, 507)

ROUTES = (
    Route(
        method="GET", path="/api/v1/apikeys", handle=list_api_keys,
        summary="List keys that are good now", tag="keys", query=ListQuery,
        response=list[wire.ApiKeyView], statuses={200: "Keys, newest first"},
    ),
    Route(
        method="POST", path="/api/v1/apikeys", handle=create_api_key,
        summary="Make a key; it is shown this once", tag="keys",
        request=wire.CreateApiKeyRequest, response=wire.NewApiKeyView,
        statuses={201: "The key, and its secret"}, problems=(404, *_WRITES),
    ),
    Route(
        method="GET", path=_KEY, handle=get_api_key,
        summary="Get a key, without its secret", tag="keys",
        response=wire.ApiKeyView, statuses={200: "The key"}, problems=(404,),
    ),
    Route(
        method="POST", path=f"{_KEY}/rotate", handle=rotate_api_key,
        summary="Replace a key; the old one stays good for a day", tag="keys",
        response=wire.NewApiKeyView, statuses={201: "The new key, and its secret"},
        problems=(404, *_WRITES),
    ),
    Route(
        method="PUT", path=f"{_KEY}/roles", handle=change_api_key_roles,
        summary="Give a key other roles, from now on", tag="keys",
        request=wire.KeyRoles, response=wire.ApiKeyView,
        statuses={200: "The key as it is now"}, problems=(404, *_WRITES),
    ),
    Route(
        method="DELETE", path=_KEY, handle=delete_api_key,
        summary="Refuse a key from now on", tag="keys",
        statuses={204: "It is refused"}, problems=(404, *_WRITES),
    ),
)  # fmt: skip
