"""`ironflow runs watch`: a live tree on a terminal, one line an entry elsewhere.

The journal's stream says that something changed. On a terminal the tree is then read anew from the
run and its steps (which alone know what executes right now), never more often than the server
answers easily; elsewhere the entries themselves are printed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Any

import msgspec

from ironflow.cli import moments
from ironflow.cli.client import Client, decode, segment
from ironflow.cli.failures import Failed
from ironflow.cli.output import STYLES, console, is_terminal, line, print_body, say
from ironflow.cli.run_ids import short_id
from ironflow.cli.run_tree import Line, build, fit, symbol
from ironflow.cli.streaming import Message, follow
from ironflow.core.runs.state import TERMINAL
from ironflow.core.terminal import clean
from ironflow.web.wire.runs import EntryView, RunView, StepPage

if TYPE_CHECKING:
    from rich.text import Text

FRAMES_A_SECOND = 8
LEAST_PAUSE, LONGEST_PAUSE = 0.1, 1.0
"""Seconds between two looks at the run: a step begins without an entry."""
LONGEST_TREE = 400
"""Lines of the tree that stays on the screen at the end."""

LIFE = frozenset(
    f"run.{what}"
    for what in ("created", "paused", "resumed", "reopened", "completed", "failed", "cancelled")
)
"""What is shown when all runs are followed."""


class _End(msgspec.Struct):
    """The server's last message of a run's stream."""

    status: str


def follow_run(client: Client, run_id: str, as_json: bool) -> str:
    """Show a run until it ends; its status then."""
    view = _load_run(client, run_id)
    if not as_json and is_terminal():
        return _Screen(client, view).run()
    path = f"/runs/{segment(run_id)}/stream"
    for message in follow(client, path, {}, last_id="0", on_connection=_report_connection()):
        if message.event == "end":
            return decode(message.data, _End).status
        entry = _entry(message)
        if entry is not None:
            print_body(message.data) if as_json else print_entry(entry)
    raise AssertionError("an event stream has no end")


def follow_all(client: Client, as_json: bool) -> None:
    """Show what happens to all runs from now on, until interrupted."""
    for message in follow(client, "/stream", {}, on_connection=_report_connection()):
        entry = _entry(message)
        if entry is None:
            continue
        if as_json:
            print_body(message.data)
        elif entry.kind in LIFE:
            print_entry(entry, is_all=True)


def print_entry(entry: EntryView, *, is_all: bool = False, full: bool = False) -> None:
    """One journal entry as a line, with its run where several are shown, with its day if `full`."""
    at = moments.full(entry.at) if full else moments.clock(entry.at)
    zone = UTC if full else None
    run = f"{short_id(entry.stream)}  " if is_all else ""
    text = clean(f"{at}  {run}{entry.kind:<16}  {describe_entry(entry, zone)}")
    text = text.rstrip().replace("\n", " ")
    if is_terminal():
        style = STYLES.get(entry.kind.partition(".")[2], "")
        console().print(line((text, style)), soft_wrap=True)
    else:
        print(text, flush=True)


def describe_entry(entry: EntryView, zone: tzinfo | None = None) -> str:
    """What there is to say of an entry beside its kind; moments in `zone`, or the user's own."""
    data: dict[str, Any] = entry.data if isinstance(entry.data, dict) else {}
    parts = []
    name = data.get("key") or data.get("function_id")
    if name:
        parts.append(str(name))
    if data.get("attempt", 1) != 1:
        parts.append(f"attempt {data['attempt']}")
    if entry.kind == "step.completed" and data.get("started_at"):
        ended = moments.parse(entry.at).timestamp()
        parts.append(moments.duration(ended - data["started_at"] / 1_000_000))
    for field, word in (("until", "until"), ("retry_at", "next attempt")):
        if data.get(field):
            moment = datetime.fromtimestamp(data[field] / 1_000_000, UTC)
            far = moment - moments.parse(entry.at) > timedelta(hours=12)
            parts.append(f"{word} {moment.astimezone(zone):{'%Y-%m-%d ' if far else ''}%H:%M:%S}")
    if data.get("event"):
        event = data["event"]
        parts.append(f"event {event.get('name') if isinstance(event, dict) else event}")
    if data.get("outcome") and data["outcome"] != "completed":
        parts.append(str(data["outcome"]))
    if isinstance(data.get("error"), dict):
        parts.append(f"{data['error'].get('kind')}: {data['error'].get('message')}")
    if data.get("reason"):
        parts.append(str(data["reason"]))
    return ", ".join(parts)


def _entry(message: Message) -> EntryView | None:
    """The journal entry of a message, None for the server's other ones."""
    try:
        return msgspec.json.decode(message.data, type=EntryView)
    except (msgspec.DecodeError, UnicodeError):
        return None


def _load_run(client: Client, run_id: str) -> RunView:
    return decode(client.get(f"/runs/{segment(run_id)}"), RunView)


def _report_connection() -> Callable[[str | None], None]:
    lost = False

    def report(reason: str | None) -> None:
        nonlocal lost
        if reason is not None and not lost:
            say(f"connection lost: {reason}; trying again")
        elif reason is None and lost:
            say("connected again")
        lost = reason is not None

    return report


class _Screen:
    """The live tree: a thread listens to the stream, this one reads and draws."""

    def __init__(self, client: Client, run: RunView) -> None:
        self._client, self._run = client, run
        self._path = f"/runs/{segment(run.id)}"
        self._steps = self._load_steps()
        self._changed = threading.Event()
        self._lost: str | None = None
        self._refused: Failed | None = None
        self._console = console()
        self._is_ascii = not (self._console.encoding or "").lower().startswith("utf")

    def run(self) -> str:
        """Draw until the run ends; its status then."""
        from rich.live import Live

        if self._run.status not in TERMINAL:
            threading.Thread(target=self._listen, daemon=True).start()
            with Live(
                get_renderable=self._picture,
                console=self._console,
                refresh_per_second=FRAMES_A_SECOND,
                transient=True,
            ):
                while self._run.status not in TERMINAL:
                    self._wait()
                    self._reload()
        root = build(self._run, self._steps.items, datetime.now(UTC))
        for row in fit(root, LONGEST_TREE):
            self._console.print(self._draw(row, 0), soft_wrap=True)
        return self._run.status

    def _wait(self) -> None:
        """Until something changed, but not for long."""
        self._changed.wait(LONGEST_PAUSE)
        self._changed.clear()
        if self._refused is not None:
            raise self._refused

    def _reload(self) -> None:
        began = time.monotonic()
        try:
            run = _load_run(self._client, self._run.id)
            self._steps = self._load_steps()
            self._run, self._lost = run, None
        except Failed as error:
            if error.exit_code != 3 and getattr(error, "status", 500) < 500:
                raise
            # It may be restarting; the stream says when it is back.
            self._lost = "the server does not answer"
        # A run with many steps is a large answer: leave the server four fifths of its time.
        time.sleep(max(LEAST_PAUSE, min(4 * (time.monotonic() - began), 5.0)))

    def _load_steps(self) -> StepPage:
        return decode(self._client.get(f"{self._path}/steps"), StepPage)

    def _listen(self) -> None:
        try:
            path = f"{self._path}/stream"
            for _ in follow(self._client, path, {}, last_id="0", on_connection=self._connection):
                self._changed.set()
        except Failed as error:
            self._refused = error
            self._changed.set()

    def _connection(self, reason: str | None) -> None:
        self._lost = None if reason is None else "connection lost, trying again"
        self._changed.set()

    def _picture(self) -> Text:
        """The frame of this moment."""
        tick = int(time.monotonic() * FRAMES_A_SECOND)
        root = build(self._run, self._steps.items, datetime.now(UTC))
        height = max(self._console.height - (3 if self._lost else 2), 3)
        lines = [self._draw(row, tick) for row in fit(root, height)[:height]]
        if self._lost:
            lines.append(line((self._lost, "yellow")))
        picture = line(("\n", "")).join(lines)
        picture.no_wrap, picture.overflow = True, "ellipsis"
        return picture

    def _draw(self, row: Line, tick: int) -> Text:
        sign = symbol(row.status, tick, ascii_only=self._is_ascii)
        detail = clean(row.detail).replace("\n", " ")
        return line(
            ("  " * row.depth, ""),
            (sign, STYLES.get(row.status, "")),
            (f" {clean(row.name)}", "bold" if row.depth == 0 else ""),
            (f"  {detail}" if detail else "", "dim"),
        )
