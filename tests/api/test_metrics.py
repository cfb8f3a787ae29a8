"""`/metrics`: figures that are true, text that Prometheus reads, label values that stay few."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

from ironflow.actors.engine import Engine
from ironflow.core.clock import SECOND, Ids, SystemClock
from ironflow.core.runs.entries import StepCompleted, StepFailed, WaitEnded, encode_entry
from ironflow.core.values.payloads import Failure, Payload
from ironflow.sdk.executor import Executor
from ironflow.sdk.function import Registry, function
from ironflow.storage.ports import Entry
from ironflow.storage.sqlite.store import open_sqlite
from ironflow.web.metrics import MAX_FUNCTIONS, STEP_OUTCOMES, FunctionCounts, Histogram, Metrics
from ironflow.web.problems import make_middleware
from ironflow.web.stream import add_stream_routes

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class World:
    """An engine with metrics behind HTTP."""

    def __init__(self, engine: Engine, metrics: Metrics, registry: Registry) -> None:
        self.engine, self.metrics, self.registry = engine, metrics, registry
        self.session: aiohttp.ClientSession

    async def text(self, accept: str = "*/*") -> str:
        async with self.session.get("/metrics", headers={"Accept": accept}) as response:
            assert response.status == 200
            return await response.text()

    async def samples(self) -> Samples:
        return read(parse_text(await self.text()))

    async def value(self, sample: str, **labels: str) -> float:
        return (await self.samples()).get((sample, tuple(sorted(labels.items()))), 0.0)


def read(families: Any) -> Samples:
    found: Samples = {}
    for family in families:
        assert isinstance(family, Metric)
        assert family.documentation
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            assert key not in found, f"{key} twice"
            found[key] = sample.value
    return found


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    registry = Registry()
    monkeypatch.setattr(sys.modules[function.__module__], "registry", registry)
    clock = SystemClock()
    ids = Ids(clock)
    store = await open_sqlite(tmp_path / "t.db")
    executor = Executor(registry, clock, ids)
    engine = Engine(store, executor, clock, ids, capacity=2)
    metrics = Metrics(engine)
    app = web.Application(middlewares=[metrics.middleware, make_middleware(ids)])
    metrics.add_routes(app)
    add_stream_routes(app, engine)

    async def greet(request: web.Request) -> web.Response:
        if request.match_info["name"] == "nobody":
            raise web.HTTPForbidden
        if request.match_info["name"] == "bug":
            raise ZeroDivisionError
        return web.Response(text="hello")

    app.router.add_get("/greet/{name}", greet)
    server = TestServer(app)
    await server.start_server()
    found = World(engine, metrics, registry)
    define()
    await engine.start()
    found.session = aiohttp.ClientSession(server.make_url("/"))
    yield found
    await found.session.close()
    await server.close()
    await engine.stop()
    await executor.drain(1.0)
    await store.close()


def define() -> None:
    async def one() -> int:
        return 1

    failures = iter([ValueError("once")])

    async def flaky() -> int:
        error = next(failures, None)
        if error is not None:
            raise error
        return 2

    async def never() -> None:
        raise ValueError("always")

    @function(id="steps")
    async def steps(ctx: Any) -> int:
        total = await ctx.step.run("one", one)
        total += await ctx.step.run("flaky", flaky, retry={"initial_delay": 0.001})
        await ctx.step.sleep("nap", 0.001)
        await ctx.step.emit("tell", "steps.done", {})
        return int(total)

    @function(id="fails", retry=False)
    async def fails(ctx: Any) -> None:
        await ctx.step.run("never", never)

    @function(id="waits")
    async def waits(ctx: Any) -> None:
        await ctx.step.wait_for_event("go", "go.now", timeout="10m")


async def test_runs_steps_and_events_are_counted_as_they_were(world: World) -> None:
    for _ in range(3):
        _, run = await world.engine.invoke_and_wait("steps", timeout=60)
        assert run is not None
        assert run.status == "completed"
    _, run = await world.engine.invoke_and_wait("fails", timeout=60)
    assert run is not None
    assert run.status == "failed"
    waiting = await world.engine.invoke("waits")
    await world.engine.emit("order.created", b"{}")
    while await world.value("ironflow_waiters") != 1:  # noqa: ASYNC110 - its body runs by itself
        await asyncio.sleep(0.005)
    assert await world.value("ironflow_timers") == 1
    assert await world.value("ironflow_active_runs") == 0
    await world.engine.emit("go.now", b"{}")
    assert await world.engine.wait(waiting.run_id, 10)
    found = await world.samples()

    def count(name: str, **labels: str) -> float:
        return found.get((name, tuple(sorted(labels.items()))), 0.0)

    runs, steps = "ironflow_runs_total", "ironflow_steps_total"
    assert count(runs, function_id="steps", status="completed") == 3
    assert count(runs, function_id="fails", status="failed") == 1
    assert count(runs, function_id="waits", status="completed") == 1
    # Each: one, flaky, the emit and the sleep; one attempt of flaky was retried.
    assert count(steps, function_id="steps", status="completed") == 12
    assert count(steps, function_id="steps", status="retrying") == 1
    assert count(steps, function_id="fails", status="failed") == 1
    assert count(steps, function_id="waits", status="completed") == 1
    assert count("ironflow_run_duration_seconds_count", function_id="steps") == 3
    # Two calls and an emit a run, and the failed attempt; a sleep executes nothing.
    assert count("ironflow_step_duration_seconds_count", function_id="steps") == 10
    assert 0 < count("ironflow_step_duration_seconds_sum", function_id="steps") < 60
    events = "ironflow_events_emitted_total"
    assert count(events, source_kind="api") == 2
    assert count(events, source_kind="run") == 3
    stats = world.engine.store.journal.stats
    assert count("ironflow_journal_batch_entries_sum") == stats.entries
    assert count("ironflow_journal_batch_entries_count") == stats.commits
    assert count("ironflow_journal_commit_seconds_count") == stats.commits
    assert count("ironflow_journal_failures_total") == 0
    assert count("ironflow_actors", kind="router") == 1
    assert count("ironflow_actor_restarts_total", kind="router") == 0
    assert ("ironflow_mailbox_depth", (("kind", "run"),)) in found
    assert ("ironflow_mailbox_depth_max", (("kind", "run"),)) in found
    assert count("process_resident_memory_bytes") > 1e6
    assert count("process_open_fds") > 3


async def test_runs_that_wait_for_a_slot_are_seen(world: World) -> None:
    gate = asyncio.Event()

    async def hold() -> None:
        await gate.wait()

    @function(id="holds")
    async def holds(ctx: Any) -> None:
        await ctx.step.run("hold", hold)

    await world.engine.register([world.registry.get("holds").spec.definition])  # type: ignore[union-attr]
    created = [await world.engine.invoke("holds") for _ in range(5)]
    assert await world.value("ironflow_active_runs") == 2
    assert await world.value("ironflow_queued_runs") == 3
    # All of them would be found again after a crash.
    assert len(await world.engine.store.reader.unfinished("running")) == 2
    assert len(await world.engine.store.reader.unfinished("queued")) == 3
    gate.set()
    for one in created:
        assert await world.engine.wait(one.run_id, 10)
    assert await world.value("ironflow_queued_runs") == 0


async def test_requests_are_counted_by_template_and_never_by_address(world: World) -> None:
    for path in ("/greet/ann", "/greet/bob", "/greet/nobody", "/greet/bug", "/x/1", "/x/2"):
        async with world.session.get(path):
            pass
    async with world.session.request("PROPFIND", "/greet/ann"):
        pass
    async with world.session.get("/api/v1/stream") as response:
        assert response.status == 200
    total, seconds = "ironflow_http_requests_total", "ironflow_http_request_duration_seconds_count"
    greet = {"method": "GET", "route": "/greet/{name}"}
    assert await world.value(total, **greet, status="200") == 2
    assert await world.value(total, **greet, status="403") == 1
    assert await world.value(total, **greet, status="500") == 1
    assert await world.value(seconds, **greet) == 4
    assert await world.value(total, method="GET", route="unmatched", status="404") == 2
    assert await world.value(total, method="other", route="unmatched", status="405") == 1
    # A stream's end is its reader's affair: counted, but no duration.
    assert await world.value(seconds, method="GET", route="/api/v1/stream") == 0


async def test_both_formats_are_what_their_readers_read(world: World) -> None:
    await world.engine.invoke_and_wait("steps", timeout=60)
    await world.text()
    async with world.session.get("/metrics") as response:
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        plain = read(parse_text(await response.text()))
    accept = "application/openmetrics-text; version=1.0.0,text/plain;q=0.5"
    async with world.session.get("/metrics", headers={"Accept": accept}) as response:
        assert response.headers["Content-Type"].startswith("application/openmetrics-text")
        rich = read(parse_openmetrics(await response.text()))
    names = {name for name, _ in plain if name.startswith("ironflow_")}
    assert names == {name for name, _ in rich if name.startswith("ironflow_")}
    for name in names:
        assert re.fullmatch(r"ironflow_[a-z_]+", name)


async def test_label_values_stay_few_whatever_comes(world: World) -> None:
    for number in range(MAX_FUNCTIONS + 50):

        async def body(ctx: Any) -> None:
            return None

        function(id=f"many-{number}")(body)
    definitions = [f.spec.definition for f in world.registry.all()]
    await world.engine.register(definitions)
    await asyncio.gather(
        *[world.engine.invoke_and_wait(d.id, timeout=30) for d in definitions if "many" in d.id]
    )
    for number in range(30):
        await world.engine.emit("e", b"1", source=f"strange-{number}:x")
        async with world.session.get(f"/nowhere/{number}"):
            pass
    found = await world.samples()
    functions = {dict(labels).get("function_id") for _, labels in found} - {None}
    assert len(functions) == MAX_FUNCTIONS + 1
    assert "other" in functions
    ended = sum(value for (name, _), value in found.items() if name == "ironflow_runs_total")
    assert ended == MAX_FUNCTIONS + 50
    sources = {dict(labels).get("source_kind") for _, labels in found} - {None}
    assert sources == {"other"}
    routes = {dict(labels).get("route") for _, labels in found} - {None}
    assert routes <= {"unmatched", "/metrics"}


async def test_a_blocked_loop_is_seen_and_forgotten_again(world: World) -> None:
    lags = world.metrics._lags
    loop = asyncio.get_running_loop()
    world.metrics._watch_lag(loop.time() - 0.25)
    assert await world.value("ironflow_event_loop_lag_seconds") >= 0.25
    for _ in range(lags.maxlen or 0):
        world.metrics._watch_lag(loop.time())
    assert await world.value("ironflow_event_loop_lag_seconds") < 0.25


# -- what is read without decoding ----------------------------------------------------------------


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch, world: World) -> FunctionCounts:
    """Where the entries of a run that is in memory are counted."""
    found = FunctionCounts("f")
    monkeypatch.setattr(Metrics, "_counts_of", lambda self, stream: found)
    return found


def entry(kind: str, data: bytes, at: int = 1_767_225_600 * SECOND) -> Entry:
    return Entry(1, "run/x", 1, at, kind, data)


async def test_the_bytes_of_an_entry_say_the_same_as_its_decoding(
    world: World, counts: FunctionCounts
) -> None:
    tricky = b'{"started_at":1767225600000000,"outcome":"failed"}'
    at = 1_767_225_600 * SECOND
    for key in ('"outcome":"failed"', 'x","started_at":1767225600000000}', "plain"):
        for started in (0, at - 2 * SECOND):
            step = StepCompleted(
                key, "n", 0, "run", Payload(raw=msgspec_raw(tricky)), started_at=started
            )
            world.metrics.count_entries([entry("step.completed", encode_entry(step))])
        for outcome in ("completed", "failed", "timed_out", "cancelled"):
            ended = WaitEnded(key, outcome, Payload(raw=msgspec_raw(tricky)))  # type: ignore[arg-type]
            world.metrics.count_entries([entry("wait.ended", encode_entry(ended))])
        for retry_at in (None, at):
            failed = StepFailed(
                key, "n", 0, "run", Failure("E", "m"), started_at=at - SECOND, retry_at=retry_at
            )
            world.metrics.count_entries([entry("step.failed", encode_entry(failed))])
    assert dict(zip(STEP_OUTCOMES, counts.steps, strict=True)) == {
        "completed": 9,
        "failed": 6,
        "retrying": 3,
        "timed_out": 3,
        "cancelled": 3,
    }
    assert sum(counts.step_seconds.counts) == 9
    assert counts.step_seconds.total == pytest.approx(3 * 2.0 + 6 * 1.0)


def msgspec_raw(data: bytes) -> Any:
    return msgspec.Raw(data)


def test_a_histogram_counts_as_prometheus_does() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 3.0):
        histogram.observe(value)
    assert histogram.buckets() == [("1.0", 2), ("2.0", 4), ("+Inf", 5)]
    assert histogram.total == 8.0


async def test_counting_an_entry_decodes_nothing_on_the_hot_path(
    world: World, counts: FunctionCounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("ironflow.web.metrics._decode_source", refuse)
    monkeypatch.setattr("ironflow.web.metrics._decode_failure", refuse)
    step = StepCompleted("k", "n", 0, "run", Payload(raw=msgspec_raw(b"1")), started_at=5)
    batch = [entry("step.completed", encode_entry(step)), entry("run.started", b"{}")] * 500
    began = time.perf_counter()
    world.metrics.count_entries(batch)
    print(f"{(time.perf_counter() - began) / len(batch) * 1e6:.2f} us an entry")
    assert counts.steps[0] == 500
