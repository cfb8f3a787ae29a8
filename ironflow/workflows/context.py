"""`Context`: what a step can do beside returning events, and what a caller holds of a run."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ironflow.core.workflows.state import WorkflowState
from ironflow.workflows import contexts
from ironflow.workflows.codec import Keeper
from ironflow.workflows.errors import ContextStateError, WorkflowRuntimeError
from ironflow.workflows.invocation import DEFAULT_WAIT, Invocation, current_invocation
from ironflow.workflows.retry_policy import RetryInfo
from ironflow.workflows.serializers import BaseSerializer, JsonSerializer, PickleSerializer
from ironflow.workflows.store import LiveState, StateStore, take_note

if TYPE_CHECKING:
    from ironflow.workflows.handler import WorkflowHandler
    from ironflow.workflows.workflow import Workflow

__all__ = ["BaseSerializer", "Context", "JsonSerializer", "PickleSerializer"]

S = TypeVar("S")
E = TypeVar("E")


class Context(Generic[S]):
    """Inside of a step: its run. Outside: made with `Context(workflow)` it is the state that a run
    begins with (`workflow.run(ctx=ctx)`), and `handler.ctx` is that of a run.
    """

    def __init__(self, workflow: Workflow) -> None:
        self._workflow = workflow
        self._invocation: Invocation | None = None
        self._handler: WorkflowHandler | None = None
        self._state = WorkflowState()
        self._before = LiveState({}, workflow.graph.state_type, Keeper())
        self._store: StateStore[S] | None = None

    @classmethod
    def inside(cls, invocation: Invocation) -> Context[Any]:
        """The context that a step is handed."""
        made = cls.__new__(cls)
        workflow: Any = invocation.body.workflow
        made._workflow = workflow
        made._invocation, made._handler, made._store = invocation, None, None
        return made

    def attach(self, handler: WorkflowHandler) -> None:
        """The context is that of a run from now on."""
        self._handler = handler

    def _step(self, what: str) -> Invocation:
        if self._invocation is None:
            raise ContextStateError(f"{what} can be called only inside of a step")
        return self._invocation

    # -- inside -----------------------------------------------------------------------------------

    @property
    def store(self) -> StateStore[S]:
        """The state of the run that its steps share. Outside of a step it can be changed before the
        run begins; while it goes on, between the changes of its steps; and once it has ended, for
        the next one that is given this context.
        """
        if self._invocation is not None:
            return self._invocation.store
        if self._handler is not None:
            return self._handler.store()
        if self._store is None:
            self._store = StateStore(self._before, take_note)
        return self._store

    def send_event(self, message: Any, step: str | None = None) -> None:
        """Send an event to every step that takes it and to whoever waits for one, or only to
        `step`. Raises `WorkflowRuntimeError` when that step does not take it.
        """
        if self._invocation is None and self._handler is not None:
            self._handler.send_event(message, step)  # type: ignore[unused-awaitable]
            return
        invocation = self._step("send_event")
        invocation.on_loop(invocation.send, message, step)

    def write_event_to_stream(self, ev: Any) -> None:
        """Tell the readers of the run's stream; durable, in order, and at once."""
        invocation = self._step("write_event_to_stream")
        invocation.on_loop(invocation.write, ev)

    def collect_events(
        self, ev: Any, expected: list[type], buffer_id: str | None = None
    ) -> list[Any] | None:
        """Keep `ev` until one event of each class in `expected` is there, then return them in that
        order; None before. Buffers are of the step and of `buffer_id`.
        """
        invocation = self._step("collect_events")
        return invocation.on_loop(invocation.collect, ev, expected, buffer_id)

    async def wait_for_event(
        self,
        event_type: type[E],
        waiter_event: Any = None,
        waiter_id: str | None = None,
        requirements: dict[str, Any] | None = None,
        timeout: float | None = DEFAULT_WAIT,
    ) -> E:
        """Wait for an event of a class whose fields are as in `requirements`.

        The step leaves its worker and is entered again from the top when the event comes, also days
        and restarts later; what it sent, stored and streamed before does not happen again.
        `waiter_event` is written to the stream once. Each job of a step waits for itself: a
        `waiter_id` only tells several waits of one job apart. Raises `asyncio.TimeoutError` after
        `timeout` seconds.
        """
        found: E = self._step("wait_for_event").wait(
            event_type, waiter_event, waiter_id, requirements, timeout
        )
        return found

    async def once(self, name: str, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call `fn`, sync or async, and remember its result for as long as this job lasts: when the
        step is executed again, after a crash, a failure or a wait, the call is not made again.
        """
        return await self._step("once").once(name, fn, *args, **kwargs)

    async def once_in_process(
        self, name: str, fn: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        """As `once`, in a process of its own: for what computes for long, which would take the
        processor from every other step. Function, arguments and result are pickled. When the step
        or the run is cancelled, the process is ended.

        Raises what `fn` raises, `InvalidInput` for what cannot be sent to a process, and
        `StepProcessLost` when that died.
        """
        return await self._step("once_in_process").once_in_process(name, fn, *args, **kwargs)

    def cancel_step(self, name: str, where: Callable[[Any], Any] | None = None) -> int:
        """Cancel all that another step has to do, or only that of the events for which `where` is
        true: what executes, what waits for an event, another attempt or a worker. How much that
        was; the job that asks is never among it.

        A step that executes gets `asyncio.CancelledError`, and nothing that it does from then on
        has any effect; runs that it started are cancelled. Fan-outs go on without it. Recorded
        with what the asking step does. Raises `WorkflowRuntimeError` when there is no such step.
        """
        invocation = self._step("cancel_step")
        return invocation.on_loop(invocation.cancel_step, name, where)

    def retry_info(self) -> RetryInfo:
        """Which attempt this is, and how the last one ended."""
        return self._step("retry_info").retry_info()

    @staticmethod
    def get_step_context() -> Context[Any]:
        """The context of the step that is executing. Raises `WorkflowRuntimeError` outside."""
        invocation = current_invocation.get()
        if invocation is None:
            raise WorkflowRuntimeError("no step is executing here")
        return Context.inside(invocation)

    @property
    def run_id(self) -> str:
        """The run's id."""
        if self._invocation is not None:
            return self._invocation.body.run_id
        if self._handler is None:
            raise ContextStateError("the context is of no run yet")
        return self._handler.run_id

    # -- outside ----------------------------------------------------------------------------------

    @property
    def is_running(self) -> bool:
        """Whether its run has begun and not ended; of a context that was read, whether it is in the
        middle of one.
        """
        if self._invocation is not None:
            return True
        if self._handler is not None:
            return not self._handler.is_done()
        return self._state.begun

    async def running_steps(self) -> list[str]:
        """The names of the steps that execute or are to."""
        if self._invocation is not None:
            return sorted({job.step for job in self._invocation.body.state.jobs.values()})
        if self._handler is not None:
            return await self._handler.running_steps()
        return sorted({job.step for job in self._state.jobs.values()})

    async def get_result(self) -> Any:
        """The result of its run."""
        if self._handler is None:
            raise ContextStateError("the context is of no run yet")
        return await self._handler

    def stream_events(self) -> AsyncIterator[Any]:
        """The streamed events of its run."""
        if self._handler is None:
            raise ContextStateError("the context is of no run yet")
        return self._handler.stream_events()

    def to_dict(
        self, serializer: BaseSerializer | None = None, include_state: bool = True
    ) -> dict[str, Any]:
        """All that is under way and the store, as plain JSON values. Raises `ContextSerdeError`
        naming the key that cannot be written.
        """
        if self._invocation is not None:
            raise ContextStateError("a step cannot write down its own run: ask the handler's ctx")
        if self._handler is not None:
            state, live = self._handler.snapshot()
            running, large = not self._handler.is_done(), self._handler.large_texts()
        else:
            state, live, running, large = self._state, self._before, self._state.begun, {}
        chosen = serializer or self._workflow.serializer or JsonSerializer()
        return contexts.write(
            state,
            live,
            self._workflow.graph,
            running,
            chosen,
            include_state=include_state,
            large=large,
        )

    @classmethod
    def from_dict(
        cls,
        workflow: Workflow,
        data: dict[str, Any],
        serializer: BaseSerializer | None = None,
    ) -> Context[Any]:
        """The context of a `to_dict`, also of one that LlamaIndex has written. Raises
        `ContextSerdeError`.
        """
        made: Context[Any] = cls(workflow)
        chosen = serializer or workflow.serializer or JsonSerializer()
        made._state, made._before = contexts.read(data, workflow.graph, chosen)
        return made

    def initial_state(self) -> WorkflowState:
        """What the context held before it was given to a run."""
        return self._state

    @property
    def keeper(self) -> Keeper | None:
        """Holds the objects in its store that have no stored form."""
        return self._before.keeper if self._handler is None else self._handler.keeper

    def initial(self, keeper: Keeper | None) -> WorkflowState:
        """What a run that is given this context begins with; `keeper`: that of the run. Raises
        `ContextStateError` while its own run goes on, and `NotSerializable` for objects that a run
        without a keeper cannot hold.
        """
        if self._handler is not None:
            if not self._handler.is_done():
                raise ContextStateError("the run of this context has not ended: await it first")
            _, live = self._handler.snapshot()
            state = WorkflowState()
        else:
            live, state = self._before, self._state
        if live.keeper is not None and live.keeper is not keeper and len(live.keeper):
            live = LiveState({}, live.kind, keeper)
            live.replace(self.store_value())
        state.store = json.loads(json.dumps(live.tree))
        return state

    def store_value(self) -> Any:
        """The state of its store as an object, outside of a step."""
        return (self._before if self._handler is None else self._handler.final_state()).value
