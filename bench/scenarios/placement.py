"""Where a body runs: in the server, in workers that ask for work, behind an endpoint that is
called. Runs a second with one and ten steps, and how long it takes from an event to the first line
of user code.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from harness.load import Connection, closed_loop, connections, encode_request
from harness.processes import Meter, Process, free_port, running
from harness.scenario import Column, Figures, Role, Scenario, Setting, Side, Target, summary
from peers import restate
from servers import HERE, READY, Served, ironflow

SLOTS = 10
"""Bodies that a worker runs at once."""
WARM_SECONDS = 0.5
MEASURED = ("bench-chain", "bench-reached", "bench-heard")

Serve = Callable[[Setting], AbstractAsyncContextManager[Served]]


@contextlib.asynccontextmanager
async def without_functions(setting: Setting) -> AsyncIterator[tuple[int, Process, float]]:
    """A server that executes nothing itself."""
    port = free_port()
    line = [sys.executable, "-m", "ironflow", "serve", "--port", str(port)]
    line += ["--db", str(setting.folder / "bench.db"), "--durability", setting.durability]
    line += ["--push-networks", "127.0.0.0/8"]
    process = Process("ironflow", line, setting.folder)
    async with running(process):
        yield port, process, await process.answers(port, READY)


async def known(server: Process, port: int) -> None:
    """Until what is measured is registered."""
    for name in MEASURED:
        path = f"/api/v1/functions/{name}"
        await server.answers(port, encode_request("GET", path, headers={"connection": "close"}))


@contextlib.asynccontextmanager
async def workers(setting: Setting, count: int = 1) -> AsyncIterator[Served]:
    """A server and so many workers."""
    async with without_functions(setting) as (port, server, ready_s):
        line = [sys.executable, "-m", "ironflow", "worker", str(HERE / "functions.py")]
        line += ["--server", f"http://127.0.0.1:{port}", "--concurrency", str(SLOTS)]
        made = [Process(f"worker{n}", line, setting.folder) for n in range(count)]
        async with running(*made):
            await known(server, port)
            yield Served(port, (server, *made), ready_s)


@contextlib.asynccontextmanager
async def endpoint(setting: Setting) -> AsyncIterator[Served]:
    """A server and an endpoint that it calls."""
    async with without_functions(setting) as (port, server, ready_s):
        line = [sys.executable, str(HERE / "endpoint.py"), str(free_port())]
        made = Process("endpoint", [*line, f"http://127.0.0.1:{port}"], setting.folder)
        async with running(made):
            await known(server, port)
            yield Served(port, (server, made), ready_s)


def runs_side(name: str, serve: Serve, **options: Any) -> Side:
    """Runs that are started and awaited."""
    return load_side(
        name,
        serve,
        lambda steps: encode_request(
            "POST", "/api/v1/functions/bench-chain/invoke?wait=60s", {"input": steps}
        ),
        **options,
    )


def load_side(
    name: str,
    serve: Serve,
    request_for: Callable[[int], bytes],
    role: Role = "ours",
    **options: Any,
) -> Side:
    """A side that answers a request with the result of a chain of so many steps."""

    async def measure(setting: Setting) -> Figures:
        request = request_for(setting.case["steps"])
        async with (
            serve(setting) as server,
            connections(server.port, setting.case["at_once"]) as made,
        ):
            callers: Sequence[Callable[[], Awaitable[bytes]]] = [
                functools.partial(connection.call, request) for connection in made
            ]
            await closed_loop(callers, min(WARM_SECONDS, setting.seconds))
            meter = Meter(*server.processes)
            load = await closed_loop(callers, setting.seconds)
            figures = summary(load.count, load.seconds, meter.seconds(), load.latencies)
            figures["rss_mib"] = sum(process.rss() for process in server.processes)
            return figures

    return Side(name=name, role=role, measure=measure, **options)


Reach = Callable[[Connection, float], Awaitable[float]]
"""Has a body reached: the moment is given, in seconds since the epoch; seconds until it was."""


async def by_invocation(connection: Connection, sent: float) -> float:
    """The run is asked for by name."""
    path = "/api/v1/functions/bench-reached/invoke?wait=60s"
    answer = await connection.call(encode_request("POST", path, {"input": sent}))
    return float(json.loads(answer)["result"])


async def by_event(connection: Connection, sent: float) -> float:
    """An event starts the run."""
    event = {"name": "bench.heard", "data": {"sent": sent}}
    emitted = json.loads(await connection.call(encode_request("POST", "/api/v1/events", event)))
    path = f"/api/v1/runs/{emitted['run_ids'][0]}/result?wait=60s"
    return float(json.loads(await connection.call(encode_request("GET", path)))["result"])


async def by_restate(connection: Connection, sent: float) -> float:
    """The peer's handler is asked for."""
    return float(await connection.call(encode_request("POST", "/bench/reached", sent)))


def dispatch_side(
    name: str, serve: Serve, reach: Reach, role: Role = "ours", **options: Any
) -> Side:
    """The time from a request to the first line of the body, one at a time, nothing else going
    on.
    """

    async def measure(setting: Setting) -> Figures:
        seconds: list[float] = []
        async with serve(setting) as server, connections(server.port, 1) as (connection,):
            began = time.perf_counter()
            warm = min(WARM_SECONDS, setting.seconds)
            while (spent := time.perf_counter() - began) < setting.seconds + warm or not seconds:
                taken = await reach(connection, time.time())
                if spent > warm:
                    seconds.append(taken)
                await asyncio.sleep(0.005)  # a moment in which everything is idle again
            return summary(len(seconds), setting.seconds, 0.0, seconds)

    return Side(name=name, role=role, measure=measure, **options)


four_workers = functools.partial(workers, count=4)

SCENARIOS = (
    Scenario(
        name="placement",
        title="runs that are started and awaited over HTTP, by where their bodies run",
        sides=(
            runs_side("in the server", ironflow),
            runs_side("1 worker", workers),
            runs_side("4 workers", four_workers),
            runs_side("endpoint", endpoint),
            load_side(
                restate.NAME,
                restate.served,
                lambda steps: encode_request("POST", "/bench/chain", steps),
                role="peer",
                prepare=restate.install,
            ),
        ),
        columns=(
            Column(figure="per_second", title="runs/s"),
            Column(figure="cpu_us", title="CPU us/run", digits=0),
            Column(figure="p50_ms", title="p50 ms", digits=2),
            Column(figure="p99_ms", title="p99 ms", digits=2),
            Column(figure="rss_mib", title="RSS MiB"),
        ),
        cases=({"steps": 1, "at_once": 64}, {"steps": 10, "at_once": 64}),
        quick=({"steps": 1, "at_once": 4},),
        notes="A worker runs 10 bodies at once. CPU and memory are of all processes together; on "
        "two cores they share with the load.",
    ),
    Scenario(
        name="dispatch",
        title="from an event or a call to the first line of user code, nothing else going on",
        sides=(
            dispatch_side("event, in the server", ironflow, by_event),
            dispatch_side("event, 1 worker", workers, by_event),
            dispatch_side("event, endpoint", endpoint, by_event),
            dispatch_side("invoked, in the server", ironflow, by_invocation),
            dispatch_side("invoked, 1 worker", workers, by_invocation),
            dispatch_side("invoked, endpoint", endpoint, by_invocation),
            dispatch_side(
                restate.NAME, restate.served, by_restate, role="peer", prepare=restate.install
            ),
        ),
        columns=(
            Column(figure="p50_ms", title="p50 ms", digits=2),
            Column(figure="p99_ms", title="p99 ms", digits=2),
        ),
        targets=(Target(figure="p50_ms", at_most=3.0),),
    ),
)
