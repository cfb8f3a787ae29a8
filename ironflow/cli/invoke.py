"""`ironflow invoke` and `ironflow emit`: what starts runs."""

from __future__ import annotations

import time

import click
import msgspec

from ironflow.cli import moments
from ironflow.cli.client import Client, Query, connect, decode, segment
from ironflow.cli.failures import Failed
from ironflow.cli.inputs import read_json
from ironflow.cli.options import Duration, Verb, json_option, server_option
from ironflow.cli.output import print_body, print_json, say
from ironflow.core.durations import format_duration
from ironflow.core.runs.state import TERMINAL
from ironflow.web.wire.events import EmitView
from ironflow.web.wire.functions import InvokeView
from ironflow.web.wire.runs import ResultView

LONGEST_WAIT = 300.0
"""Seconds that the server lets one request wait."""


@click.command("invoke", cls=Verb)
@click.argument("function")
@click.option("--input", "text", metavar="JSON|@FILE|-", help="The input (default null).")
@click.option("--wait", type=Duration(), help="Wait so long for the end and print the result.")
@click.option("--key", help="Idempotency key: the same key again finds the first run.")
@server_option
@json_option
def invoke(
    *,
    function: str,
    text: str | None,
    wait: float | None,
    key: str | None,
    server: str,
    as_json: bool,
) -> None:
    """Start a run of FUNCTION (its id).

    With --wait the result is printed on stdout and the exit code is 1 when the run
    failed, was cancelled, or has not ended in that time (it goes on).

    Examples:
      ironflow invoke greet --input '{"name": "Ada"}' --wait 30s
      ironflow invoke nightly --input @order.json --key order-17
    """
    client = connect(server)
    request = {"input": read_json(text, "--input"), "idempotency_key": key}
    first = None if wait is None else min(wait, LONGEST_WAIT)
    path = f"/functions/{segment(function)}/invoke"
    body = client.post(path, request, _wait_query(first), first or 0.0)
    view = decode(body, InvokeView)
    if wait is not None and view.timed_out and wait > LONGEST_WAIT:
        view = _wait_on(client, view, wait - LONGEST_WAIT)
        body = msgspec.json.encode(view)
    if as_json:
        print_body(body)
        if wait is not None and view.status != "completed":
            raise Failed
    elif wait is None:
        print(_describe_start(view))
    else:
        _print_end(view, wait)


def _describe_start(view: InvokeView) -> str:
    """What came of an invocation that nobody waits for."""
    found = " (found by its key)"
    if view.run_id is None:
        when = f", which starts at {moments.full(view.due_at)}" if view.due_at else ""
        note = "" if view.created else found
        return f"event {view.event_id} is {view.fate}: no run yet{when}{note}"
    if view.fate == "skipped":
        return f"run {view.run_id} is {view.status}: it was there, and none was started"
    return f"run {view.run_id} is {view.status}{'' if view.created else found}"


def _wait_query(seconds: float | None) -> Query:
    return {"wait": None if seconds is None else f"{seconds:.3f}s"}


def _wait_on(client: Client, view: InvokeView, seconds: float) -> InvokeView:
    """Go on waiting, in pieces that the server allows, for so many seconds at most."""
    deadline = time.monotonic() + seconds
    run_id = view.run_id or ""
    while (left := deadline - time.monotonic()) > 0:
        piece = min(left, LONGEST_WAIT)
        body = client.get(f"/runs/{segment(run_id)}/result", _wait_query(piece), piece)
        result = decode(body, ResultView)
        if result.status in TERMINAL:
            return msgspec.structs.replace(
                view,
                status=result.status,
                result=result.result,
                error=result.error,
                timed_out=False,
            )
    return view


def _print_end(view: InvokeView, wait: float) -> None:
    if view.status == "completed":
        say(f"run {view.run_id} completed")
        print_json(view.result)
        return
    if view.timed_out:
        raise Failed(
            f"run {view.run_id} has not ended after {format_duration(wait)}; it is {view.status} "
            f"and goes on (follow it with `ironflow runs watch {view.run_id}`)"
        )
    what = f": {view.error.kind}: {view.error.message}" if view.error else ""
    raise Failed(f"run {view.run_id} {view.status}{what}")


@click.command("emit", cls=Verb)
@click.argument("name")
@click.option("--data", "text", metavar="JSON|@FILE|-", help="The event's data (default null).")
@click.option("--key", help="Idempotency key: the same key again finds the first event.")
@server_option
@json_option
def emit(*, name: str, text: str | None, key: str | None, server: str, as_json: bool) -> None:
    """Emit the event NAME, and say which runs it started.

    Example:
      ironflow emit order.placed --data '{"order_id": 17}'
    """
    client = connect(server)
    request = {"name": name, "data": read_json(text, "--data"), "idempotency_key": key}
    body = client.post("/events", request)
    if as_json:
        print_body(body)
        return
    view = decode(body, EmitView)
    found = "" if view.created else " (found by its key)"
    print(f"event {view.event_id}{found}")
    for run_id in view.run_ids:
        print(f"run {run_id}")
    for outcome in view.outcomes:
        if outcome.fate != "started":
            print(f"{outcome.fate} by {outcome.function_id}: {outcome.text}")
    if not view.run_ids and not view.outcomes:
        say("it started no run; one that waits for it goes on")
