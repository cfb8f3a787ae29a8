"""`POST /flow_runs/filter` with limit 200 over many stored runs: what a Prefect dashboard asks."""

from __future__ import annotations

import asyncio
import sqlite3
import uuid
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import msgspec
from harness.load import BadAnswer, Connection, closed_loop, connections, encode_request
from harness.processes import Meter
from harness.scenario import Column, Figures, Scenario, Setting, Side, Target, summary
from peers import prefect
from servers import Served, ironflow

LIMIT = 200
FILLERS = 32
QUESTION = {
    "sort": "EXPECTED_START_TIME_DESC",
    "limit": LIMIT,
    "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}},
}
Serve = Callable[[Setting], AbstractAsyncContextManager[Served]]


async def fill_over_http(server: Served, count: int) -> None:
    """So many completed runs, each by a request of its own."""
    async with connections(server.port, min(FILLERS, count)) as made:
        flow = encode_request("POST", "/api/flows/", {"name": "bench"})
        flow_id = msgspec.json.decode(await made[0].call(flow))["id"]
        run = {"flow_id": flow_id, "state": {"type": "COMPLETED"}, "parameters": {"n": 1}}
        request = encode_request("POST", "/api/flow_runs/", run)

        async def fill(connection: Connection, share: int) -> None:
            while share:
                status, answer = await connection.ask(request)
                if status not in (201, 503):  # 503: the real server's database was locked
                    raise BadAnswer(answer[:500].decode(errors="replace"))
                share -= status == 201

        many = len(made)
        shares = [count // many + (number < count % many) for number in range(many)]
        await asyncio.gather(*map(fill, made, shares))


def copy_run(database: Path, run_id: str, count: int) -> None:
    """Copies of a run and its state in the real server's database, its answers as if they had
    been made one by one; over HTTP a hundred thousand would take half an hour.
    """
    with sqlite3.connect(database) as connection:
        for table, owner in (("flow_run", "id"), ("flow_run_state", "flow_run_id")):
            columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            [row] = connection.execute(f"SELECT * FROM {table} WHERE {owner} = ?", (run_id,))
            original = dict(zip(columns, row, strict=True))
            places = ", ".join("?" * len(columns))
            connection.executemany(
                f"INSERT INTO {table} VALUES ({places})",
                (_copy(original, table, number) for number in range(count - 1)),
            )


def _copy(original: dict[str, Any], table: str, number: int) -> list[Any]:
    run, state = (str(uuid.UUID(int=(kind << 100) + number)) for kind in (1, 2))
    changed = dict(original)
    if table == "flow_run":
        changed |= {"id": run, "state_id": state, "idempotency_key": None, "name": f"run-{number}"}
    else:
        changed |= {"id": state, "flow_run_id": run}
    return list(changed.values())


def side_of(name: str, role: Any, serve: Serve, *, real: bool, **options: Any) -> Side:
    """A server of the Prefect API with the runs stored."""

    async def measure(setting: Setting) -> Figures:
        count = setting.case["stored"]
        async with serve(setting) as server:
            await fill_over_http(server, 1 if real else count)
            if real:
                home = setting.folder / "home" / "prefect.db"
                with sqlite3.connect(home) as connection:
                    [(run_id,)] = connection.execute("SELECT id FROM flow_run").fetchall()
                copy_run(home, run_id, count)
            async with connections(server.port, setting.case["at_once"]) as made:
                return await _load(setting, server, made)

    return Side(name=name, role=role, measure=measure, **options)


async def _load(setting: Setting, server: Served, made: list[Connection]) -> Figures:
    request = encode_request("POST", "/api/flow_runs/filter", QUESTION)
    expected = min(LIMIT, setting.case["stored"])
    answer = msgspec.json.decode(await made[0].call(request))
    if len(answer) != expected:
        raise RuntimeError(f"{len(answer)} runs were found, not {expected}")

    def caller(connection: Connection) -> Callable[[], Any]:
        return lambda: connection.call(request)

    meter = Meter(*server.processes)
    load = await closed_loop([caller(one) for one in made], setting.seconds)
    figures = summary(load.count, load.seconds, meter.seconds(), load.latencies)
    figures["rss_mib"] = sum(process.rss() for process in server.processes)
    return figures


SCENARIOS = (
    Scenario(
        name="prefect-filter",
        title="Prefect API: 200 of many flow runs by a filter",
        sides=(
            side_of("ironflow", "ours", ironflow, real=False, rounds=1),
            side_of(
                prefect.SQLITE,
                "peer",
                prefect.on_sqlite,
                real=True,
                prepare=prefect.install,
                rounds=1,
            ),
        ),
        columns=(
            Column(figure="per_second", title="requests/s", digits=1),
            Column(figure="cpu_us", title="CPU us/request"),
            Column(figure="p50_ms", title="p50 ms", digits=2),
            Column(figure="p99_ms", title="p99 ms", digits=2),
            Column(figure="rss_mib", title="RSS MiB"),
        ),
        cases=(
            {"stored": 10_000, "at_once": 1},
            {"stored": 100_000, "at_once": 1},
            {"stored": 10_000, "at_once": 16},
        ),
        quick=({"stored": 300, "at_once": 1},),
        targets=(
            Target(
                figure="per_second",
                at_least=30,
                beside=prefect.SQLITE,
                case={"stored": 10_000},
            ),
            Target(figure="p50_ms", at_most=10, case={"stored": 100_000}),
        ),
        notes="The real server's runs are copies of one, put into its database; ours were created "
        "one by one over HTTP.",
    ),
)
