"""The load of the soak: work that is started, everything that was acknowledged, and whether it
ended right.

Each request has an idempotency key and is sent until it is answered, through however many deaths of
the server. An acknowledged run has somebody who waits for its end from that moment on.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from soak_functions import digest

PAUSE = 0.05
"""Seconds until a request that found no server is sent again."""


@dataclass
class Ledger:
    """What was acknowledged, what became of it, and what went wrong."""

    started: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    open: set[asyncio.Task[None]] = field(default_factory=set)
    events_read: int = 0
    reconnects: int = 0
    ends_read: set[str] = field(default_factory=set)
    """Runs of which a reader saw the end."""
    to_be_read: set[str] = field(default_factory=set)
    ticks: list[str] = field(default_factory=list)
    """Runs of the schedule, in order."""

    def fault(self, text: str) -> None:
        """Something is not as it should be."""
        self.faults.append(text)


@dataclass
class Expected:
    """How a run has to end."""

    kind: str
    status: str
    result: Any = None


class Load:
    """Starts work at a rate until told to stop."""

    def __init__(self, url: str, rate: float, seed: int, longest: float) -> None:
        self.url, self.rate, self.longest = url, rate, longest
        self.rng = random.Random(seed)
        self.ledger = Ledger()
        self._numbers = itertools.count()
        self._later: set[asyncio.Task[None]] = set()
        self._kinds: list[tuple[Callable[[int], Awaitable[None]], int]] = [
            (self.invoke_chain, 30),
            (self.emit_order, 20),
            (self.sleep, 15),
            (self.wait_for_answer, 15),
            (self.cancel_by_request, 8),
            (self.cancel_by_event, 6),
            (self.fail, 4),
            (self.compute, 2),
        ]

    async def run(self, stopped: asyncio.Event) -> None:
        """Begin work at random moments, `rate` of them a second, until stopped."""
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(self.url, connector=connector) as self.session:
            readers = [asyncio.create_task(self.read(n, stopped)) for n in range(3)]
            kinds, weights = zip(*self._kinds, strict=True)
            while not stopped.is_set():
                begin = self.rng.choices(kinds, weights)[0]
                self._spawn(begin(next(self._numbers)))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self.rng.expovariate(self.rate)):
                        await stopped.wait()
            while self._later:
                await asyncio.wait(self._later)
            while self.ledger.open:
                await asyncio.wait(self.ledger.open)
            # Whatever has ended by now is in the journal: the readers have until here to see it.
            await self._catch_up(readers)

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._later.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._later.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.ledger.fault(f"the load broke: {error!r}")

    # -- requests ---------------------------------------------------------------------------------

    async def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Ask until there is an answer that is none of a server that comes or goes."""
        while True:
            try:
                async with self.session.request(method, "/api/v1" + path, json=body) as reply:
                    text = await reply.text()
            except (aiohttp.ClientError, OSError, TimeoutError):
                await asyncio.sleep(PAUSE)
                continue
            if reply.status in (429, 503):
                await asyncio.sleep(PAUSE)
                continue
            if reply.status >= 500:
                self.ledger.fault(f"{method} {path} answered {reply.status}: {text[:300]}")
            return reply.status, json.loads(text)

    async def start(self, function_id: str, value: Any, expected: Expected, key: str) -> str:
        """A run that is acknowledged; its end is awaited."""
        body = {"input": value, "idempotency_key": key}
        status, answer = await self.ask("POST", f"/functions/{function_id}/invoke", body)
        if status not in (200, 201):
            self.ledger.fault(f"{function_id} was not started: {status} {answer}")
            raise RuntimeError(answer)
        run_id = str(answer["run_id"])
        self.expect(run_id, expected)
        return run_id

    def expect(self, run_id: str, expected: Expected) -> None:
        """Wait for the end of a run."""
        self.ledger.started[expected.kind] += 1
        self.ledger.to_be_read.add(run_id)
        task = asyncio.create_task(self._verify(run_id, expected))
        self.ledger.open.add(task)
        task.add_done_callback(self.ledger.open.discard)

    async def _verify(self, run_id: str, expected: Expected) -> None:
        while True:
            status, ended = await self.ask("GET", f"/runs/{run_id}/result?wait=30s")
            if status != 202:
                break
        if status == 404:
            self.ledger.fault(f"{expected.kind} run {run_id} was acknowledged and is lost")
        elif (ended["status"], ended["result"]) != (expected.status, expected.result):
            self.ledger.fault(f"{expected.kind} run {run_id} ended wrong: {ended}")
        else:
            self.ledger.ended[expected.kind] += 1

    # -- kinds of work ----------------------------------------------------------------------------

    async def invoke_chain(self, number: int) -> None:
        """A run with a bit of everything."""
        value = number + 6
        expected = Expected("chain", "completed", 3 * value + 6 + 2 * value)
        await self.start("chain", number, expected, f"chain-{number}")

    async def emit_order(self, number: int) -> None:
        """An event that starts a run."""
        body = {
            "name": "soak.ordered",
            "data": {"number": number},
            "idempotency_key": f"o-{number}",
        }
        status, answer = await self.ask("POST", "/events", body)
        if status not in (200, 201) or len(answer["run_ids"]) != 1:
            self.ledger.fault(f"an order started no run: {status} {answer}")
            return
        self.expect(answer["run_ids"][0], Expected("order", "completed", number + 100))

    async def sleep(self, number: int) -> None:
        """A run that sleeps."""
        seconds = round(self.rng.uniform(0.1, self.longest), 2)
        await self.start("sleeper", seconds, Expected("sleep", "completed", seconds), f"s-{number}")

    async def wait_for_answer(self, number: int) -> None:
        """A run that waits for an event, which comes later (or was there before)."""
        name, value = f"answer-{number}", {"of": number}
        early = self.rng.random() < 0.2
        event = {"name": "soak.answer", "data": {"name": name, "value": value}}
        event["idempotency_key"] = name
        if early:
            await self.ask("POST", "/events", event)
        await self.start("answered", name, Expected("answer", "completed", value), name)
        if not early:
            await asyncio.sleep(self.rng.uniform(0, self.longest / 2))
            await self.ask("POST", "/events", event)

    async def cancel_by_request(self, number: int) -> None:
        """A run that is cancelled."""
        expected = Expected("cancel", "cancelled")
        run_id = await self.start("doomed", {"name": f"r{number}"}, expected, f"d-{number}")
        await asyncio.sleep(self.rng.uniform(0, self.longest / 4))
        status, answer = await self.ask("POST", f"/runs/{run_id}/cancel", {"reason": "soak"})
        # 409: an answer was lost with the server, the cancel was not.
        if status not in (200, 202, 409):
            self.ledger.fault(f"run {run_id} was not cancelled: {status} {answer}")

    async def cancel_by_event(self, number: int) -> None:
        """The same, by an event."""
        name = f"e{number}"
        await self.start("doomed", {"name": name}, Expected("call off", "cancelled"), name)
        await asyncio.sleep(self.rng.uniform(0, self.longest / 4))
        event = {"name": "soak.call_off", "data": {"name": name}, "idempotency_key": name}
        await self.ask("POST", "/events", event)

    async def fail(self, number: int) -> None:
        """A run that fails and undoes."""
        await self.start("faulty", number, Expected("fail", "failed"), f"f-{number}")

    async def compute(self, number: int) -> None:
        """A run whose step computes in a process."""
        text = f"text {number}"
        found = await asyncio.to_thread(digest, text, 20_000)
        await self.start("crunch", text, Expected("compute", "completed", found), f"c-{number}")

    # -- readers ----------------------------------------------------------------------------------

    async def read(self, number: int, stopped: asyncio.Event) -> None:
        """Read the stream of all entries, reconnecting after deaths and now and then by itself.

        Every entry once, in order. The first reader notes the ends of runs.
        """
        last = 0
        while True:
            limit = None if stopped.is_set() else self.rng.uniform(2, 20)
            with contextlib.suppress(TimeoutError, aiohttp.ClientError, OSError):
                async with asyncio.timeout(limit):
                    async for seq, kind, stream, function_id in self._events(last):
                        if seq <= last:
                            self.ledger.fault(f"reader {number} saw entry {seq} after {last}")
                        last = seq
                        self.ledger.events_read += 1
                        if number == 0:
                            self.note_entry(kind, stream.removeprefix("run/"), function_id)
            self.ledger.reconnects += 1
            await asyncio.sleep(PAUSE)

    def note_entry(self, kind: str, run_id: str, function_id: str) -> None:
        """Runs of the schedule, and ends, of which each run has one."""
        if kind == "run.created" and function_id == "ticks":
            self.ledger.ticks.append(run_id)
        if kind in ENDS:
            if run_id in self.ledger.ends_read:
                self.ledger.fault(f"run {run_id} ended twice")
            self.ledger.ends_read.add(run_id)

    async def _events(self, after: int) -> AsyncIterator[tuple[int, str, str, str]]:
        headers = {"Last-Event-ID": str(after)}
        quiet = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=60)
        async with self.session.get("/api/v1/stream", headers=headers, timeout=quiet) as reply:
            if reply.status != 200:
                return
            async for line in reply.content:
                if line.startswith(b"data: {"):
                    data = json.loads(line[6:])
                    if "seq" in data:
                        function_id = data["data"].get("function_id", "")
                        yield data["seq"], data["kind"], data["stream"], function_id

    async def _catch_up(self, readers: list[asyncio.Task[None]]) -> None:
        """Give the first reader time to see every end, then end all."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(30):
                while self.ledger.to_be_read - self.ledger.ends_read:  # noqa: ASYNC110
                    await asyncio.sleep(PAUSE)
        missed = self.ledger.to_be_read - self.ledger.ends_read
        ticked = self.ledger.ticks[:-1]  # the last one may be under way
        unended = [run_id for run_id in ticked if run_id not in self.ledger.ends_read]
        self.ledger.ended["cron"] = len(ticked) - len(unended)
        if not ticked or unended:
            self.ledger.fault(f"cron: of {len(ticked)} runs these did not end: {unended}")
        if missed:
            self.ledger.fault(f"a reader saw no end of {len(missed)} runs, {min(missed)} is one")
        for reader in readers:
            reader.cancel()
        await asyncio.wait(readers)


ENDS = frozenset({"run.completed", "run.failed", "run.cancelled"})
