"""A client of the workflow API that shows what came, byte for byte."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import ClientResponse, ClientSession
from workflow_server import served_app

from ironflow.workflows.server import WorkflowServer

START = {"name": "Ada"}


class Http:
    """A started server and a client."""

    def __init__(self, server: WorkflowServer, session: ClientSession) -> None:
        self.server, self.session = server, session
        self.opened: list[ClientResponse] = []

    async def ask(
        self, method: str, path: str, body: Any = None, **options: Any
    ) -> tuple[int, Any]:
        """Status and JSON; `body` is sent as JSON, bytes as they are."""
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        async with self.session.request(
            method, self.server.url + path, data=data, **options
        ) as response:
            text = await response.read()
            assert response.status < 500 or b"handler_id" in text, text
            return response.status, json.loads(text) if text else None

    async def get(self, path: str, **options: Any) -> tuple[int, Any]:
        return await self.ask("GET", path, **options)

    async def post(self, path: str, body: Any = None, **options: Any) -> tuple[int, Any]:
        return await self.ask("POST", path, body, **options)

    async def start(self, workflow: str, **fields: Any) -> str:
        """The handler of a new run."""
        status, handler = await self.post(
            f"/workflows/{workflow}/run-nowait", {"start_event": fields}
        )
        assert status == 200, handler
        return str(handler["handler_id"])

    async def stream(self, handler_id: str, query: str = "", **options: Any) -> ClientResponse:
        """The answer of a stream; its body is not read."""
        url = f"{self.server.url}/events/{handler_id}{query}"
        response = await self.session.get(url, **options)
        self.opened.append(response)
        return response

    async def events(self, handler_id: str, query: str = "", **options: Any) -> list[Any]:
        """Every event as (id, envelope), to the end of the stream."""
        response = await self.stream(handler_id, query, **options)
        assert response.status == 200, await response.text()
        frames = (await response.text()).split("\n\n")
        return [parse(frame) for frame in frames if frame and not frame.startswith(":")]


def parse(frame: str) -> tuple[int, Any]:
    """An id and an envelope; nothing else is in a frame."""
    first, second = frame.split("\n")
    assert first.startswith("id: ")
    assert second.startswith("data: ")
    return int(first[4:]), json.loads(second[6:])


class serving:  # noqa: N801 - used as a function
    """A server with the workflows of `served_app`, started."""

    def __init__(self, server: WorkflowServer) -> None:
        for name, (workflow, events) in served_app.server.entries.items():
            server.add_workflow(name, workflow, events)
        self.server = server

    async def __aenter__(self) -> Http:
        await self.server.start()
        self.session = ClientSession()
        self.http = Http(self.server, self.session)
        return self.http

    async def __aexit__(self, *facts: object) -> None:
        for response in self.http.opened:
            response.close()
        await self.session.close()
        await self.server.stop()
