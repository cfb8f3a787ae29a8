"""The ceiling of HTTP: an aiohttp server that reads a JSON body and answers with it, or
sends it to the readers of its stream, and stores nothing. `python bare_answer.py PORT`.
"""

from __future__ import annotations

import asyncio
import sys

import orjson
import uvloop
from aiohttp import web


async def health(request: web.Request) -> web.Response:
    """Always well."""
    return web.Response(body=b"{}", content_type="application/json")


async def echo(request: web.Request) -> web.Response:
    """What came."""
    body = orjson.dumps(orjson.loads(await request.read()))
    return web.Response(body=body, content_type="application/json")


READERS: set[web.StreamResponse] = set()


async def stream(request: web.Request) -> web.StreamResponse:
    """Server-sent events: what is emitted from now on."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    await response.write(b": hello\n\n")
    READERS.add(response)
    try:
        await asyncio.Event().wait()
    finally:
        READERS.discard(response)
    return response


async def emit(request: web.Request) -> web.Response:
    """A frame for every reader."""
    frame = b"data: %s\n\n" % orjson.dumps(orjson.loads(await request.read()))
    for reader in list(READERS):
        await reader.write(frame)
    return web.Response(body=b"{}", content_type="application/json")


async def serve(port: int) -> None:
    """Until the process ends."""
    app = web.Application()
    app.router.add_get("/health", health)
    app.router.add_post("/echo", echo)
    app.router.add_get("/stream", stream)
    app.router.add_post("/emit", emit)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop_runner:
        loop_runner.run(serve(int(sys.argv[1])))
