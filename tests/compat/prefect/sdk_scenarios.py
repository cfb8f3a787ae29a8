"""What a user's script does, under the real Prefect client: run by the interpreter of its own
environment, with `PREFECT_API_URL` naming the server.

Each scenario runs flows, then asks the server through the real client what it knows of them, and
answers with plain data. One line of JSON a scenario: `{"scenario", "answer"}` or
`{"scenario", "error"}`. They share one process because importing Prefect takes seconds.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import traceback
import uuid
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from prefect import flow, get_run_logger, pause_flow_run, suspend_flow_run, tags, task
from prefect.cache_policies import INPUTS
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterName,
    FlowRunFilterParentFlowRunId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
    LogFilter,
    LogFilterFlowRunId,
    LogFilterLevel,
    TaskRunFilter,
    TaskRunFilterFlowRunId,
)
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.sorting import FlowRunSort, LogSort
from prefect.context import FlowRunContext
from prefect.events import emit_event
from prefect.events.clients import get_events_client, get_events_subscriber
from prefect.events.filters import EventFilter, EventNameFilter
from prefect.events.schemas.events import Event, Resource
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.flow_engine import run_flow
from prefect.input import RunInput, receive_input
from prefect.logging.clients import get_logs_subscriber
from prefect.runtime import flow_run as runtime_flow_run
from prefect.states import Cancelling, Completed, Failed, Pending, Running, Scheduled
from prefect.transactions import transaction
from prefect.types._datetime import now

SCENARIOS: dict[str, Callable[[], Awaitable[Any]]] = {}
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


# ---------------------------------------------------------------------------------------- tasks


@task
async def add(x: int, y: int = 1) -> int:
    return x + y


@flow(name="two-tasks", version="7", description="two of them", flow_run_name="sum-{start}")
async def two_tasks(start: int) -> Any:
    first = await add(start)
    second = await add(first, y=10)
    return own_id(), second


@scenario
async def tasks() -> Any:
    run_id, total = await two_tasks(5)
    async with get_client() as client:
        run = await client.read_flow_run(run_id)
        tasks = await task_runs_of(client, run_id, 2)
        history = [await task_states_of(client, one.id) for one in tasks]
        named = await client.read_flow_by_name("two-tasks")
        return {
            "total": total,
            "name": run.name,
            "parameters": run.parameters,
            "version": run.flow_version,
            "state": [run.state_type, run.state_name],
            "run_count": run.run_count,
            "times": run.start_time <= run.end_time and run.expected_start_time is not None,
            "total_run_time": run.total_run_time == run.end_time - run.start_time,
            "labels": run.labels == {"prefect.flow.id": str(named.id)},
            "flow": run.flow_id == named.id,
            "history": await states_of(client, run_id),
            "tasks": [
                {
                    "name": one.name.rsplit("-", 1)[0],
                    "state": [one.state_type, one.state_name],
                    "run_count": one.run_count,
                    "flow_run_run_count": one.flow_run_run_count,
                    "times": one.start_time <= one.end_time,
                    "run_time": one.total_run_time > timedelta(0),
                    "own": one.flow_run_id == run_id,
                    "state_ids": [
                        one.state.state_details.flow_run_id == run_id,
                        one.state.state_details.task_run_id == one.id,
                    ],
                }
                for one in tasks
            ],
            "task_history": history,
        }


@task
def double(x: int) -> int:
    return 2 * x


@flow(name="in-threads")
def in_threads() -> Any:
    futures = [double.submit(n) for n in range(3)]
    last = double.submit(futures[2], wait_for=[futures[0]])
    return own_id(), last.result()


@scenario
async def sync_flow() -> Any:
    run_id, last = await asyncio.to_thread(in_threads)
    async with get_client() as client:
        runs = await task_runs_of(client, run_id, 4)
        last_run = next(run for run in runs if run.task_inputs.get("wait_for"))
        answer = await client.request("GET", "/flow_runs/{id}/graph-v2", path_params={"id": run_id})
        graph = answer.json()
        nodes = dict(graph["nodes"])
        return {
            "last": last,
            "states": sorted(run.state_name for run in runs),
            "inputs": [
                len(last_run.task_inputs["x"]),
                last_run.task_inputs["x"][0].input_type,
                len(last_run.task_inputs["wait_for"]),
            ],
            "roots": len(graph["root_node_ids"]),
            "nodes": sorted({node["kind"] for node in nodes.values()}),
            "parents": len(nodes[str(last_run.id)]["parents"]),
        }


@task
async def square(n: int) -> int:
    return n * n


@flow(name="fan-out")
async def fan_out() -> Any:
    return own_id(), [future.result() for future in square.map(range(50))]


@scenario
async def mapped() -> Any:
    run_id, squares = await fan_out()
    async with get_client() as client:
        runs = await task_runs_of(client, run_id, 50)
        return {
            "squares": squares == [n * n for n in range(50)],
            "tasks": len(runs),
            "states": sorted({run.state_name for run in runs}),
            "dynamic_keys": len({run.dynamic_key for run in runs}),
        }


@task(tags=["database", "slow"])
async def tagged_task() -> str:
    return "done"


@flow(name="tagged")
async def tagged_flow() -> Any:
    await tagged_task()
    return own_id()


@scenario
async def tagged() -> Any:
    mark = f"mark-{uuid.uuid4()}"
    with tags("nightly", mark):
        run_id = await tagged_flow()
    async with get_client() as client:
        run = await client.read_flow_run(run_id)
        [one] = await task_runs_of(client, run_id, 1)
        found = await client.read_flow_runs(
            flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=["nightly", mark]))
        )
        return {
            "tags": sorted({*run.tags} - {mark}),
            "task_tags": sorted({*one.tags} - {mark}),
            "marked": [mark in run.tags, mark in one.tags],
            "found": [each.id == run_id for each in found],
        }


# -------------------------------------------------------------------------------------- retries

attempts: dict[str, Any] = {}
"""What the flows note: how often something ran, or the id of a run."""


def count(key: str) -> int:
    """How often it was asked with this key, from 1."""
    attempts[key] = attempts.get(key, 0) + 1
    return attempts[key]


@flow(name="flow-retries", retries=2, retry_delay_seconds=0.01)
async def retried_flow() -> Any:
    if count("flow") < 3:
        raise ValueError(f"attempt {attempts['flow']}")
    return own_id(), runtime_flow_run.run_count


@scenario
async def flow_retries() -> Any:
    run_id, seen = await retried_flow()
    async with get_client() as client:
        run = await client.read_flow_run(run_id)
        policy = run.empirical_policy
        states = await client.read_flow_run_states(run_id)
        return {
            "history": await states_of(client, run_id),
            "run_count": run.run_count,
            "seen": seen,
            "policy": [policy.retries, policy.retry_delay, policy.retry_type],
            "messages": [
                state.message for state in states if state.name in ("AwaitingRetry", "Failed")
            ],
            "scheduled": [
                state.state_details.scheduled_time is not None
                for state in states
                if state.name == "AwaitingRetry"
            ],
        }


@task(retries=2, retry_delay_seconds=[0.01, 0.02], retry_jitter_factor=0.1)
async def delayed_retries() -> int:
    if count("delayed") < 3:
        raise ValueError("not yet")
    return attempts["delayed"]


@task(retries=1)
async def prompt_retry() -> int:
    if count("prompt") < 2:
        raise ValueError("not yet")
    return attempts["prompt"]


@flow(name="task-retries")
async def retrying_tasks() -> Any:
    return own_id(), [await delayed_retries(), await prompt_retry()]


@scenario
async def task_retries() -> Any:
    run_id, counts = await retrying_tasks()
    async with get_client() as client:
        delayed, prompt = await task_runs_of(client, run_id, 2)
        return {
            "counts": counts,
            "delayed": await task_states_of(client, delayed.id),
            "prompt": await task_states_of(client, prompt.id),
            "run_counts": [delayed.run_count, prompt.run_count],
            "policy": [delayed.empirical_policy.retries, delayed.empirical_policy.retry_delay],
        }


# ------------------------------------------------------------------------------------- subflows


@flow(name="child", persist_result=True)
async def child(n: int) -> Any:
    return str(own_id()), await add(n)


@flow(name="parent")
async def parent() -> Any:
    return own_id(), [await child(n) for n in (1, 2)]


@scenario
async def subflows() -> Any:
    run_id, children = await parent()
    async with get_client() as client:
        runs = [await client.read_flow_run(uuid.UUID(one)) for one, _ in children]
        dummies = await task_runs_of(client, run_id, 2)
        found = await client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[run_id])
            ),
            sort=FlowRunSort.START_TIME_ASC,
        )
        answer = await client.request("GET", "/flow_runs/{id}/graph-v2", path_params={"id": run_id})
        nodes = dict(answer.json()["nodes"])
        return {
            "results": [total for _, total in children],
            "parents": sorted(str(run.parent_task_run_id) for run in runs)
            == sorted(str(one.id) for one in dummies),
            "children": [str(run.id) for run in found] == [one for one, _ in children],
            "dummies": [one.state_name for one in dummies],
            "child_ids": [str(one.state.state_details.child_flow_run_id) for one in dummies]
            == [one for one, _ in children],
            "graph": sorted(node["kind"] for node in nodes.values()),
        }


# --------------------------------------------------------------------------- failed and crashed


@task
async def fails() -> None:
    raise RuntimeError("the task's reason")


@flow(name="fails")
async def failing() -> None:
    attempts["failing"] = own_id()
    await fails()


@scenario
async def failed() -> Any:
    state = await failing(return_state=True)
    run_id = attempts["failing"]
    async with get_client() as client:
        run = await client.read_flow_run(run_id)
        [one] = await task_runs_of(client, run_id, 1)
        return {
            "local": state.name,
            "state": [run.state_type, run.state.name, run.state.message],
            "task": [one.state_type, one.state.message],
            "history": await states_of(client, run_id),
        }


class Unplugged(BaseException):
    """What no flow catches."""


@flow(name="crashes")
async def crashing() -> None:
    attempts["crashing"] = own_id()
    raise Unplugged("the plug")


@scenario
async def crashed() -> Any:
    try:
        await crashing()
    except Unplugged as error:
        raised = str(error)
    async with get_client() as client:
        run = await client.read_flow_run(attempts["crashing"])
        return {
            "raised": raised,
            "state": [run.state_type, run.state.name],
            "message": "the plug" in run.state.message,
            "history": await states_of(client, run.id),
        }


@flow(name="own-state")
async def own_state() -> Any:
    attempts["own-state"] = own_id()
    return Completed(message="nothing to do", name="Skipped")


@flow(name="too-slow", timeout_seconds=0.05)
async def too_slow() -> None:
    attempts["too-slow"] = own_id()
    await asyncio.sleep(30)


@task(timeout_seconds=0.05)
async def slow_task() -> None:
    await asyncio.sleep(30)


@flow(name="slow-task")
async def with_slow_task() -> Any:
    attempts["slow-task"] = own_id()
    return await slow_task(return_state=True)


@scenario
async def own_states() -> Any:
    await own_state(return_state=True)
    await too_slow(return_state=True)
    await with_slow_task(return_state=True)
    async with get_client() as client:
        skipped = await client.read_flow_run(attempts["own-state"])
        slow = await client.read_flow_run(attempts["too-slow"])
        [one] = await task_runs_of(client, attempts["slow-task"], 1)
        return {
            "skipped": [skipped.state_type, skipped.state.name, skipped.state.message],
            "slow": [slow.state_type, slow.state.name],
            "task": [one.state_type, one.state.name],
        }


# ----------------------------------------------------------------------------------------- logs


@task
async def speaks() -> None:
    get_run_logger().warning("from the task")


@flow(name="speaks", log_prints=True)
async def speaking() -> Any:
    print("printed")
    get_run_logger().info("informed")
    get_run_logger().error("alarmed: äöü \N{SNOWMAN}")
    await speaks()
    return own_id()


@scenario
async def logs() -> Any:
    heard: list[str] = []
    expected = {"from the task", "alarmed: äöü \N{SNOWMAN}"}
    subscribed = asyncio.Event()

    async def listen() -> None:
        wanted = LogFilter(level=LogFilterLevel(ge_=30))
        async with get_logs_subscriber(filter=wanted, reconnection_attempts=0) as subscriber:
            subscribed.set()
            async for log in subscriber:
                if log.message in expected:
                    heard.append(log.message)
                if len(heard) == len(expected):
                    return

    listener = asyncio.create_task(listen())
    await asyncio.wait_for(subscribed.wait(), 20)
    run_id = await speaking()
    mine = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run_id]))
    loud = LogFilter(
        flow_run_id=LogFilterFlowRunId(any_=[run_id]), level=LogFilterLevel(ge_=30, le_=40)
    )
    async with get_client() as client:

        async def look() -> list[Any]:
            found = await client.read_logs(mine, sort=LogSort.TIMESTAMP_ASC)
            return found if any("Finished in" in log.message for log in found[-1:]) else []

        found = await settled(look)
        first = await client.read_logs(mine, limit=1, offset=1, sort=LogSort.TIMESTAMP_DESC)
        from_task = [log for log in found if log.task_run_id]
        await asyncio.wait_for(listener, 20)
        return {
            "messages": [log.message for log in found if log.name == "prefect.flow_runs"][1:-1],
            "loud": [
                [log.message, log.level]
                for log in await client.read_logs(loud, sort=LogSort.TIMESTAMP_ASC)
            ],
            "before_last": first[0].message == found[-2].message,
            "from_task": [log.message for log in from_task],
            "ordered": [log.timestamp for log in found] == sorted(log.timestamp for log in found),
            "heard": sorted(heard),
        }


# ------------------------------------------------------------------ results, caches, transactions


@task(cache_policy=INPUTS, persist_result=True)
async def expensive(n: int, salt: str) -> int:
    count("expensive")
    return n + 1


@flow(name="cached")
async def cached_flow(salt: str) -> Any:
    return own_id(), [await expensive(1, salt), await expensive(1, salt), await expensive(2, salt)]


@scenario
async def caching() -> Any:
    run_id, values = await cached_flow(str(uuid.uuid4()))
    async with get_client() as client:
        runs = await task_runs_of(client, run_id, 3)
        return {
            "values": values,
            "calls": attempts["expensive"],
            "states": [run.state_name for run in runs],
            "types": sorted({run.state_type for run in runs}),
        }


@flow(name="persisted", persist_result=True)
async def persisted_flow() -> Any:
    await kept()
    return {"id": str(own_id()), "numbers": [1, 2, 3]}


@task(persist_result=True)
async def kept() -> str:
    return "kept"


@scenario
async def results() -> Any:
    value = await persisted_flow()
    run_id = uuid.UUID(value["id"])
    async with get_client() as client:
        run = await client.read_flow_run(run_id)
        [one] = await task_runs_of(client, run_id, 1)
        return {
            "flow": (await run.state.aresult()) == value,
            "task": await one.state.aresult(),
            "data": type(run.state.data).__name__,
        }


undone: list[str] = []


@task(persist_result=True)
async def write_file() -> str:
    return "written"


@write_file.on_rollback
def remove_file(transaction: Any) -> None:
    undone.append("removed")


@flow(name="rolled-back")
async def rolled_back() -> None:
    attempts["rolled-back"] = own_id()
    with transaction():
        await write_file()
        raise ValueError("after the write")


@flow(name="committed")
async def committed() -> Any:
    with transaction(key=f"key-{uuid.uuid4()}") as txn:
        await write_file()
        txn.set("note", "kept")
    return own_id(), txn.state.name


@scenario
async def transactions() -> Any:
    await rolled_back(return_state=True)
    run_id, state = await committed()
    async with get_client() as client:
        [lost] = await task_runs_of(client, attempts["rolled-back"], 1)

        async def look() -> bool:
            return (await client.read_task_run(lost.id)).state_name == "RolledBack"

        await settled(look, 3)
        [done] = await task_runs_of(client, run_id, 1)
        return {
            "undone": undone,
            "rolled_back": (await client.read_task_run(lost.id)).state_name,
            "flow": (await client.read_flow_run(attempts["rolled-back"])).state_type,
            "committed": [state, done.state_name],
        }


# ------------------------------------------------------------------------------- pause and input


class Approval(RunInput):
    """What the flow asks of a person."""

    approved: bool
    amount: int = 1


@flow(name="asks")
async def asking() -> Any:
    attempts["asks"] = own_id()
    answer = await pause_flow_run(wait_for_input=Approval, timeout=60, poll_interval=0.02)
    return own_id(), answer.approved, answer.amount


async def paused(client: PrefectClient, key: str) -> Any:
    """The run whose id the flow noted, once it is paused and its schema is stored."""

    async def look() -> Any:
        run = await client.read_flow_run(attempts[key]) if key in attempts else None
        if run is None or not run.state.is_paused():
            return None
        stored = await client.filter_flow_run_input(
            run.id, key_prefix="paused-", limit=10, exclude_keys=set()
        )
        return run if any(one.key.endswith("-schema") for one in stored) else None

    return await settled(look)


@scenario
async def pause_with_input() -> Any:
    running = asyncio.create_task(asking())
    async with get_client() as client:
        run = await paused(client, "asks")
        details = run.state.state_details
        wrong = await client.resume_flow_run(run.id, run_input={"approved": "perhaps"})
        right = await client.resume_flow_run(run.id, run_input={"approved": True, "amount": 3})
        _, approved, amount = await asyncio.wait_for(running, 30)
        again = await client.resume_flow_run(run.id)
        ended = await client.read_flow_run(run.id)
        return {
            "paused": [run.state_type, run.state_name, details.pause_key, details.pause_reschedule],
            "keyset": sorted(details.run_input_keyset),
            "timeout": details.pause_timeout is not None,
            "wrong": [wrong.status, "boolean" in wrong.details.reason],
            "right": [right.status, right.state.name],
            "answer": [approved, amount],
            "again": [again.status, "paused" in again.details.reason],
            "history": await states_of(client, run.id),
            "run_count": ended.run_count,
        }


@flow(name="waits-in-vain")
async def waiting_in_vain() -> None:
    attempts["in-vain"] = own_id()
    await pause_flow_run(timeout=0.2, poll_interval=0.02)


@scenario
async def pause_timeout() -> Any:
    state = await waiting_in_vain(return_state=True)
    async with get_client() as client:
        run = await client.read_flow_run(attempts["in-vain"])
        return {"local": state.name, "state": [run.state_type, run.state_name]}


@flow(name="suspends")
async def suspending() -> None:
    attempts["suspends"] = own_id()
    await suspend_flow_run(timeout=60)


@scenario
async def suspend_without_deployment() -> Any:
    state = await suspending(return_state=True)
    async with get_client() as client:
        run = await client.read_flow_run(attempts["suspends"])
        return {
            "local": state.name,
            "reason": "Flow run cannot be suspended: " in state.message,
            "state": [run.state_type, run.state_name],
        }


@flow(name="suspends-with-input", persist_result=True)
async def suspending_for_input() -> int:
    attempts["began"] = attempts.get("began", 0) + 1
    answer = await suspend_flow_run(wait_for_input=Approval, timeout=600)
    return answer.amount


async def executed(run_id: Any) -> str:
    """What a new process that takes a scheduled flow run would do; how it ends."""
    async with get_client() as client:
        run = await client.read_flow_run(run_id)
    try:
        await run_flow(suspending_for_input, flow_run=run, return_type="state")
    except BaseException as error:  # noqa: BLE001 - how the engine leaves a suspended flow
        return type(error).__name__
    return "ended"


@scenario
async def suspend_and_resume() -> Any:
    async with get_client() as client:
        flow_id = await client.create_flow(suspending_for_input)
        try:
            deployment = await client.create_deployment(flow_id, name=str(uuid.uuid4()))
        except PrefectHTTPStatusError:  # a deployment may be named before deployments are kept
            deployment = uuid.uuid4()
        body = {"flow_id": str(flow_id), "deployment_id": str(deployment)}
        made = await client.request("POST", "/flow_runs/", json=body)
        run_id = uuid.UUID(made.json()["id"])
        first = await executed(run_id)
        suspended = await client.read_flow_run(run_id)
        wrong = await client.resume_flow_run(run_id, run_input={"amount": 2})
        right = await client.resume_flow_run(run_id, run_input={"approved": True, "amount": 9})
        second = await executed(run_id)
        ended = await client.read_flow_run(run_id)
        return {
            "first": first,
            "suspended": [suspended.state_type, suspended.state_name],
            "reschedule": suspended.state.state_details.pause_reschedule,
            "wrong": wrong.status,
            "right": [right.status, right.state.type, right.state.name],
            "second": second,
            "began": attempts["began"],
            "ended": [ended.state_type, ended.run_count, await ended.state.aresult()],
            "history": await states_of(client, run_id),
        }


class Number(RunInput):
    """What one flow sends to another."""

    value: int


@flow(name="listens")
async def listening() -> Any:
    attempts["listens"] = own_id()
    async for number in receive_input(
        Number, poll_interval=0.05, timeout=20, raise_timeout_error=True
    ):
        return number.value
    return None


@scenario
async def run_inputs() -> Any:
    running = asyncio.create_task(listening())

    async def look() -> bool:
        return "listens" in attempts

    await settled(look)
    run_id = attempts["listens"]
    await Number(value=41).send_to(run_id)
    heard = await asyncio.wait_for(running, 30)
    async with get_client() as client:
        await client.create_flow_run_input(run_id, "plain", "text")
        await client.create_flow_run_input(run_id, "plain-two", "more")
        found = await client.filter_flow_run_input(
            run_id, key_prefix="plain", limit=10, exclude_keys=set()
        )
        both = sorted(one.key for one in found)
        rest = await client.filter_flow_run_input(
            run_id, key_prefix="plain", limit=10, exclude_keys={"plain"}
        )
        text = await client.read_flow_run_input(run_id, "plain")
        await client.delete_flow_run_input(run_id, "plain")
        try:
            await client.read_flow_run_input(run_id, "plain")
            gone = False
        except PrefectHTTPStatusError as error:
            gone = error.response.status_code == 404
        return {
            "heard": heard,
            "keys": both,
            "rest": [one.key for one in rest],
            "text": text,
            "gone": gone,
        }


# -------------------------------------------------------------------------- cancel, client, events


@flow(name="idle")
async def idle() -> None:
    """Is only ever created by the client."""


@scenario
async def cancellation() -> Any:
    async with get_client() as client:
        scheduled = await client.create_flow_run(
            idle, state=Scheduled(scheduled_time=now() + timedelta(days=1))
        )
        refused = await client.set_flow_run_state(scheduled.id, Cancelling())
        running = await client.create_flow_run(idle, state=Pending())
        await client.set_flow_run_state(running.id, Running())
        accepted = await client.set_flow_run_state(running.id, Cancelling())
        back = await client.set_flow_run_state(running.id, Running())
        forced = await client.set_flow_run_state(running.id, Failed(), force=True)
        return {
            "scheduled": [refused.status, refused.state.type],
            "running": [accepted.status, accepted.state.type],
            "back": back.status,
            "forced": [forced.status, forced.state.type],
            "history": await states_of(client, running.id),
        }


@scenario
async def client_calls() -> Any:
    async with get_client() as client:
        first = await client.create_flow_run(idle, name="one", tags=["calls"], state=Pending())
        second = await client.create_flow_run(idle, name="two", tags=["calls"], state=Pending())
        mine = FlowRunFilter(tags=FlowRunFilterTags(all_=["calls"]))
        by_name = await client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=["idle"])),
            flow_run_filter=FlowRunFilter(
                name=FlowRunFilterName(like_="TW"), tags=FlowRunFilterTags(all_=["calls"])
            ),
        )
        by_state = await client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                tags=FlowRunFilterTags(all_=["calls"]),
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.PENDING])),
            ),
            sort=FlowRunSort.NAME_ASC,
            limit=1,
            offset=1,
        )
        counted = await client.count_flow_runs(flow_run_filter=mine)
        await client.update_flow_run(first.id, tags=["renamed"], parameters={"a": [1, None]})
        await client.set_flow_run_name(first.id, "uno")
        await client.update_flow_run_labels(first.id, {"team": "data", "cost": 2})
        renamed = await client.read_flow_run(first.id)
        await client.delete_flow_run(second.id)
        try:
            await client.read_flow_run(second.id)
            missing = "found"
        except ObjectNotFound:
            missing = "ObjectNotFound"
        flow_id = await client.create_flow_from_name("idle")
        flows = await client.read_flows(flow_filter=FlowFilter(name=FlowFilterName(any_=["idle"])))
        one = await client.read_flow_runs(
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[first.id]))
        )
        task_run = await client.create_task_run(
            task=add, flow_run_id=first.id, dynamic_key="0", name="by-hand", state=Pending()
        )
        moved = await client.set_task_run_state(task_run.id, Running())
        return {
            "healthy": await client.api_healthcheck() is None,
            "hello": (await client.hello()).status_code,
            "version": (await client.api_version()).split(".")[0],
            "by_name": [run.name for run in by_name],
            "by_state": [run.name for run in by_state],
            "counted": counted,
            "renamed": [renamed.name, renamed.tags, renamed.parameters, renamed.labels.get("team")],
            "missing": missing,
            "flow": [one.flow_id for one in one] == [flow_id] == [each.id for each in flows],
            "task": [moved.status, (await client.read_task_run(task_run.id)).state_name],
        }


@scenario
async def events() -> Any:
    name = f"order.paid.{uuid.uuid4().hex}"
    wanted = EventFilter(event=EventNameFilter(name=[name]))
    early = Event(
        event=name, resource=Resource({"prefect.resource.id": "order.0"}), payload={"n": 0}
    )
    async with get_events_client() as sender:
        await sender.emit(early)
    got: list[int] = []

    async def listen() -> None:
        async with get_events_subscriber(filter=wanted, reconnection_attempts=0) as subscriber:
            async for event in subscriber:
                got.append(event.payload["n"])
                if event.payload["n"] == 0:
                    for number in range(1, 6):
                        emit_event(
                            name,
                            {"prefect.resource.id": f"order.{number}"},
                            payload={"n": number},
                        )
                if len(got) == 6:
                    return

    await asyncio.wait_for(listen(), 30)
    async with get_client() as client:

        async def look() -> Any:
            answer = await client.request(
                "POST",
                "/events/filter",
                json={"filter": wanted.model_dump(mode="json", exclude_none=True), "limit": 4},
            )
            page = answer.json()
            return page if page["total"] == 6 else None

        page = await settled(look)
        link = page["next_page"]
        path = "/events" + link.split("/api/events", 1)[1]
        following = (await client.request("GET", path)).json()
        seen = [event["payload"]["n"] for event in [*page["events"], *following["events"]]]
        answer = await client.request(
            "POST",
            "/events/count-by/resource",
            json={
                "filter": wanted.model_dump(mode="json", exclude_none=True),
                "time_unit": "day",
                "time_interval": 1,
            },
        )
        return {
            "got": sorted(got),
            "total": page["total"],
            "first": len(page["events"]),
            "seen": sorted(seen),
            "end": following["next_page"],
            "by_resource": sorted(each["count"] for each in answer.json()),
        }


@scenario
async def flow_run_events() -> Any:
    """The server's own events of a run's states, as automations and the UI read them."""
    run_id, _ = await two_tasks(1)
    async with get_client() as client:
        wanted = {
            "resource": {"id": [f"prefect.flow-run.{run_id}"]},
            "event": {
                "prefix": ["prefect.flow-run."],
                "exclude_name": ["prefect.flow-run.heartbeat"],
            },
            "order": "ASC",
        }

        async def look() -> Any:
            answer = await client.request(
                "POST", "/events/filter", json={"filter": wanted, "limit": 50}
            )
            found = answer.json()["events"]
            return found if len(found) >= 3 else None

        found = await settled(look)
        return {
            "names": [event["event"] for event in found],
            "state": found[-1]["resource"]["prefect.state-type"],
            "roles": sorted({each["prefect.resource.role"] for each in found[-1]["related"]}),
        }


async def main(chosen: list[str]) -> None:
    """Run the chosen scenarios, or all of them, one after the other."""
    for name in chosen or SCENARIOS:
        try:
            line = {"scenario": name, "answer": await SCENARIOS[name]()}
        except BaseException as error:  # noqa: BLE001 - it is the answer
            text = "".join(traceback.format_exception(error))
            line = {"scenario": name, "error": text[-4000:]}
        print(json.dumps(line, default=str), file=answers, flush=True)


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what flows print is no answer
    asyncio.run(main(sys.argv[1:]))
