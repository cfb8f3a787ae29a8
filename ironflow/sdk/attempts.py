"""The attempts of a step: call its function, record what came of it, wait for the next one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from ironflow.core.errors import StepProcessLost, Unwound
from ironflow.core.functions.definition import Executor as ExecutorName
from ironflow.core.runs import commands as c
from ironflow.core.runs.retry import RetryPolicy
from ironflow.core.runs.state import Step, StepStatus
from ironflow.core.values.codec import normalize
from ironflow.core.values.payloads import Failure, pack
from ironflow.sdk.execution import Execution, Place, current_branch
from ironflow.sdk.failures import describe_failure, is_cancelled, step_error

NO_RETRY = RetryPolicy(max_attempts=1, no_retry_on=("Exception",))


class Call(msgspec.Struct, frozen=True):
    """What a step calls, for how many seconds at most, and where if not where the function says."""

    fn: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    seconds: float | None
    executor: ExecutorName | None = None


async def attempt_step(execution: Execution, place: Place, policy: RetryPolicy, call: Call) -> Any:
    """Attempt a step until it has a result, which is recorded and returned.

    Raises `StepError` once the policy allows no further attempt.
    """
    attempt = 1
    if place.step is not None:
        attempt = await _resume(execution, place, place.step)
    while True:
        execution.check()
        if execution.values:
            await execution.report_values()
        started = execution.executor.clock.now()
        data, value, failed = await _call(execution, place, attempt, started, call)
        if failed is None:
            break
        await _fail(execution, place, policy, attempt, started, failed)
        attempt += 1
    payload, blob = pack(data)
    await execution.record(
        c.RecordStep(
            execution=execution.number,
            key=place.key,
            name=place.name,
            pos=place.pos,
            kind=place.kind,
            result=payload,
            scope=place.scope,
            attempt=attempt,
            started_at=started,
            blob=blob,
        )
    )
    return value


async def _call(
    execution: Execution, place: Place, attempt: int, started: int, call: Call
) -> tuple[bytes, Any, BaseException | None]:
    """One call: the result as it is stored, as the body sees it, and what went wrong instead."""
    execution.running[place.key] = (place.name, attempt, started)
    branch = current_branch.get()
    assert branch is not None
    branch.busy = place.name
    try:
        executor, fn = execution.executor, call.fn
        if call.seconds is None and executor.calls_on_loop(fn, call.executor):
            result = await fn(*call.args, **call.kwargs)
        else:
            result = await executor.call(
                execution, place, call.seconds, fn, call.args, call.kwargs, call.executor
            )
        data, value = normalize(result, f"step {place.name!r}")
    except asyncio.CancelledError as error:
        if execution.unwinding and not execution.compensating:
            if place.key in execution.killed:
                await _record_kill(execution, place, attempt, started)
            raise Unwound from None
        if execution.leaving or is_cancelled():
            raise
        return b"", None, error
    except (Exception, SystemExit) as error:  # noqa: BLE001 - recorded by the caller
        return b"", None, error
    finally:
        branch.busy = None
        execution.running.pop(place.key, None)
        execution.killed.pop(place.key, None)
    return data, value, None


async def _record_kill(execution: Execution, place: Place, attempt: int, started: int) -> None:
    """Record that a step's process was ended to unwind the run: it may have had effects."""
    how = execution.killed[place.key]
    error = StepProcessLost(place.name, f"was {how}, because the run was to end")
    await execution.report(
        _failed(execution, place, attempt, started, describe_failure(error, NO_RETRY))
    )


def _failed(
    execution: Execution, place: Place, attempt: int, started: int, failure: Failure, **facts: Any
) -> c.FailStep:
    """The report of an attempt that failed."""
    return c.FailStep(
        execution=execution.number,
        key=place.key,
        name=place.name,
        pos=place.pos,
        kind=place.kind,
        error=failure,
        scope=place.scope,
        attempt=attempt,
        started_at=started,
        **facts,
    )


async def _resume(execution: Execution, place: Place, step: Step) -> int:
    """The number of the next attempt of a step that failed before; waits out its pause."""
    if step.status is StepStatus.FAILED:
        assert step.error is not None
        raise step_error(place.name, step.error, step.attempt)
    if execution.is_open(step):
        execution.check()
        group = execution.begin_wait([place.key])
        try:
            await execution.park_if_idle()
        except BaseException:
            execution.end_wait(group)
            raise
        await execution.wait(group, place.key)
    return step.attempt + 1


async def _fail(
    execution: Execution,
    place: Place,
    policy: RetryPolicy,
    attempt: int,
    started: int,
    error: BaseException,
) -> None:
    """Record a failed attempt; return when the next one is due, or raise the final error."""
    failure = describe_failure(error, policy)
    again = failure.retryable and attempt < policy.max_attempts
    delay = policy.delay(attempt, f"{execution.run_id}/{place.key}") if again else None
    group = execution.begin_wait([place.key]) if again else None
    try:
        execution.obey(
            await execution.report(
                _failed(
                    execution,
                    place,
                    attempt,
                    started,
                    failure,
                    retry_in=delay,
                    parks=execution.parks(place.key) if again else None,
                )
            )
        )
    except BaseException:
        if group is not None:
            execution.end_wait(group)
        raise
    if group is None:
        raise step_error(place.name, failure, attempt) from error
    await execution.wait(group, place.key)
