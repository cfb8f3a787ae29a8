"""How a body in this process reports: asks to the run's actor, patient with a journal that cannot
write now.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, TypeVar

from ironflow.actors.kernel.actor import Ref
from ironflow.core.errors import Gone, NonRetryable, NotFound, StorageError, Suspended
from ironflow.core.messages import Message
from ironflow.core.runs.commands import ExecutionLeft
from ironflow.core.workflows.stream import StreamedEvent

if TYPE_CHECKING:
    from ironflow.actors.environment import Environment

R = TypeVar("R")
log = logging.getLogger("ironflow.runs")

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds between attempts to report while the journal cannot write."""
MOST_CRASHES = 10
"""Crashes of the run's actor over one report after which the run fails: a body that was only let go
of would come to it again, without end.
"""


class LocalEffects:
    """`ironflow.core.runs.execution.Effects` by asking the actor of the run."""

    __slots__ = ("_environment", "_execution", "_ref")

    def __init__(self, environment: Environment, ref: Ref, execution: int) -> None:
        self._environment, self._ref, self._execution = environment, ref, execution

    async def ask(self, command: Message[R]) -> R:
        """Report until it is recorded. Every command is safe to repeat: the actor knows what it
        recorded.
        """
        try:
            return await self._ref.request(command, at_once=True)
        except (StorageError, Gone) as error:
            failure = error
        return await self._insist(command, failure)

    def report(
        self,
        command: Message[R],
        then: Callable[[R | None, Exception | None], None],
        *,
        at_once: bool,
    ) -> None:
        """See `core.runs.execution.LocalEffects`."""
        self._ref.send(command, then, at_once=at_once)

    def request(self, command: Message[R]) -> asyncio.Future[R]:
        """Report now, and see later with `settle` what became of it. What is requested in a row is
        recorded in that order, in one commit if there is room. Raises `Gone` when the process is
        stopping.
        """
        return self._ref.request(command)

    async def settle(self, command: Message[R], requested: asyncio.Future[R]) -> R:
        """The answer to a report that was requested; it is repeated until it is recorded."""
        try:
            return await requested
        except (StorageError, Gone) as error:
            failure = error
        return await self._insist(command, failure)

    async def _insist(self, command: Message[R], failure: StorageError | Gone) -> R:
        pause, crashes = FIRST_PAUSE, 0
        while True:
            if self._environment.system.is_stopped:
                raise Suspended("the process is stopping")
            # A full disk is waited out; an actor that cannot digest this report will not learn to.
            crashes += isinstance(failure, Gone)
            if crashes > MOST_CRASHES:
                raise NonRetryable(f"what the run reports cannot be recorded: {failure}")
            log.warning("%s cannot be recorded, trying again: %s", self._ref.address, failure)
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)
            try:
                return await self._ref.request(command)
            except (StorageError, Gone) as error:
                failure = error

    async def blob(self, digest: str) -> bytes:
        """A large value. Raises `NotFound` when the database has lost it."""
        data = await self._environment.store.reader.blob(digest)
        if data is None:
            raise NotFound("stored value", digest)
        return data

    def follow(self, run_id: str, after: int = -1) -> AsyncIterator[StreamedEvent]:
        """The streamed events of a child, which may be about to be created."""
        return self._environment.streams.follow(run_id, after, expected=True)

    def serve(self, function_id: str) -> None:
        """Runs of the function that wait for a process may go on here."""
        self._environment.pool.serve(function_id)

    def leave(self, lost: str | None = None) -> None:
        """The body is out of memory."""
        if not self._environment.system.is_stopped:
            self._ref.post(ExecutionLeft(self._execution, lost))
