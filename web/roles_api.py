"""Roles and policies: who may do what. Built-in roles are listed with the others and stay as they
are. Only an admin's key that is bound to no environment changes any of this.
"""

from __future__ import annotations

from typing import Any

from ironflow.core.access import Key
from ironflow.core.actions import BUILT_IN
from ironflow.core.directory import Directory, Role
from ironflow.core.errors import InvalidInput, NotFound
from ironflow.core.irn import parse_irn
from ironflow.core.policies import Policy, check_action
from ironflow.web import access_wire as wire
from ironflow.web.queries import Query
from ironflow.web.routing import Answer, Call, Route
from ironflow.web.scope import bound_environment, check_admin
from ironflow.web.views import moment


def _directory(call: Call[Any, Any]) -> Directory:
    return call.engine.registrar.directory


def role_view(call: Call[Any, Any], role: Role) -> wire.RoleView:
    """A role on the wire."""
    directory, now = _directory(call), call.engine.clock.now()
    bound = bound_environment(call.request)
    keys = [k for k in call.engine.keyring.all() if role.id in k.roles and k.is_good(now)]
    return wire.RoleView(
        id=role.id,
        name=role.name,
        org_id=directory.organization.id,
        is_default=role.is_built_in,
        policies=[directory.policies[one].name for one in role.policies],
        actions=sorted(BUILT_IN[role.id]) if role.is_built_in else [],
        api_key_count=len([k for k in keys if bound in (None, k.environment)]),
        created_at=moment(role.created_at) or "",
        updated_at=moment(role.updated_at) or "",
    )


def policy_view(policy: Policy) -> wire.PolicyView:
    """A policy on the wire."""
    return wire.PolicyView(
        id=policy.id,
        name=policy.name,
        effect=policy.effect,
        actions=list(policy.actions),
        resources=list(policy.resources),
        description=policy.description,
    )


# -- roles ----------------------------------------------------------------------------------------


async def list_roles(call: Call[Query, None]) -> Answer:
    """Roles, the built-in ones first."""
    return 200, [role_view(call, role) for role in _directory(call).all_roles()]


async def get_role(call: Call[Query, None]) -> Answer:
    """One role."""
    return 200, role_view(call, _directory(call).role(call.path["role"]))


async def create_role(call: Call[Query, wire.RoleRequest]) -> Answer:
    """Make a role."""
    check_admin(call.request)
    body = call.body
    entry = await call.engine.registrar.record(
        lambda directory: directory.create_role(body.name, body.policies)
    )
    return 201, role_view(call, _directory(call).role(entry.id))


async def change_role(call: Call[Query, wire.RoleChange]) -> Answer:
    """Rename a role, or give it other policies. Keys that have it are held to it at once."""
    check_admin(call.request)
    body, given = call.body, call.path["role"]
    entry = await call.engine.registrar.record(
        lambda directory: directory.change_role(given, body.name, body.policies)
    )
    return 200, role_view(call, _directory(call).role(entry.id))


async def delete_role(call: Call[Query, None]) -> Answer:
    """Delete a role that no key has."""
    check_admin(call.request)
    keyring, now, given = call.engine.keyring, call.engine.clock.now(), call.path["role"]
    role = _directory(call).role(given)
    users = [key.name for key in keyring.all() if role.id in key.roles and key.is_good(now)]
    entry = await call.engine.registrar.record(
        lambda directory: directory.delete_role(given, users)
    )
    return 200, wire.Deleted(status="deleted", deleted=entry.id)


# -- policies -------------------------------------------------------------------------------------


async def list_policies(call: Call[Query, None]) -> Answer:
    """Policies, oldest first."""
    return 200, [policy_view(policy) for policy in _directory(call).policies.values()]


async def get_policy(call: Call[Query, None]) -> Answer:
    """One policy."""
    return 200, policy_view(_directory(call).policy(call.path["policy"]))


async def create_policy(call: Call[Query, wire.PolicyRequest]) -> Answer:
    """Make a policy."""
    check_admin(call.request)
    body = call.body
    entry = await call.engine.registrar.record(
        lambda directory: directory.create_policy(
            body.name, body.effect, body.actions, body.resources, body.description
        )
    )
    return 201, policy_view(_directory(call).policy(entry.policy.id))


async def change_policy(call: Call[Query, wire.PolicyRequest]) -> Answer:
    """Put another policy in its place. Keys are held to it at once."""
    check_admin(call.request)
    body, given = call.body, call.path["policy"]
    entry = await call.engine.registrar.record(
        lambda directory: directory.change_policy(
            given, body.name, body.effect, body.actions, body.resources, body.description
        )
    )
    return 200, policy_view(_directory(call).policy(entry.policy.id))


async def delete_policy(call: Call[Query, None]) -> Answer:
    """Delete a policy that no role has."""
    check_admin(call.request)
    given = call.path["policy"]
    entry = await call.engine.registrar.record(lambda directory: directory.delete_policy(given))
    return 200, wire.Deleted(status="deleted", deleted=entry.id)


async def check_policies(call: Call[Query, wire.PolicyCheck]) -> Answer:
    """What would be said of a request, and by whom; nothing is done."""
    body, engine = call.body, call.engine
    check_action(body.action, pattern=False)
    resource = parse_irn(body.resource, pattern=body.resource.endswith(":*"))
    key: Key | None = None
    if body.key is not None:
        key = engine.keyring.get(body.key)
        bound = bound_environment(call.request)
        if bound is not None and key.environment != bound:
            raise NotFound("key", body.key)
    if (key is None) == (not body.roles):
        raise InvalidInput("key", "name a key (by its id) or roles")
    directory = _directory(call)
    roles = key.roles if key is not None else directory.role_ids(body.roles)
    decision = directory.grant(roles).decide(body.action, resource)
    allowed, policy, reason = decision
    if key is not None and key.environment is not None and resource.environment != key.environment:
        allowed, policy, reason = False, "", "the key is bound to another environment"
    elif key is not None and not key.is_good(engine.clock.now()):
        allowed, policy, reason = False, "", f"the key has ended: {key.reason or 'it expired'}"
    return 200, wire.PolicyDecision(
        allowed=allowed, decided_by=policy or None, reason=reason, roles=list(roles)
    )


_WRITES = (401, 409, 503, 507)

ROUTES = (
    Route(
        method="GET", path="/api/v1/roles", handle=list_roles,
        summary="List roles", tag="roles",
        response=list[wire.RoleView], statuses={200: "Roles, the built-in ones first"},
    ),
    Route(
        method="POST", path="/api/v1/roles", handle=create_role,
        summary="Make a role of policies", tag="roles",
        request=wire.RoleRequest, response=wire.RoleView,
        statuses={201: "The role"}, problems=(404, *_WRITES),
    ),
    Route(
        method="GET", path="/api/v1/roles/{role}", handle=get_role,
        summary="Get a role by its id or name", tag="roles",
        response=wire.RoleView, statuses={200: "The role"}, problems=(404,),
    ),
    Route(
        method="PATCH", path="/api/v1/roles/{role}", handle=change_role,
        summary="Rename a role, or give it other policies", tag="roles",
        request=wire.RoleChange, response=wire.RoleView,
        statuses={200: "The role"}, problems=(404, *_WRITES),
    ),
    Route(
        method="DELETE", path="/api/v1/roles/{role}", handle=delete_role,
        summary="Delete a role that no key has", tag="roles",
        response=wire.Deleted, statuses={200: "It is gone"}, problems=(404, *_WRITES),
    ),
    Route(
        method="GET", path="/api/v1/policies", handle=list_policies,
        summary="List policies", tag="policies",
        response=list[wire.PolicyView], statuses={200: "Policies, oldest first"},
    ),
    Route(
        method="POST", path="/api/v1/policies", handle=create_policy,
        summary="Make a policy",
        details="It allows or denies actions (`runs:cancel`, `runs:*`, `*`) on things, named by "
        "patterns `irn:ironflow:{organization}:{project}:{type}:{environment}:{id}`. What any "
        "policy of a key's roles denies is denied; else what any allows is allowed.",
        tag="policies",
        request=wire.PolicyRequest, response=wire.PolicyView,
        statuses={201: "The policy"}, problems=_WRITES,
    ),
    Route(
        method="POST", path="/api/v1/policies/check", handle=check_policies,
        summary="Say what would be decided, and by which policy", tag="policies",
        request=wire.PolicyCheck, response=wire.PolicyDecision,
        statuses={200: "The decision"}, problems=(404,),
    ),
    Route(
        method="GET", path="/api/v1/policies/{policy}", handle=get_policy,
        summary="Get a policy by its id or name", tag="policies",
        response=wire.PolicyView, statuses={200: "The policy"}, problems=(404,),
    ),
    Route(
        method="PUT", path="/api/v1/policies/{policy}", handle=change_policy,
        summary="Put another policy in its place", tag="policies",
        request=wire.PolicyRequest, response=wire.PolicyView,
        statuses={200: "The policy"}, problems=(404, *_WRITES),
    ),
    Route(
        method="DELETE", path="/api/v1/policies/{policy}", handle=delete_policy,
        summary="Delete a policy that no role has", tag="policies",
        response=wire.Deleted, statuses={200: "It is gone"}, problems=(404, *_WRITES),
    ),
)  # fmt: skip
