"""What a server accepts over HTTP: durable invocations and durable events, answered once they are
on the disk, while what was invoked before is executed.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from harness.load import closed_loop, connections, encode_request
from harness.processes import Meter
from harness.scenario import Case, Column, Figures, Role, Scenario, Setting, Side, Target, summary
from peers import dbos, restate
from servers import Served, bare_answer, ironflow

from ironflow.storage.maintenance.files import opened

WARM_SECONDS = 0.3

Serve = Callable[[Setting], AbstractAsyncContextManager[Served]]
Check = Callable[[Setting, int], None]
Requests = dict[str, bytes]
"""By what is sent."""

OURS: Requests = {
    "invoke": encode_request("POST", "/api/v1/functions/bench-noop/invoke", {"input": 1}),
    "emit": encode_request("POST", "/api/v1/events", {"name": "bench.told", "data": {"n": 1}}),
}


def side_of(
    name: str,
    role: Role,
    serve: Serve,
    requests: Requests,
    check: Check | None = None,
    **options: Any,
) -> Side:
    """A side that accepts these requests."""

    async def measure(setting: Setting) -> Figures:
        request = requests[setting.case["what"]]
        async with (
            serve(setting) as server,
            connections(server.port, setting.case["at_once"]) as made,
        ):
            callers: Sequence[Callable[[], Awaitable[bytes]]] = [
                functools.partial(connection.call, request) for connection in made
            ]
            warm = await closed_loop(callers, min(WARM_SECONDS, setting.seconds))
            meter = Meter(*server.processes)
            load = await closed_loop(callers, setting.seconds)
            figures = summary(load.count, load.seconds, meter.seconds(), load.latencies)
            figures["rss_mib"] = sum(process.rss() for process in server.processes)
            if check is not None:
                check(setting, warm.count + load.count)
            return figures

    def takes(case: Case) -> bool:
        return case["what"] in requests

    return Side(name=name, role=role, measure=measure, cases=takes, **options)


def check_rows(setting: Setting, accepted: int) -> None:
    """What was accepted is in the database."""
    table = {"invoke": "runs", "emit": "events"}[setting.case["what"]]
    with opened(setting.folder / "bench.db") as (connection, _):
        (stored,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    if stored != accepted:
        raise RuntimeError(f"{accepted} were accepted, {stored} are in {table}")


ECHO = encode_request("POST", "/echo", {"input": 1})

SCENARIOS = (
    Scenario(
        name="intake",
        title="invocations and events accepted over HTTP",
        sides=(
            side_of("ironflow", "ours", ironflow, OURS, check_rows),
            side_of("bare aiohttp", "ceiling", bare_answer, {"invoke": ECHO, "emit": ECHO}),
            side_of(
                restate.NAME,
                "peer",
                restate.served,
                {"invoke": encode_request("POST", "/bench/noop/send", 1)},
                prepare=restate.install,
            ),
            side_of(
                dbos.NAME,
                "peer",
                dbos.served,
                {"invoke": encode_request("POST", "/noop", {"input": 1})},
                prepare=dbos.install,
                rounds=1,
            ),
        ),
        columns=(
            Column(figure="per_second", title="accepted/s"),
            Column(figure="cpu_us", title="CPU us each", digits=0),
            Column(figure="p50_ms", title="p50 ms", digits=2),
            Column(figure="p99_ms", title="p99 ms", digits=2),
            Column(figure="rss_mib", title="RSS MiB"),
        ),
        cases=({"what": "invoke", "at_once": 64}, {"what": "emit", "at_once": 64}),
        quick=({"what": "invoke", "at_once": 8}, {"what": "emit", "at_once": 8}),
        rounds=2,
        targets=(Target(figure="per_second", at_least=2500, case={"what": "invoke"}),),
        notes="What is invoked has no step and is executed by the same process meanwhile. Neither "
        "Restate nor DBOS has events that are stored for themselves.",
    ),
)
