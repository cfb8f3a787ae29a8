"""Testing durable functions: virtual time, crashes at will, mocked steps, no server and no sleeping.

    def test_reminder():
        async def main(world):
            run_id = await world.start(reminder, {"user": 7})
            await world.advance("2d")
            world.crash()                      # kill -9: only what was committed is left
            assert (await world.wait(run_id)).result == "reminded"
        testing.run(main)

Everything is the real engine over the in-memory store; only the clock, and what you replace, is not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from typing import Any

import msgspec

from ironflow.actors.engine import Engine
from ironflow.actors.virtual_time import VirtualClock, VirtualTimeLoop, run_virtual
from ironflow.core import commands as c
from ironflow.core.clock import Ids
from ironflow.core.durations import parse_duration
from ironflow.core.entries import Failure
from ironflow.core.errors import Gone, StorageError
from ironflow.core.runs import Run, Step
from ironflow.core.values import convert_input, encode_plain
from ironflow.sdk.executor import Executor
from ironflow.sdk.function import Function, Registry, registry
from ironflow.sdk.waits import Duration
from ironflow.storage.memory import MemoryStore

Mock = Callable[..., Any]


class Ended(msgspec.Struct, frozen=True):
    """How a run ended."""

    run_id: str
    status: str
    result: Any
    error: Failure | None
    reason: str | None
    steps: dict[str, Step]
    executions: int


class World:
    """A process with one engine, its store, and a clock that only moves when nothing else can."""

    def __init__(self, loop: VirtualTimeLoop, functions: Registry, linger: float) -> None:
        self.loop, self.functions, self.linger = loop, functions, linger
        self.clock: VirtualClock = loop.clock
        self.ids = Ids(self.clock)
        self.store = MemoryStore()
        self.calls: list[tuple[str, str]] = []
        """(function id, step name) of every call of a step's function, in order."""
        self._mocks: dict[tuple[str | None, str], Mock] = {}
        self._crash_after: int | None = None
        self._chores: list[asyncio.Task[None]] = []
        self.executor: Executor
        self.engine: Engine

    async def boot(self) -> None:
        """Start the process: what the store says is unfinished goes on."""
        self.executor = Executor(self.functions, self.clock, self.ids, linger=self.linger)
        self.executor.intercept = self._intercept
        self.engine = Engine(self.store, self.executor, self.clock, self.ids)
        await self.engine.start()

    # -- what a test does -------------------------------------------------------------------------

    async def start(self, function: Function | str, input: Any = None, **options: Any) -> str:
        """Create a run; its id. `idempotency_key` as over HTTP."""
        function_id = function if isinstance(function, str) else function.id
        body = encode_plain(input, "input")
        created = await self.engine.invoke(function_id, body, **options)
        return created.run_id

    async def run(self, function: Function | str, input: Any = None) -> Ended:
        """Create a run and wait for its end."""
        return await self.wait(await self.start(function, input))

    async def wait(self, run_id: str, limit: Duration = "30d") -> Ended:
        """The end of a run, `limit` of virtual time away at most; crashes in between are survived.

        Raises `TimeoutError` that says what the run waits for.
        """
        end = self.loop.time() + parse_duration(limit, "limit")
        patience = 1.0
        while self.loop.time() < end:
            engine = self.engine
            with suppress(StorageError, Gone):
                run = await engine.wait(run_id, min(patience, end - self.loop.time()))
                if run is not None and engine is self.engine:
                    return await self._describe(run)
            patience = min(patience * 2, 3600.0)
        run = await self.state(run_id)
        raise TimeoutError(f"run {run_id} is {run.status.value} and waits for {list(run.open)}")

    async def emit(self, name: str, data: Any = None, **options: Any) -> c.Emitted:
        """Emit an event."""
        return await self.engine.emit(name, encode_plain(data, "data"), **options)

    async def state(self, run_id: str) -> Run:
        """The run as the journal has it."""
        return await self.engine.run(run_id)

    async def advance(self, duration: Duration) -> None:
        """Let virtual time pass."""
        await asyncio.sleep(parse_duration(duration, "duration"))

    def mock_step(self, name: str, outcome: Any, function: Function | str | None = None) -> None:
        """From now on the step `name` (of one function, or of all) does not call its function.

        `outcome`: an exception to raise, a callable to call with the step's arguments, or the value.
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

    def crash_at_step(self, number: int) -> None:
        """Crash while the `number`-th call of a step's function from now on is executing (1 is the next)."""
        self._crash_after = number

    async def crash(self) -> None:
        """End the process as `kill -9` would, and start it again on what was committed."""
        self.kill()
        await self.boot()

    def kill(self) -> None:
        """End the process: every task, every actor and all that was not committed is gone."""
        self.store = self.store.after_crash()
        self.engine.timers.stop()
        # Its one turn comes before those in which the bodies learn that they are cancelled.
        self._chores.append(self.loop.create_task(self.engine.system.stop()))
        self.executor.abandon()

    # -- inside -----------------------------------------------------------------------------------

    def _intercept(self, function_id: str, name: str, fn: Callable[..., Any]) -> Callable[..., Any]:
        mock = self._mocks.get((function_id, name)) or self._mocks.get((None, name))

        async def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append((function_id, name))
            if self._crash_after is not None:
                self._crash_after -= 1
                if self._crash_after == 0:
                    self._crash_after = None
                    self.kill()
                    self._chores.append(self.loop.create_task(self.boot()))
                    await asyncio.Event().wait()  # this process is dead
            result = (mock or fn)(*args, **kwargs)
            return await result if asyncio.iscoroutine(result) else result

        return call

    async def _describe(self, run: Run) -> Ended:
        result = None
        if run.result is not None:
            data = await self.engine.load_payload(run.result)
            result = convert_input(data, None, "result")
        return Ended(
            run.id, run.status.value, result, run.error, run.reason, dict(run.steps), run.execution
        )


def run(
    main: Callable[[World], Coroutine[Any, Any, Any]],
    *,
    functions: Iterable[Function] | None = None,
    linger: float = 2.0,
) -> Any:
    """Run a test in a world of its own, serving `functions` or all there are; what `main` returns.

    `linger=0` lets go of a waiting body at once, so that every wait is followed by a replay.
    """
    served = registry
    if functions is not None:
        served = Registry()
        for function in functions:
            served.add(function)

    async def body() -> Any:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        world = World(loop, served, linger)
        await world.boot()
        try:
            return await main(world)
        finally:
            world.executor.abandon()
            await world.engine.stop()

    return run_virtual(body)
