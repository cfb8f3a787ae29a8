"""`ironflow environments ...` and `ironflow projects ...`."""

from __future__ import annotations

import click
import msgspec

from ironflow.cli import moments
from ironflow.cli.client import connect, decode
from ironflow.cli.named import Things
from ironflow.cli.options import VerbGroup, json_option, removal_options, server_option
from ironflow.cli.output import Column, print_body
from ironflow.web.wire.access import EnvironmentView, ProjectView


@click.group(cls=VerbGroup)
def environments() -> None:
    """List, make, show, rename and remove environments.

    Each has functions, events, runs, workers and keys of its own. A verb asks in
    the one that `ironflow --env NAME` or IRONFLOW_ENV names, else in its key's.

    Examples:
      ironflow environments create staging
      ironflow --env staging runs ls
    """


ENVIRONMENTS = Things(
    group=environments,
    one="environment",
    path="/environments",
    view=EnvironmentView,
    columns=(
        Column("id"),
        Column("name", wide=True),
        Column("project"),
        Column("status"),
        Column("created"),
    ),
    row=lambda view: [
        view.id,
        view.name,
        view.project_id,
        view.status,
        moments.ago(view.created_at),
    ],
    empty="no environments",
)
ENVIRONMENTS.add_list(
    """List environments, oldest first.

    Example:
      ironflow environments ls --json | jq -r .id
    """
)


@environments.command("create")
@click.argument("name")
@click.option("--project", metavar="PROJECT", help="Id or name; default: the default project.")
@server_option
@json_option
def create_environment(*, name: str, project: str | None, server: str, as_json: bool) -> None:
    """Make an environment called NAME; it is at work at once.

    Example:
      ironflow environments create staging --project shop
    """
    ENVIRONMENTS.create(server, {"name": name, "project_id": project}, as_json=as_json)


ENVIRONMENTS.add_show(
    """Show ENVIRONMENT (its id or name).

    Example:
      ironflow environments show staging
    """
)


@environments.command("rename")
@click.argument("environment")
@click.argument("name")
@server_option
@json_option
def rename_environment(*, environment: str, name: str, server: str, as_json: bool) -> None:
    """Call ENVIRONMENT (its id or name) NAME. Its id stays.

    Example:
      ironflow environments rename staging preview
    """
    path, asked = ENVIRONMENTS.path_of(environment), msgspec.json.encode({"name": name})
    body = connect(server).request("PUT", path, body=asked)
    if as_json:
        print_body(body)
        return
    view = decode(body, EnvironmentView)
    print(f"{view.id} is called {view.name}")


@environments.command("rm")
@click.argument("environment")
@click.option("--force", is_flag=True, help="Also while runs have not ended.")
@removal_options
@server_option
@json_option
def remove_environment(
    *, environment: str, force: bool, dry_run: bool, yes: bool, server: str, as_json: bool
) -> None:
    """Remove ENVIRONMENT (its id or name), all that is in it, and its keys.

    Example:
      ironflow environments rm staging --yes
    """
    ENVIRONMENTS.remove(
        environment,
        ", everything in it and its keys",
        server,
        dry_run=dry_run,
        yes=yes,
        as_json=as_json,
        query={"force": "true"} if force else None,
        wait=60.0,
    )


@click.group(cls=VerbGroup)
def projects() -> None:
    """List, make, show and remove projects: what environments belong to.

    Example:
      ironflow projects create shop
    """


PROJECTS = Things(
    group=projects,
    one="project",
    path="/projects",
    view=ProjectView,
    columns=(
        Column("id"),
        Column("name", wide=True),
        Column("created"),
        Column("description", note=True),
    ),
    row=lambda view: [view.id, view.name, moments.ago(view.created_at), view.description],
    empty="no projects",
)
PROJECTS.add_list(
    """List projects, oldest first.

    Example:
      ironflow projects ls
    """
)


@projects.command("create")
@click.argument("name")
@click.option("--description", default="", metavar="TEXT", help="What it is for.")
@server_option
@json_option
def create_project(*, name: str, description: str, server: str, as_json: bool) -> None:
    """Make a project called NAME.

    Example:
      ironflow projects create shop --description "all that the shop runs"
    """
    PROJECTS.create(server, {"name": name, "description": description}, as_json=as_json)


PROJECTS.add_show(
    """Show PROJECT (its id or name).

    Example:
      ironflow projects show shop
    """
)
PROJECTS.add_remove(
    """Remove PROJECT (its id or name), which must have no environments.

    Example:
      ironflow projects rm shop --yes
    """
)
