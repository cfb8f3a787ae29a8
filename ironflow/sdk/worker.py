"""A worker: runs functions of this process for a server, which hands out runs over a held request.

    from ironflow import Worker
    Worker("http://127.0.0.1:4200").run()

The bodies run in the very executor that the server has for its own, so everything that a function
can do works here, too. When the server goes away the worker waits for it and registers again; runs
that it had are then handed out anew, with what they had recorded.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import signal
import socket
import sys
import uuid
from collections.abc import Coroutine, Iterable, Mapping
from functools import partial
from typing import Any

import aiohttp
import msgspec

from ironflow.core.clock import Clock, Ids, SystemClock
from ironflow.core.errors import ConfigError, Gone, IronflowError
from ironflow.core.functions.definition import Definition
from ironflow.core.remote.reports import Shadow, Signals, encode_report
from ironflow.core.runs import commands as c
from ironflow.discovery import locate
from ironflow.sdk.executor import CANCEL_GRACE, STEP_THREADS, Executor
from ironflow.sdk.function import Function, Registry, registry
from ironflow.sdk.link import FIRST_PAUSE, LONGEST_PAUSE, Link, News, Refused, RemoteEffects
from ironflow.sdk.slots import Held, Slots
from ironflow.version import VERSION

log = logging.getLogger("ironflow.worker")

CONCURRENCY = 10
"""Bodies at once."""
HEARTBEAT = 10.0
"""Seconds between heartbeats."""
POLL = 20.0
"""Seconds for which a request for work is held."""
DRAIN = 60.0
"""Seconds that running steps get when the worker ends."""


_decode_news = msgspec.json.Decoder(News).decode


class Worker:
    """Runs `functions` (all that are defined, if not given) for a server."""

    def __init__(
        self,
        server_url: str | None = None,
        *,
        functions: Iterable[Function] | None = None,
        concurrency: int = CONCURRENCY,
        labels: Mapping[str, str] | None = None,
        worker_id: str | None = None,
        heartbeat: float = HEARTBEAT,
        poll: float = POLL,
        drain_timeout: float = DRAIN,
        step_threads: int = STEP_THREADS,
        step_processes: int = 0,
        cancel_grace: float = CANCEL_GRACE,
        clock: Clock | None = None,
    ) -> None:
        """`server_url`: where none is given, IRONFLOW_SERVER_URL, else the server that runs in
        this folder or one above (see `ironflow.discovery`), else this machine. Times are in
        seconds. Raises `ConfigError`.
        """
        url = server_url or locate().url
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"server_url: {url!r} is not a URL like http://127.0.0.1:4200")
        if concurrency < 1:
            raise ConfigError("concurrency: must be at least 1")
        self.url, self.concurrency = url, concurrency
        self.id = worker_id or str(uuid.uuid4())
        self.labels = dict(labels or {})
        self.heartbeat, self.poll, self.drain_timeout = heartbeat, poll, drain_timeout
        self._step_threads, self._step_processes = step_threads, step_processes
        self._cancel_grace = cancel_grace
        self._clock = clock or SystemClock()
        self._functions = functions
        self._registry = registry
        self._chores: set[asyncio.Task[Any]] = set()
        self._lifeline: int | None = None
        self._instance = uuid.uuid4().hex
        self._stop = asyncio.Event()
        self._executor: Executor
        self._link: Link
        self._slots: Slots

    # -- life -------------------------------------------------------------------------------------

    def run(self, lifeline: int | None = None) -> None:
        """Work until SIGTERM or Ctrl-C, then let running steps end. Blocks. `lifeline`: the reading
        end of a pipe; the worker also ends when whoever has the other end is gone.
        """
        self._lifeline = lifeline
        from ironflow.logs import configure_logging

        if not logging.getLogger("ironflow").handlers:
            configure_logging("text", "info")
        try:
            import uvloop
        except ImportError:
            asyncio.run(self._run_with_signals())
        else:
            uvloop.run(self._run_with_signals())

    async def _run_with_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(NotImplementedError):  # Windows
                loop.add_signal_handler(number, self.stop)
        if self._lifeline is not None:
            loop.add_reader(self._lifeline, self._end_alone, self._lifeline)
        await self.serve()

    def _end_alone(self, lifeline: int) -> None:
        asyncio.get_running_loop().remove_reader(lifeline)
        if not self._stop.is_set():
            log.warning("whoever started this worker is gone: it ends, too")
            self._stop.set()

    def stop(self) -> None:
        """Ask for nothing more and let running steps end; a second time: end now."""
        if self._stop.is_set():
            os._exit(1)
        self._stop.set()

    async def serve(self) -> None:
        """Work until `stop`. Raises `ConfigError` when the server refuses what this worker is."""
        if self._functions is not None:
            self._registry = Registry()
            for function in self._functions:
                self._registry.add(function)
        if not len(self._registry):
            raise ConfigError("functions: this worker has none to run")
        connector = aiohttp.TCPConnector(limit=16)
        async with aiohttp.ClientSession(connector=connector) as session:
            self._link = link = Link(self.url, self.id, session)
            self._slots = slots = Slots(self.concurrency, self._begin, self._give_back)
            link.window = lambda: slots.window(link.round_trip)
            link.hear = self._hear
            ids = Ids(self._clock)
            # A body that waits is let go of at once: the server hands it out when it can go on.
            self._executor = Executor(
                self._registry,
                self._clock,
                ids,
                linger=0.0,
                step_threads=self._step_threads,
                step_processes=self._step_processes,
                cancel_grace=self._cancel_grace,
            )
            self._executor.is_remote = True
            await self._work()

    async def _work(self) -> None:
        stopped: asyncio.Task[Any] = asyncio.create_task(self._stop.wait())
        chores: list[asyncio.Task[Any]] = [
            asyncio.create_task(self._ask_for_jobs()),
            asyncio.create_task(self._beat()),
        ]
        try:
            await asyncio.wait([stopped, *chores], return_when=asyncio.FIRST_COMPLETED)
            for chore in chores:
                if chore.done() and not chore.cancelled():
                    chore.result()  # a refusal that ends the worker
        finally:
            for chore in (stopped, chores[0]):
                chore.cancel()
            await self._say_farewell(draining=True)
            self._slots.give_back_waiting()
            if self._slots:
                log.info("draining: running steps get up to %g s", self.drain_timeout)
            await self._executor.drain(self.drain_timeout)
            await self._link.close()
            chores[1].cancel()
            await asyncio.gather(stopped, *chores, return_exceptions=True)
            await self._say_farewell(draining=False)

    # -- registration -----------------------------------------------------------------------------

    async def _register(self) -> None:
        """Tell the server what this is, for as long as it takes. Raises `ConfigError` for a no."""
        pause = FIRST_PAUSE
        while True:
            try:
                await self._introduce()
                return
            except Refused as refusal:
                if refusal.status < 500 and refusal.status not in (408, 429):
                    raise ConfigError(f"{self.url} refuses this worker: {refusal.detail}") from None
                reason = str(refusal)
            except Gone as error:
                reason = str(error)
            log.warning("waiting for the server: %s", reason)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(pause * 2, LONGEST_PAUSE)

    async def _introduce(self) -> None:
        self._link.forget_window()
        # A server that was started anew has handed these out anew; one that was not has others.
        self._slots.give_back_waiting()
        for function in self._registry.all():
            definition: Definition = msgspec.structs.replace(
                function.spec.definition, placement="pull"
            )
            await self._link.request("PUT", f"/api/v1/functions/{definition.id}", definition)
        facts = {
            "function_ids": [function.id for function in self._registry.all()],
            "max_concurrent_jobs": self.concurrency,
            "hostname": socket.gethostname(),
            "labels": self.labels,
            "version": {
                "sdk": VERSION,
                "runtime": f"python-{sys.version_info[0]}.{sys.version_info[1]}",
            },
            "heartbeat_interval": self.heartbeat,
            "reports": "commands",
            "window": self.concurrency,
            "instance": self._instance,
        }
        await self._link.request("POST", self._link.path("register"), facts)
        log.info(
            "worker %s runs %d function(s) for %s, %d at once",
            self.id,
            len(self._registry),
            self.url,
            self.concurrency,
        )

    # -- jobs -------------------------------------------------------------------------------------

    async def _ask_for_jobs(self) -> None:
        """A request for work is held at any time: what the server has for this worker comes with
        its answer, or with that to reports.
        """
        await self._register()
        while True:
            await self._take(self._poll_once())

    async def _poll_once(self) -> News:
        free = max(self.concurrency - len(self._slots), 0)
        path = self._link.path(f"jobs?available={free}&wait={self.poll:g}")
        text = await self._link.request("GET", path, seconds=self.poll + 10)
        return _decode_news(text) if text else News()

    async def _take(self, asked: Coroutine[Any, Any, News]) -> None:
        try:
            news = await asked
        except Refused as refusal:
            if refusal.status == 404:
                await self._register()
                return
            log.warning("the server hands out nothing now: %s", refusal)
            await asyncio.sleep(FIRST_PAUSE * 5 * random.uniform(0.5, 1.0))
            return
        except Gone as error:
            log.warning("the server does not answer: %s", error)
            await self._register()
            return
        self._hear(news)

    def _hear(self, news: News) -> None:
        """Jobs and signals. Signals first: a run that is dropped may come again at once."""
        if news.signals:
            self._heed(news.signals)
        for job in news.jobs:
            if job.job_id not in self._slots.jobs:
                shadow = Shadow(job.record, self._clock)
                effects = RemoteEffects(
                    self._link, job.job_id, job.execution_seq, job.lease_token, shadow
                )
                held = Held(job, shadow, effects)
                effects.over = partial(self._slots.free, held)
                self._slots.add(held)
        if self._stop.is_set():
            self._slots.give_back_waiting()

    def _begin(self, held: Held) -> None:
        """A slot is free for a job."""
        self._executor.start(held.shadow.assignment(held.job.execution_seq, held.effects))
        task = self._executor.task(held.run_id)
        if task is None:
            self._end(held)
        else:
            task.add_done_callback(lambda _: self._end(held))

    def _end(self, held: Held) -> None:
        """The body is out of memory."""
        self._slots.remove(held)
        if held.effects.left:
            self._leave(held)

    def _give_back(self, held: Held) -> None:
        """A job that has not begun: another worker may have it."""
        self._slots.remove(held)
        self._leave(held)

    def _leave(self, held: Held) -> None:
        job = held.job
        left = c.ExecutionLeft(job.execution_seq)
        report = encode_report(job.job_id, job.execution_seq, job.lease_token, left)
        self._spawn(self._link.report(report))

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        chore = asyncio.get_running_loop().create_task(work)
        self._chores.add(chore)
        chore.add_done_callback(self._chores.discard)

    def _heed(self, signals: Signals) -> None:
        jobs = self._slots.jobs
        for woken in signals.woken:
            held = jobs.get(woken.job_id)
            if held is not None:
                held.shadow.update(woken.step)
                self._executor.wake(held.run_id, held.job.execution_seq, woken.step.key)
        for job_id in signals.cancelled:
            held = jobs.get(job_id)
            if held is not None:
                self._executor.cancel(held.run_id, held.job.execution_seq)
        for job_id in signals.dropped:
            held = jobs.get(job_id)
            if held is not None:
                self._executor.drop(held.run_id)

    async def _say_farewell(self, *, draining: bool) -> None:
        """Tell the server that nothing new is wanted, or that this worker is gone: it need not find
        out by itself.
        """
        jobs = [{"job_id": job_id} for job_id in self._slots.jobs]
        with contextlib.suppress(IronflowError):
            if draining:
                body = {"worker_id": self.id, "jobs": jobs, "draining": True}
                await self._link.request("POST", self._link.path("heartbeat"), body, seconds=2.0)
            else:
                path = self._link.path("").rstrip("/")
                await self._link.request("DELETE", path, seconds=2.0)

    # -- heartbeats -------------------------------------------------------------------------------

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self.heartbeat)
            jobs = [{"job_id": job_id} for job_id in self._slots.jobs]
            try:
                await self._link.request(
                    "POST",
                    self._link.path("heartbeat"),
                    {
                        "worker_id": self.id,
                        "active_jobs": len(jobs),
                        "jobs": jobs,
                        "draining": self._stop.is_set(),
                    },
                )
            except IronflowError as error:
                # Whoever asks for jobs next registers again, if that is what it takes.
                log.debug("heartbeat: %s", error)
