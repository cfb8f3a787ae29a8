"""Flows as people write them: many tasks at once, hooks, templates, states of their own."""

from __future__ import annotations

import asyncio
import threading
import uuid
from typing import Any

from prefect import allow_failure, cache_policies, flow, get_run_logger, tags, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.client.schemas.sorting import LogSort
from prefect.futures import as_completed
from prefect.runtime import flow_run as runtime_flow_run
from prefect.runtime import task_run as runtime_task_run
from prefect.states import Cancelled, Completed, Crashed, Failed
from prefect.task_runners import ThreadPoolTaskRunner
from scenario import (
    ask,
    attempts,
    count,
    own_id,
    scenario,
    settled,
    states_of,
    task_runs_of,
    task_states_of,
)

# ------------------------------------------------------------------------------------ many at once


@task
def triple(n: int) -> int:
    return 3 * n


@flow(name="two-hundred", task_runner=ThreadPoolTaskRunner(max_workers=20))
def two_hundred() -> Any:
    futures = [triple.submit(n) for n in range(200)]
    found = sorted(future.result() for future in as_completed(futures))
    last = triple.submit(1, wait_for=futures)
    return own_id(), found == [3 * n for n in range(200)], last.result()


@scenario
async def threads() -> Any:
    run_id, found, last = await asyncio.to_thread(two_hundred)
    async with get_client() as client:
        runs = await task_runs_of(client, run_id, 200)
        whole = await ask(
            client, "POST", "/task_runs/count", {"flow_runs": {"id": {"any_": [str(run_id)]}}}
        )
        waiting = next(run for run in runs if run.task_inputs.get("wait_for"))
        return {
            "found": [found, last],
            "tasks": [len(runs), whole],
            "states": sorted({run.state_name for run in runs}),
            "keys": len({run.dynamic_key for run in runs}),
            "waited": len(waiting.task_inputs["wait_for"]),
            "counts": sorted({run.run_count for run in runs}),
        }


@task
async def slowly(n: int) -> int:
    await asyncio.sleep(0.01)
    return n


@flow(name="inner-{n}", flow_run_name="inner-{n}")
async def inner(n: int) -> int:
    return sum(await asyncio.gather(*(slowly(n + each) for each in range(3))))


@flow(name="gathers")
async def gathers() -> Any:
    sums = await asyncio.gather(*(inner(n) for n in range(5)), slowly(7))
    return own_id(), sums


@scenario
async def gathered() -> Any:
    run_id, sums = await gathers()
    async with get_client() as client:
        runs = await task_runs_of(client, run_id, 6)
        children = await ask(
            client,
            "POST",
            "/flow_runs/filter",
            {
                "flow_runs": {"parent_flow_run_id": {"any_": [str(run_id)]}},
                "sort": "NAME_ASC",
            },
        )
        of_children = [len(await task_runs_of(client, one["id"], 3)) for one in children]
        return {
            "sums": sums,
            "tasks": [len(runs), sorted({run.state_name for run in runs})],
            "children": [one["name"] for one in children],
            "of_children": of_children,
            "dummies": sum(
                run.state.state_details.child_flow_run_id is not None for run in runs if run.state
            ),
        }


# --------------------------------------------------------------------------- failures and their end


@task
def breaks() -> None:
    raise ValueError("broken")


@task
def follows(x: Any) -> Any:
    return x


@flow(name="upstream-fails")
def upstream_fails() -> Any:
    attempts["upstream"] = own_id()
    broken = breaks.submit()
    after = follows.submit(broken)
    allowed = follows.submit(allow_failure(broken))
    allowed.wait()
    return [broken, after]


@scenario
async def upstream() -> Any:
    state = await asyncio.to_thread(upstream_fails, return_state=True)
    async with get_client() as client:
        run = await client.read_flow_run(attempts["upstream"])
        runs: list[Any] = []

        async def look() -> bool:
            runs[:] = await ask(
                client,
                "POST",
                "/task_runs/filter",
                {"flow_runs": {"id": {"any_": [str(run.id)]}}},
            )
            return len(runs) == 3 and sum(each["end_time"] is not None for each in runs) >= 2

        await settled(look)
        return {
            "local": [state.name, state.message],
            "state": [run.state_type, run.state.name, run.state.message],
            "tasks": sorted(
                [each["name"].rsplit("-", 1)[0], each["state_type"], each["state_name"]]
                for each in runs
            ),
        }


called: list[list[str]] = []


def note(word: str) -> Any:
    def hook(subject: Any, run: Any, state: Any) -> None:
        called.append([word, subject.name, state.name])

    hook.__name__ = f"note_{word}"
    return hook


@task(on_failure=[note("task-failed")], on_completion=[note("task-completed")])
async def hooked_task(fail: bool) -> None:
    if fail:
        raise ValueError("hooked")


@flow(
    name="hooked",
    on_running=[note("running")],
    on_completion=[note("completed")],
    on_failure=[note("failed")],
    on_crashed=[note("crashed")],
    on_cancellation=[note("cancelled")],
)
async def hooked(how: str) -> Any:
    if how == "cancelled":
        return Cancelled(message="no more of it")
    if how == "crashed":
        return Crashed(message="by hand")
    await hooked_task(how == "failed")
    return None


@scenario
async def hooks() -> Any:
    found = {}
    for how in ("completed", "failed", "cancelled", "crashed"):
        called.clear()
        state = await hooked(how, return_state=True)
        found[how] = [state.type, state.name, *map(list, called)]
    return found


@flow(name="own-end")
async def own_end(how: str) -> Any:
    attempts["own-end"] = own_id()
    match how:
        case "broken":
            return Failed(message="by hand", name="Broken")
        case "skipped":
            return Completed(message="not today", name="Skipped")
        case "several":
            return [Completed(), Failed(message="one of two")]
        case _:
            return await hooked_task(True, return_state=True)


@scenario
async def own_ends() -> Any:
    found = {}
    async with get_client() as client:
        for how in ("broken", "skipped", "several", "task"):
            state = await own_end(how, return_state=True)
            run = await client.read_flow_run(attempts["own-end"])
            found[how] = [
                [state.type, state.name, state.message],
                [run.state.type, run.state.name, run.state.message],
            ]
    return found


# -------------------------------------------------------------------------- options and names


@task
async def flaky(key: str) -> int:
    if count(key) < 2:
        raise ValueError("not yet")
    return attempts[key]


@flow(name="optional")
async def optional(key: str) -> Any:
    attempts["optional"] = own_id()
    return await flaky.with_options(
        name="renamed", retries=1, tags=["optional"], task_run_name="try-{key}"
    )(key)


@flow(name="optional-flow")
async def optional_flow() -> int:
    attempts["optional-flow"] = own_id()
    if count("optional-flow-count") < 2:
        raise ValueError("not yet")
    return attempts["optional-flow-count"]


def name_of_flow_run() -> str:
    return f"made-of-{runtime_flow_run.parameters['n']}"


@task(task_run_name="named-{n}")
async def names_itself(n: int) -> Any:
    return [
        runtime_task_run.name,
        runtime_task_run.parameters,
        sorted(runtime_task_run.tags),
        runtime_task_run.run_count,
    ]


@flow(name="at-runtime", flow_run_name=name_of_flow_run)
async def at_runtime(n: int) -> Any:
    with tags("inner"):
        told = await names_itself(n)
    return own_id(), [
        runtime_flow_run.id == str(own_id()),
        runtime_flow_run.name,
        runtime_flow_run.flow_name,
        runtime_flow_run.parameters,
        sorted(runtime_flow_run.tags),
        runtime_flow_run.parent_flow_run_id,
        runtime_flow_run.root_flow_run_id == str(own_id()),
        runtime_flow_run.run_count,
        runtime_flow_run.scheduled_start_time is not None,
        told,
    ]


@scenario
async def options() -> Any:
    key = f"flaky-{uuid.uuid4()}"
    value = await optional(key)
    with tags("outer"):
        run_id, told = await at_runtime(3)
    again = await optional_flow.with_options(
        name="optional-again", retries=1, retry_delay_seconds=0
    )()
    async with get_client() as client:
        [one] = await task_runs_of(client, attempts["optional"], 1)
        [named] = await task_runs_of(client, run_id, 1)
        run = await client.read_flow_run(run_id)
        retried = await client.read_flow_run(attempts["optional-flow"])
        flow_name = (await client.read_flow(retried.flow_id)).name
        return {
            "value": value,
            "task": [one.name == f"try-{key}", one.tags, one.run_count],
            "history": await task_states_of(client, one.id),
            "runtime": told,
            "names": [run.name, named.name],
            "tags": [run.tags, sorted(named.tags)],
            "again": [again, flow_name, retried.run_count],
            "flow_history": await states_of(client, retried.id),
        }


# --------------------------------------------------------------------------------------- logging


@flow(name="talkative")
async def talkative(lines: int) -> Any:
    logger = get_run_logger()
    for number in range(lines):
        logger.info("line %05d", number)
    logger.warning("x" * 20_000)

    def elsewhere() -> None:
        logger.error("from another thread")

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    return own_id()


@scenario
async def heavy_logging() -> Any:
    lines = 1000
    run_id = await talkative(lines)
    mine = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run_id]))
    async with get_client() as client:

        async def look() -> list[Any]:
            last = await client.read_logs(mine, limit=3, sort=LogSort.TIMESTAMP_DESC)
            return last if any("Finished in" in log.message for log in last) else []

        await settled(look)
        found: list[Any] = []
        while page := await client.read_logs(
            mine, limit=200, offset=len(found), sort=LogSort.TIMESTAMP_ASC
        ):
            found += page
        spoken = [log.message for log in found if log.message.startswith("line ")]
        return {
            "lines": len(spoken),
            "ordered": spoken == [f"line {number:05}" for number in range(lines)],
            "long": [len(log.message) for log in found if log.message.startswith("xxx")],
            "elsewhere": [log.level for log in found if log.message == "from another thread"],
        }


# ----------------------------------------------------------------------- a flow within a flow again


@flow(name="kept-child", persist_result=True)
async def kept_child() -> int:
    return count("kept-child")


UNCACHED = getattr(cache_policies, "NO_CACHE", None) or cache_policies.NONE  # its older name


@task(persist_result=True, cache_policy=UNCACHED)
async def kept_task() -> int:
    return count("kept-task")


@flow(name="again", retries=1)
async def again() -> Any:
    attempts["again"] = own_id()
    values = [await kept_child(), await kept_task()]
    if count("again-count") < 2:
        raise ValueError("once more")
    return values


@scenario
async def retried_with_children() -> Any:
    values = await again()
    async with get_client() as client:
        run_id = attempts["again"]
        runs = await task_runs_of(client, run_id, 3)
        children = await ask(
            client,
            "POST",
            "/flow_runs/filter",
            {"flow_runs": {"parent_flow_run_id": {"any_": [str(run_id)]}}},
        )
        return {
            "values": values,
            "calls": [attempts["kept-child"], attempts["kept-task"]],
            "history": await states_of(client, run_id),
            "tasks": sorted(
                [run.name.rsplit("-", 1)[0], run.state_name, run.run_count, run.flow_run_run_count]
                for run in runs
            ),
            "children": [[one["state_name"], one["run_count"]] for one in children],
        }
