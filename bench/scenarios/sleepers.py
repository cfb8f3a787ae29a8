"""Runs that sleep: what so many cost in memory, and how late they wake, spread over a while or all
at the same moment.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple

import msgspec
from harness.load import Connection, closed_loop, connections, encode_request
from harness.processes import Meter
from harness.scenario import Column, Figures, Role, Scenario, Setting, Side, Target, percentile
from servers import HEALTH_KEPT, Served, ironflow

CALLERS = 128
PROBES = 0.02
"""Share of sleepers that are made beforehand, due at once, to see how long making them all takes:
nobody may be due before all are asleep."""
SLACK = 1.5
SETTLE_SECONDS = 4.0
"""After which bodies are out of memory (ironflow lets go of a sleeping body after 2 s)."""
GIVE_UP_SECONDS = 60.0
LOOK_PAUSE = 0.02

Serve = Callable[[Setting], AbstractAsyncContextManager[Served]]


class Face(NamedTuple):
    """How a server is spoken to."""

    path: str
    """A sleeper is POSTed here ..."""
    wrap: Callable[[int], object]
    """... with this body, for a moment in milliseconds."""
    ask: bytes
    """The request that says by how many milliseconds each was late, in the order of waking."""
    health: bytes


def side_of(name: str, role: Role, serve: Serve, face: Face, **options: Any) -> Side:
    """A side that sleeps."""

    async def measure(setting: Setting) -> Figures:
        async with serve(setting) as server, connections(server.port, CALLERS) as made:
            return await _measure(setting, server, made, face)

    return Side(name=name, role=role, measure=measure, **options)


async def _measure(setting: Setting, server: Served, made: list[Connection], face: Face) -> Figures:
    count, spread = setting.case["sleeping"], setting.case["over_s"]
    idle = sum(process.rss() for process in server.processes)
    probes = max(int(count * PROBES), 20)
    each = await _make(made, face, [int(time.time() * 1000)] * probes) / probes
    settle = min(SETTLE_SECONDS, 4 * setting.seconds)
    first = time.time() + count * each * SLACK + settle
    moments = [int((first + spread * n / count) * 1000) for n in range(count)]
    meter = Meter(*server.processes)
    made_in = await _make(made, face, moments)
    making = meter.seconds()
    if time.time() > first - settle:
        raise RuntimeError(f"{count} sleepers were not made in time: it took {made_in:.0f} s")
    # Those that are asleep hold no body; what is resident then is what they cost.
    await asyncio.sleep(first - time.time() - 0.5)
    rss = sum(process.rss() for process in server.processes)
    meter = Meter(*server.processes)
    late, health = await _until_woken(made, face, probes, count, first + spread)
    return {
        "rss_mib": rss,
        "bytes_each": (rss - idle) * 1024 * 1024 / count,
        "late_p50_ms": percentile(late, 0.5),
        "late_p99_ms": percentile(late, 0.99),
        "late_max_ms": max(late),
        "health_p99_ms": percentile(health, 0.99) * 1e3,
        "make_cpu_us": making / count * 1e6,
        "wake_cpu_us": meter.seconds() / count * 1e6,
        "made_per_second": count / made_in,
    }


async def _make(made: list[Connection], face: Face, moments: list[int]) -> float:
    """Send all through all connections; the seconds it took."""
    began = time.perf_counter()
    turns = iter(moments)
    await asyncio.gather(*(_send(connection, face, turns) for connection in made))
    return time.perf_counter() - began


async def _send(connection: Connection, face: Face, moments: Iterator[int]) -> None:
    for moment in moments:
        await connection.call(encode_request("POST", face.path, face.wrap(moment)))


async def _until_woken(
    made: list[Connection], face: Face, probes: int, count: int, last: float
) -> tuple[list[float], list[float]]:
    """How late the sleepers were, and how long the server took to say that it is well
    meanwhile.
    """
    health: list[float] = []

    async def look() -> None:
        began = time.perf_counter()
        await made[0].call(face.health)
        health.append(time.perf_counter() - began)
        await asyncio.sleep(LOOK_PAUSE)

    while True:
        await closed_loop([look], max(last - time.time(), 0.0) + 1.0)
        answer: Any = msgspec.json.decode(await made[1].call(face.ask))
        late = (answer["result"] if isinstance(answer, dict) else answer)[probes:]
        if len(late) == count:
            return late, health
        if time.time() > last + GIVE_UP_SECONDS:
            raise RuntimeError(f"{len(late)} of {count} sleepers woke")


OURS = "/api/v1/functions/bench-{}/invoke"
CALM, STORM = 30, 0
MANY = 50_000

SCENARIOS = (
    Scenario(
        name="sleepers",
        title="runs that sleep: memory, and lateness of waking",
        sides=(
            side_of(
                "ironflow",
                "ours",
                ironflow,
                Face(
                    OURS.format("sleeper"),
                    lambda moment: {"input": moment},
                    encode_request("POST", OURS.format("lateness") + "?wait=60s", {"input": None}),
                    HEALTH_KEPT,
                ),
            ),
        ),
        columns=(
            Column(figure="rss_mib", title="RSS MiB"),
            Column(figure="bytes_each", title="bytes each"),
            Column(figure="late_p50_ms", title="late p50 ms", digits=1),
            Column(figure="late_p99_ms", title="late p99 ms", digits=1),
            Column(figure="late_max_ms", title="latest ms"),
            Column(figure="health_p99_ms", title="/health p99 ms", digits=1),
            Column(figure="make_cpu_us", title="CPU us/making"),
            Column(figure="wake_cpu_us", title="CPU us/waking"),
            Column(figure="made_per_second", title="made/s"),
        ),
        cases=(
            {"sleeping": MANY, "over_s": CALM},
            {"sleeping": MANY, "over_s": STORM},
        ),
        quick=({"sleeping": 300, "over_s": 1},),
        rounds=1,
        targets=(
            Target(figure="rss_mib", at_most=400, case={"sleeping": MANY}),
            Target(figure="late_p99_ms", at_most=250, case={"over_s": CALM}),
        ),
        notes="`over_s` is the time over which their moments are spread; with 0 all are due at "
        "once, and the latest says how long it takes to wake them all. Restate is not beside it: "
        "by default it keeps 1,000 bodies at most and each for a minute before it suspends it, so "
        "that most would wait for their turn instead of sleeping.",
    ),
)
