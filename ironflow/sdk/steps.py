"""`ctx.step`: the durable operations of a function's body.

Each is remembered under its place in the code. On a replay it answers from the journal; otherwise
it acts, and its result is committed before the body goes on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ironflow.core.clock import SECOND, derive_id, from_datetime
from ironflow.core.durations import parse_duration
from ironflow.core.errors import (
    InvalidInput,
)
from ironflow.core.expressions.patterns import validate_event_name
from ironflow.core.functions.definition import EXECUTORS
from ironflow.core.functions.definition import Executor as ExecutorName
from ironflow.core.runs import commands as c
from ironflow.core.runs.retry import RetryPolicy
from ironflow.core.runs.state import StepStatus
from ironflow.core.values.codec import encode_plain
from ironflow.core.values.payloads import pack
from ironflow.sdk.attempts import Call, attempt_step
from ironflow.sdk.execution import (
    Branch,
    Compensation,
    Place,
)
from ironflow.sdk.parallel import Block
from ironflow.sdk.step_waits import StepWaits
from ironflow.sdk.waits import (
    Duration,
    Event,
    EventWait,
    Outcome,
    RunWait,
    Wait,
    Winner,
    parse_moment,
)

if TYPE_CHECKING:
    from ironflow.sdk.function import Function


class Steps(StepWaits):
    """The durable operations. One object a run; which branch is asking it knows by itself."""

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
