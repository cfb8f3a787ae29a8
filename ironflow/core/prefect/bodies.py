"""Responses of the Prefect API as JSON, encoded once when a run changes.

The body of a run is kept without two estimates, which depend on when one asks, and without its
closing brace; `render` adds them. The rest of a row (`COLUMNS`) says what they are.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import msgspec

from ironflow.core import clock
from ironflow.core.clock import SECOND
from ironflow.core.prefect.rules import AbortDetails, Details, RejectDetails, Status, Verdict
from ironflow.core.prefect.runs import (
    FlowRun,
    FlowRunPolicy,
    Labels,
    Progress,
    TaskRun,
    TaskRunPolicy,
)
from ironflow.core.prefect.states import TERMINAL, State

COLUMNS = ("body", "state_type", "state_at", "expected_at", "started_at", "run_time")
"""What `render` needs of a row of `flow_runs` or `task_runs`, in this order."""

_encode = msgspec.json.Encoder().encode


class Flow(msgspec.Struct, kw_only=True):
    """A flow as a response shows it."""

    id: str
    created: str
    updated: str
    name: str
    tags: list[str]
    labels: Labels


class _Times(msgspec.Struct):
    created: str | None
    updated: str | None


class _FlowRunNow(msgspec.Struct):
    empirical_policy: FlowRunPolicy
    state_id: str | None
    state_type: str | None
    state_name: str | None
    run_count: int
    expected_start_time: str | None
    next_scheduled_start_time: str | None
    start_time: str | None
    end_time: str | None
    total_run_time: float
    state: State | None


class _TaskRunBody(msgspec.Struct):
    created: str | None
    updated: str | None
    id: str
    name: str
    flow_run_id: str | None
    task_key: str
    dynamic_key: str
    cache_key: str | None
    cache_expiration: str | None
    task_version: str | None
    empirical_policy: TaskRunPolicy
    tags: list[str]
    labels: Labels
    task_inputs: msgspec.Raw
    state_id: str | None
    state_type: str | None
    state_name: str | None
    run_count: int
    flow_run_run_count: int
    expected_start_time: str | None
    next_scheduled_start_time: str | None
    start_time: str | None
    end_time: str | None
    total_run_time: float
    state: State | None


class RunInputView(msgspec.Struct):
    """An input of a flow run as a response shows it."""

    id: str
    created: str
    updated: str
    flow_run_id: str
    key: str
    value: str
    sender: str | None


class OrchestrationResult(msgspec.Struct):
    """The answer to a proposal."""

    state: State | None
    status: Status
    details: Details


@lru_cache(4096)
def moment(at: int | None) -> str | None:
    """A moment on the wire. Each stands in several bodies of a run, one after the other."""
    return None if at is None else clock.moment(at)


def encode_info(run: FlowRun) -> bytes:
    """The part of a flow run's body that does not change as it goes on, without braces."""
    return _encode(run.info)[1:-1]


def encode_flow_run(run: FlowRun, info: bytes) -> bytes:
    """A flow run's body; `info` is what `encode_info` made of it."""
    state = run.state
    now = _FlowRunNow(
        run.policy,
        state.id if state is not None else None,
        state.type if state is not None else None,
        state.name if state is not None else None,
        run.run_count,
        moment(run.expected_at),
        moment(run.next_scheduled_at),
        moment(run.started_at),
        moment(run.ended_at),
        run.run_time / SECOND,
        state,
    )
    times = _encode(_Times(moment(run.created_at), moment(run.updated_at)))
    return b"%b,%b,%b" % (times[:-1], info, _encode(now)[1:-1])


def encode_task_run(run: TaskRun) -> bytes:
    """A task run's body."""
    info, state = run.info, run.state
    body = _TaskRunBody(
        moment(run.created_at),
        moment(run.updated_at),
        info.id,
        info.name,
        info.flow_run_id,
        info.task_key,
        info.dynamic_key,
        info.cache_key,
        moment(info.cache_expiration),
        info.task_version,
        info.empirical_policy,
        info.tags,
        info.labels,
        info.task_inputs,
        state.id if state is not None else None,
        state.type if state is not None else None,
        state.name if state is not None else None,
        run.run_count,
        run.flow_run_run_count,
        moment(run.expected_at),
        moment(run.next_scheduled_at),
        moment(run.started_at),
        moment(run.ended_at),
        run.run_time / SECOND,
        state,
    )
    return _encode(body)[:-1]


# -- estimates ------------------------------------------------------------------------------------


def estimated_run_time(
    state_type: str | None, state_at: int | None, run_time: int, now: int
) -> int:
    """How long a run has run up to now, in microseconds."""
    if state_type == "RUNNING" and state_at is not None:
        return run_time + max(0, now - state_at)
    return run_time


def estimated_lateness(
    state_type: str | None, expected_at: int | None, started_at: int | None, now: int
) -> int:
    """How much later than expected a run began, or will begin at the earliest, in microseconds."""
    if expected_at is None:
        return 0
    if started_at is not None:
        return max(0, started_at - expected_at)
    return 0 if state_type in TERMINAL else max(0, now - expected_at)


@lru_cache(4096)
def _estimates(lasted: int, late: int) -> bytes:
    """What a body lacks; both in microseconds. Who looks at lists sees the same runs again."""
    return b',"estimated_run_time":%a,"estimated_start_time_delta":%a}' % (
        lasted / SECOND,
        late / SECOND,
    )


def render(row: tuple[Any, ...], now: int) -> bytes:
    """The body of a run as of `now` from its `COLUMNS`."""
    body, state_type, state_at, expected_at, started_at, run_time = row
    lasted = estimated_run_time(state_type, state_at, run_time, now)
    late = estimated_lateness(state_type, expected_at, started_at, now)
    return bytes(body) + _estimates(lasted, late)


def render_run(run: Progress, body: bytes, now: int) -> bytes:
    """The body of a run as of `now`."""
    state = run.state
    kind, at = (state.type, state.at) if state is not None else (None, None)
    return render((body, kind, at, run.expected_at, run.started_at, run.run_time), now)


def render_list(rows: list[tuple[bytes, int, int]]) -> bytes:
    """A JSON array of runs, each a body and the two estimates in microseconds."""
    # Bodies are long: each is copied once, to its place in the list.
    parts = [b"["]
    add = parts.append
    for body, lasted, late in rows:
        add(body)
        add(_estimates(lasted, late))
        add(b",")
    if rows:
        parts.pop()
    add(b"]")
    return b"".join(parts)


# -- answers --------------------------------------------------------------------------------------


def encode_verdict(verdict: Verdict, current: State | None) -> tuple[int, bytes]:
    """The answer to a proposal: its status, and its body. `current` is the state that the run has
    after it.
    """
    result = OrchestrationResult(verdict.state or current, verdict.status, verdict.details)
    return (200 if verdict.state is None else 201), _encode(result)


def encode_reject(reason: str, current: State | None) -> tuple[int, bytes]:
    """The answer to what was not even proposed, because something else is wrong."""
    return 200, _encode(OrchestrationResult(current, "REJECT", RejectDetails(reason)))


def encode_abort(reason: str) -> tuple[int, bytes]:
    """The answer to what was not even proposed."""
    return 200, _encode(OrchestrationResult(None, "ABORT", AbortDetails(reason)))
