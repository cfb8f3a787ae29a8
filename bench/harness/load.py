"""The load generator of all scenarios: a closed loop of callers, and an HTTP/1.1 client that costs
little of the cores that it shares with what is measured (a third of aiohttp's).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import cast

import msgspec

Operation = Callable[[], Awaitable[object]]


@dataclass(slots=True)
class Load:
    """What a load came to."""

    seconds: float = 0.0
    """From the first begin to the last end."""
    latencies: list[float] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Operations that ended."""
        return len(self.latencies)


async def closed_loop(operations: list[Operation], seconds: float) -> Load:
    """Each operation again and again, all at once, none begun after `seconds`.

    The first failure ends it and is raised.
    """
    load = Load()
    began = time.perf_counter()
    end = began + seconds

    async def caller(operation: Operation) -> None:
        while (start := time.perf_counter()) < end:
            await operation()
            load.latencies.append(time.perf_counter() - start)

    try:
        async with asyncio.TaskGroup() as group:
            for operation in operations:
                group.create_task(caller(operation))
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    load.seconds = time.perf_counter() - began
    return load


class BadAnswer(Exception):
    """A request was refused."""


class HungUp(BadAnswer):
    """The server has closed the connection."""


class Connection(asyncio.Protocol):
    """A kept-alive connection; one request at a time."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._needed = 0
        self._waiter: asyncio.Future[tuple[int, bytes]] | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's has another base

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) < self._needed:
            return  # a long answer is looked into when it begins and when it is there
        try:
            answer, self._needed = parse_answer(self._buffer)
        except ValueError as error:
            self._fail(BadAnswer(f"not HTTP: {error}"))
            return
        if answer is not None and self._waiter is not None:
            self._buffer = bytearray()
            waiter, self._waiter = self._waiter, None
            if not waiter.done():
                waiter.set_result(answer)

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(HungUp(f"the connection was closed: {error}"))

    @property
    def is_closed(self) -> bool:
        """Whether nothing can be asked any more."""
        return self._transport is None or self._transport.is_closing()

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Status and body of the answer. Raises `HungUp`."""
        if self.is_closed:
            raise HungUp("the connection is closed")
        assert self._transport is not None
        self._waiter = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._waiter

    async def call(self, request: bytes) -> bytes:
        """The body of an answer below 400. Raises `BadAnswer`."""
        status, body = await self.ask(request)
        if status >= 400:
            raise BadAnswer(f"{status}: {body[:500].decode(errors='replace')}")
        return body

    def close(self) -> None:
        """Hang up."""
        self._waiter = None
        if self._transport is not None:
            self._transport.close()

    def _fail(self, error: Exception) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_exception(error)


@contextlib.asynccontextmanager
async def connections(port: int, count: int) -> AsyncIterator[list[Connection]]:
    """So many connections to a port of this machine."""
    loop = asyncio.get_running_loop()
    made: list[Connection] = []
    try:
        while len(made) < count:
            _, connection = await loop.create_connection(Connection, "127.0.0.1", port)
            made.append(connection)
        yield made
    finally:
        for connection in made:
            connection.close()


def encode_request(
    method: str, path: str, body: object = None, headers: dict[str, str] | None = None
) -> bytes:
    """A request as it goes over the wire; `body` becomes JSON, None is no body."""
    data = b"" if body is None else msgspec.json.encode(body)
    lines = [f"{method} {path} HTTP/1.1", "host: 127.0.0.1"]
    if body is not None:
        lines += ["content-type: application/json", f"content-length: {len(data)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode() + data


def parse_answer(buffer: bytearray) -> tuple[tuple[int, bytes] | None, int]:
    """Status and body, None while there is more to come; and how many bytes are needed for it, 0
    where that is not known. Raises `ValueError`.
    """
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        return None, 0
    status = int(buffer[9:12])
    fields = buffer[:end].lower()
    start = end + 4
    at = fields.find(b"\r\ncontent-length:")
    if at >= 0:
        needed = start + int(fields[at + 17 :].split(b"\r\n", 1)[0])
        if len(buffer) < needed:
            return None, needed
        with memoryview(buffer) as view:
            return (status, bytes(view[start:needed])), 0
    if b"\r\ntransfer-encoding: chunked" in fields:
        body = _join_chunks(bytes(buffer[start:]))
        return (None if body is None else (status, body)), 0
    if status in (204, 304):
        return (status, b""), 0
    raise ValueError("an answer of no known length")


def _join_chunks(rest: bytes) -> bytes | None:
    body = []
    while True:
        size, gap, rest = rest.partition(b"\r\n")
        if not gap:
            return None
        length = int(size.split(b";")[0], 16)
        if len(rest) < length + 2:
            return None
        if not length:
            return b"".join(body)
        body.append(rest[:length])
        rest = rest[length + 2 :]
