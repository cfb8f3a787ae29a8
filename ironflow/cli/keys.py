"""`ironflow keys ...`."""

from __future__ import annotations

import click
import msgspec

from ironflow.cli import moments
from ironflow.cli.client import connect, decode, segment
from ironflow.cli.options import VerbGroup, json_option, server_option
from ironflow.cli.output import Column, print_body, print_items, print_table
from ironflow.web.wire.access import KeyPage, KeyView, NewKeyView


@click.group(cls=VerbGroup)
def keys() -> None:
    """List, make, revoke and rotate the keys of the API.

    Once there is a key every request needs one; verbs take it from
    IRONFLOW_API_KEY.

    Examples:
      ironflow keys create ops --role admin
      ironflow keys ls
    """


@keys.command("create")
@click.argument("name")
@click.option("--role", "roles", multiple=True, default=("developer",), show_default=True,
              metavar="ROLE", help="What it may do: viewer, worker, developer, admin or a role of "
              "your own; may be given several times.")  # fmt: skip
@click.option("--env", "environment", metavar="ENVIRONMENT",
              help="Id or name of the environment that it is bound to; default: none.")  # fmt: skip
@click.option("--expires", metavar="DURATION", help="How long it is good, such as 90d.")
@server_option
@json_option
def create_key(
    *,
    name: str,
    roles: tuple[str, ...],
    environment: str | None,
    expires: str | None,
    server: str,
    as_json: bool,
) -> None:
    """Make a key called NAME. It is shown this once.

    Example:
      ironflow keys create ci --role developer --expires 90d
    """
    asked = {
        "name": name, "roles": list(roles), "environment": environment, "expires_in": expires
    }  # fmt: skip
    body = connect(server).post("/keys", asked)
    if as_json:
        print_body(body)
        return
    print(decode(body, NewKeyView).secret)


@keys.command("ls")
@server_option
@json_option
def list_keys(*, server: str, as_json: bool) -> None:
    """List every key, newest first. Keys themselves are known to nobody.

    Example:
      ironflow keys ls --json | jq -r 'select(.status == "active").id'
    """
    page = decode(connect(server).get("/keys"), KeyPage)
    if as_json:
        print_items([msgspec.json.encode(key) for key in page.items])
        return
    rows = [
        [key.id, key.name, ", ".join(key.roles), key.environment or "all", key.status,
         f"{key.shown}...", moments.ago(key.created_at),
         moments.ago(key.last_used_at) if key.last_used_at else "never",
         moments.full(key.expires_at) if key.expires_at else "", key.reason]
        for key in page.items
    ]  # fmt: skip
    columns = [
        Column("id"),
        Column("name", wide=True),
        Column("role"),
        Column("environment"),
        Column("status"),
        Column("key"),
        Column("created"),
        Column("used"),
        Column("good until"),
        Column("reason", note=True),
    ]
    empty = "no keys: nobody is asked for one; make the first with `ironflow keys create NAME`"
    print_table(columns, rows, empty=empty)


@keys.command("revoke")
@click.argument("key")
@server_option
@json_option
def revoke_key(*, key: str, server: str, as_json: bool) -> None:
    """Refuse KEY (its id) from now on.

    Example:
      ironflow keys revoke 01a213de-eea2-74dd-ae25-0faa026fc594
    """
    body = connect(server).request("DELETE", f"/keys/{segment(key)}")
    if as_json:
        print_body(body)
        return
    view = decode(body, KeyView)
    print(f"{view.name} ({view.shown}...) is {view.status}")


@keys.command("rotate")
@click.argument("key")
@click.option("--grace", default="24h", show_default=True, metavar="DURATION",
              help="How long the old one stays good, at most 7d.")  # fmt: skip
@server_option
@json_option
def rotate_key(*, key: str, grace: str, server: str, as_json: bool) -> None:
    """Replace KEY (its id) by a new one, which is shown this once.

    Example:
      ironflow keys rotate 01a213de-eea2-74dd-ae25-0faa026fc594 --grace 1h
    """
    body = connect(server).post(f"/keys/{segment(key)}/rotate", {"grace": grace})
    if as_json:
        print_body(body)
        return
    print(decode(body, NewKeyView).secret)
