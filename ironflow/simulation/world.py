"""One process with an engine in it, in virtual time, that can be killed and started again at will.

Everything is the real engine; the store is in memory, and the clock moves only when nothing else
can. `ironflow.testing` hands this out to users, the simulator builds its disasters on it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import copy_context
from datetime import datetime
from typing import Any

import msgspec

from ironflow.actors.engine import Engine
from ironflow.actors.kernel.virtual_time import VirtualClock, VirtualTimeLoop
from ironflow.core.clock import Ids, to_datetime
from ironflow.core.durations import parse_duration
from ironflow.core.errors import Gone, StorageError
from ironflow.core.runs import commands as c
from ironflow.core.runs.state import Run, Step
from ironflow.core.values.codec import convert_input, encode_plain
from ironflow.core.values.payloads import Failure
from ironflow.sdk.executor import Executor
from ironflow.sdk.function import Function, Registry
from ironflow.sdk.waits import Duration
from ironflow.storage.memory.store import MemoryStore

Mock = Callable[..., Any]


class Ended(msgspec.Struct, frozen=True):
    """How a run ended. `result` is JSON, `executions` counts how often its body was begun."""

    run_id: str
    status: str
    result: Any
    error: Failure | None
    reason: str | None
    steps: dict[str, Step]
    executions: int


class World:
    """A process with one engine, its store, and a clock that only moves when nothing else can."""

    def __init__(
        self,
        loop: VirtualTimeLoop,
        functions: Registry,
        *,
        linger: float = 2.0,
        seed: int = 0,
        store: MemoryStore | None = None,
        **engine: Any,
    ) -> None:
        self.loop, self.functions, self.linger = loop, functions, linger
        self.clock: VirtualClock = loop.clock
        self.ids = Ids(self.clock, random.Random(seed))
        self.store = store or MemoryStore()
        self.lives = 0
        """How often the process was started."""
        self.calls: list[tuple[str, str]] = []
        """(function id, step name) of every call of a step's function, in order."""
        self._engine_options = engine
        self._context = copy_context()
        self._mocks: dict[tuple[str | None, str], Mock] = {}
        self._crash_in: int | None = None
        self._crash_after = False
        self._chores: set[asyncio.Task[None]] = set()
        self._up, self._died = asyncio.Event(), asyncio.Event()
        self.executor: Executor
        self.engine: Engine

    # -- what a test does -------------------------------------------------------------------------

    async def start(self, function: Function | str, input: Any = None, **options: Any) -> str:
        """Create a run; its id. `idempotency_key` as over HTTP."""
        function_id = function if isinstance(function, str) else function.id
        body = encode_plain(input, "input")
        await self._up.wait()
        created = await self.engine.invoke(function_id, body, **options)
        return created.run_id

    async def run(
        self, function: Function | str, input: Any = None, limit: Duration = "300d"
    ) -> Ended:
        """Create a run and wait for its end."""
        return await self.wait(await self.start(function, input), limit)

    async def wait(self, run_id: str, limit: Duration = "300d") -> Ended:
        """The end of a run, `limit` of virtual time away at most; crashes in between are survived.

        Raises `TimeoutError` that says what the run waits for.
        """
        end = self.loop.time() + parse_duration(limit, "limit")
        while self.loop.time() < end:
            await self._up.wait()
            run = await self._wait_in_this_life(run_id, end - self.loop.time())
            if run is not None:
                return await self._describe(run)
        run = await self.state(run_id)
        raise TimeoutError(f"run {run_id} is {run.status.value} and waits for {list(run.open)}")

    async def emit(self, name: str, data: Any = None, **options: Any) -> c.Emitted:
        """Emit an event."""
        await self._up.wait()
        return await self.engine.emit(name, encode_plain(data, "data"), **options)

    async def cancel(self, run_id: str, reason: str = "cancelled by request") -> str:
        """Cancel a run; its status."""
        await self._up.wait()
        return await self.engine.cancel(run_id, reason)

    async def pause(self, run_id: str) -> str:
        """Pause a run at its next step boundary; its status."""
        await self._up.wait()
        return await self.engine.pause(run_id)

    async def resume(self, run_id: str) -> str:
        """Let a paused run go on; its status."""
        await self._up.wait()
        return await self.engine.resume(run_id)

    async def retry(self, run_id: str) -> str:
        """Try a failed or cancelled run again from its failure; its status."""
        await self._up.wait()
        return await self.engine.retry(run_id)

    async def state(self, run_id: str) -> Run:
        """The run as the journal has it."""
        return await self.engine.run(run_id)

    def now(self) -> datetime:
        """The present of this world."""
        return to_datetime(self.clock.now())

    async def advance(self, duration: Duration) -> None:
        """Let virtual time pass."""
        await asyncio.sleep(parse_duration(duration, "duration"))

    def mock_step(self, name: str, outcome: Any, function: Function | str | None = None) -> None:
        """From now on the step `name` (of one function, or of all) does not call its function.

        `outcome`: an exception to raise, a callable to call with the step's arguments, or the
        value.
        """
        function_id = function.id if isinstance(function, Function) else function
        if isinstance(outcome, BaseException):

            def mock(*_: Any, **__: Any) -> Any:
                raise outcome

        elif callable(outcome):
            mock = outcome
        else:

            def mock(*_: Any, **__: Any) -> Any:
                return outcome

        self._mocks[function_id, name] = mock

    def crash_at_step(self, number: int, *, after: bool = False) -> None:
        """Crash at the `number`-th call of a step's function from now on (1 is the next).

        The function is not called; with `after` it is, and its result is lost.
        """
        self._crash_in, self._crash_after = number, after

    def crash_at_commit(self, number: int) -> None:
        """Crash right after the `number`-th commit from now on (1 is the next)."""
        left = number

        def count(*_: object) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                self.kill()
                self._spawn(self.boot())

        self.store.journal.on_commit(count)

    async def die(self) -> None:
        """Crash inside a mocked step: `world.mock_step("send", world.die)`."""
        self.kill()
        self._spawn(self.boot())
        await asyncio.Event().wait()  # the caller does not live on

    async def crash(self) -> None:
        """End the process as `kill -9` would, and start it again on what was committed."""
        self.kill()
        await self.boot()

    def kill(self) -> None:
        """End the process: every task, every actor and all that was not committed is gone."""
        self._up.clear()
        self._died.set()
        self.store = self.store.after_crash()
        self.engine.timers.stop()
        self.engine.pool.windows.stop()
        # Its one turn comes before those in which the bodies learn that they are cancelled.
        self._spawn(self.engine.system.stop())
        self.executor.abandon()

    async def boot(self) -> None:
        """Start the process: what the store says is unfinished goes on."""
        self.build()
        self.lives += 1
        life, self._died = self.lives, asyncio.Event()
        died = self._died
        await self.engine.start()
        if life == self.lives and not died.is_set():  # else it was killed meanwhile
            self._up.set()

    def build(self) -> None:
        """Make the parts of one life."""
        self.executor = Executor(self.functions, self.clock, self.ids, linger=self.linger)
        self.executor.intercept = self._intercept
        self.engine = Engine(
            self.store, self.executor, self.clock, self.ids, **self._engine_options
        )
        self.executor.lookup = self.engine.host.spec

    # -- inside -----------------------------------------------------------------------------------

    async def _wait_in_this_life(self, run_id: str, seconds: float) -> Run | None:
        """The run once it has ended; None when the process dies before, or it takes longer."""
        died = self.loop.create_task(self._died.wait())
        ended = self.loop.create_task(self.engine.wait(run_id, seconds))
        try:
            await asyncio.wait({died, ended}, return_when=asyncio.FIRST_COMPLETED)
            if not died.done():
                return await ended
            with suppress(StorageError, Gone, asyncio.CancelledError):
                ended.cancel()
                await ended
            return None
        finally:
            died.cancel()
            ended.cancel()

    async def _intercept(
        self, function_id: str, name: str, fn: Callable[..., Any]
    ) -> Callable[..., Any]:
        self.calls.append((function_id, name))
        fn = self._mocks.get((function_id, name)) or self._mocks.get((None, name)) or fn
        if self._crash_in is not None:
            self._crash_in -= 1
            if self._crash_in == 0:
                self._crash_in = None
                if self._crash_after:
                    return self._dying(fn)
                await self.die()
        return fn

    def _dying(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        async def call(*args: Any, **kwargs: Any) -> None:
            with suppress(Exception):
                result = fn(*args, **kwargs)
                if asyncio.iscoroutine(result):
                    await result
            await self.die()

        return call

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        # Not in the context of the body that the crash happens in.
        chore = self.loop.create_task(work, context=self._context.copy())
        self._chores.add(chore)
        chore.add_done_callback(self._chores.discard)

    async def _describe(self, run: Run) -> Ended:
        result = None
        if run.result is not None:
            data = await self.engine.load_payload(run.result)
            result = convert_input(data, None, "result")
        return Ended(
            run.id, run.status.value, result, run.error, run.reason, dict(run.steps), run.execution
        )
