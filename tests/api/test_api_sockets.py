"""Clients that do not speak HTTP as they should, on raw sockets of a real server over SQLite: slow,
cut off, endless, oversized or dishonest. Each gets a 4xx or is hung up on; none costs the others
anything.
"""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ironflow.storage.sqlite.store import open_sqlite

HEAD = b"POST /api/v1/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
EVENT = b'{"name":"socket.event","data":1}'
BODY_LIMIT = 64 * 1024
LIMIT = 30


@pytest.fixture
async def small_api(serve: Any, tmp_path: Path) -> AsyncIterator[Any]:
    """A server whose bodies must be small; at the end it must be well."""
    async with serve(await open_sqlite(tmp_path / "sockets.db"), body_limit=BODY_LIMIT) as api:
        yield api
        assert (await api.get("/ready")).status == 200
        assert (await api.end("echo", "alive"))["result"] == "alive"
        for kind, total in api.engine.system.statistics_by_kind().items():
            assert total.restarts == 0, f"an actor of kind {kind} crashed"


class Line:
    """A connection that sends what it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> bool:
        """Whether the other side still listens."""
        try:
            self.writer.write(data)
            await self.writer.drain()
        except OSError:
            return False
        return not self.reader.at_eof()

    async def rest(self) -> bytes:
        """All that comes until the server hangs up."""
        async with asyncio.timeout(LIMIT):
            try:
                return await self.reader.read()
            except OSError:
                return b""

    async def status(self) -> int:
        """Of the next answer; 0 when there is none."""
        async with asyncio.timeout(LIMIT):
            try:
                line = await self.reader.readline()
            except OSError:
                return 0
        return int(line.split()[1]) if line else 0

    def close(self) -> None:
        self.writer.transport.abort()


async def dial(api: Any) -> Line:
    return Line(*await asyncio.open_connection(api.client.host, api.client.port))


async def exchange(api: Any, data: bytes, *, whole: bool = False) -> int:
    """The status for some bytes; unless they are a whole request, the client says no more."""
    line = await dial(api)
    try:
        if await line.send(data) and not whole:
            line.writer.write_eof()
        return await line.status()
    finally:
        line.close()


async def test_hundreds_of_slow_clients_hold_nobody_up(small_api: Any) -> None:
    lines = [await dial(small_api) for _ in range(200)]
    for number, line in enumerate(lines):
        whole = HEAD + b"Content-Length: %d\r\n\r\n%s" % (len(EVENT), EVENT)
        await line.send(whole[: 1 + number % (len(whole) - 1)])
    for number in range(20):
        assert (await small_api.end("echo", number))["result"] == number
    events = (await small_api.get("/api/v1/events?name=socket.event")).json["items"]
    assert events == []
    # One that takes its time is served when it is done.
    last = lines[-1]
    sent = 1 + (len(lines) - 1) % (len(whole) - 1)
    for byte in whole[sent:]:
        await last.send(bytes([byte]))
    assert await last.status() == 201
    for line in lines:
        line.close()


@pytest.mark.parametrize("cut", [5, 40, len(HEAD) - 3, len(HEAD) + 10, len(HEAD) + 30])
async def test_half_a_request_has_no_effect(small_api: Any, cut: int) -> None:
    whole = HEAD + b"Content-Length: %d\r\n\r\n%s" % (len(EVENT), EVENT)
    assert await exchange(small_api, whole[:cut]) in (0, 400)
    assert (await small_api.get("/api/v1/events?name=socket.event")).json["items"] == []


async def test_a_client_that_hangs_up_over_its_answer_leaves_its_effect(small_api: Any) -> None:
    for number in range(50):
        line = await dial(small_api)
        body = b'{"name":"socket.event","data":%d,"idempotency_key":"k%d"}' % (number, number)
        await line.send(HEAD + b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        line.close()
    for number in range(50):  # whoever asks again with the same key finds the first or makes it
        body = {"name": "socket.event", "data": number, "idempotency_key": f"k{number}"}
        assert (await small_api.post("/api/v1/events", body)).status in (200, 201)
    events = (await small_api.get("/api/v1/events?name=socket.event&limit=200")).json["items"]
    assert len(events) == 50


@pytest.mark.parametrize(
    "head",
    [
        b"GET /ready HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 100_000 + b"\r\n\r\n",
        b"GET /ready HTTP/1.1\r\nHost: x\r\n" + b"X-Many: 1\r\n" * 20_000 + b"\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /api/v1/runs?" + b"status=failed&" * 10_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"G" * 100_000,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),  # TLS
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /ready HTTP/9.9\r\nHost: x\r\n\r\n",
        b"GET /ready\r\n\r\n",
        b"\r\n" * 10_000,
        b"\x00" * 5_000,
        b"GET /ready HTTP/1.1\r\nHost: x\r\nBad Header: 1\r\n\r\n",
        b"GET /ready HTTP/1.1\r\nHost: x\r\nX: \x00\r\n\r\n",
        b"GET /ready HTTP/1.1\r\nHost: x\r\n folded: 1\r\n\r\n",
        HEAD + b"Content-Length: -5\r\n\r\n" + EVENT,
        HEAD + b"Content-Length: 5, 6\r\n\r\n" + EVENT,
        HEAD + b"Content-Length: 99999999999999999999999\r\n\r\n" + EVENT,
        HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffffffff\r\n",
        HEAD + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: gzip\r\n\r\n" + EVENT,
    ],
    ids=range(22),
)
async def test_what_is_no_request_is_refused(small_api: Any, head: bytes) -> None:
    assert await exchange(small_api, head) in (0, *range(400, 500))


async def test_a_request_without_a_version_is_refused(small_api: Any) -> None:
    assert await exchange(small_api, b"GET /ready\r\n\r\n", whole=True) == 400


async def test_a_body_without_end_is_cut_off(small_api: Any) -> None:
    line = await dial(small_api)
    await line.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    chunk = b"1000\r\n" + b" " * 4096 + b"\r\n"
    sent = 0
    while sent < 1000 and await line.send(chunk):  # 4 MiB, for a limit of 64 KiB
        sent += 1
        if line.reader._buffer:  # type: ignore[attr-defined] # the answer is there
            break
    assert await line.status() in (0, 413)  # 0: it was hung up on before it had read its answer
    assert sent < 1000
    line.close()
    large = HEAD + b"Content-Length: %d\r\n\r\n" % (BODY_LIMIT + 1) + b" " * (BODY_LIMIT + 1)
    assert await exchange(small_api, large, whole=True) == 413


BOMB = b'{"name":"socket.event","data":"' + b"a" * 30_000_000 + b'"}'


@pytest.mark.parametrize(
    ("encoding", "body", "statuses"),
    [
        ("gzip", EVENT, range(400, 500)),
        ("deflate", EVENT, range(400, 500)),
        ("br", EVENT, range(400, 500)),
        ("zstd", EVENT, range(400, 500)),
        ("nonsense", EVENT, range(200, 500)),
        ("gzip", gzip.compress(EVENT)[:-20], range(400, 500)),
        ("gzip", gzip.compress(EVENT) + b"tail", range(200, 500)),
        ("gzip", gzip.compress(EVENT), range(200, 500)),
        ("gzip", gzip.compress(BOMB), [413]),
        ("deflate", zlib.compress(BOMB), [413]),
        ("identity", b"\xff\xfe" + EVENT, [400]),
        ("identity", EVENT.decode().encode("utf-16"), [400]),
        ("identity", b"[" * 60_000, range(400, 500)),
        ("identity", b'{"name":"a","data":' + b'{"a":' * 9_000 + b"1" + b"}" * 9_000 + b"}", [422]),
    ],
    ids=range(14),
)
async def test_encodings_are_kept_or_refused(
    small_api: Any, encoding: str, body: bytes, statuses: Any
) -> None:
    head = HEAD + b"Content-Encoding: %s\r\n" % encoding.encode()
    request = head + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    status = await exchange(small_api, request, whole=True)
    assert status in statuses


@pytest.mark.parametrize(
    ("last", "status"),
    [
        ("-1", 422), ("abc", 422), ("1e3", 422), ("9" * 400, 422), ("", 422), ("0", 200),
        ("5.5", 422), ("\u0661", 422), ("0x10", 422), ("1,2", 422), ("1 2", 422), ("9" * 15, 422),
        (" 7 ", 200),
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/api/v1/stream", "/api/v1/runs/{run}/stream"])
async def test_a_bad_last_event_id_is_refused(
    small_api: Any, last: str, status: int, path: str
) -> None:
    run_id = await small_api.start("waits")
    line = await dial(small_api)
    target = path.format(run=run_id)
    request = f"GET {target} HTTP/1.1\r\nHost: x\r\nLast-Event-ID: {last}\r\n\r\n"
    await line.send(request.encode())
    found = await line.status()
    line.close()
    assert found == status


async def test_a_reader_that_never_reads_costs_a_bounded_buffer(small_api: Any) -> None:
    line = await dial(small_api)
    await line.send(b"GET /api/v1/stream?after=0 HTTP/1.1\r\nHost: x\r\n\r\n")
    for number in range(40):
        data = {"name": "socket.event", "data": "x" * 50_000, "idempotency_key": f"n{number}"}
        assert (await small_api.post("/api/v1/events", data)).status == 201
    assert (await small_api.end("echo", 1))["result"] == 1
    line.close()


async def test_requests_in_a_row_without_waiting_are_answered_in_order(small_api: Any) -> None:
    line = await dial(small_api)
    one = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
    lost = b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n"
    last = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    await line.send((one + lost) * 100 + last)
    answer = await line.rest()
    statuses = [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]]
    line.close()
    assert statuses == [200, 404] * 100 + [200]
