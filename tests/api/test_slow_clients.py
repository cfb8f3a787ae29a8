"""Clients that take their time over a request: those that say next to nothing are hung up on, all
others are waited for.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from ironflow.web import fast_path, patience

HEAD = b"POST /sum HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n"
LIMIT = 30.0


class PatientTestServer(TestServer):
    """A server with the runner that the real one has."""

    async def _make_runner(self, **options: Any) -> Any:
        return patience.PatientRunner(self.app, **options)


@pytest.fixture
async def client(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[TestClient[Any, Any]]:
    monkeypatch.setattr(patience, "HEAD_SECONDS", 0.2)
    monkeypatch.setattr(patience, "BODY_SECONDS", 0.2)
    monkeypatch.setattr(patience, "BODY_BYTES", 1000)

    async def measure(request: web.Request) -> web.Response:
        return web.Response(text=str(len(await request.read())))

    async def hold(request: web.Request) -> web.Response:
        await asyncio.sleep(0.6)
        return web.Response(text="held")

    async def echo(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(message.data)
        return socket

    app = web.Application()
    app.router.add_post("/sum", measure)
    app.router.add_get("/hold", hold)
    app.router.add_get("/echo", echo)
    async with TestClient(PatientTestServer(app)) as made:
        yield made


async def dial(client: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(client.host, client.port)


async def rest(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(LIMIT):
        try:
            return await reader.read()
        except ConnectionError:
            return b""


async def drip(writer: asyncio.StreamWriter, data: bytes) -> None:
    try:
        for byte in data:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.02)
    except OSError:
        pass


@pytest.mark.parametrize("begun", [b"", b"P", HEAD[:-2]])
async def test_a_head_that_does_not_come_is_not_waited_for(client: Any, begun: bytes) -> None:
    reader, writer = await dial(client)
    writer.write(begun)
    assert b" 408 " in await rest(reader)
    writer.close()


async def test_a_head_that_drips_is_cut_off_also_on_a_connection_that_was_used(
    client: Any,
) -> None:
    for used in (False, True):
        reader, writer = await dial(client)
        if used:
            writer.write(b"POST /sum HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab")
            await reader.readuntil(b"\r\n\r\n2")
        slow = asyncio.create_task(drip(writer, HEAD))
        answer = await rest(reader)  # what is sent on may make it be lost on the way
        assert b" 408 " in answer or not answer
        slow.cancel()
        writer.close()


@pytest.mark.parametrize("how", ["nothing", "drips"])
async def test_a_body_that_does_not_come_is_not_waited_for(client: Any, how: str) -> None:
    reader, writer = await dial(client)
    writer.write(HEAD)
    slow = asyncio.create_task(drip(writer, b"x" * 5000 if how == "drips" else b""))
    answer = await rest(reader)
    assert b" 408 " in answer or (how == "drips" and not answer)
    slow.cancel()
    writer.close()


async def test_a_body_that_keeps_coming_is_waited_for(client: Any) -> None:
    reader, writer = await dial(client)
    writer.write(HEAD)
    for _ in range(12):
        writer.write(b"x" * 5000)
        await writer.drain()
        await asyncio.sleep(0.06)
    assert b"60000" in await asyncio.wait_for(reader.readuntil(b"60000"), LIMIT)
    writer.close()


async def test_answers_that_are_held_and_connections_that_are_kept_are_left_alone(
    client: Any,
) -> None:
    reader, writer = await dial(client)
    for _ in range(2):
        writer.write(b"GET /hold HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.wait_for(reader.readuntil(b"held"), LIMIT)
        await asyncio.sleep(0.5)
    writer.close()
    async with client.ws_connect("/echo") as socket:
        for text in ("one", "two"):
            await socket.send_str(text)
            assert await socket.receive_str() == text
            await asyncio.sleep(0.5)


@pytest.mark.parametrize(
    "request_",
    [
        b"POST /sum?" + b"%0D" * 3000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /hold HTTP/1.1\r\nHost: x\r\nX-Long: " + b"y" * 20_000 + b"\r\n\r\n",
        b"GET /hold HTTP/1.1\r\nHost: x\r\nNo colon\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
    ],
)
async def test_what_is_no_request_is_answered_like_any_refusal(
    client: Any, request_: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    reader, writer = await dial(client)
    writer.write(request_)
    head, _, body = (await rest(reader)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 400 ")
    assert b"Content-Type: application/problem+json" in head
    problem = json.loads(body)
    assert problem["code"] == "bad_request"
    assert 3 < len(problem["detail"]) <= patience.LONGEST_REASON
    assert caplog.records == []  # nobody fills the log from outside
    writer.close()


async def test_an_aiohttp_that_has_changed_serves_as_it_does(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(patience, "RELIED_ON", (*patience.RELIED_ON, "_gone"))

    async def greet(request: web.Request) -> web.Response:
        return web.Response(text="hello")

    app = web.Application()
    app.router.add_get("/", greet)
    async with TestClient(PatientTestServer(app)) as client:
        assert await (await client.get("/")).text() == "hello"
    assert "has changed (_gone)" in caplog.text


def test_all_that_is_relied_on_is_looked_for() -> None:
    used = set()
    for module in (patience, fast_path):
        used |= set(re.findall(r"self\.(_[a-z_]+)", inspect.getsource(module)))
    own = {name for handler in (patience.PatientHandler, fast_path.FastHandler)
           for name in (*handler.__slots__, *vars(handler))}  # fmt: skip
    ours = {name for other in (fast_path.FastPath, fast_path.Steps) for name in
            (*re.findall(r"self\.(_[a-z_]+)", inspect.getsource(other)),)}  # fmt: skip
    assert used - own - ours - {"_kwargs", "_set_kind"} <= set(patience.RELIED_ON)
