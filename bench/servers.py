"""Ours as a server, and the bare HTTP server beside it: started, awaited, looked at."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import NamedTuple

from harness.load import encode_request
from harness.processes import Process, free_port, running
from harness.scenario import Setting

HERE = Path(__file__).resolve().parent
READY = encode_request("GET", "/ready", headers={"connection": "close"})
HEALTH = encode_request("GET", "/health", headers={"connection": "close"})
HEALTH_KEPT = encode_request("GET", "/health")
"""On a connection that is used again."""


class Served(NamedTuple):
    """A server that answers."""

    port: int
    processes: tuple[Process, ...]
    """What its figures are the sum of."""
    ready_s: float
    """Seconds from the start to the first healthy answer."""


def ironflow_process(
    setting: Setting, port: int, *flags: str, env: Mapping[str, str] | None = None
) -> Process:
    """`ironflow serve` with the functions of the benchmark on `setting.folder`'s database."""
    line = [sys.executable, "-m", "ironflow", "serve", str(HERE / "functions.py")]
    line += ["--port", str(port), "--db", str(setting.folder / "bench.db")]
    line += ["--durability", setting.durability, *flags]
    return Process("ironflow", line, setting.folder, env)


@contextlib.asynccontextmanager
async def ironflow(setting: Setting, *flags: str) -> AsyncIterator[Served]:
    """A server of ours that is ready, until the end of the block."""
    port = free_port()
    process = ironflow_process(setting, port, *flags)
    async with running(process):
        yield Served(port, (process,), await process.answers(port, READY))


@contextlib.asynccontextmanager
async def bare_answer(setting: Setting) -> AsyncIterator[Served]:
    """A bare aiohttp server that stores nothing (`bare_answer.py`)."""
    port = free_port()
    line = [sys.executable, str(HERE / "bare_answer.py"), str(port)]
    process = Process("bare", line, setting.folder)
    async with running(process):
        yield Served(port, (process,), await process.answers(port, HEALTH))
