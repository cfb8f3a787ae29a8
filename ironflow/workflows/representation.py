"""A workflow as a graph: steps, events, resources, and who stands outside.

Nodes have `id`, `label`, `node_type` and what their type adds; edges have `source`, `target`,
`label`. Ids are the bare names of steps and of event classes; where two are the same, the step has
it and the events get a number. Keys of older clients (`title`, `event_type` on every node) are
there, too.
"""

from __future__ import annotations

import hashlib
import inspect
from typing import Any

from ironflow.workflows.definition import Definition
from ironflow.workflows.resource import find_resources
from ironflow.workflows.steps import StepSpec
from ironflow.workflows.vocabulary import (
    ancestors,
    by_class,
    is_human_response,
    is_input_required,
    is_step_failed,
)

__all__ = ["get_workflow_representation", "represent"]

OUTSIDE = "external_step"


@by_class
def schema_of(kind: Any) -> dict[str, Any] | None:
    """The JSON schema of an event class, made once: those of an agent's events take a third of a
    second. None for fields of types that have none.
    """
    try:
        found: dict[str, Any] = kind.model_json_schema()
    except Exception:  # noqa: BLE001 - whatever a type of the user's raises
        return None
    return found


def get_workflow_representation(workflow: Any) -> dict[str, Any]:
    """The graph of a workflow instance or of its definition."""
    graph = workflow if isinstance(workflow, Definition) else workflow.graph
    name = graph.name if workflow is graph else type(workflow).__name__
    return represent(graph, name, inspect.getdoc(type(workflow)) if workflow is not graph else None)


def represent(graph: Definition, name: str, description: str | None) -> dict[str, Any]:
    """The graph of a workflow's definition."""
    builder = _Builder(graph)
    builder.build()
    return {
        "name": name,
        "description": description,
        "nodes": list(builder.nodes.values()),
        "edges": [
            {"source": source, "target": target, "label": label}
            for source, target, label in builder.edges
        ],
    }


class _Builder:
    def __init__(self, graph: Definition) -> None:
        self.graph = graph
        self.nodes: dict[str, dict[str, Any]] = {}
        self.edges: dict[tuple[str, str, str | None], None] = {}
        self.ids: dict[type, str] = {}
        """Of the nodes of event classes."""

    def build(self) -> None:
        steps = self.graph.steps.values()
        for spec in steps:
            self.nodes[spec.name] = _node(
                spec.name,
                "step",
                description=spec.description,
                role="catch_error" if spec.is_handler else "step",
                num_workers=spec.num_workers,
            )
        for kind in self.graph.events:
            self._add_event(kind)
        if any(is_input_required(kind) for spec in steps for kind in spec.gives):
            self.nodes[OUTSIDE] = _node(OUTSIDE, "external", label="External Step")
        for spec in steps:
            self._connect(spec)
        for spec in steps:
            self._add_sends(spec, self._add_waits(spec))
        for kind in self.graph.events:
            if OUTSIDE not in self.nodes:
                break
            if is_input_required(kind):
                self._edge(self._id(kind), OUTSIDE)
            if is_human_response(kind):
                self._edge(OUTSIDE, self._id(kind))

    def _add_waits(self, spec: StepSpec) -> list[type]:
        """What a step waits for in its code and what that calls, which no signature says: answers
        from outside, and the questions that are asked for them.
        """
        named = self.graph.named_by(spec.name, "wait_for_event")
        kinds = [kind for kind in named if kind not in spec.gives]
        answers = [kind for kind in kinds if is_human_response(kind)]
        for kind in answers:
            self._add_event(kind)
            self.nodes.setdefault(OUTSIDE, _node(OUTSIDE, "external", label="External Step"))
            self._edge(OUTSIDE, self._id(kind))
            self._edge(self._id(kind), spec.name, "waits for")
        for kind in kinds if answers else ():
            if is_input_required(kind):
                self._add_event(kind)
                self._edge(spec.name, self._id(kind), "asks")
                self._edge(self._id(kind), OUTSIDE)
        return answers

    def _add_sends(self, spec: StepSpec, waits: list[type]) -> None:
        """What a step sends to others without saying so in its signature."""
        for kind in self.graph.named_by(spec.name, "send_event"):
            if kind not in (*spec.gives, *spec.takes, *waits) and self.graph.takers(kind):
                self._edge(spec.name, self._id(kind), "sends")
                self.nodes[self._id(kind)]["produced_by"].append(spec.name)

    def _edge(self, source: str, target: str, label: str | None = None) -> None:
        self.edges[source, target, label] = None

    def _id(self, kind: type) -> str:
        """The id of the node of an event class."""
        found = self.ids.get(kind)
        if found is None:
            found, number = kind.__name__, 2
            while found in self.nodes or found in self.ids.values():
                found, number = f"{kind.__name__}~{number}", number + 1
            self.ids[kind] = found
        return found

    def _add_event(self, kind: Any) -> None:
        name, node_id = kind.__name__, self._id(kind)
        self.nodes[node_id] = _node(
            node_id,
            "event",
            label=name,
            event_type=name,
            event_types=[name, *ancestors(kind)],
            event_schema=schema_of(kind),
            produced_by=[s.name for s in self.graph.steps.values() if kind in s.gives],
        )

    def _connect(self, spec: StepSpec) -> None:
        for kind in spec.takes:
            for given in self.graph.events if spec.accept_subclasses else (kind,):
                if issubclass(given, kind):
                    self._edge(self._id(given), spec.name)
        for kind in spec.gives:
            self._edge(spec.name, self._id(kind))
        if spec.is_handler:
            covered = spec.handles or [
                n for n in self.graph.plain if self.graph.handler_for(n, {}) is spec
            ]
            for kind in (k for k in spec.takes if is_step_failed(k)):
                for step in covered:
                    self._edge(step, self._id(kind))
        for parameter, (kind, resource) in spec.resources.items():
            self._edge(spec.name, self._add_resource(kind, resource), parameter)

    def _add_resource(self, kind: Any, resource: Any) -> str:
        text = f"{getattr(kind, '__name__', kind)}/{resource.name}"
        kind_of_node = "resource" if hasattr(resource, "factory") else "resource_config"
        node_id = f"{kind_of_node}_{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        if node_id in self.nodes:
            return node_id
        type_name = getattr(kind, "__name__", str(kind))
        if not hasattr(resource, "factory"):
            self.nodes[node_id] = _node(
                node_id,
                "resource_config",
                label=resource.label or type_name,
                type_name=type_name,
                config_file=resource.config_file,
                path_selector=resource.path_selector,
                config_schema=kind.model_json_schema()
                if hasattr(kind, "model_json_schema")
                else None,
                config_value=resource.read(),
                description=resource.description,
            )
            return node_id
        file, line = _place(resource.factory)
        self.nodes[node_id] = _node(
            node_id,
            "resource",
            label=type_name,
            type_name=type_name,
            getter_name=resource.name,
            source_file=file,
            source_line=line,
            description=inspect.getdoc(resource.factory),
        )
        for parameter, (inner_kind, inner) in find_resources(resource.factory).items():
            self._edge(node_id, self._add_resource(inner_kind, inner), parameter)
        return node_id


def _place(fn: Any) -> tuple[str | None, int | None]:
    try:
        return inspect.getsourcefile(fn), inspect.getsourcelines(fn)[1]
    except (OSError, TypeError):
        return None, None


def _node(
    node_id: str, node_type: str, *, label: str | None = None, **facts: Any
) -> dict[str, Any]:
    known = {"id": node_id, "label": label or node_id, "node_type": node_type, "title": None}
    return {**known, "event_type": None, **facts}
