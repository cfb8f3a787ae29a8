"""Exceptions of user code as the journal holds them, and back: replay raises what the first
execution raised.
"""

from __future__ import annotations

import asyncio
import traceback
from typing import Any

from ironflow.core import errors
from ironflow.core.errors import IronflowError, NonRetryable, StepError
from ironflow.core.runs.retry import RetryPolicy
from ironflow.core.values.payloads import Failure

TRACE_LIMIT = 4000
"""Characters of traceback that are kept; the innermost frames are at its end."""

RETRYABLE = (
    errors.Overloaded, errors.StorageError, errors.Gone, errors.Draining, errors.StepTimeout,
    errors.StepProcessLost,
)  # fmt: skip
"""ironflow's own errors that may go away by themselves; the others say the same however often one
asks.
"""


def describe_failure(error: BaseException, policy: RetryPolicy) -> Failure:
    """An exception as data. Not retryable: `NonRetryable`, what the policy excludes, errors that
    are final by nature.
    """
    text = "".join(traceback.format_exception(error))
    facts: dict[str, Any] | None = None
    code = "error"
    if isinstance(error, IronflowError):
        code = error.code
        facts = {k: v for k, v in vars(error).items() if isinstance(v, str | int | float | dict)}
    return Failure(
        kind=type(error).__name__,
        message=str(error) or type(error).__name__,
        code=code,
        retryable=is_retryable(error, policy),
        trace=text[-TRACE_LIMIT:],
        facts=facts,
    )


def is_retryable(error: BaseException, policy: RetryPolicy) -> bool:
    """Whether trying again may help."""
    if isinstance(error, NonRetryable) or not isinstance(error, Exception):
        return False
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & set(policy.no_retry_on):
        return False
    return isinstance(error, RETRYABLE) or not isinstance(error, IronflowError)


def is_cancelled() -> bool:
    """Whether somebody cancels the running task; else a `CancelledError` is what the user's own
    code raised.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def step_error(step: str, failure: Failure, attempts: int) -> IronflowError:
    """What a step that failed for good raises, the first time and on every replay."""
    kind = getattr(errors, failure.kind, None)
    special = ("NotSerializable", "InvalidInput", "NonDeterminism")
    if failure.kind in special and failure.facts is not None and kind is not None:
        error: IronflowError = kind.__new__(kind)
        error.__dict__.update(failure.facts)
        error.args = (failure.message,)
        return error
    return StepError(step, failure.kind, failure.message, attempts)
