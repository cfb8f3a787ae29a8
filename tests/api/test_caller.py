"""What the server sends to endpoints, over real sockets: which addresses it refuses, what it
follows and how much it reads.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from ironflow.core.clock import SystemClock
from ironflow.core.remote.push import CallFailure
from ironflow.core.remote.signatures import HEADER, Key, verify
from ironflow.web import caller as module
from ironflow.web.caller import Allowance, HttpCaller, Refused, check_url

LOOPBACK = ["127.0.0.0/8", "::1/128"]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def answering(handler: Handler) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", handler)
    async with TestServer(app) as server:
        yield str(server.make_url("/"))


@asynccontextmanager
async def calling(networks: list[str], key: str | None = None) -> AsyncIterator[HttpCaller]:
    caller = HttpCaller(SystemClock(), Allowance(networks), [Key(key)] if key else ())
    try:
        yield caller
    finally:
        await caller.close()


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "192.168.0.1", "172.16.0.1", "169.254.169.254", "0.0.0.0",
        "100.64.0.1", "224.0.0.1", "::1", "fe80::1%eth0", "fc00::1", "::ffff:127.0.0.1",
        "::ffff:10.0.0.1", "240.0.0.1", "64:ff9b::169.254.169.254", "64:ff9b::a00:1",
        "2002:7f00:1::", "2002:a9fe:a9fe::1", "2001:0:7f00:1::",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public_are_refused(address: str) -> None:
    with pytest.raises(Refused, match="not a public address"):
        Allowance().check(address)


def test_public_and_allowed_addresses_pass() -> None:
    for address in ("1.1.1.1", "2606:4700::1111", "64:ff9b::1.1.1.1"):
        Allowance().check(address)
    allowed = Allowance(["10.1.0.0/16", "::1/128"])
    allowed.check("10.1.2.3")
    allowed.check("::1")
    with pytest.raises(Refused):
        allowed.check("10.2.0.1")
    with pytest.raises(ValueError, match="network"):
        Allowance(["everything"])


async def test_a_request_is_signed_and_its_answer_comes_back() -> None:
    seen: list[tuple[bytes, str | None]] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append((await request.read(), request.headers.get(HEADER)))
        return web.Response(status=503, body=b"later", headers={"Retry-After": "7"})

    async with answering(handler) as url, calling(LOOPBACK, "key") as caller:
        reply = await caller.call(url, b'{"n":1}', 5)
    assert (reply.status, reply.body, reply.retry_after) == (503, b"later", 7.0)
    ((body, header),) = seen
    verify(header, body, {"": "key"}, SystemClock().now() / 1e6)


async def test_the_address_that_a_name_stands_for_is_what_counts() -> None:
    called = False

    async def handler(request: web.Request) -> web.Response:
        nonlocal called
        called = True
        return web.Response()

    async with answering(handler) as url, calling([]) as caller:
        for target in (url, url.replace("127.0.0.1", "localhost")):
            with pytest.raises(CallFailure, match="not a public address"):
                await caller.call(target, b"{}", 5)
    assert not called


async def test_redirects_are_not_followed_and_answers_are_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "LARGEST_ANSWER", 1000)
    paths: list[str] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        paths.append(request.path)
        if request.path == "/redirect":
            raise web.HTTPTemporaryRedirect("/elsewhere")
        if request.path == "/large":
            return web.Response(body=b"x" * 1001)
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(100):
            await response.write(b"x" * 100)
        return response

    async with answering(handler) as url, calling(LOOPBACK) as caller:
        with pytest.raises(CallFailure, match="redirects are not followed"):
            await caller.call(url + "redirect", b"{}", 5)
        for path in ("large", "endless"):
            with pytest.raises(CallFailure, match="more than 1000 bytes"):
                await caller.call(url + path, b"{}", 5)
    assert "/elsewhere" not in paths


async def test_who_does_not_answer_is_left_and_who_is_not_there_is_named() -> None:
    release = asyncio.Event()

    async def handler(request: web.Request) -> web.Response:
        await release.wait()
        return web.Response()

    async with answering(handler) as url, calling(LOOPBACK) as caller:
        with pytest.raises(CallFailure, match=r"within 0\.05 s"):
            await caller.call(url, b"{}", 0.05)
        release.set()
    async with calling(LOOPBACK) as caller:
        with pytest.raises(CallFailure, match="cannot be reached"):
            await caller.call(url, b"{}", 5)


@pytest.mark.parametrize(
    "url",
    ["", "ftp://x/", "http://", "http://u:p@example.com/", "http://x:99999/", "//x", "http://[::1"],
)
def test_what_is_no_url_is_said(url: str) -> None:
    with pytest.raises(ValueError, match="URL"):
        check_url(url)
