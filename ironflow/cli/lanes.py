"""`ironflow lanes ...`."""

from __future__ import annotations

import click
import msgspec

from ironflow.cli.client import connect, decode, segment
from ironflow.cli.options import VerbGroup, json_option, server_option
from ironflow.cli.output import Column, print_body, print_fields, print_items, print_table
from ironflow.cli.run_ids import short_id
from ironflow.web.wire import LanePage, LaneView


@click.group(cls=VerbGroup)
def lanes() -> None:
    """List and show lanes: which runs execute in them, and which wait.

    Example:
      ironflow lanes ls
    """


@lanes.command("ls")
@server_option
@json_option
def list_lanes(*, server: str, as_json: bool) -> None:
    """List every lane in which anybody executes or waits.

    Example:
      ironflow lanes ls --json | jq -r 'select(.waiting != []).name'
    """
    page = decode(connect(server).get("/lanes"), LanePage)
    if as_json:
        print_items([msgspec.json.encode(lane) for lane in page.items])
        return
    rows = [
        [lane.name, f"{len(lane.holders)}/{lane.limit}", str(len(lane.waiting)),
         ", ".join(map(short_id, lane.holders))]
        for lane in page.items
    ]  # fmt: skip
    columns = [
        Column("lane", wide=True),
        Column("executing", right=True),
        Column("waiting", right=True),
        Column("runs", note=True),
    ]
    print_table(columns, rows, empty="every lane is empty")


@lanes.command("show")
@click.argument("lane")
@server_option
@json_option
def show_lane(*, lane: str, server: str, as_json: bool) -> None:
    """Show one LANE: every run that executes in it, and who waits, in order.

    Example:
      ironflow lanes show 'checkout#0:"org-7"'
    """
    body = connect(server).get(f"/lanes/{segment(lane)}")
    if as_json:
        print_body(body)
        return
    view = decode(body, LaneView)
    print_fields(
        [
            ("lane", view.name),
            ("function", view.function_id),
            ("limit", str(view.limit)),
            ("executing", "\n".join(view.holders)),
            ("waiting", "\n".join(view.waiting)),
        ]
    )
