"""Our client at a server that goes away and comes back: streams go on behind the last event, calls
are made again after growing pauses, and nothing is done twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import ClientConnectorError
from workflow_server import served_app

from ironflow.workflows import client as module
from ironflow.workflows.client import FIRST_PAUSE, LONGEST_PAUSE, WorkflowClient
from ironflow.workflows.server import WorkflowServer

Act = Callable[[int], Awaitable[None]]


class Pauses:
    """Takes the place of the client's sleep: notes how long it would, and lets things happen."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds: list[float] = []
        self.act: Act | None = None
        names = {name: getattr(asyncio, name) for name in dir(asyncio)}
        monkeypatch.setattr(module, "asyncio", SimpleNamespace(**{**names, "sleep": self.sleep}))

    async def sleep(self, seconds: float) -> None:
        self.seconds.append(seconds)
        if self.act is not None:
            await self.act(len(self.seconds))


def make_server(folder: Path) -> WorkflowServer:
    server = WorkflowServer(db=str(folder / "own.db"))
    server.add_workflow("greet", served_app.Greet())
    server.add_workflow("gate", served_app.Gate(timeout=None))
    return server


async def test_a_stream_goes_on_when_the_server_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, pauses = make_server(tmp_path), make_server(tmp_path), Pauses(monkeypatch)
    await first.start()
    port = int(first.url.rpartition(":")[2])

    async def come_back(count: int) -> None:
        if count == 7:
            await second.start(port=port)

    async with WorkflowClient(first.url) as client:
        handler = await client.run_workflow_nowait("gate", start_event={"ticks": 3})
        stream = client.get_workflow_events(handler.handler_id)
        events = aiter(stream)
        seen = [(await anext(events)).value["done"] for _ in range(3)]
        await first.stop()
        pauses.act = come_back
        rest = asyncio.ensure_future(anext(events))
        while not second.is_started:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0)
        await client.send_event(handler.handler_id, served_app.Go(word="open"))
        assert (await rest).value == {"result": "open"}
        assert [event async for event in events] == []
    await second.stop()
    assert seen == [0, 1, 2]
    longest = [min(LONGEST_PAUSE, FIRST_PAUSE * 2**n) for n in range(7)]
    for pause, most in zip(pauses.seconds, longest, strict=False):
        assert most / 2 <= pause <= most


async def test_calls_wait_for_a_server_and_give_up_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, pauses = make_server(tmp_path), make_server(tmp_path), Pauses(monkeypatch)
    await first.start()
    url, port = first.url, int(first.url.rpartition(":")[2])
    async with WorkflowClient(url) as client:
        handler = await client.run_workflow_nowait("gate")
        await first.stop()
        stream: Any = client.get_workflow_events(handler.handler_id, max_reconnect_attempts=2)
        with pytest.raises(ConnectionError, match="lost 3 times in a row"):
            async for _ in stream:
                pass
        assert len(pauses.seconds) == 2
        async with WorkflowClient(url, patience=0) as hasty:
            with pytest.raises(ClientConnectorError):
                await hasty.list_workflows()
        assert len(pauses.seconds) == 2

        async def come_back(count: int) -> None:
            if count == 5:
                await second.start(port=port)

        pauses.act = come_back
        done = await client.run_workflow("greet")  # it was never sent: it may be, again
        assert done.status == "completed"
        assert len((await client.get_handlers(workflow_name=["greet"])).handlers) == 1
    await second.stop()


async def test_what_may_have_arrived_is_not_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection is lost after the request was taken and before it is answered."""
    pauses, taken = Pauses(monkeypatch), list[bytes]()

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        taken.append(await reader.readline())
        writer.close()

    listener = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    async with listener, WorkflowClient(url) as client:
        with pytest.raises(ConnectionError, match="disconnected"):
            await client.run_workflow("greet")
    assert taken == [b"POST /workflows/greet/run HTTP/1.1\r\n"]
    assert pauses.seconds == []
