"""From rows, entries and folds to the bodies of `ironflow.web.wire`. No decisions, no writes.

Values that storage keeps out of line are shown as `{"$blob": sha256, "size": bytes}` in lists,
unless the caller asks for all of them; views of one thing load them.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import msgspec
import orjson

from ironflow.actors.engine import Engine
from ironflow.actors.events.router import EventEmitted
from ironflow.actors.kernel.system import ActorStatistics
from ironflow.actors.runs.rows import run_row
from ironflow.core.blockages import Blockage
from ironflow.core.clock import SECOND, to_rfc3339
from ironflow.core.errors import InvalidInput
from ironflow.core.functions.definition import Definition
from ironflow.core.runs.commands import Outcome
from ironflow.core.runs.entries import EventFacts, decode_entry
from ironflow.core.runs.execution import RunningStep
from ironflow.core.runs.explain import describe_rungs
from ironflow.core.runs.retry import RetryPolicy
from ironflow.core.runs.state import Run, Step, StepStatus
from ironflow.core.values.payloads import Failure, Payload
from ironflow.core.workflows.steps import StepHistory
from ironflow.storage.ports import Entry, EventRow, FunctionRow, RunRow
from ironflow.web.outcomes import Judge, plain_outcomes
from ironflow.web.wire.events import EventView
from ironflow.web.wire.functions import FunctionView, RetryView, TriggerView
from ironflow.web.wire.runs import (
    EntryView,
    FailureView,
    ResultView,
    RunSummary,
    RunView,
    StepView,
    TakenEventView,
)
from ironflow.web.wire.server import ActorView, BlockageView

FULL_LIMIT = 32 * 1024 * 1024
"""Bytes of large values in one list; past it they are shown by name even if all were asked for."""
ENTRIES_AT_ONCE = 1000
_PAYLOAD_FIELDS = ("input", "result")
COMPENSATIONS = "@compensate/"
"""The scope of compensations (the same on the executor's side)."""


class Values:
    """Shows the payloads of one answer: small ones always, large ones if `full`, to a limit."""

    def __init__(self, engine: Engine, *, full: bool) -> None:
        self._engine, self._full = engine, full
        self._left = FULL_LIMIT

    async def show(self, payload: Payload | None) -> Any:
        """The value as JSON, its name when it is not loaded, None when there is none."""
        if payload is None:
            return None
        if payload.blob is None:
            return payload.raw
        if not self._full or payload.size > self._left:
            return {"$blob": payload.blob, "size": payload.size}
        self._left -= payload.size
        return msgspec.Raw(await self._engine.load_payload(payload))


async def load(engine: Engine, payload: Payload | None) -> Any:
    """A value of a single view, wherever it is kept."""
    return None if payload is None else msgspec.Raw(await engine.load_payload(payload))


def moment(at: int | None) -> str | None:
    """A moment on the wire."""
    return None if at is None else to_rfc3339(at)


def seconds(start: int | None, end: int | None) -> float | None:
    """The time between, once both are known."""
    return None if start is None or end is None else (end - start) / SECOND


def failure_view(error: Failure | None) -> FailureView | None:
    """What went wrong."""
    if error is None:
        return None
    return FailureView(
        kind=error.kind,
        message=error.message,
        code=error.code,
        retryable=error.retryable,
        trace=error.trace,
    )


# -- runs -----------------------------------------------------------------------------------------


def _summary(row: RunRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "kind": row.kind,
        "function_id": row.function_id,
        "status": row.status,
        "attempt": row.attempt,
        "created_at": to_rfc3339(row.created_at),
        "started_at": moment(row.started_at),
        "ended_at": moment(row.ended_at),
        "updated_at": to_rfc3339(row.updated_at),
        "duration": seconds(row.started_at, row.ended_at),
        "event_id": row.event_id,
        "event_name": row.event_name,
        "idempotency_key": row.idempotency_key,
        "parent_id": row.parent_id,
        "code": row.code,
        "reason": row.reason,
    }


def run_summary(row: RunRow) -> RunSummary:
    """A run in a list."""
    return RunSummary(**_summary(row))


async def run_view(engine: Engine, run: Run, waiting_for: list[str]) -> RunView:
    """A run, whole."""
    return RunView(
        **_summary(run_row(run)),
        input=await load(engine, run.input),
        result=await load(engine, run.result),
        error=failure_view(run.error),
        execution=run.execution,
        crashes=run.crashes,
        version=run.version,
        steps_total=len(run.steps),
        worker=run.worker,
        cancel=describe_rungs(run),
        actor=run.actor,
        waiting_for=waiting_for,
        events=[
            TakenEventView(id=taken.id, name=taken.name, at=to_rfc3339(taken.at))
            for taken in run.events
        ],
        merged=run.merged,
        behind=run.behind,
    )


async def result_view(engine: Engine, run: Run) -> ResultView:
    """How a run ended, if it has."""
    row = run_row(run)
    return ResultView(
        run_id=run.id,
        status=row.status,
        result=await load(engine, run.result),
        error=failure_view(run.error),
        reason=row.reason,
    )


async def step_views(run: Run, running: list[RunningStep], values: Values) -> list[StepView]:
    """A run's steps as they began, those that execute now among them."""
    executing = {step.key: step for step in running}
    views = []
    for step in run.steps.values():
        now = executing.pop(step.key, None)
        # Recorded since the executor was asked: the record is newer.
        if now is not None and (
            step.status is StepStatus.COMPLETED
            or (step.status is StepStatus.RETRYING and now.attempt <= step.attempt)
        ):
            now = None
        views.append(await _step_view(step, now, values))
    views.extend(_running_view(run, step) for step in executing.values())
    return views


async def workflow_steps(engine: Engine, run_id: str) -> dict[str, Step]:
    """The steps of a workflow's run, read from its journal; of a long run the newest."""
    history, after = StepHistory(), 0
    while page := await engine.store.reader.entries(f"run/{run_id}", after, ENTRIES_AT_ONCE):
        for entry in page:
            history.add(decode_entry(entry.kind, entry.data), entry.at)
        after = page[-1].version
    return history.steps


async def _step_view(step: Step, now: RunningStep | None, values: Values) -> StepView:
    started = now.started_at if now is not None else step.started_at
    ended = None if now is not None else step.ended_at
    return StepView(
        key=step.key,
        name=step.name,
        kind=step.kind,
        status="running" if now is not None else step.status.value,
        scope=step.scope,
        position=step.pos,
        attempt=now.attempt if now is not None else step.attempt,
        started_at=to_rfc3339(started) if started else None,
        ended_at=moment(ended),
        duration=seconds(started or None, ended),
        until=moment(step.until) if now is None else None,
        event=step.event,
        child_run_id=step.child,
        child_function_id=step.target,
        result=await values.show(step.result),
        error=failure_view(step.error),
    )


def _running_view(run: Run, step: RunningStep) -> StepView:
    scope = step.key[: step.key.rfind("/") + 1]
    return StepView(
        key=step.key,
        name=step.name,
        kind="compensate" if scope.startswith(COMPENSATIONS) else "run",
        status="running",
        scope=scope,
        position=len(run.order.get(scope, ())),
        attempt=step.attempt,
        started_at=to_rfc3339(step.started_at),
        ended_at=None,
        duration=None,
        until=None,
        event=None,
        child_run_id=None,
        child_function_id=None,
        result=None,
        error=None,
    )


async def entry_view(entry: Entry, values: Values) -> EntryView:
    """A journal entry, with its values unwrapped."""
    data: Any = msgspec.Raw(entry.data)
    try:
        orjson.loads(entry.data)
    except orjson.JSONDecodeError:
        # Damage is shown, not spread: what cannot be read must not make the whole page unreadable.
        data = {"$damaged": base64.b64encode(entry.data).decode()}
        return _entry_view(entry, data)
    if any(b'"%s":{' % name.encode() in entry.data for name in _PAYLOAD_FIELDS):
        data = msgspec.json.decode(entry.data, type=dict[str, msgspec.Raw])
        for name in _PAYLOAD_FIELDS:
            if name in data:
                data[name] = await values.show(msgspec.json.decode(data[name], type=Payload | None))
    return _entry_view(entry, data)


def _entry_view(entry: Entry, data: Any) -> EntryView:
    return EntryView(
        seq=entry.seq,
        stream=entry.stream,
        version=entry.version,
        at=to_rfc3339(entry.at),
        kind=entry.kind,
        data=data,
    )


# -- events and functions -------------------------------------------------------------------------


async def event_views(engine: Engine, rows: Sequence[EventRow], values: Values) -> list[EventView]:
    """Events, with what became of them."""
    emitted = [msgspec.json.decode(row.data, type=EventEmitted) for row in rows]
    asked = [row.id for row, event in zip(rows, emitted, strict=True) if event.intakes]
    outcomes: dict[str, list[Outcome]] = {}
    for outcome in await engine.store.reader.outcomes(asked):
        outcomes.setdefault(outcome.subject, []).append(outcome)
    judge = await Judge.of(engine, [one for several in outcomes.values() for one in several])
    views = []
    for row, event in zip(rows, emitted, strict=True):
        decided = outcomes.get(row.id, [])
        facts = event.facts or EventFacts()
        started = [one.run_id for one in decided if one.fate == "started"]
        views.append(
            EventView(
                id=row.id,
                name=row.name,
                data=await values.show(event.data),
                at=to_rfc3339(row.at),
                source=row.source,
                idempotency_key=row.idempotency_key,
                run_ids=[*event.runs, *started],
                version=facts.version,
                metadata=facts.metadata,
                emitted_by=facts.emitted_by,
                outcomes=[*plain_outcomes(event), *map(judge.view, decided)],
            )
        )
    return views


def next_run_at(engine: Engine, function_id: str) -> int | None:
    """When the schedule of a function starts the next run, if it has one."""
    spec = engine.host.spec(function_id)
    if spec is None or spec.schedule is None:
        return None
    try:
        return spec.schedule.next_after(engine.clock.now())
    except InvalidInput:
        return None  # no such time will come


def function_view(engine: Engine, row: FunctionRow, definition: Definition) -> FunctionView:
    """A function, and whether it can be run here."""
    return FunctionView(
        id=row.id,
        name=definition.name,
        version=row.version,
        code=definition.code,
        description=definition.description,
        triggers=[
            TriggerView(event=trigger.event, expression=trigger.expression)
            for trigger in definition.triggers
        ],
        cron=definition.cron.expression if definition.cron is not None else None,
        timezone=definition.cron.timezone if definition.cron is not None else None,
        next_run_at=moment(next_run_at(engine, row.id)),
        timeout=definition.options.timeout,
        retry=_retry_view(definition.options.retry),
        input_schema=definition.input_schema,
        flow_control=definition.policies,
        served=engine.host.spec(row.id) is not None,
        updated_at=to_rfc3339(row.updated_at),
        labels=definition.labels,
    )


def _retry_view(policy: RetryPolicy) -> RetryView:
    return RetryView(
        max_attempts=policy.max_attempts,
        initial_delay=policy.initial_delay,
        factor=policy.factor,
        max_delay=policy.max_delay,
        jitter=policy.jitter,
    )


def blockage_view(found: Blockage) -> BlockageView:
    """A time that the event loop was held up."""
    return BlockageView(
        at=to_rfc3339(found.at),
        seconds=found.seconds,
        place=found.place,
        function_id=found.function_id or None,
        run_id=found.run_id or None,
        step=found.step or None,
    )


def actor_view(actor: ActorStatistics) -> ActorView:
    """A live actor."""
    return ActorView(
        address=actor.address,
        state=actor.state,
        mailbox=actor.mailbox,
        handled=actor.handled,
        restarts=actor.restarts,
        idle=actor.idle,
    )
