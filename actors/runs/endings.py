"""Who waits, in this process, for a run to end. Nothing durable: a caller that holds a connection
open.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from ironflow.core.runs.state import Run

log = logging.getLogger("ironflow.actors")

Listener = Callable[[Run], None]


class Ending(asyncio.Future[Run]):
    """The end of a run. Who takes it by `tell` instead of awaiting it is told at once, and not a
    turn of the loop later.
    """

    _told: Callable[[Ending], None] | None = None

    def tell(self, told: Callable[[Ending], None]) -> None:
        """Have `told` called when it is there, or never will be."""
        self._told = told
        self.add_done_callback(Ending._tell)

    def set_result(self, result: Run, /) -> None:
        """See `asyncio.Future`."""
        super().set_result(result)
        self._tell()

    def _tell(self) -> None:
        told, self._told = self._told, None
        if told is not None:
            try:
                told(self)
            except Exception:  # whoever publishes the end has others to tell
                log.exception("somebody who waited for a run's end could not be told")


class Endings:
    """Futures by run id, and listeners to every end (metrics)."""

    def __init__(self) -> None:
        self._waiting: dict[str, list[Ending]] = {}
        self._listeners: list[Listener] = []

    def expect(self, run_id: str) -> Ending:
        """A future that gets the run when it ends. Give it back with `forget`."""
        future = Ending(loop=asyncio.get_running_loop())
        self._waiting.setdefault(run_id, []).append(future)
        return future

    async def until(self, future: Ending, seconds: float | None) -> Run | None:
        """The run when it ends; None when that takes longer. Needs no task of its own, unlike
        `asyncio.timeout`: whoever asks over HTTP may have none.
        """
        if seconds is None or future.done():
            return await future
        expired: list[bool] = []
        alarm = asyncio.get_running_loop().call_later(seconds, _expire, future, expired)
        try:
            return await future
        except asyncio.CancelledError:
            if expired:
                return None
            raise
        finally:
            alarm.cancel()

    def forget(self, run_id: str, future: Ending) -> None:
        """No longer interested, for whatever reason."""
        futures = self._waiting.get(run_id)
        if futures is not None and future in futures:
            futures.remove(future)
            if not futures:
                del self._waiting[run_id]

    def are_awaited(self, run_id: str) -> bool:
        """Whether somebody waits for the run, and may look at its steps."""
        return run_id in self._waiting

    def listen(self, listener: Listener) -> None:
        """Tell `listener` of every run that ends, after the commit; it may have no steps."""
        self._listeners.append(listener)

    def fail(self, error: Exception) -> None:
        """No run will end here any more: tell everyone who waits."""
        waiting, self._waiting = self._waiting, {}
        for futures in waiting.values():
            for future in futures:
                if not future.done():
                    future.set_exception(error)

    def publish(self, run: Run) -> None:
        """The run has ended, durably."""
        for listener in self._listeners:
            listener(run)
        for future in self._waiting.pop(run.id, ()):
            if not future.done():
                future.set_result(run)


def _expire(future: Ending, expired: list[bool]) -> None:
    if future.cancel():
        expired.append(True)
