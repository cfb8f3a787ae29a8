"""A server whose fast path is watched, and connections to it on which a test says every byte."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from ironflow.web.fast_path import FAST_PATH, FastPath, Plain

HEAD = "Host: x\r\nContent-Type: application/json\r\n"


class Line:
    """A connection to the server under test."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def read(self) -> tuple[int, dict[str, str], bytes]:
        """The next answer: status, headers but for the date, body."""
        async with asyncio.timeout(20):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = head.rstrip("\r\n").split("\r\n")
            headers = dict(line.split(": ", 1) for line in lines)
            headers.pop("Date")
            body = await self.reader.readexactly(int(headers.get("Content-Length", 0)))
        return int(first.split(" ")[1]), headers, body

    async def ask(self, request: bytes) -> tuple[int, dict[str, str], bytes]:
        self.writer.write(request)
        return await self.read()


def encode(method: str, path: str, body: Any = None, head: str = HEAD) -> bytes:
    """A request below /api; `body` bytes as they are, else as JSON."""
    data = body if isinstance(body, bytes) else b"" if body is None else msgspec.json.encode(body)
    length = f"Content-Length: {len(data)}\r\n" if body is not None else ""
    return f"{method} /api{path} HTTP/1.1\r\n{head}{length}\r\n".encode() + data


class Site:
    """The server under test, and how many requests its fast path has taken."""

    def __init__(self, api: Any) -> None:
        self.api, self.taken, self.lines = api, 0, list[Line]()
        fast: FastPath = api.client.server.app[FAST_PATH]
        read = fast.read

        def note(data: bytes) -> Plain | int:
            found = read(data)
            self.taken += isinstance(found, Plain)
            return found

        fast.read = note  # type: ignore[method-assign]

    async def dial(self) -> Line:
        line = Line(*await asyncio.open_connection(self.api.client.host, self.api.client.port))
        self.lines.append(line)
        return line

    async def make(self, line: Line, path: str, body: Any) -> str:
        status, _, answer = await line.ask(encode("POST", path, body))
        assert status in (200, 201), answer
        made: str = msgspec.json.decode(answer)["id"]
        return made

    async def counts(self, route: str, status: int) -> bool:
        """Whether one answer of a route is counted with a status, or is before long."""
        series = f'route="{route}",status="{status}"}} 1.0'
        for _ in range(1000):
            async with self.api.client.get("/metrics") as response:
                if series in await response.text():
                    return True
        return False

    async def run(self, line: Line) -> str:
        flow = await self.make(line, "/flows/", {"name": "f"})
        return await self.make(line, "/flow_runs/", {"flow_id": flow})


async def make_key(site: Site, role: str, admin: str) -> str:
    headers = {"Authorization": f"Bearer {admin}"} if admin else {}
    body = {"name": role, "role": role}
    async with site.api.client.post("/api/v1/keys", json=body, headers=headers) as made:
        secret: str = (await made.json())["secret"]
    return secret
