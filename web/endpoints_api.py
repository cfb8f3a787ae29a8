"""Endpoints: which there are, and the functions that they say they serve."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ironflow.actors.endpoints.endpoints import breaker_key
from ironflow.actors.endpoints.introspection import Survey, register_found, survey
from ironflow.actors.engine import Engine
from ironflow.core.functions.definition import Definition
from ironflow.core.remote.breaker import BreakerStatus
from ironflow.storage.ports import FunctionRow
from ironflow.web.queries import Query
from ironflow.web.routing import Answer, Call, Route
from ironflow.web.wire import endpoints as wire


async def list_endpoints(call: Call[Query, None]) -> Answer:
    """Every address that a function is registered for. Nothing is asked of them."""
    found: dict[str, list[tuple[FunctionRow, Definition]]] = {}
    for row, definition in await call.engine.functions():
        if definition.placement == "push" and definition.endpoint is not None:
            found.setdefault(definition.endpoint.url, []).append((row, definition))
    items = [
        _endpoint_view(call.engine, url, functions) for url, functions in sorted(found.items())
    ]
    return 200, wire.EndpointPage(items=items)


def _endpoint_view(
    engine: Engine, url: str, functions: Sequence[tuple[FunctionRow, Definition]]
) -> wire.EndpointView:
    active, most = engine.endpoints.load_at(url)
    return wire.EndpointView(
        url=url,
        reports=next(d.endpoint.reports for _, d in functions if d.endpoint is not None),
        active=active,
        concurrency=most,
        functions=list(_functions(engine, functions)),
    )


def _functions(
    engine: Engine, found: Iterable[tuple[FunctionRow, Definition]]
) -> Iterable[wire.EndpointFunctionView]:
    for row, definition in found:
        endpoint = definition.endpoint
        if endpoint is None:
            continue
        active, waiting = engine.endpoints.load(row.id)
        breaker = engine.endpoints.breakers.get(breaker_key(row.id, endpoint))
        yield wire.EndpointFunctionView(
            id=row.id,
            version=row.version,
            code=definition.code,
            timeout=endpoint.timeout,
            concurrency=endpoint.concurrency,
            active=active,
            waiting=waiting,
            breaker=(breaker.status if breaker is not None else BreakerStatus.CLOSED).value,
        )


async def register_endpoint(call: Call[Query, wire.EndpointRequest]) -> Answer:
    """Ask an endpoint what it serves, and register that."""
    body = call.body
    call.engine.check_open()
    found = await survey(call.engine, body.url, timeout=body.timeout, concurrency=body.concurrency)
    if not body.dry_run:
        await register_found(call.engine, found)
    return 200, _survey_view(found, applied=not body.dry_run)


def _survey_view(found: Survey, *, applied: bool) -> wire.SurveyView:
    return wire.SurveyView(
        url=found.url,
        sdk=found.sdk,
        applied=applied,
        drifts=found.drifts,
        differences=[
            wire.DifferenceView(
                function_id=one.function_id,
                change=one.change,
                code=one.code,
                registered=one.registered,
                before=one.before,
            )
            for one in found.differences
        ],
    )


ROUTES = (
    Route(
        method="GET",
        path="/api/v1/endpoints",
        handle=list_endpoints,
        summary="List endpoints",
        tag="endpoints",
        response=wire.EndpointPage,
        statuses={200: "Every address that a function is registered for"},
    ),
    Route(
        method="POST",
        path="/api/v1/endpoints",
        handle=register_endpoint,
        summary="Ask an endpoint what it serves, and register that",
        tag="endpoints",
        request=wire.EndpointRequest,
        response=wire.SurveyView,
        statuses={200: "What differed from what was registered"},
        problems=(409, 429, 502, 503, 507),
    ),
)
