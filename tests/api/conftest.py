"""A real server on a real port for each test; its client holds answers against /openapi.json."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient, TestServer
from api.fast_site import Site

import ironflow.sdk.function as sdk
from ironflow.actors.engine import Engine
from ironflow.core.clock import Clock, Ids, SystemClock
from ironflow.core.errors import NonRetryable
from ironflow.core.remote.push import Caller
from ironflow.core.runs.state import Run
from ironflow.sdk.executor import Executor
from ironflow.storage.memory.store import MemoryStore
from ironflow.storage.ports import Store
from ironflow.storage.sqlite.store import open_sqlite
from ironflow.web.app import make_app
from ironflow.web.fast_path import FastRunner

LARGE = 100_000


@dataclass
class Order:
    id: str
    amount: int


class Shelf:
    """The functions that the server under test serves, and the gate that tests open."""

    def __init__(self) -> None:
        self.registry = sdk.registry
        self.gate = asyncio.Event()
        self.entered = asyncio.Event()
        self._define()

    def _define(self) -> None:
        async def keep(value: Any) -> Any:
            return value

        async def pass_gate() -> str:
            self.entered.set()
            await self.gate.wait()
            return "through"

        def refuse() -> None:
            raise NonRetryable("never")

        async def echo(ctx: Any, value: Any) -> Any:
            """Gives back what it was given."""
            return await ctx.step.run("keep", keep, value)

        async def gated(ctx: Any) -> Any:
            await ctx.step.run("before", keep, 1)
            return await ctx.step.run("gate", pass_gate)

        async def waits(ctx: Any) -> Any:
            return (await ctx.step.wait_for_event("opened", "door.opened")).data

        async def fails(ctx: Any) -> None:
            await ctx.step.run("refuse", refuse)

        async def large(ctx: Any) -> str:
            return await ctx.step.run("build", keep, "x" * LARGE)

        async def order(ctx: Any, value: Order) -> int:
            return value.amount

        async def ticks(ctx: Any) -> None:
            return None

        sdk.function(echo, id="echo")
        sdk.function(gated, id="gated")
        sdk.function(waits, id="waits")
        sdk.function(fails, id="fails")
        sdk.function(large, id="large")
        sdk.function(order, id="order", input=Order)
        sdk.function(echo, id="on-order", on={"event": "order.>", "if": "data.amount > 10"})
        sdk.function(
            ticks, id="ticks", cron="0 3 * * *", timezone="Europe/Berlin", timeout="1h", retry=5
        )


class Contract:
    """What /openapi.json promises, asked of every answer."""

    def __init__(self, document: bytes) -> None:
        self.document = msgspec.json.decode(document)
        self.paths = [
            (re.compile(re.sub(r"\{\w+\}", "[^/]+", path)), operations)
            for path, operations in self.document["paths"].items()
        ]

    def check(self, method: str, path: str, response: ClientResponse, body: bytes) -> None:
        """The status is a documented one, the content type is its own, the body fits its schema."""
        found = [ops for pattern, ops in self.paths if pattern.fullmatch(path)]
        operation = next((ops[method.lower()] for ops in found if method.lower() in ops), None)
        if operation is None:
            schema: dict[str, Any] = {"$ref": "#/components/schemas/Problem"}
            assert response.status in (404, 405)
            assert response.content_type == "application/problem+json"
        else:
            answer = operation["responses"].get(str(response.status))
            assert answer is not None, f"{method} {path} does not document {response.status}"
            if "content" not in answer:
                assert not body
                return
            schema = answer["content"][response.content_type]["schema"]
        if response.content_type.endswith("json"):
            whole = {**schema, "components": self.document["components"]}
            jsonschema.Draft202012Validator(whole).validate(msgspec.json.decode(body))


@cache
def read_contract(document: bytes) -> Contract:
    """The same for every server that says the same of itself."""
    return Contract(document)


class Answer:
    """A response that was read: `status`, `headers`, `body` (text) and `json`."""

    def __init__(self, response: ClientResponse, body: bytes) -> None:
        self.status, self.headers = response.status, response.headers
        self.kind, self.body = response.content_type, body

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)


class Api:
    """A server under test, spoken to over HTTP."""

    def __init__(self, client: TestClient[Any, Any], engine: Engine, shelf: Shelf) -> None:
        self.client, self.engine, self.shelf = client, engine, shelf
        self.contract: Contract | None = None

    async def ask(self, method: str, path: str, **options: Any) -> Answer:
        """Send a request; the answer must be one that the API's description allows."""
        async with self.client.request(method, path, **options) as response:
            body = await response.read()
        if self.contract is None:
            async with self.client.get("/openapi.json") as described:
                self.contract = read_contract(await described.read())
        self.contract.check(method, path.partition("?")[0], response, body)
        return Answer(response, body)

    async def get(self, path: str, **options: Any) -> Answer:
        return await self.ask("GET", path, **options)

    async def post(self, path: str, body: Any = None, **options: Any) -> Answer:
        """`body` is sent as JSON; bytes are sent as they are."""
        data = body if isinstance(body, bytes | None) else msgspec.json.encode(body)
        return await self.ask("POST", path, data=data, **options)

    async def start(self, function_id: str, value: Any = None) -> str:
        """The id of a new run."""
        answer = await self.post(f"/api/v1/functions/{function_id}/invoke", {"input": value})
        assert answer.status == 201, answer.body
        run_id = answer.json["run_id"]
        assert isinstance(run_id, str)
        return run_id

    async def end(self, function_id: str, value: Any = None) -> dict[str, Any]:
        """How a new run ended."""
        path = f"/api/v1/functions/{function_id}/invoke?wait=60s"
        answer = await self.post(path, {"input": value})
        assert answer.status == 200, answer.body
        ended: dict[str, Any] = answer.json
        return ended

    async def awaited(self, run_id: str) -> None:
        """Return once somebody waits for the run's end."""
        endings, seen = self.engine.endings, asyncio.Event()
        expect = endings.expect

        def note(awaited: str) -> asyncio.Future[Run]:
            if awaited == run_id:
                seen.set()
            return expect(awaited)

        endings.expect = note  # type: ignore[method-assign]
        if run_id not in endings._waiting:
            async with asyncio.timeout(30):
                await seen.wait()
        endings.expect = expect  # type: ignore[method-assign]

    async def reach(self, run_id: str, status: str) -> Run:
        """The run once it has the status: looked at after each commit, never after a while."""
        commit = asyncio.Event()
        stop = self.engine.store.journal.subscribe(lambda entries: commit.set())
        try:
            async with asyncio.timeout(30):
                while (run := await self.engine.run(run_id)).status != status:
                    await commit.wait()
                    commit.clear()
        finally:
            stop()
        return run


Serve = Callable[..., AbstractAsyncContextManager[Api]]


class ApiServer(TestServer):
    """A server with the runner that the real one has."""

    async def _make_runner(self, **options: Any) -> Any:
        return FastRunner(self.app, **options)


@asynccontextmanager
async def serve_store(
    store: Store, *, caller: Caller | None = None, clock: Clock | None = None, **options: Any
) -> AsyncIterator[Api]:
    clock = clock or SystemClock()
    shelf, ids = Shelf(), Ids(clock)
    executor = Executor(shelf.registry, clock, ids)
    engine = Engine(store, executor, clock, ids, caller=caller)
    await engine.start()
    app = make_app(engine, version="1.2.3", started_at=clock.now(), **options)
    try:
        async with TestClient(ApiServer(app)) as client:
            yield Api(client, engine, shelf)
    finally:
        shelf.gate.set()
        engine.begin_drain()
        await executor.drain(5)
        await engine.stop()
        await store.close()


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Serve:
    """The context manager of a server over a store, with a registry of its own."""
    monkeypatch.setattr(sdk, "registry", sdk.Registry())
    return serve_store


@pytest.fixture(params=["memory", "sqlite"])
async def api(request: pytest.FixtureRequest, serve: Serve, tmp_path: Path) -> AsyncIterator[Api]:
    """The server over each kind of storage."""
    memory = request.param == "memory"
    store: Store = MemoryStore() if memory else await open_sqlite(tmp_path / "api.db")
    async with serve(store) as served:
        yield served


@pytest.fixture
async def memory_api(serve: Serve) -> AsyncIterator[Api]:
    """The server over memory, for tests that storage makes no difference to."""
    async with serve(MemoryStore()) as served:
        yield served


@pytest.fixture
async def site(serve: Any) -> AsyncIterator[Site]:
    """A server whose fast path is watched."""
    async with serve(MemoryStore()) as api:
        made = Site(api)
        yield made
        for line in made.lines:
            line.writer.close()
