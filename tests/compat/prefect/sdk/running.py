"""Flows that run, fail and are tried again."""

from __future__ import annotations

import asyncio
import uuid
from datetime import timedelta
from typing import Any

from prefect import flow, tags, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterParentFlowRunId,
    FlowRunFilterTags,
)
from prefect.client.schemas.sorting import FlowRunSort
from prefect.runtime import flow_run as runtime_flow_run
from prefect.states import Completed
from scenario import (
    DELAYS,
    add,
    ask,
    attempts,
    count,
    own_id,
    scenario,
    states_of,
    task_runs_of,
    task_states_of,
    two_tasks,
)

# ---------------------------------------------------------------------------------------- tasks


@scenario
async def tasks() -> Any:
    run_id, total = await two_tasks(5)
    async with get_client() as client:
        run = await client.read_flow_run(run_id)
        tasks = await task_runs_of(client, run_id, 2)
        history = [await task_states_of(client, one.id) for one in tasks]
        named = await client.read_flow_by_name("two-tasks")
        labels = (await ask(client, "GET", f"/flow_runs/{run_id}"))["labels"]
        return {
            "total": total,
            "name": run.name,
            "parameters": run.parameters,
            "version": run.flow_version,
            "state": [run.state_type, run.state_name],
            "run_count": run.run_count,
            "times": run.start_time <= run.end_time and run.expected_start_time is not None,
            "total_run_time": run.total_run_time == run.end_time - run.start_time,
            "labels": labels == {"prefect.flow.id": str(named.id)},
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
        graph = await ask(client, "GET", f"/flow_runs/{run_id}/graph-v2")
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


@flow(name="flow-retries", retries=2, retry_delay_seconds=0)
async def retried_flow() -> Any:
    if count("flow") < 3:
        raise ValueError(f"attempt {attempts['flow']}")
    return own_id(), runtime_flow_run.run_count


@scenario
async def flow_retries() -> Any:
    run_id, seen = await retried_flow()
    async with get_client() as client:
        run = await client.read_flow_run(run_id)
        policy = (await ask(client, "GET", f"/flow_runs/{run_id}"))["empirical_policy"]
        states = await client.read_flow_run_states(run_id)
        return {
            "history": await states_of(client, run_id),
            "run_count": run.run_count,
            "seen": seen,
            "policy": [policy["retries"], policy["retry_delay"], policy["retry_type"]],
            "messages": [
                state.message for state in states if state.name in ("AwaitingRetry", "Failed")
            ],
            "scheduled": [
                state.state_details.scheduled_time is not None
                for state in states
                if state.name == "AwaitingRetry"
            ],
        }


@task(retries=2, retry_delay_seconds=DELAYS, retry_jitter_factor=0.1)
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
            "policy": [
                delayed.empirical_policy.retries,
                delayed.empirical_policy.retry_delay == DELAYS,
            ],
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
        graph = await ask(client, "GET", f"/flow_runs/{run_id}/graph-v2")
        nodes = dict(graph["nodes"])
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
