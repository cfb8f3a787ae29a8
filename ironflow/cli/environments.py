"""`ironflow environments ...` and `ironflow projects ...`."""

from __future__ import annotations

from collections.abc import Sequence

import click
import msgspec

from ironflow.cli import moments
from ironflow.cli.client import connect, decode, segment
from ironflow.cli.options import (
    VerbGroup,
    confirm_removal,
    json_option,
    removal_options,
    server_option,
)
from ironflow.cli.output import Column, print_body, print_items, print_table
from ironflow.web.access_wire import Deleted, EnvironmentView, ProjectView


@click.group(cls=VerbGroup)
def environments() -> None:
    """List, make, show, rename and remove environments.

    Each has functions, events, runs, workers and keys of its own. A verb asks in
    the one that `ironflow --env NAME` or IRONFLOW_ENV names, else in its key's.

    Examples:
      ironflow environments create staging
      ironflow --env staging runs ls
    """


@environments.command("ls")
@server_option
@json_option
def list_environments(*, server: str, as_json: bool) -> None:
    """List environments, oldest first.

    Example:
      ironflow environments ls --json | jq -r .id
    """
    found = decode(connect(server).get("/environments"), list[EnvironmentView])
    if as_json:
        print_items([msgspec.json.encode(one) for one in found])
        return
    _print_environments(found)


def _print_environments(found: Sequence[EnvironmentView]) -> None:
    rows = [[e.id, e.name, e.project_id, e.status, moments.ago(e.created_at)] for e in found]
    columns = [Column("id"), Column("name", wide=True), Column("project"), Column("status"),
               Column("created")]  # fmt: skip
    print_table(columns, rows, empty="no environments")


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
    body = connect(server).post("/environments", {"name": name, "project_id": project})
    if as_json:
        print_body(body)
        return
    print(decode(body, EnvironmentView).id)


@environments.command("show")
@click.argument("environment")
@server_option
@json_option
def show_environment(*, environment: str, server: str, as_json: bool) -> None:
    """Show ENVIRONMENT (its id or name).

    Example:
      ironflow environments show staging
    """
    body = connect(server).get(f"/environments/{segment(environment)}")
    if as_json:
        print_body(body)
        return
    _print_environments([decode(body, EnvironmentView)])


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
    path = f"/environments/{segment(environment)}"
    body = connect(server).request("PUT", path, None, msgspec.json.encode({"name": name}), 0.0)
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
    client, path = connect(server), f"/environments/{segment(environment)}"
    view = decode(client.get(path), EnvironmentView)
    what = f"{view.id} ({view.name}), everything in it and its keys"
    if not confirm_removal(what, dry_run=dry_run, yes=yes):
        return
    body = client.request("DELETE", path, {"force": "true"} if force else None, None, 60.0)
    if as_json:
        print_body(body)
        return
    print(f"{decode(body, Deleted).deleted} is gone")


@click.group(cls=VerbGroup)
def projects() -> None:
    """List, make, show and remove projects: what environments belong to.

    Example:
      ironflow projects create shop
    """


@projects.command("ls")
@server_option
@json_option
def list_projects(*, server: str, as_json: bool) -> None:
    """List projects, oldest first.

    Example:
      ironflow projects ls
    """
    found = decode(connect(server).get("/projects"), list[ProjectView])
    if as_json:
        print_items([msgspec.json.encode(one) for one in found])
        return
    _print_projects(found)


def _print_projects(found: Sequence[ProjectView]) -> None:
    rows = [[p.id, p.name, moments.ago(p.created_at), p.description] for p in found]
    columns = [Column("id"), Column("name", wide=True), Column("created"),
               Column("description", note=True)]  # fmt: skip
    print_table(columns, rows, empty="no projects")


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
    body = connect(server).post("/projects", {"name": name, "description": description})
    if as_json:
        print_body(body)
        return
    print(decode(body, ProjectView).id)


@projects.command("show")
@click.argument("project")
@server_option
@json_option
def show_project(*, project: str, server: str, as_json: bool) -> None:
    """Show PROJECT (its id or name).

    Example:
      ironflow projects show shop
    """
    body = connect(server).get(f"/projects/{segment(project)}")
    if as_json:
        print_body(body)
        return
    _print_projects([decode(body, ProjectView)])


@projects.command("rm")
@click.argument("project")
@removal_options
@server_option
@json_option
def remove_project(*, project: str, dry_run: bool, yes: bool, server: str, as_json: bool) -> None:
    """Remove PROJECT (its id or name), which must have no environments.

    Example:
      ironflow projects rm shop --yes
    """
    client, path = connect(server), f"/projects/{segment(project)}"
    view = decode(client.get(path), ProjectView)
    if not confirm_removal(f"{view.id} ({view.name})", dry_run=dry_run, yes=yes):
        return
    body = client.request("DELETE", path, None, None, 0.0)
    if as_json:
        print_body(body)
        return
    print(f"{decode(body, Deleted).deleted} is gone")
