"""Runs that sleep: what so many cost in memory, and how late they wake, spread over a while or all
at the same moment.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec
from harness.load import Connection, closed_loop, connections, encode_request
from harness.processes import Meter
from harness.scenario import Column, Figures, Scenario, Setting, Side, Target, percentile
from peers import restate
from servers import HEALTH_KEPT, Served, ironflow

CALLERS = 128
SLOWEST_INTAKE = 1200
"""Sleepers that are made in a second at least: nobody may be due before all are asleep."""
SETTLE_SECONDS = 4.0
"""After which bodies are out of memory (ironflow lets go of a sleeping body after 2 s)."""
GIVE_UP_SECONDS = 60.0

Serve = Callable[[Setting], AbstractAsyncContextManager[Served]]


def side_of(
    name: str, role: Any, serve: Serve, path: str, wrap: Callable[[int], object], ask: bytes,
    health: bytes, **options: Any,
) -> Side:  # fmt: skip
    """A side that takes a sleeper by POST at `path` and says by `ask` how late the woken were."""

    async def measure(setting: Setting) -> Figures:
        async with (
            serve(setting) as server,
            connections(server.port, CALLERS) as made,
        ):
            return await _measure(setting, server, made, path, wrap, ask, health)

    return Side(name=name, role=role, measure=measure, **options)


async def _measure(
    setting: Setting, server: Served, made: list[Connection], path: str,
    wrap: Callable[[int], object], ask: bytes, health: bytes,
) -> Figures:  # fmt: skip
    count, spread = setting.case["sleeping"], setting.case["over_s"]
    idle = sum(process.rss() for process in server.processes)
    settle = min(SETTLE_SECONDS, 4 * setting.seconds)
    first = time.time() + count / SLOWEST_INTAKE + settle
    moments = iter([int((first + spread * n / count) * 1000) for n in range(count)])
    began = time.perf_counter()
    await asyncio.gather(*(_send(one, path, wrap, moments) for one in made))
    made_in = time.perf_counter() - began
    # Those that are asleep hold no body; what is resident then is what they cost.
    await asyncio.sleep(max(first - time.time() - 0.5, 0.0))
    rss = sum(process.rss() for process in server.processes)
    meter = Meter(*server.processes)
    answers = await _until_woken(made, ask, health, count, first + spread)
    late = sorted(answers.pop("lateness"))
    return {
        "rss_mib": rss,
        "bytes_each": (rss - idle) * 1024 * 1024 / count,
        "late_p50_ms": percentile(late, 0.5),
        "late_p99_ms": percentile(late, 0.99),
        "late_max_ms": late[-1],
        "health_p99_ms": percentile(answers["health"], 0.99) * 1e3,
        "wake_cpu_us": meter.seconds() / count * 1e6,
        "made_per_second": count / made_in,
    }


async def _send(
    connection: Connection, path: str, wrap: Callable[[int], object], moments: Iterator[int]
) -> None:
    for moment in moments:
        await connection.call(encode_request("POST", path, wrap(moment)))


async def _until_woken(
    made: list[Connection], ask: bytes, health: bytes, count: int, last: float
) -> dict[str, list[float]]:
    """Watch how fast the server answers meanwhile; then ask how late the sleepers were."""
    seen: list[float] = []
    pause = 0.02

    async def look() -> None:
        began = time.perf_counter()
        await made[0].call(health)
        seen.append(time.perf_counter() - began)
        await asyncio.sleep(pause)

    while True:
        await closed_loop([look], max(last - time.time(), 0.0) + 1.0)
        answer: Any = msgspec.json.decode(await made[1].call(ask))
        late = answer["result"] if isinstance(answer, dict) else answer
        if len(late) == count:
            return {"lateness": late, "health": seen}
        if time.time() > last + GIVE_UP_SECONDS:
            raise RuntimeError(f"{len(late)} of {count} sleepers woke")


OURS = "/api/v1/functions/bench-{}/invoke"
CALM, STORM = 20, 0
FEW, MANY = 5_000, 50_000

SCENARIOS = (
    Scenario(
        name="sleepers",
        title="runs that sleep: memory, and lateness of waking",
        sides=(
            side_of(
                "ironflow",
                "ours",
                ironflow,
                OURS.format("sleeper"),
                lambda moment: {"input": moment},
                encode_request("POST", OURS.format("lateness") + "?wait=60s", {"input": None}),
                HEALTH_KEPT,
            ),
            side_of(
                restate.NAME,
                "peer",
                restate.served,
                "/bench/sleeper/send",
                lambda moment: moment,
                encode_request("POST", "/bench/lateness", None),
                encode_request("GET", "/restate/health"),
                prepare=restate.install,
                cases=lambda case: case["sleeping"] == FEW,
                rounds=1,
            ),
        ),
        columns=(
            Column(figure="rss_mib", title="RSS MiB"),
            Column(figure="bytes_each", title="bytes each"),
            Column(figure="late_p50_ms", title="late p50 ms", digits=1),
            Column(figure="late_p99_ms", title="late p99 ms", digits=1),
            Column(figure="late_max_ms", title="latest ms"),
            Column(figure="health_p99_ms", title="/health p99 ms", digits=1),
            Column(figure="wake_cpu_us", title="CPU us/wake"),
            Column(figure="made_per_second", title="made/s"),
        ),
        cases=(
            {"sleeping": FEW, "over_s": 5},
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
        "once, and the latest says how long it takes to wake them all. Restate keeps the body of "
        "a sleeping run in memory for a minute before it suspends it, and is compared at 5,000.",
    ),
)
