"""The methods of `IronflowService` about the server itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ironflow.web.connect.dispatch import Call, Method


class Nothing(msgspec.Struct, frozen=True):
    """No question."""


async def get_health(call: Call[Nothing]) -> Mapping[str, Any]:
    """Whether the server is at work, and whether its journal takes writes."""
    engine = call.engine
    problem = await call.state.journal.problem()
    journal = {"status": "unhealthy", "message": problem} if problem else {"status": "healthy"}
    status = "draining" if engine.draining else "healthy" if problem is None else "unhealthy"
    return {
        "status": status,
        "timestamp": engine.clock.now(),
        "components": {"journal": journal},
    }


async def get_info(call: Call[Nothing]) -> Mapping[str, Any]:
    """What this server is, and how much of everything it has."""
    engine = call.engine
    return {
        "version": call.state.version,
        "startedAt": call.state.started_at,
        "functionCount": len(await engine.catalog.all()),
        "activeRuns": engine.pool.active,
        "connectedWorkers": sum(worker.online for worker in engine.fleet.workers.values()),
    }


METHODS = {"Health": Method(Nothing, get_health), "Info": Method(Nothing, get_info)}
