"""What a run leaves behind: logs, results, caches, transactions."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import INPUTS
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    LogFilter,
    LogFilterFlowRunId,
    LogFilterLevel,
)
from prefect.client.schemas.sorting import LogSort
from prefect.transactions import transaction
from scenario import (
    attempts,
    count,
    own_id,
    result_of,
    scenario,
    settled,
    task_runs_of,
)

# ----------------------------------------------------------------------------------------- logs


@task
async def speaks() -> None:
    get_run_logger().warning("from the task")


SPOKEN = ("printed", "informed", "alarmed: äöü \N{SNOWMAN}")


@flow(name="speaks", log_prints=True)
async def speaking() -> Any:
    print(SPOKEN[0])
    get_run_logger().info(SPOKEN[1])
    get_run_logger().error(SPOKEN[2])
    await speaks()
    return own_id()


@scenario
async def logs() -> Any:
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
        return {
            "messages": [log.message for log in found if log.message in SPOKEN],
            "loud": [
                [log.message, log.level]
                for log in await client.read_logs(loud, sort=LogSort.TIMESTAMP_ASC)
            ],
            "before_last": first[0].message == found[-2].message,
            "from_task": [log.message for log in from_task],
            "ordered": [log.timestamp for log in found] == sorted(log.timestamp for log in found),
        }


@scenario
async def live_logs() -> Any:
    from prefect.logging.clients import get_logs_subscriber

    heard: list[str] = []
    expected = {"from the task", SPOKEN[2]}
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
    await speaking()
    await asyncio.wait_for(listener, 20)
    return {"heard": sorted(heard)}


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
            "flow": (await result_of(run.state)) == value,
            "task": await result_of(one.state),
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

        await settled(look)
        [done] = await task_runs_of(client, run_id, 1)
        return {
            "undone": undone,
            "rolled_back": (await client.read_task_run(lost.id)).state_name,
            "flow": (await client.read_flow_run(attempts["rolled-back"])).state_type,
            "committed": [state, done.state_name],
        }
