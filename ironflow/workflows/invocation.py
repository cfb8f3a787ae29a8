"""One execution of a step for one job: what it is handed, and what came of it."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future
from contextvars import ContextVar, copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from pydantic_core import to_jsonable_python

from ironflow.core.clock import FOREVER, SECOND, to_datetime
from ironflow.core.errors import NotSerializable
from ironflow.core.runs import commands as c
from ironflow.core.runs.effects import job_timer
from ironflow.core.runs.entries import CancelRung, ParentRef
from ironflow.core.values.codec import decode_value, encode_value
from ironflow.core.values.payloads import Payload, to_storable
from ironflow.core.workflows.state import (
    Change,
    ChildStarted,
    Collected,
    Echo,
    EventData,
    Job,
    JobWaits,
    Remembered,
    Sent,
    sent_to,
)
from ironflow.sdk.watchdog import Work
from ironflow.workflows.codec import (
    build_exception,
    digest,
    encode_event,
    encode_fields,
    payload_of,
)
from ironflow.workflows.errors import WorkflowRuntimeError
from ironflow.workflows.retry_policy import RetryInfo
from ironflow.workflows.steps import StepSpec
from ironflow.workflows.store import Claims, StateStore
from ironflow.workflows.vocabulary import bare_name, is_event, wire_name

if TYPE_CHECKING:
    from ironflow.workflows.interpreter import Interpreter

log = logging.getLogger("ironflow.workflows")

R = TypeVar("R")

current_invocation: ContextVar[Invocation | None] = ContextVar(
    "ironflow_workflow_step", default=None
)
"""The step whose function is executing."""

DEFAULT_WAIT = 2000.0
"""Seconds that `wait_for_event` waits when nothing else is said."""


class Waits(BaseException):
    """Leaves a step that waits for an event; it is entered again from the top when that comes.

    A `BaseException`: the step's own `except Exception` must not catch it.
    """


class Invocation(Work):
    """What a step that executes has done so far, and what it had done before (its echoes)."""

    advice = "let it compute in `ctx.once_in_process`, or make it a step that is not async"

    def __init__(self, body: Interpreter, job: Job, spec: StepSpec, worker: int) -> None:
        self.body, self.job, self.spec, self.worker = body, job, spec, worker
        self.started_at = body.clock.now()
        self.held: list[tuple[Any, str | None, str]] = []
        """Events that were sent and are not on their way yet: (event, step, mark)."""
        self.over = self.has_store = False
        self._echoes: dict[str, deque[Echo]] = {}
        """What it said when it was executed before, by kind."""
        for echo in job.echoes:
            self._echoes.setdefault(echo.kind, deque()).append(echo)
        self._calling: dict[str, asyncio.Future[None]] = {}
        """Calls of `once` that are under way, by name."""
        self._children = 0
        self._implicit: dict[str, int] = {}
        self.taken = taken_of(job)

    @functools.cached_property
    def store(self) -> StateStore[Any]:
        """The store of the run as this execution sees it."""
        self.has_store = True
        claims = Claims(iter(self.job.echoes))
        return StateStore(self.body.live, self._record_change, claims, check=self._check)

    def whose(self) -> tuple[str, str, str]:
        """See `Work`."""
        return self.body.function.id, self.body.run_id, self.spec.name

    # -- the call ---------------------------------------------------------------------------------

    async def call(self, context: Any) -> Any:
        """Call the step's function; what it returned."""
        body, spec = self.body, self.spec
        arguments = self.arguments(context)
        for name, (kind, resource) in spec.resources.items():
            arguments[name] = await body.workflow.resources.get(kind, resource)
        fn: Callable[..., Any] = body.workflow.function_of(spec)
        intercept = body.executor.intercept
        if intercept is not None:
            fn = await intercept(body.function.id, spec.name, fn)
        if spec.is_async or (intercept is not None and inspect.iscoroutinefunction(fn)):
            return await fn(**arguments)
        work = partial(copy_context().run, fn, **arguments)
        result = await body.loop.run_in_executor(body.executor.threads, work)
        return await result if inspect.isawaitable(result) else result

    def arguments(self, context: Any) -> dict[str, Any]:
        """What the step's function is called with, but for resources."""
        spec, objects = self.spec, self.body.objects
        arguments: dict[str, Any] = {}
        if spec.context is not None:
            arguments[spec.context] = context
        if spec.single is not None and len(self.job.events) == 1:
            arguments[spec.single] = objects.get(self.job.events[0])
            return arguments
        events = [objects.get(data) for data in self.job.events]
        if spec.join is not None:
            arguments[spec.join.name] = events
            return arguments
        if len(spec.slots) == len(events) == 1:
            arguments[spec.slots[0].name] = events[0]
            return arguments
        left = list(events)
        for slot in spec.slots:
            found = next((e for e in left if isinstance(e, slot.types)), left[0] if left else None)
            arguments[slot.name] = found
            left.remove(found)
        return arguments

    def on_loop(self, call: Callable[..., R], *arguments: Any) -> R:
        """Make a call on the loop, where the run's state lives: a sync step asks from a thread."""
        if threading.get_ident() == self.body.thread:
            return call(*arguments)
        future: Future[R] = Future()

        def make() -> None:
            try:
                future.set_result(call(*arguments))
            except BaseException as error:  # noqa: BLE001 - raised in the thread that asked
                future.set_exception(error)

        self.body.loop.call_soon_threadsafe(make)
        return future.result()

    # -- effects ----------------------------------------------------------------------------------

    def _check(self) -> None:
        if self.over:
            raise WorkflowRuntimeError(
                f"the context of step {self.spec.name!r} was used after the step had ended"
            )

    def _is_echo(self, kind: str, mark: str) -> Echo | None:
        """The same effect of an earlier execution of this job, if it comes next."""
        echoes = self._echoes.get(kind)
        if not echoes:
            return None
        if echoes[0].mark == mark:
            return echoes.popleft()
        echoes.clear()  # this time it goes another way: from here on everything is new
        return None

    def _skip(self, kind: str, mark: str) -> None:
        """An effect of an earlier execution that is not made again, if it comes next."""
        echoes = self._echoes.get(kind)
        if echoes and echoes[0].mark == mark:
            echoes.popleft()

    def _same_again(self, text: bytes) -> bytes:
        """The text of an effect as it will be when the step is executed again."""
        keep = self.body.keep
        return text if keep is None else keep.unnumbered(text)

    def _record_change(self, changes: tuple[Change, ...], undo: tuple[Change, ...]) -> None:
        self._check()
        self.body.emit_stored(self.job, changes, undo)
        self.body.flush_later()

    def send(self, event: Any, step: str | None) -> None:
        """See `Context.send_event`."""
        self._check()
        if not is_event(event):
            raise WorkflowRuntimeError(f"send_event takes an event, not {type(event).__name__}")
        if step is not None:
            self.body.router.check_step(step, type(event))
        data = self._same_again(encode_fields(event, self.body.keep))
        mark = digest(wire_name(type(event)), data, step or "")
        if self._is_echo("send", mark) is None:
            self.held.append((event, step, mark))
            self.body.flush_later()

    def release(self, *, goes_on: bool) -> None:
        """Let the events that were sent go their ways; `goes_on`: the step has not ended."""
        held, self.held = self.held, []
        for event, step, mark in held:
            delivery = self.body.router.prepare(event, self.job, inside=False)
            self.body.router.deliver(delivery, step)
            if goes_on:
                self.body.emit(Sent(self.job.id, mark))

    def write(self, event: Any) -> str:
        """See `Context.write_event_to_stream`. Its mark."""
        self._check()
        if event is None:
            return ""
        if not is_event(event):
            raise WorkflowRuntimeError(
                f"write_event_to_stream takes an event, not {type(event).__name__}"
            )
        text = encode_event(event, self.body.keep)
        mark = digest(self._same_again(text))
        if self._is_echo("stream", mark) is None:
            self.body.router.stream(text, event, self.job.id, mark)
        return mark

    def collect(self, event: Any, expected: list[type], buffer_id: str | None) -> list[Any] | None:
        """See `Context.collect_events`."""
        self._check()
        body = self.body
        data = body.objects.store(event, body.blobs)
        fields = self._same_again(encode_fields(event, body.keep))
        mark = digest(data.type, fields, buffer_id or "")
        echo = self._is_echo("collect", mark)
        if echo is not None:
            if echo.released is None:
                return None
            return [body.objects.get(each) for each in echo.released]
        buffer = f"{self.spec.name}/{buffer_id or 'default'}"
        held = [*body.state.buffers.get(buffer, []), data]
        chosen = _choose(held, [wire_name(kind) for kind in expected])
        released = tuple(held[n] for n in chosen) if chosen is not None else None
        body.emit(Collected(buffer, data, self.job.id, mark, released))
        body.flush_later()
        return None if released is None else [body.objects.get(each) for each in released]

    # -- waits ------------------------------------------------------------------------------------

    def wait(
        self,
        kind: type,
        waiter_event: Any,
        waiter_id: str | None,
        requirements: dict[str, Any] | None,
        timeout: float | None,
    ) -> Any:
        """See `Context.wait_for_event`."""
        self._check()
        name = wire_name(kind)
        wanted = _plain_requirements(requirements or {})
        if waiter_id is None:
            base = digest(name, msgspec.json.encode(requirements or {}, enc_hook=repr))
            count = self._implicit.get(base, 0)
            self._implicit[base] = count + 1
            waiter_id = f"{kind.__name__}-{base[:6]}-{count}"
        key = _checked("waiter_id", waiter_id).replace("/", "_")
        wait = self.job.waits.get(key)
        if wait is not None:
            self._skip("stream", wait.asked)
            if wait.event is not None:
                return self.body.objects.get(wait.event, kind)
            if wait.timed_out:
                raise TimeoutError(f"no {kind.__name__} came in time")
            raise Waits
        until = None
        if timeout is not None and timeout < FOREVER:
            until = self.body.clock.now() + int(timeout * SECOND)
        asked = self.write(waiter_event)
        self.body.emit(JobWaits(self.job.id, key, name, wanted, until, asked))
        self.body.router.begin_wait(self.job.id, name)
        raise Waits

    # -- memos ------------------------------------------------------------------------------------

    async def once(self, name: str, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """See `Context.once`."""
        self._check()
        _checked("the name of a call", name)
        while name in self._calling:  # by another task of the step
            await asyncio.wait({self._calling[name]})
        known = self.job.memos.get(name)
        if known is not None:
            return decode_value(await self.body.objects.load(known))
        called = self._calling[name] = self.body.loop.create_future()
        try:
            return await self._call_once(name, partial(fn, *args, **kwargs))
        finally:
            del self._calling[name]
            called.set_result(None)

    async def _call_once(self, name: str, call: Callable[[], Any]) -> Any:
        made = call()
        value = await made if inspect.isawaitable(made) else made
        self._check()
        data = encode_value(value, f"once {name!r}")
        payload: Payload = payload_of(data, self.body.blobs)
        self.body.emit(Remembered(self.job.id, name, payload))
        await self.body.commit_now()
        return decode_value(data)

    async def once_in_process(
        self, name: str, fn: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        """See `Context.once_in_process`."""
        body = self.body
        grace = body.executor.cancel_grace
        return await self.once(
            name,
            partial(
                body.executor.processes.call,
                f"{self.spec.name}, {name}",
                fn,
                args,
                kwargs,
                partial(self._note_rung, name),
                lambda: grace if body.unwinding and not body.leaving else 0.0,
            ),
        )

    def _note_rung(self, name: str, rung: CancelRung, pid: int) -> None:
        log.info(
            "run %s: process %d of %r in step %s was %s",
            *(self.body.run_id, pid, name, self.spec.name, rung),
        )

    # -- other steps ------------------------------------------------------------------------------

    def cancel_step(self, step: str, where: Callable[[Any], Any] | None) -> int:
        """See `Context.cancel_step`."""
        self._check()
        body = self.body
        if step not in body.definition.steps:
            raise WorkflowRuntimeError(f"there is no step {step!r}")
        mark = digest(step)
        done = 0
        while self._is_echo("cancel", mark) is not None:
            done += 1
        if done:
            return done
        chosen = [
            job
            for job in body.state.jobs.values()
            if job.step == step
            and job.id != self.job.id
            and (where is None or any(where(body.objects.get(each)) for each in job.events))
        ]
        for job in chosen:
            body.workers.drop(job, self.job.id, mark)
        body.flush_later()
        return len(chosen)

    def break_off(self) -> None:
        """Another step has cancelled this one: whatever it still does has no effect."""
        if self.has_store:
            self.store.take_back(keep=False)
        self.held, self.over = [], True

    # -- children ---------------------------------------------------------------------------------

    def start_child(
        self, workflow_id: str, make: Callable[[str, ParentRef], Any]
    ) -> tuple[str, str]:
        """The key and the run of another workflow that this step starts; the same again when the
        step is executed again.
        """
        self._check()
        key = f"{workflow_id}-{self._children}"
        self._children += 1
        child = self.job.children.get(key)
        if child is not None:
            return key, child.run_id
        body = self.body
        run_id = body.executor.ids.new()
        parent = ParentRef(
            body.run_id, job_timer(self.job.id, key), depth=body.assignment.depth + 1
        )
        body.emit(ChildStarted(self.job.id, key, run_id, workflow_id))
        body.creates.append(make(run_id, parent))
        body.ring()
        return key, run_id

    def send_to_child(
        self, key: str, run_id: str, signal: c.SendSignal, data: bytes
    ) -> asyncio.Future[None] | None:
        """Send a child an event, unless the step did when it was executed before: when that is
        recorded. None when the child has ended.
        """
        self._check()
        mark = digest(signal.event.type, self._same_again(data), signal.step or "")
        if self._is_echo(sent_to(run_id), mark) is None:
            if self.job.children[key].outcome is not None:
                return None
            self.body.creates.append(c.Send(f"run/{run_id}", signal))
            self.body.emit(Sent(self.job.id, mark, run_id))
            return self.body.commit_now()
        recorded = self.body.loop.create_future()
        recorded.set_result(None)
        return recorded

    def child_end(self, key: str) -> Awaitable[None]:
        """When a child that this step started has ended."""
        return self.body.arrivals.child_end(self.job.id, key)

    # -- retries ----------------------------------------------------------------------------------

    def retry_info(self) -> RetryInfo:
        """See `Context.retry_info`."""
        job = self.job
        began = job.began_at or self.started_at
        error = None
        if job.error is not None:
            kept = self.body.workers.errors.get(job.id)
            facts = job.error.facts or {}
            error = kept or build_exception(
                {
                    "exception_type": str(facts.get("type", job.error.kind)),
                    "exception_message": job.error.message,
                }
            )
        failed_at = to_datetime(job.failed_at) if job.failed_at is not None else None
        elapsed = max(self.started_at - began, 0) / SECOND
        return RetryInfo(job.failures, elapsed, error, failed_at)


def taken_of(job: Job) -> str:
    """The bare name of what a step is given."""
    return bare_name(job.events[0].type) if len(job.events) == 1 else "CollectionReleaseEvent"


def _checked(what: str, text: Any) -> str:
    """Raises `WorkflowRuntimeError` for what is no text, or none that can be stored."""
    if not isinstance(text, str) or to_storable(text) != text:
        raise WorkflowRuntimeError(f"{what} must be text that can be stored, not {text!r}")
    return text


def _plain_requirements(requirements: Mapping[str, Any]) -> dict[str, Any]:
    """What an event must have as JSON values, which is what a restart leaves of it. Raises
    `NotSerializable`.
    """
    plain: dict[str, Any] = {}
    for name, value in dict(requirements).items():
        try:
            plain[name] = to_jsonable_python(value)
            msgspec.json.encode({name: plain[name]})
        except (TypeError, ValueError, RecursionError) as error:
            kind = type(value).__name__
            raise NotSerializable("requirements", f"$.{name}", kind, str(error)) from error
    return plain


def _choose(held: list[EventData], wanted: list[str]) -> list[int] | None:
    """Indexes of the events that make up what is wanted, in that order; None without one."""
    chosen: list[int] = []
    for name in wanted:
        for index, data in enumerate(held):
            if data.type == name and index not in chosen:
                chosen.append(index)
                break
        else:
            return None
    return chosen
