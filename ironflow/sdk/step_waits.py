"""Waits of a body, below `ctx.step`: how one begins, what it comes to, and what is recorded."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from ironflow.core.clock import SECOND, derive_id
from ironflow.core.durations import parse_duration
from ironflow.core.errors import (
    InvalidInput,
    InvokeError,
    NotFound,
    WaitTimeout,
)
from ironflow.core.expressions.patterns import validate_pattern
from ironflow.core.functions.definition import compile_filter
from ironflow.core.runs import commands as c
from ironflow.core.runs.entries import ParentRef, StepKind
from ironflow.core.runs.state import Step, StepStatus
from ironflow.core.values.codec import encode_plain, normalize
from ironflow.core.values.payloads import NULL, pack
from ironflow.sdk.execution import (
    Branch,
    Execution,
    Group,
    Place,
)
from ironflow.sdk.waits import (
    Event,
    EventWait,
    RunWait,
    TimerWait,
    Wait,
    match_expression,
)

if TYPE_CHECKING:
    from ironflow.sdk.function import Function

MAX_DEPTH = 32
"""How deep runs may invoke runs."""


class StepWaits:
    """What the durable operations have in common."""

    def __init__(self, execution: Execution) -> None:
        self._execution = execution

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
            spec.check_request(body)
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
