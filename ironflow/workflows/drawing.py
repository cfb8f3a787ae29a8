"""Draws workflows: all ways that are possible, and what a run did.

`draw_all_possible_flows` and `draw_most_recent_execution` write HTML, SVG or mermaid by the name of
the file and return the text; the variants with `_mermaid` and `_svg` say the format themselves.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from ironflow.core.runs.entries import (
    RunCancelled,
    RunCompleted,
    RunEntry,
    RunFailed,
    TurnRecorded,
    decode_entry,
)
from ironflow.core.workflows.state import (
    ChildStarted,
    FanClosed,
    FanFed,
    FanFired,
    JobAdded,
    JobBegan,
    JobCancelled,
    JobEnded,
    JobFailed,
    JobWaits,
    Streamed,
    WaitMet,
)
from ironflow.workflows.definition import Definition
from ironflow.workflows.diagrams import Diagram, Edge, Format, Node, Shape, format_of, render
from ironflow.workflows.errors import WorkflowRuntimeError
from ironflow.workflows.foreign import ForeignWorkflow, is_foreign
from ironflow.workflows.representation import OUTSIDE, represent
from ironflow.workflows.workflow import Workflow

__all__ = [
    "draw_all_possible_flows",
    "draw_all_possible_flows_mermaid",
    "draw_all_possible_flows_svg",
    "draw_most_recent_execution",
    "draw_most_recent_execution_mermaid",
    "draw_most_recent_execution_svg",
    "execution_diagram",
    "workflow_diagram",
]

MOST_JOBS = 500
"""Of a run that are drawn: nobody sees anything in a drawing of more."""


def workflow_diagram(workflow: Any) -> Diagram:
    """All ways through a workflow: an instance, or a class that needs no arguments. Raises
    `TypeError` for anything else.
    """
    if isinstance(workflow, type):
        workflow = workflow()
    source = workflow
    if is_foreign(workflow):
        workflow = ForeignWorkflow(workflow)
    if not isinstance(workflow, Workflow | ForeignWorkflow):
        raise TypeError(f"a workflow is drawn, not {source!r:.100}")
    graph: Definition = workflow.graph
    described = represent(graph, type(source).__name__, None)
    nodes = [Node(n["id"], n["label"], _shape(n, graph), _note(n)) for n in described["nodes"]]
    edges = [Edge(e["source"], e["target"], e["label"] or "") for e in described["edges"]]
    return Diagram(f"Workflow {graph.name}", tuple(nodes), tuple(edges))


def _shape(node: dict[str, Any], graph: Definition) -> Shape:
    kind = node["node_type"]
    if kind == "event":
        if node["event_type"] == graph.start.__name__:
            return "start"
        return "stop" if "StopEvent" in node["event_types"] else "event"
    if kind == "external" or node["id"] == OUTSIDE:
        return "outside"
    return "resource" if kind.startswith("resource") else "step"


def _note(node: dict[str, Any]) -> str:
    fields = (node.get("event_schema") or {}).get("properties", {})
    if fields:
        return f"{node['label']}: {', '.join(fields)}"
    description = node.get("description")
    return f"{node['label']}: {description}" if description else str(node["label"])


# -- what a run did -------------------------------------------------------------------------------


def execution_diagram(title: str, entries: Iterable[RunEntry]) -> Diagram:
    """What a run did, as its journal has it: each job a box, each event an arrow."""
    picture = _Execution()
    for entry in entries:
        match entry:
            case TurnRecorded():
                for op in entry.ops:
                    picture.add(op)
            case RunCompleted() | RunFailed() | RunCancelled():
                picture.end(entry)
            case _:
                continue
    return picture.diagram(title)


class _Envelope(msgspec.Struct):
    type: str
    types: list[str] | None = None


class _Execution:
    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {"start": Node("start", "StartEvent", "start")}
        self.edges: list[Edge] = []
        self.attempts: dict[int, int] = {}
        self.last: str | None = None
        self.left_out = 0
        self.feeding: list[tuple[int, str]] = []
        """Joins that the job which is being concluded feeds, as (fan-out, step)."""
        self.fed: dict[tuple[int, str], list[int]] = {}
        self.entered: list[JobAdded] = []
        """Joins that were entered and whose fan-out has not been said yet."""
        self.asked: list[tuple[int | None, str]] = []
        """Questions in the stream whose job has not been said yet: it, if it goes on; the class."""

    def add(self, op: object) -> None:
        match op:
            case FanFed():
                self.feeding.append((op.fan, op.step))
            case FanFired() | FanClosed():
                self._connect_joins(op.fan)
            case Streamed():
                self._note_question(op)
            case JobAdded():
                self._add_job(op)
            case JobBegan():
                self.attempts[op.job] = self.attempts.get(op.job, 0) + 1
                times = self.attempts[op.job]
                self._change(op.job, op.step + (f" (x{times})" if times > 1 else ""), "step")
            case JobEnded():
                for key in self.feeding:
                    self.fed.setdefault(key, []).append(op.job)
                self.feeding = []
                self._change(op.job, None, "step")
                self._ask(op.job, op.output)
                if op.output is not None:
                    self.last = f"job{op.job}"
            case JobCancelled():
                self._change(op.job, None, "failed", "cancelled by another step")
            case JobFailed():
                text = f"{op.error.kind}: {op.error.message}"
                self._change(op.job, None, "failed" if op.retry_at is None else "step", text)
                self.last = f"job{op.job}"
            case JobWaits():
                self._change(op.job, None, "waiting")
                self._ask(op.job, None)
            case WaitMet():
                self._change(op.job, None, "step")
                self._connect(self._outside(), f"job{op.job}", op.event.type.rpartition(".")[2])
            case ChildStarted():
                node = f"child{op.run_id}"
                self.nodes[node] = Node(node, op.workflow, "outside", f"run {op.run_id}")
                self.edges.append(Edge(f"job{op.job}", node, "starts"))
            case _:
                return

    def _add_job(self, op: JobAdded) -> None:
        if len(self.nodes) > MOST_JOBS:
            self.left_out += 1
            return
        node = f"job{op.job}"
        self.nodes[node] = Node(node, op.step, "event")
        names = [event.type.rpartition(".")[2] for event in op.events]
        label = names[0] if len(names) == 1 else f"{len(names)} events"
        if op.by is not None:
            source = f"job{op.by}"
        elif op.job == 0:
            source = "start"
        elif any(step == op.step for _, step in self.fed) or not names:
            self.entered.append(op)
            return
        else:
            source = self._outside()
        self._connect(source, node, label)

    def _outside(self) -> str:
        """The node of whoever answers."""
        return self.nodes.setdefault("outside", Node("outside", "outside", "outside")).id

    def _connect(self, source: str, target: str, label: str) -> None:
        if source in self.nodes and target in self.nodes:
            self.edges.append(Edge(source, target, label))

    def _note_question(self, op: Streamed) -> None:
        text = op.event.json
        if text is not None and not op.internal:
            event = msgspec.json.decode(text, type=_Envelope)
            if "InputRequiredEvent" in (event.type, *(event.types or ())):
                self.asked.append((op.job, event.type))

    def _ask(self, job: int, output: str | None) -> None:
        """A job has left its worker: what it asked goes outside."""
        for asked in list(self.asked):
            by, kind = asked
            if by == job or (by is None and kind == output):
                self.asked.remove(asked)
                self._connect(f"job{job}", self._outside(), kind)

    def _connect_joins(self, fan: int) -> None:
        for op in self.entered:
            for job in self.fed.pop((fan, op.step), []):
                if f"job{job}" in self.nodes:
                    self.edges.append(Edge(f"job{job}", f"job{op.job}"))
        self.entered = []

    def _change(self, job: int, label: str | None, shape: Shape, note: str | None = None) -> None:
        known = self.nodes.get(f"job{job}")
        if known is not None:
            self.nodes[known.id] = Node(
                known.id, label or known.label, shape, known.note if note is None else note
            )

    def end(self, entry: object) -> None:
        label = "cancelled"
        shape: Shape = "failed"
        if isinstance(entry, RunCompleted):
            label, shape = "StopEvent", "stop"
        elif isinstance(entry, RunFailed):
            label = entry.error.kind
        self.nodes["end"] = Node("end", label, shape)
        if self.last in self.nodes:
            self.edges.append(Edge(self.last, "end", ""))

    def diagram(self, title: str) -> Diagram:
        if self.left_out:
            title += f" (the first {MOST_JOBS} jobs; {self.left_out} more are left out)"
        return Diagram(title, tuple(self.nodes.values()), tuple(self.edges))


# -- the functions that users call ----------------------------------------------------------------


def draw_all_possible_flows(
    workflow: Any,
    filename: str = "workflow_all_flows.html",
    notebook: bool = False,
    max_label_length: int | None = None,
    include_child_workflows: bool = True,
) -> str:
    """Write a drawing of all ways through a workflow; its format is that of the file's name (HTML,
    `.svg`, `.mermaid`). The text is returned, too. `notebook` and `include_child_workflows` have
    no effect: the file is whole either way, and children are drawn by what they are.
    """
    return _write(workflow_diagram(workflow), filename, format_of(filename), max_label_length)


def draw_all_possible_flows_mermaid(
    workflow: Any,
    filename: str | None = "workflow_all_flows.mermaid",
    max_label_length: int | None = None,
    include_child_workflows: bool = True,
) -> str:
    """All ways through a workflow as mermaid: returned, and written to a file if one is named."""
    return _write(workflow_diagram(workflow), filename, "mermaid", max_label_length)


def draw_all_possible_flows_svg(
    workflow: Any,
    filename: str | None = "workflow_all_flows.svg",
    max_label_length: int | None = None,
) -> str:
    """All ways through a workflow as SVG: written to the file, if one is named, and returned."""
    return _write(workflow_diagram(workflow), filename, "svg", max_label_length)


def draw_most_recent_execution(
    handler: Any,
    filename: str = "workflow_recent_execution.html",
    notebook: bool = False,
    max_label_length: int | None = None,
) -> str:
    """Write a drawing of what the run of a handler has done; its format is that of the file's name.
    Raises `WorkflowRuntimeError` for a durable run that has not ended: await it first.
    """
    return _write(_of_handler(handler), filename, format_of(filename), max_label_length)


def draw_most_recent_execution_mermaid(
    handler: Any,
    filename: str | None = "workflow_recent_execution.mermaid",
    max_label_length: int | None = None,
) -> str:
    """What the run of a handler has done as mermaid."""
    return _write(_of_handler(handler), filename, "mermaid", max_label_length)


def draw_most_recent_execution_svg(
    handler: Any,
    filename: str | None = "workflow_recent_execution.svg",
    max_label_length: int | None = None,
) -> str:
    """What the run of a handler has done as SVG."""
    return _write(_of_handler(handler), filename, "svg", max_label_length)


def _of_handler(handler: Any) -> Diagram:
    entries = handler.history()
    if entries is None:
        raise WorkflowRuntimeError("await the handler first: its history is in the database")
    decoded = [decode_entry(entry.kind, entry.data) for entry in entries]
    return execution_diagram(f"Run {handler.run_id}", decoded)


def _write(
    diagram: Diagram, filename: str | None, format: Format, max_label_length: int | None
) -> str:
    text = render(diagram, format, max_label_length)
    if filename is not None:
        Path(filename).write_text(text, encoding="utf-8")
    return text
