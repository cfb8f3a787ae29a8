"""`ironflow roles ...` and `ironflow policies ...`."""

from __future__ import annotations

import click

from ironflow.cli.client import connect, decode
from ironflow.cli.failures import Failed
from ironflow.cli.named import Things
from ironflow.cli.options import VerbGroup, json_option, server_option
from ironflow.cli.output import Column, print_body
from ironflow.web.wire.access import PolicyDecision, PolicyView, RoleView


@click.group(cls=VerbGroup)
def roles() -> None:
    """List, make, show and remove roles: what keys may do.

    A role is a set of policies; admin, developer, worker and viewer are built in.

    Examples:
      ironflow policies create orders --allow --action runs:read --resource "$IRN"
      ironflow roles create order-desk --policy orders
      ironflow keys create desk --role order-desk
    """


ROLES = Things(
    group=roles,
    one="role",
    path="/roles",
    view=RoleView,
    columns=(
        Column("id"),
        Column("name", wide=True),
        Column("keys"),
        Column("policies", note=True),
    ),
    row=lambda view: [
        view.id,
        view.name,
        str(view.api_key_count),
        "built in" if view.is_default else ", ".join(view.policies),
    ],
    empty="no roles",
)
ROLES.add_list(
    """List roles, the built-in ones first.

    Example:
      ironflow roles ls
    """
)


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
    ROLES.create(server, {"name": name, "policies": list(policies)}, as_json=as_json)


def _print_actions(view: RoleView) -> None:
    if view.actions:
        print("\nmay, with everything: " + ", ".join(view.actions))


ROLES.add_show(
    """Show ROLE (its id or name).

    Example:
      ironflow roles show developer --json | jq .actions
    """,
    _print_actions,
)
ROLES.add_remove(
    """Remove ROLE (its id or name), which no key may have.

    Example:
      ironflow roles rm order-desk --yes
    """
)


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


POLICIES = Things(
    group=policies,
    one="policy",
    path="/policies",
    view=PolicyView,
    columns=(
        Column("id"),
        Column("name", wide=True),
        Column("effect"),
        Column("actions"),
        Column("resources", note=True),
    ),
    row=lambda view: [
        view.id,
        view.name,
        view.effect,
        ", ".join(view.actions),
        ", ".join(view.resources),
    ],
    empty="no policies: built-in roles need none",
)
POLICIES.add_list(
    """List policies, oldest first.

    Example:
      ironflow policies ls
    """
)


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
    asked = {
        "name": name,
        "effect": "allow" if allows else "deny",
        "actions": list(actions),
        "resources": list(resources),
        "description": description,
    }
    POLICIES.create(server, asked, as_json=as_json)


POLICIES.add_show(
    """Show POLICY (its id or name).

    Example:
      ironflow policies show orders
    """
)
POLICIES.add_remove(
    """Remove POLICY (its id or name), which no role may have.

    Example:
      ironflow policies rm orders --yes
    """
)


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
