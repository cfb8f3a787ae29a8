"""`ironflow functions ...`."""

from __future__ import annotations

from collections.abc import Iterator

import click
import msgspec

from ironflow.cli import moments
from ironflow.cli.client import Page, connect, decode, segment
from ironflow.cli.options import VerbGroup, json_option, server_option
from ironflow.cli.output import Column, pretty, print_body, print_fields, print_items, print_table
from ironflow.core.durations import format_duration
from ironflow.core.functions.flow_control import FlowControl
from ironflow.web.wire.functions import FunctionView, RetryView, TriggerView


@click.group(cls=VerbGroup)
def functions() -> None:
    """List and show functions.

    Example:
      ironflow functions ls
    """


@functions.command("ls")
@server_option
@json_option
def list_functions(*, server: str, as_json: bool) -> None:
    """List every function that was ever registered.

    Example:
      ironflow functions ls --json | jq -r .id
    """
    items = [bytes(item) for item in decode(connect(server).get("/functions"), Page).items]
    if as_json:
        print_items(items)
        return
    rows = []
    for item in items:
        function = decode(item, FunctionView)
        rows.append(
            [
                function.id,
                "yes" if function.served else "no",
                str(function.version),
                _starts(function),
                moments.ago(function.next_run_at),
                function.description.partition("\n")[0],
            ]
        )
    columns = [
        Column("function"),
        Column("served"),
        Column("version", right=True),
        Column("starts on", wide=True),
        Column("next"),
        Column("description", note=True),
    ]
    print_table(columns, rows, empty="no functions; serve some with `ironflow serve app.py`")


@functions.command("show")
@click.argument("function")
@server_option
@json_option
def show_function(*, function: str, server: str, as_json: bool) -> None:
    """Show one FUNCTION: what starts it, its retries, its input.

    Example:
      ironflow functions show greet
    """
    body = connect(server).get(f"/functions/{segment(function)}")
    if as_json:
        print_body(body)
        return
    view = decode(body, FunctionView)
    print_fields(
        [
            ("function", view.id),
            ("name", view.name if view.name != view.id else ""),
            ("description", view.description),
            ("served", "yes" if view.served else "no: no function of this id in this server"),
            ("version", f"{view.version}  (code {view.code}, {moments.full(view.updated_at)})"),
            ("events", "\n".join(_trigger(trigger) for trigger in view.triggers)),
            ("cron", f"{view.cron} {view.timezone or ''}".strip() if view.cron else ""),
            ("next", f"{moments.full(view.next_run_at)}  ({moments.ago(view.next_run_at)})"
             if view.next_run_at else ""),
            ("timeout", "" if view.timeout is None else format_duration(view.timeout)),
            ("retry", _retry(view.retry)),
            ("flow control", "\n".join(_policies(view.flow_control))),
            ("labels", ", ".join(f"{name}={value}" for name, value in view.labels.items())),
            ("input", "" if view.input_schema is None else pretty(view.input_schema)),
        ]
    )  # fmt: skip


def _starts(function: FunctionView) -> str:
    parts = [_trigger(trigger) for trigger in function.triggers]
    if function.cron:
        parts.append(f"cron {function.cron}")
    return ", ".join(parts)


def _trigger(trigger: TriggerView) -> str:
    return trigger.event + (f" if {trigger.expression}" if trigger.expression else "")


def _policies(control: FlowControl) -> Iterator[str]:
    """A line a policy, such as `throttle  limit 3, period 1s, key data.org`."""
    for limit in control.concurrency:
        yield "concurrency  " + _fields(limit)
    if control.priority:
        yield f"priority  {control.priority}"
    for name in ("fairness", "rate_limit", "throttle", "debounce", "batch", "singleton"):
        policy = getattr(control, name)
        if policy is not None:
            yield f"{name}  {_fields(policy)}"


def _fields(policy: msgspec.Struct) -> str:
    shown = []
    for name, value in msgspec.structs.asdict(policy).items():
        if value is None or value == {}:
            continue
        text = format_duration(value) if name in ("period", "wait", "max_wait") else value
        shown.append(f"{name} {text}")
    return ", ".join(shown)


def _retry(retry: RetryView) -> str:
    if retry.max_attempts == 1:
        return "never"
    return (
        f"{retry.max_attempts} attempts, first after {format_duration(retry.initial_delay)}, "
        f"x{retry.factor:g}, at most {format_duration(retry.max_delay)}"
    )
