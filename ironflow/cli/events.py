"""`ironflow events ...`."""

from __future__ import annotations

import click

from ironflow.cli import moments
from ironflow.cli.client import connect, decode, segment
from ironflow.cli.options import Moment, VerbGroup, json_option, limit_option, server_option
from ironflow.cli.output import (
    Column,
    pretty,
    print_body,
    print_fields,
    print_heading,
    print_items,
    print_table,
)
from ironflow.cli.run_ids import short_id
from ironflow.web.wire.events import EventView

LONGEST_DATA = 80


@click.group(cls=VerbGroup)
def events() -> None:
    """List and show events.

    Example:
      ironflow events ls --name order.placed --since 1h
    """


@events.command("ls")
@click.option("--name", metavar="NAME", help="Only events of this name.")
@click.option("--since", type=Moment(), help="Emitted then or later: a moment, or `2h` for ago.")
@click.option("--until", type=Moment(), help="Emitted before then.")
@limit_option
@server_option
@json_option
def list_events(
    *,
    name: str | None,
    since: str | None,
    until: str | None,
    limit: int,
    server: str,
    as_json: bool,
) -> None:
    """List events, newest first.

    Example:
      ironflow events ls --name order.placed --json
    """
    items = connect(server).items("/events", {"name": name, "since": since, "until": until}, limit)
    if as_json:
        print_items(items)
        return
    rows = []
    for item in items:
        event = decode(item, EventView)
        data = pretty(event.data).replace("\n", " ")
        rows.append(
            [
                event.id,
                event.name,
                moments.ago(event.at),
                event.source,
                ", ".join(short_id(run_id) for run_id in event.run_ids),
                data if len(data) <= LONGEST_DATA else data[: LONGEST_DATA - 1] + "…",
            ]
        )
    columns = [
        Column("event", wide=True),
        Column("name", wide=True),
        Column("emitted"),
        Column("source", wide=True),
        Column("runs", wide=True),
        Column("data", note=True),
    ]
    print_table(columns, rows, empty="no events")


def print_outcomes(view: EventView) -> None:
    """What became of an event at each function that it concerned."""
    rows = [[one.function_id, one.fate, one.run_id or "", one.text] for one in view.outcomes]
    columns = [
        Column("function", wide=True),
        Column("fate"),
        Column("run", wide=True),
        Column("", note=True),
    ]
    print_heading("what became of it")
    if rows:
        print_table(columns, rows)
    else:
        print("no function has a trigger for it; a run that waited for it went on")


@events.command("show")
@click.argument("event")
@server_option
@json_option
def show_event(*, event: str, server: str, as_json: bool) -> None:
    """Show one EVENT (its id) and what became of it.

    Example:
      ironflow events show 0192f1d2-7c1a-7d4e-9a51-9c1f2ab34d5e
    """
    body = connect(server).get(f"/events/{segment(event)}")
    if as_json:
        print_body(body)
        return
    view = decode(body, EventView)
    print_fields(
        [
            ("event", view.id),
            ("name", view.name),
            ("emitted", f"{moments.full(view.at)}  ({moments.ago(view.at)})"),
            ("source", view.source),
            ("key", view.idempotency_key or ""),
            ("data", pretty(view.data)),
        ]
    )
    print_outcomes(view)
