"""`ctx.step`: the durable operations of a function's body.

Each is remembered under its place in the code. On a replay it answers from the journal; otherwise
it acts, and its result is committed before the body goes on.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from ironflow.core import commands as c
from ironflow.core.clock import SECOND, derive_id, from_datetime
from ironflow.core.durations import parse_duration
from ironflow.core.entries import NULL, ParentRef, StepKind, pack
from ironflow.core.errors import (
    InvalidInput,
    InvokeError,
    NotFound,
    WaitTimeout,
)
from ironflow.core.functions import EXECUTORS, compile_filter
from ironflow.core.functions import Executor as ExecutorName
from ironflow.core.patterns import validate_event_name, validate_pattern
from ironflow.core.retry import RetryPolicy
from ironflow.core.runs import Step, StepStatus
from ironflow.core.values import encode_plain, normalize
from ironflow.sdk.attempts import Call, attempt_step
from ironflow.sdk.execution import (
    Branch,
    Compensation,
    Execution,
    Group,
    Place,
)
from ironflow.sdk.parallel import Block
from ironflow.sdk.waits import (
    Duration,
    Event,
    EventWait,
    Outcome,
    RunWait,
    TimerWait,
    Wait,
    Winner,
    match_expression,
    parse_moment,
)

if TYPE_CHECKING:
    from ironflow.sdk.function import Function

MAX_DEPTH = 32
"""How deep runs may invoke runs."""


class Steps:
    """The durable operations. One object a run; which branch is asking it knows by itself."""

    def __init__(self, execution: Execution) -> None:
        self._execution = execution

    # -- steps ------------------------------------------------------------------------------------

    async def run(
        self,
        name: str,
        fn: Callable[..., Any],
        *args: Any,
        retry: RetryPolicy | int | dict[str, Any] | bool | None = None,
        timeout: Duration | None = None,
        executor: ExecutorName | None = None,
        **kwargs: Any,
    ) -> Any:
        """Call `fn(*args, **kwargs)` once and remember its result.

        Async functions run on the loop, sync ones where the function's `executor` says (default: in
        a thread); with `executor` here either kind runs there. A failing one is tried again by
        `retry` (default: the function's policy) with pauses that survive a restart; `timeout`
        bounds each attempt. Raises `StepError` when the last attempt failed, `NotSerializable` when
        the result cannot be stored, `InvalidInput` for what cannot run in a process.
        """
        if executor is not None and executor not in EXECUTORS:
            raise InvalidInput("executor", f"{executor!r:.50} is none of {', '.join(EXECUTORS)}")
        execution = self._execution
        place = execution.place("run", name)
        step = place.step
        if step is not None and step.status is StepStatus.COMPLETED:
            return await execution.value(step)
        policy = execution.function.retry if retry is None else RetryPolicy.of(retry)
        seconds = None if timeout is None else parse_duration(timeout, "timeout")
        call = Call(fn, args, kwargs, seconds, executor)
        return await attempt_step(execution, place, policy, call)

    def compensate(self, name: str, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """From here on, undo by calling `fn(*args, **kwargs)` if the run fails (by option: is
        cancelled, times out).

        Compensations run newest first, each as a step of its own; one that fails does not stop the
        others.
        """
        self._execution.compensate(name, fn, args, kwargs)

    async def run_compensation(self, undo: Compensation) -> None:
        """Undo one step, memoized. For the executor."""
        execution = self._execution
        step = execution.steps.get(undo.key)
        if step is not None and step.status is StepStatus.COMPLETED:
            return
        # In the order in which they are begun; a replay may find another one.
        pos = step.pos if step is not None else len(execution.order.get(undo.scope, ()))
        place = Place("compensate", undo.name, undo.key, pos, undo.scope, step)
        call = Call(undo.fn, undo.args, undo.kwargs, None)
        await attempt_step(execution, place, execution.function.retry, call)

    # -- sleeps and events ------------------------------------------------------------------------

    async def sleep(self, name: str, duration: Duration) -> None:
        """Wait for a while, durably: nothing is held in memory meanwhile."""
        seconds = parse_duration(duration, "duration")
        until = self._execution.executor.clock.now() + int(seconds * SECOND)
        await self._wait("sleep", name, until=until)

    async def sleep_until(self, name: str, moment: datetime | str | float) -> None:
        """Wait until a moment: a datetime (naive: UTC), RFC 3339 text, or seconds since the
        epoch.
        """
        await self._wait("sleep", name, until=from_datetime(parse_moment(moment)))

    async def wait_for_event(
        self,
        name: str,
        event: str,
        *,
        match: str | Mapping[str, object] | None = None,
        timeout: Duration | None = None,
        lookback: Duration | None = None,
    ) -> Event:
        """The first event named `event` (`order.*` and `order.>` are patterns) for which `match`
        holds.

        `match` is an expression over `event` and `data`, or paths with their values. `lookback`
        also takes events of the recent past. Raises `WaitTimeout`.
        """
        wait = EventWait(event, match, timeout, lookback)
        place = self._execution.place("event", name)
        step = await self._single(place, self._start_event(place, wait))
        return await self._event(place, step)

    async def emit(self, name: str, event: str, data: Any = None) -> str:
        """Emit an event, exactly once; answers its id."""
        validate_event_name(event, "event")
        execution = self._execution
        place = execution.place("emit", name)
        if place.step is not None and place.step.status is StepStatus.COMPLETED:
            return str((await execution.value(place.step))["event_id"])
        execution.check()
        body = encode_plain(data, f"event of step {name!r}")
        payload, blob = pack(body)
        event_id = derive_id("emit", execution.run_id, place.key)
        message = c.EmitEvent(
            id=event_id,
            name=event,
            data=payload,
            source=f"run:{execution.run_id}",
            data_hash=hashlib.sha256(body).hexdigest()[:32],
            blob=blob,
        )
        await self._record(place, {"event_id": event_id}, sends=(c.Send("router/", message),))
        return event_id

    # -- other runs -------------------------------------------------------------------------------

    async def invoke(
        self,
        name: str,
        function: Function | str,
        input: Any = None,
        *,
        timeout: Duration | None = None,
        detached: bool = False,
    ) -> Any:
        """Run another function as a child of this run and answer its result; detached: its run id
        at once.

        Raises `InvokeError` when the child failed, was cancelled or took longer than `timeout` (it
        is cancelled then), `NotFound` for a function that is not served here.
        """
        place = self._execution.place("invoke", name)
        if not detached:
            step = await self._single(
                place, self._start_invoke(place, RunWait(function, input, timeout))
            )
            return await self._child(place, step)
        if place.step is not None and place.step.status is StepStatus.COMPLETED:
            return str((await self._execution.value(place.step))["run_id"])
        self._execution.check()
        child, create = self._create(place, function, input, detached=True)
        sends = (c.Send(f"run/{child}", create),)
        await self._record(place, {"run_id": child}, sends=sends)
        return child

    # -- several at once --------------------------------------------------------------------------

    async def wait_any(self, name: str, waits: Mapping[str, Wait]) -> Winner:
        """The first of several waits; the others are given up (an invoked run is cancelled)."""
        execution = self._execution
        place = execution.place("race", name)
        places = self._inner(place, waits)
        if place.step is not None and place.step.status is StepStatus.COMPLETED:
            label = str((await execution.value(place.step))["winner"])
        else:
            await self._await_first(places, waits)
            ended = [
                (step.ended_at or 0, label)
                for label, inner in places.items()
                if (step := execution.steps.get(inner.key)) and not execution.is_open(step)
            ]
            label = min(ended, key=lambda pair: pair[0])[1]
            losers = tuple(p.key for other, p in places.items() if other != label)
            await self._record(place, {"winner": label}, cancels=losers)
        inner = places[label]
        return Winner(label, await self._result(inner, waits[label], execution.steps[inner.key]))

    async def wait_all(self, name: str, waits: Mapping[str, Wait]) -> dict[str, Any]:
        """All of several waits at the same time, by name. Raises the error of the first that
        failed.
        """
        execution = self._execution
        branch = Branch(execution, execution.block(name).key + "/")
        places = self._places(branch, waits)
        await self._start_all(places, waits)
        while any(execution.is_open(execution.steps[p.key]) for p in places.values()):
            await self._await_one_of([p.key for p in places.values()])
        return {
            label: await self._result(inner, waits[label], execution.steps[inner.key])
            for label, inner in places.items()
        }

    async def parallel(
        self,
        name: str,
        branches: Mapping[str, Callable[[], Any]] | Sequence[Callable[[], Any]],
        *,
        concurrency: int | None = None,
        fail_fast: bool = True,
    ) -> Any:
        """Run branches at the same time; each may use steps, sleep and wait. A dict gives a dict, a
        list a list.

        `concurrency` bounds how many are under way. Fail-fast: the first error cancels the others
        and is raised; else the results are `Outcome`s and nothing is raised.
        """
        place = self._execution.block(name)
        named = isinstance(branches, Mapping)
        labels = list(branches) if isinstance(branches, Mapping) else range(len(branches))
        items = {
            str(label): branches[label]  # type: ignore[index]
            for label in labels
        }
        results = await self._run_branches(place, items, concurrency, fail_fast)
        return results if named else list(results.values())

    async def map(
        self,
        name: str,
        fn: Callable[[Any], Any],
        items: Iterable[Any],
        *,
        concurrency: int | None = None,
        fail_fast: bool = True,
    ) -> list[Any]:
        """`parallel` of `fn(item)` for each item, in their order."""
        place = self._execution.block(name)
        branches = {str(i): (lambda item=item: fn(item)) for i, item in enumerate(items)}
        results = await self._run_branches(place, branches, concurrency, fail_fast)
        return list(results.values())

    async def _run_branches(
        self,
        place: Place,
        branches: Mapping[str, Callable[[], Any]],
        concurrency: int | None,
        fail_fast: bool,
    ) -> dict[str, Any]:
        if concurrency is not None and concurrency < 1:
            raise InvalidInput("concurrency", "must be at least 1")
        if not branches:
            return {}
        block = Block(self._execution, place, branches, fail_fast)
        if place.step is not None:
            return await block.fail_again(concurrency)
        try:
            return await block.run(concurrency)
        except Exception:
            if block.failed is None:
                raise
            self._execution.check()
            await self._record(place, {"failed": block.failed})
            raise block.errors[block.failed] from None

    async def outcomes(self, results: Iterable[Outcome]) -> list[Any]:
        """The values of settled branches. Raises the first error."""
        values = []
        for result in results:
            if result.error is not None:
                raise result.error
            values.append(result.value)
        return values

    # -- waits, in detail -------------------------------------------------------------------------

    async def _wait(self, kind: StepKind, name: str, *, until: int) -> None:
        place = self._execution.place(kind, name)
        await self._single(place, self._command(place, until=until))

    def _command(self, place: Place, **facts: Any) -> c.StartWait:
        return c.StartWait(
            execution=self._execution.number,
            key=place.key,
            name=place.name,
            pos=place.pos,
            kind=place.kind,
            scope=place.scope,
            **facts,
        )

    async def _single(self, place: Place, command: c.StartWait) -> Step:
        """Start a wait, or find it started, and answer its step once it has ended."""
        execution = self._execution
        step = execution.steps.get(place.key)
        if step is not None and not execution.is_open(step):
            return self._ended(step)
        execution.check()
        group = execution.begin_wait([place.key])
        try:
            parks = execution.parks(place.key)
            if step is None or parks is not None:
                command = msgspec.structs.replace(command, parks=parks)
                execution.obey(await execution.report(command))
        except BaseException:
            execution.end_wait(group)
            raise
        await execution.wait(group, place.key)
        return execution.steps[place.key]

    def _ended(self, step: Step) -> Step:
        """A wait that ended; one that was cancelled with its branch ends that branch again."""
        if step.status is StepStatus.CANCELLED:
            self._execution.check()
            raise asyncio.CancelledError
        return step

    def _inner(self, place: Place, waits: Mapping[str, Wait]) -> dict[str, Place]:
        return self._places(Branch(self._execution, place.key + "/"), waits)

    def _places(self, branch: Branch, waits: Mapping[str, Wait]) -> dict[str, Place]:
        if not waits:
            raise InvalidInput("waits", "there is nothing to wait for")
        kinds: dict[type, StepKind] = {EventWait: "event", TimerWait: "sleep", RunWait: "invoke"}
        for label, wait in waits.items():
            if type(wait) not in kinds:
                raise InvalidInput(f"waits.{label}", "must be an EventWait, TimerWait or RunWait")
        return {
            label: self._execution.place(kinds[type(wait)], label, branch)
            for label, wait in waits.items()
        }

    async def _start_all(self, places: Mapping[str, Place], waits: Mapping[str, Wait]) -> None:
        execution = self._execution
        missing = {k: p for k, p in places.items() if execution.steps.get(p.key) is None}
        if missing:
            execution.check()
        # All of one moment, however long it takes to record them.
        for command in [self._start(place, waits[label]) for label, place in missing.items()]:
            execution.obey(await execution.report(command))

    async def _await_first(self, places: Mapping[str, Place], waits: Mapping[str, Wait]) -> None:
        execution = self._execution
        execution.check()
        await self._start_all(places, waits)
        if all(execution.is_open(execution.steps[p.key]) for p in places.values()):
            await self._await_one_of([p.key for p in places.values()])

    async def _await_one_of(self, keys: Sequence[str]) -> None:
        """Until one of the open steps among `keys` has ended."""
        execution = self._execution
        execution.check()
        pending = [key for key in keys if execution.is_open(execution.steps[key])]
        group = execution.begin_wait(pending)
        try:
            await execution.park_if_idle()
            execution.executor.note_idle(execution)
            await _first(group)
        finally:
            execution.end_wait(group)

    def _start(self, place: Place, wait: Wait) -> c.StartWait:
        match wait:
            case EventWait():
                return self._start_event(place, wait)
            case RunWait():
                return self._start_invoke(place, wait)
            case TimerWait():
                now = self._execution.executor.clock.now()
                seconds = parse_duration(wait.duration, "duration")
                return self._command(place, until=now + int(seconds * SECOND))

    async def _result(self, place: Place, wait: Wait, step: Step) -> Any:
        step = self._ended(step)
        match wait:
            case EventWait():
                return await self._event(place, step)
            case RunWait():
                return await self._child(place, step)
            case TimerWait():
                return None

    def _start_event(self, place: Place, wait: EventWait) -> c.StartWait:
        validate_pattern(wait.event, "event")
        match = match_expression(wait.match)
        compile_filter(match, "match")
        timeout = None if wait.timeout is None else parse_duration(wait.timeout, "timeout")
        lookback = None if wait.lookback is None else parse_duration(wait.lookback, "lookback")
        now = self._execution.executor.clock.now()
        return self._command(
            place,
            event=wait.event,
            match=match,
            until=None if timeout is None else now + int(timeout * SECOND),
            lookback=lookback,
        )

    async def _event(self, place: Place, step: Step) -> Event:
        if step.status is not StepStatus.COMPLETED:
            raise WaitTimeout(place.name, f"event {step.event!r}")
        return msgspec.convert(await self._execution.value(step), Event)

    def _start_invoke(self, place: Place, wait: RunWait) -> c.StartWait:
        if self._execution.steps.get(place.key) is not None:
            return self._command(place)  # known to the journal: nothing of it is needed again
        child, create = self._create(place, wait.function, wait.input, detached=False)
        until = None
        if wait.timeout is not None:
            now = self._execution.executor.clock.now()
            until = now + int(parse_duration(wait.timeout, "timeout") * SECOND)
        return self._command(place, until=until, child=child, create=create)

    def _create(
        self, place: Place, function: Function | str, value: Any, *, detached: bool
    ) -> tuple[str, c.CreateRun]:
        execution = self._execution
        function_id = function if isinstance(function, str) else function.id
        executor = execution.executor
        spec = executor.lookup(function_id)
        if spec is None and not executor.is_remote:
            raise NotFound("function", function_id)
        depth = execution.assignment.depth + 1
        if depth > MAX_DEPTH:
            raise InvokeError(
                place.name, function_id, "-", f"would be nested deeper than {MAX_DEPTH} runs"
            )
        body = encode_plain(value, f"input of step {place.name!r}")
        if spec is not None:
            spec.check_input(body)
        payload, blob = pack(body)
        # By attempt: a run that is retried needs a new child for one that failed.
        attempt = str(execution.assignment.attempt)
        child = derive_id("child", execution.run_id, place.key, attempt)
        parent = ParentRef(execution.run_id, place.key, detached, depth)
        create = c.CreateRun(
            function_id=function_id,
            input=payload,
            input_hash=hashlib.sha256(body).hexdigest()[:32],
            # The server fills in what a worker does not know.
            options=spec.definition.options if spec is not None else None,
            code=spec.definition.code if spec is not None else None,
            parent=parent,
            blob=blob,
        )
        return child, create

    async def _child(self, place: Place, step: Step) -> Any:
        if step.status is StepStatus.COMPLETED:
            return await self._execution.value(step)
        reason = "took longer than its timeout and was cancelled"
        if step.error is not None:
            reason = f"failed: {step.error.kind}: {step.error.message}"
            if step.error.code == "cancelled":
                reason = step.error.message
        raise InvokeError(place.name, step.target or "?", step.child or "?", reason)

    async def _record(
        self,
        place: Place,
        value: dict[str, str],
        *,
        sends: tuple[c.Send, ...] = (),
        cancels: tuple[str, ...] = (),
    ) -> None:
        execution = self._execution
        data, _ = normalize(value, place.name)
        command = c.RecordStep(
            execution=execution.number,
            key=place.key,
            name=place.name,
            pos=place.pos,
            kind=place.kind,
            result=pack(data)[0] if value else NULL,
            scope=place.scope,
            started_at=execution.executor.clock.now(),
            sends=sends,
            cancels=cancels,
        )
        execution.obey(await execution.report(command))


async def _first(group: Group) -> None:
    futures = list(group.futures.values())
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
    signals = [f.exception() for f in futures if f.done() and not f.cancelled()]
    for future in futures:
        future.cancel()
    signal = next((one for one in signals if one is not None), None)
    try:
        if signal is not None:
            raise signal
    finally:
        del futures, signals, signal  # the traceback leads here: a cycle otherwise
