"""A reader of event streams, one that stops reading, and a world that the streams tell of."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer

from ironflow.actors.engine import Engine
from ironflow.core.clock import Clock, Ids
from ironflow.core.runs.entries import RunCreated, encode_entry
from ironflow.core.values.payloads import pack
from ironflow.sdk.executor import Executor
from ironflow.sdk.function import Registry
from ironflow.storage.ports import RUNS, Batch, NewEntry, Store
from ironflow.web.feed import Feed
from ironflow.web.problems import make_middleware, note_prepared
from ironflow.web.stream import add_stream_routes

RUN = "00000000-0000-7000-8000-00000000000{}"


@dataclass
class Frame:
    """One server-sent event, parsed by the rules of the standard."""

    event: str
    data: Any
    id: str


class Reader:
    """A client of one stream."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response
        self.id = ""
        self.comments = 0

    async def frames(self) -> AsyncIterator[Frame]:
        """Frames until the stream ends."""
        event, data = "", []
        async for raw in self.response.content:
            line = raw.decode().removesuffix("\n")
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if line.startswith(":"):
                self.comments += 1
            elif name == "id":
                self.id = value
            elif name == "event":
                event = value
            elif name == "data":
                data.append(value)
            elif not line:
                if data:
                    yield Frame(event, json.loads("\n".join(data)), self.id)
                event, data = "", []

    async def take(self, count: int) -> list[Frame]:
        """The next `count` frames."""
        found: list[Frame] = []
        if count:
            async for frame in self.frames():
                found.append(frame)
                if len(found) == count:
                    break
        return found

    async def rest(self) -> list[Frame]:
        """All frames up to the end of the stream."""
        return [frame async for frame in self.frames()]


class World:
    """A server with nothing but the streams, over a store that tests write to."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self.store, self.clock = store, clock
        ids = Ids(clock)
        self.engine = Engine(store, Executor(Registry(), clock, ids), clock, ids)
        self.versions: dict[str, int] = {}
        self.feed: Feed
        self.server: TestServer
        self.session: aiohttp.ClientSession

    async def listen(self, heartbeat: float = 15.0, **bounds: int) -> None:
        """Serve; `bounds` of the feed."""
        app = web.Application(middlewares=[make_middleware(self.engine.ids)])
        app.on_response_prepare.append(note_prepared)
        self.feed = Feed(self.store.journal, self.store.reader, **bounds)
        add_stream_routes(app, self.engine, heartbeat=heartbeat, feed=self.feed)
        self.server = TestServer(app)
        await self.server.start_server()
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        timeout = aiohttp.ClientTimeout(total=None)
        self.session = aiohttp.ClientSession(
            self.server.make_url("/"), connector=connector, timeout=timeout
        )

    async def close(self) -> None:
        """Stop everything."""
        if not self.session.closed:
            await self.session.close()
        await self.server.close()
        await self.store.close()

    @asynccontextmanager
    async def stream(
        self, path: str = "/api/v1/stream", last_id: int | None = None, **query: Any
    ) -> AsyncIterator[Reader]:
        """Open a stream; it has begun when this enters."""
        headers = {} if last_id is None else {"Last-Event-ID": str(last_id)}
        async with self.session.get(path, params=query, headers=headers) as response:
            assert response.status == 200
            assert response.content_type == "text/event-stream"
            yield Reader(response)

    def entry(self, stream: str, kind: str = "step.completed", data: bytes = b"{}") -> NewEntry:
        """The next entry of a stream."""
        version = self.versions[stream] = self.versions.get(stream, 0) + 1
        return NewEntry(stream, version, self.clock.now(), kind, data)

    async def write(self, *entries: NewEntry) -> None:
        """Commit entries in one piece."""
        await self.store.journal.commit(Batch(list(entries), [], []))

    async def begin_run(self, number: int, function_id: str = "f") -> str:
        """A run with its row; the name of its stream."""
        run_id = RUN.format(number)
        payload, _ = pack(b"null")
        entry = self.entry(
            f"run/{run_id}", "run.created", encode_entry(RunCreated(function_id, payload, "h"))
        )
        await self.store.journal.commit(
            Batch([entry], [(RUNS, self.row(run_id, function_id, "running"))], [])
        )
        return f"run/{run_id}"

    def row(self, run_id: str, function_id: str, status: str) -> tuple[Any, ...]:
        now = self.clock.now()
        ended = now if status == "completed" else None
        version = self.versions[f"run/{run_id}"]
        return (
            run_id, function_id, status, 1, 1, ended, now, 1, version,
            None, None, None, None, None, None, 0, "function",
        )  # fmt: skip

    async def end_run(self, stream: str, kind: str = "run.completed") -> None:
        """The run's last entry and its row."""
        entry = self.entry(stream, kind, b'{"result":{}}')
        row = self.row(stream.removeprefix("run/"), "f", "completed")
        await self.store.journal.commit(Batch([entry], [(RUNS, row)], []))

    async def is_waiting(self, readers: int) -> None:
        """Until so many streams are open."""
        while self.feed.readers != readers:  # noqa: ASYNC110 - the feed tells nobody
            await asyncio.sleep(0.001)


def seqs(frames: list[Frame]) -> list[int]:
    return [frame.data["seq"] for frame in frames]


class Stalled(asyncio.Protocol):
    """A client on a bare socket that stops reading and later goes on."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.grown = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        self.received += data
        self.grown.set()

    async def until(self, mark: bytes) -> bytes:
        while mark not in self.received:
            self.grown.clear()
            await self.grown.wait()
        return bytes(self.received)
