"""Live streams: every reader gets every event; how late, from the request that emits it to the
arrival at each reader.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, cast

from harness.load import connections, encode_request
from harness.processes import Meter
from harness.scenario import Column, Figures, Scenario, Setting, Side, percentile
from servers import Served, bare_answer, ironflow

MARK = b'"sent":'
GIVE_UP_SECONDS, PAUSE = 20.0, 0.005

Serve = Callable[[Setting], AbstractAsyncContextManager[Served]]


class Reader(asyncio.Protocol):
    """One reader of a stream: notes how old each event is when it comes."""

    def __init__(self, request: bytes, ages: list[float]) -> None:
        self.request, self.ages = request, ages
        self.listening: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.got = 0
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
                self.got += 1


def side_of(name: str, role: Any, serve: Serve, stream: str, emit: str) -> Side:
    """A side with a stream, and a path that events are POSTed to."""

    async def measure(setting: Setting) -> Figures:
        async with serve(setting) as server, connections(server.port, 1) as (sender,):
            ages: list[float] = []
            request = encode_request("GET", stream)
            loop = asyncio.get_running_loop()
            async with AsyncExitStack() as stack:
                readers = []
                for _ in range(setting.case["readers"]):
                    transport, reader = await loop.create_connection(
                        lambda: Reader(request, ages), "127.0.0.1", server.port
                    )
                    stack.callback(transport.close)
                    readers.append(reader)
                await asyncio.gather(*(reader.listening for reader in readers))
                meter, began = Meter(*server.processes), time.perf_counter()
                sent = 0
                while (late := time.perf_counter() - began) < setting.seconds:
                    body = {"name": "bench.told", "data": {"sent": time.perf_counter()}}
                    await sender.call(encode_request("POST", emit, body))
                    sent += 1
                    pause = sent / setting.case["events_per_s"] - late
                    await asyncio.sleep(max(pause, 0.0))
                await _all_read(readers, sent)
                return {
                    "p50_ms": percentile(ages, 0.5) * 1e3,
                    "p99_ms": percentile(ages, 0.99) * 1e3,
                    "per_second": len(ages) / (time.perf_counter() - began),
                    "cpu_us": meter.seconds() / len(ages) * 1e6,
                    "rss_mib": sum(process.rss() for process in server.processes),
                }

    return Side(name=name, role=role, measure=measure)


async def _all_read(readers: list[Reader], sent: int) -> None:
    """Wait for the last frames. Raises `RuntimeError` when some do not come, or come twice."""
    for _ in range(int(GIVE_UP_SECONDS / PAUSE)):
        if all(reader.got >= sent for reader in readers):
            break
        await asyncio.sleep(PAUSE)
    wrong = [reader.got for reader in readers if reader.got != sent]
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
        notes="The bare server stores nothing and writes the frame to each reader at once. Neither "
        "Restate nor DBOS streams to readers over HTTP.",
    ),
)
