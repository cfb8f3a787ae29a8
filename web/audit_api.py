"""The trail of a run over REST; the same over Connect is `AuditService/GetAuditTrail`."""

from __future__ import annotations

from typing import Annotated

import msgspec

from ironflow.core.errors import InvalidInput
from ironflow.web.connect.time_travel import audit_payload, read_trail
from ironflow.web.queries import Moment, Query, to_micros
from ironflow.web.routing import Answer, Call, Route
from ironflow.web.views import Values, moment
from ironflow.web.wire.audit import AuditEventView, AuditView

Text = Annotated[str, msgspec.Meta(max_length=1000)]


class AuditQuery(Query, frozen=True, rename={"from_": "from"}):
    """Of which run, and what of it: `event_type`, and moments `from` and `to`, both included.
    `action` and `api_key_id` ask for what keys did, which is not kept.
    """

    run_id: Text = ""
    event_type: Text = ""
    function_id: Text = ""
    from_: Moment | None = None
    to: Moment | None = None
    action: Text = ""
    api_key_id: Text = ""
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 100
    cursor: Text = ""


async def list_audit_events(call: Call[AuditQuery, None]) -> Answer:
    """What happened to a run, with its values, oldest first."""
    query, engine = call.query, call.engine
    for name in ("action", "api_key_id"):
        if getattr(query, name):
            raise InvalidInput(name, "what keys did is not kept: ask for a run")
    if not query.run_id:
        raise InvalidInput("run_id", "is required: the trail is that of one run")
    span = (to_micros(query.from_), to_micros(query.to))
    page = await read_trail(engine, query.run_id, query.event_type, span, query.limit, query.cursor)
    values = Values(engine, full=False)
    ours = [e for e in page.events if query.function_id in ("", e[1].function_id)]
    events = [
        AuditEventView(
            id=str(row.seq),
            event_type=fact.type,
            run_id=run.id,
            function_id=run.function_id,
            step_id=fact.step_id,
            environment_id=engine.environment_id,
            payload=await audit_payload(fact, values),
            scope="run",
            created_at=moment(row.at) or "",
        )
        for row, run, fact in ours
    ]
    return 200, AuditView(
        events=events,
        total_count=page.total if events or not query.function_id else 0,
        next_cursor=page.next_cursor,
        retention_days=0,  # as long as the run
    )


ROUTES = (
    Route(
        method="GET",
        path="/api/v1/audit",
        handle=list_audit_events,
        summary="What happened to a run, oldest first",
        details="`run_id` is required. With the values that steps and the run came to, small ones "
        "whole.",
        tag="runs",
        query=AuditQuery,
        response=AuditView,
        statuses={200: "A page of its trail"},
        problems=(404, 503),
    ),
)
