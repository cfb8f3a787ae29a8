"""Every error ironflow raises on purpose.

An `IronflowError` carries its facts as attributes, builds its own sentence, survives pickling, and
knows the HTTP status and the stable `code` it has on the wire; faces only encode it. Two signals
derive from `BaseException` instead, so that a user's `except Exception` cannot swallow them.
"""

from __future__ import annotations

import os
from typing import Any


class IronflowError(Exception):
    """Something ironflow refuses or cannot do."""

    code = "internal"
    status = 500

    def __init__(self, message: str = "") -> None:
        # A subclass of a user may have no docstring, and `python -OO` leaves none.
        doc = (type(self).__doc__ or "").strip() or type(self).__name__
        self.message = message or doc.splitlines()[0]
        super().__init__(self.message)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.__dict__.copy()))

    def __str__(self) -> str:
        return self.message


def _rebuild(kind: type[IronflowError], facts: dict[str, Any]) -> IronflowError:
    error = kind.__new__(kind)
    error.__dict__.update(facts)
    error.args = (facts.get("message", ""),)
    return error


class InvalidInput(IronflowError):
    """The request is not acceptable; `field` names the part and `message` the reason."""

    code = "invalid_input"
    status = 422

    def __init__(self, field: str, reason: str) -> None:
        self.field, self.reason = field, reason
        super().__init__(f"{field}: {reason}" if field else reason)


class NotFound(IronflowError):
    """There is no such thing."""

    code = "not_found"
    status = 404

    def __init__(self, kind: str, key: str) -> None:
        self.kind, self.key = kind, key
        super().__init__(f"no {kind} {key!r}")


class Conflict(IronflowError):
    """The request contradicts the present state."""

    code = "conflict"
    status = 409


class FailedPrecondition(Conflict):
    """What is asked for cannot be had of this thing, whatever its state."""

    code = "failed_precondition"


class IdempotencyConflict(Conflict):
    """An idempotency key was used again with other input."""

    code = "idempotency_conflict"

    def __init__(self, key: str, existing: str) -> None:
        self.key, self.existing = key, existing
        super().__init__(
            f"idempotency key {key!r} was already used by {existing} with different input; "
            "send the same input or another key"
        )


class StaleExecution(Conflict):
    """A report came from an execution that no longer owns the run."""

    code = "stale_execution"

    def __init__(self, run_id: str, execution: int, current: int) -> None:
        self.run_id, self.execution, self.current = run_id, execution, current
        super().__init__(f"execution {execution} of run {run_id} no longer owns it (now {current})")


class Overloaded(IronflowError):
    """A bounded queue is full; try again after `retry_after` seconds."""

    code = "overloaded"
    status = 429

    def __init__(self, what: str, retry_after: float = 1.0) -> None:
        self.what, self.retry_after = what, retry_after
        super().__init__(f"{what} is full; try again in {retry_after:g} s")


class RateLimited(IronflowError):
    """A function's rate limit is used up; try again after `retry_after` seconds."""

    code = "rate_limited"
    status = 429

    def __init__(self, reason: str, retry_after: float) -> None:
        self.retry_after = retry_after
        super().__init__(reason)


class Gone(IronflowError):
    """The actor stopped or crashed before it answered."""

    code = "unavailable"
    status = 503
    retry_after = 1.0


class EndpointFailed(IronflowError):
    """An endpoint that the server has asked something did not answer as one."""

    code = "endpoint_failed"
    status = 502

    def __init__(self, url: str, reason: str) -> None:
        self.url, self.reason = url, reason
        super().__init__(f"{url} {reason}")


class Draining(IronflowError):
    """The server is shutting down and takes no new work."""

    code = "draining"
    status = 503
    retry_after = 5.0


class StorageError(IronflowError):
    """The journal could not be read or written."""

    code = "storage_error"
    status = 503
    retry_after = 5.0


class StorageFull(StorageError):
    """The disk is full: nothing was written; reads go on."""

    code = "storage_full"
    status = 507


class Damaged(StorageError):
    """Something in the database cannot be read; `what` names it."""

    code = "damaged"

    def __init__(self, what: str, reason: str) -> None:
        self.what, self.reason = what, reason
        super().__init__(f"{what} cannot be read: {reason}")


class DatabaseInUse(StorageError):
    """Another ironflow process has this database open."""

    code = "database_in_use"

    def __init__(self, path: str, owner: str = "") -> None:
        self.path, self.owner = path, owner
        super().__init__(
            f"{path} is in use by another ironflow process" + (f" ({owner})" if owner else "")
        )


class SchemaTooNew(StorageError):
    """The database was written by a newer ironflow."""

    code = "schema_too_new"

    def __init__(self, path: str, found: int, known: int) -> None:
        self.path, self.found, self.known = path, found, known
        super().__init__(
            f"{path} has schema version {found}, this ironflow knows up to {known}: "
            "upgrade ironflow or restore the backup made before the migration"
        )


class StreamConflict(StorageError):
    """Another writer appended to the stream first."""

    code = "stream_conflict"
    status = 409

    def __init__(self, stream: str, version: int) -> None:
        self.stream, self.version = stream, version
        super().__init__(f"version {version} of stream {stream} was already written")


class NonRetryable(IronflowError):
    """Raised by user code: this failure is final, whatever the retry policy says."""

    code = "non_retryable"


class StepError(IronflowError):
    """A step failed for good; `step`, `kind` (the exception's type) and `attempts` say how."""

    code = "step_failed"

    def __init__(self, step: str, kind: str, reason: str, attempts: int = 1) -> None:
        self.step, self.kind, self.reason, self.attempts = step, kind, reason, attempts
        tries = f" after {attempts} attempts" if attempts > 1 else ""
        super().__init__(f"step {step!r} failed{tries}: {kind}: {reason}")


class StepTimeout(IronflowError):
    """A step ran longer than its timeout, in seconds; `killed`: its process was killed for it."""

    code = "step_timeout"

    def __init__(self, step: str, seconds: float, killed: bool = False) -> None:
        self.step, self.seconds, self.killed = step, seconds, killed
        end = "; its process was killed" if killed else ""
        super().__init__(f"step {step!r} ran longer than {seconds:g} s{end}")


class StepProcessLost(IronflowError):
    """The process in which a step ran has died or was killed; `reason` says how."""

    code = "step_process_lost"

    def __init__(self, step: str, reason: str) -> None:
        self.step, self.reason = step, reason
        super().__init__(f"the process of step {step!r} {reason}")


class WaitTimeout(IronflowError):
    """What a run waited for did not come in time."""

    code = "wait_timeout"

    def __init__(self, step: str, what: str) -> None:
        self.step, self.what = step, what
        super().__init__(f"step {step!r} waited for {what} and timed out")


class InvokeError(IronflowError):
    """An invoked run failed, was cancelled or timed out."""

    code = "invoke_failed"

    def __init__(self, step: str, function_id: str, run_id: str, reason: str) -> None:
        self.step, self.function_id, self.run_id, self.reason = step, function_id, run_id, reason
        super().__init__(f"step {step!r}: run {run_id} of {function_id!r} {reason}")


class RunError(IronflowError):
    """A run that was waited for did not complete; `outcome`, `kind` and `reason` say how."""

    code = "run_failed"

    def __init__(self, run_id: str, function_id: str, outcome: str, kind: str, reason: str) -> None:
        self.run_id, self.function_id, self.outcome = run_id, function_id, outcome
        self.kind, self.reason = kind, reason
        super().__init__(f"run {run_id} of {function_id!r} {outcome}: {kind}: {reason}")


class NonDeterminism(IronflowError):
    """On replay the code asked for another step than the one recorded at this place."""

    code = "non_determinism"
    status = 409

    def __init__(self, scope: str, position: int, recorded: str, asked: str) -> None:
        self.scope, self.position, self.recorded, self.asked = scope, position, recorded, asked
        where = f"position {position}" + (f" of branch {scope!r}" if scope else "")
        super().__init__(
            f"non-deterministic code: at {where} the journal has {recorded!r} but the code "
            f"asked for {asked!r}; keep the order of steps, or start a new run"
        )


class MisusedContext(IronflowError):
    """A durable operation was asked for while a step of the same branch was executing."""

    code = "misused_context"

    def __init__(self, asked: str, busy: str) -> None:
        self.asked, self.busy = asked, busy
        super().__init__(
            f"{asked!r} was asked for while step {busy!r} of the same branch was executing: "
            "a step's function must not use ctx, and what happens at the same time belongs into "
            "ctx.step.parallel or ctx.step.map, not into asyncio.gather"
        )


class NotSerializable(IronflowError):
    """A value cannot be stored; `step` and `path` name the place inside it."""

    code = "not_serializable"

    def __init__(self, step: str, path: str, kind: str, reason: str = "") -> None:
        self.step, self.path, self.kind, self.reason = step, path, kind, reason
        super().__init__(
            f"{step}: cannot store {kind} at {path}: " + (reason or "not a JSON-able type")
        )


class UnreadableValue(IronflowError):
    """A stored value cannot be read back; `path` names the place inside it."""

    code = "unreadable_value"

    def __init__(self, path: str, reason: str) -> None:
        self.path, self.reason = path, reason
        super().__init__(f"cannot read the stored value at {path}: {reason}")


class ExpressionError(InvalidInput):
    """An expression does not parse, or asks for more than expressions may do."""

    code = "invalid_expression"


class ConfigError(IronflowError):
    """A setting is missing or wrong; the message names it and its origin."""

    code = "invalid_config"
    status = 400


class Suspended(BaseException):
    """Unwinds a run's body that waits for something durable; the body is replayed when it comes.

    A `BaseException`, so that `except Exception` in user code does not mistake it for a failure.
    """


class Unwound(BaseException):
    """Unwinds a run's body that was cancelled or timed out, so that its compensations can run."""


def reason_of(error: Exception) -> str:
    """Why a connection failed: in the system's words where an `OSError` is behind it."""
    cause = getattr(error, "os_error", error)  # aiohttp wraps it, and says more than people can use
    if isinstance(cause, OSError) and cause.errno is not None:
        return os.strerror(cause.errno) if cause.errno > 0 else cause.strerror or str(cause)
    return str(error) or type(error).__name__
