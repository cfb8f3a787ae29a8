"""Functions, and calls of them."""

from typing import Any, Literal

import msgspec

from ironflow.core.functions.flow_control import FlowControl
from ironflow.web.wire import Request, View
from ironflow.web.wire.runs import FailureView


class TriggerView(View, frozen=True):
    """What starts a function."""

    event: str
    expression: str | None


class RetryView(View, frozen=True):
    """A retry policy; delays in seconds."""

    max_attempts: int
    initial_delay: float
    factor: float
    max_delay: float
    jitter: float


class FunctionView(View, frozen=True):
    """A registered function. `served` says whether this server can run it now."""

    id: str
    name: str
    version: int
    code: str
    description: str
    triggers: list[TriggerView]
    cron: str | None
    timezone: str | None
    next_run_at: str | None
    timeout: float | None
    retry: RetryView
    input_schema: dict[str, Any] | None
    flow_control: FlowControl
    served: bool
    updated_at: str
    labels: dict[str, str] = msgspec.field(default_factory=dict)


class FunctionPage(View, frozen=True):
    """Every function, by id."""

    items: list[FunctionView]


class InvokeRequest(Request, frozen=True):
    """Start a run. The same idempotency key again finds the first run; with other input it is a
    conflict."""

    input: Any = None
    idempotency_key: str | None = None


class InvokeView(View, frozen=True):
    """The run; with `?wait=` also how it ended, if it did in time.

    `fate` says what the function's flow control made of it: `skipped` with the run that is there,
    `debounced` or `batched` with no run yet, but the event (`event_id`) that waits, and `due_at`,
    when it runs if no more come.
    """

    run_id: str | None
    created: bool
    status: str
    fate: Literal["started", "skipped", "debounced", "batched"] = "started"
    due_at: str | None = None
    event_id: str | None = None
    result: Any = None
    error: "FailureView | None" = None
    timed_out: bool = False
    """The wait is over but the run goes on."""
