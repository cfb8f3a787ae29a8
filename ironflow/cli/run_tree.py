"""A run's steps as a tree: branches of parallel blocks nested by scope, cut to what a screen can
hold.

Pure: from the API's views and the present to lines of text.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple
from urllib.parse import unquote

from ironflow.cli.moments import seconds_since
from ironflow.cli.run_ids import short_id
from ironflow.core.durations import format_duration
from ironflow.web.wire.runs import RunView, StepView

FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
SYMBOLS = {
    "completed": "✓",
    "failed": "✗",
    "cancelled": "⊘",
    "timed_out": "✗",
    "paused": "⏸",
    "waiting": "◷",
    "retrying": "↻",
    "due": "↻",
    "queued": "·",
}
ASCII = {"completed": "+", "failed": "x", "cancelled": "-", "timed_out": "x", "paused": "="}
COMPENSATIONS = "@compensate"
SETTLED = frozenset({"completed", "cancelled"})
KEPT = 2
"""Finished neighbours still shown when there is no room for all."""


class Line(NamedTuple):
    """One line; the status gives its symbol and colour."""

    depth: int
    status: str
    name: str
    detail: str


class Node:
    """A run, a block, a branch or a step."""

    __slots__ = ("children", "detail", "groups", "name", "status")

    def __init__(self, name: str, status: str, detail: str = "") -> None:
        self.name, self.status, self.detail = name, status, detail
        self.children: list[Node] = []
        self.groups: dict[str, Node] = {}

    def group(self, segment: str) -> Node:
        """The block or branch of this name below, made when it is first asked for."""
        found = self.groups.get(segment)
        if found is None:
            name = "compensations" if segment == COMPENSATIONS else unquote(segment)
            found = self.groups[segment] = Node(name, "")
            self.children.append(found)
        return found

    def settle(self) -> None:
        """Give blocks and branches the status of what is in them."""
        for child in self.groups.values():
            child.settle()
        if not self.status:
            inside = {child.status for child in self.children}
            order = ("running", "retrying", "due", "waiting", "failed", "timed_out", "cancelled")
            self.status = next((status for status in order if status in inside), "completed")

    def size(self) -> int:
        """How many lines it takes whole."""
        return 1 + sum(child.size() for child in self.children)

    def steps(self) -> int:
        """How many steps are in it."""
        return sum(child.steps() for child in self.children) if self.children else 1


def build(run: RunView, steps: list[StepView], now: datetime) -> Node:
    """The tree of a run. Values that the body recorded (`ctx.now()`) are no steps of interest."""
    root = Node(f"{run.function_id} {short_id(run.id)}", run.status, _run_detail(run, now))
    for step in steps:
        if step.kind == "value":
            continue
        place = root
        for segment in step.scope.split("/"):
            if segment:
                place = place.group(segment)
        place.children.append(Node(step.name, step.status, step_detail(step, now)))
    root.settle()
    return root


def fit(root: Node, height: int) -> list[Line]:
    """The tree's lines, at most about `height`: what is finished gives way first."""
    if root.size() <= height:
        return list(_lines(root, 0, fold=False, unsettled=1 << 30))
    lines: list[Line] = []
    for unsettled in (1 << 30, 20, 10, 5, 3, 2, 1):
        lines = list(_lines(root, 0, fold=True, unsettled=unsettled))
        if len(lines) <= height:
            break
    return lines


def symbol(status: str, tick: int, *, ascii_only: bool) -> str:
    """The sign before a line; that of something running moves with `tick`."""
    if ascii_only:
        return "|/-\\"[tick % 4] if status == "running" else ASCII.get(status, "~")
    return FRAMES[tick % len(FRAMES)] if status == "running" else SYMBOLS.get(status, "·")


def _lines(node: Node, depth: int, *, fold: bool, unsettled: int) -> Iterator[Line]:
    if fold and depth and node.children and node.status in SETTLED:
        yield Line(depth, node.status, node.name, f"{node.steps()} steps")
        return
    yield Line(depth, node.status, node.name, node.detail)
    if not fold:
        for child in node.children:
            yield from _lines(child, depth + 1, fold=False, unsettled=unsettled)
        return
    done = [child for child in node.children if child.status in SETTLED]
    left = [child for child in node.children if child.status not in SETTLED]
    left.sort(key=lambda child: child.status != "running")  # it is what one looks for
    shown = {id(child) for child in (*done[-KEPT:], *left[:unsettled])}
    if hidden := sum(child.steps() for child in done[:-KEPT]):
        yield Line(depth + 1, "completed", f"{hidden} more", "")
    for child in node.children:
        if id(child) in shown:
            yield from _lines(child, depth + 1, fold=True, unsettled=unsettled)
    if rest := left[unsettled:]:
        yield Line(depth + 1, rest[0].status, f"{len(rest)} more", "")


def _run_detail(run: RunView, now: datetime) -> str:
    parts = [run.status]
    if run.duration is not None:
        parts.append(format_duration(run.duration))
    elif run.started_at is not None:
        parts.append(_elapsed(run.started_at, now))
    if run.attempt > 1:
        parts.append(f"attempt {run.attempt}")
    if run.error is not None:
        parts.append(f"{run.error.kind}: {run.error.message}")
    elif run.reason:
        parts.append(run.reason)
    elif run.ended_at is None and run.status not in ("running", "queued"):
        parts.extend(run.waiting_for[:1])
    return ", ".join(parts)


def step_detail(step: StepView, now: datetime) -> str:
    """Timings and what a step waits for."""
    parts = []
    if step.status == "running" and step.started_at is not None:
        parts.append(_elapsed(step.started_at, now))
    elif step.duration is not None:
        parts.append(format_duration(step.duration))
    if step.attempt > 1 or step.status == "retrying":
        parts.append(f"attempt {step.attempt}")
    if step.child_run_id is not None:
        parts.append(f"run {short_id(step.child_run_id)} of {step.child_function_id or '?'}")
    if step.event is not None and step.ended_at is None:
        parts.append(f"for event {step.event}")
    if step.until is not None and step.status in ("waiting", "retrying"):
        parts.append(_countdown(step, now))
    if step.error is not None:
        parts.append(f"{step.error.kind}: {step.error.message}")
    return ", ".join(parts)


def _countdown(step: StepView, now: datetime) -> str:
    left = -seconds_since(step.until or "", now)
    if left <= 0:
        return "due now"
    word = (
        "again in" if step.status == "retrying" else "" if step.kind == "sleep" else "gives up in"
    )
    return f"{word} {format_duration(left)}".strip() + (" left" if step.kind == "sleep" else "")


def _elapsed(since: str, now: datetime) -> str:
    return format_duration(max(seconds_since(since, now), 0.0))
