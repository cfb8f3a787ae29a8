"""The life of a Prefect flow run with two tasks as ten requests: created as scheduled, pending,
running, each task created, running, completed, and the run completed.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec
from harness.load import BadAnswer, Connection, HungUp, closed_loop, connections, encode_request
from harness.processes import Meter
from harness.scenario import (
    Case,
    Column,
    Figures,
    Scenario,
    Setting,
    Side,
    Target,
    percentile,
    summary,
)
from peers import prefect
from servers import Served, ironflow

REQUESTS = 10
WARM_SECONDS = 0.5
BACK_OFF_SECONDS = 20.0
"""How long the real server is measured where its client's back-off of seconds counts."""
TRIES = 6

Serve = Callable[[Setting], AbstractAsyncContextManager[Served]]


class Made(msgspec.Struct):
    """What is read of an answer that tells of something new."""

    id: str


class Busy(Exception):
    """Refused as often as the client asks again."""


_read_made = msgspec.json.Decoder(Made).decode


class Caller:
    """One client: its connection, and what it measured."""

    def __init__(self, port: int, flow_id: str, pause: Callable[[int], float]) -> None:
        self.port, self.flow_id, self.pause = port, flow_id, pause
        self.connection: Connection | None = None
        self.latencies: list[float] = []
        self.refused = 0

    async def exchange(self, request: bytes) -> tuple[int, bytes]:
        """Status and body, over a connection that is opened anew when it was closed: the real
        server hangs up after some of its errors.
        """
        if self.connection is None or self.connection.is_closed:
            loop = asyncio.get_running_loop()
            _, self.connection = await loop.create_connection(Connection, "127.0.0.1", self.port)
        return await self.connection.ask(request)

    def close(self) -> None:
        """Hang up."""
        if self.connection is not None:
            self.connection.close()

    async def ask(self, path: str, body: object) -> bytes:
        """A POST, again when it is refused with 503."""
        request = encode_request("POST", f"/api{path}", body)
        for turn in range(TRIES):
            began = time.perf_counter()
            try:
                status, answer = await self.exchange(request)
            except HungUp:
                status, answer = 503, b""
            self.latencies.append(time.perf_counter() - began)
            if status < 400:
                return answer
            if status != 503:
                raise BadAnswer(f"{path}: {status}: {answer[:500].decode(errors='replace')}")
            self.refused += 1
            await asyncio.sleep(self.pause(turn))
        raise Busy

    async def life(self) -> None:
        """The ten requests."""
        state = {"type": "SCHEDULED"}
        run = {"flow_id": self.flow_id, "state": state, "tags": ["bench"]}
        run_id = _read_made(await self.ask("/flow_runs/", run)).id
        for kind in ("PENDING", "RUNNING"):
            await self.ask(f"/flow_runs/{run_id}/set_state", {"state": {"type": kind}})
        for key in ("first", "second"):
            task = {"flow_run_id": run_id, "task_key": key, "dynamic_key": "0"}
            task_id = _read_made(await self.ask("/task_runs/", task)).id
            for kind in ("RUNNING", "COMPLETED"):
                await self.ask(f"/task_runs/{task_id}/set_state", {"state": {"type": kind}})
        await self.ask(f"/flow_runs/{run_id}/set_state", {"state": {"type": "COMPLETED"}})

    async def life_or_not(self) -> None:
        """The same; a run that fails for good is the server's loss."""
        try:
            await self.life()
        except Busy:
            return


def soon(turn: int) -> float:
    """A pause that suits a server with one client."""
    return random.uniform(0.005, 0.025)


def as_the_client(turn: int) -> float:
    """The pause of the real client."""
    return float(2 ** (turn + 1))


def side_of(name: str, role: Any, serve: Serve, **options: Any) -> Side:
    """A server of the Prefect API."""

    async def measure(setting: Setting) -> Figures:
        async with serve(setting) as server, connections(server.port, 1) as [first]:
            flow = encode_request("POST", "/api/flows/", {"name": "bench"})
            flow_id = _read_made(await first.call(flow)).id
            at_once = setting.case["at_once"]
            pause = soon if at_once == 1 or name != prefect.SQLITE else as_the_client
            callers = [Caller(server.port, flow_id, pause) for _ in range(at_once)]
            seconds = setting.seconds
            if pause is as_the_client:
                seconds = max(seconds, BACK_OFF_SECONDS)
            try:
                return await _load(seconds, server, callers)
            finally:
                for one in callers:
                    one.close()

    return Side(name=name, role=role, measure=measure, **options)


async def _load(seconds: float, server: Served, callers: list[Caller]) -> Figures:
    await closed_loop([one.life for one in callers[:1]], min(WARM_SECONDS, seconds))
    for one in callers:
        one.latencies.clear()
        one.refused = 0
    meter = Meter(*server.processes)
    load = await closed_loop([one.life_or_not for one in callers], seconds)
    figures = summary(load.count, load.seconds, meter.seconds(), load.latencies)
    asked = [latency for one in callers for latency in one.latencies]
    refused = sum(one.refused for one in callers)
    figures["requests_per_second"] = (len(asked) - refused) / load.seconds
    figures["request_p50_ms"] = percentile(asked, 0.5) * 1e3
    figures["request_p99_ms"] = percentile(asked, 0.99) * 1e3
    figures["refused_percent"] = 100 * refused / max(1, len(asked))
    figures["rss_mib"] = sum(process.rss() for process in server.processes)
    return figures


def at_most_16(case: Case) -> bool:
    """At 64 its SQLite side takes minutes for a few runs."""
    return bool(case["at_once"] <= 16)


ONE: Mapping[str, Any] = {"at_once": 1}
SIXTEEN: Mapping[str, Any] = {"at_once": 16}

SCENARIOS = (
    Scenario(
        name="prefect-life",
        title="Prefect API: a flow run with two tasks in ten requests",
        sides=(
            side_of("ironflow", "ours", ironflow),
            side_of(
                prefect.SQLITE,
                "peer",
                prefect.on_sqlite,
                prepare=prefect.install,
                rounds=1,
                cases=at_most_16,
            ),
            side_of(
                prefect.POSTGRES,
                "peer",
                prefect.on_postgres,
                prepare=prefect.install_with_postgres,
                rounds=1,
            ),
        ),
        columns=(
            Column(figure="per_second", title="runs/s", digits=1),
            Column(figure="requests_per_second", title="requests/s"),
            Column(figure="cpu_us", title="CPU us/run"),
            Column(figure="request_p50_ms", title="request p50 ms", digits=2),
            Column(figure="request_p99_ms", title="request p99 ms", digits=2),
            Column(figure="p50_ms", title="run p50 ms", digits=1),
            Column(figure="p99_ms", title="run p99 ms", digits=1),
            Column(figure="refused_percent", title="refused %", digits=1),
            Column(figure="rss_mib", title="RSS MiB"),
        ),
        cases=(ONE, SIXTEEN, {"at_once": 64}),
        quick=(SIXTEEN,),
        targets=(
            Target(figure="per_second", at_least=20, beside=prefect.SQLITE, case=ONE),
            Target(figure="per_second", at_least=60, beside=prefect.POSTGRES, case=SIXTEEN),
        ),
        notes="A 503 of Prefect's is tried again, after 5 to 25 ms with one caller on SQLite, as "
        "its own client does (2, 4, 8 s) with more. On SQLite Prefect commits without fsync "
        "(synchronous=NORMAL); ours is durable against power loss.",
    ),
)
