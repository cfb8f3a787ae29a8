"""Answers that are written in one piece are, on the wire, what aiohttp itself would have sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from ironflow.web.whole import LONG, Whole, read_whole

LIMIT = 200_000
BODIES = {"none": b"", "short": b'{"a":1}', "long": b"x" * (3 * LONG)}


ASKED: list[str] = []
"""The paths that the present server was asked for."""


async def answer(request: web.Request) -> web.Response:
    ASKED.append(request.path)
    body, status = BODIES[request.match_info["body"]], int(request.match_info["status"])
    if request.match_info["how"] == "whole":
        response: web.Response = Whole(body, status)
    else:
        response = web.Response(body=body, status=status, content_type="application/json")
    if "close" in request.query:
        response.force_close()
    if "cookie" in request.query:
        response.set_cookie("a", "b")
    if "header" in request.query:
        response.headers["X-More"] = "yes"
    return response


async def add_header(request: web.Request, response: web.StreamResponse) -> None:
    if "late" in request.query:
        response.headers["X-Late"] = "yes"


async def echo(request: web.Request) -> web.Response:
    read = request.read() if request.match_info["how"] == "plain" else read_whole(request)
    return web.Response(body=b"%d" % len(await read))


@pytest.fixture
async def port() -> AsyncIterator[int]:
    ASKED.clear()
    app = web.Application(client_max_size=LIMIT)
    app.on_response_prepare.append(add_header)
    app.router.add_route("*", "/{how}/{body}/{status}", answer)
    app.router.add_post("/{how}/echo", echo)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield runner.addresses[0][1]
    await runner.cleanup()


async def exchange(port: int, request: str) -> bytes:
    """All that comes back on one connection, but for the dates; the server hangs up in the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    stays = "HTTP/1.1" in request and "Connection: close" not in request
    if stays or "keep-alive" in request:
        request += "GET /plain/none/200 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    writer.write(request.encode())
    found = await reader.read()
    writer.close()
    await writer.wait_closed()
    return b"\r\n".join(line for line in found.split(b"\r\n") if not line.startswith(b"Date: "))


def parts(answer: bytes) -> list[bytes]:
    """What is in an answer, whatever the order of its headers."""
    return sorted(answer.split(b"\r\n"))


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("status", [200, 201, 404, 503])
@pytest.mark.parametrize(
    ("line", "query"),
    [
        ("GET {} HTTP/1.1\r\nHost: a", ""),
        ("POST {} HTTP/1.1\r\nHost: a\r\nContent-Length: 0", ""),
        ("HEAD {} HTTP/1.1\r\nHost: a", ""),
        ("GET {} HTTP/1.1\r\nHost: a\r\nConnection: close", ""),
        ("GET {} HTTP/1.0\r\nHost: a", ""),
        ("GET {} HTTP/1.0\r\nHost: a\r\nConnection: keep-alive", ""),
        ("GET {} HTTP/1.1\r\nHost: a", "?header"),
        ("GET {} HTTP/1.1\r\nHost: a", "?late"),
        ("GET {} HTTP/1.1\r\nHost: a", "?cookie"),
        ("GET {} HTTP/1.1\r\nHost: a", "?close"),
    ],
)
async def test_the_wire_is_the_same(
    port: int, line: str, query: str, body: str, status: int
) -> None:
    whole, plain = [
        await exchange(port, f"{line.format(f'/{how}/{body}/{status}{query}')}\r\n\r\n")
        for how in ("whole", "plain")
    ]
    assert parts(whole) == parts(plain)
    assert b" %d " % status in whole[:20]


async def test_many_requests_at_once_are_answered_in_order(port: int) -> None:
    kinds = [("short", 200), ("long", 201), ("none", 404), ("short", 503)]
    lines = [
        "".join(f"GET /{how}/{body}/{status} HTTP/1.1\r\nHost: a\r\n\r\n" for body, status in kinds)
        for how in ("whole", "plain")
    ]
    whole, plain = [await exchange(port, text) for text in lines]
    assert whole == plain
    assert whole.count(b"HTTP/1.1 ") == len(kinds) + 1


async def test_a_client_that_does_not_read_is_waited_for(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
    count = 400
    request = "GET /whole/long/200 HTTP/1.1\r\nHost: a\r\n"
    writer.write(f"{request}\r\n".encode() * count + f"{request}Connection: close\r\n\r\n".encode())
    for _ in range(2000):
        await asyncio.sleep(0)
    assert 0 < len(ASKED) < count  # the rest of the answers is not kept for it in memory
    length = 0
    while data := await reader.read(1 << 20):
        length += data.count(b"x")  # of which heads have none
    writer.close()
    assert length == (count + 1) * len(BODIES["long"])


@pytest.mark.parametrize("how", ["whole", "plain"])
@pytest.mark.parametrize("size", [0, 1, 70_000, LIMIT, LIMIT + 1])
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_is_read_up_to_its_limit(
    port: int, how: str, size: int, chunked: bool
) -> None:
    data = "x" * size
    head = f"POST /{how}/echo HTTP/1.1\r\nHost: a\r\n"
    if chunked:
        pieces = [data[at : at + 9000] for at in range(0, size, 9000)]
        text = "".join(f"{len(piece):x}\r\n{piece}\r\n" for piece in pieces)
        request = f"{head}Transfer-Encoding: chunked\r\n\r\n{text}0\r\n\r\n"
    else:
        request = f"{head}Content-Length: {size}\r\n\r\n{data}"
    found = await exchange(port, request)
    status, _, body = found.partition(b"\r\n\r\n")
    expected: Any = b"200 OK" if size <= LIMIT else b"HTTP/1.1 413 "
    assert expected in status[:60]
    if size <= LIMIT:
        assert body.startswith(b"%d" % size)
