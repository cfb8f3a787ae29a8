"""Starts servers of event-driven workflows: ours, and LlamaIndex's with its two stores, each with
the same workflows (`workflows_app.py`).
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from environments import python_of
from harness.load import encode_request
from harness.processes import Process, free_port, running
from harness.scenario import Setting
from servers import Served

IN_MEMORY, ON_SQLITE = "WorkflowServer (memory)", "WorkflowServer (SQLite)"
HERE = Path(__file__).resolve().parent
HEALTH = encode_request("GET", "/health", headers={"connection": "close"})

Serve = Callable[[Setting], AbstractAsyncContextManager[Served]]


@functools.cache
def install() -> Path:
    """LlamaIndex's environment. Raises `Unavailable`."""
    return python_of("llama-server")


def server_of(side: str) -> Serve:
    """What serves the side `ironflow`, `memory` or `sqlite`."""

    @contextlib.asynccontextmanager
    async def serve(setting: Setting) -> AsyncIterator[Served]:
        python = Path(sys.executable) if side == "ironflow" else install()
        port = free_port()
        env = {"BENCH_SIDE": side, "BENCH_DURABILITY": setting.durability}
        line = [python, HERE / "workflows_app.py", str(port), str(setting.folder / "bench.db")]
        process = Process("workflows", line, setting.folder, env)
        async with running(process):
            yield Served(port, (process,), await process.answers(port, HEALTH))

    return serve
