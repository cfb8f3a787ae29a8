"""What scenarios share: where they are gathered, how they ask the server through the real client
what it knows of a run, and a flow that several of them run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import prefect
from prefect import flow, task
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    TaskRunFilter,
    TaskRunFilterFlowRunId,
)
from prefect.context import FlowRunContext

SCENARIOS: dict[str, Callable[[], Awaitable[Any]]] = {}
RELEASE = tuple(int(part) for part in prefect.__version__.split(".")[:2])
"""Which Prefect this is."""
DELAYS = [0.01, 0.02] if RELEASE >= (3, 4) else [1, 1]
"""Delays before retries, in seconds; earlier ones know whole ones only."""
LOOK = 0.05
"""Seconds between two looks at what reaches the server on its own way (events, logs)."""


def scenario(body: Callable[[], Awaitable[Any]]) -> Callable[[], Awaitable[Any]]:
    """Add to what `main` runs."""
    SCENARIOS[body.__name__] = body
    return body


async def settled(look: Callable[[], Awaitable[Any]], limit: float = 20.0) -> Any:
    """What `look` answers once it is true; what it answered last when it never is."""
    found = await look()
    for _ in range(int(limit / LOOK)):
        if found:
            break
        await asyncio.sleep(LOOK)
        found = await look()
    return found


async def task_runs_of(client: PrefectClient, run_id: Any, count: int) -> list[Any]:
    """Its task runs by start, when `count` of them have ended."""
    runs: list[Any] = []

    async def look() -> bool:
        runs[:] = await client.read_task_runs(
            task_run_filter=TaskRunFilter(flow_run_id=TaskRunFilterFlowRunId(any_=[run_id]))
        )
        return sum(run.state.is_final() for run in runs if run.state) >= count

    await settled(look)
    return sorted(runs, key=lambda run: (run.start_time or run.created, str(run.id)))


async def states_of(client: PrefectClient, run_id: Any) -> list[str]:
    """The names of a flow run's states, oldest first."""
    states = await client.read_flow_run_states(run_id)
    return [state.name for state in sorted(states, key=lambda state: state.timestamp)]


async def task_states_of(client: PrefectClient, run_id: Any) -> list[str]:
    """The names of a task run's states, oldest first."""
    states = await client.read_task_run_states(run_id)
    return [state.name for state in sorted(states, key=lambda state: state.timestamp)]


def own_id() -> Any:
    """The id of the flow run that asks."""
    context = FlowRunContext.get()
    assert context is not None
    assert context.flow_run is not None
    return context.flow_run.id


async def ask(client: PrefectClient, method: str, path: str, body: object = None) -> Any:
    """What the server says to a request that not every release has a method for."""
    return (await client._client.request(method, path, json=body)).json()


async def result_of(state: Any) -> Any:
    """The result that a state refers to; `aresult` came after `fetch` had gone."""
    return await (state.aresult() if hasattr(state, "aresult") else state.result(fetch=True))


attempts: dict[str, Any] = {}
"""What the flows note: how often something ran, or the id of a run."""


def count(key: str) -> int:
    """How often it was asked with this key, from 1."""
    attempts[key] = attempts.get(key, 0) + 1
    return attempts[key]


@task
async def add(x: int, y: int = 1) -> int:
    return x + y


@flow(name="two-tasks", version="7", description="two of them", flow_run_name="sum-{start}")
async def two_tasks(start: int) -> Any:
    first = await add(start)
    second = await add(first, y=10)
    return own_id(), second
