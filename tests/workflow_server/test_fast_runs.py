"""Plain requests that start runs are answered by the connection itself, as aiohttp's way does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from workflow_server.http_client import Http, serving

from ironflow.actors.kernel.actor import Ref
from ironflow.actors.runs.endings import Ending, Endings
from ironflow.actors.workflows import doors
from ironflow.core.errors import StorageError, StorageFull
from ironflow.core.runs.state import Run
from ironflow.web.fast_path import FAST_PATH, FastPath, Plain
from ironflow.workflows.server import WorkflowServer

CASES = {
    "completed": ("greet/run", {"start_event": {"name": "Ada"}}),
    "fields": ("checkout/run", {"start_event": {"value": {"item": "tea", "amount": 2}}}),
    "failed": ("fails/run", {}),
    "timed-out": ("dozes/run", {}),
    "begun": ("gate/run-nowait", {}),
    "conflict": ("gate/run", {"handler_id": "taken"}),
    "no-fit": ("checkout/run", {"start_event": {"amount": "much"}}),
    "no-event": ("checkout/run", {"start_event": {"type": "Order"}}),
    "no-object": ("greet/run-nowait", []),
    "no-json": ("greet/run", b"{"),
    "nowhere": ("nowhere/run", {}),
    "odd-name": ("greet/run", {"handler_id": 7}),
}
TIMES = ("handler_id", "run_id", "started_at", "updated_at", "completed_at")


class Line:
    """A connection, and how many of its requests took the fast path."""

    def __init__(self, http: Http) -> None:
        server: Any = http.server._server
        self.port, self.engine, self.taken = server.port, server.engine, 0
        self.fast: FastPath = server._runner.app[FAST_PATH]
        read = self.fast.read

        def note(data: bytes) -> Plain | int:
            found = read(data)
            self.taken += isinstance(found, Plain)
            return found

        self.fast.read = note  # type: ignore[method-assign]

    async def open(self) -> Line:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        return self

    def send(self, path: str, body: Any, head: str = "") -> None:
        data = body if isinstance(body, bytes) else msgspec.json.encode(body)
        lines = (
            f"POST /workflows/{path} HTTP/1.1\r\nHost: x\r\n{head}Content-Length: {len(data)}\r\n"
        )
        self.writer.write(lines.encode() + b"\r\n" + data)

    async def ask(self, path: str, body: Any, head: str = "") -> tuple[str, dict[str, str], Any]:
        """Status line, headers but for the date, and the body without what differs each time."""
        self.send(path, body, head)
        async with asyncio.timeout(20):
            first, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
            headers = dict(line.split(": ", 1) for line in lines)
            text = await self.reader.readexactly(int(headers.pop("Content-Length")))
        headers.pop("Date")
        found = msgspec.json.decode(text)
        return first, headers, {k: v for k, v in found.items() if k not in TIMES}


@pytest.fixture
async def line() -> AsyncIterator[Line]:
    async with serving(WorkflowServer(db="memory")) as http:
        opened = await Line(http).open()
        yield opened
        opened.writer.close()


@pytest.mark.parametrize("case", CASES)
async def test_the_answer_is_the_one_that_aiohttp_gives(line: Line, case: str) -> None:
    path, body = CASES[case]
    await line.ask("gate/run-nowait", {"handler_id": "taken"})
    slow = await line.ask(path, body, "Origin: http://x\r\n")
    for name in ("Access-Control-Allow-Origin", "Access-Control-Allow-Credentials", "Vary"):
        slow[1].pop(name)
    await line.ask(path, body)
    taken = line.taken
    assert await line.ask(path, body) == slow
    assert line.taken == taken + 1


async def test_a_caller_who_hangs_up_ends_the_wait_and_not_the_run(line: Line) -> None:
    await line.ask("gate/run-nowait", {"handler_id": "here"})  # its head comes again
    line.send("gate/run", {"handler_id": "wait"})
    waiting, workflows = line.engine.endings._waiting, line.engine.workflows
    async with asyncio.timeout(20):
        while not waiting:  # noqa: ASYNC110 - nobody is told of it
            await asyncio.sleep(0.001)
        line.writer.close()
        while waiting:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    assert line.taken
    assert (await workflows.handler("wait")).status in ("running", "waiting")


async def test_where_keys_are_asked_for_a_run_that_is_waited_for_is_counted_elsewhere(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate: Any = line.fast._gate
    await line.ask("greet/run", {})
    await line.ask("greet/run", {})
    assert line.taken == 1
    monkeypatch.setattr(type(gate), "asks_for_keys", True)
    await line.ask("greet/run", {})
    assert line.taken == 1


@pytest.mark.parametrize("route", ["greet/run", "greet/run-nowait"])
async def test_a_run_that_cannot_be_stored_is_refused_and_leaves_nothing(
    line: Line, monkeypatch: pytest.MonkeyPatch, route: str
) -> None:
    await line.ask(route, {})  # its head comes again
    taken, before = line.taken, await line.engine.workflows.handlers()
    waiting, fresh = line.engine.endings._waiting, line.engine.environment.fresh
    fault: dict[str, Any] = {"error": StorageFull()}
    monkeypatch.setattr(line.engine.store.journal, "fault", lambda _: fault["error"])
    for body in ({}, {"handler_id": "mine"}):
        first, headers, answer = await line.ask(route, body)
        assert first == "HTTP/1.1 507 Insufficient Storage"
        assert "disk is full" in answer["detail"]
        assert headers["Retry-After"]
    fault["error"] = StorageError("the disk is gone")
    assert (await line.ask(route, {}))[0] == "HTTP/1.1 503 Service Unavailable"
    fault["error"] = None
    assert not waiting
    assert not fresh
    assert await line.engine.workflows.handlers() == before
    assert (await line.ask(route, {"handler_id": "mine"}))[0] == "HTTP/1.1 200 OK"
    line.engine.begin_drain()
    assert (await line.ask(route, {}))[0] == "HTTP/1.1 503 Service Unavailable"
    assert line.taken == taken + 5


async def test_a_run_that_is_not_stored_in_time_is_refused(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    await line.ask("greet/run", {})  # its head comes again
    monkeypatch.setattr(doors, "CREATION_SECONDS", 0.01)
    monkeypatch.setattr(Ref, "send", lambda *_, **__: None)  # whoever creates it never answers
    for _ in range(2):
        first, _, answer = await line.ask("greet/run", {})
        assert (first, "in time" in answer["detail"]) == ("HTTP/1.1 503 Service Unavailable", True)
    assert not line.engine.endings._waiting


async def test_callers_who_ask_ahead_are_answered_in_order_while_runs_end(line: Line) -> None:
    """Each is answered by the end of its run, in the middle of which the next run begins."""
    await line.ask("greet/run", {})
    names = [f"n{number}" for number in range(40)]
    for name in names:
        line.send("greet/run", {"start_event": {"name": name}})
    found = []
    async with asyncio.timeout(20):
        for _ in names:
            head = (await line.reader.readuntil(b"\r\n\r\n")).decode()
            length = int(head.split("Content-Length: ")[1].split("\r\n")[0])
            found.append(msgspec.json.decode(await line.reader.readexactly(length)))
    assert [each["status"] for each in found] == ["completed"] * len(names)
    for name, each in zip(names, found, strict=True):
        assert each["result"]["value"] == {"result": f"HELLO {name.upper()}"}


async def test_one_who_waits_for_an_end_and_breaks_keeps_it_from_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    endings = Endings()
    broken, sound = endings.expect("r1"), endings.expect("r1")

    def tell(_: Ending) -> None:
        raise ValueError("the connection is in pieces")

    broken.tell(tell)
    run = Run("r1")
    endings.publish(run)
    assert await sound is run
    assert "the connection is in pieces" in caplog.text


async def test_a_wait_that_is_given_up_as_the_run_ends_is_told_once() -> None:
    endings, told = Endings(), list[bool]()
    gone, early = endings.expect("r1"), endings.expect("r2")
    gone.tell(lambda future: told.append(future.cancelled()))
    gone.cancel()
    endings.publish(Run("r1"))
    early.tell(lambda future: told.append(future.cancelled()))
    endings.publish(Run("r2"))
    early.cancel()
    assert told == [False]  # at once; of a wait that is given up its owner hears on the next turn
    await asyncio.sleep(0)
    assert told == [False, True]
