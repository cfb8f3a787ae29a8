"""The fold of a workflow's turns: what each operation does to the state. Pure."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from ironflow.core.values.payloads import Payload
from ironflow.core.workflows.state import (
    Change,
    Child,
    ChildStarted,
    Collected,
    Echo,
    Fan,
    FanClosed,
    FanFed,
    FanFired,
    FanOpened,
    Job,
    JobAdded,
    JobBegan,
    JobCancelled,
    JobEnded,
    JobFailed,
    JobLeft,
    JobWaits,
    Remembered,
    Sent,
    SignalTaken,
    Started,
    Stored,
    Streamed,
    TurnOp,
    Wait,
    WaitMet,
    WorkflowState,
    sent_to,
)


def _begin_job(state: WorkflowState, op: JobBegan, at: int) -> None:
    job = state.jobs[op.job]
    if job.began_at is None:
        job.began_at = at
    state.next_event += 1


def _end_job(state: WorkflowState, op: JobEnded, at: int) -> None:
    state.jobs.pop(op.job, None)
    state.next_event += 1


def _cancel_job(state: WorkflowState, op: JobCancelled, at: int) -> None:
    state.jobs.pop(op.job, None)
    state.next_event += 1
    _echo(state, op.by, Echo("cancel", op.mark))


def _add_job(state: WorkflowState, op: JobAdded, at: int) -> None:
    recoveries = dict(op.recoveries) if op.recoveries else {}
    state.jobs[op.job] = Job(op.job, op.step, op.events, at, op.fans, recoveries)
    state.next_job = op.job + 1
    if op.queued:
        state.next_event += 1


def _fail_job(state: WorkflowState, op: JobFailed, at: int) -> None:
    state.next_event += 1
    if op.caught:
        state.jobs.pop(op.job, None)
        return
    job = state.jobs[op.job]
    job.failures += 1
    job.failed_at, job.error, job.retry_at = at, op.error, op.retry_at
    # The next attempt says everything anew; but it need not send and collect twice, nor start
    # children again, but for those that have failed themselves.
    job.echoes = [echo for echo in job.echoes if echo.kind not in ("stream", "store")]
    job.children = {
        key: child for key, child in job.children.items() if child.outcome in (None, "completed")
    }


def _leave_job(state: WorkflowState, op: JobLeft, at: int) -> None:
    state.next_event += 1


def _begin_wait(state: WorkflowState, op: JobWaits, at: int) -> None:
    wait = Wait(op.type, op.requirements, op.until, asked=op.asked)
    state.jobs[op.job].waits[op.key] = wait


def _meet_wait(state: WorkflowState, op: WaitMet, at: int) -> None:
    state.jobs[op.job].waits[op.key].event = op.event


def _stream(state: WorkflowState, op: Streamed, at: int) -> None:
    state.next_event += 1
    _echo(state, op.job, Echo("stream", op.mark))


def _store(state: WorkflowState, op: Stored, at: int) -> None:
    change_store(state.store, op.changes)
    if op.undo:
        _echo(state, op.job, Echo("store", "", op.changes, op.undo))


def _collect(state: WorkflowState, op: Collected, at: int) -> None:
    if op.released is None:
        state.buffers.setdefault(op.buffer, []).append(op.event)
    else:
        state.buffers.pop(op.buffer, None)
    _echo(state, op.job, Echo("collect", op.mark, released=op.released))


def _send(state: WorkflowState, op: Sent, at: int) -> None:
    _echo(state, op.job, Echo(sent_to(op.to), op.mark))


def _take_signal(state: WorkflowState, op: SignalTaken, at: int) -> None:
    state.inbox.pop(op.signal, None)


def _remember(state: WorkflowState, op: Remembered, at: int) -> None:
    state.jobs[op.job].memos[op.name] = op.value


def _start_child(state: WorkflowState, op: ChildStarted, at: int) -> None:
    state.jobs[op.job].children[op.key] = Child(op.run_id, op.workflow)


def _open_fan(state: WorkflowState, op: FanOpened, at: int) -> None:
    recoveries = dict(op.recoveries) if op.recoveries else {}
    state.fans[op.fan] = Fan(op.fan, op.fans, op.joins, recoveries=recoveries)
    state.next_fan = op.fan + 1


def _feed_fan(state: WorkflowState, op: FanFed, at: int) -> None:
    state.fans[op.fan].collected.setdefault(op.step, []).append(op.event)


def _fire_fan(state: WorkflowState, op: FanFired, at: int) -> None:
    fan = state.fans[op.fan]
    fan.fired.append(op.step)
    fan.collected.pop(op.step, None)


def _close_fan(state: WorkflowState, op: FanClosed, at: int) -> None:
    del state.fans[op.fan]


def _start(state: WorkflowState, op: Started, at: int) -> None:
    state.begun = True


APPLY: dict[type, Callable[[WorkflowState, Any, int], None]] = {
    Started: _start,
    JobAdded: _add_job,
    Sent: _send,
    JobBegan: _begin_job,
    JobEnded: _end_job,
    JobCancelled: _cancel_job,
    JobFailed: _fail_job,
    JobWaits: _begin_wait,
    JobLeft: _leave_job,
    WaitMet: _meet_wait,
    Stored: _store,
    Collected: _collect,
    Streamed: _stream,
    SignalTaken: _take_signal,
    Remembered: _remember,
    ChildStarted: _start_child,
    FanOpened: _open_fan,
    FanFed: _feed_fan,
    FanFired: _fire_fan,
    FanClosed: _close_fan,
}
"""By class of operation: what changes the state by one that was recorded at a moment. A look-up,
where a `match` would try one class after the other.
"""


def _echo(state: WorkflowState, job_id: int | None, echo: Echo) -> None:
    job = state.jobs.get(job_id) if job_id is not None else None
    if job is not None:
        job.echoes.append(echo)


# -- what is in an operation ----------------------------------------------------------------------

_BARE = frozenset((JobBegan, JobEnded, JobCancelled, JobLeft, Started, Sent, SignalTaken))
"""Operations that hold no payloads, the most frequent ones."""


def op_payloads(op: TurnOp) -> list[Payload]:
    """The payloads that an operation holds."""
    if type(op) in _BARE:
        return []
    match op:
        case JobAdded():
            return [event.value for event in op.events]
        case Streamed():
            return [op.event]
        case Remembered():
            return [op.value]
        case WaitMet() | FanFed():
            return [op.event.value]
        case Collected():
            return [op.event.value, *(event.value for event in op.released or ())]
        case _:
            return []


# -- the store ------------------------------------------------------------------------------------


def _fresh(value: Any) -> Any:
    """A container of its own: later changes are made in place, and must not reach into the entry
    that this one came from.
    """
    return copy.deepcopy(value) if isinstance(value, dict | list) else value


def change_store(store: dict[str, Any], changes: tuple[Change, ...]) -> None:
    """Apply changes to a JSON tree in place. Raises `LookupError` or `TypeError` when a path leads
    nowhere.
    """
    for kind, path, *rest in changes:
        if not path:
            store.clear()
            if kind == "=":
                store.update(_fresh(rest[0]))
            continue
        at: Any = store
        for key in path[:-1]:
            at = at[key]
        last = path[-1]
        if kind == "=":
            at[last] = _fresh(rest[0])
        elif kind == "-":
            del at[last]
        elif kind == "+":
            at[last].extend(_fresh(rest[0]))
        else:
            del at[last][rest[0] :]
