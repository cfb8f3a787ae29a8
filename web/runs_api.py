"""Runs: list, look at one from every side, and steer it."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from ironflow.core.errors import NotFound
from ironflow.core.prefect.explain import explain_flow_run
from ironflow.core.prefect.lists import running_steps as tasks_running
from ironflow.core.runs.entries import RunKind
from ironflow.core.runs.explain import Explanation, explain
from ironflow.core.runs.state import TERMINAL, Run
from ironflow.storage.ports import RunFilter
from ironflow.web.functions_api import WaitQuery
from ironflow.web.queries import (
    Moment,
    Query,
    check_reason,
    check_run_id,
    decode_cursor,
    encode_cursor,
    parse_wait,
    to_micros,
)
from ironflow.web.routing import Answer, Call, Handle, Route
from ironflow.web.views import (
    Values,
    entry_view,
    moment,
    result_view,
    run_summary,
    run_view,
    step_views,
    workflow_steps,
)
from ironflow.web.wire import runs as wire

Status = Literal["queued", "running", "waiting", "paused", "completed", "failed", "cancelled"]


class RunsQuery(Query, frozen=True):
    """Which runs: every given filter must hold; `since` <= created_at < `until`."""

    function_id: str | None = None
    kind: RunKind | None = None
    status: tuple[Status, ...] = ()
    event_id: str | None = None
    event_name: str | None = None
    parent_id: str | None = None
    idempotency_key: str | None = None
    since: Moment | None = None
    until: Moment | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=200)] = 50
    cursor: str | None = None


class FullQuery(Query, frozen=True):
    """`full=true` loads values that are kept out of line (up to 32 MiB in one answer)."""

    full: bool = False


class HistoryQuery(Query, frozen=True):
    """Entries with a version greater than `after`."""

    after: Annotated[int, msgspec.Meta(ge=0)] = 0
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 200
    full: bool = False


async def list_runs(call: Call[RunsQuery, None]) -> Answer:
    """Runs, newest first."""
    query = call.query
    where = RunFilter(
        function_id=query.function_id,
        kind=query.kind,
        statuses=query.status,
        event_id=query.event_id,
        event_name=query.event_name,
        parent_id=query.parent_id,
        idempotency_key=query.idempotency_key,
        since=to_micros(query.since),
        until=to_micros(query.until),
    )
    before = decode_cursor(query.cursor)
    rows = await call.engine.store.reader.runs(where, query.limit + 1, before)
    page = rows[: query.limit]
    more = len(rows) > len(page)
    return 200, wire.RunPage(
        items=[run_summary(row) for row in page],
        next_cursor=encode_cursor(page[-1].created_at, page[-1].id) if more else None,
    )


async def get_run(call: Call[Query, None]) -> Answer:
    """One run, whole."""
    run = await _run(call)
    explanation = None if run.is_terminal else await _explain(call, run)
    reasons = [] if explanation is None else [reason.text for reason in explanation.reasons]
    return 200, await run_view(call.engine, run, reasons)


async def list_steps(call: Call[FullQuery, None]) -> Answer:
    """A run's steps in the order in which they began."""
    run_id = check_run_id(call.path["run_id"])
    # Before the record is read: a step that ends in between is then in both, not in neither.
    running = call.engine.host.running_steps(run_id)
    run = await call.engine.run(run_id)
    if run.kind == "workflow":
        run.steps = await workflow_steps(call.engine, run_id)
    if run.kind == "flow":
        running = tasks_running(await call.engine.flow_run(run_id))
    values = Values(call.engine, full=call.query.full)
    steps = await step_views(run, running, values)
    return 200, wire.StepPage(run_id=run.id, status=run.status.value, items=steps)


async def list_history(call: Call[HistoryQuery, None]) -> Answer:
    """A run's journal entries, oldest first."""
    query, reader = call.query, call.engine.store.reader
    run_id = check_run_id(call.path["run_id"])
    rows = await reader.entries(f"run/{run_id}", query.after, query.limit + 1)
    if not rows and await reader.run(run_id) is None:
        raise NotFound("run", run_id)
    page = rows[: query.limit]
    values = Values(call.engine, full=query.full)
    return 200, wire.EntryPage(
        items=[await entry_view(entry, values) for entry in page],
        next_version=page[-1].version if len(rows) > len(page) else None,
    )


async def get_result(call: Call[WaitQuery, None]) -> Answer:
    """How a run ended."""
    run_id = check_run_id(call.path["run_id"])
    run: Run | None = None
    if call.query.wait is not None:
        run = await call.engine.wait(run_id, parse_wait(call.query.wait))
    if run is None:
        run = await call.engine.run(run_id)
    return (200 if run.is_terminal else 202), await result_view(call.engine, run)


async def explain_run(call: Call[Query, None]) -> Answer:
    """Why a run stands where it stands."""
    run = await _run(call)
    explanation = await _explain(call, run)
    return 200, wire.WhyView(
        run_id=run.id,
        status=run.status.value,
        summary=explanation.summary,
        reasons=[
            wire.ReasonView(
                kind=reason.kind, step=reason.step, text=reason.text, due_at=moment(reason.due_at)
            )
            for reason in explanation.reasons
        ],
    )


async def cancel_run(call: Call[Query, wire.ReasonRequest]) -> Answer:
    """Cancel a run."""
    run_id = check_run_id(call.path["run_id"])
    reason = check_reason(call.body.reason, "cancelled by request")
    status = await call.engine.cancel(run_id, reason)
    pending = None if status in TERMINAL else "cancel"
    return 200, wire.StatusView(run_id=run_id, status=status, pending=pending)


async def pause_run(call: Call[Query, wire.ReasonRequest]) -> Answer:
    """Pause a run at its next step boundary."""
    run_id = check_run_id(call.path["run_id"])
    reason = check_reason(call.body.reason, "paused by request")
    status = await call.engine.pause(run_id, reason)
    pending = None if status == "paused" else "pause"
    return 200, wire.StatusView(run_id=run_id, status=status, pending=pending)


async def resume_run(call: Call[Query, wire.ReasonRequest]) -> Answer:
    """Let a paused run go on."""
    run_id = check_run_id(call.path["run_id"])
    status = await call.engine.resume(run_id)
    return 200, wire.StatusView(run_id=run_id, status=status)


async def retry_run(call: Call[Query, wire.ReasonRequest]) -> Answer:
    """Try a failed or cancelled run again from its failure."""
    run_id = check_run_id(call.path["run_id"])
    status = await call.engine.retry(run_id, check_reason(call.body.reason, ""))
    return 200, wire.StatusView(run_id=run_id, status=status)


async def _run(call: Call[Query, None]) -> Run:
    return await call.engine.run(check_run_id(call.path["run_id"]))


async def _explain(call: Call[Query, None], run: Run) -> Explanation:
    engine = call.engine
    if run.kind == "flow":
        return explain_flow_run(await engine.flow_run(run.id), engine.clock.now())
    return explain(
        run,
        engine.clock.now(),
        running=engine.host.running_steps(run.id),
        served=engine.host.spec(run.function_id) is not None,
        queue_position=engine.pool.position(run.id),
        held_up=engine.pool.held_up(run.id) or engine.host.held_up(run.function_id),
    )


_RUN = "/api/v1/runs/{run_id}"


def _steer(verb: str, handle: Handle, summary: str, meaning: str) -> Route:
    return Route(
        method="POST",
        path=f"{_RUN}/{verb}",
        handle=handle,
        summary=summary,
        tag="runs",
        request=wire.ReasonRequest,
        optional_body=True,
        response=wire.StatusView,
        statuses={200: meaning},
        problems=(404, 409, 429, 503, 507),
    )


ROUTES = (
    Route(
        method="GET",
        path="/api/v1/runs",
        handle=list_runs,
        summary="List runs, newest first",
        tag="runs",
        query=RunsQuery,
        response=wire.RunPage,
        statuses={200: "A page of runs"},
        problems=(503,),
    ),
    Route(
        method="GET",
        path=_RUN,
        handle=get_run,
        summary="Get a run",
        tag="runs",
        response=wire.RunView,
        statuses={200: "The run"},
        problems=(404, 503),
    ),
    Route(
        method="GET",
        path=f"{_RUN}/steps",
        handle=list_steps,
        summary="List a run's steps",
        details="In the order in which they began; those that execute now are `running`.",
        tag="runs",
        query=FullQuery,
        response=wire.StepPage,
        statuses={200: "The steps"},
        problems=(404, 503),
    ),
    Route(
        method="GET",
        path=f"{_RUN}/history",
        handle=list_history,
        summary="List a run's journal entries",
        tag="runs",
        query=HistoryQuery,
        response=wire.EntryPage,
        statuses={200: "The entries, oldest first"},
        problems=(404, 503),
    ),
    Route(
        method="GET",
        path=f"{_RUN}/result",
        handle=get_result,
        summary="Get a run's result, and wait for it with `?wait=`",
        tag="runs",
        query=WaitQuery,
        response=wire.ResultView,
        statuses={200: "The run has ended", 202: "The run has not ended"},
        problems=(404, 503),
    ),
    Route(
        method="GET",
        path=f"{_RUN}/why",
        handle=explain_run,
        summary="Explain what a run waits for",
        tag="runs",
        response=wire.WhyView,
        statuses={200: "Why, and what will wake it"},
        problems=(404, 503),
    ),
    _steer("cancel", cancel_run, "Cancel a run", "Cancelled; with `pending`, it is being unwound"),
    _steer(
        "pause",
        pause_run,
        "Pause a run at its next step boundary",
        "Paused; with `pending`, it will be at the boundary",
    ),
    _steer("resume", resume_run, "Resume a paused run", "It goes on"),
    _steer(
        "retry",
        retry_run,
        "Retry a failed or cancelled run from its failure",
        "It goes on with its finished steps kept",
    ),
)
