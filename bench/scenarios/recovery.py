"""Recovery: a server is killed while so many runs are busy in their middle; how long the next one
takes to answer, to have every body back where it was, and to end them all.
"""

from __future__ import annotations

import asyncio
import time

import msgspec
from functions import GATE
from harness.load import Connection, connections, encode_request
from harness.processes import Meter, Process, free_port, running
from harness.scenario import Column, Figures, Scenario, Setting, Side
from servers import READY, ironflow_process

from ironflow.storage.maintenance.files import opened

LENGTH = 10
CALLERS = 64
PAUSE = 0.1
"""Seconds between two looks at how far it is; the moments themselves are taken by the runs."""
GIVE_UP_SECONDS = 120.0

INVOKE = encode_request("POST", "/api/v1/functions/bench-gated/invoke", {"input": LENGTH})
PASSAGES = encode_request(
    "POST", "/api/v1/functions/bench-passages/invoke?wait=60s", {"input": None}
)


async def recover(setting: Setting) -> Figures:
    """Kill, start again, watch."""
    count = setting.case["unfinished"]
    # A slot for each, so that all are in their middle at the same time.
    flags = ("--concurrency", str(count + 100))
    await _kill_in_the_middle(setting, count, flags)
    port, began = free_port(), time.time()
    process = ironflow_process(setting, port, *flags)
    async with running(process):
        ready = await process.answers(port, READY)
        meter = Meter(process)
        async with connections(port, 1) as (connection,):
            resumed = await _all_passed(connection, count)
        ended = await _all_ended(setting, count)
        return {
            "ended_s": ended - began,
            "resumed_s": resumed - began,
            "ready_s": ready,
            "cpu_us": meter.seconds() / count * 1e6,
            "rss_mib": process.rss(),
        }


async def _kill_in_the_middle(setting: Setting, count: int, flags: tuple[str, ...]) -> None:
    port = free_port()
    process: Process = ironflow_process(setting, port, *flags, env={GATE: "closed"})
    async with running(process):
        await process.answers(port, READY)
        async with connections(port, CALLERS) as made:
            turns = iter(range(count))
            await asyncio.gather(*(_invoke(connection, turns) for connection in made))
            await _all_passed(made[0], count)
        process.kill()


async def _invoke(connection: Connection, turns: object) -> None:
    for _ in turns:  # type: ignore[attr-defined]
        await connection.call(INVOKE)


async def _all_passed(connection: Connection, count: int) -> float:
    """When the last of them came to the gate."""
    give_up = time.time() + GIVE_UP_SECONDS
    while time.time() < give_up:
        passed, last = msgspec.json.decode(await connection.call(PASSAGES))["result"]
        if passed == count:
            return float(last)
        await asyncio.sleep(PAUSE)
    raise RuntimeError(f"{passed} of {count} runs came to their middle")


async def _all_ended(setting: Setting, count: int) -> float:
    """When the last of them ended, by the database."""
    query = (
        "SELECT count(*), max(ended_at) FROM runs"
        " WHERE function_id = 'bench-gated' AND status = 'completed'"
    )
    give_up = time.time() + GIVE_UP_SECONDS
    while time.time() < give_up:
        with opened(setting.folder / "bench.db") as (connection, _):
            ended, last = connection.execute(query).fetchone()
        if ended == count:
            return float(last) / 1e6
        await asyncio.sleep(PAUSE)
    raise RuntimeError(f"{ended} of {count} runs ended")


SCENARIOS = (
    Scenario(
        name="recovery",
        title="a server killed with runs in their middle, and its successor",
        sides=(Side(name="ironflow", role="ours", measure=recover),),
        columns=(
            Column(figure="ended_s", title="all ended s", digits=2),
            Column(figure="resumed_s", title="all resumed s", digits=2),
            Column(figure="ready_s", title="ready s", digits=2),
            Column(figure="cpu_us", title="CPU us/run"),
            Column(figure="rss_mib", title="RSS MiB"),
        ),
        cases=({"unfinished": 10_000},),
        quick=({"unfinished": 100},),
        rounds=2,
        notes="Seconds since the start of the second process. Each run has five of its ten steps "
        "recorded and is busy when the process gets SIGKILL.",
    ),
)
