"""Events of Prefect's API over websockets: how many are stored a second, and how long one takes to
fifty subscribers.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import aiohttp
import msgspec
from harness.load import connections, encode_request
from harness.processes import Meter
from harness.scenario import Column, Figures, Scenario, Setting, Side, Target, percentile, summary
from peers import prefect
from servers import Served, ironflow

AUTHENTICATE = {"type": "auth", "token": None}
LOOK_SECONDS = 0.02
"""Between two looks how many events are stored; it bounds the error of the rate."""
GAP_SECONDS = 0.05
"""Between two events of the fan-out: latency is asked for, not capacity."""

Serve = Callable[[Setting], AbstractAsyncContextManager[Served]]
Socket = aiohttp.ClientWebSocketResponse
_encode = msgspec.json.Encoder().encode


class Payload(msgspec.Struct):
    """Ours, in each event."""

    sent: float


class Event(msgspec.Struct):
    """What is read of it."""

    payload: Payload


class Told(msgspec.Struct):
    """A message to a subscriber."""

    event: Event


_read_told = msgspec.json.Decoder(Told).decode


def event_of(name: str, number: int) -> str:
    """An event as a client sends it."""
    return _encode(
        {
            "id": str(uuid.uuid4()),
            "occurred": datetime.now(UTC).isoformat(),
            "event": name,
            "resource": {
                "prefect.resource.id": f"bench.{number}",
                "prefect.resource.name": "bench",
            },
            "related": [],
            "payload": {"number": number, "sent": time.perf_counter()},
            "follows": None,
        }
    ).decode()


@asynccontextmanager
async def socket(
    session: aiohttp.ClientSession, server: Served, path: str
) -> AsyncIterator[Socket]:
    """A websocket that is let in."""
    url = f"ws://127.0.0.1:{server.port}/api{path}"
    async with session.ws_connect(url, protocols=("prefect",), max_msg_size=0) as made:
        await made.send_json(AUTHENTICATE)
        answer = await made.receive_json()
        if answer["type"] != "auth_success":
            raise RuntimeError(f"not let in: {answer}")
        yield made


def intake_side(name: str, role: Any, serve: Serve, **options: Any) -> Side:
    """Events in, until a query finds all of them."""

    async def measure(setting: Setting) -> Figures:
        count = setting.case["events"]
        kind = f"bench.{uuid.uuid4()}"
        async with (
            serve(setting) as server,
            aiohttp.ClientSession() as session,
            socket(session, server, "/events/in") as sending,
            connections(server.port, 1) as [asking],
        ):
            messages = [event_of(kind, number) for number in range(count)]
            question = {"filter": {"event": {"name": [kind]}}, "limit": 1}
            request = encode_request("POST", "/api/events/filter", question)
            meter = Meter(*server.processes)
            began = time.perf_counter()
            for message in messages:
                await sending.send_str(message)
            while True:
                status, answer = await asking.ask(request)
                if status == 200 and msgspec.json.decode(answer)["total"] == count:
                    break
                await asyncio.sleep(LOOK_SECONDS)
            seconds = time.perf_counter() - began
            figures = summary(count, seconds, meter.seconds(), [])
            figures["rss_mib"] = sum(process.rss() for process in server.processes)
            return figures

    return Side(name=name, role=role, measure=measure, **options)


def fanout_side(name: str, role: Any, serve: Serve, **options: Any) -> Side:
    """One event to every subscriber."""

    async def measure(setting: Setting) -> Figures:
        count, readers = setting.case["events"], setting.case["subscribers"]
        kind = f"bench.{uuid.uuid4()}"
        now = datetime.now(UTC)
        occurred = {"since": now.isoformat(), "until": now.replace(year=now.year + 1).isoformat()}
        wanted = {"type": "filter", "filter": {"event": {"name": [kind]}, "occurred": occurred}}
        latencies: list[float] = []
        async with AsyncExitStack() as stack:
            server = await stack.enter_async_context(serve(setting))
            session = await stack.enter_async_context(
                aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
            )
            sending = await stack.enter_async_context(socket(session, server, "/events/in"))
            reading = [
                await stack.enter_async_context(socket(session, server, "/events/out"))
                for _ in range(readers)
            ]
            for one in reading:
                await one.send_json(wanted)

            async def read(one: Socket) -> None:
                for number in range(count + 1):
                    text = await one.receive_str()
                    heard = time.perf_counter()
                    if number:  # the first one is for connections that are still cold
                        latencies.append(heard - _read_told(text).event.payload.sent)

            readings = asyncio.gather(*map(read, reading))
            await asyncio.sleep(setting.case["settle_s"])
            meter = Meter(*server.processes)
            for number in range(count + 1):
                await sending.send_str(event_of(kind, number))
                await asyncio.sleep(GAP_SECONDS)
            await asyncio.wait_for(readings, 60)
            figures = summary(count, count * GAP_SECONDS, meter.seconds(), latencies)
            figures["p999_ms"] = percentile(latencies, 0.999) * 1e3
            figures["rss_mib"] = sum(process.rss() for process in server.processes)
            return figures

    return Side(name=name, role=role, measure=measure, **options)


SQLITE: dict[str, Any] = {"prepare": prefect.install, "rounds": 1}

SCENARIOS = (
    Scenario(
        name="prefect-events-in",
        title="Prefect API: events a second over one websocket, until all are found",
        sides=(
            intake_side("ironflow", "ours", ironflow),
            intake_side(prefect.SQLITE, "peer", prefect.on_sqlite, **SQLITE),
        ),
        columns=(
            Column(figure="per_second", title="events/s"),
            Column(figure="cpu_us", title="CPU us/event"),
            Column(figure="rss_mib", title="RSS MiB"),
        ),
        cases=({"events": 5000},),
        quick=({"events": 200},),
        rounds=2,
        notes="The real server keeps events back for up to five seconds before it stores them, "
        "which its rate contains.",
    ),
    Scenario(
        name="prefect-events-out",
        title="Prefect API: one event to 50 subscribers",
        sides=(
            fanout_side("ironflow", "ours", ironflow),
            fanout_side(prefect.SQLITE, "peer", prefect.on_sqlite, **SQLITE),
        ),
        columns=(
            Column(figure="p50_ms", title="p50 ms", digits=2),
            Column(figure="p99_ms", title="p99 ms", digits=2),
            Column(figure="p999_ms", title="p99.9 ms", digits=2),
            Column(figure="cpu_us", title="CPU us/event"),
            Column(figure="rss_mib", title="RSS MiB"),
        ),
        cases=({"events": 60, "subscribers": 50, "settle_s": 3},),
        quick=({"events": 3, "subscribers": 5, "settle_s": 0},),
        rounds=2,
        targets=(Target(figure="p50_ms", at_most=3),),
        notes="From the send of one websocket to the receipt of each; the load process decodes "
        "all of them.",
    ),
)
