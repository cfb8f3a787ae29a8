"""Executes bodies in this process: the `Host` of `ironflow.core.runs.execution`.

Async bodies are tasks on the loop. Sync bodies get a thread each, with a `ctx` whose operations
block; sync steps run in a bounded pool of threads. A body that waits stays in memory for a short
while (`linger`), so that short sleeps and retries cost no replay; then it is let go of, and
replayed when what it waits for comes.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from functools import cached_property, partial
from types import FunctionType
from typing import TYPE_CHECKING, Any

from ironflow.core.clock import Clock, Ids
from ironflow.core.errors import (
    Gone,
    IronflowError,
    StaleExecution,
    StepTimeout,
    Suspended,
    Unwound,
)
from ironflow.core.functions.definition import Executor as ExecutorName
from ironflow.core.functions.definition import FunctionSpec
from ironflow.core.runs import commands as c
from ironflow.core.runs.entries import CancelRung
from ironflow.core.runs.execution import Assignment, RunningStep
from ironflow.core.runs.state import Step
from ironflow.core.workflows.state import WorkflowState
from ironflow.sdk.attempts import NO_RETRY
from ironflow.sdk.bodies import Body
from ironflow.sdk.context import current_run_id
from ironflow.sdk.execution import Branch, Execution, Place, current_branch
from ironflow.sdk.failures import describe_failure
from ironflow.sdk.function import Registry
from ironflow.sdk.function_body import run_function
from ironflow.sdk.threads import contain, run_in_thread, run_on_own_loop

if TYPE_CHECKING:
    from ironflow.sdk.processes import ProcessPool

log = logging.getLogger("ironflow.runs")

LINGER = 2.0
"""Seconds that a waiting body stays in memory."""
IDLE_BODIES = 2000
"""Waiting bodies that stay in memory at most."""
STEP_THREADS = 32
CANCEL_GRACE = 2.0
"""Seconds in which a process that was asked to end its step, or got SIGTERM, may do so."""
Interceptor = Callable[[str, str, Callable[..., Any]], Awaitable[Callable[..., Any]]]


class Executor:
    """Bodies of the functions in `registry`, on the running loop."""

    def __init__(
        self,
        registry: Registry,
        clock: Clock,
        ids: Ids,
        *,
        linger: float = LINGER,
        step_threads: int = STEP_THREADS,
        step_processes: int = 0,
        logs: tuple[str, str] | None = None,
        cancel_grace: float = CANCEL_GRACE,
    ) -> None:
        """`step_processes`: 0 is one a core; `logs`: format and level of their log lines.
        `cancel_grace`: seconds between two rungs of the ladder on which they are made to end.
        """
        self.cancel_grace = cancel_grace
        self.registry, self.clock, self.ids = registry, clock, ids
        self.loop = asyncio.get_running_loop()
        self.linger = linger
        self._context = copy_context()
        self._bodies: dict[str, Body] = {}
        self._idle: dict[Body, float] = {}
        self._sweep: asyncio.TimerHandle | None = None
        self._threads = ThreadPoolExecutor(step_threads, thread_name_prefix="ironflow-step")
        self._process_options = step_processes, logs
        self._draining = False
        self._chores: set[asyncio.Task[None]] = set()
        self.lookup: Callable[[str], FunctionSpec | None] = self.spec
        """Finds functions that a body may invoke: here, or wherever the engine knows of."""
        self.is_remote = False
        """The engine is in another process and knows more functions than `lookup` does."""
        self.intercept: Interceptor | None = None
        """For tests: given a function id, a step's name and its function, answers what is called
        instead.
        """

    @cached_property
    def processes(self) -> ProcessPool:
        """Made, and its modules loaded, when the first step wants a process."""
        from ironflow.sdk.processes import ProcessPool

        return ProcessPool(self.loop, *self._process_options)

    def _close_pools(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        if "processes" in self.__dict__:
            self.processes.close()

    # -- the Host ---------------------------------------------------------------------------------

    def spec(self, function_id: str) -> FunctionSpec | None:
        """The function, if it is served here."""
        function = self.registry.get(function_id)
        return function.spec if function is not None else None

    def specs(self) -> Iterable[FunctionSpec]:
        """Every function served here, in the order in which they were added."""
        return [function.spec for function in self.registry]

    def start(self, assignment: Assignment) -> None:
        """Begin an execution. The engine starts none before the last one of the run has left."""
        function = self.registry.get(assignment.function_id)
        if function is None or self._draining:
            assignment.effects.leave()
            return
        execution = function.make_body(self, assignment)
        self._bodies[assignment.run_id] = execution
        # Whatever made the engine act now, it may be another run: nothing of its context is passed
        # on.
        work = self._execute(execution)
        execution.task = self.loop.create_task(work, context=self._context.copy())
        execution.task.add_done_callback(lambda _: self._ended(execution))

    def _ended(self, body: Body) -> None:
        """A task that is cancelled before its first turn never comes to say that it leaves."""
        if self._bodies.get(body.run_id) is body:
            self._leave(body)

    def attach(
        self,
        run_id: str,
        execution: int,
        steps: Mapping[str, Step],
        order: Mapping[str, list[str]],
        unsettled: AbstractSet[str],
        workflow: WorkflowState | None = None,
    ) -> None:
        """The run's record is kept in these objects from now on."""
        body = self._bodies.get(run_id)
        if body is not None and body.number == execution:
            body.attach(steps, order, unsettled, workflow)

    def wake(self, run_id: str, execution: int, key: str | None) -> bool:
        """Let branches whose waits have ended go on."""
        body = self._bodies.get(run_id)
        if body is None or body.number != execution or body.leaving:
            return False
        body.wake(key)
        return True

    def cancel(self, run_id: str, execution: int) -> None:
        """Unwind a body."""
        body = self._bodies.get(run_id)
        if body is not None and body.number == execution:
            body.unwind()

    def drop(self, run_id: str) -> None:
        """Let go of a body that waits."""
        body = self._bodies.get(run_id)
        if body is not None:
            body.suspend()

    def is_hot(self, run_id: str, execution: int) -> bool:
        """Whether this execution's body is in memory and stays there."""
        body = self._bodies.get(run_id)
        return body is not None and body.number == execution and not body.leaving

    def is_active(self, run_id: str) -> bool:
        """Whether any body of the run is in memory."""
        return run_id in self._bodies

    def task(self, run_id: str) -> asyncio.Task[None] | None:
        """The task of a run's body, while it is in memory."""
        body = self._bodies.get(run_id)
        return body.task if body is not None else None

    def running_steps(self, run_id: str) -> list[RunningStep]:
        """The steps that execute now."""
        body = self._bodies.get(run_id)
        return body.running_steps() if body is not None else []

    def body(self, run_id: str) -> Body | None:
        """The body of a run, if it is in memory."""
        return self._bodies.get(run_id)

    @property
    def threads(self) -> ThreadPoolExecutor:
        """Where sync steps run."""
        return self._threads

    def __len__(self) -> int:
        return len(self._bodies)

    # -- idle bodies ------------------------------------------------------------------------------

    def note_idle(self, body: Body) -> None:
        """The body may have nothing to do but wait: it is let go of when that lasts."""
        if not body.is_idle or body.leaving:
            return
        self._idle.pop(body, None)
        self._idle[body] = self.loop.time() + self.linger
        if len(self._idle) > IDLE_BODIES:
            next(iter(self._idle)).suspend()
        if self._sweep is None:
            self._sweep = self.loop.call_later(self.linger, self._drop_idle, context=self._context)

    def note_busy(self, body: Body) -> None:
        """The body goes on."""
        self._idle.pop(body, None)

    def _drop_idle(self) -> None:
        self._sweep = None
        now = self.loop.time()
        for body, deadline in list(self._idle.items()):
            if deadline > now:
                self._sweep = self.loop.call_at(deadline, self._drop_idle, context=self._context)
                break
            del self._idle[body]
            if body.is_idle:
                body.suspend()

    # -- a body -----------------------------------------------------------------------------------

    async def _execute(self, body: Body) -> None:
        current_run_id.set(body.run_id)
        try:
            await body.run()
        except (Suspended, Unwound, StaleExecution, Gone):
            self._leave(body)
        except asyncio.CancelledError:
            self._leave(body)
            if not (self._draining or body.leaving):
                raise
        except Exception as error:
            log.exception("execution %d of run %s broke", body.number, body.run_id)
            await self._give_up(body, error)
        else:
            self._forget(body)

    async def run_function(self, body: Execution) -> None:
        """The body of a function, up to its end and that of its compensations."""
        await run_function(body)

    async def _give_up(self, body: Body, error: Exception) -> None:
        """A fault of ours: the run fails with it, for trying again would only repeat it without
        end.
        """
        failure = describe_failure(error, NO_RETRY)
        end = c.EndExecution(execution=body.number, outcome="failed", error=failure)
        try:
            await body.effects.ask(end)
        except (IronflowError, Suspended):
            self._leave(body)
        else:
            self._forget(body)

    def _leave(self, body: Body) -> None:
        self._forget(body)
        body.effects.leave()

    def _forget(self, body: Body) -> None:
        self._idle.pop(body, None)
        if self._bodies.get(body.run_id) is body:
            del self._bodies[body.run_id]
        # The task's context has the body's branch: with each other they would outlive the run until
        # the collector looks at what is old, and 20 KiB of them.
        body.task = None

    # -- calls of user code -----------------------------------------------------------------------

    def calls_on_loop(self, fn: Callable[..., Any], where: ExecutorName | None) -> bool:
        """Whether a step's function is a coroutine's that is awaited as it is: the usual case."""
        return where is None and self.intercept is None and _is_async(fn)

    async def call(
        self,
        body: Execution,
        place: Place,
        seconds: float | None,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        where: ExecutorName | None = None,
    ) -> Any:
        """Call a step's function, for at most `seconds`. Raises `StepTimeout`."""
        if seconds is None:
            return await self._call_step(body, place, fn, args, kwargs, where)
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                return await self._call_step(body, place, fn, args, kwargs, where)
        except TimeoutError as error:
            # A TimeoutError of the user's own is the user's failure, not ours.
            if limit.expired():
                raise StepTimeout(place.name, seconds, place.key in body.killed) from error
            raise

    async def _call_step(
        self,
        body: Execution,
        place: Place,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        where: ExecutorName | None,
    ) -> Any:
        mocked = False
        if self.intercept is not None:
            called = await self.intercept(body.function.id, place.name, fn)
            mocked, fn = called is not fn, called
        if _is_async(fn):
            if where is None or where == "loop" or mocked:
                return await fn(*args, **kwargs)
            if where == "thread":
                fn = partial(run_on_own_loop, fn)
        elif where is None:
            where = body.function.definition.executor
        if where == "loop":
            result = fn(*args, **kwargs)
        elif where == "process" and not mocked:
            return await self._call_in_process(body, place, fn, args, kwargs)
        else:
            context = copy_context()
            work = partial(context.run, contain, fn, *args, **kwargs)
            result = await self.loop.run_in_executor(self._threads, work)
        return await result if inspect.isawaitable(result) else result

    async def _call_in_process(
        self,
        body: Execution,
        place: Place,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        task = asyncio.current_task()
        assert task is not None
        body.killable.add(task)
        try:
            return await self.processes.call(
                place.name,
                fn,
                args,
                kwargs,
                partial(self._note_rung, body, place),
                lambda: self.cancel_grace if body.unwinding and not body.leaving else 0.0,
            )
        finally:
            body.killable.discard(task)

    def _note_rung(self, body: Execution, place: Place, rung: CancelRung, pid: int) -> None:
        """A step's process was told to end."""
        if rung in ("terminated", "killed"):
            body.killed[place.key] = rung
        if body.unwinding:
            note = c.NoteCancel(body.number, rung, f"process {pid} of step {place.name!r}")
            chore = self.loop.create_task(_report_note(body, note))
            self._chores.add(chore)
            chore.add_done_callback(self._chores.discard)

    async def call_branch(self, branch: Callable[[], Any]) -> Any:
        """Call a branch of a parallel block; a sync one belongs to a sync body and gets a
        thread.
        """
        if _is_async(branch):
            return await branch()
        asking = current_branch.get()
        if asking is not None and not asking.execution.function.is_async:
            result = await self._in_branch_thread(asking, branch)
        else:
            result = branch()  # a lambda or a partial that makes a coroutine
        return await result if inspect.isawaitable(result) else result

    async def _in_branch_thread(self, asking: Branch, work: Callable[[], Any]) -> Any:
        """A thread cannot be cancelled: the branch is told, and ends at its next durable
        operation.
        """
        thread = self.loop.create_task(run_in_thread(self.loop, work))
        try:
            return await asyncio.shield(thread)
        except asyncio.CancelledError:
            asking.stop()
            if not asking.execution.leaving:
                await asyncio.wait([thread])
            if thread.done() and not thread.cancelled():
                thread.exception()
            raise

    # -- the end ----------------------------------------------------------------------------------

    def abandon(self) -> None:
        """Drop everything at once and report nothing, as if the process had ended. For
        simulation.
        """
        self._draining = True
        if self._sweep is not None:
            self._sweep.cancel()
        bodies, self._bodies = self._bodies, {}
        for body in bodies.values():
            body.suspend()  # what a thread waits for ends, too
            if body.task is not None:
                body.task.cancel()
        self._close_pools()

    async def drain(self, seconds: float) -> None:
        """Bring every body to its next step boundary, for at most `seconds`, then let go of all."""
        self._draining = True
        if self._sweep is not None:
            self._sweep.cancel()
        for body in list(self._bodies.values()):
            body.suspend()
        tasks = [b.task for b in self._bodies.values() if b.task is not None]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=seconds)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=1.0)
        self._close_pools()


async def _report_note(body: Execution, note: c.NoteCancel) -> None:
    with suppress(IronflowError, Suspended):  # it has ended meanwhile: then it needs no note
        await body.effects.ask(note)


def _is_async(fn: Callable[..., Any]) -> bool:
    """Whether a call of `fn` gives a coroutine; the usual case without the cost of `inspect`."""
    if type(fn) is FunctionType:
        return fn.__code__.co_flags & inspect.CO_COROUTINE != 0
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(
        getattr(type(fn), "__call__", None)  # noqa: B004
    )
