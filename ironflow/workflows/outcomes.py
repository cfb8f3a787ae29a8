"""How a step's failure goes on: another attempt, an error handler, or the end of the run."""

from __future__ import annotations

import traceback
import zlib
from typing import TYPE_CHECKING, Any

from ironflow.core.clock import SECOND, to_datetime
from ironflow.core.values.payloads import Failure
from ironflow.workflows.errors import WorkflowRuntimeError
from ironflow.workflows.events import StepFailedEvent
from ironflow.workflows.retry_policy import ask
from ironflow.workflows.vocabulary import OURS, foreign

if TYPE_CHECKING:
    from ironflow.workflows.invocation import Invocation

TRACE_LIMIT = 4000


def failure_of(error: BaseException, step: str, attempts: int, micros: int) -> Failure:
    """A step's failure as the journal has it."""
    kind = type(error)
    return Failure(
        kind=kind.__name__,
        message=str(error) or kind.__name__,
        retryable=False,
        trace="".join(traceback.format_exception(error))[-TRACE_LIMIT:],
        facts={
            "step": step,
            "type": f"{kind.__module__}.{kind.__qualname__}",
            "attempts": attempts,
            "elapsed_seconds": max(micros, 0) / SECOND,
        },
    )


def next_attempt(invocation: Invocation, error: BaseException, now: int) -> float | None:
    """Seconds until the next attempt of a step that failed, None when there is none."""
    policy = invocation.spec.retry_policy
    if (
        policy is None
        or not isinstance(error, Exception)
        or isinstance(error, WorkflowRuntimeError)
    ):
        return None
    job = invocation.job
    began = job.began_at if job.began_at is not None else invocation.started_at
    seed = zlib.crc32(f"{invocation.body.run_id}/{job.id}/{job.failures}".encode())
    return ask(policy, max(now - began, 0) / SECOND, job.failures + 1, error, seed)


def recover(invocation: Invocation, error: Exception, now: int) -> Any:
    """What an error handler is given: of the family of classes that the step's event has."""
    job = invocation.job
    events = [invocation.body.objects.get(data) for data in job.events]
    kind: Any = StepFailedEvent
    other = foreign()
    if other is not None and events and not isinstance(events[0], OURS.event):
        kind = other.step_failed
    began = job.began_at if job.began_at is not None else now
    return kind(
        step_name=invocation.spec.name,
        input_event=events[0] if events else OURS.event(),
        exception=error,
        attempts=job.failures + 1,
        elapsed_seconds=max(now - began, 0) / SECOND,
        failed_at=to_datetime(now),
    )
