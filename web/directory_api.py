"""The organization, its projects and environments. Served by the application of the default
environment, whatever environment a request is for; a key that is bound to one sees only that.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ironflow.core.access.directory import DEFAULT_ENVIRONMENT, Named
from ironflow.core.access.keys import PermissionDenied
from ironflow.core.errors import Conflict, NotFound
from ironflow.web.environments import Environments
from ironflow.web.named import WRITES, AnyCall, Things, directory_of, recorded
from ironflow.web.queries import Query
from ironflow.web.routing import Answer, Call, Route
from ironflow.web.scope import bound_environment, check_unbound
from ironflow.web.views import moment
from ironflow.web.wire import access as wire


def _environments(call: AnyCall) -> Environments:
    if call.state.environments is None:
        raise Conflict("this process has the default environment only")
    return call.state.environments


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
    return 200, [organization_view(directory_of(call).organization)]


async def get_organization(call: Call[Query, None]) -> Answer:
    """The organization."""
    _check_organization(call)
    return 200, organization_view(directory_of(call).organization)


async def rename_organization(call: Call[Query, wire.OrganizationRequest]) -> Answer:
    """Call the organization something else."""
    check_unbound(call.request)
    _check_organization(call)
    name = call.body.name
    await call.engine.registrar.record(lambda directory: directory.rename_organization(name))
    return 200, organization_view(directory_of(call).organization)


def _check_organization(call: AnyCall) -> None:
    given, known = call.path["organization"], directory_of(call).organization
    if given not in (known.id, known.name):
        raise NotFound("organization", given)


# -- projects -------------------------------------------------------------------------------------


def _every_project(call: AnyCall) -> Iterable[Named]:
    directory, bound = directory_of(call), bound_environment(call.request)
    found = list(directory.projects.values())
    if bound is None:
        return found
    return [one for one in found if one.id == directory.environment(bound).parent]


def _find_project(call: AnyCall, given: str) -> Named:
    directory, bound = directory_of(call), bound_environment(call.request)
    if bound is not None:
        own = directory.projects[directory.environment(bound).parent]
        if given not in (own.id, own.name):
            raise PermissionDenied("this key is bound to an environment of another project")
    return directory.project(given)


PROJECTS = Things(
    one="project",
    many="projects",
    response=wire.ProjectView,
    find=_find_project,
    view=lambda call, one: project_view(one, directory_of(call).organization.id),
    check=check_unbound,
)

# -- environments ---------------------------------------------------------------------------------


class EnvironmentsQuery(Query, frozen=True):
    """Of one project only."""

    project_id: str | None = None


class DeleteEnvironmentQuery(Query, frozen=True):
    """With `force` also while runs have not ended."""

    force: bool = False


def _every_environment(call: Call[EnvironmentsQuery, Any]) -> Iterable[Named]:
    directory, bound = directory_of(call), bound_environment(call.request)
    found = [one for one in directory.environments.values() if bound in (None, one.id)]
    wanted = call.query.project_id
    if wanted is None:
        return found
    project = directory.project(wanted).id if bound is None else wanted
    return [one for one in found if one.parent == project]


def _find_environment(call: AnyCall, given: str) -> Named:
    directory, bound = directory_of(call), bound_environment(call.request)
    if bound is not None and not directory.names(bound, given):
        raise PermissionDenied("this key is bound to another environment")
    return directory.environment(bound or given)


async def _create_environment(call: Call[Query, wire.EnvironmentRequest]) -> str:
    body = call.body
    return (await _environments(call).create(body.name, body.project_id, body.color)).id


async def _delete_environment(call: Call[DeleteEnvironmentQuery, None]) -> str:
    given, force = call.path["environment"], call.query.force
    return (await _environments(call).delete(given, force=force)).id


ENVIRONMENTS = Things(
    one="environment",
    many="environments",
    response=wire.EnvironmentView,
    find=_find_environment,
    view=lambda call, one: environment_view(one, call.state.environments),
    check=check_unbound,
)

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
        statuses={200: "The organization"}, problems=(404, *WRITES),
    ),
    PROJECTS.list_all(_every_project, summary="List projects", meaning="Projects, oldest first"),
    PROJECTS.create(
        recorded(lambda call, directory: directory.create_project(
            call.body.name, call.body.description
        )),
        summary="Make a project", meaning="The project",
        request=wire.ProjectRequest, problems=WRITES,
    ),
    PROJECTS.get(summary="Get a project by its id or name"),
    PROJECTS.change(
        "PUT",
        recorded(lambda call, directory: directory.change_project(
            call.path["project"], call.body.name, call.body.description
        )),
        summary="Rename or describe a project", request=wire.ProjectChange,
    ),
    PROJECTS.delete(
        recorded(lambda call, directory: directory.delete_project(call.path["project"])),
        summary="Delete a project without environments",
    ),
    ENVIRONMENTS.list_all(
        _every_environment, summary="List environments", meaning="Environments, oldest first",
        query=EnvironmentsQuery, problems=(404,),
    ),
    ENVIRONMENTS.create(
        _create_environment,
        summary="Make an environment", meaning="The environment, at work",
        details="It has functions, events, runs, keys and workers of its own, in a database of its "
        "own. Requests choose it with a key that is bound to it, or with "
        "`X-Ironflow-Environment-ID` or `X-Ironflow-Environment`.",
        request=wire.EnvironmentRequest, problems=(404, *WRITES),
    ),
    ENVIRONMENTS.get(summary="Get an environment by its id or name"),
    ENVIRONMENTS.change(
        "PUT",
        recorded(lambda call, directory: directory.change_environment(
            call.path["environment"], call.body.name, call.body.color
        )),
        summary="Rename an environment; its id stays", request=wire.EnvironmentChange,
    ),
    ENVIRONMENTS.delete(
        _delete_environment,
        summary="Delete an environment and everything in it",
        details="Its runs, events and functions are gone for good, and its keys are refused. "
        "While runs have not ended it takes `force`.",
        query=DeleteEnvironmentQuery,
    ),
)  # fmt: skip
