"""Branches of a parallel block: each a task with an order of its own, so that their steps are told
apart.

A fail-fast block that fails is remembered with the branch that failed. On a replay that branch
fails again, and the others say again only what they had done when they were cancelled: nothing of
them comes back to life.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from ironflow.core.errors import NonDeterminism, NonRetryable, Unwound
from ironflow.sdk.execution import Branch, Execution, Place, current_branch
from ironflow.sdk.failures import is_cancelled
from ironflow.sdk.waits import Outcome


class Block:
    """One execution of a parallel block. `branches`: at least one."""

    def __init__(
        self,
        execution: Execution,
        place: Place,
        branches: Mapping[str, Callable[[], Any]],
        fail_fast: bool,
    ) -> None:
        self.execution, self.place, self.branches = execution, place, branches
        self.fail_fast = fail_fast
        self.frozen = execution.branch().frozen
        self.results: dict[str, Any] = dict.fromkeys(branches)
        self.errors: dict[str, Exception] = {}
        self.survivor: str | None = None
        """The one branch that is not frozen."""
        self._waiting = iter(branches.items())
        self._remaining = 0

    @property
    def failed(self) -> str | None:
        """The branch that failed first."""
        return next(iter(self.errors), None)

    async def run(self, concurrency: int | None) -> dict[str, Any]:
        """Results by label, in the order of the branches; `Outcome`s unless fail-fast."""
        tasks = self._start(concurrency)
        try:
            await _gather(tasks)
        except asyncio.CancelledError:
            if self.execution.unwinding and not self.execution.compensating:
                raise Unwound from None
            raise
        finally:
            self._take_back()
        return self.results

    async def fail_again(self, concurrency: int | None) -> dict[str, Any]:
        """Raise what the block raised when it failed; bring its branches no further than they
        were.
        """
        assert self.place.step is not None
        self.survivor = str((await self.execution.value(self.place.step))["failed"])
        self.frozen = True
        tasks = self._start(concurrency)
        try:
            await _end(tasks)
        finally:
            self._take_back()
        for task in tasks:
            error = None if task.cancelled() else task.exception()
            if error is not None and not isinstance(error, Exception):
                raise error
        if self.survivor not in self.errors:
            self.execution.check()
            recorded = f"{self.place.key} (failed in branch {self.survivor!r})"
            self.execution.fatal = NonDeterminism(
                self.place.scope, self.place.pos, recorded, f"{self.place.key} (did not fail)"
            )
            raise self.execution.fatal
        raise self.errors[self.survivor]

    # The asking branch waits for its branches, each of which is active in its place; the last one
    # to end hands the activity back.

    def _start(self, concurrency: int | None) -> list[asyncio.Task[None]]:
        width = min(concurrency or len(self.branches), len(self.branches))
        self._remaining = width
        self.execution.active += width - 1
        tasks = [self.execution.loop.create_task(self._work()) for _ in range(width)]
        for task in tasks:
            task.add_done_callback(_seen)
        return tasks

    def _take_back(self) -> None:
        if self._remaining:  # tasks that were cancelled before they began
            self.execution.active -= self._remaining - 1

    async def _work(self) -> None:
        try:
            for label, branch in self._waiting:
                self.results[label] = await self._run_branch(label, branch)
        finally:
            self._remaining -= 1
            if self._remaining:
                self.execution.active -= 1
        if self._remaining:
            await self.execution.park_if_idle()

    async def _run_branch(self, label: str, call: Callable[[], Any]) -> Any:
        segment = label.replace("%", "%25").replace("/", "%2F").replace("#", "%23")
        branch = Branch(self.execution, f"{self.place.key}/{segment}/")
        branch.frozen = self.frozen and label != self.survivor
        token = current_branch.set(branch)
        try:
            value = await self._call(branch, call)
        except Exception as error:
            if not self.fail_fast:
                return Outcome(error=error)
            self.errors[label] = error
            raise
        finally:
            current_branch.reset(token)
        return value if self.fail_fast else Outcome(value=value)

    async def _call(self, branch: Branch, call: Callable[[], Any]) -> Any:
        execution = self.execution
        try:
            return await execution.executor.call_branch(call)
        except asyncio.CancelledError as error:
            ending = execution.leaving or execution.unwinding or branch.frozen
            if ending or is_cancelled():
                raise
            raise NonRetryable("the branch raised CancelledError") from error
        except SystemExit as error:
            raise NonRetryable(f"the branch called sys.exit({error.code!r})") from error


async def _gather(tasks: list[asyncio.Task[None]]) -> None:
    """Wait for all; the first failure cancels the others and is raised once they have ended."""
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    except asyncio.CancelledError:
        await _end(tasks, cancel=True)
        raise
    failed = [t for t in tasks if t.done() and not t.cancelled() and t.exception() is not None]
    if failed:
        error = failed[0].exception()
        assert error is not None
        # A branch that is suspended or unwound takes the others along by itself: what they do is
        # still recorded.
        await _end(tasks, cancel=isinstance(error, Exception))
        # Its traceback leads here, and from here to the tasks that hold it: without the lists and
        # the name the body is freed at once.
        tasks.clear()
        failed.clear()
        try:
            raise error
        finally:
            del error
    if any(task.cancelled() for task in tasks):
        raise asyncio.CancelledError


async def _end(tasks: list[asyncio.Task[None]], *, cancel: bool = False) -> None:
    """Until all have ended. Cancelled meanwhile, it cancels them: no branch outlives its block."""
    cancelled = False
    while True:
        for task in tasks if cancel else ():
            task.cancel()
        try:
            await asyncio.wait(tasks)
        except asyncio.CancelledError:
            cancel = cancelled = True
        else:
            break
    if cancelled:
        raise asyncio.CancelledError


def _seen(task: asyncio.Task[None]) -> None:
    """Who waits for the task may be cancelled before it looks; then nobody else is to complain."""
    if not task.cancelled():
        task.exception()
