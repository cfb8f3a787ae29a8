"""`ironflow workers ...`."""

from __future__ import annotations

import click
import msgspec

from ironflow.cli import moments
from ironflow.cli.client import connect, decode
from ironflow.cli.options import VerbGroup, json_option, server_option
from ironflow.cli.output import Column, print_items, print_table
from ironflow.web.wire.workers import WorkerPage


@click.group(cls=VerbGroup)
def workers() -> None:
    """List the workers that run functions for the server.

    Example:
      ironflow workers ls
    """


@workers.command("ls")
@server_option
@json_option
def list_workers(*, server: str, as_json: bool) -> None:
    """List workers: what they run, how busy they are, when they were last heard of.

    Example:
      ironflow workers ls --json | jq -r .id
    """
    page = decode(connect(server).get("/workers"), WorkerPage)
    if as_json:
        print_items([msgspec.json.encode(worker) for worker in page.workers])
        return
    rows = [
        [
            worker.id,
            worker.status,
            f"{worker.active_jobs}/{worker.max_concurrent}",
            str(worker.actors) if worker.actors else "",
            moments.ago(worker.last_heartbeat),
            worker.hostname,
            " ".join(f"{name}={value}" for name, value in sorted(worker.labels.items())),
            ", ".join(worker.function_ids),
        ]
        for worker in page.workers
    ]
    columns = [
        Column("worker"),
        Column("status"),
        Column("jobs", right=True),
        Column("actors", right=True),
        Column("heard"),
        Column("host"),
        Column("labels"),
        Column("functions", note=True),
    ]
    empty = "no workers; start one with `ironflow worker app.py`"
    print_table(columns, rows, empty=empty)
