"""A whole server on a file, with keys of it by name, as `ironflow serve` runs it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

import ironflow.sdk.function as sdk
from ironflow.server import Server
from ironflow.settings import Settings


class Answer:
    def __init__(self, status: int, headers: Any, body: bytes) -> None:
        self.status, self.headers, self.text = status, headers, body.decode("utf-8", "replace")

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.text)


class Served:
    """A server, and keys of it by name."""

    def __init__(self, server: Server, session: aiohttp.ClientSession) -> None:
        self.server, self.session = server, session
        self.keys: dict[str, str] = {}

    async def ask(
        self, method: str, path: str, key: str, body: Any = None, **headers: str
    ) -> Answer:
        """`key` is a name of `keys`; headers with `_` for `-`."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if key in self.keys:
            sent["Authorization"] = f"Bearer {self.keys[key]}"
        async with self.session.request(
            method, self.server.url + path, json=body, headers=sent, allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=30),
        ) as response:  # fmt: skip
            if response.content_type == "text/event-stream":
                data = await response.content.read(4096)
            else:
                data = await response.read()
            return Answer(response.status, response.headers, data)

    async def made(self, method: str, path: str, key: str, body: Any, **headers: str) -> Any:
        answer = await self.ask(method, path, key, body, **headers)
        assert answer.status in (200, 201), (path, answer.text)
        return answer.json

    async def key(self, name: str, role: str, environment: str | None) -> None:
        made = await self.made(
            "POST", "/api/v1/keys", "root", {"name": name, "role": role, "environment": environment}
        )
        self.keys[name] = made["secret"]


@asynccontextmanager
async def serving(
    tmp_path: Path, *functions: sdk.Function, **settings: Any
) -> AsyncIterator[Served]:
    """A server with an admin's key `root`, and on a database that has been there before."""
    registry = sdk.Registry()
    for function in functions:
        registry.add(function)
    key = tmp_path / "admin.key"
    values: dict[str, Any] = {
        "port": 0,
        "db": str(tmp_path / "app.db"),
        "auth": "required",
        "push_networks": "127.0.0.0/8",
        "blocked_after": 0,
    }
    if not key.exists():
        values["bootstrap_key_file"] = str(key)
    server = Server(Settings(**(values | settings)), registry)
    await server.start()
    try:
        async with aiohttp.ClientSession() as session:
            served = Served(server, session)
            served.keys["root"] = key.read_text().strip()
            yield served
    finally:
        await server.stop(grace=0)
