"""Live streams: every reader gets every event; how late, from the request that emits it to the
arrival at each reader.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from typing import cast

from harness.load import Connection, connections, encode_request
from harness.processes import Meter
from harness.scenario import Column, Figures, Role, Scenario, Setting, Side, percentile
from servers import Served, bare_answer, ironflow

MARK = b'"sent":'
GIVE_UP_SECONDS, PAUSE = 20.0, 0.005

Serve = Callable[[Setting], AbstractAsyncContextManager[Served]]


class Reader(asyncio.Protocol):
    """One reader of a stream: notes how old each event is when it comes."""

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.ages: list[float] = []
        self.listening: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).write(self.request)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        if not self.listening.done():
            self.listening.set_result(None)
        *frames, self._rest = (self._rest + data).split(b"\n\n")
        for frame in frames:
            _, mark, text = frame.partition(MARK)
            if mark:
                self.ages.append(now - float(text[: text.index(b"}")]))


def side_of(name: str, role: Role, serve: Serve, stream: str, emit: str) -> Side:
    """A side with a stream, and a path that events are POSTed to."""

    async def measure(setting: Setting) -> Figures:
        async with (
            serve(setting) as server,
            connections(server.port, 1) as (sender,),
            _readers(server.port, setting.case["readers"], stream) as readers,
        ):
            meter, began = Meter(*server.processes), time.perf_counter()
            sent = await _send(setting, sender, emit)
            await _all_read(readers, sent)
            spent = time.perf_counter() - began
            ages = [age for reader in readers for age in reader.ages]
            return {
                "p50_ms": percentile(ages, 0.5) * 1e3,
                "p99_ms": percentile(ages, 0.99) * 1e3,
                "per_second": len(ages) / spent,
                "cpu_us": meter.seconds() / len(ages) * 1e6,
                "rss_mib": sum(process.rss() for process in server.processes),
            }

    return Side(name=name, role=role, measure=measure)


@asynccontextmanager
async def _readers(port: int, count: int, stream: str) -> AsyncIterator[list[Reader]]:
    """So many readers whose stream has begun."""
    request, loop = encode_request("GET", stream), asyncio.get_running_loop()
    with ExitStack() as stack:
        readers: list[Reader] = []
        while len(readers) < count:
            transport, reader = await loop.create_connection(
                lambda: Reader(request), "127.0.0.1", port
            )
            stack.callback(transport.close)
            readers.append(reader)
        await asyncio.gather(*(reader.listening for reader in readers))
        yield readers


async def _send(setting: Setting, sender: Connection, emit: str) -> int:
    """Emit events at an even pace, each with the moment it is sent at; how many."""
    began, sent = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - began) < setting.seconds:
        body = {"name": "bench.told", "data": {"sent": time.perf_counter()}}
        await sender.call(encode_request("POST", emit, body))
        sent += 1
        await asyncio.sleep(max(sent / setting.case["events_per_s"] - elapsed, 0.0))
    return sent


async def _all_read(readers: list[Reader], sent: int) -> None:
    """Wait for the last frames. Raises `RuntimeError` when some do not come, or come twice."""
    for _ in range(int(GIVE_UP_SECONDS / PAUSE)):
        if all(len(reader.ages) >= sent for reader in readers):
            break
        await asyncio.sleep(PAUSE)
    wrong = [len(reader.ages) for reader in readers if len(reader.ages) != sent]
    if wrong:
        raise RuntimeError(f"of {sent} events, readers got {sorted(set(wrong))}")


SCENARIOS = (
    Scenario(
        name="fan-out",
        title="events to many readers of a live stream (SSE)",
        sides=(
            side_of(
                "ironflow",
                "ours",
                ironflow,
                "/api/v1/stream?kind=event.emitted",
                "/api/v1/events",
            ),
            side_of("bare aiohttp", "ceiling", bare_answer, "/stream", "/emit"),
        ),
        columns=(
            Column(figure="p50_ms", title="p50 ms", digits=2),
            Column(figure="p99_ms", title="p99 ms", digits=2),
            Column(figure="per_second", title="frames/s"),
            Column(figure="cpu_us", title="CPU us/frame", digits=1),
            Column(figure="rss_mib", title="RSS MiB"),
        ),
        cases=({"readers": 200, "events_per_s": 10}, {"readers": 200, "events_per_s": 50}),
        quick=({"readers": 5, "events_per_s": 20},),
        rounds=2,
        notes="The bare server stores nothing and writes the frame to each reader at once. Neither "
        "Restate nor DBOS streams to readers over HTTP.",
    ),
)
