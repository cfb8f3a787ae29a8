"""`ironflow breakers ...`."""

from __future__ import annotations

import click
import msgspec

from ironflow.cli import moments
from ironflow.cli.client import connect, decode, segment
from ironflow.cli.options import VerbGroup, json_option, server_option
from ironflow.cli.output import Column, print_body, print_items, print_table
from ironflow.web.wire.endpoints import BreakerPage, BreakerView


@click.group(cls=VerbGroup)
def breakers() -> None:
    """List, open, close and reset the circuit breakers of endpoints.

    Example:
      ironflow breakers ls
    """


@breakers.command("ls")
@server_option
@json_option
def list_breakers(*, server: str, as_json: bool) -> None:
    """List circuit breakers: one for each function behind an endpoint.

    Example:
      ironflow breakers ls --json | jq -r 'select(.state != "closed").key'
    """
    page = decode(connect(server).get("/circuit-breakers"), BreakerPage)
    if as_json:
        print_items([msgspec.json.encode(breaker) for breaker in page.items])
        return
    rows = [
        [
            breaker.function_id,
            breaker.state,
            str(breaker.consecutive_fails),
            moments.full(breaker.open_until) if breaker.open_until else "",
            breaker.endpoint,
            breaker.last_failure,
        ]
        for breaker in page.items
    ]
    columns = [
        Column("function"),
        Column("state"),
        Column("failures", right=True),
        Column("open until"),
        Column("endpoint", wide=True),
        Column("last failure", note=True),
    ]
    print_table(columns, rows, empty="no circuit breakers: no function is behind an endpoint")


def _speak(function: str, word: str, server: str, as_json: bool) -> None:
    """Say a word to every breaker of a function."""
    client = connect(server)
    page = decode(client.get("/circuit-breakers"), BreakerPage)
    found = [b for b in page.items if function in (b.function_id, b.key)]
    if not found:
        raise click.UsageError(f"no circuit breaker for {function!r}; see ironflow breakers ls")
    for breaker in found:
        body = client.post(f"/circuit-breakers/{segment(breaker.key)}/{word}")
        if as_json:
            print_body(body)
        else:
            view = decode(body, BreakerView)
            print(f"{view.function_id}  {view.state}  {view.endpoint}")


@breakers.command("open")
@click.argument("function")
@server_option
@json_option
def open_breaker(*, function: str, server: str, as_json: bool) -> None:
    """Send nothing to the endpoint of FUNCTION until it is closed by hand.

    Example:
      ironflow breakers open checkout
    """
    _speak(function, "open", server, as_json)


@breakers.command("close")
@click.argument("function")
@server_option
@json_option
def close_breaker(*, function: str, server: str, as_json: bool) -> None:
    """Send to the endpoint of FUNCTION again.

    Example:
      ironflow breakers close checkout
    """
    _speak(function, "close", server, as_json)


@breakers.command("reset")
@click.argument("function")
@server_option
@json_option
def reset_breaker(*, function: str, server: str, as_json: bool) -> None:
    """Forget the failures of the endpoint of FUNCTION, and close its breaker.

    Example:
      ironflow breakers reset checkout
    """
    _speak(function, "reset", server, as_json)
