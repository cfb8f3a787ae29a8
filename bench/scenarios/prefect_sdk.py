"""Wall time of flows with five tasks under the real Prefect client, the whole way: what a user
sees. The client is a process of its own and shares the cores with the server.
"""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from environments import python_of
from harness.processes import Meter
from harness.scenario import Case, Column, Figures, Scenario, Setting, Side, Target, summary
from peers import prefect
from servers import Served, ironflow

SCRIPT = Path(__file__).resolve().parents[1] / "peers" / "prefect_flows.py"
FLOWS = 100
FLOWS_ON_SQLITE = 30
"""Its flows take seconds each."""

Serve = Callable[[Setting], AbstractAsyncContextManager[Served]]
install_client = functools.partial(python_of, "prefect")


def side_of(name: str, role: Any, serve: Serve, **options: Any) -> Side:
    """A server of the Prefect API."""

    async def measure(setting: Setting) -> Figures:
        count = setting.case["flows"]
        if name == prefect.SQLITE:
            count = min(count, FLOWS_ON_SQLITE)
        async with serve(setting) as server:
            meter = Meter(*server.processes)
            told = await _run(setting, server, count)
            figures = summary(count, told["seconds"], meter.seconds(), told["took"])
            figures["mean_ms"] = 1e3 * told["seconds"] / count
            figures["rss_mib"] = sum(process.rss() for process in server.processes)
            return figures

    return Side(name=name, role=role, measure=measure, **options)


async def _run(setting: Setting, server: Served, count: int) -> dict[str, Any]:
    url = f"http://127.0.0.1:{server.port}/api"
    script = await asyncio.create_subprocess_exec(
        install_client(),
        "-P",
        SCRIPT,
        str(count),
        str(setting.case["at_once"]),
        env=prefect.client_environment(url, setting.folder / "client"),
        cwd=setting.folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, errors = await script.communicate()
    if script.returncode:
        raise RuntimeError(f"the flows failed:\n{errors.decode(errors='replace')[-3000:]}")
    told: dict[str, Any] = json.loads(out.splitlines()[-1])
    return told


def install_sqlite() -> None:
    """Server and client."""
    prefect.install()
    install_client()


def install_postgres() -> None:
    """Server, client and cluster."""
    prefect.install_with_postgres()
    install_client()


ONE: Case = {"flows": FLOWS, "at_once": 1}

SCENARIOS = (
    Scenario(
        name="prefect-sdk",
        title="the real Prefect client: async flows of 5 tasks",
        sides=(
            side_of("ironflow", "ours", ironflow, prepare=install_client),
            side_of(
                prefect.SQLITE,
                "peer",
                prefect.on_sqlite,
                prepare=install_sqlite,
                rounds=1,
            ),
            side_of(
                prefect.POSTGRES,
                "peer",
                prefect.on_postgres,
                prepare=install_postgres,
            ),
        ),
        columns=(
            Column(figure="mean_ms", title="ms/flow"),
            Column(figure="p50_ms", title="p50 ms"),
            Column(figure="p99_ms", title="p99 ms"),
            Column(figure="per_second", title="flows/s", digits=1),
            Column(figure="cpu_us", title="server CPU us/flow"),
            Column(figure="rss_mib", title="RSS MiB"),
        ),
        cases=(ONE, {"flows": FLOWS, "at_once": 16}),
        quick=({"flows": 3, "at_once": 1},),
        rounds=2,
        targets=(
            Target(figure="per_second", at_least=5, beside=prefect.SQLITE, case=ONE),
            Target(figure="per_second", at_least=1, beside=prefect.POSTGRES, case=ONE),
        ),
        notes=f"On SQLite the real server runs {FLOWS_ON_SQLITE} flows only. Most of what is left "
        "with ours is the client's own work.",
    ),
)
