"""Events, and what became of them."""

from typing import Any, Literal

from ironflow.web.wire import Problem, Request, View


class EmitRequest(Request, frozen=True):
    """An event. The same idempotency key and name again return the first event."""

    name: str
    data: Any = None
    idempotency_key: str | None = None


class OutcomeView(View, frozen=True):
    """What became of an event at one function."""

    function_id: str
    fate: Literal["started", "skipped", "debounced", "batched", "filtered"]
    """`started`: a run of its own. `skipped`: the function is a singleton and a run was there.
    `debounced`, `batched`: it waits with others for one run, or was in it. `filtered`: it did not
    pass the trigger's expression.
    """
    run_id: str | None
    """The run that it started or was skipped for; of what waits, the run once there is one."""
    due_at: str | None
    """When what waits starts, if no more events come."""
    text: str


class EmitView(View, frozen=True):
    """The event and the runs that it started; `created` is False for a repeated key. `outcomes` are
    those of functions whose flow control decides (debounce, batch, singleton).
    """

    event_id: str
    run_ids: list[str]
    created: bool
    outcomes: list[OutcomeView] = []  # noqa: RUF012 - a struct: each has a list of its own


class BatchItem(View, frozen=True):
    """What became of one event of a batch: `event` when it is stored, `problem` when it is not."""

    ok: bool
    event: EmitView | None = None
    problem: Problem | None = None


class BatchView(View, frozen=True):
    """What became of each event of a batch, in the order of the request."""

    items: list[BatchItem]


class EventView(View, frozen=True):
    """A stored event."""

    id: str
    name: str
    data: Any
    at: str
    source: str
    idempotency_key: str | None
    run_ids: list[str]
    outcomes: list[OutcomeView]
    """What became of it at each function that it concerned."""
    version: int
    metadata: dict[str, Any] | None
    emitted_by: str
    """Who emitted it: `apikey:<id>`, or nothing where no key was needed."""


class EventNameView(View, frozen=True):
    """A name of events, and how many of those that were looked at have it."""

    name: str
    count: int


class EventNamesView(View, frozen=True):
    """Names of events, the most frequent first, counted over the newest `scanned` events, at most
    `scan_cap`; `truncated`: there are older ones that were not looked at.
    """

    names: list[EventNameView]
    scanned: int
    scan_cap: int
    truncated: bool


class EventPage(View, frozen=True):
    """Events, newest first; `next_cursor` goes on."""

    items: list[EventView]
    next_cursor: str | None
