"""The functions of the benchmark behind an endpoint: `python endpoint.py PORT SERVER_URL`."""

from __future__ import annotations

import asyncio
import sys

import functions
from aiohttp import web

from ironflow import Endpoint
from ironflow.sdk.function import registry

assert functions  # it fills the registry
endpoint = Endpoint(registry.all(), insecure=True)


async def serve(port: int, server_url: str) -> None:
    """Serve, register once that is so, and go on until killed."""
    app = web.Application(client_max_size=2**25)
    app.router.add_route("*", "/ironflow", endpoint.aiohttp)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
    await endpoint.register(f"http://127.0.0.1:{port}/ironflow", server_url, concurrency=64)
    await asyncio.Event().wait()


if __name__ == "__main__":
    try:
        import uvloop
    except ImportError:
        asyncio.run(serve(int(sys.argv[1]), sys.argv[2]))
    else:
        uvloop.run(serve(int(sys.argv[1]), sys.argv[2]))
