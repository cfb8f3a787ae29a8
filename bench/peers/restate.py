"""Starts Restate (npm `@restatedev/restate-server`) with a service on its Node SDK: a single node,
its defaults, so WAL fsync on.
"""

from __future__ import annotations

import contextlib
import functools
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

from environments import Unavailable, node_of
from harness.load import connections, encode_request
from harness.processes import Process, free_port, running
from harness.scenario import Setting
from servers import Served

NAME = "Restate (Node SDK)"
HERE = Path(__file__).resolve().parent
INGRESS_HEALTH = encode_request("GET", "/restate/health", headers={"connection": "close"})
ADMIN_HEALTH = encode_request("GET", "/health", headers={"connection": "close"})


@functools.cache
def install() -> Path:
    """Its environment. Raises `Unavailable`."""
    if shutil.which("node") is None:
        raise Unavailable("node is not installed")
    return node_of("restate")


def server_process(setting: Setting, ingress: int, admin: int) -> Process:
    """The server; its binary is in the npm package of the platform."""
    folder = install() / "node_modules" / "@restatedev"
    binary = next(folder.glob("restate-server-*/bin/restate-server"), None)
    if binary is None:
        raise Unavailable("the npm package has no binary for this platform")
    env = {
        "RESTATE_BASE_DIR": str(setting.folder / "restate-data"),
        "RESTATE_INGRESS__BIND_PORT": str(ingress),
        "RESTATE_ADMIN__BIND_PORT": str(admin),
        "RESTATE_BIND_PORT": str(free_port()),
        "RESTATE_BIND_IP": "127.0.0.1",
        "RESTATE_LISTEN_MODE": "tcp",
        "RESTATE_LOG_FILTER": "warn",
        "RESTATE_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "1",
    }
    return Process("restate", [binary, "--no-logo"], setting.folder, env)


def service_process(setting: Setting, port: int) -> Process:
    """The service."""
    env = {"PEER_FOLDER": str(install()), "NODE_ENV": "production", "RESTATE_LOGGING": "ERROR"}
    line = [shutil.which("node") or "node", HERE / "restate_service.mjs", str(port)]
    return Process("service", line, setting.folder, env)


@contextlib.asynccontextmanager
async def served(setting: Setting) -> AsyncIterator[Served]:
    """Restate that is healthy and knows its service, until the end of the block."""
    ingress, admin, port = free_port(), free_port(), free_port()
    service = service_process(setting, port)
    server = server_process(setting, ingress, admin)
    async with running(service, server):
        ready = await server.answers(ingress, INGRESS_HEALTH)
        await server.answers(admin, ADMIN_HEALTH)
        async with connections(admin, 1) as (connection,):
            await connection.call(
                encode_request("POST", "/deployments", {"uri": f"http://127.0.0.1:{port}"})
            )
        yield Served(ingress, (server, service), ready)
