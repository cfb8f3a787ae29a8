"""Lanes: two runs in each of so many, one that executes and one that waits for it; what that costs
beside the same runs without lanes.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Iterator

import msgspec
from harness.load import Connection, connections, encode_request
from harness.processes import Meter
from harness.scenario import Column, Figures, Scenario, Setting, Side, Target
from servers import ironflow

CALLERS = 64
PAUSE = 0.1
"""Seconds between two looks; the moments themselves are taken by the runs."""
GIVE_UP_SECONDS = 180.0
INVOKE = "/api/v1/functions/{}/invoke"
OPEN = encode_request("POST", INVOKE.format("bench-open") + "?wait=60s", {"input": None})
ENDED = encode_request("POST", INVOKE.format("bench-ended") + "?wait=60s", {"input": None})
LIST = encode_request("GET", "/api/v1/lanes")


async def fill(setting: Setting, function: str) -> Figures:
    """Two runs a lane, made while nothing ends; then all may."""
    lanes = setting.case["lanes"]
    runs = 2 * lanes
    # A slot for each run: what waits, waits for its lane.
    flags = ("--concurrency", str(runs + 100))
    async with ironflow(setting, *flags) as server, connections(server.port, CALLERS) as made:
        idle = sum(process.rss() for process in server.processes)
        meter = Meter(*server.processes)
        turns = iter(range(runs))
        await asyncio.gather(*(_send(each, function, lanes, turns) for each in made))
        full = sum(process.rss() for process in server.processes)
        began = time.perf_counter()
        await made[0].call(LIST)
        list_ms = (time.perf_counter() - began) * 1e3
        opened = time.time()
        await made[0].call(OPEN)
        last = await _until_ended(made[0], runs)
        return {
            "cpu_us": meter.seconds() / runs * 1e6,
            "ended_s": last - opened,
            "bytes_each": (full - idle) * 1024 * 1024 / runs,
            "list_ms": list_ms,
        }


async def _send(connection: Connection, function: str, lanes: int, turns: Iterator[int]) -> None:
    for turn in turns:
        body = {"input": {"lane": turn % lanes}}
        await connection.call(encode_request("POST", INVOKE.format(function), body))


async def _until_ended(connection: Connection, runs: int) -> float:
    """When the last of them ended."""
    give_up = time.time() + GIVE_UP_SECONDS
    while time.time() < give_up:
        count, last = msgspec.json.decode(await connection.call(ENDED))["result"]
        if count == runs:
            return float(last)
        await asyncio.sleep(PAUSE)
    raise RuntimeError(f"{count} of {runs} runs ended")


SCENARIOS = (
    Scenario(
        name="lanes",
        title="two runs in each of so many lanes, one at a time",
        sides=(
            Side(
                name="ironflow",
                role="ours",
                measure=functools.partial(fill, function="bench-laned"),
            ),
            Side(
                name="without lanes",
                role="ceiling",
                measure=functools.partial(fill, function="bench-laneless"),
            ),
        ),
        columns=(
            Column(figure="cpu_us", title="CPU us/run"),
            Column(figure="ended_s", title="all ended s", digits=2),
            Column(figure="bytes_each", title="bytes each"),
            Column(figure="list_ms", title="200 listed ms", digits=1),
        ),
        cases=({"lanes": 10_000},),
        quick=({"lanes": 100},),
        rounds=1,
        targets=(
            Target(figure="cpu_us", at_most=1.25, beside="without lanes", case={"lanes": 10_000}),
        ),
        notes="`all ended` counts from the moment at which the runs may end; without lanes all of "
        "them execute by then, with lanes every second one begins only after another has ended.",
    ),
)
