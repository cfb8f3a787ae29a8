"""What a request costs, counted in calls of Python functions on the server's thread: a figure that
no other program on the machine changes, and that grows when a request becomes dearer.

A limit here is an eighth above the most that was counted when it was set. Whoever passes it has
made every request of that kind dearer, and says in the commit what for.
"""

from __future__ import annotations

import asyncio
import http.client
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec
import pytest
import uvloop

import ironflow.sdk.function as sdk
from ironflow.sdk.context import Context
from ironflow.server import Server
from ironflow.settings import Settings
from ironflow.workflows import Event, StartEvent, StopEvent, Workflow, step
from ironflow.workflows.mounting import mount

LENGTH = 10
WARM, COUNTED, ROUNDS = 40, 10, 3


class Count(StartEvent):
    count: int


class More(Event):
    count: int


class Chain(Workflow):
    @step
    async def begin(self, ev: Count) -> More:
        return More(count=ev.count + 1)

    @step
    async def go_on(self, ev: More) -> More | StopEvent:
        if ev.count + 1 == LENGTH:
            return StopEvent(result=LENGTH)
        return More(count=ev.count + 1)


@sdk.function(id="steps")
async def chain(ctx: Context, value: int) -> int:
    for number in range(LENGTH):
        value = await ctx.step.run(f"step {number}", _plus_one, value)
    return value


async def _plus_one(value: int) -> int:
    return value + 1


class Caller:
    """Asks from a thread of its own, whose calls are not counted."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port)

    def close(self) -> None:
        self._connection.close()

    def ask(self, path: str, body: object) -> Any:
        data, headers = msgspec.json.encode(body), {"content-type": "application/json"}
        self._connection.request("POST", path, data, headers)
        answer = self._connection.getresponse()
        text = answer.read()
        assert answer.status in (200, 201), text
        return msgspec.json.decode(text)

    def workflow(self) -> None:
        handler = self.ask("/workflows/chain/run", {"start_event": {"count": 0}})
        assert handler["result"]["value"]["result"] == LENGTH

    def function(self) -> None:
        run = self.ask("/api/v1/functions/steps/invoke?wait=60s", {"input": 0})
        assert run["result"] == LENGTH, run["error"]

    def flow_run(self) -> None:
        flow = self.ask("/api/flows/", {"name": "f"})
        state = {"type": "SCHEDULED", "name": "Scheduled"}
        run = self.ask("/api/flow_runs/", {"flow_id": flow["id"], "state": state})
        for kind in ("PENDING", "RUNNING", "COMPLETED"):
            body = {"state": {"type": kind, "name": kind.title()}, "force": False}
            assert self.ask(f"/api/flow_runs/{run['id']}/set_state", body)["status"] == "ACCEPT"


async def count_calls(db: Path, story: Callable[[Caller], None]) -> float:
    """Calls for one story on a server that has told it before, in the quietest of some rounds:
    what is done once for many requests falls on one of them.
    """
    registry = sdk.Registry()
    registry.add(chain)
    mount(Chain(), "chain", registry=registry)
    server = Server(Settings(port=0, db=str(db), blocked_after=0, low_latency=False), registry)
    await server.start()
    calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    def tell(times: int) -> None:
        for _ in range(times):
            story(caller)

    caller = Caller(server.port)
    try:
        await asyncio.to_thread(tell, WARM)
        counted = []
        for _ in range(ROUNDS):
            calls = 0
            sys.setprofile(count)
            try:
                await asyncio.to_thread(tell, COUNTED)
            finally:
                sys.setprofile(None)
            counted.append(calls / COUNTED)
        return min(counted)
    finally:
        caller.close()
        await server.stop()


@pytest.mark.parametrize(
    ("story", "limit"),
    [
        pytest.param(Caller.workflow, 1800, id="workflow of ten steps"),
        pytest.param(Caller.function, 1700, id="function of ten steps"),
        pytest.param(Caller.flow_run, 950, id="flow run in five requests"),
    ],
)
def test_a_request_costs_no_more_than_it_did(
    story: Callable[[Caller], None], limit: int, tmp_path: Path
) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        calls = runner.run(count_calls(tmp_path / "calls.db", story))
    assert limit / 2 < calls <= limit
