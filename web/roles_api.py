"""Roles and policies: who may do what. Built-in roles are listed with the others and stay as they
are. Only an admin's key that is bound to no environment changes any of this.
"""

from __future__ import annotations

from ironflow.core.access.actions import BUILT_IN
from ironflow.core.access.directory import Role
from ironflow.core.access.irn import parse_irn
from ironflow.core.access.keys import Key
from ironflow.core.access.policies import Policy, check_action
from ironflow.core.errors import InvalidInput, NotFound
from ironflow.web.named import WRITES, AnyCall, Things, directory_of, recorded
from ironflow.web.queries import Query
from ironflow.web.routing import Answer, Call, Route
from ironflow.web.scope import bound_environment, check_admin
from ironflow.web.views import moment
from ironflow.web.wire import access as wire


def role_view(call: AnyCall, role: Role) -> wire.RoleView:
    """A role on the wire."""
    directory, now = directory_of(call), call.engine.clock.now()
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


async def _delete_role(call: AnyCall) -> str:
    keyring, now, given = call.engine.keyring, call.engine.clock.now(), call.path["role"]
    role = directory_of(call).role(given)
    users = [key.name for key in keyring.all() if role.id in key.roles and key.is_good(now)]
    entry = await call.engine.registrar.record(
        lambda directory: directory.delete_role(given, users)
    )
    return entry.id


def _policy(body: wire.PolicyRequest) -> tuple[str, str, list[str], list[str], str]:
    return body.name, body.effect, body.actions, body.resources, body.description


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
    directory = directory_of(call)
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


ROLES = Things(
    one="role",
    many="roles",
    response=wire.RoleView,
    find=lambda call, given: directory_of(call).role(given),
    view=role_view,
    check=check_admin,
)
POLICIES = Things(
    one="policy",
    many="policies",
    response=wire.PolicyView,
    find=lambda call, given: directory_of(call).policy(given),
    view=lambda _, policy: policy_view(policy),
    check=check_admin,
)

ROUTES = (
    ROLES.list_all(
        lambda call: directory_of(call).all_roles(),
        summary="List roles", meaning="Roles, the built-in ones first",
    ),
    ROLES.create(
        recorded(lambda call, directory: directory.create_role(
            call.body.name, call.body.policies
        )),
        summary="Make a role of policies", meaning="The role",
        request=wire.RoleRequest, problems=(404, *WRITES),
    ),
    ROLES.get(summary="Get a role by its id or name"),
    # Keys that have it are held to it at once, as they are to a changed policy.
    ROLES.change(
        "PATCH",
        recorded(lambda call, directory: directory.change_role(
            call.path["role"], call.body.name, call.body.policies
        )),
        summary="Rename a role, or give it other policies", request=wire.RoleChange,
    ),
    ROLES.delete(_delete_role, summary="Delete a role that no key has"),
    POLICIES.list_all(
        lambda call: directory_of(call).policies.values(),
        summary="List policies", meaning="Policies, oldest first",
    ),
    POLICIES.create(
        recorded(lambda call, directory: directory.create_policy(*_policy(call.body))),
        summary="Make a policy", meaning="The policy",
        details="It allows or denies actions (`runs:cancel`, `runs:*`, `*`) on things, named by "
        "patterns `irn:ironflow:{organization}:{project}:{type}:{environment}:{id}`. What any "
        "policy of a key's roles denies is denied; else what any allows is allowed.",
        request=wire.PolicyRequest, problems=WRITES,
    ),
    Route(
        method="POST", path="/api/v1/policies/check", handle=check_policies,
        summary="Say what would be decided, and by which policy", tag="policies",
        request=wire.PolicyCheck, response=wire.PolicyDecision,
        statuses={200: "The decision"}, problems=(404,),
    ),
    POLICIES.get(summary="Get a policy by its id or name"),
    POLICIES.change(
        "PUT",
        recorded(lambda call, directory: directory.change_policy(
            call.path["policy"], *_policy(call.body)
        )),
        summary="Put another policy in its place", request=wire.PolicyRequest,
    ),
    POLICIES.delete(
        recorded(lambda call, directory: directory.delete_policy(call.path["policy"])),
        summary="Delete a policy that no role has",
    ),
)  # fmt: skip
