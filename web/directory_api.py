"""The organization, its projects and environments. Served by the application of the default
environment, whatever environment a request is for; a key that is bound to one sees only that.
"""

from __future__ import annotations

from typing import Any

from ironflow.core.access import PermissionDenied
from ironflow.core.directory import DEFAULT_ENVIRONMENT, Directory, Named
from ironflow.core.errors import Conflict, NotFound
from ironflow.web import access_wire as wire
from ironflow.web.environments import Environments
from ironflow.web.queries import Query
from ironflow.web.routing import Answer, Call, Route
from ironflow.web.scope import bound_environment, check_unbound
from ironflow.web.views import moment


class DeleteEnvironmentQuery(Query, frozen=True):
    """With `force` also while runs have not ended."""

    force: bool = False


def _environments(call: Call[Any, Any]) -> Environments:
    if call.state.environments is None:
        raise Conflict("this process has the default environment only")
    return call.state.environments


def _directory(call: Call[Any, Any]) -> Directory:
    return call.engine.registrar.directory


def _times(one: Named) -> dict[str, str]:
    return {"created_at": moment(one.created_at) or "", "updated_at": moment(one.updated_at) or ""}


def organization_view(one: Named) -> wire.OrganizationView:
    """An organization on the wire."""
    return wire.OrganizationView(id=one.id, name=one.name, **_times(one))


def project_view(one: Named, organization: str) -> wire.ProjectView:
    """A project on the wire."""
    return wire.ProjectView(
        id=one.id, name=one.name, description=one.description, org_id=organization, **_times(one)
    )


def environment_view(one: Named, environments: Environments | None) -> wire.EnvironmentView:
    """An environment on the wire."""
    is_open = one.id == DEFAULT_ENVIRONMENT or (
        environments is not None and environments.engine(one.id) is not None
    )
    return wire.EnvironmentView(
        id=one.id,
        name=one.name,
        project_id=one.parent,
        color=one.color,
        status="active" if is_open else "unavailable",
        **_times(one),
    )


# -- organizations --------------------------------------------------------------------------------


async def list_organizations(call: Call[Query, None]) -> Answer:
    """There is one."""
    return 200, [organization_view(_directory(call).organization)]


async def get_organization(call: Call[Query, None]) -> Answer:
    """The organization."""
    _check_organization(call)
    return 200, organization_view(_directory(call).organization)


async def rename_organization(call: Call[Query, wire.OrganizationRequest]) -> Answer:
    """Call the organization something else."""
    check_unbound(call.request)
    _check_organization(call)
    name = call.body.name
    await call.engine.registrar.record(lambda directory: directory.rename_organization(name))
    return 200, organization_view(_directory(call).organization)


def _check_organization(call: Call[Any, Any]) -> None:
    given, known = call.path["organization"], _directory(call).organization
    if given not in (known.id, known.name):
        raise NotFound("organization", given)


# -- projects -------------------------------------------------------------------------------------


async def list_projects(call: Call[Query, None]) -> Answer:
    """Projects, oldest first."""
    directory, bound = _directory(call), bound_environment(call.request)
    found = list(directory.projects.values())
    if bound is not None:
        found = [one for one in found if one.id == directory.environment(bound).parent]
    return 200, [project_view(one, directory.organization.id) for one in found]


async def create_project(call: Call[Query, wire.ProjectRequest]) -> Answer:
    """Make a project."""
    check_unbound(call.request)
    body, directory = call.body, _directory(call)
    entry = await call.engine.registrar.record(
        lambda directory: directory.create_project(body.name, body.description)
    )
    return 201, project_view(directory.projects[entry.id], directory.organization.id)


async def get_project(call: Call[Query, None]) -> Answer:
    """One project."""
    directory, bound = _directory(call), bound_environment(call.request)
    given = call.path["project"]
    if bound is not None:
        own = directory.projects[directory.environment(bound).parent]
        if given not in (own.id, own.name):
            raise PermissionDenied("this key is bound to an environment of another project")
    return 200, project_view(directory.project(given), directory.organization.id)


async def change_project(call: Call[Query, wire.ProjectChange]) -> Answer:
    """Rename or describe a project."""
    check_unbound(call.request)
    body, directory, given = call.body, _directory(call), call.path["project"]
    entry = await call.engine.registrar.record(
        lambda directory: directory.change_project(given, body.name, body.description)
    )
    return 200, project_view(directory.projects[entry.id], directory.organization.id)


async def delete_project(call: Call[Query, None]) -> Answer:
    """Delete a project that has no environments."""
    check_unbound(call.request)
    given = call.path["project"]
    entry = await call.engine.registrar.record(lambda directory: directory.delete_project(given))
    return 200, wire.Deleted(status="deleted", deleted=entry.id)


# -- environments ---------------------------------------------------------------------------------


class EnvironmentsQuery(Query, frozen=True):
    """Of one project only."""

    project_id: str | None = None


async def list_environments(call: Call[EnvironmentsQuery, None]) -> Answer:
    """Environments, oldest first."""
    directory, bound = _directory(call), bound_environment(call.request)
    found = [one for one in directory.environments.values() if bound in (None, one.id)]
    wanted = call.query.project_id
    if wanted is not None:
        project = directory.project(wanted).id if bound is None else wanted
        found = [one for one in found if one.parent == project]
    return 200, [environment_view(one, call.state.environments) for one in found]


async def create_environment(call: Call[Query, wire.EnvironmentRequest]) -> Answer:
    """Make an environment; it is at work when this answers."""
    check_unbound(call.request)
    body, environments = call.body, _environments(call)
    made = await environments.create(body.name, body.project_id, body.color)
    return 201, environment_view(made, environments)


async def get_environment(call: Call[Query, None]) -> Answer:
    """One environment."""
    return 200, environment_view(_find(call), call.state.environments)


def _find(call: Call[Any, Any]) -> Named:
    directory, bound = _directory(call), bound_environment(call.request)
    given = call.path["environment"]
    if bound is not None and not directory.names(bound, given):
        raise PermissionDenied("this key is bound to another environment")
    return directory.environment(bound or given)


async def change_environment(call: Call[Query, wire.EnvironmentChange]) -> Answer:
    """Rename an environment. Its id stays."""
    check_unbound(call.request)
    body, given = call.body, call.path["environment"]
    entry = await call.engine.registrar.record(
        lambda directory: directory.change_environment(given, body.name, body.color)
    )
    return 200, environment_view(_directory(call).environments[entry.id], call.state.environments)


async def delete_environment(call: Call[DeleteEnvironmentQuery, None]) -> Answer:
    """Delete an environment, everything in it, and its keys."""
    check_unbound(call.request)
    gone = await _environments(call).delete(call.path["environment"], force=call.query.force)
    return 200, wire.Deleted(status="deleted", deleted=gone.id)


_WRITES = (401, 409, 503, 507)

ROUTES = (
    Route(
        method="GET", path="/api/v1/orgs", handle=list_organizations,
        summary="List organizations: there is one", tag="organizations",
        response=list[wire.OrganizationView], statuses={200: "The organization"},
    ),
    Route(
        method="GET", path="/api/v1/orgs/{organization}", handle=get_organization,
        summary="Get the organization", tag="organizations",
        response=wire.OrganizationView, statuses={200: "The organization"}, problems=(404,),
    ),
    Route(
        method="PATCH", path="/api/v1/orgs/{organization}", handle=rename_organization,
        summary="Rename the organization", tag="organizations",
        request=wire.OrganizationRequest, response=wire.OrganizationView,
        statuses={200: "The organization"}, problems=(404, *_WRITES),
    ),
    Route(
        method="GET", path="/api/v1/projects", handle=list_projects,
        summary="List projects", tag="projects",
        response=list[wire.ProjectView], statuses={200: "Projects, oldest first"},
    ),
    Route(
        method="POST", path="/api/v1/projects", handle=create_project,
        summary="Make a project", tag="projects",
        request=wire.ProjectRequest, response=wire.ProjectView,
        statuses={201: "The project"}, problems=_WRITES,
    ),
    Route(
        method="GET", path="/api/v1/projects/{project}", handle=get_project,
        summary="Get a project by its id or name", tag="projects",
        response=wire.ProjectView, statuses={200: "The project"}, problems=(404,),
    ),
    Route(
        method="PUT", path="/api/v1/projects/{project}", handle=change_project,
        summary="Rename or describe a project", tag="projects",
        request=wire.ProjectChange, response=wire.ProjectView,
        statuses={200: "The project"}, problems=(404, *_WRITES),
    ),
    Route(
        method="DELETE", path="/api/v1/projects/{project}", handle=delete_project,
        summary="Delete a project without environments", tag="projects",
        response=wire.Deleted, statuses={200: "It is gone"}, problems=(404, *_WRITES),
    ),
    Route(
        method="GET", path="/api/v1/environments", handle=list_environments,
        summary="List environments", tag="environments", query=EnvironmentsQuery,
        response=list[wire.EnvironmentView], statuses={200: "Environments, oldest first"},
        problems=(404,),
    ),
    Route(
        method="POST", path="/api/v1/environments", handle=create_environment,
        summary="Make an environment",
        details="It has functions, events, runs, keys and workers of its own, in a database of its "
        "own. Requests choose it with a key that is bound to it, or with "
        "`X-Ironflow-Environment-ID` or `X-Ironflow-Environment`.",
        tag="environments",
        request=wire.EnvironmentRequest, response=wire.EnvironmentView,
        statuses={201: "The environment, at work"}, problems=(404, *_WRITES),
    ),
    Route(
        method="GET", path="/api/v1/environments/{environment}", handle=get_environment,
        summary="Get an environment by its id or name", tag="environments",
        response=wire.EnvironmentView, statuses={200: "The environment"}, problems=(404,),
    ),
    Route(
        method="PUT", path="/api/v1/environments/{environment}", handle=change_environment,
        summary="Rename an environment; its id stays", tag="environments",
        request=wire.EnvironmentChange, response=wire.EnvironmentView,
        statuses={200: "The environment"}, problems=(404, *_WRITES),
    ),
    Route(
        method="DELETE", path="/api/v1/environments/{environment}", handle=delete_environment,
        summary="Delete an environment and everything in it", tag="environments",
        details="Its runs, events and functions are gone for good, and its keys are refused. "
        "While runs have not ended it takes `force`.",
        query=DeleteEnvironmentQuery,
        response=wire.Deleted, statuses={200: "It is gone"}, problems=(404, *_WRITES),
    ),
)  # fmt: skip
