"""Who is here: the organization, its projects, their environments, and what keys may do. Pure.

A directory is a fold of entries, as a run is. What the first start makes is there without any
entry. Ids are made from names, can be read, and never change; names may.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable
from typing import NamedTuple

import msgspec

from ironflow.core.access.actions import BUILT_IN
from ironflow.core.access.irn import Irn
from ironflow.core.access.policies import Grant, Policy, check_policy, grant_of
from ironflow.core.errors import Conflict, InvalidInput, NotFound

DEFAULT_ORGANIZATION = "org_default"
DEFAULT_PROJECT = "proj_default_default"
DEFAULT_ENVIRONMENT = "env_default"

MAX_NAME = 63
_NAME = re.compile(r"[a-z0-9]([a-z0-9_-]*[a-z0-9])?")


class DirectoryFounded(msgspec.Struct, frozen=True):
    """The server was started for the first time."""


class OrganizationRenamed(msgspec.Struct, frozen=True):
    """The organization is called something else."""

    name: str


class ProjectPut(msgspec.Struct, frozen=True):
    """A project was made or changed."""

    id: str
    name: str
    description: str = ""


class ProjectDeleted(msgspec.Struct, frozen=True):
    """A project is gone."""

    id: str


class EnvironmentPut(msgspec.Struct, frozen=True):
    """An environment was made or changed."""

    id: str
    name: str
    project_id: str
    color: str = ""


class EnvironmentDeleted(msgspec.Struct, frozen=True):
    """An environment is gone, and everything in it."""

    id: str


class RolePut(msgspec.Struct, frozen=True):
    """A role was made or changed; `policies` are ids."""

    id: str
    name: str
    policies: tuple[str, ...]


class RoleDeleted(msgspec.Struct, frozen=True):
    """A role is gone."""

    id: str


class PolicyPut(msgspec.Struct, frozen=True):
    """A policy was made or changed."""

    policy: Policy

    @property
    def id(self) -> str:
        """The policy's id."""
        return self.policy.id


class PolicyDeleted(msgspec.Struct, frozen=True):
    """A policy is gone."""

    id: str


DirectoryEntry = (
    DirectoryFounded
    | OrganizationRenamed
    | ProjectPut
    | ProjectDeleted
    | EnvironmentPut
    | EnvironmentDeleted
    | RolePut
    | RoleDeleted
    | PolicyPut
    | PolicyDeleted
)
KINDS: dict[type, str] = {
    DirectoryFounded: "directory.founded",
    OrganizationRenamed: "organization.renamed",
    ProjectPut: "project.put",
    ProjectDeleted: "project.deleted",
    EnvironmentPut: "environment.put",
    EnvironmentDeleted: "environment.deleted",
    RolePut: "role.put",
    RoleDeleted: "role.deleted",
    PolicyPut: "policy.put",
    PolicyDeleted: "policy.deleted",
}


class Named(NamedTuple):
    """An organization, a project or an environment. `parent` is the project of an environment."""

    id: str
    name: str
    created_at: int
    updated_at: int
    description: str = ""
    parent: str = ""
    color: str = ""


class Role(NamedTuple):
    """A role: one that is built in, or a set of policies (their ids)."""

    id: str
    name: str
    policies: tuple[str, ...]
    created_at: int = 0
    updated_at: int = 0

    @property
    def is_built_in(self) -> bool:
        """Whether it has been there from the beginning."""
        return self.id in BUILT_IN


class Directory:
    """What the entries so far amount to."""

    def __init__(self) -> None:
        self.version = 0
        self.organization = Named(DEFAULT_ORGANIZATION, "default", 0, 0)
        self.projects = {DEFAULT_PROJECT: Named(DEFAULT_PROJECT, "default", 0, 0)}
        self.environments = {
            DEFAULT_ENVIRONMENT: Named(DEFAULT_ENVIRONMENT, "default", 0, 0, "", DEFAULT_PROJECT)
        }
        self.deleted: set[str] = set()
        """Environments that are gone; what they have left behind may be, too."""
        self.roles: dict[str, Role] = {}
        self.policies: dict[str, Policy] = {}
        self._grants: dict[tuple[str, ...], Grant] = {}

    def apply(self, entry: DirectoryEntry, at: int) -> None:
        """Change by one entry that was recorded at `at`."""
        self.version += 1
        self._grants.clear()
        match entry:
            case DirectoryFounded():
                self._found(at)
            case OrganizationRenamed(name):
                self.organization = self.organization._replace(name=name, updated_at=at)
            case ProjectPut(id_, name, description):
                known = self.projects.get(id_)
                made = known.created_at if known is not None else at
                self.projects[id_] = Named(id_, name, made, at, description)
            case ProjectDeleted(id_):
                self.projects.pop(id_, None)
            case EnvironmentPut(id_, name, project_id, color):
                known = self.environments.get(id_)
                made = known.created_at if known is not None else at
                self.environments[id_] = Named(id_, name, made, at, "", project_id, color)
                self.deleted.discard(id_)
            case EnvironmentDeleted(id_):
                self.environments.pop(id_, None)
                self.deleted.add(id_)
            case RolePut(id_, name, policies):
                role = self.roles.get(id_)
                made = role.created_at if role is not None else at
                self.roles[id_] = Role(id_, name, policies, made, at)
            case RoleDeleted(id_):
                self.roles.pop(id_, None)
            case PolicyPut(policy):
                self.policies[policy.id] = policy
            case PolicyDeleted(id_):
                self.policies.pop(id_, None)

    def _found(self, at: int) -> None:
        """What is there from the beginning has been there since `at`."""
        self.organization = self.organization._replace(created_at=at, updated_at=at)
        for held in (self.projects, self.environments):
            for id_, one in held.items():
                held[id_] = one._replace(created_at=at, updated_at=at)

    # -- reads ------------------------------------------------------------------------------------

    def project(self, given: str) -> Named:
        """The project of this id or name. Raises `NotFound`."""
        found = self.projects.get(given) or next(
            (project for project in self.projects.values() if project.name == given), None
        )
        if found is None:
            raise NotFound("project", given)
        return found

    def environment(self, given: str) -> Named:
        """The environment of this id, name, or `project/name`. Raises `NotFound`, and
        `InvalidInput` for a name that several projects have.
        """
        found = self.environments.get(given)
        if found is not None:
            return found
        project, _, name = given.rpartition("/")
        named = [
            one
            for one in self.environments.values()
            if one.name == name and (not project or self._is_in(one, project))
        ]
        if not named:
            raise NotFound("environment", given)
        if len(named) > 1:
            ids = ", ".join(sorted(one.id for one in named))
            raise InvalidInput("environment", f"several are called {name!r}: use an id: {ids}")
        return named[0]

    def names(self, environment: str, given: str) -> bool:
        """Whether `given` means this environment, whatever else there is."""
        known = self.environments.get(environment)
        if known is None or given == environment:
            return known is not None
        project, _, name = given.rpartition("/")
        return name == known.name and (not project or self._is_in(known, project))

    def _is_in(self, environment: Named, project: str) -> bool:
        parent = self.projects.get(environment.parent)
        return parent is not None and project in (parent.id, parent.name)

    def all_roles(self) -> list[Role]:
        """Every role, the built-in ones first."""
        return [Role(name, name, ()) for name in BUILT_IN] + list(self.roles.values())

    def role(self, given: str) -> Role:
        """The role of this id or name. Raises `NotFound`."""
        for role in self.all_roles():
            if given in (role.id, role.name):
                return role
        raise NotFound("role", given)

    def role_ids(self, given: Iterable[str]) -> tuple[str, ...]:
        """The ids of these roles, each once. Raises `NotFound`."""
        return tuple(dict.fromkeys(self.role(one).id for one in given))

    def policy(self, given: str) -> Policy:
        """The policy of this id or name. Raises `NotFound`."""
        for policy in self.policies.values():
            if given in (policy.id, policy.name):
                return policy
        raise NotFound("policy", given)

    def grant(self, roles: tuple[str, ...]) -> Grant:
        """What roles (their ids) may do now; one that is gone may do nothing."""
        found = self._grants.get(roles)
        if found is None:
            ids = dict.fromkeys(
                id_ for role in roles if role in self.roles for id_ in self.roles[role].policies
            )
            policies = [self.policies[id_] for id_ in ids if id_ in self.policies]
            found = self._grants[roles] = grant_of(roles, policies)
        return found

    def irn(self, environment: str, kind: str, id_: str) -> Irn:
        """The name of a thing in an environment."""
        known = self.environments.get(environment)
        project = known.parent if known is not None else "none"
        return Irn(self.organization.id, project, kind, environment, id_)

    # -- decisions --------------------------------------------------------------------------------

    def create_project(self, name: str, description: str) -> ProjectPut:
        """Raises `InvalidInput`, `Conflict` for a name that is taken."""
        name = check_name(name)
        self._check_project_name(name, None)
        id_ = _free(f"proj_default_{name}", self.projects)
        return ProjectPut(id_, name, description)

    def change_project(self, given: str, name: str | None, description: str | None) -> ProjectPut:
        """Raises `NotFound`, `InvalidInput`, `Conflict`."""
        known = self.project(given)
        if name is not None:
            name = check_name(name)
            self._check_project_name(name, known.id)
        text = known.description if description is None else description
        return ProjectPut(known.id, name or known.name, text)

    def delete_project(self, given: str) -> ProjectDeleted:
        """Raises `NotFound`, `Conflict` for the default one and while it has environments."""
        known = self.project(given)
        if known.id == DEFAULT_PROJECT:
            raise Conflict("the default project stays")
        left = sorted(one.name for one in self.environments.values() if one.parent == known.id)
        if left:
            raise Conflict(f"project {known.name} still has environments: {', '.join(left)}")
        return ProjectDeleted(known.id)

    def create_environment(self, name: str, project: str | None, color: str = "") -> EnvironmentPut:
        """Raises `InvalidInput`, `NotFound` (the project), `Conflict` for a name that is taken."""
        parent = self.project(project or DEFAULT_PROJECT)
        name = check_name(name)
        self._check_environment_name(name, parent.id, None)
        own = "" if parent.id == DEFAULT_PROJECT else f"{parent.id.removeprefix('proj_default_')}_"
        # An id is never given twice: what is left of a former one must never become the new one's.
        id_ = _free(f"env_{own}{name}", {*self.environments, *self.deleted})
        return EnvironmentPut(id_, name, parent.id, color)

    def change_environment(self, given: str, name: str, color: str | None = None) -> EnvironmentPut:
        """Raises `NotFound`, `InvalidInput`, `Conflict`."""
        known = self.environment(given)
        name = check_name(name)
        self._check_environment_name(name, known.parent, known.id)
        return EnvironmentPut(known.id, name, known.parent, known.color if color is None else color)

    def delete_environment(self, given: str) -> EnvironmentDeleted:
        """Raises `NotFound`, `Conflict` for the default one."""
        known = self.environment(given)
        if known.id == DEFAULT_ENVIRONMENT:
            raise Conflict("the default environment stays")
        return EnvironmentDeleted(known.id)

    def rename_organization(self, name: str) -> OrganizationRenamed:
        """Raises `InvalidInput`."""
        return OrganizationRenamed(check_name(name))

    def create_role(self, name: str, policies: Iterable[str]) -> RolePut:
        """Raises `InvalidInput`, `NotFound` (a policy), `Conflict` for a name that is taken."""
        name = check_name(name)
        if any(role.name == name for role in self.all_roles()):
            raise Conflict(f"a role is called {name!r} already")
        return RolePut(_free(f"role_{name}", self.roles), name, self._policy_ids(policies))

    def change_role(self, given: str, name: str | None, policies: Iterable[str] | None) -> RolePut:
        """Raises `NotFound`, `InvalidInput`, `Conflict` for a built-in one or a taken name."""
        role = self._own_role(given)
        if name is not None:
            name = check_name(name)
            if any(one.name == name and one.id != role.id for one in self.all_roles()):
                raise Conflict(f"a role is called {name!r} already")
        ids = role.policies if policies is None else self._policy_ids(policies)
        return RolePut(role.id, name or role.name, ids)

    def delete_role(self, given: str, users: Iterable[str]) -> RoleDeleted:
        """`users`: names of the keys that have it. Raises `NotFound`, `Conflict`."""
        role, named = self._own_role(given), sorted(set(users))
        if named:
            raise Conflict(f"keys have the role {role.name}: {', '.join(named[:10])}")
        return RoleDeleted(role.id)

    def _own_role(self, given: str) -> Role:
        role = self.role(given)
        if role.is_built_in:
            raise Conflict(f"the role {role.name} is built in and stays as it is")
        return role

    def _policy_ids(self, given: Iterable[str]) -> tuple[str, ...]:
        ids = tuple(dict.fromkeys(self.policy(one).id for one in given))
        if not ids:
            raise InvalidInput("policies", "a role needs at least one policy")
        return ids

    def create_policy(
        self,
        name: str,
        effect: str,
        actions: Iterable[str],
        resources: Iterable[str],
        description: str,
    ) -> PolicyPut:
        """Raises `InvalidInput`, `Conflict` for a name that is taken."""
        name = check_name(name)
        if any(policy.name == name for policy in self.policies.values()):
            raise Conflict(f"a policy is called {name!r} already")
        parts = check_policy(effect, actions, resources)
        return PolicyPut(Policy(_free(f"pol_{name}", self.policies), name, *parts, description))

    def change_policy(
        self,
        given: str,
        name: str,
        effect: str,
        actions: Iterable[str],
        resources: Iterable[str],
        description: str,
    ) -> PolicyPut:
        """Raises `NotFound`, `InvalidInput`, `Conflict`."""
        known, name = self.policy(given), check_name(name)
        if any(one.name == name and one.id != known.id for one in self.policies.values()):
            raise Conflict(f"a policy is called {name!r} already")
        parts = check_policy(effect, actions, resources)
        return PolicyPut(Policy(known.id, name, *parts, description))

    def delete_policy(self, given: str) -> PolicyDeleted:
        """Raises `NotFound`, `Conflict` while roles have it."""
        known = self.policy(given)
        users = sorted(role.name for role in self.roles.values() if known.id in role.policies)
        if users:
            raise Conflict(f"roles have the policy {known.name}: {', '.join(users[:10])}")
        return PolicyDeleted(known.id)

    def _check_project_name(self, name: str, own: str | None) -> None:
        if any(one.name == name and one.id != own for one in self.projects.values()):
            raise Conflict(f"a project is called {name!r} already")

    def _check_environment_name(self, name: str, project_id: str, own: str | None) -> None:
        for one in self.environments.values():
            if one.name == name and one.parent == project_id and one.id != own:
                raise Conflict(f"an environment of this project is called {name!r} already")


def check_name(name: str) -> str:
    """A name that can stand in ids, headers and files. Raises `InvalidInput`."""
    if len(name) > MAX_NAME or not _NAME.fullmatch(name):
        raise InvalidInput(
            "name",
            f"must have 1 to {MAX_NAME} characters a-z, 0-9, - and _, and begin and end with a "
            "letter or digit",
        )
    return name


def _free(wanted: str, taken: Container[str]) -> str:
    """The id, with a number behind it when it is taken."""
    number, id_ = 1, wanted
    while id_ in taken:
        number += 1
        id_ = f"{wanted}_{number}"
    return id_
