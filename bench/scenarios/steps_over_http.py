"""Durable steps over HTTP: N callers at once, each starts a chain of ten trivial steps and waits
for its result in the same request.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec
from harness.load import Connection, closed_loop, connections, encode_request
from harness.processes import Meter
from harness.scenario import Column, Figures, Role, Scenario, Setting, Side, Target, summary
from peers import dbos, restate
from servers import Served, bare_answer, ironflow

CHAIN = 10
WARM_SECONDS = 0.5

Serve = Callable[[Setting], AbstractAsyncContextManager[Served]]


def side_of(name: str, role: Role, serve: Serve, path: str, body: object, **options: Any) -> Side:
    """A side that answers a POST of `body` at `path` with a chain's result."""
    request = encode_request("POST", path, body)

    async def measure(setting: Setting) -> Figures:
        async with serve(setting) as server:
            at_once = setting.case["at_once"]
            async with connections(server.port, at_once) as made:
                return await _load(setting, server, made, request)

    return Side(name=name, role=role, measure=measure, **options)


async def _load(
    setting: Setting, server: Served, made: list[Connection], request: bytes
) -> Figures:
    def caller(connection: Connection) -> Callable[[], Any]:
        async def call() -> None:
            answer = msgspec.json.decode(await connection.call(request))
            value = answer.get("result", CHAIN) if isinstance(answer, Mapping) else answer
            if value != CHAIN:
                raise RuntimeError(f"a chain did not come to {CHAIN}: {answer}")

        return call

    callers = [caller(connection) for connection in made]
    await closed_loop(callers[:16], min(WARM_SECONDS, setting.seconds))
    meter = Meter(*server.processes)
    load = await closed_loop(callers, setting.seconds)
    figures = summary(load.count, load.seconds, meter.seconds(), load.latencies, CHAIN)
    figures["rss_mib"] = sum(process.rss() for process in server.processes)
    return figures


SCENARIOS = (
    Scenario(
        name="steps-over-http",
        title="durable steps over HTTP, start and wait for runs of 10 steps",
        sides=(
            side_of(
                "ironflow",
                "ours",
                ironflow,
                "/api/v1/functions/bench-chain/invoke?wait=60s",
                {"input": CHAIN},
            ),
            side_of("bare aiohttp", "ceiling", bare_answer, "/echo", {"input": CHAIN}),
            side_of(
                restate.NAME,
                "peer",
                restate.served,
                "/bench/chain",
                CHAIN,
                prepare=restate.install,
            ),
            side_of(
                dbos.NAME,
                "peer",
                dbos.served,
                "/chain",
                {"input": CHAIN},
                prepare=dbos.install,
                rounds=1,
            ),
        ),
        columns=(
            Column(figure="per_second", title="steps/s"),
            Column(figure="cpu_us", title="CPU us/step", digits=1),
            Column(figure="p50_ms", title="run p50 ms", digits=2),
            Column(figure="p99_ms", title="run p99 ms", digits=2),
            Column(figure="rss_mib", title="RSS MiB"),
        ),
        cases=({"at_once": 1}, {"at_once": 16}, {"at_once": 256}),
        quick=({"at_once": 16},),
        targets=(
            Target(figure="per_second", at_least=1.5, beside=restate.NAME, case={"at_once": 1}),
            Target(figure="per_second", at_least=2, beside=restate.NAME, case={"at_once": 16}),
            Target(figure="per_second", at_least=2, beside=restate.NAME, case={"at_once": 256}),
            Target(figure="p99_ms", at_most=1, beside=restate.NAME),
        ),
        notes="The bare server answers each request at once and stores nothing; its steps are "
        "counted as if it had made them.",
    ),
)
