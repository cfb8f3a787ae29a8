"""`ironflow roles ...` and `ironflow policies ...`."""

from __future__ import annotations

from collections.abc import Sequence

import click
import msgspec

from ironflow.cli.client import connect, decode, segment
from ironflow.cli.failures import Failed
from ironflow.cli.options import (
    VerbGroup,
    confirm_removal,
    json_option,
    removal_options,
    server_option,
)
from ironflow.cli.output import Column, print_body, print_items, print_table
from ironflow.web.access_wire import Deleted, PolicyDecision, PolicyView, RoleView


@click.group(cls=VerbGroup)
def roles() -> None:
    """List, make, show and remove roles: what keys may do.

    A role is a set of policies; admin, developer, worker and viewer are built in.

    Examples:
      ironflow policies create orders --allow --action runs:read --resource "$IRN"
      ironflow roles create order-desk --policy orders
      ironflow keys create desk --role order-desk
    """


@roles.command("ls")
@server_option
@json_option
def list_roles(*, server: str, as_json: bool) -> None:
    """List roles, the built-in ones first.

    Example:
      ironflow roles ls
    """
    found = decode(connect(server).get("/roles"), list[RoleView])
    if as_json:
        print_items([msgspec.json.encode(one) for one in found])
        return
    _print_roles(found)


def _print_roles(found: Sequence[RoleView]) -> None:
    rows = [
        [r.id, r.name, str(r.api_key_count), "built in" if r.is_default else ", ".join(r.policies)]
        for r in found
    ]
    columns = [
        Column("id"),
        Column("name", wide=True),
        Column("keys"),
        Column("policies", note=True),
    ]
    print_table(columns, rows, empty="no roles")


@roles.command("create")
@click.argument("name")
@click.option("--policy", "policies", multiple=True, required=True, metavar="POLICY",
              help="Id or name of a policy; may be given several times.")  # fmt: skip
@server_option
@json_option
def create_role(*, name: str, policies: tuple[str, ...], server: str, as_json: bool) -> None:
    """Make a role called NAME of policies.

    Example:
      ironflow roles create order-desk --policy orders --policy no-refunds
    """
    body = connect(server).post("/roles", {"name": name, "policies": list(policies)})
    if as_json:
        print_body(body)
        return
    print(decode(body, RoleView).id)


@roles.command("show")
@click.argument("role")
@server_option
@json_option
def show_role(*, role: str, server: str, as_json: bool) -> None:
    """Show ROLE (its id or name).

    Example:
      ironflow roles show developer --json | jq .actions
    """
    body = connect(server).get(f"/roles/{segment(role)}")
    if as_json:
        print_body(body)
        return
    view = decode(body, RoleView)
    _print_roles([view])
    if view.actions:
        print("\nmay, with everything: " + ", ".join(view.actions))


@roles.command("rm")
@click.argument("role")
@removal_options
@server_option
@json_option
def remove_role(*, role: str, dry_run: bool, yes: bool, server: str, as_json: bool) -> None:
    """Remove ROLE (its id or name), which no key may have.

    Example:
      ironflow roles rm order-desk --yes
    """
    client, path = connect(server), f"/roles/{segment(role)}"
    view = decode(client.get(path), RoleView)
    if not confirm_removal(f"{view.id} ({view.name})", dry_run=dry_run, yes=yes):
        return
    _print_deleted(client.request("DELETE", path, None, None, 0.0), as_json=as_json)


def _print_deleted(body: bytes, *, as_json: bool) -> None:
    if as_json:
        print_body(body)
        return
    print(f"{decode(body, Deleted).deleted} is gone")


@click.group(cls=VerbGroup)
def policies() -> None:
    """List, make, show, try and remove policies.

    A policy allows or denies actions (runs:cancel, runs:*, *) on things named by
    patterns irn:ironflow:ORGANIZATION:PROJECT:TYPE:ENVIRONMENT:ID. What one denies
    is denied, whatever others allow.

    Examples:
      ironflow policies create no-cancel --deny --action runs:cancel --resource "$IRN"
      ironflow policies check --role developer --action runs:cancel --resource "$IRN"
    """


@policies.command("ls")
@server_option
@json_option
def list_policies(*, server: str, as_json: bool) -> None:
    """List policies, oldest first.

    Example:
      ironflow policies ls
    """
    found = decode(connect(server).get("/policies"), list[PolicyView])
    if as_json:
        print_items([msgspec.json.encode(one) for one in found])
        return
    _print_policies(found)


def _print_policies(found: Sequence[PolicyView]) -> None:
    rows = [[p.id, p.name, p.effect, ", ".join(p.actions), ", ".join(p.resources)] for p in found]
    columns = [Column("id"), Column("name", wide=True), Column("effect"), Column("actions"),
               Column("resources", note=True)]  # fmt: skip
    print_table(columns, rows, empty="no policies: built-in roles need none")


@policies.command("create")
@click.argument("name")
@click.option("--allow/--deny", "allows", required=True, help="What it does with them.")
@click.option("--action", "actions", multiple=True, required=True, metavar="ACTION",
              help="Such as runs:cancel, runs:* or *; may be given several times.")  # fmt: skip
@click.option("--resource", "resources", multiple=True, required=True, metavar="IRN",
              help="A pattern of IRNs; may be given several times.")  # fmt: skip
@click.option("--description", default="", metavar="TEXT", help="What it is for.")
@server_option
@json_option
def create_policy(
    *,
    name: str,
    allows: bool,
    actions: tuple[str, ...],
    resources: tuple[str, ...],
    description: str,
    server: str,
    as_json: bool,
) -> None:
    """Make a policy called NAME.

    Example:
      ironflow policies create orders --allow --action runs:read --resource "$IRN"
    """
    body = connect(server).post(
        "/policies",
        {
            "name": name,
            "effect": "allow" if allows else "deny",
            "actions": list(actions),
            "resources": list(resources),
            "description": description,
        },
    )
    if as_json:
        print_body(body)
        return
    print(decode(body, PolicyView).id)


@policies.command("show")
@click.argument("policy")
@server_option
@json_option
def show_policy(*, policy: str, server: str, as_json: bool) -> None:
    """Show POLICY (its id or name).

    Example:
      ironflow policies show orders
    """
    body = connect(server).get(f"/policies/{segment(policy)}")
    if as_json:
        print_body(body)
        return
    _print_policies([decode(body, PolicyView)])


@policies.command("rm")
@click.argument("policy")
@removal_options
@server_option
@json_option
def remove_policy(*, policy: str, dry_run: bool, yes: bool, server: str, as_json: bool) -> None:
    """Remove POLICY (its id or name), which no role may have.

    Example:
      ironflow policies rm orders --yes
    """
    client, path = connect(server), f"/policies/{segment(policy)}"
    view = decode(client.get(path), PolicyView)
    if not confirm_removal(f"{view.id} ({view.name})", dry_run=dry_run, yes=yes):
        return
    _print_deleted(client.request("DELETE", path, None, None, 0.0), as_json=as_json)


@policies.command("check")
@click.option("--key", metavar="ID", help="Id of a key (see `ironflow keys ls`).")
@click.option("--role", "roles_", multiple=True, metavar="ROLE",
              help="Instead of a key: a role; may be given several times.")  # fmt: skip
@click.option("--action", required=True, metavar="ACTION", help="Such as runs:cancel.")
@click.option("--resource", required=True, metavar="IRN", help="The thing; id * means all of them.")
@server_option
@json_option
def check_policies(
    *,
    key: str | None,
    roles_: tuple[str, ...],
    action: str,
    resource: str,
    server: str,
    as_json: bool,
) -> None:
    """Say whether a key or roles may do something, and who decides. Does nothing.

    The exit code is 1 when it is denied.

    Example:
      ironflow policies check --role viewer --action runs:cancel --resource "$IRN"
    """
    asked = {"key": key, "roles": list(roles_), "action": action, "resource": resource}
    body = connect(server).post("/policies/check", asked)
    view = decode(body, PolicyDecision)
    if as_json:
        print_body(body)
    else:
        print(f"{'allowed' if view.allowed else 'denied'}: {view.reason}")
    if not view.allowed:
        raise Failed("")
