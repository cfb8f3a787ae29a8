"""The workflow paths as `/openapi.json` describes them. They are served by `face`; bodies here are
nothing but fields.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from ironflow.web.queries import Query
from ironflow.web.routing import Route
from ironflow.web.wire import View

Status = Literal["running", "completed", "failed", "cancelled"]
RunStatus = Literal["queued", "running", "waiting", "paused", "completed", "failed", "cancelled"]


class WorkflowNames(View, frozen=True):
    """The workflows that this server serves."""

    workflows: list[str]


class StartAndStop(View, frozen=True):
    """JSON schemas of the event that starts a workflow and of the one that ends it."""

    start: dict[str, Any]
    stop: dict[str, Any]


class EventSchemas(View, frozen=True):
    """JSON schemas of every event that a workflow knows."""

    events: list[dict[str, Any]]


class WorkflowGraph(View, frozen=True):
    """What the debugger draws: `name`, `description`, `nodes` and `edges`."""

    graph: dict[str, Any]


class Envelope(View, frozen=True):
    """An event: its fields, and the names of its class and of the class's ancestors."""

    value: dict[str, Any]
    type: str
    qualified_name: str | None = None
    types: list[str] | None = None


class HandlerBody(View, frozen=True):
    """A run of a workflow under the name that its caller knows. Moments are ISO 8601. `result` is
    the stop event; at `/results` it is what that holds. `run_status` tells a run that waits, for a
    human or a timer, from one that works.
    """

    handler_id: str
    workflow_name: str
    run_id: str | None
    error: str | None
    result: Any
    result_unreadable: bool
    status: Status
    run_status: RunStatus
    started_at: str
    updated_at: str | None
    completed_at: str | None


class HandlerPage(View, frozen=True):
    """Handlers, newest first; `next_cursor` goes on."""

    handlers: list[HandlerBody]
    next_cursor: str | None


class Done(View, frozen=True):
    """What was done: `sent`, `cancelled` or `deleted`."""

    status: Literal["sent", "cancelled", "deleted"]


class RunBody(View, frozen=True):
    """A start event (its fields, an envelope, or JSON text of either), or `kwargs` in its place;
    the caller's name for the run; a context that the run continues.
    """

    start_event: Any = None
    kwargs: dict[str, Any] | None = None
    handler_id: str | None = None
    context: dict[str, Any] | None = None


class SendBody(View, frozen=True):
    """An event (an envelope or its JSON text), for one step or for whoever takes it. `answers`: the
    sequence of the question in the run's stream that it answers, which other readers are told.
    """

    event: Any
    step: str | None = None
    answers: Annotated[int, msgspec.Meta(ge=0)] | None = None


class EventsQuery(Query, frozen=True):
    """`sse` or lines of JSON; `after_sequence`: a sequence, -1 for all, `now` for what is to come;
    `include_time` adds `at` and `job` to each envelope. `acquire_timeout` must be a number and has
    no effect: any number of readers get everything.
    """

    sse: bool = True
    include_internal: bool = False
    include_qualified_name: bool = True
    include_time: bool = False
    after_sequence: str = "-1"
    acquire_timeout: float = 1.0


class HandlersQuery(Query, frozen=True):
    """`handler_id`, `status`, `run_status` and `workflow_name` may be given several times. Without
    `limit`: all of them.
    """

    handler_id: tuple[str, ...] = ()
    status: tuple[Status, ...] = ()
    run_status: tuple[RunStatus, ...] = ()
    workflow_name: tuple[str, ...] = ()
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] | None = None
    cursor: str | None = None
    include_results: bool = True


class CancelQuery(Query, frozen=True):
    """`purge`: delete the run and everything about it."""

    purge: bool = False


_ENDED = {
    200: "The run has completed",
    202: "The run is running",
    500: "The run failed, timed out or was cancelled",
}
_REFUSED = (429, 503, 507)


def _route(method: str, path: str, name: str, summary: str, **facts: Any) -> Route:
    return Route(
        method=method,
        path=path,
        name=name,
        summary=summary,
        handle=None,
        tag="workflows",
        plain_refusals=True,
        **facts,
    )


ROUTES = (
    _route(
        "GET", "/workflows", "list_workflows", "List workflows",
        response=WorkflowNames, statuses={200: "Their names"},
    ),
    _route(
        "GET", "/workflows/{name}/schema", "get_workflow_schema", "Schemas of start and stop event",
        response=StartAndStop, statuses={200: "The schemas"}, problems=(404,),
    ),
    _route(
        "GET", "/workflows/{name}/events", "get_workflow_events", "Schemas of a workflow's events",
        response=EventSchemas, statuses={200: "The schemas"}, problems=(404,),
    ),
    _route(
        "GET", "/workflows/{name}/representation", "get_workflow_graph", "A workflow's graph",
        response=WorkflowGraph, statuses={200: "The graph"}, problems=(404,),
    ),
    _route(
        "POST", "/workflows/{name}/run", "run_workflow", "Run a workflow to its end",
        request=RunBody, response=HandlerBody, problems=(404, 409, *_REFUSED),
        statuses={**_ENDED, 202: "The run was paused by an operator"},
    ),
    _route(
        "POST", "/workflows/{name}/run-nowait", "start_workflow", "Start a workflow",
        request=RunBody, response=HandlerBody, problems=(404, 409, *_REFUSED),
        statuses={200: "The run is stored and goes on"},
    ),
    _route(
        "GET", "/handlers", "list_handlers", "List handlers",
        query=HandlersQuery, response=HandlerPage, problems=(400, 503),
        statuses={200: "Handlers, newest first"},
    ),
    _route(
        "GET", "/handlers/{handler_id}", "get_handler", "Get a handler",
        response=HandlerBody, statuses=_ENDED, problems=(404, 503),
    ),
    _route(
        "GET", "/results/{handler_id}", "get_handler_result", "Get a handler with its bare result",
        response=HandlerBody, statuses=_ENDED, problems=(404, 503),
    ),
    _route(
        "POST", "/handlers/{handler_id}/cancel", "cancel_handler", "Cancel, or purge",
        query=CancelQuery, response=Done, problems=(404, *_REFUSED),
        statuses={200: "It is done"},
    ),
    _route(
        "GET", "/events/{handler_id}", "stream_workflow_events", "Follow a run's events",
        query=EventsQuery, content_type="text/event-stream", problems=(400, 404, 503),
        statuses={200: "The events, to the end of the run", 204: "Nothing is left of it"},
    ),
    _route(
        "POST", "/events/{handler_id}", "send_workflow_event", "Send a run an event",
        request=SendBody, response=Done, problems=(404, 409, *_REFUSED),
        statuses={200: "It is stored"},
    ),
    _route(
        "GET", "/workflows/ui", "show_workflows", "The workflow debugger",
        content_type="text/html", statuses={200: "The page"},
    ),
    _route(
        "GET", "/workflows/ui/static/{file}", "get_workflow_page_file", "A file of the debugger",
        content_type="text/javascript", statuses={200: "The file"}, problems=(404,),
    ),
)  # fmt: skip
