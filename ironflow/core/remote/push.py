"""The push protocol as data: what is sent to an endpoint and what its answer amounts to. It differs
from pull (`core.remote.pull`) in spelling only.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple, Protocol

import msgspec

from ironflow.core.errors import InvalidInput
from ironflow.core.remote.pull import (
    FinishedStep,
    Job,
    JobError,
    JobEvent,
    JobUpdate,
    StepReport,
    Yielded,
)
from ironflow.core.remote.reports import Report

_encode = msgspec.json.Encoder().encode


class PushedStep(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A finished step. `error` is JSON as text."""

    id: str
    name: str
    status: str
    output: msgspec.Raw = msgspec.field(default_factory=lambda: msgspec.Raw(b"null"))
    error: str | msgspec.UnsetType = msgspec.UNSET


class Invocation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One execution, as it is sent to an endpoint."""

    run_id: str
    function_id: str
    attempt: int
    max_attempts: int
    on_exhausted: str
    event: JobEvent
    steps: list[PushedStep]
    job_id: str
    execution_seq: int
    lease_token: str
    secrets: dict[str, str] | msgspec.UnsetType = msgspec.UNSET
    record: Any = msgspec.UNSET
    callback: str | msgspec.UnsetType = msgspec.UNSET
    """Where an endpoint with our executor may report while it works."""
    values: dict[str, msgspec.Raw] = {}
    """Large values of the record by their digests."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint's answer. `reports`: it has our executor and says what happened command by
    command; `left`: the body is out of memory without having ended the run.
    """

    status: Literal["completed", "yielded", "failed", "reports"]
    steps: tuple[StepReport, ...] = ()
    result: msgspec.Raw = msgspec.field(default_factory=lambda: msgspec.Raw(b"null"))
    error: JobError | None = None
    yielded: Yielded | None = msgspec.field(default=None, name="yield")
    reports: tuple[Report, ...] = ()


class Reply(NamedTuple):
    """What came back over HTTP. `retry_after` in seconds, if the other side said so."""

    status: int
    body: bytes
    retry_after: float | None = None
    signature: str | None = None
    """What the other side signed its answer with, if it did."""


class CallFailure(Exception):
    """A call did not come through: no connection, no answer in time, too large an answer."""


class Caller(Protocol):
    """Sends signed requests to endpoints."""

    def check(self, url: str) -> None:
        """Raise `CallFailure` for a URL that will never be called."""
        ...

    async def call(self, url: str, body: bytes, seconds: float) -> Reply:
        """POST JSON. Raises `CallFailure` with the reason in one line."""
        ...

    def check_answer(self, reply: Reply) -> None:
        """Raise `CallFailure` for an answer that was not signed with a key of this side, if it has
        one.
        """
        ...


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """The other thing than an `Invocation` that an endpoint is sent: what functions are there?
    `introspect` is a text that was never used before, and comes back with the answer.
    """

    introspect: Annotated[str, msgspec.Meta(min_length=8, max_length=200)]


class Introduction(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a `Question`: the definitions of an endpoint's functions, as JSON."""

    introspect: str
    functions: tuple[msgspec.Raw, ...]
    sdk: str = ""


def invocation(job: Job, callback: str | None, values: dict[str, bytes]) -> bytes:
    """The body of a request for a job."""
    return _encode(
        Invocation(
            run_id=job.run_id,
            function_id=job.function_id,
            attempt=job.attempt,
            max_attempts=job.max_attempts,
            on_exhausted=job.on_exhausted,
            event=job.event,
            steps=[_step(step) for step in job.completed_steps],
            job_id=job.job_id,
            execution_seq=job.execution_seq,
            lease_token=job.lease_token,
            secrets=job.context.secrets if job.context is not msgspec.UNSET else msgspec.UNSET,
            record=job.record,
            callback=callback if callback is not None else msgspec.UNSET,
            values={digest: msgspec.Raw(data) for digest, data in values.items()},
        )
    )


def _step(step: FinishedStep) -> PushedStep:
    error = step.error
    return PushedStep(
        id=step.step_id,
        name=step.name,
        status=step.status,
        output=step.output,
        error=_encode(error).decode() if error is not msgspec.UNSET else msgspec.UNSET,
    )


def decode_outcome(data: bytes) -> Outcome:
    """An endpoint's answer. Raises `InvalidInput` for one that makes no sense."""
    try:
        return msgspec.json.decode(data, type=Outcome)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput("answer", f"is no answer of an endpoint: {error}") from error


def update_of(outcome: Outcome, execution: int, token: str) -> JobUpdate:
    """The report of pull that an answer amounts to."""
    if outcome.status == "reports":
        raise InvalidInput("status", "reports are taken one by one")
    return JobUpdate(
        status=outcome.status,
        execution_seq=execution,
        lease_token=token,
        steps=outcome.steps,
        output=outcome.result,
        error=outcome.error,
        yielded=outcome.yielded,
    )
