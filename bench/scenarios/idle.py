"""A server that has nothing to do: its memory and its CPU."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from harness.processes import Meter
from harness.scenario import Column, Figures, Scenario, Setting, Side, Target
from peers import dbos, restate
from servers import Served, bare_answer, ironflow

SETTLE_SECONDS = 1.0

Serve = Callable[[Setting], AbstractAsyncContextManager[Served]]


async def idle(setting: Setting, serve: Serve) -> Figures:
    """Look at it while nothing happens."""
    async with serve(setting) as server:
        await asyncio.sleep(min(SETTLE_SECONDS, setting.seconds))
        meter = Meter(*server.processes)
        await asyncio.sleep(setting.seconds)
        return {
            "rss_mib": sum(process.rss() for process in server.processes),
            "cpu_percent": meter.seconds() / setting.seconds * 100,
        }


SCENARIOS = (
    Scenario(
        name="idle",
        title="a server with nothing to do",
        sides=(
            Side(name="ironflow", role="ours", measure=functools.partial(idle, serve=ironflow)),
            Side(
                name="bare aiohttp",
                role="ceiling",
                measure=functools.partial(idle, serve=bare_answer),
            ),
            Side(
                name=restate.NAME,
                role="peer",
                measure=functools.partial(idle, serve=restate.served),
                prepare=restate.install,
            ),
            Side(
                name=dbos.NAME,
                role="peer",
                measure=functools.partial(idle, serve=dbos.served),
                prepare=dbos.install,
            ),
        ),
        columns=(
            Column(figure="rss_mib", title="RSS MiB", digits=1),
            Column(figure="cpu_percent", title="CPU %", digits=1),
        ),
        rounds=1,
        targets=(Target(figure="rss_mib", at_most=60),),
        notes="Restate with the process of its service.",
    ),
)
