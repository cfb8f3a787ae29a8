"""The pull protocol as data: what a worker is handed, what it reports, and what a report asks of
the run. Pure: `ironflow.actors.workers.fleet` moves it, `ironflow.web` carries it.

A body behind this protocol makes its own step ids (`<run id>:<name>:<n>`, opaque to us but unique
in the run). It is run again from the top for every execution, answers finished steps from what it
is handed, and ends each execution with one report: completed, failed, or yielded to one wait.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec

from ironflow.core.clock import SECOND, derive_id, from_datetime, to_rfc3339
from ironflow.core.durations import parse_duration
from ironflow.core.errors import InvalidInput
from ironflow.core.expressions.compiled import compile_path
from ironflow.core.expressions.patterns import validate_pattern
from ironflow.core.functions.definition import compile_filter
from ironflow.core.remote.checks import LONGEST_PAUSE
from ironflow.core.runs import commands as c
from ironflow.core.runs.decisions import literal
from ironflow.core.runs.entries import EventFacts, EventRef, ParentRef, StepKind, TakenEvent
from ironflow.core.runs.state import Step, StepStatus
from ironflow.core.values.json_text import keep_json
from ironflow.core.values.payloads import NULL, Failure, Payload, pack

Json = msgspec.Raw
MOST_STEPS = 500
"""Steps in one report."""
LONGEST_NUMBER = 40
"""Characters of a number in a text."""
CRON_EVENT = "ironflow.cron"
"""The event of a run that a schedule has started."""
INVOKE_SECONDS = 30.0
"""How long an invoked run may take when the caller does not say."""

_NONE = msgspec.Raw(b"null")


def _null() -> msgspec.Raw:
    """A factory, because schemas cannot show raw text as a default."""
    return _NONE


_NAME = Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]


# -- what a worker reports ------------------------------------------------------------------------


class StepReport(msgspec.Struct, frozen=True, kw_only=True):
    """A step that ended in this execution. Moments are RFC 3339."""

    id: _NAME
    name: str = ""
    status: Literal["completed", "failed"] = "completed"
    type: str = "invoke"
    output: Json = msgspec.field(default_factory=_null)
    error: Any = None
    started_at: str | None = None


class EventFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which event a step waits for. `match` is a path into the event, or a comparison."""

    event: _NAME
    timeout: str | float | None = None
    match: str | None = None
    match_value: Any = msgspec.UNSET


class Yielded(msgspec.Struct, frozen=True, kw_only=True):
    """The one wait with which an execution ends."""

    step_id: _NAME
    type: Literal["sleep", "wait_for_event", "invoke_function", "invoke_function_async"]
    until: str | None = None
    event_filter: EventFilter | None = None
    function_id: str | None = None
    input: Json = msgspec.field(default_factory=_null)
    invoke_timeout_ms: float | None = None


class JobError(msgspec.Struct, frozen=True, kw_only=True):
    """Why an execution failed."""

    message: str = ""
    code: str = "ERROR"
    retryable: bool = True
    retry_after_ms: float | None = None


class JobUpdate(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint (`progress`) or the report that ends an execution."""

    status: Literal["progress", "completed", "failed", "yielded"]
    execution_seq: int
    lease_token: str
    steps: Annotated[tuple[StepReport, ...], msgspec.Meta(max_length=MOST_STEPS)] = ()
    step_offset: Annotated[int, msgspec.Meta(ge=0, le=10_000_000)] = 0
    output: Json = msgspec.field(default_factory=_null)
    error: JobError | None = None
    yielded: Yielded | None = msgspec.field(default=None, name="yield")


def step_key(run_id: str, step_id: str) -> str:
    """A step id of the protocol as the key of a step; a slash would look like a branch of ours."""
    own = step_id.removeprefix(f"{run_id}:")
    return own.replace("%", "%25").replace("/", "%2F").replace("@", "%40")


def step_id(run_id: str, key: str) -> str:
    """The inverse of `step_key`."""
    own = key.replace("%40", "@").replace("%2F", "/").replace("%25", "%")
    return f"{run_id}:{own}"


def step_name(own_id: str) -> str:
    """The name in `<scope>:<name>:<n>`: the last part but one, split at colons that are not
    escaped.
    """
    parts, part, escaped = [], "", False
    for char in own_id:
        if escaped or char not in "\\:":
            part, escaped = part + char, False
        elif char == "\\":
            escaped = True
        else:
            parts.append(part)
            part = ""
    parts.append(part)
    return parts[-2] if len(parts) > 1 else parts[0]


def record_steps(
    run_id: str, execution: int, attempt: int, place: Callable[[str], int], update: JobUpdate
) -> list[c.RecordStep | c.FailStep]:
    """The commands that a report's steps amount to. They are safe to repeat.

    `place` says at which position the step with a key is; what the report says of that does not
    matter: some count from the run's first step, others from the execution's. Raises `InvalidInput`
    naming the field that is wrong.
    """
    commands: list[c.RecordStep | c.FailStep] = []
    for number, step in enumerate(update.steps):
        key = step_key(run_id, step.id)
        kind: StepKind = "compensate" if step.type == "compensate" else "run"
        name = step.name or step_name(key)
        pos = place(key)
        began = _moment(step.started_at, f"steps[{number}].started_at")
        if step.status == "completed":
            payload, blob = pack(keep_json(step.output, f"steps[{number}].output"))
            commands.append(
                c.RecordStep(
                    execution=execution,
                    key=key,
                    name=name,
                    pos=pos,
                    kind=kind,
                    result=payload,
                    attempt=attempt,
                    started_at=began or 0,
                    blob=blob,
                )
            )
        else:
            commands.append(
                c.FailStep(
                    execution=execution,
                    key=key,
                    name=name,
                    pos=pos,
                    kind=kind,
                    error=step_failure(step.error),
                    attempt=attempt,
                    started_at=began or 0,
                )
            )
    return commands


def end_execution(execution: int, update: JobUpdate) -> c.EndExecution:
    """The command that a `completed` or `failed` report amounts to."""
    if update.status == "completed":
        payload, blob = pack(keep_json(update.output, "output"))
        return c.EndExecution(execution=execution, outcome="completed", result=payload, blob=blob)
    error = update.error or JobError(message="the worker gave no reason")
    after = error.retry_after_ms
    return c.EndExecution(
        execution=execution,
        outcome="failed",
        error=Failure(error.code, error.message, error.code.lower(), error.retryable),
        retry_after=_pause(after / 1000, "error.retry_after_ms") if after and after > 0 else None,
    )


def check_yield(update: JobUpdate) -> Yielded:
    """What a `yielded` report waits for. Raises `InvalidInput` when it does not say."""
    if update.yielded is None:
        raise InvalidInput("yield", "a report that yielded says what it waits for")
    return update.yielded


def start_wait(
    run_id: str, execution: int, depth: int, pos: int, now: int, event_data: object, what: Yielded
) -> c.StartWait | c.RecordStep:
    """The command that a yield amounts to. `event_data` is the run's own input, for matches.

    Raises `InvalidInput` naming the field that is missing or wrong.
    """
    key = step_key(run_id, what.step_id)
    name = step_name(what.step_id.removeprefix(f"{run_id}:"))
    if what.type == "sleep":
        until = _moment(what.until, "yield.until")
        if until is None:
            raise InvalidInput("yield.until", "a sleep needs a moment")
        return c.StartWait(
            execution=execution, key=key, name=name, pos=pos, kind="sleep", until=until, parks=()
        )
    if what.type == "wait_for_event":
        wanted = what.event_filter
        if wanted is None:
            raise InvalidInput("yield.event_filter", "a wait needs the event that it waits for")
        limit = None
        if wanted.timeout is not None:
            field = "yield.event_filter.timeout"
            limit = now + int(_pause(parse_duration(wanted.timeout, field), field) * SECOND)
        validate_pattern(wanted.event, "yield.event_filter.event")
        return c.StartWait(
            execution=execution,
            key=key,
            name=name,
            pos=pos,
            kind="event",
            until=limit,
            event=wanted.event,
            match=match_expression(wanted, event_data),
            parks=(),
            vital=True,
        )
    return _invoke(run_id, execution, depth, key, name, pos, now, what)


def _invoke(
    run_id: str, execution: int, depth: int, key: str, name: str, pos: int, now: int, what: Yielded
) -> c.StartWait | c.RecordStep:
    if not what.function_id:
        raise InvalidInput("yield.function_id", "an invocation needs a function")
    detached = what.type == "invoke_function_async"
    # Of this execution: a later one that has to invoke again gets another child.
    child = derive_id("child", run_id, key, str(execution))
    payload, blob = pack(keep_json(what.input, "yield.input"))
    create = c.CreateRun(
        function_id=what.function_id,
        input=payload,
        input_hash="",
        parent=ParentRef(run_id, key, detached, depth + 1),
        blob=blob,
    )
    if detached:
        result, _ = pack(msgspec.json.encode({"run_id": child}))
        return c.RecordStep(
            execution=execution,
            key=key,
            name=name,
            pos=pos,
            kind="invoke",
            result=result,
            sends=(c.Send(f"run/{child}", create),),
        )
    milliseconds = what.invoke_timeout_ms or 0
    seconds = milliseconds / 1000 if milliseconds > 0 else INVOKE_SECONDS
    _pause(seconds, "yield.invoke_timeout_ms")
    return c.StartWait(
        execution=execution,
        key=key,
        name=name,
        pos=pos,
        kind="invoke",
        until=now + int(seconds * SECOND),
        child=child,
        create=create,
        parks=(),
    )


def match_expression(wanted: EventFilter, event_data: object) -> str | None:
    """The filter expression of a `match`: a path whose value must equal `match_value`, or the value
    at the same path of the run's own event; a comparison is taken as it is.

    Values are compared as text, as the protocol does. Raises `InvalidInput`.
    """
    field = "yield.event_filter.match"
    expression = _match(wanted, event_data, field)
    compile_filter(expression, field)
    return expression


def _match(wanted: EventFilter, event_data: object, field: str) -> str | None:
    match = (wanted.match or "").strip()
    if not match:
        return None
    if any(sign in match for sign in ("==", "!=", "<", ">", "&&", "||", "(")):
        return match
    path = match.removeprefix("$.").removeprefix("event.")
    try:
        found = compile_path(path)
    except InvalidInput as error:
        raise InvalidInput(field, error.reason) from None
    if wanted.match_value is not msgspec.UNSET:
        value = wanted.match_value
    else:
        value = found.get({"data": event_data}, None)
    if isinstance(value, dict | list):
        raise InvalidInput("yield.event_filter.match_value", "must be a text, a number or a bool")
    texts = dict.fromkeys((literal(value), literal(_as_text(value)), *_as_scalar(value)))
    same = " || ".join(f"event.{path} == {text}" for text in texts)
    return f"({same})" if len(texts) > 1 else same


def _as_text(value: object) -> object:
    return literal(value) if isinstance(value, bool | int | float) else value


def _as_scalar(value: object) -> tuple[str, ...]:
    """The number or truth value that a text spells, as a literal: clients send it as a text."""
    if not isinstance(value, str) or len(value) > LONGEST_NUMBER:
        return ()
    try:
        scalar = msgspec.json.decode(value, type=bool | int | float)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return ()
    return (value,) if literal(scalar) == value else ()


def step_failure(error: object) -> Failure:
    """What a worker says of a failed step or run, as the journal holds it."""
    if isinstance(error, Mapping):
        message = error.get("message") or error.get("cause") or "failed"
        code = error.get("code") or "STEP_FAILED"
        retryable = error.get("retryable")
        return Failure(str(code), str(message), str(code).lower(), retryable is not False)
    return Failure("STEP_FAILED", str(error or "failed"), "step_failed")


def _pause(seconds: float, field: str) -> float:
    """Seconds that a clock can be set to."""
    if not (math.isfinite(seconds) and 0 <= seconds <= LONGEST_PAUSE):
        raise InvalidInput(field, "is longer than ten years")
    return seconds


def _moment(text: object, field: str) -> int | None:
    if text is None or text == "":
        return None
    try:
        return from_datetime(msgspec.convert(text, datetime))
    except (msgspec.ValidationError, OverflowError, ValueError) as error:
        raise InvalidInput(field, "must be a moment in RFC 3339") from error


# -- what a worker is handed ----------------------------------------------------------------------


class JobEvent(msgspec.Struct, frozen=True, kw_only=True):
    """The event that started the run; its data is the run's input."""

    id: str
    name: str
    timestamp: str
    data: Json
    source: str = "api"
    version: int = 1
    metadata: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    """Of a batch: `{"batch": [{"id", "name", "timestamp", "source"}, ...]}`, in the order of the
    datas.
    """


class FinishedStep(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A step that the body need not do again."""

    step_id: str
    name: str
    output: Json
    status: str = "completed"
    error: Any = msgspec.UNSET


class JobContext(msgspec.Struct, frozen=True, kw_only=True):
    """What only the body of an execution is to see: its secrets by name."""

    secrets: dict[str, str]


class Job(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One execution of a run's body, leased to a worker."""

    job_id: str
    run_id: str
    function_id: str
    attempt: int
    max_attempts: int
    on_exhausted: str
    event: JobEvent
    completed_steps: list[FinishedStep]
    step_sequence_base: int
    execution_seq: int
    lease_token: str
    lease_expires_at: str
    actor_id: str | msgspec.UnsetType = msgspec.UNSET
    """The value of the function's actor key: runs with the same one come to this worker, too."""
    context: JobContext | msgspec.UnsetType = msgspec.UNSET
    """Only where the function has secrets."""
    record: Any = msgspec.UNSET
    """The run's record for a worker that reports commands: see `core.remote.reports.RecordedJob`.
    """


def finished_steps(
    run_id: str, steps: Iterable[Step], values: Mapping[str, bytes]
) -> list[FinishedStep]:
    """What the body is handed of its record; `values` are results out of the blob table, by
    digest.
    """
    found = []
    for step in sorted(steps, key=lambda step: step.pos):
        own = step_id(run_id, step.key)
        if step.status is StepStatus.COMPLETED:
            output = _text(step.result or NULL, values)
            if step.kind == "event":
                output = _event_object(output)
            found.append(FinishedStep(step_id=own, name=step.name, output=Json(output)))
        elif step.kind == "invoke" and step.status in (StepStatus.FAILED, StepStatus.TIMED_OUT):
            message = step.error.message if step.error is not None else "did not end in time"
            error = {"message": message, "function_id": step.target, "child_run_id": step.child}
            found.append(
                FinishedStep(
                    step_id=own, name=step.name, output=_NONE, status="failed", error=error
                )
            )
    return found


def _text(payload: Payload, values: Mapping[str, bytes]) -> bytes:
    return payload.json if payload.json is not None else values[payload.blob or ""]


def _event_object(data: bytes) -> bytes:
    """An event as the protocol spells it: its moment is `timestamp`."""
    event = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    event["timestamp"] = event.pop("at", _NONE)
    return msgspec.json.encode(event)


def job_event(
    run_id: str,
    event: EventRef | None,
    created_at: int,
    data: bytes,
    batch: Iterable[TakenEvent] = (),
) -> JobEvent:
    """The event of a run; one that was invoked has one of its own. That of a batch is its first
    one, with the list of all datas.
    """
    found = event or EventRef(run_id, "ironflow.invoke")
    facts = found.facts or EventFacts()
    taken = [
        {"id": one.id, "name": one.name, "timestamp": to_rfc3339(one.at), "source": one.source}
        for one in batch
    ]
    metadata = facts.metadata if facts.metadata is not None else msgspec.UNSET
    return JobEvent(
        id=found.id,
        name=found.name,
        timestamp=to_rfc3339(created_at),
        data=Json(data),
        source="cron" if found.name == CRON_EVENT else "api",
        version=facts.version,
        metadata={"batch": taken} if taken else metadata,
    )
