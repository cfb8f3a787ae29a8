"""`TimeTravelService` and `AuditService`: a run as it was, read from its journal."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import Annotated, Any, NamedTuple

import msgspec

from ironflow.actors.engine import Engine
from ironflow.core.clock import from_datetime
from ironflow.core.errors import InvalidInput, NotFound
from ironflow.core.prefect.runs import is_ours as is_of_flow_run
from ironflow.core.remote.pull import step_id, step_key
from ironflow.core.runs.entries import decode_entry
from ironflow.core.runs.fold import apply
from ironflow.core.runs.state import Run, Step
from ironflow.core.workflows.steps import StepHistory
from ironflow.storage.ports import Entry
from ironflow.web.connect.dispatch import Call, Method
from ironflow.web.connect.journal_facts import Fact, apply_and_tell
from ironflow.web.connect.json_codec import Plain, check_moment
from ironflow.web.connect.refusals import Unimplemented
from ironflow.web.connect.run_messages import MAX_INT32, TEXT, load, step_type
from ironflow.web.queries import check_run_id, decode_cursor, encode_cursor
from ironflow.web.views import Values

PAGE = 1000
TIMELINE_AT_MOST = 20_000
"""Entries that one timeline shows, from the beginning on."""


class AtMoment(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A run, or a step of it, at a moment in microseconds."""

    run_id: str = ""
    step_id: str = ""
    timestamp: int | None = None


class Trail(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Which part of a run's trail; moments are RFC 3339 text."""

    run_id: str = ""
    event_type: str = ""
    from_timestamp: str = ""
    to_timestamp: str = ""
    limit: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 0
    cursor: Annotated[str, msgspec.Meta(max_length=1000)] = ""


async def _entries(engine: Engine, run_id: str) -> AsyncIterator[Entry]:
    reader, after = engine.store.reader, 0
    while page := await reader.entries(f"run/{run_id}", after, PAGE):
        if is_of_flow_run(page[-1].kind):
            raise Unimplemented("runs of Prefect's clients have no time travel; see /history")
        for entry in page:
            yield entry
        after = page[-1].version
    if not after:
        raise NotFound("run", run_id)


async def _run_at(call: Call[AtMoment]) -> Run:
    """The run as it was at the moment that is asked for, now when none is."""
    message = call.message
    run_id = check_run_id(message.run_id)
    run, workflow = Run(run_id), StepHistory()
    at = call.engine.clock.now() if message.timestamp is None else message.timestamp
    async for row in _entries(call.engine, run_id):
        if row.at > at:
            break
        entry = decode_entry(row.kind, row.data)
        apply(run, entry, row.at)
        if run.kind == "workflow":
            workflow.add(entry, row.at)
    if not run.exists:
        raise NotFound("run", f"{run_id} at that moment")
    if run.kind == "workflow":
        run.steps = workflow.steps
    return run


async def _snapshot(call: Call[Any], run: Run, step: Step) -> Plain:
    took = None
    if step.ended_at is not None and step.started_at:
        took = min(max(0, step.ended_at - step.started_at) // 1000, MAX_INT32)
    return {
        "stepId": step_id(run.id, step.key),
        "name": step.name,
        "type": step_type(step)[1],
        "sequence": step.pos,
        "status": step.status.value,
        "output": await load(call.engine, step.result) or b"",
        "error": msgspec.json.encode(step.error) if step.error is not None else b"",
        "originalOutput": await load(call.engine, step.original) or b"",
        "startedAt": step.started_at or None,
        "completedAt": step.ended_at,
        "durationMs": took,
        "injected": step.injected,
        "patched": step.patched_at is not None,
    }


async def get_run_state_at(call: Call[AtMoment]) -> Mapping[str, Any]:
    """A run as it was."""
    run = await _run_at(call)
    return {
        "snapshot": {
            "runId": run.id,
            "functionId": run.function_id,
            "status": TEXT.get(run.status.value, run.status.value),
            "input": await load(call.engine, run.input) or b"",
            "steps": [await _snapshot(call, run, step) for step in run.steps.values()],
            "timestamp": run.updated_at
            if call.message.timestamp is None
            else call.message.timestamp,
            "createdAt": run.created_at,
        }
    }


async def get_step_output_at(call: Call[AtMoment]) -> Mapping[str, Any]:
    """A step as it was."""
    run, wanted = await _run_at(call), call.message.step_id
    if not wanted:
        raise InvalidInput("stepId", "is required")
    own = wanted.removeprefix(f"{run.id}:")
    step = run.steps.get(own) or run.steps.get(step_key(run.id, wanted))
    if step is None:
        raise NotFound("step", wanted)
    shown = await _snapshot(call, run, step)
    names = ("stepId", "status", "output", "originalOutput", "patched", "injected")
    return {name: shown[name] for name in names}


async def _facts(engine: Engine, run_id: str) -> AsyncIterator[tuple[Entry, Run, Fact]]:
    run = Run(check_run_id(run_id))
    async for row in _entries(engine, run.id):
        entry = decode_entry(row.kind, row.data)
        yield row, run, apply_and_tell(run, entry, row.kind, row.at)


async def get_run_timeline(call: Call[AtMoment]) -> Mapping[str, Any]:
    """What happened to a run, in order."""
    events: list[Plain] = []
    async for row, _, fact in _facts(call.engine, call.message.run_id):
        if len(events) == TIMELINE_AT_MOST:
            break
        events.append(
            {
                "id": str(row.seq),
                "eventType": fact.type,
                "stepId": fact.step_id,
                "stepName": fact.step_name,
                "summary": fact.summary,
                "significant": fact.significant,
                "timestamp": row.at,
            }
        )
    return {"events": events}


class AuditPage(NamedTuple):
    """Part of a run's trail, how much of it fits the question in all, and where to go on."""

    events: list[tuple[Entry, Run, Fact]]
    total: int
    next_cursor: str


async def read_trail(
    engine: Engine,
    run_id: str,
    event_type: str,
    span: tuple[int | None, int | None],
    limit: int,
    cursor: str,
) -> AuditPage:
    """What happened to a run, oldest first, from the first to the last moment of `span`
    (microseconds). Raises `InvalidInput`, `NotFound`.
    """
    after, (first, last), total, more = decode_cursor(cursor or None), span, 0, False
    page: list[tuple[Entry, Run, Fact]] = []
    async for row, run, fact in _facts(engine, run_id):
        if event_type not in ("", fact.type):
            continue
        if (first is not None and row.at < first) or (last is not None and row.at > last):
            continue
        total += 1
        if after is not None and row.version <= after[0]:
            continue
        if len(page) < limit:
            page.append((row, run, fact))
        else:
            more = True
    return AuditPage(page, total, encode_cursor(page[-1][0].version, "") if more else "")


async def get_audit_trail(call: Call[Trail]) -> Mapping[str, Any]:
    """What happened to a run, with its values, oldest first."""
    query = call.message
    if not query.run_id:
        raise InvalidInput("runId", "is required: the trail is that of one run")
    span = (
        _moment(query.from_timestamp, "fromTimestamp"),
        _moment(query.to_timestamp, "toTimestamp"),
    )
    page = await read_trail(
        call.engine, query.run_id, query.event_type, span, query.limit or 100, query.cursor
    )
    values = Values(call.engine, full=False)
    return {
        "events": [await _audit_event(row, run, fact, values) for row, run, fact in page.events],
        "totalCount": min(page.total, MAX_INT32),
        "nextCursor": page.next_cursor,
    }


async def _audit_event(row: Entry, run: Run, fact: Fact, values: Values) -> Plain:
    return {
        "id": str(row.seq),
        "runId": run.id,
        "functionId": run.function_id,
        "stepId": fact.step_id,
        "eventType": fact.type,
        "payload": msgspec.Raw(msgspec.json.encode(await audit_payload(fact, values))),
        "createdAt": row.at,
        "scope": "run",
    }


async def audit_payload(fact: Fact, values: Values) -> dict[str, Any]:
    """What is known of a fact beside its type, with the value that it is about."""
    payload = dict(fact.payload)
    if fact.value is not None:
        payload["output"] = await values.show(fact.value)
    return payload


def _moment(text: str, field: str) -> int | None:
    if not text:
        return None
    try:
        at = from_datetime(msgspec.convert(text, datetime))
    except (msgspec.ValidationError, OverflowError):
        raise InvalidInput(field, "must be RFC 3339 text") from None
    return check_moment(at, field)


TIME_TRAVEL_METHODS = {
    "GetRunStateAt": Method(AtMoment, get_run_state_at),
    "GetRunTimeline": Method(AtMoment, get_run_timeline),
    "GetStepOutputAt": Method(AtMoment, get_step_output_at),
}
AUDIT_METHODS = {"GetAuditTrail": Method(Trail, get_audit_trail)}
