"""Bodies of what is about the server itself: keys, roles and policies, organization, projects and
environments.
"""

from typing import Annotated, Literal

import msgspec

from ironflow.web.wire import Request, View


class CreateKeyRequest(Request, frozen=True):
    """A key to be made; `expires_in` is a duration such as `90d`."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    role: str | None = None
    roles: tuple[str, ...] = ()
    """Ids or names; `developer` where there is neither this nor `role`."""
    environment: str | None = None
    """The id or name of the environment that it is bound to; none: good in all of them."""
    expires_in: str | float | None = None


class KeyRoles(Request, frozen=True):
    """What a key may do from now on."""

    role_ids: Annotated[list[str], msgspec.Meta(min_length=1, max_length=20)]


class RotateKeyRequest(Request, frozen=True):
    """`grace`: how long the old key stays good."""

    grace: str | float = "24h"


class KeyView(View, frozen=True):
    """A key, without what opens anything: `shown` is its beginning."""

    id: str
    name: str
    role: str
    roles: list[str]
    shown: str
    status: str
    environment: str | None
    created_at: str
    expires_at: str | None
    last_used_at: str | None
    reason: str


class NewKeyView(View, frozen=True):
    """A key that was just made, and its secret, which is shown this once."""

    key: KeyView
    secret: str


class KeyPage(View, frozen=True):
    """Keys, newest first."""

    items: list[KeyView]


class OrganizationView(View, frozen=True):
    """The organization that the server belongs to."""

    id: str
    name: str
    created_at: str
    updated_at: str


class OrganizationRequest(Request, frozen=True):
    """What an organization is called."""

    name: str


class ProjectView(View, frozen=True):
    """A project: what environments belong to."""

    id: str
    name: str
    description: str
    org_id: str
    created_at: str
    updated_at: str


class ProjectRequest(Request, frozen=True):
    """A project to be made."""

    name: str
    description: Annotated[str, msgspec.Meta(max_length=2000)] = ""


class ProjectChange(Request, frozen=True):
    """What of a project is to be different."""

    name: str | None = None
    description: Annotated[str, msgspec.Meta(max_length=2000)] | None = None


class EnvironmentView(View, frozen=True):
    """An environment: functions, events, runs and workers of their own."""

    id: str
    name: str
    project_id: str
    color: str
    status: str
    created_at: str
    updated_at: str


class EnvironmentRequest(Request, frozen=True):
    """An environment to be made; `project_id` is the default project's where it is not given."""

    name: str
    project_id: str | None = None
    color: Annotated[str, msgspec.Meta(max_length=32)] = ""


class EnvironmentChange(Request, frozen=True):
    """What of an environment is to be different."""

    name: str
    color: Annotated[str, msgspec.Meta(max_length=32)] | None = None


class RoleView(View, frozen=True):
    """A role: `policies` by name, or what a built-in one may do with everything."""

    id: str
    name: str
    org_id: str
    is_default: bool
    policies: list[str]
    actions: list[str]
    api_key_count: int
    created_at: str
    updated_at: str


class RoleRequest(Request, frozen=True):
    """A role to be made of policies (ids or names)."""

    name: str
    policies: Annotated[list[str], msgspec.Meta(max_length=100)]


class RoleChange(Request, frozen=True):
    """What of a role is to be different."""

    name: str | None = None
    policies: Annotated[list[str], msgspec.Meta(max_length=100)] | None = None


class PolicyView(View, frozen=True):
    """A policy: what it does (`allow`, `deny`) with actions on resources."""

    id: str
    name: str
    effect: str
    actions: list[str]
    resources: list[str]
    description: str


class PolicyRequest(Request, frozen=True):
    """A policy to be made; `resources` are patterns of IRNs."""

    name: str
    effect: Literal["allow", "deny"]
    actions: list[str]
    resources: list[str]
    description: Annotated[str, msgspec.Meta(max_length=2000)] = ""


class PolicyCheck(Request, frozen=True):
    """What is to be decided: for a key (its id) or for roles, an action on a resource."""

    action: str
    resource: str
    key: str | None = None
    roles: tuple[str, ...] = ()


class PolicyDecision(View, frozen=True):
    """What would be said. `decided_by`: the policy, or none where nothing allows it."""

    allowed: bool
    decided_by: str | None
    reason: str
    roles: list[str]


class Deleted(View, frozen=True):
    """What is gone."""

    status: str
    deleted: str


class ApiKeyView(View, frozen=True):
    """A key, as the protocol's SDKs know it. `environment_id` is empty for all environments."""

    id: str
    name: str
    key_prefix: str
    environment_id: str
    role_ids: list[str]
    tool_scopes: list[str]
    created_at: str
    expires_at: str | None
    last_used_at: str | None


class NewApiKeyView(ApiKeyView, frozen=True):
    """A key that was just made; `key` is its secret."""

    key: str


class CreateApiKeyRequest(Request, frozen=True):
    """A key to be made; `env_id` is the id or name of an environment."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    env_id: str = ""
    expires_in: str = ""
    role_ids: tuple[str, ...] = ()
    platform: bool = False
    tool_scopes: tuple[str, ...] = ()
