"""`ironflow runs ...` and `ironflow why`."""

from __future__ import annotations

from typing import Any, get_args

import click
import msgspec

from ironflow.cli import moments
from ironflow.cli.client import PAGE, Client, connect, decode, segment
from ironflow.cli.events import print_outcomes
from ironflow.cli.failures import Failed, Refused
from ironflow.cli.options import Moment, Verb, VerbGroup, json_option, limit_option, server_option
from ironflow.cli.output import (
    Column,
    is_terminal,
    pretty,
    print_body,
    print_fields,
    print_heading,
    print_items,
    print_table,
)
from ironflow.cli.run_ids import resolve, short_id
from ironflow.core.runs.entries import RunKind
from ironflow.core.runs.state import RunStatus
from ironflow.web.wire.events import EventView
from ironflow.web.wire.runs import (
    EntryView,
    FailureView,
    RunSummary,
    RunView,
    StatusView,
    StepPage,
    StepView,
    WhyView,
)

KINDS = get_args(RunKind)
STATUSES = [status.value for status in RunStatus]


class _History(msgspec.Struct):
    """A page of entries, as they came."""

    items: list[msgspec.Raw]
    next_version: int | None = None


MOST_SHOWN = 4000
"""Characters of a value on a terminal."""

run_argument = click.argument("run", metavar="RUN")


@click.group(cls=VerbGroup)
def runs() -> None:
    """List, show, watch and control runs.

    A RUN may be abbreviated to the short id that `runs ls` shows, or to any
    other beginning or end that fits one run only.

    Examples:
      ironflow runs ls --status failed --since 1h
      ironflow runs show 9c1f2ab34d5e
    """


@runs.command("ls")
@click.option("--function", "function_id", metavar="ID", help="Only runs of this function.")
@click.option("--kind", type=click.Choice(KINDS), help="Only runs written in this way.")
@click.option(
    "--status", "statuses", multiple=True, type=click.Choice(STATUSES),
    help="Only runs that stand so; may be given several times.",
)  # fmt: skip
@click.option("--event", "event_name", metavar="NAME", help="Only runs started by such an event.")
@click.option("--since", type=Moment(), help="Created then or later: a moment, or `2h` for ago.")
@click.option("--until", type=Moment(), help="Created before then.")
@limit_option
@server_option
@json_option
def list_runs(
    *,
    function_id: str | None,
    kind: str | None,
    statuses: tuple[str, ...],
    event_name: str | None,
    since: str | None,
    until: str | None,
    limit: int,
    server: str,
    as_json: bool,
) -> None:
    """List runs, newest first.

    Examples:
      ironflow runs ls --function greet --status failed
      ironflow runs ls --since 30m --json | jq -r .id
    """
    client = connect(server)
    query: dict[str, str | int | None] = {
        "function_id": function_id,
        "kind": kind,
        "status": ",".join(statuses) or None,
        "event_name": event_name,
        "since": since,
        "until": until,
    }
    items = client.items("/runs", query, limit)
    if as_json:
        print_items(items)
        return
    rows = []
    for item in items:
        run = decode(item, RunSummary)
        rows.append(
            [
                short_id(run.id),
                run.function_id,
                run.status,
                moments.ago(run.created_at),
                moments.duration(run.duration),
                run.event_name or ("child" if run.parent_id else ""),
                run.reason or "",
            ]
        )
    columns = [
        Column("run"),
        Column("function", wide=True),
        Column("status"),
        Column("created"),
        Column("took", right=True),
        Column("event", wide=True),
        Column("reason", note=True),
    ]
    print_table(columns, rows, empty="no runs")


@runs.command("show")
@run_argument
@server_option
@json_option
def show_run(*, run: str, server: str, as_json: bool) -> None:
    """Show one run: how it stands, its input, result or error, and its steps.

    Example:
      ironflow runs show 9c1f2ab34d5e
    """
    client = connect(server)
    run_id = resolve(client, run)
    body = client.get(f"/runs/{segment(run_id)}")
    if as_json:
        print_body(body)
        return
    view = decode(body, RunView)
    steps = decode(client.get(f"/runs/{segment(run_id)}/steps"), StepPage)
    _print_run(view)
    if steps.items:
        print_heading("steps")
        print_steps(steps.items)


def _print_run(run: RunView) -> None:
    print_fields(
        [
            ("run", run.id),
            ("function", run.function_id + (f"  (code {run.code})" if run.code else "")),
            ("status", run.status),
            ("why", "" if run.ended_at else "; ".join(run.waiting_for)),
            ("reason", run.reason or ""),
            ("cancel", "; ".join(run.cancel)),
            ("created", _when(run.created_at)),
            ("started", _when(run.started_at)),
            ("ended", _when(run.ended_at)),
            ("took", moments.duration(run.duration)),
            ("attempt", str(run.attempt) if run.attempt > 1 else ""),
            ("crashes", str(run.crashes) if run.crashes else ""),
            ("event", f"{run.event_name} ({run.event_id})" if run.event_id else ""),
            ("parent", run.parent_id or ""),
            ("actor", run.actor or ""),
            ("worker", run.worker or ""),
            ("key", run.idempotency_key or ""),
            ("input", _shown(run.input)),
            ("result", _shown(run.result) if run.status == "completed" else ""),
            *_failure_fields(run.error),
        ]
    )


def _shown(value: Any) -> str:
    """A value for people, who are not served by a megabyte of it on their terminal."""
    text = pretty(value)
    if is_terminal() and len(text) > MOST_SHOWN:
        return f"{text[:MOST_SHOWN]}…\n({len(text):,} characters; --json shows them all)"
    return text


def _when(moment: str | None) -> str:
    return f"{moments.full(moment)}  ({moments.ago(moment)})" if moment else ""


def _failure_fields(error: FailureView | None) -> list[tuple[str, str]]:
    if error is None:
        return []
    return [("error", f"{error.kind}: {error.message}"), ("trace", error.trace.rstrip())]


def print_steps(steps: list[StepView]) -> None:
    """Steps as a table, in the order in which they began."""
    rows = [
        [
            step.scope + step.name,
            step.kind,
            step.status,
            str(step.attempt),
            moments.duration(step.duration),
            describe_step(step),
        ]
        for step in steps
    ]
    columns = [
        Column("step", wide=True),
        Column("kind"),
        Column("status"),
        Column("try", right=True),
        Column("took", right=True),
        Column("", note=True),
    ]
    print_table(columns, rows)


def describe_step(step: StepView) -> str:
    """What else there is to say of a step, in one line."""
    parts = []
    if step.child_run_id:
        parts.append(f"run {short_id(step.child_run_id)} of {step.child_function_id or '?'}")
    if step.event:
        parts.append(f"event {step.event}")
    if step.error is not None:
        parts.append(f"{step.error.kind}: {step.error.message}")
    if step.until and step.ended_at is None:
        parts.append(f"until {moments.full(step.until)} ({moments.ago(step.until)})")
    if step.until and step.status == "retrying":
        parts.append(f"next attempt {moments.ago(step.until)}")
    return ", ".join(parts)


@runs.command("history")
@run_argument
@server_option
@json_option
def history(*, run: str, server: str, as_json: bool) -> None:
    """Show a run's journal entries, oldest first: everything that happened to it.

    Example:
      ironflow runs history 9c1f2ab34d5e
    """
    from ironflow.cli import watch as watching

    client = connect(server)
    path = f"/runs/{segment(resolve(client, run))}/history"
    after: int | None = 0
    while after is not None:
        page = decode(client.get(path, {"after": after, "limit": PAGE}), _History)
        for item in page.items:
            if as_json:
                print_body(bytes(item))
            else:
                watching.print_entry(decode(bytes(item), EntryView), full=True)
        after = page.next_version


def _control(name: str, run: str, reason: str | None, server: str, as_json: bool) -> None:
    client = connect(server)
    run_id = resolve(client, run)
    body = client.post(f"/runs/{segment(run_id)}/{name}", {"reason": reason} if reason else None)
    if as_json:
        print_body(body)
        return
    view = decode(body, StatusView)
    pending = f", {view.pending} takes effect at the next step boundary" if view.pending else ""
    print(f"run {view.run_id} is {view.status}{pending}")


reason_option = click.option("--reason", help="Why, for the record.")


@runs.command("cancel")
@run_argument
@reason_option
@server_option
@json_option
def cancel(*, run: str, reason: str | None, server: str, as_json: bool) -> None:
    """Cancel a run; its compensations run if it asked for that.

    Example:
      ironflow runs cancel 9c1f2ab34d5e --reason "wrong customer"
    """
    _control("cancel", run, reason, server, as_json)


@runs.command("pause")
@run_argument
@reason_option
@server_option
@json_option
def pause(*, run: str, reason: str | None, server: str, as_json: bool) -> None:
    """Pause a run at its next step boundary.

    Example:
      ironflow runs pause 9c1f2ab34d5e --reason maintenance
    """
    _control("pause", run, reason, server, as_json)


@runs.command("resume")
@run_argument
@server_option
@json_option
def resume(*, run: str, server: str, as_json: bool) -> None:
    """Let a paused run go on.

    Example:
      ironflow runs resume 9c1f2ab34d5e
    """
    _control("resume", run, None, server, as_json)


@runs.command("retry")
@run_argument
@reason_option
@server_option
@json_option
def retry(*, run: str, reason: str | None, server: str, as_json: bool) -> None:
    """Try a failed or cancelled run again from its failure; finished steps stay.

    Example:
      ironflow runs retry 9c1f2ab34d5e
    """
    _control("retry", run, reason, server, as_json)


@runs.command("watch")
@click.argument("run", metavar="[RUN]", required=False)
@server_option
@json_option
def watch(*, run: str | None, server: str, as_json: bool) -> None:
    """Follow a run until it ends, as a live tree of its steps; without RUN follow all runs.

    Where there is no terminal each journal entry is one line; with --json one object.
    Exit code 0 when the run completed, 1 when it failed or was cancelled.

    Example:
      ironflow runs watch 9c1f2ab34d5e
    """
    from ironflow.cli import watch as watching

    client = connect(server)
    if run is None:
        watching.follow_all(client, as_json)
        return
    status = watching.follow_run(client, resolve(client, run), as_json)
    if status != "completed":
        raise Failed


def _explain_event(client: Client, event: str, as_json: bool) -> bool:
    """Say what became of an event, if there is one of this id."""
    try:
        body = client.get(f"/events/{segment(event)}")
    except Refused:
        return False
    if as_json:
        print_body(body)
        return True
    view = decode(body, EventView)
    print_fields([("event", view.id), ("name", view.name), ("emitted", moments.full(view.at))])
    print_outcomes(view)
    return True


@click.command("why", cls=Verb)
@click.argument("run", metavar="RUN|EVENT")
@server_option
@json_option
def why(*, run: str, server: str, as_json: bool) -> None:
    """Say why a run stands where it stands, or what became of an event.

    RUN is a run's id or the end of one; an EVENT is named by its whole id.

    Example:
      ironflow why 9c1f2ab34d5e
    """
    client = connect(server)
    try:
        body = client.get(f"/runs/{segment(resolve(client, run))}/why")
    except Refused as refused:
        if refused.status != 404 or not _explain_event(client, run, as_json):
            raise
        return
    if as_json:
        print_body(body)
        return
    view = decode(body, WhyView)
    print_fields([("run", view.run_id), ("status", view.status), ("why", view.summary)])
    rows = [
        [
            reason.kind,
            reason.step or "",
            f"{moments.full(reason.due_at)} ({moments.ago(reason.due_at)})"
            if reason.due_at
            else "",
            reason.text,
        ]
        for reason in view.reasons
    ]
    if rows:
        print_heading("what it waits for")
        print_table(
            [Column("kind"), Column("step", wide=True), Column("due"), Column("", note=True)], rows
        )
