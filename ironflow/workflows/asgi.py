"""A workflow server as an ASGI application, for programs that have an ASGI server already.

The server itself is aiohttp's, on a port of this machine that only this process knows; requests are
handed on to it, bodies and live streams as they come.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

import aiohttp

if TYPE_CHECKING:
    from ironflow.workflows.server import WorkflowServer

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

HOP_BY_HOP = frozenset(
    {b"connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"te", b"trailer", b"expect"}
)
"""Headers that are about one connection and not handed on."""


class AsgiApp:
    """Hands requests on to a `WorkflowServer`, which it starts when it is first needed."""

    def __init__(self, server: WorkflowServer) -> None:
        self._server = server
        self._session: aiohttp.ClientSession | None = None
        self._starting = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            await self._serve(scope, receive, send)
        else:
            raise RuntimeError(f"{scope['type']} is not served here")

    async def close(self) -> None:
        """Let go of the connections to the server."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    await self._open()
                except Exception as error:
                    await send({"type": "lifespan.startup.failed", "message": str(error)})
                    raise
                await send({"type": "lifespan.startup.complete"})
            else:
                await self._server.stop()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _open(self) -> aiohttp.ClientSession:
        async with self._starting:
            if not self._server.is_started:
                await self._server.start()
            if self._session is None:
                self._session = aiohttp.ClientSession(
                    timeout=aiohttp.ClientTimeout(total=None),
                    connector=aiohttp.TCPConnector(limit=0),
                    auto_decompress=False,
                )
            return self._session

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        session = await self._open()
        path = scope.get("raw_path", scope["path"].encode()).split(b"?")[0].decode("latin-1")
        root = scope.get("root_path", "")
        if root and path.startswith(root):
            path = path[len(root) :] or "/"
        query = scope.get("query_string", b"").decode("latin-1")
        url = self._server.url + path + (f"?{query}" if query else "")
        body = await _read_body(receive)
        gone = asyncio.create_task(_wait_until_gone(receive))
        handing = asyncio.create_task(self._hand_on(session, scope, url, body, send))
        try:
            await asyncio.wait({gone, handing}, return_when=asyncio.FIRST_COMPLETED)
            if handing.done():
                handing.result()
        finally:
            for task in (gone, handing):
                task.cancel()
            await asyncio.gather(gone, handing, return_exceptions=True)

    async def _hand_on(
        self, session: aiohttp.ClientSession, scope: Scope, url: str, body: bytes, send: Send
    ) -> None:
        from yarl import URL

        headers = [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in scope["headers"]
            if name.lower() not in HOP_BY_HOP and name.lower() != b"content-length"
        ]
        request = session.request(
            scope["method"],
            URL(url, encoded=True),
            headers=headers,
            data=body or None,
            allow_redirects=False,
        )
        async with request as response:
            kept = [pair for pair in response.raw_headers if pair[0].lower() not in HOP_BY_HOP]
            start = {"type": "http.response.start", "status": response.status, "headers": kept}
            await send(start)
            async for chunk in response.content.iter_any():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _read_body(receive: Receive) -> bytes:
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return b"".join(parts)
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


async def _wait_until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
