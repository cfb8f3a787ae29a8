"""`ironflow lanes ...`."""

from __future__ import annotations

import click

from ironflow.cli import moments
from ironflow.cli.client import connect, decode, segment
from ironflow.cli.options import VerbGroup, json_option, limit_option, server_option
from ironflow.cli.output import Column, print_body, print_fields, print_items, print_table
from ironflow.cli.run_ids import short_id
from ironflow.core.durations import format_duration
from ironflow.web.wire.lanes import LaneView

SHOWN = 3
"""Runs of a lane in a list of lanes."""


@click.group(cls=VerbGroup)
def lanes() -> None:
    """List and show lanes: which runs execute in them, and which wait.

    Example:
      ironflow lanes ls
    """


@lanes.command("ls")
@click.option("--function", metavar="ID", help="Only those of one function.")
@limit_option
@server_option
@json_option
def list_lanes(*, function: str | None, limit: int, server: str, as_json: bool) -> None:
    """List every lane in which anybody executes, waits, or counts for a throttle or a rate limit.

    Example:
      ironflow lanes ls --json | jq -r 'select(.waiting != []).name'
    """
    items = connect(server).items("/lanes", {"function_id": function}, limit)
    if as_json:
        print_items(items)
        return
    rows = [
        [lane.name, _policy(lane), f"{lane.held}/{lane.limit}", str(lane.queued),
         moments.ago(lane.opens_at) if lane.opens_at else "",
         ", ".join(map(short_id, lane.holders[:SHOWN])) + (", ..." if lane.held > SHOWN else "")]
        for lane in (decode(item, LaneView) for item in items)
    ]  # fmt: skip
    columns = [
        Column("lane", wide=True),
        Column("policy"),
        Column("in use", right=True),
        Column("waiting", right=True),
        Column("opens"),
        Column("runs", note=True),
    ]
    print_table(columns, rows, empty="every lane is empty")


@lanes.command("show")
@click.argument("lane")
@server_option
@json_option
def show_lane(*, lane: str, server: str, as_json: bool) -> None:
    """Show one LANE: every run that is in it, and who waits, in which order and why.

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
            ("policy", _policy(view)),
            ("in use", f"{view.held} of {view.limit}"),
            ("opens", f"{moments.full(view.opens_at)}  ({moments.ago(view.opens_at)})"
             if view.opens_at else ""),
            ("why", view.reason or ""),
            ("runs", "\n".join(view.holders)),
            ("waiting", "" if view.queued else "nobody"),
        ]
    )  # fmt: skip
    if not view.queued:
        return
    rows = [
        [str(number), each.run_id, moments.ago(each.since), str(each.priority), each.share or ""]
        for number, each in enumerate(view.line, start=1)
    ]
    columns = [
        Column("next", right=True),
        Column("run", wide=True),
        Column("since"),
        Column("priority", right=True),
        Column("share", note=True),
    ]
    print_table(columns, rows, empty="nobody waits")
    if view.queued > len(view.line):
        click.echo(f"and {view.queued - len(view.line)} more", err=True)


def _policy(lane: LaneView) -> str:
    if lane.period is None:
        return lane.policy
    return f"{lane.policy.replace('_', ' ')} in {format_duration(lane.period)}"
