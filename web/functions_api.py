"""Functions: list, get, invoke, invoke and wait."""

from __future__ import annotations

import msgspec

from ironflow.core.errors import InvalidInput
from ironflow.core.functions.definition import Definition
from ironflow.core.runs.state import Run
from ironflow.core.values.json_text import keep_json
from ironflow.web.queries import Query, check_key, parse_wait
from ironflow.web.routing import Answer, Call, Route
from ironflow.web.views import failure_view, function_view, load, moment
from ironflow.web.wire import functions as wire


class InvokeBody(wire.InvokeRequest, frozen=True):
    """`InvokeRequest` with its input as text, so that no number in it is rounded."""

    input: msgspec.Raw = msgspec.Raw(b"null")


class WaitQuery(Query, frozen=True):
    """How long to wait for the run's end, such as `30s`; at most `5m`."""

    wait: str | None = None


async def list_functions(call: Call[Query, None]) -> Answer:
    """Every function, by id."""
    known = await call.engine.functions()
    return 200, wire.FunctionPage(items=[function_view(call.engine, *one) for one in known])


async def get_function(call: Call[Query, None]) -> Answer:
    """One function."""
    row, definition = await call.engine.function(call.path["function_id"])
    return 200, function_view(call.engine, row, definition)


async def invoke_function(call: Call[WaitQuery, InvokeBody]) -> Answer:
    """Start a run, and wait for its end if asked to."""
    engine, body, function_id = call.engine, call.body, call.path["function_id"]
    wait = None if call.query.wait is None else parse_wait(call.query.wait)
    key = check_key(call.sent_headers, body.idempotency_key)
    data = keep_json(body.input, "input")
    run: Run | None = None
    if wait is None:
        created = await engine.invoke(function_id, data, idempotency_key=key)
    else:
        created, run = await engine.invoke_and_wait(
            function_id, data, idempotency_key=key, timeout=wait
        )
    if not created.run_id:
        call.headers["Location"] = f"/api/v1/events/{created.event_id}"
        return 202, wire.InvokeView(
            run_id=None,
            created=created.created,
            status=created.status,
            fate=created.fate,
            due_at=moment(created.due_at),
            event_id=created.event_id,
        )
    call.headers["Location"] = f"/api/v1/runs/{created.run_id}"
    if run is not None:
        return 200, wire.InvokeView(
            run_id=run.id,
            created=created.created,
            fate=created.fate,
            status=run.status.value,
            result=await load(engine, run.result),
            error=failure_view(run.error),
        )
    status = created.status
    if wait is not None and (row := await engine.store.reader.run(created.run_id)) is not None:
        status = row.status
    view = wire.InvokeView(
        run_id=created.run_id,
        created=created.created,
        status=status,
        fate=created.fate,
        timed_out=wait is not None,
    )
    if wait is not None:
        return 202, view
    return (201 if created.created else 200), view


async def put_function(call: Call[Query, Definition]) -> Answer:
    """Register a function that workers or an endpoint execute."""
    definition, function_id = call.body, call.path["function_id"]
    if definition.id != function_id:
        raise InvalidInput("id", f"is {definition.id!r}, the path says {function_id!r}")
    if definition.placement == "embedded":
        raise InvalidInput("placement", "must be pull or push: the server loads its own itself")
    row, created = await call.engine.register_remote(definition)
    view = function_view(call.engine, *await call.engine.function(row.id))
    return (201 if created else 200), view


ROUTES = (
    Route(
        method="GET",
        path="/api/v1/functions",
        handle=list_functions,
        summary="List functions",
        tag="functions",
        response=wire.FunctionPage,
        statuses={200: "Every function that was ever registered, by id"},
        problems=(503,),
    ),
    Route(
        method="GET",
        path="/api/v1/functions/{function_id}",
        handle=get_function,
        summary="Get a function",
        tag="functions",
        response=wire.FunctionView,
        statuses={200: "The function"},
        problems=(404, 503),
    ),
    Route(
        method="PUT",
        path="/api/v1/functions/{function_id}",
        handle=put_function,
        summary="Register a function that workers or an endpoint execute",
        details="The same definition again changes nothing; another one gets a new version.",
        tag="functions",
        request=Definition,
        response=wire.FunctionView,
        statuses={200: "The function", 201: "The function is new"},
        problems=(409, 429, 503, 507),
    ),
    Route(
        method="POST",
        path="/api/v1/functions/{function_id}/invoke",
        handle=invoke_function,
        summary="Start a run, and wait for it with `?wait=`",
        details="The run is durable when this answers. The same idempotency key again finds the "
        "first run; with other input that is a conflict. With `wait`, a connection that is closed "
        "gives up the wait, not the run. A singleton function answers with the run that is there "
        "(`skipped`); one that is debounced or takes batches has none yet (202), and refuses "
        "`wait` (409, `failed_precondition`).",
        tag="functions",
        fast=True,
        query=WaitQuery,
        request=wire.InvokeRequest,
        decode_as=InvokeBody,
        optional_body=True,
        keyed=True,
        response=wire.InvokeView,
        statuses={
            201: "Without `wait`: the run is created",
            200: "With `wait`: the run has ended. Without: the idempotency key found this run",
            202: "With `wait`: the time is over and the run goes on. Without: the function is "
            "debounced or takes batches, and a run starts later",
        },
        problems=(404, 409, 429, 503, 507),
    ),
)
