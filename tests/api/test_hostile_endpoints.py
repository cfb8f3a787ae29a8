"""Endpoints that lie, hang, redirect, or answer garbage without end, on real sockets. Each is a
call that did not come through, with the reason; the run is tried again and nothing that was
recorded is lost; nobody else is held up.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from ironflow.core.clock import SystemClock
from ironflow.core.functions import definition as fn
from ironflow.core.remote.breaker import BreakerPolicy
from ironflow.core.remote.signatures import Key
from ironflow.core.runs.entries import RunOptions
from ironflow.core.runs.retry import RetryPolicy
from ironflow.storage.memory.store import MemoryStore
from ironflow.web.caller import Allowance, HttpCaller

KEY = "the-key"
PATIENCE = 0.4
"""Seconds that the server waits for an endpoint that takes its time."""
ENDLESS = 64 * 1024 * 1024

Behave = Callable[["Line"], Awaitable[None]]


class Line:
    """One connection of the server to an endpoint; the request is read."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.job: dict[str, Any] = {}
        self.sent = 0

    async def read(self) -> None:
        head = await self.reader.readuntil(b"\r\n\r\n")
        fields = dict(
            line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line
        )
        body = await self.reader.readexactly(int(fields[b"content-length"]))
        self.job = json.loads(body)
        self.head = head

    async def send(self, data: bytes) -> bool:
        """Whether the other side still listens."""
        try:
            self.writer.write(data)
            await self.writer.drain()
        except OSError:
            return False
        self.sent += len(data)
        return not self.writer.is_closing()

    async def answer(self, body: bytes, status: str = "200 OK", *headers: str) -> None:
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
        await self.send("\r\n".join(lines).encode() + body)

    async def say(self, **outcome: Any) -> None:
        """An answer of the protocol."""
        await self.answer(json.dumps(outcome).encode())

    def report(self, command: str, data: dict[str, Any], **facts: Any) -> dict[str, Any]:
        """A report by command under the lease of this call."""
        job = self.job
        data = {"execution": job["execution_seq"], **data}
        fence = {name: job[name] for name in ("job_id", "execution_seq", "lease_token")}
        return fence | {"command": command, "data": data} | facts


class Liar:
    """An endpoint that behaves as it is told for the first calls, and well after them."""

    def __init__(self, behave: Behave, times: int) -> None:
        self.behave, self.times, self.calls = behave, times, 0
        self.lines: list[Line] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = Line(reader, writer)
        self.lines.append(line)
        try:
            while True:
                await line.read()
                self.calls += 1
                if self.calls <= self.times:
                    await self.behave(line)
                    return
                if "record" in line.job:
                    end = {"outcome": "completed", "result": {"json": "right"}}
                    await line.say(status="reports", reports=[line.report("end_execution", end)])
                else:
                    await line.say(status="completed", result="right")
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


class Place:
    """A server, and one endpoint that it calls."""

    def __init__(self, api: Any) -> None:
        self.api = api

    async def lie(
        self, behave: Behave, *, times: int = 1, reports: str = "yields", seconds: float = 30.0
    ) -> tuple[Liar, dict[str, Any]]:
        """Have a run executed there; the liar, and how the run ended."""
        liar = Liar(behave, times)
        server = await asyncio.start_server(liar.serve, "127.0.0.1", 0)
        try:
            port = server.sockets[0].getsockname()[1]
            run_id = await self.start(f"http://127.0.0.1:{port}/x", reports, seconds)
            path = f"/api/v1/runs/{run_id}/result?wait=30s"
            ended = (await self.api.get(path)).json
            ended["error_once"] = await self.first_failure(run_id)
            ended["run_id"] = run_id
            return liar, ended
        finally:
            server.close()

    async def start(self, url: str, reports: Any, seconds: float) -> str:
        retry = RetryPolicy(max_attempts=2, initial_delay=0.01, jitter=0.0)
        made = fn.Definition(
            id="far", name="far", code="c", placement="push",
            options=RunOptions(retry=retry),
            endpoint=fn.Endpoint(
                url=url, timeout=seconds, reports=reports,
                breaker=BreakerPolicy(failures=100),
            ),
        )  # fmt: skip
        await self.api.engine.register_remote(made)
        run_id: str = await self.api.start("far", {"n": 1})
        return run_id

    async def first_failure(self, run_id: str) -> str:
        """Why a call did not come through, as the journal has it."""
        loaded = await self.api.engine.store.reader.load(f"run/{run_id}")
        failures = [json.loads(e.data) for e in loaded.entries if e.kind == "attempt.failed"]
        assert all(one.get("undelivered") for one in failures)
        return str(failures[0]["error"]["message"]) if failures else ""


@pytest.fixture
async def place(serve: Any, caplog: pytest.LogCaptureFixture) -> AsyncIterator[Place]:
    """At the end the server must be well, and its log without an error."""
    caller = HttpCaller(SystemClock(), Allowance(["127.0.0.0/8"]), [Key(KEY)])
    try:
        async with serve(MemoryStore(), caller=caller) as api:
            yield Place(api)
            assert (await api.get("/ready")).status == 200
            assert (await api.end("echo", "alive"))["result"] == "alive"
            assert 'status="5' not in (await api.get("/metrics")).body.decode()
            assert api.engine.pool.active == 0
            for kind, total in api.engine.system.statistics_by_kind().items():
                assert total.restarts == 0, f"an actor of kind {kind} crashed"
    finally:
        await caller.close()
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR] == []


async def hang(line: Line) -> None:
    await line.reader.read()  # until the server hangs up


async def drip_head(line: Line) -> None:
    for byte in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"a" * 10_000:
        if not await line.send(bytes([byte])):
            return
        await asyncio.sleep(0.01)


async def drip_body(line: Line) -> None:
    await line.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n{")
    for _ in range(10_000):
        if not await line.send(b" "):
            return
        await asyncio.sleep(0.01)


async def endless_head(line: Line) -> None:
    await line.send(b"HTTP/1.1 200 OK\r\n")
    while line.sent < ENDLESS and await line.send(b"X-More: " + b"a" * 1000 + b"\r\n"):
        pass


async def endless_body(line: Line) -> None:
    await line.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    while line.sent < ENDLESS and await line.send(chunk):
        pass


async def large_body(line: Line) -> None:
    await line.answer(b"[" + b"1," * 20_000_000 + b"1]")


async def bomb(line: Line) -> None:
    body = gzip.compress(b'{"status":"completed","result":"' + b"a" * 200_000_000 + b'"}', 9)
    await line.answer(body, "200 OK", "Content-Encoding: gzip")


async def squeezed(line: Line) -> None:
    body = gzip.compress(b'{"status":"completed","result":1}')
    await line.answer(body, "200 OK", "Content-Encoding: gzip")


async def hang_up(line: Line) -> None:
    line.writer.transport.abort()


async def cut_off(line: Line) -> None:
    await line.send(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{" + b" " * 100)


def plain(data: bytes) -> Behave:
    async def behave(line: Line) -> None:
        await line.send(data)

    return behave


def body(data: bytes, status: str = "200 OK", *headers: str) -> Behave:
    async def behave(line: Line) -> None:
        await line.answer(data, status, *headers)

    return behave


def says(**outcome: Any) -> Behave:
    async def behave(line: Line) -> None:
        await line.say(**outcome)

    return behave


NAP = {"step_id": "r:nap:0", "type": "sleep", "until": "2020-01-01T00:00:00Z"}
TRANSPORT: list[tuple[str, Behave, str]] = [
    ("hangs", hang, "within 0.4 s"),
    ("drips its head", drip_head, "within 0.4 s"),
    ("drips its body", drip_body, "within 0.4 s"),
    ("endless head", endless_head, "cannot be reached"),
    ("endless body", endless_body, "answered more than"),
    ("large body", large_body, "answered more than"),
    ("a bomb", bomb, "no answer of an endpoint"),
    ("squeezed unasked", squeezed, "no answer of an endpoint"),
    ("hangs up", hang_up, "cannot be reached"),
    ("cut off", cut_off, "cannot be reached"),
    ("no HTTP", plain(b"hello\r\n\r\n"), "cannot be reached"),
    ("bytes", plain(bytes(range(256)) * 50), "cannot be reached"),
    ("two lengths", plain(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}"),
     "cannot be reached"),
    ("negative length", plain(b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\n{}"),
     "cannot be reached"),
    ("redirects", body(b"", "302 Found", "Location: http://127.0.0.1:1/"), "redirects"),
    ("redirects for good", body(b"", "308 Permanent", "Location: file:///etc/passwd"), "redirects"),
    ("not found", body(b"{}", "404 Not Found"), "answered 404"),
    ("unauthorized", body(b"{}", "401 Unauthorized"), "answered 401"),
    ("fails", body(b"<html>", "500 Oops"), "answered 500"),
    ("accepted", body(b"{}", "202 Accepted"), "answered 202"),
    ("nothing", body(b""), "no answer of an endpoint"),
    ("html", body(b"<html>"), "no answer of an endpoint"),
    ("another encoding", body('{"status":"completed"}'.encode("utf-16")), "no answer"),
    ("a list", body(b"[]"), "no answer of an endpoint"),
    ("half", body(b'{"status":"completed","result":'), "no answer of an endpoint"),
    ("deep", body(b'{"status":"completed","result":' + b"[" * 100_000), "no answer"),
    ("too deep a result", body(b'{"status":"completed","result":' + b"[" * 500 + b"]" * 500 + b"}"),
     "nested deeper"),
    ("no text", body(b'{"status":"completed","result":"\\ud800"}'), "no answer of an endpoint"),
    ("no status", says(result=1), "no answer of an endpoint"),
    ("an unknown status", says(status="dancing"), "no answer of an endpoint"),
    ("steps without ids", says(status="completed", steps=[{"id": ""}]), "no answer"),
    ("a yield without one", says(status="yielded"), "yield"),
    ("a nap without an end", says(status="yielded", **{"yield": {**NAP, "until": None}}), "until"),
    ("a nap in a year of its own", says(status="yielded", **{"yield": {**NAP, "until": "soon"}}),
     "until"),
    ("reports without end", says(status="reports", reports=[]), "recorded nothing"),
    ("reports of nobody", says(status="reports", reports=[{
        "job_id": "other.1", "execution_seq": 1, "lease_token": "guessed",
        "command": "record_step", "data": {}}]), "other.1"),
]  # fmt: skip


NAMES = [name for name, *_ in TRANSPORT]


@pytest.mark.parametrize(("behave", "reason"), [case[1:] for case in TRANSPORT], ids=NAMES)
async def test_a_call_that_did_not_come_through_is_made_again(
    place: Place, behave: Behave, reason: str
) -> None:
    seconds = PATIENCE if "within" in reason else 30.0
    liar, ended = await place.lie(behave, seconds=seconds)
    assert (ended["status"], ended["result"]) == ("completed", "right"), ended
    assert reason in ended["error_once"], ended
    assert liar.calls == 2
    assert liar.lines[0].sent < ENDLESS
    assert b"accept-encoding: identity" in liar.lines[0].head.lower()


async def test_somebody_else_is_served_while_endpoints_hang(place: Place) -> None:
    ended: list[Any] = []

    async def slow(line: Line) -> None:
        ended.append(await place.api.end("echo", "meanwhile"))
        await hang(line)

    _, how = await place.lie(slow, seconds=PATIENCE)
    assert how["result"] == "right"
    assert ended[0]["result"] == "meanwhile"


async def test_reports_that_contradict_the_record_are_no_progress(place: Place) -> None:
    """A finished step keeps its first result, and to report it again is not to go on."""
    results = iter(["first", "second", "third"])

    async def again(line: Line) -> None:
        step = {"key": "a", "name": "a", "pos": 0, "kind": "run", "result": {"json": next(results)}}
        await line.say(status="reports", reports=[line.report("record_step", step)])

    liar, ended = await place.lie(again, times=3, reports="commands")
    assert ended["result"] == "right"
    assert liar.calls == 4
    assert "recorded nothing" in ended["error_once"]
    run = await place.api.engine.run(ended["run_id"])
    assert run.steps["a"].result.json == b'"first"'


@pytest.mark.parametrize(
    "data",
    [
        {"key": "a", "name": "a", "pos": 10**12, "kind": "run", "result": {"json": 1}},
        {"key": "a", "name": "a", "pos": -1, "kind": "run", "result": {"json": 1}},
        {"key": "", "name": "a", "pos": 0, "kind": "run", "result": {"json": 1}},
        {"key": "a", "name": "a", "pos": 0, "kind": "run", "result": {"blob": "00", "size": 1}},
        {"nonsense": True},
    ],
)
async def test_reports_that_make_no_sense_are_a_failed_call(
    place: Place, data: dict[str, Any]
) -> None:
    async def lie(line: Line) -> None:
        await line.say(status="reports", reports=[line.report("record_step", data)])

    _, ended = await place.lie(lie, reports="commands")
    assert (ended["status"], ended["result"]) == ("completed", "right")
    assert ended["error_once"]
    assert (await place.api.engine.run(ended["run_id"])).steps == {}


async def test_an_endpoint_that_waits_for_what_is_over_is_not_called_without_end(
    place: Place,
) -> None:
    liar, ended = await place.lie(says(status="yielded", **{"yield": NAP}), times=3)
    assert ended["result"] == "right"
    assert "recorded nothing" in ended["error_once"]
    assert liar.calls == 4


async def test_a_lease_of_another_run_opens_nothing(place: Place) -> None:
    """An endpoint with our executor reports under the lease of a run that another one has."""
    theirs: list[dict[str, Any]] = []

    async def lie(line: Line) -> None:
        other = await place.api.start("waits")
        run = await place.api.engine.run(other)
        theirs.append({"job_id": f"{other}.{run.execution}", "run_id": other})
        end = {"outcome": "completed", "result": {"json": "stolen"}}
        stolen = line.report("end_execution", end, job_id=f"{other}.{run.execution}")
        await line.say(status="reports", reports=[stolen])

    _, ended = await place.lie(lie, reports="commands")
    assert ended["result"] == "right"
    run = await place.api.engine.run(theirs[0]["run_id"])
    assert run.status != "completed"
