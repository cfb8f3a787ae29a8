"""`ctx` for sync bodies: the same operations, each of which blocks the body's thread until it is
recorded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import CancelledError
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from ironflow.sdk.execution import current_branch
from ironflow.sdk.waits import Duration, Event, Wait, Winner

if TYPE_CHECKING:
    from ironflow.core.runs.entries import EventRef
    from ironflow.sdk.context import Context, RunLogger
    from ironflow.sdk.function import Function
    from ironflow.sdk.steps import Steps


async def _noted(operation: Coroutine[Any, Any, Any]) -> Any:
    """An operation that its branch can cancel."""
    branch, task = current_branch.get(), asyncio.current_task()
    if branch is None or task is None:
        return await operation
    branch.calls.add(task)
    try:
        return await operation
    finally:
        branch.calls.discard(task)


class BlockingSteps:
    """`ironflow.sdk.steps.Steps`, blocking. Branches of `parallel` and `map` are sync and get a
    thread each.
    """

    def __init__(self, steps: Steps, loop: asyncio.AbstractEventLoop) -> None:
        self._steps, self._loop = steps, loop

    def _wait(self, operation: Coroutine[Any, Any, Any]) -> Any:
        # The thread's context travels along, so that the operation knows its branch.
        if hasattr(self._loop, "hold"):
            operation = self._yield_time(operation)
        try:
            return asyncio.run_coroutine_threadsafe(_noted(operation), self._loop).result()
        except CancelledError:
            # An `Exception` here, but no failure that the body could handle.
            raise asyncio.CancelledError from None

    def value(self, make: Callable[[], Any]) -> Any:
        """Ask for a recorded value on the loop, where the execution lives."""

        async def ask() -> Any:
            return make()

        return self._wait(ask())

    async def _yield_time(self, operation: Coroutine[Any, Any, Any]) -> Any:
        """On a loop of virtual time a thread that only waits must not hold the time up."""
        loop: Any = self._loop
        loop.release()
        try:
            return await operation
        finally:
            loop.hold()

    def run(self, name: str, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """See `Steps.run`."""
        return self._wait(self._steps.run(name, fn, *args, **kwargs))

    def sleep(self, name: str, duration: Duration) -> None:
        """See `Steps.sleep`."""
        self._wait(self._steps.sleep(name, duration))

    def sleep_until(self, name: str, moment: datetime | str | float) -> None:
        """See `Steps.sleep_until`."""
        self._wait(self._steps.sleep_until(name, moment))

    def wait_for_event(self, name: str, event: str, **options: Any) -> Event:
        """See `Steps.wait_for_event`."""
        found: Event = self._wait(self._steps.wait_for_event(name, event, **options))
        return found

    def wait_any(self, name: str, waits: Mapping[str, Wait]) -> Winner:
        """See `Steps.wait_any`."""
        winner: Winner = self._wait(self._steps.wait_any(name, waits))
        return winner

    def wait_all(self, name: str, waits: Mapping[str, Wait]) -> dict[str, Any]:
        """See `Steps.wait_all`."""
        values: dict[str, Any] = self._wait(self._steps.wait_all(name, waits))
        return values

    def invoke(self, name: str, function: Function | str, input: Any = None, **options: Any) -> Any:
        """See `Steps.invoke`."""
        return self._wait(self._steps.invoke(name, function, input, **options))

    def emit(self, name: str, event: str, data: Any = None) -> str:
        """See `Steps.emit`."""
        return str(self._wait(self._steps.emit(name, event, data)))

    def parallel(
        self,
        name: str,
        branches: Mapping[str, Callable[[], Any]] | Sequence[Callable[[], Any]],
        **options: Any,
    ) -> Any:
        """See `Steps.parallel`."""
        return self._wait(self._steps.parallel(name, branches, **options))

    def map(
        self, name: str, fn: Callable[[Any], Any], items: Iterable[Any], **options: Any
    ) -> list[Any]:
        """See `Steps.map`."""
        values: list[Any] = self._wait(self._steps.map(name, fn, items, **options))
        return values

    def compensate(self, name: str, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """See `Steps.compensate`."""
        self._steps.compensate(name, fn, *args, **kwargs)


class BlockingContext:
    """`ironflow.sdk.context.Context` for a body that runs in a thread."""

    def __init__(self, context: Context, loop: asyncio.AbstractEventLoop) -> None:
        self._context = context
        self.step = BlockingSteps(context.step, loop)

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self._context.run_id

    @property
    def function_id(self) -> str:
        """The function's id."""
        return self._context.function_id

    @property
    def attempt(self) -> int:
        """Which attempt of the whole function this is, from 1."""
        return self._context.attempt

    @property
    def event(self) -> EventRef | None:
        """The event that started the run, if one did."""
        return self._context.event

    @property
    def events(self) -> list[Event]:
        """The events of the run's batch, in order; empty for a run that was not started by one."""
        return self._context.events

    @property
    def log(self) -> RunLogger:
        """Logs with the run's id, silent while replaying."""
        return self._context.log

    def now(self) -> datetime:
        """The present, recorded."""
        moment: datetime = self.step.value(self._context.now)
        return moment

    def random(self) -> float:
        """A random number, recorded."""
        return float(self.step.value(self._context.random))

    def uuid(self) -> UUID:
        """A fresh UUID, recorded."""
        made: UUID = self.step.value(self._context.uuid)
        return made
