"""`ironflow demo`."""

from __future__ import annotations

import sys

import click

from ironflow.cli.failures import FAILED
from ironflow.cli.options import Verb, json_option
from ironflow.cli.output import print_value


@click.command("demo", cls=Verb)
@click.option(
    "--limit",
    type=click.IntRange(min=20),
    metavar="N",
    help="Survey N modules only (default: all, some hundred).",
)
@click.option(
    "--dir",
    "folder",
    default="ironflow-demo",
    metavar="DIR",
    show_default=True,
    help="Folder to work in; made when it is not there.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    show_default=True,
    help="Port of the demo's server on loopback; 0 picks a free one.",
)
@click.option("--no-kill", is_flag=True, help="Let the server live.")
@click.option("--keep", is_flag=True, help="Leave the server up at the end, until Ctrl-C.")
@click.option("--open", "open_report", is_flag=True, help="Show the report in a browser.")
@json_option
def command(
    limit: int | None,
    folder: str,
    port: int,
    no_kill: bool,
    keep: bool,
    open_report: bool,
    as_json: bool,
) -> int:
    """Run a durable pipeline, kill it half-way, watch it go on.

    Parses every module of Python's own standard library, each in a durable step,
    sixteen at once. Half-way the server is killed with SIGKILL and started again on
    the same database. From the journal and from a log that the steps write
    themselves follows that no finished step ran twice; the exit code says so, too.
    Leaves DIR/report.html, the import graph of the standard library.

    Examples:
      ironflow demo
      ironflow demo --limit 100 --open
    """  # fmt: skip
    from ironflow.demo.drive import Options, run_demo
    from ironflow.demo.screen import open_screen
    from ironflow.launch import command as start_again

    # With --json stdout is the result's alone.
    screen = open_screen(sys.stderr if as_json else sys.stdout)
    options = Options(folder=folder, limit=limit, port=port, kill=not no_kill, keep=keep)
    outcome = run_demo(options, screen, start_again())
    if as_json:
        print_value(outcome)
    if open_report:
        import webbrowser
        from pathlib import Path

        webbrowser.open(Path(outcome.report).as_uri())
    return 0 if outcome.holds else FAILED
