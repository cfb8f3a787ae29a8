"""The server itself: health, readiness, statistics, live actors, and where everything is."""

from __future__ import annotations

from typing import Annotated

import msgspec

from ironflow.core.runs.state import RunStatus
from ironflow.web.queries import Query
from ironflow.web.routing import Answer, Call, Route
from ironflow.web.views import actor_view, blockage_view
from ironflow.web.wire import server as wire


class ActorsQuery(Query, frozen=True):
    """Which actors: `kind` such as `run`; at most `limit` of them."""

    kind: str | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 100


async def get_index(call: Call[Query, None]) -> Answer:
    """What this is."""
    links = {
        "openapi": "/openapi.json",
        "runs": "/api/v1/runs",
        "functions": "/api/v1/functions",
        "workflows": "/workflows",
        "debugger": "/workflows/ui",
        "events": "/api/v1/events",
        "stream": "/api/v1/stream",
        "statistics": "/api/v1/statistics",
        "metrics": "/metrics",
        "health": "/health",
        "ready": "/ready",
    }
    return 200, wire.IndexView(name="ironflow", version=call.state.version, links=links)


async def get_health(call: Call[Query, None]) -> Answer:
    """The process answers. Clients of workflow servers want these very words and these counts."""
    engine = call.engine
    status = "healthy" if engine.started else "unhealthy"
    return (200 if engine.started else 503), wire.Health(
        status=status,
        version=call.state.version,
        loaded_workflows=len(engine.workflows.names()),
        active_workflows=engine.pool.active,
        idle_workflows=engine.pool.queued,
    )


async def get_ready(call: Call[Query, None]) -> Answer:
    """Whether work is taken."""
    engine, issues = call.engine, []
    if engine.draining:
        issues.append("the server is shutting down and takes no new work")
    elif not engine.started:
        issues.append("the server is starting")
    elif (problem := await call.state.journal.problem()) is not None:
        issues.append(f"the journal refuses writes: {problem}")
    status = "not_ready" if issues else "ready"
    return (503 if issues else 200), wire.Ready(status=status, issues=issues)


async def get_capabilities(call: Call[Query, None]) -> Answer:
    """What clients of the protocol may count on."""
    return 200, wire.Capabilities(
        transports=["rest", "connect", "sse"],
        features=["functions", "runs", "events", "workers", "environments", "roles", "policies"],
        version=call.state.version,
        auth_required=call.engine.keyring.is_needed,
    )


async def get_statistics(call: Call[Query, None]) -> Answer:
    """The server now, in numbers."""
    engine = call.engine
    runs = dict.fromkeys((status.value for status in RunStatus), 0)
    for (_, status), count in (await engine.store.reader.count_runs()).items():
        runs[status] = runs.get(status, 0) + count
    journal = engine.store.journal
    return 200, wire.StatisticsView(
        version=call.state.version,
        uptime=call.state.uptime,
        actors={
            kind: msgspec.structs.asdict(total)
            for kind, total in engine.system.statistics_by_kind().items()
        },
        runs=runs,
        slots={
            "capacity": engine.pool.capacity,
            "active": engine.pool.active,
            "queued": engine.pool.queued,
            "unserved": engine.pool.unserved,
        },
        timers=len(engine.timers),
        waiters=len(engine.environment.waiters),
        undelivered=len(engine.environment.outbox),
        journal={"last_seq": journal.last_seq, **msgspec.structs.asdict(journal.stats)},
        event_loop=wire.EventLoopView(
            blocked=engine.blockages.count,
            blocked_seconds=engine.blockages.seconds,
            latest=[blockage_view(found) for found in reversed(engine.blockages.latest)],
        ),
    )


async def list_actors(call: Call[ActorsQuery, None]) -> Answer:
    """Live actors, the fullest mailboxes first."""
    query = call.query
    prefix = "" if query.kind is None else f"{query.kind}/"
    actors = [a for a in call.engine.system.statistics() if a.address.startswith(prefix)]
    actors.sort(key=lambda actor: (-actor.mailbox, actor.idle, actor.address))
    return 200, wire.ActorPage(
        items=[actor_view(actor) for actor in actors[: query.limit]], total=len(actors)
    )


ROUTES = (
    Route(
        method="GET",
        path="/api/v1/capabilities",
        handle=get_capabilities,
        summary="What clients may count on, and whether they need a key",
        tag="server",
        response=wire.Capabilities,
        statuses={200: "Transports, features, version"},
    ),
    Route(
        method="GET",
        path="/",
        handle=get_index,
        summary="What this server is and where to go on",
        tag="server",
        response=wire.IndexView,
        statuses={200: "The index"},
    ),
    Route(
        method="GET",
        path="/health",
        handle=get_health,
        summary="Whether the process answers",
        tag="server",
        response=wire.Health,
        statuses={200: "It does", 503: "It is starting: what was unfinished is brought back"},
    ),
    Route(
        method="GET",
        path="/ready",
        handle=get_ready,
        summary="Whether the server takes work",
        tag="server",
        response=wire.Ready,
        statuses={200: "It does", 503: "It does not; `issues` say why"},
    ),
    Route(
        method="GET",
        path="/api/v1/statistics",
        handle=get_statistics,
        summary="The server now, in numbers",
        tag="server",
        response=wire.StatisticsView,
        statuses={200: "Actors by kind, runs by status, slots, timers, journal, event loop"},
        problems=(503,),
    ),
    Route(
        method="GET",
        path="/api/v1/actors",
        handle=list_actors,
        summary="List live actors, the fullest mailboxes first",
        tag="server",
        query=ActorsQuery,
        response=wire.ActorPage,
        statuses={200: "Live actors"},
    ),
)
