"""Lanes: who executes in them, and who waits."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from ironflow.actors.hosts import Slots, describe
from ironflow.actors.slots.lanes import LaneState
from ironflow.core.clock import SECOND, to_rfc3339
from ironflow.core.errors import NotFound
from ironflow.core.functions.lanes import RATE, THROTTLE, parse_lane
from ironflow.web.queries import Query, decode_cursor, encode_cursor
from ironflow.web.routing import Answer, Call, Route
from ironflow.web.wire import lanes as wire

MOST_LISTED = 1000
"""Runs of a lane, those in it and those that wait."""
_POLICIES: dict[str, Literal["throttle", "rate_limit"]] = {THROTTLE: "throttle", RATE: "rate_limit"}


class LanesQuery(Query, frozen=True):
    """A page of lanes, by name; of one function or of all."""

    function_id: str | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 200
    cursor: str | None = None


def lane_view(slots: Slots, lane: LaneState) -> wire.LaneView:
    """A lane on the wire."""
    function_id, which = parse_lane(lane.name)
    limit, period = slots.windows.terms(lane.name)
    return wire.LaneView(
        name=lane.name,
        function_id=function_id,
        policy=_POLICIES.get(which, "concurrency"),
        limit=limit,
        period=period / SECOND if period else None,
        held=len(lane.holders),
        queued=len(lane.waiting),
        holders=list(lane.holders[:MOST_LISTED]),
        waiting=[ticket.run_id for ticket in lane.waiting[:MOST_LISTED]],
        line=[
            wire.WaitingView(
                run_id=ticket.run_id,
                since=to_rfc3339(ticket.came),
                priority=ticket.priority,
                share=ticket.share,
            )
            for ticket in lane.waiting[:MOST_LISTED]
        ],
        reason=describe(lane, period) if lane.waiting or lane.opens_at is not None else None,
        opens_at=to_rfc3339(lane.opens_at) if lane.opens_at is not None else None,
    )


async def list_lanes(call: Call[LanesQuery, None]) -> Answer:
    """The lanes in which anybody executes, waits, or counts."""
    slots, query = call.engine.pool, call.query
    _, after = decode_cursor(query.cursor) or (0, "")
    found = slots.lanes.states(query.limit + 1, after, query.function_id)
    page = found[: query.limit]
    return 200, wire.LanePage(
        items=[lane_view(slots, lane) for lane in page],
        next_cursor=encode_cursor(0, page[-1].name) if len(found) > len(page) else None,
    )


async def get_lane(call: Call[Query, None]) -> Answer:
    """One lane; one that nobody is in exists if its function has it."""
    name = call.path["name"]
    try:
        function_id, which = parse_lane(name)
    except ValueError:
        raise NotFound("lane", name) from None
    spec, slots = call.engine.host.spec(function_id), call.engine.pool
    if spec is None or spec.policies is None or spec.policies.terms(which) is None:
        raise NotFound("lane", name)
    return 200, lane_view(slots, slots.lanes.state(name))


ROUTES = (
    Route(
        method="GET",
        path="/api/v1/lanes",
        handle=list_lanes,
        summary="List lanes: who executes in them, and who waits",
        tag="lanes",
        query=LanesQuery,
        response=wire.LanePage,
        statuses={200: "Lanes in which anybody executes, waits or counts, by name"},
    ),
    Route(
        method="GET",
        path="/api/v1/lanes/{name}",
        handle=get_lane,
        summary="Get a lane",
        tag="lanes",
        response=wire.LaneView,
        statuses={200: "The lane"},
        problems=(404,),
    ),
)
