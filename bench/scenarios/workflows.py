"""Event-driven workflows over HTTP, beside LlamaIndex's server with its store in memory and with
the one on SQLite: chains of ten steps, streamed events, an event to many readers, finished runs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from harness.load import Connection, closed_loop, connections, encode_request
from harness.processes import Meter
from harness.scenario import (
    Column,
    Figures,
    Scenario,
    Setting,
    Side,
    Target,
    percentile,
    summary,
)
from peers.llama import IN_MEMORY, ON_SQLITE, Serve, install, server_of

CHAIN = 10
WARM_SECONDS = 0.5
EVENTS_WARM = 5

RUN_CHAIN = encode_request("POST", "/workflows/chain/run", {"start_event": {"count": 0}})

Measure = Callable[[Setting, Serve], Awaitable[Figures]]


def sides(measure: Measure, *, sqlite: bool = True) -> tuple[Side, ...]:
    """Ours and the peer's under one measurement."""

    def side(name: str, role: Any, kind: str, **options: Any) -> Side:
        async def measured(setting: Setting) -> Figures:
            return await measure(setting, server_of(kind))

        return Side(name=name, role=role, measure=measured, **options)

    found = [
        side("ironflow", "ours", "ironflow"),
        side(IN_MEMORY, "peer", "memory", prepare=install),
    ]
    if sqlite:
        found.append(side(ON_SQLITE, "peer", "sqlite", prepare=install, rounds=1))
    return tuple(found)


async def run_chain(connection: Connection) -> None:
    """One chain to its end. Raises `RuntimeError` when it came to something else."""
    handler = msgspec.json.decode(await connection.call(RUN_CHAIN))
    if handler["result"]["value"] != {"result": CHAIN}:
        raise RuntimeError(f"a chain did not come to {CHAIN}: {handler}")


async def measure_chains(setting: Setting, serve: Serve) -> Figures:
    """Callers that start a chain and wait for its result in the same request."""
    async with serve(setting) as server, connections(server.port, setting.case["at_once"]) as made:
        callers = [lambda connection=connection: run_chain(connection) for connection in made]
        await closed_loop(callers[:16], min(WARM_SECONDS, setting.seconds))
        meter = Meter(*server.processes)
        load = await closed_loop(callers, setting.seconds)
        figures = summary(load.count, load.seconds, meter.seconds(), load.latencies, CHAIN)
        figures["runs_per_second"] = load.count / load.seconds
        figures["rss_mib"] = sum(process.rss() for process in server.processes)
        return figures


async def start(connection: Connection, workflow: str, count: int = 0) -> str:
    """The handler of a new run."""
    body = {"start_event": {"count": count}}
    request = encode_request("POST", f"/workflows/{workflow}/run-nowait", body)
    return str(msgspec.json.decode(await connection.call(request))["handler_id"])


class Reader:
    """A reader of a stream over a socket of its own."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, port: int, handler_id: str) -> Reader:
        """A reader that has the head of the answer."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**22)
        path = f"/events/{handler_id}?sse=true&after_sequence=-1"
        writer.write(encode_request("GET", path))
        head = await reader.readuntil(b"\r\n\r\n")
        if b" 200 " not in head.split(b"\r\n")[0]:
            raise RuntimeError(f"no stream: {head!r:.200}")
        return cls(reader, writer)

    async def until(self, text: bytes) -> float:
        """When a frame with this text came."""
        while text not in await self.reader.readline():
            pass
        return time.perf_counter()

    def close(self) -> None:
        """Hang up."""
        self.writer.close()


async def measure_streaming(setting: Setting, serve: Serve) -> Figures:
    """A run that streams as fast as it can, and one reader that takes all of it."""
    count = setting.case["events"]
    async with serve(setting) as server, connections(server.port, 1) as (connection,):
        await _stream_once(server.port, connection, 100)
        meter = Meter(*server.processes)
        seconds = await _stream_once(server.port, connection, count)
        return {
            "count": count,
            "per_second": count / seconds,
            "cpu_us": meter.seconds() / count * 1e6,
        }


async def _stream_once(port: int, connection: Connection, count: int) -> float:
    began = time.perf_counter()
    reader = await Reader.open(port, await start(connection, "ticks", count))
    ended = await reader.until(b'"type":"StopEvent"')
    reader.close()
    return ended - began


async def measure_fan_out(setting: Setting, serve: Serve) -> Figures:
    """An event is sent; a step streams it; every reader notes when it came."""
    count = setting.case["readers"]
    delays: list[float] = []
    async with serve(setting) as server, connections(server.port, 1) as (connection,):
        handler_id = await start(connection, "echo")
        readers = [await Reader.open(server.port, handler_id) for _ in range(count)]
        meter, sent = Meter(*server.processes), 0
        until = time.perf_counter() + setting.seconds
        while sent <= EVENTS_WARM or time.perf_counter() < until:  # one is measured at least
            event = {"type": "Say", "value": {"number": 1_000_000 + sent}}
            request = encode_request("POST", f"/events/{handler_id}", {"event": event})
            marker = b'"number":%d' % (1_000_000 + sent)
            began = time.perf_counter()
            waiting = asyncio.gather(*[reader.until(marker) for reader in readers])
            await connection.call(request)
            came = await waiting
            if sent >= EVENTS_WARM:
                delays.extend(at - began for at in came)
            sent += 1
        for reader in readers:
            reader.close()
        return {
            "count": len(delays),
            "p50_ms": percentile(delays, 0.5) * 1e3,
            "p99_ms": percentile(delays, 0.99) * 1e3,
            "cpu_us": meter.seconds() / max(1, sent * count) * 1e6,
        }


async def measure_memory(setting: Setting, serve: Serve) -> Figures:
    """How much memory a server holds after many runs have ended."""
    async with serve(setting) as server, connections(server.port, 16) as made:
        await run_chain(made[0])
        before = sum(process.rss() for process in server.processes)
        left = iter(range(setting.case["runs"]))

        async def caller(connection: Connection) -> None:
            for _ in left:
                await run_chain(connection)

        await asyncio.gather(*map(caller, made))
        after = sum(process.rss() for process in server.processes)
        return {"count": setting.case["runs"], "rss_mib": after, "grown_mib": after - before}


CASES = ({"at_once": 1}, {"at_once": 16}, {"at_once": 256})
SCENARIOS = (
    Scenario(
        name="workflows-chain",
        title="event-driven workflows over HTTP, start and wait for chains of 10 steps",
        sides=sides(measure_chains),
        columns=(
            Column(figure="per_second", title="steps/s"),
            Column(figure="runs_per_second", title="runs/s", digits=1),
            Column(figure="cpu_us", title="CPU us/step", digits=1),
            Column(figure="p50_ms", title="run p50 ms", digits=2),
            Column(figure="p99_ms", title="run p99 ms", digits=2),
            Column(figure="rss_mib", title="RSS MiB"),
        ),
        cases=CASES,
        quick=({"at_once": 16},),
        targets=(
            *[Target(figure="per_second", at_least=3, beside=IN_MEMORY, case=c) for c in CASES],
            *[Target(figure="per_second", at_least=20, beside=ON_SQLITE, case=c) for c in CASES],
        ),
        notes="Ours stores every step durably; of the peer's stores only the one on SQLite does.",
    ),
    Scenario(
        name="workflows-stream",
        title="streamed events of one run to one reader",
        sides=sides(measure_streaming),
        columns=(
            Column(figure="per_second", title="events/s"),
            Column(figure="cpu_us", title="CPU us/event", digits=1),
        ),
        cases=({"events": 2000},),
        quick=({"events": 200},),
    ),
    Scenario(
        name="workflows-readers",
        title="one event from its sender to 50 readers of a run",
        sides=sides(measure_fan_out),
        columns=(
            Column(figure="p50_ms", title="p50 ms", digits=2),
            Column(figure="p99_ms", title="p99 ms", digits=2),
            Column(figure="cpu_us", title="CPU us/delivery", digits=1),
        ),
        cases=({"readers": 50},),
        targets=(Target(figure="p50_ms", at_most=4),),
    ),
    Scenario(
        name="workflows-memory",
        title="memory after finished runs of 10 steps",
        sides=sides(measure_memory, sqlite=False),
        columns=(
            Column(figure="grown_mib", title="grown by MiB", digits=1),
            Column(figure="rss_mib", title="RSS MiB"),
        ),
        cases=({"runs": 10_000},),
        quick=({"runs": 200},),
        rounds=1,
        notes="The peer's store in memory keeps the newest 1,000 runs; ours keeps all, on disk.",
    ),
)
