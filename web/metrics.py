"""`/metrics` for Prometheus: what the engine, the journal, the API and the process do.

Whatever is counted per entry is counted from the commits, without decoding JSON, by plain additions
into lists; the text is made when it is asked for. Every label has a bounded set of values: function
ids of registered functions (the first 200, then `other`), route templates (else `unmatched`).
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from time import perf_counter

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from ironflow.actors.engine import Engine
from ironflow.actors.runs.run import RunActor
from ironflow.core.clock import SECOND
from ironflow.core.runs.state import Run
from ironflow.storage.ports import Entry
from ironflow.web.stream import LIVE

MAX_FUNCTIONS = 200
OTHER, UNMATCHED, NO_FUNCTION = "other", "unmatched", "none"
LAG_EVERY, LAG_KEPT = 0.5, 30
"""Seconds between two looks at the loop's lag, and how many of them the largest is taken from."""
SOURCES = frozenset({"api", "run", "cron", "cli", "sdk", "schedule", "webhook", "engine"})
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
STEP_OUTCOMES = ("completed", "failed", "retrying", "timed_out", "cancelled")
_OUTCOMES = {b"co": 0, b"fa": 1, b"ti": 3, b"ca": 4}

STEP_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 5.0, 30.0, 120.0, 600.0)
RUN_SECONDS = (0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0, 3600.0, 86400.0)
HTTP_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0)
COMMIT_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5)
COMMITS_AT_ONCE = 256
"""Commits that are counted together: whoever waits for one need not wait for that."""
BATCH_ENTRIES = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)


class Histogram:
    """Counts by upper bound, and their sum. An observation is a bisection and two additions."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative counts, as Prometheus wants them."""
        found: list[tuple[str, float]] = []
        running = 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            running += count
            found.append((bound, running))
        return found


class FunctionCounts:
    """What is counted for one function."""

    __slots__ = ("label", "run_seconds", "runs", "step_seconds", "steps")

    def __init__(self, label: str) -> None:
        self.label = label
        self.runs: dict[str, int] = {}
        self.run_seconds = Histogram(RUN_SECONDS)
        self.steps = [0] * len(STEP_OUTCOMES)
        self.step_seconds = Histogram(STEP_SECONDS)


class _Source(msgspec.Struct):
    source: str = ""


_decode_source = msgspec.json.Decoder(_Source).decode


class Metrics(Collector):
    """The metrics of one engine, in a registry of their own."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.registry = CollectorRegistry()
        self.registry.register(self)
        ProcessCollector(registry=self.registry)
        self._functions: dict[str, FunctionCounts] = {}
        self._other = FunctionCounts(OTHER)
        self._events: dict[str, int] = {}
        self._requests: dict[tuple[str, str, int], int] = {}
        self._request_seconds: dict[tuple[str, str], Histogram] = {}
        self._batch_entries = Histogram(BATCH_ENTRIES)
        self._commit_seconds = Histogram(COMMIT_SECONDS)
        self._commits: list[tuple[int, float]] = []
        """Those that were not counted yet: their entries and seconds."""
        self._lags: deque[float] = deque(maxlen=LAG_KEPT)
        self._lag_timer: asyncio.TimerHandle | None = None
        journal = engine.store.journal
        self._unsubscribe = journal.subscribe(self.count_entries)
        journal.on_commit(self._count_commit)
        engine.endings.listen(self._count_run)

    # -- life -------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to watch the loop's lag."""
        if self._lag_timer is None:
            self._watch_lag(asyncio.get_running_loop().time())

    def stop(self) -> None:
        """Stop counting."""
        self._unsubscribe()
        if self._lag_timer is not None:
            self._lag_timer.cancel()
            self._lag_timer = None

    def add_routes(self, app: web.Application) -> None:
        """Serve `GET /metrics`; the lag is watched while the application runs."""
        app.router.add_get("/metrics", self._serve)
        app.on_startup.append(self._on_startup)
        app.on_cleanup.append(self._on_cleanup)

    async def _on_startup(self, app: web.Application) -> None:
        self.start()

    async def _on_cleanup(self, app: web.Application) -> None:
        self.stop()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        if "application/openmetrics-text" in request.headers.get("Accept", ""):
            body = openmetrics.generate_latest(self.registry)  # type: ignore[no-untyped-call]
            return web.Response(
                body=body, headers={"Content-Type": openmetrics.CONTENT_TYPE_LATEST}
            )
        body = generate_latest(self.registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})

    def _watch_lag(self, due: float) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._lags.append(max(now - due, 0.0))
        self._lag_timer = loop.call_at(now + LAG_EVERY, self._watch_lag, now + LAG_EVERY)

    # -- counting ---------------------------------------------------------------------------------

    def count_entries(self, entries: Sequence[Entry]) -> None:
        """Count what a commit holds. On the hot path: about half a microsecond an entry."""
        for _, stream, _, at, kind, data in entries:
            if kind == "step.completed":
                counts = self._counts_of(stream)
                counts.steps[0] += 1
                # The last field, when it is there at all: `..."started_at":1767225600000000}`.
                if data[-30:-17] == b'"started_at":':
                    seconds = (at - int(data[-17:-1])) / SECOND
                    histogram = counts.step_seconds
                    histogram.counts[bisect_left(STEP_SECONDS, seconds)] += 1
                    histogram.total += seconds
            elif kind == "wait.ended":
                # A key before it cannot hold these bytes: in JSON its quotes have backslashes.
                place = data.find(b'"outcome":"') + 11
                outcome = _OUTCOMES.get(data[place : place + 2])
                if outcome is not None:
                    self._counts_of(stream).steps[outcome] += 1
            elif kind == "step.failed":
                self._count_failure(stream, at, data)
            elif kind == "event.emitted":
                source = _decode_source(data).source.partition(":")[0]
                if source not in SOURCES:
                    source = OTHER
                self._events[source] = self._events.get(source, 0) + 1

    def _count_failure(self, stream: str, at: int, data: bytes) -> None:
        counts = self._counts_of(stream)
        failed = _decode_failure(data)
        counts.steps[1 if failed.retry_at is None else 2] += 1
        if failed.started_at:
            counts.step_seconds.observe((at - failed.started_at) / SECOND)

    def _counts_of(self, stream: str) -> FunctionCounts:
        """The counts of a run's function. A run that has just committed is in memory."""
        system = self.engine.system
        if not system.is_live(stream):
            return self._other
        actor = system.cell(stream).actor
        if type(actor) is not RunActor:
            return self._other
        function_id = actor.run.function_id
        return self._functions.get(function_id) or self._counts_for(function_id)

    def _counts_for(self, function_id: str) -> FunctionCounts:
        known = self._functions.get(function_id)
        if known is None:
            is_registered = self.engine.host.spec(function_id) is not None
            if not is_registered or len(self._functions) >= MAX_FUNCTIONS:
                return self._other
            known = self._functions[function_id] = FunctionCounts(function_id)
        return known

    def _count_run(self, run: Run) -> None:
        counts = self._counts_for(run.function_id)
        status = run.status._value_
        counts.runs[status] = counts.runs.get(status, 0) + 1
        began = run.created_at if run.started_at is None else run.started_at
        if run.ended_at is not None:
            counts.run_seconds.observe((run.ended_at - began) / SECOND)

    def _count_commit(self, entries: int, seconds: float) -> None:
        commits = self._commits
        commits.append((entries, seconds))
        if len(commits) >= COMMITS_AT_ONCE:
            self._count_commits()

    def _count_commits(self) -> None:
        for entries, seconds in self._commits:
            self._batch_entries.observe(entries)
            self._commit_seconds.observe(seconds)
        self._commits.clear()

    @property
    def middleware(self) -> Middleware:
        """Counts requests. The outermost one, so that it sees the status that goes out."""

        @web.middleware
        async def count_requests(request: web.Request, handler: Handler) -> web.StreamResponse:
            began = perf_counter()
            status = 500
            try:
                response = await handler(request)
                status = response.status
                return response
            except web.HTTPException as error:
                status = error.status
                raise
            except asyncio.CancelledError:
                status = 499
                raise
            finally:
                seconds = None if request.get(LIVE) else perf_counter() - began
                resource = request.match_info.route.resource
                route = resource.canonical if resource is not None else UNMATCHED
                method = request.method if request.method in METHODS else OTHER
                self.count_request(method, route, status, seconds)

        return count_requests

    def count_request(self, method: str, route: str, status: int, seconds: float | None) -> None:
        """Count an answer; `route` is a template, `seconds` None for one that has no end."""
        key = method, route, status
        self._requests[key] = self._requests.get(key, 0) + 1
        if seconds is not None:
            histogram = self._request_seconds.get((method, route))
            if histogram is None:
                histogram = self._request_seconds[method, route] = Histogram(HTTP_SECONDS)
            histogram.observe(seconds)

    # -- showing ----------------------------------------------------------------------------------

    def describe(self) -> Iterable[Metric]:
        """Nothing: the registry need not collect to know the names."""
        return []

    def collect(self) -> Iterable[Metric]:
        """Every family, as of now."""
        yield from self._collect_runs()
        yield from self._collect_requests()
        yield from self._collect_journal()
        yield from self._collect_actors()
        yield from self._collect_blockages()
        yield from self._collect_gauges()

    def _collect_runs(self) -> Iterable[Metric]:
        runs = CounterMetricFamily(
            "ironflow_runs", "Runs that ended.", labels=["function_id", "status"]
        )
        run_seconds = HistogramMetricFamily(
            "ironflow_run_duration_seconds", "From start to end of a run.", labels=["function_id"]
        )
        steps = CounterMetricFamily(
            "ironflow_steps",
            "Recorded outcomes of steps and waits; `retrying` is a failed attempt.",
            labels=["function_id", "status"],
        )
        step_seconds = HistogramMetricFamily(
            "ironflow_step_duration_seconds",
            "How long attempts of steps executed until they were recorded; not waits.",
            labels=["function_id"],
        )
        for counts in [*self._functions.values(), self._other]:
            label = counts.label
            for status, count in counts.runs.items():
                runs.add_metric([label, status], count)
            for status, count in zip(STEP_OUTCOMES, counts.steps, strict=True):
                if count:
                    steps.add_metric([label, status], count)
            _add(run_seconds, [label], counts.run_seconds)
            _add(step_seconds, [label], counts.step_seconds)
        events = CounterMetricFamily(
            "ironflow_events_emitted", "Events that were stored.", labels=["source_kind"]
        )
        for source, count in self._events.items():
            events.add_metric([source], count)
        return [runs, run_seconds, steps, step_seconds, events, self._collect_fates()]

    def _collect_fates(self) -> Metric:
        fates = CounterMetricFamily(
            "ironflow_intake_requests",
            "Events and invocations that a function's flow control decided about, by what became "
            "of them: started, skipped, debounced, batched, or filtered by its trigger.",
            labels=["function_id", "fate"],
        )
        counted: dict[tuple[str, str], int] = {}
        labels: set[str] = set()
        for (function_id, fate), count in self.engine.environment.fates.items():
            known = function_id in labels or len(labels) < MAX_FUNCTIONS
            label = function_id if known else OTHER
            labels.add(label)
            counted[label, fate] = counted.get((label, fate), 0) + count
        for key, count in counted.items():
            fates.add_metric(list(key), count)
        return fates

    def _collect_requests(self) -> Iterable[Metric]:
        requests = CounterMetricFamily(
            "ironflow_http_requests", "Requests.", labels=["method", "route", "status"]
        )
        for (method, route, status), count in self._requests.items():
            requests.add_metric([method, route, str(status)], count)
        seconds = HistogramMetricFamily(
            "ironflow_http_request_duration_seconds",
            "Time to answer; live streams are not in it.",
            labels=["method", "route"],
        )
        for labels, histogram in self._request_seconds.items():
            _add(seconds, labels, histogram)
        return [requests, seconds]

    def _collect_journal(self) -> Iterable[Metric]:
        stats = self.engine.store.journal.stats
        self._count_commits()
        batch = HistogramMetricFamily("ironflow_journal_batch_entries", "Entries in a commit.")
        _add(batch, [], self._batch_entries)
        seconds = HistogramMetricFamily("ironflow_journal_commit_seconds", "Time of a commit.")
        _add(seconds, [], self._commit_seconds)
        return [
            batch,
            seconds,
            _counter("ironflow_journal_entries", "Entries committed.", stats.entries),
            _counter("ironflow_journal_failures", "Appends that were refused.", stats.failures),
            _gauge("ironflow_journal_waiting", "Appends not yet committed.", stats.waiting),
        ]

    def _collect_blockages(self) -> Iterable[Metric]:
        """Which functions held up the loop; `none` for what belongs to none."""
        times = CounterMetricFamily(
            "ironflow_event_loop_blocked",
            "Times that the event loop was held up for longer than the setting `blocked_after`.",
            labels=["function_id"],
        )
        seconds = CounterMetricFamily(
            "ironflow_event_loop_blocked_seconds",
            "For how long in all.",
            labels=["function_id"],
        )
        for function_id, (count, total) in self.engine.blockages.by_function.items():
            times.add_metric([function_id or NO_FUNCTION], count)
            seconds.add_metric([function_id or NO_FUNCTION], total)
        return [times, seconds]

    def _collect_actors(self) -> Iterable[Metric]:
        depth = GaugeMetricFamily(
            "ironflow_mailbox_depth", "Messages in all mailboxes.", labels=["kind"]
        )
        deepest = GaugeMetricFamily(
            "ironflow_mailbox_depth_max", "Messages in the fullest mailbox.", labels=["kind"]
        )
        live = GaugeMetricFamily("ironflow_actors", "Actors in memory.", labels=["kind"])
        restarts = CounterMetricFamily(
            "ironflow_actor_restarts", "Actors restarted after a failure.", labels=["kind"]
        )
        for kind, total in self.engine.system.statistics_by_kind().items():
            depth.add_metric([kind], total.mailbox)
            deepest.add_metric([kind], total.deepest)
            live.add_metric([kind], total.live)
            restarts.add_metric([kind], total.restarts)
        return [depth, deepest, live, restarts]

    def _collect_gauges(self) -> Iterable[Metric]:
        engine = self.engine
        pool, timers = engine.pool, engine.timers
        return [
            _gauge("ironflow_active_runs", "Runs whose body executes.", pool.active),
            _gauge(
                "ironflow_queued_runs",
                "Runs that wait for a slot or for a process that serves their function.",
                pool.queued + pool.unserved,
            ),
            _by_policy(pool.lanes.waiting_by_policy()),
            _gauge("ironflow_slots", "Bodies that may execute at once.", pool.capacity),
            _gauge("ironflow_timers", "Timers in memory.", len(timers)),
            _gauge("ironflow_waiters", "Waits for events.", len(engine.environment.waiters)),
            _gauge(
                "ironflow_timer_lateness_seconds",
                "By how much the last timer rang late.",
                timers.lateness,
            ),
            _gauge(
                "ironflow_event_loop_lag_seconds",
                f"The largest delay of the event loop in {LAG_EVERY * LAG_KEPT:g} seconds.",
                max(self._lags, default=0.0),
            ),
        ]


class _Failed(msgspec.Struct):
    retry_at: int | None = None
    started_at: int = 0


_decode_failure = msgspec.json.Decoder(_Failed).decode


def _add(family: HistogramMetricFamily, labels: Sequence[str], histogram: Histogram) -> None:
    family.add_metric(labels, histogram.buckets(), histogram.total)


def _gauge(name: str, about: str, value: float) -> Metric:
    return GaugeMetricFamily(name, about, value=value)


def _by_policy(waiting: Mapping[str, int]) -> Metric:
    family = GaugeMetricFamily(
        "ironflow_lane_waiting_runs",
        "Runs that flow control lets wait, by the policy of the lane that they wait in.",
        labels=["policy"],
    )
    for policy, runs in waiting.items():
        family.add_metric([policy], runs)
    return family


def _counter(name: str, about: str, value: float) -> Metric:
    return CounterMetricFamily(name, about, value=value)
