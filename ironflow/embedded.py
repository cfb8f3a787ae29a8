"""Durable functions with no server: `await ironflow.run(fn, input, db="app.db")`.

The same engine over the same journal. With a database the run survives the process: the next call
with the same `key` finds it and goes on, and everything else that is unfinished in the file goes
on, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from ironflow.actors.engine import Engine
from ironflow.core.clock import Clock, Ids, SystemClock
from ironflow.core.errors import RunError, StorageError
from ironflow.core.runs.state import Run, RunStatus
from ironflow.core.values.codec import convert_input, encode_plain
from ironflow.sdk.executor import LINGER, Executor
from ironflow.sdk.function import Function, Registry, registry
from ironflow.storage.memory.store import MemoryStore
from ironflow.storage.ports import Store
from ironflow.storage.sqlite.store import open_sqlite

DRAIN_SECONDS = 20.0


@asynccontextmanager
async def open_engine(
    db: str | Path | None = None,
    *,
    functions: Iterable[Function] | None = None,
    durability: str = "full",
    clock: Clock | None = None,
    linger: float = LINGER,
) -> AsyncIterator[Engine]:
    """An engine in this process, on a database file or (None) in memory, serving `functions` or all
    there are.

    Raises `StorageError`, for instance `DatabaseInUse` when a server has the file.
    """
    clock = clock or SystemClock()
    ids = Ids(clock)
    served = registry
    if functions is not None:
        served = Registry()
        for function in functions:
            served.add(function)
    engine: Engine

    def fail(error: StorageError) -> None:
        """The journal is broken for good: whoever waits for a run must not wait for ever."""
        engine.endings.fail(error)

    store: Store = MemoryStore()
    if db is not None:
        store = await open_sqlite(db, durability=durability, clock=clock, on_fatal=fail)
    executor = Executor(served, clock, ids, linger=linger)
    engine = Engine(store, executor, clock, ids)
    executor.lookup = engine.host.spec
    try:
        await engine.start()
        yield engine
    finally:
        engine.begin_drain()
        await executor.drain(DRAIN_SECONDS)
        await store.journal.flush()
        await engine.stop()
        await store.close()


async def run(
    function: Function,
    input: Any = None,
    *,
    db: str | Path | None = None,
    key: str | None = None,
    timeout: float | None = None,
) -> Any:
    """Run a durable function to its end, here, and return its result as JSON values.

    `key` names the run: the same key again finds it, also after a crash. Raises `RunError` when it
    fails or is cancelled, `TimeoutError` after `timeout` seconds (with a database the run goes on
    next time),
    `InvalidInput`, `IdempotencyConflict` for the same key with other input.
    """
    body = encode_plain(input, "input")
    async with open_engine(db) as engine:
        return await run_on(engine, function, body, key=key, timeout=timeout)


async def run_on(
    engine: Engine, function: Function, body: bytes, *, key: str | None, timeout: float | None
) -> Any:
    """`run` on an engine that is there, with the input as JSON."""
    created, ended = await engine.invoke_and_wait(
        function.id, body, idempotency_key=key, timeout=timeout
    )
    if ended is None:
        raise TimeoutError(f"run {created.run_id} has not ended after {timeout:g} s")
    return await result_of(engine, ended)


async def result_of(engine: Engine, run: Run) -> Any:
    """The result of a run that has ended. Raises `RunError` unless it completed."""
    if run.status is RunStatus.COMPLETED and run.result is not None:
        return convert_input(await engine.load_payload(run.result), None, "result")
    kind = run.error.kind if run.error is not None else "Cancelled"
    reason = run.error.message if run.error is not None else run.reason or ""
    raise RunError(run.id, run.function_id, run.status.value, kind, reason)


def run_sync(function: Function, input: Any = None, **options: Any) -> Any:
    """`run` for programs without an event loop."""
    return asyncio.run(run(function, input, **options))
