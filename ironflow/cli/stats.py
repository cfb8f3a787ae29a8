"""`ironflow stats`."""

from __future__ import annotations

import click

from ironflow.cli.client import connect, decode
from ironflow.cli.options import Verb, json_option, server_option
from ironflow.cli.output import pretty, print_body, print_fields
from ironflow.core.durations import format_duration
from ironflow.web.wire.server import EventLoopView, StatisticsView


@click.command("stats", cls=Verb)
@server_option
@json_option
def stats(*, server: str, as_json: bool) -> None:
    """Show what the server is doing now.

    Example:
      ironflow stats --json
    """
    body = connect(server).get("/statistics")
    if as_json:
        print_body(body)
        return
    view = decode(body, StatisticsView)
    print_fields(
        [
            ("version", view.version),
            ("up for", format_duration(view.uptime)),
            ("runs", _counts(view.runs)),
            ("slots", _counts(view.slots)),
            ("timers", str(view.timers)),
            ("waiters", str(view.waiters)),
            ("undelivered", str(view.undelivered)),
            ("journal", _counts(view.journal)),
            ("event loop", _held_up(view.event_loop)),
            *((f"actors {kind}", _counts(numbers)) for kind, numbers in view.actors.items()),
        ]
    )


def _held_up(loop: EventLoopView) -> str:
    if not loop.blocked:
        return "never held up"
    last = loop.latest[0]
    by = f"function {last.function_id!r}" if last.function_id else last.place
    return f"held up {loop.blocked} times, {loop.blocked_seconds:.1f} s in all, last by {by}"


def _counts(numbers: object) -> str:
    if isinstance(numbers, dict):
        return ", ".join(f"{name} {value}" for name, value in numbers.items()) or "none"
    return pretty(numbers)
