"""What faces may ask of an event-driven workflow: its schemas, its graph, and how it reads what
callers send. Implemented by `ironflow.workflows`; HTTP knows it through the function's spec.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from ironflow.core.workflows.state import WorkflowState


class ReadEvent(NamedTuple):
    """An event that a caller sent, validated: the full name of its class, its fields as JSON."""

    type: str
    value: bytes


class WorkflowFace(Protocol):
    """One workflow, as HTTP sees it. Everything that a caller sends wrong is `InvalidInput`."""

    def start_schema(self) -> dict[str, Any]:
        """JSON schema of the start event."""
        ...

    def stop_schema(self) -> dict[str, Any]:
        """JSON schema of the stop event."""
        ...

    def event_schemas(self) -> list[dict[str, Any]]:
        """JSON schemas of every event that steps take or return, and of the additional ones."""
        ...

    def representation(self) -> dict[str, Any]:
        """The graph: `name`, `description`, `nodes`, `edges`."""
        ...

    def read_start(self, given: object) -> bytes:
        """The fields of the start event as JSON: what a run is created with.

        `given` is the decoded `start_event` of a request: a bare object of fields, an envelope, or
        JSON text of either; None builds the event without fields. Raises `InvalidInput` for
        `start_event`.
        """
        ...

    def read_event(self, given: object) -> ReadEvent:
        """The event that a caller sends to a run: an envelope or its JSON text. Only declared
        classes are known. Raises `InvalidInput` for `event`.
        """
        ...

    def check_step(self, step: str, type: str) -> None:
        """Raises `InvalidInput` for `step` when there is none or it does not take the type."""
        ...

    def read_context(self, given: dict[str, Any]) -> WorkflowState:
        """What a run begins with that continues a `Context.to_dict()`. Raises `InvalidInput` for
        `context`.
        """
        ...

    def write_context(self, state: WorkflowState, running: bool) -> dict[str, Any]:
        """The state of a run as `Context.to_dict()` gives it."""
        ...
