"""The handler of a run in this process: await it, read its stream, answer it, cancel it.

Any number of readers may read the stream, at any time, each from the beginning or from where it
was; reading consumes nothing. A handler is awaitable as often as one likes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

import msgspec

from ironflow.core.runs.state import Run, RunStatus
from ironflow.core.values.payloads import Failure
from ironflow.core.workflows.state import WorkflowState
from ironflow.core.workflows.stream import StreamedEvent
from ironflow.storage.ports import Entry
from ironflow.workflows.codec import build_exception, decode_event, encode_fields, find_class
from ironflow.workflows.context import Context
from ironflow.workflows.errors import (
    ContextStateError,
    WorkflowCancelledByUser,
    WorkflowRuntimeError,
    WorkflowTimeoutError,
)
from ironflow.workflows.store import LiveState, StateStore, take_note
from ironflow.workflows.vocabulary import OURS, is_event, wire_name

if TYPE_CHECKING:
    from ironflow.workflows.codec import Keeper
    from ironflow.workflows.mounting import MountedWorkflow
    from ironflow.workflows.runtime import Runs

__all__ = ["WorkflowHandler"]


class WorkflowHandler:
    """A run that has begun, or is about to."""

    def __init__(
        self,
        runs: Runs,
        mounted: MountedWorkflow,
        run_id: str,
        ctx: Context[Any],
        keeper: Keeper | None,
    ) -> None:
        self._runs, self._mounted = runs, mounted
        self.run_id = run_id
        self.ctx = ctx
        self.keeper = keeper if keeper is not None else mounted.keeper(run_id)
        """Holds the objects of the run that have no stored form."""
        self._final: Run | None = None
        self._history: list[Entry] | None = None
        self._stop_event: Any = None
        self._sends: set[asyncio.Task[None]] = set()
        self._begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.get_running_loop().create_task(self._run())
        self._task.add_done_callback(_seen)
        mounted.callers[run_id] = copy_context()
        self._task.add_done_callback(lambda _: mounted.callers.pop(run_id, None))
        ctx.attach(self)

    def __repr__(self) -> str:
        return f"<WorkflowHandler {self._mounted.id} {self.run_id}>"

    # -- the end ----------------------------------------------------------------------------------

    async def _run(self) -> Any:
        try:
            async with self._runs.open(self):
                self._begun.set_result(None)
                run = await self._runs.wait(self.run_id)
                self._final = run
                self._history = await self._runs.history(self.run_id)
                return await self._outcome(run)
        except BaseException as error:
            if not self._begun.done():
                self._begun.set_exception(error)
                self._begun.exception()
            raise

    async def _outcome(self, run: Run) -> Any:
        if run.status is RunStatus.COMPLETED and run.result is not None:
            self._stop_event = await self._read_stop(run)
            if type(self._stop_event).__name__ == "StopEvent":
                return self._stop_event.result
            return self._stop_event
        kept = self._mounted.errors.pop(self.run_id, None)
        if run.status is RunStatus.CANCELLED:
            raise WorkflowCancelledByUser(run.reason or "the run was cancelled")
        raise kept or error_of(run.error)

    async def _read_stop(self, run: Run) -> Any:
        kept = self._mounted.results.pop(self.run_id, None)
        if kept is not None:
            return kept
        assert run.result is not None
        return self._decode(await self._runs.load(run.result))

    def __await__(self) -> Generator[Any, None, Any]:
        return self._wait().__await__()

    async def _wait(self) -> Any:
        return await asyncio.shield(self._task)

    def is_done(self) -> bool:
        """Whether the run has ended."""
        return self._task.done()

    def done(self) -> bool:
        """Whether the run has ended."""
        return self._task.done()

    def result(self) -> Any:
        """The result of a run that has ended; raises what it failed with, `InvalidStateError`
        before its end.
        """
        return self._task.result()

    def exception(self) -> BaseException | None:
        """What a run that has ended failed with."""
        return self._task.exception()

    def cancelled(self) -> bool:
        """Whether the run was cancelled."""
        if not self._task.done() or self._task.cancelled():
            return self._task.cancelled()
        return isinstance(self._task.exception(), WorkflowCancelledByUser)

    def get_stop_event(self) -> Any:
        """The stop event of a run that completed, else None."""
        return self._stop_event

    async def stop_event_result(self) -> Any:
        """The stop event of the run, once it has completed; raises what it failed with."""
        await self._wait()
        return self._stop_event

    # -- the stream -------------------------------------------------------------------------------

    async def stream_events(
        self, expose_internal: bool = False, *, after_sequence: int = -1
    ) -> AsyncIterator[Any]:
        """The events of the run's stream, those of the past first, up to the one that ends it."""
        async for _, event in self.stream_numbered(expose_internal, after_sequence=after_sequence):
            yield event

    async def stream_numbered(
        self, expose_internal: bool = False, *, after_sequence: int = -1
    ) -> AsyncIterator[tuple[int, Any]]:
        """As `stream_events`, each with its sequence: with that a reader goes on later."""
        await self.begun()
        async with self._runs.held():
            async for told in self._runs.follow(self.run_id, after_sequence):
                if told.internal and not expose_internal:
                    continue
                yield told.sequence, await self._event_of(told)

    async def _event_of(self, told: StreamedEvent) -> Any:
        return self._decode(await self._runs.load(told.envelope))

    def _decode(self, envelope: bytes) -> Any:
        facts = msgspec.json.decode(envelope)
        name = facts["qualified_name"]
        kind = self._mounted.class_of(name) or find_class(name) or OURS.event
        return decode_event(kind, msgspec.json.encode(facts["value"]), self.keeper)

    # -- to the run -------------------------------------------------------------------------------

    def send_event(self, event: Any, step: str | None = None) -> asyncio.Task[None]:
        """Send the run an event; await it to know that it is stored. Raises `WorkflowDone` then
        when the run has ended, `WorkflowRuntimeError` when `step` does not take it.
        """
        if not is_event(event):
            raise WorkflowRuntimeError(f"send_event takes an event, not {type(event).__name__}")
        if step is not None:
            spec = self._mounted.graph.plain.get(step)
            if spec is None or not spec.accepts(type(event)):
                raise WorkflowRuntimeError(f"step {step!r} does not take {type(event).__name__}")
        data = encode_fields(event, self.keeper)
        sending = self._runs.send(self, wire_name(type(event)), data, step)
        task = asyncio.get_running_loop().create_task(sending)
        self._sends.add(task)
        task.add_done_callback(self._sends.discard)
        task.add_done_callback(_seen)
        return task

    async def begun(self) -> None:
        """Return when the run has been made; raises why it could not be."""
        await asyncio.shield(self._begun)

    async def cancel_run(self, timeout: float | None = None) -> None:
        """Cancel the run; awaiting it raises `WorkflowCancelledByUser` then. Returns when it has
        ended, or after `timeout` seconds; does nothing when it has ended before.
        """
        await self.begun()
        if not self._task.done():
            await self._runs.cancel(self.run_id)
            await asyncio.wait([self._task], timeout=timeout)

    def cancel(self) -> bool:
        """Begin to cancel the run."""
        if self._task.done():
            return False
        task = asyncio.get_running_loop().create_task(self.cancel_run())
        self._sends.add(task)
        task.add_done_callback(self._sends.discard)
        return True

    # -- its state --------------------------------------------------------------------------------

    async def running_steps(self) -> list[str]:
        """The names of the steps that execute or are to."""
        state, _ = self.snapshot()
        return sorted({job.step for job in state.jobs.values()})

    def history(self) -> list[Entry] | None:
        """The entries of the run's journal, for drawings: at its end, or while all is in memory."""
        return self._history or self._runs.present(self.run_id)

    def snapshot(self) -> tuple[WorkflowState, LiveState]:
        """What is under way and the store: of a run that has ended, or whose body is in memory.

        Raises `ContextStateError` otherwise.
        """
        if self._final is not None and self._final.workflow is not None:
            return self._final.workflow, self.final_state()
        found = self._runs.body(self.run_id)
        if found is not None:
            return found.state, found.live
        if not self._begun.done():
            state = self.ctx.initial_state()
            return state, LiveState(state.store, self._mounted.graph.state_type, self.keeper)
        raise ContextStateError("the run waits and is not in memory: wait for its next event")

    def large_texts(self) -> dict[str, bytes]:
        """What the run in memory holds of texts that are too large for the journal, by digest."""
        found = self._runs.body(self.run_id)
        return {} if found is None else {**found.objects.large, **found.blobs}

    def store(self) -> StateStore[Any]:
        """The store of the run: as it was left, or as it is now. What is changed while the run goes
        on is recorded before the change returns; it raises `ContextStateError` for one that is
        about to end or not in memory.
        """
        body = None if self._final is not None else self._runs.body(self.run_id)
        if body is None:
            if self.is_done():
                return StateStore(self.final_state(), take_note)
            return StateStore(self.final_state(), take_note, check=_refuse)
        return StateStore(body.live, body.change_store, settle=body.settle, check=body.check_open)

    def final_state(self) -> LiveState:
        """The store of the run: as it was left, or as it is now."""
        if self._final is not None and self._final.workflow is not None:
            tree = self._final.workflow.store
            return LiveState(tree, self._mounted.graph.state_type, self.keeper)
        return self.snapshot()[1]


def error_of(failure: Failure | None) -> Exception:
    """The exception that a failed run raises, of the class that its step raised if possible."""
    if failure is None:
        return WorkflowRuntimeError("the run failed")
    facts = failure.facts or {}
    if failure.code == "run_timeout":
        active = ", ".join(facts.get("active_steps", ())) or "none"
        return WorkflowTimeoutError(f"{failure.message}; active steps: {active}")
    kind = str(facts.get("type", failure.kind))
    if kind.endswith(f".{WorkflowRuntimeError.__name__}") or "." not in kind:
        return WorkflowRuntimeError(failure.message)
    return build_exception({"exception_type": kind, "exception_message": failure.message})


def _refuse() -> None:
    raise ContextStateError("the run has not begun: its store can be changed before `run`")


def _seen(task: asyncio.Task[Any]) -> None:
    """A failure that nobody awaits is in the journal; asyncio need not complain."""
    if not task.cancelled():
        task.exception()
