"""Lanes: who executes in them, and who waits."""

from __future__ import annotations

from ironflow.actors.lanes import LaneState
from ironflow.core.errors import NotFound
from ironflow.core.lanes import parse_lane
from ironflow.web import wire
from ironflow.web.queries import Query
from ironflow.web.routing import Answer, Call, Route


def lane_view(lane: LaneState) -> wire.LaneView:
    """A lane on the wire."""
    return wire.LaneView(
        name=lane.name,
        function_id=parse_lane(lane.name)[0],
        limit=lane.limit,
        holders=list(lane.holders),
        waiting=list(lane.waiting),
    )


async def list_lanes(call: Call[Query, None]) -> Answer:
    """Every lane in which anybody executes or waits."""
    return 200, wire.LanePage(items=[lane_view(lane) for lane in call.engine.pool.lanes.states()])


async def get_lane(call: Call[Query, None]) -> Answer:
    """One lane; one that nobody is in exists if its function has it."""
    name = call.path["name"]
    try:
        function_id, number = parse_lane(name)
    except ValueError:
        raise NotFound("lane", name) from None
    spec = call.engine.host.spec(function_id)
    if spec is None or number >= len(spec.definition.concurrency):
        raise NotFound("lane", name)
    return 200, lane_view(call.engine.pool.lanes.state(name))


ROUTES = (
    Route(
        method="GET",
        path="/api/v1/lanes",
        handle=list_lanes,
        summary="List lanes: who executes in them, and who waits",
        tag="lanes",
        response=wire.LanePage,
        statuses={200: "Every lane in which anybody is, by name"},
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
