"""What workflow servers answer, as `WorkflowClient` gives it."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from ironflow.core.errors import IronflowError

Status = Literal["running", "completed", "failed", "cancelled"]
ENDED: frozenset[str] = frozenset({"completed", "failed", "cancelled"})


class RequestRefused(IronflowError):
    """The server refused a request; `status` is its HTTP status and `detail` its reason."""

    code = "refused"

    def __init__(self, status: int, detail: str, what: str) -> None:
        self.status, self.detail, self.what = status, detail, what
        super().__init__(f"{what}: {status}: {detail}")


class EventEnvelope(msgspec.Struct):
    """An event as it came: its fields (`value`), its class's bare name (`type`) and those of the
    class's ancestors below `Event`, nearest first (`types`).
    """

    value: dict[str, Any]
    type: str
    qualified_name: str | None = None
    types: list[str] | None = None

    def is_a(self, name: str) -> bool:
        """Whether it is of a class of this name, or descends from one."""
        return self.type == name or name in (self.types or ())

    def load_event(self, registry: Sequence[builtins.type[Any]] = ()) -> Any:
        """The event as an object of its class: of the given ones, else a built-in one.

        Raises `LookupError` when none has its name, pydantic's `ValidationError` when the fields do
        not fit.
        """
        found: Any = next((kind for kind in registry if kind.__name__ == self.type), None)
        if found is None:
            from ironflow.workflows import events

            found = getattr(events, self.type, None)
        if found is None:
            raise LookupError(f"no event class {self.type!r} was given; pass it in `registry`")
        value = dict(self.value)
        value.update(value.pop("_data", None) or {})
        return found(**value)


class Handler(msgspec.Struct, kw_only=True):
    """A run under the name that callers know. Moments are ISO 8601 text. `run_status` tells a run
    that waits from one that works (None: another server's, which does not say).
    """

    handler_id: str
    workflow_name: str
    status: Status
    run_id: str | None = None
    error: str | None = None
    result: EventEnvelope | None = None
    run_status: str | None = None
    started_at: str | None = None
    updated_at: str | None = None
    completed_at: str | None = None

    @property
    def is_ended(self) -> bool:
        """Whether it is over, in whatever way."""
        return self.status in ENDED


class Handlers(msgspec.Struct):
    """A page of handlers; `next_cursor` asks for the next one (None: that was the last)."""

    handlers: list[Handler]
    next_cursor: str | None = None


class Health(msgspec.Struct):
    """Whether the server takes work."""

    status: str


class Workflows(msgspec.Struct):
    """The names of the workflows that a server serves."""

    workflows: list[str]


class Schema(msgspec.Struct):
    """JSON schemas of the event that starts a workflow and of the one that ends it."""

    start: dict[str, Any]
    stop: dict[str, Any]


class EventSchemas(msgspec.Struct):
    """JSON schemas of a workflow's events."""

    events: list[dict[str, Any]]


class Graph(msgspec.Struct):
    """A workflow's graph: `name`, `description`, `nodes`, `edges`."""

    graph: dict[str, Any]


class Acknowledged(msgspec.Struct):
    """What the server did: `sent`, `cancelled` or `deleted`."""

    status: str
