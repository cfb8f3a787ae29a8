"""DBOS behind a thin aiohttp front, in its own environment: `python dbos_app.py PORT DATABASE_URL`.

The library's defaults; async workflow and steps, one step after the other.
"""

from __future__ import annotations

import asyncio
import sys

import uvloop
from aiohttp import web
from dbos import DBOS, DBOSConfig


@DBOS.step()
async def increment(value: int) -> int:
    """The step: as little as a step can do."""
    return value + 1


@DBOS.workflow()
async def chain(length: int) -> int:
    """Steps one after the other."""
    value = 0
    for _ in range(length):
        value = await increment(value)
    return value


@DBOS.workflow()
async def noop(value: int) -> int:
    """No step at all."""
    return value


async def health(request: web.Request) -> web.Response:
    """It answers."""
    return web.json_response({})


async def run_chain(request: web.Request) -> web.Response:
    """Start and wait for the result."""
    handle = await DBOS.start_workflow_async(chain, (await request.json())["input"])
    return web.json_response({"result": await handle.get_result()})


async def send_noop(request: web.Request) -> web.Response:
    """Start, and answer as soon as that is durable."""
    body = await request.json()
    handle = await DBOS.start_workflow_async(noop, body["input"])
    return web.json_response({"id": handle.get_workflow_id()})


async def serve(port: int, url: str) -> None:
    """Until the process ends."""
    config: DBOSConfig = {"name": "bench", "system_database_url": url, "run_admin_server": False}
    DBOS(config=config)
    DBOS.launch()
    app = web.Application()
    app.router.add_get("/health", health)
    app.router.add_post("/chain", run_chain)
    app.router.add_post("/noop", send_noop)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop_runner:
        loop_runner.run(serve(int(sys.argv[1]), sys.argv[2]))
