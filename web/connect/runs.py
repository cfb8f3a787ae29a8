"""The methods of `IronflowService` about runs and their steps."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from ironflow.core.errors import Conflict, InvalidInput, IronflowError, NotFound
from ironflow.core.remote.pull import step_key
from ironflow.core.runs.entries import RunKind
from ironflow.core.runs.state import TERMINAL, Run, Step
from ironflow.core.values.json_text import keep_json
from ironflow.storage.ports import RunFilter, RunRow
from ironflow.web.connect.dispatch import Call, Method
from ironflow.web.connect.functions import change_of
from ironflow.web.connect.json_codec import Plain
from ironflow.web.connect.pages import Page
from ironflow.web.connect.run_messages import (
    BY_STATUS,
    row_id,
    row_message,
    run_message,
    step_message,
    step_type,
)
from ironflow.web.connect.values import payload_of
from ironflow.web.queries import (
    check_reason,
    check_run_id,
    decode_cursor,
    encode_cursor,
)

DELETE_AT_MOST = 10_000
"""Runs that one call deletes."""
DELETE_AT_ONCE = 500
OURS: tuple[RunKind, ...] = ("function", "workflow")
"""Kinds of runs that the engine moves; a Prefect flow run is its client's."""
LIST_AT_MOST = 500
FURTHEST = 10_000
"""How far an offset reaches: a cursor reaches everything."""


class OneRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run by its id."""

    id: str = ""
    reason: str = ""


class RunId(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A run by its id; `from_step` is the first step that is done again."""

    run_id: str = ""
    from_step: str = ""


class ListRuns(Page, frozen=True, kw_only=True, rename="camel"):
    """Which runs: every given field must hold; `since` <= created < `until`, in microseconds."""

    function_id: str = ""
    status: str = ""
    statuses: tuple[str, ...] = ()
    since: int | None = None
    until: int | None = None
    search: Annotated[str, msgspec.Meta(max_length=200)] = ""
    event_id: str = ""


class DeleteRuns(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Which ended runs to delete; at least one field is given."""

    function_id: str = ""
    status: str = ""
    until: int | None = None


class ChangeStep(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A step, and the output that it is to have."""

    run_id: str = ""
    step_id: str = ""
    new_output: bytes = b""
    output: msgspec.Raw = msgspec.Raw(b"")
    output_value: msgspec.Raw = msgspec.Raw(b"")
    reason: str = ""


async def get_run(call: Call[OneRun]) -> Mapping[str, Any]:
    """One run, whole."""
    return await run_message(call.engine, await call.engine.run(check_run_id(call.message.id)))


async def list_runs(call: Call[ListRuns]) -> Mapping[str, Any]:
    """Runs, the newest first, whole."""
    query, engine = call.message, call.engine
    limit = query.limit or 50
    if limit > LIST_AT_MOST or query.offset > FURTHEST:
        raise InvalidInput("limit", f"is at most {LIST_AT_MOST}, and an offset {FURTHEST}")
    where = RunFilter(
        function_id=query.function_id or None,
        statuses=_statuses(query),
        event_id=query.event_id or None,
        since=query.since,
        until=query.until,
        search=query.search or None,
    )
    before = decode_cursor(query.cursor or None)
    reader = engine.store.reader
    rows = (await reader.runs(where, query.offset + limit + 1, before))[query.offset :]
    page = rows[:limit]
    found = await asyncio.gather(*(_whole(call, row) for row in page))
    more = len(rows) > len(page)
    return {
        "runs": found,
        "nextCursor": encode_cursor(page[-1].created_at, page[-1].id) if more else "",
        "totalCount": await reader.count_matching(where),
    }


def _statuses(query: ListRuns) -> tuple[str, ...]:
    wanted = [s for s in (query.status, *query.statuses) if s not in ("", _ANY)]
    return tuple(dict.fromkeys(BY_STATUS[status] for status in wanted))


_ANY = "RUN_STATUS_UNSPECIFIED"


async def _whole(call: Call[Any], row: RunRow) -> Plain:
    try:
        return await run_message(call.engine, await call.engine.run(row.id))
    except IronflowError:
        return row_message(row)  # one that is damaged or was deleted just now hides no others


async def get_run_steps(call: Call[RunId]) -> Mapping[str, Any]:
    """A run's steps in the order in which they began."""
    run = await _run(call)
    return {"steps": [await step_message(call.engine, run, s) for s in run.steps.values()]}


async def cancel_run(call: Call[OneRun]) -> Mapping[str, Any]:
    """Cancel a run."""
    run_id = check_run_id(call.message.id)
    await call.engine.cancel(run_id, check_reason(call.message.reason, "cancelled by request"))
    return await run_message(call.engine, await call.engine.run(run_id))


async def pause_run(call: Call[RunId]) -> Mapping[str, Any]:
    """Pause a run at its next step boundary."""
    status = await call.engine.pause(check_run_id(call.message.run_id))
    return {"status": "paused" if status == "paused" else "pause_requested"}


async def resume_run(call: Call[RunId]) -> Mapping[str, Any]:
    """Let a paused run go on, or try a failed one again; from a step on, if one is named."""
    run, engine = await _run(call), call.engine
    from_step = _find_step(run, call.message.from_step).key if call.message.from_step else None
    if run.status in TERMINAL:
        await engine.retry(run.id, "", from_step)
    else:
        await engine.resume(run.id, from_step)
    return await run_message(engine, await engine.run(run.id))


async def get_paused_state(call: Call[RunId]) -> Mapping[str, Any]:
    """What a paused run has done, for who is about to change it."""
    run = await _run(call)
    if run.status != "paused":
        raise Conflict(f"run {run.id} is not paused: {run.status.value}")
    message = await run_message(call.engine, run)
    steps = []
    for step in run.steps.values():
        if step.ended_at is None:
            continue
        output = await call.engine.load_payload(step.result) if step.result is not None else b""
        error = msgspec.json.encode(step.error) if step.error is not None else b""
        steps.append(
            {
                "id": row_id(run, step),
                "name": step.name,
                "output": output,
                "injected": step.injected,
                "completedAt": step.ended_at,
                "stepType": step_type(step)[1],
                "status": step.status.value,
                "error": error,
            }
        )
    return {"steps": steps, "pauseReason": message["pauseReason"], "nextStepHint": ""}


async def inject_step_output(call: Call[ChangeStep]) -> Mapping[str, Any]:
    """Give a step of a paused run another output."""
    message = call.message
    if not message.new_output:
        raise InvalidInput("newOutput", "is required: JSON text")
    run = await call.engine.run(check_run_id(message.run_id))
    step = _find_step(run, message.step_id, "stepId")
    previous = await call.engine.load_payload(step.result) if step.result is not None else b""
    await _patch(call, run, step, message.new_output, "newOutput", injected=True)
    return {"stepId": row_id(run, step), "previousOutput": previous}


async def patch_step(call: Call[ChangeStep]) -> Mapping[str, Any]:
    """Give a step of a failed or paused run another output."""
    message = call.message
    output = payload_of(message.output, message.output_value)
    if output is None:
        raise InvalidInput("output", "is required, or its twin outputValue")
    run = await call.engine.run(check_run_id(message.step_id.partition(":")[0]))
    step = _find_step(run, message.step_id, "stepId")
    await _patch(call, run, step, output, "output", injected=False)
    run = await call.engine.run(run.id)
    return await step_message(call.engine, run, run.steps[step.key])


async def _patch(
    call: Call[ChangeStep], run: Run, step: Step, output: bytes, field: str, *, injected: bool
) -> None:
    await call.engine.patch_step(
        run.id,
        step.key,
        keep_json(msgspec.Raw(output), field),
        reason=check_reason(call.message.reason, ""),
        by=change_of(call).actor,
        injected=injected,
    )


async def delete_run(call: Call[OneRun]) -> Mapping[str, Any]:
    """Delete a run that has ended, with all that belongs to it."""
    run_id = check_run_id(call.message.id)
    row = await call.engine.store.reader.run(run_id)
    if row is None:
        raise NotFound("run", run_id)
    if row.kind not in OURS:
        raise Conflict(f"run {run_id} is deleted by the client that made it")
    if row.status not in TERMINAL:
        raise Conflict(f"run {run_id} has not ended: {row.status}")
    await call.engine.store.forget([run_id])
    return {}


async def delete_runs(call: Call[DeleteRuns]) -> Mapping[str, Any]:
    """Delete many that have ended, the newest first; at most 10,000 in one call."""
    query = call.message
    if not (query.function_id or query.status or query.until is not None):
        raise InvalidInput("functionId", "give functionId, status or until: all is too much")
    statuses: tuple[str, ...] = tuple(TERMINAL)
    if query.status not in ("", _ANY):
        statuses = (BY_STATUS[query.status],)
        if statuses[0] not in TERMINAL:
            raise InvalidInput("status", "must be one in which a run has ended")
    deleted = 0
    for kind in OURS:
        where = RunFilter(
            kind=kind, function_id=query.function_id or None, statuses=statuses, until=query.until
        )
        while deleted < DELETE_AT_MOST:
            rows = await call.engine.store.reader.runs(where, DELETE_AT_ONCE)
            if not rows:
                break
            await call.engine.store.forget([row.id for row in rows])
            deleted += len(rows)
    return {"deleted": deleted}


async def _run(call: Call[RunId]) -> Run:
    return await call.engine.run(check_run_id(call.message.run_id))


def _find_step(run: Run, wanted: str, field: str = "fromStep") -> Step:
    """A step by the id of its row, by the id that its worker gave it, or by its name if that is
    plain.
    """
    if not wanted:
        raise InvalidInput(field, "is required")
    own = wanted.removeprefix(f"{run.id}:")
    for key in (own, step_key(run.id, wanted)):
        if key in run.steps:
            return run.steps[key]
    named = [step for step in run.steps.values() if step.name == wanted]
    if not named:
        raise NotFound("step", wanted)
    return named[0]


METHODS = {
    "GetRun": Method(OneRun, get_run),
    "ListRuns": Method(ListRuns, list_runs),
    "GetRunSteps": Method(RunId, get_run_steps),
    "CancelRun": Method(OneRun, cancel_run),
    "DeleteRun": Method(OneRun, delete_run),
    "DeleteRuns": Method(DeleteRuns, delete_runs),
    "PauseRun": Method(RunId, pause_run),
    "ResumeRun": Method(RunId, resume_run),
    "GetPausedState": Method(RunId, get_paused_state),
    "InjectStepOutput": Method(ChangeStep, inject_step_output),
    "PatchStep": Method(ChangeStep, patch_step),
}
