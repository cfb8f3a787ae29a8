"""One engine with its store and executor, made from settings: the default environment's, and one
for each other environment. One of them executes the functions of this process.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ironflow.actors.engine import Engine
from ironflow.core.access.directory import DEFAULT_ENVIRONMENT
from ironflow.core.clock import SECOND, Clock, Ids
from ironflow.core.errors import Conflict, Draining, StorageError
from ironflow.sdk.executor import Executor
from ironflow.sdk.function import Registry
from ironflow.settings import Settings
from ironflow.storage.memory.store import MemoryStore
from ironflow.storage.ports import RetentionRule, Store
from ironflow.storage.secret_files import SecretFolder
from ironflow.storage.sqlite.store import open_sqlite
from ironflow.web.caller import HttpCaller
from ironflow.web.environments import PLACE, Opened

_COMPANIONS = ("", "-wal", "-shm", "-journal", ".lock")
"""Ends of the names of the files of a database."""


@dataclass(slots=True)
class Runtime:
    """An engine and what it stands on."""

    store: Store
    executor: Executor
    engine: Engine

    async def stop(self, grace: float) -> None:
        """Drain: no new work, running steps get `grace` seconds, all is committed. The store stays
        open."""
        self.engine.begin_drain()
        await self.executor.drain(grace)
        await self.store.journal.flush()
        # Requests that wait for a run would hold the sockets open.
        self.engine.endings.fail(Draining("the server is shutting down; the run goes on later"))
        await self.engine.stop()


class Assembly:
    """Makes runtimes, all with the same settings. An `Opener` of environments."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        ids: Ids,
        caller: HttpCaller,
        on_fatal: Callable[[str], None],
    ) -> None:
        self.settings, self.clock, self.ids = settings, clock, ids
        self.caller, self.on_fatal = caller, on_fatal
        self.functions: dict[str, Registry] = {}
        """What is executed in which environment but the default one."""

    def make(self, store: Store, functions: Registry, environment: str = "") -> Runtime:
        """A runtime that is not started."""
        settings = self.settings
        executor = Executor(
            functions,
            self.clock,
            self.ids,
            linger=settings.linger,
            step_threads=settings.step_threads,
            step_processes=settings.step_processes,
            logs=(settings.log_format, settings.log_level),
            cancel_grace=settings.cancel_grace,
        )
        engine = Engine(
            store,
            executor,
            self.clock,
            self.ids,
            capacity=settings.concurrency,
            max_crashes=settings.max_crashes,
            retention=retention_rules(settings),
            keep_prefect_events=settings.keep_prefect_events,
            lease=settings.worker_lease,
            actor_wait=settings.actor_wait,
            caller=self.caller,
            on_fatal=self.on_fatal,
            salt=(environment,) if environment else (),
            environment_id=environment or DEFAULT_ENVIRONMENT,
            secrets=SecretFolder(Path(settings.secrets, environment)) if settings.secrets else None,
        )
        executor.lookup = engine.host.spec
        if settings.public_url:
            place = PLACE.replace("{environment}", environment) if environment else ""
            engine.endpoints.callback = settings.public_url.rstrip("/") + place
        return Runtime(store, executor, engine)

    async def open_store(self, environment: str | None = None, *, new: bool = True) -> Store:
        """The database that the settings name, or one beside it. Raises `StorageError` when that
        should be there and is not, `Conflict` when a `new` one is there already with something in
        it (an empty one is what a creation left that was killed).
        """
        settings = self.settings
        if settings.db == "memory":
            return MemoryStore()
        path = settings.db
        if environment is not None:
            path = environment_path(settings.db, environment)
            if not new and not await asyncio.to_thread(os.path.exists, path):
                raise StorageError(f"{path} is missing")
        store = await open_sqlite(
            path,
            durability=settings.durability,
            clock=self.clock,
            on_fatal=lambda error: self.on_fatal(f"the journal failed: {error}"),
        )
        if environment is not None and new and store.journal.last_seq:
            await store.close()
            raise Conflict(f"{path} is there already and is not empty: move it away")
        return store

    # -- environments -----------------------------------------------------------------------------

    async def open(self, environment: str, *, new: bool) -> Opened:
        """See `web.environments.Opener`."""
        store = await self.open_store(environment, new=new)
        functions = self.functions.get(environment)
        runtime = self.make(store, Registry() if functions is None else functions, environment)
        try:
            await runtime.engine.start()
        except BaseException:
            await _close(runtime, 0.0)
            raise
        grace = 0.0 if functions is None else self.settings.drain_timeout
        return Opened(runtime.engine, partial(_close, runtime, grace))

    async def erase(self, environment: str) -> None:
        """See `web.environments.Opener`."""
        if self.settings.db != "memory":
            await asyncio.to_thread(_unlink, environment_path(self.settings.db, environment))


async def _close(runtime: Runtime, grace: float) -> None:
    await runtime.stop(grace)
    await runtime.store.close()


def environment_path(db: str, environment: str) -> str:
    """Where the database of an environment is: beside that of the default one."""
    path = Path(db)
    return str(path.with_name(f"{path.stem}.{environment}{path.suffix}"))


def _unlink(path: str) -> None:
    for end in _COMPANIONS:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path + end)


def retention_rules(settings: Settings) -> list[RetentionRule]:
    """What may be deleted."""
    rules = []
    for kind in ("completed", "failed", "cancelled", "events"):
        age: float = getattr(settings, f"keep_{kind}")
        count: int = getattr(settings, f"max_{kind}")
        if age or count:
            max_age = int(age * SECOND) if age else None
            rules.append(RetentionRule(kind=kind, max_age=max_age, max_count=count or None))
    return rules
