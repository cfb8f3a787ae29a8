"""Functions as the Connect services describe them, and the definitions that they amount to."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from ironflow.core.errors import InvalidInput
from ironflow.core.functions.definition import Cron, Definition, Endpoint, Placement, Trigger
from ironflow.core.functions.flow_control import (
    Batch,
    Concurrency,
    Debounce,
    Fairness,
    FlowControl,
    RateLimit,
    Singleton,
    SingletonMode,
    Throttle,
)
from ironflow.core.remote.breaker import BreakerPolicy
from ironflow.core.runs.entries import CancelOn, RunOptions
from ironflow.core.runs.retry import RetryPolicy

ATTEMPTS = 25
"""How often a function's body is tried when it does not say."""
PUSH_SECONDS = 10.0
"""How long a call to an endpoint may take, unless the function has less."""
CODE_HASH = "__ironflow_code_hash"


class TriggerMessage(msgspec.Struct, frozen=True, kw_only=True):
    """What starts a run: an event that the expression lets pass, or a cron expression."""

    event: str = ""
    expression: str = ""
    cron: str = ""
    timezone: str = "UTC"


class RetryMessage(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """How a failed body is tried again."""

    max_attempts: Annotated[int, msgspec.Meta(ge=1)] = ATTEMPTS
    initial_delay_ms: Annotated[float, msgspec.Meta(ge=0)] = 1000
    backoff_factor: Annotated[float, msgspec.Meta(ge=1)] = 2.0
    max_delay_ms: Annotated[float, msgspec.Meta(ge=0)] = 300_000
    on_exhausted: Literal["pause", "fail"] = "pause"


class CancelMessage(msgspec.Struct, frozen=True, kw_only=True):
    """An event that cancels a run with the same value at `match`."""

    event: str
    match: str = ""


class ConcurrencyMessage(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """How many runs execute at once, for each value at `key`."""

    limit: Annotated[int, msgspec.Meta(ge=1)]
    key: str = ""


class WindowMessage(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """How many runs begin (throttle) or are made (rate limit) in any period, for each value at
    `key`.
    """

    limit: int
    period_ms: float
    key: str = ""


class DebounceMessage(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """How long it must be quiet before the last event makes a run."""

    period_ms: float
    key: str = ""
    max_wait_ms: float = 0


class FairnessMessage(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Between which values runs are begun in turns."""

    key: str
    weights: dict[str, float] = {}


class BatchMessage(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """How many events make one run, and how long they are waited for."""

    size: int
    wait_ms: float
    key: str = ""


class SingletonMessage(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One run at a time, for each value at `key`."""

    key: str = ""
    mode: SingletonMode = "skip"


class BreakerMessage(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """When nothing is sent to an endpoint any more."""

    failure_threshold: Annotated[int, msgspec.Meta(ge=1)] = 5
    open_duration_ms: Annotated[float, msgspec.Meta(gt=0)] = 60_000
    max_open_duration_ms: Annotated[float, msgspec.Meta(gt=0)] = 600_000


class RegisterFunction(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A function as its worker describes it."""

    id: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    name: str = ""
    description: str = ""
    triggers: tuple[TriggerMessage, ...] = ()
    preferred_mode: str = "EXECUTION_MODE_PULL"
    endpoint_url: str = ""
    circuit_breaker: BreakerMessage = BreakerMessage()
    metadata: msgspec.Raw = msgspec.Raw(b"{}")
    retry: RetryMessage = RetryMessage()
    timeout_ms: Annotated[float, msgspec.Meta(ge=0)] = 0
    cancel_on: tuple[CancelMessage, ...] = ()
    labels: dict[str, str] = {}
    concurrency: ConcurrencyMessage | None = None
    debounce: DebounceMessage | None = None
    throttle: WindowMessage | None = None
    priority: msgspec.Raw = msgspec.Raw(b"0")
    fairness: FairnessMessage | None = None
    rate_limit: WindowMessage | None = None
    batch: BatchMessage | None = None
    singleton: SingletonMessage | None = None
    actor_key: str = ""
    secrets: tuple[str, ...] = ()
    recording: bool = False
    recording_profile: Literal["", "all", "run_lifecycle", "steps"] = ""
    change_reason: Annotated[str, msgspec.Meta(max_length=2000)] = ""


_MODES: dict[str, Placement] = {
    "EXECUTION_MODE_UNSPECIFIED": "pull",
    "EXECUTION_MODE_PUSH": "push",
    "EXECUTION_MODE_PULL": "pull",
}
_MODE_NAMES: dict[Placement, str] = {
    "push": "EXECUTION_MODE_PUSH",
    "pull": "EXECUTION_MODE_PULL",
    "embedded": "EXECUTION_MODE_UNSPECIFIED",
}


def definition_of(message: RegisterFunction) -> Definition:
    """The definition that a registration amounts to. Raises `InvalidInput` naming the field."""
    placement = _MODES[message.preferred_mode]
    crons = [t for t in message.triggers if t.cron]
    if len(crons) > 1:
        raise InvalidInput("triggers", "may hold one cron expression")
    triggers = []
    for number, trigger in enumerate(message.triggers):
        if bool(trigger.event) == bool(trigger.cron):
            raise InvalidInput(f"triggers[{number}]", "has an event or a cron expression")
        if trigger.event:
            triggers.append(Trigger(trigger.event, trigger.expression or None))
    retry = message.retry
    metadata: dict[str, Any] = msgspec.json.decode(message.metadata)
    code = metadata.pop(CODE_HASH, "")
    if not isinstance(code, str):
        raise InvalidInput(f"metadata.{CODE_HASH}", "must be text")
    return Definition(
        id=message.id,
        name=message.name or message.id,
        code=code,
        description=message.description,
        triggers=tuple(triggers),
        cron=Cron(crons[0].cron, crons[0].timezone) if crons else None,
        options=RunOptions(
            retry=RetryPolicy(
                max_attempts=retry.max_attempts,
                initial_delay=retry.initial_delay_ms / 1000,
                factor=retry.backoff_factor,
                max_delay=retry.max_delay_ms / 1000,
                jitter=0.0,
            ),
            timeout=message.timeout_ms / 1000 if message.timeout_ms else None,
            compensate_on=(),  # the worker's own affair
            cancel_on=tuple(CancelOn(c.event, c.match or None) for c in message.cancel_on),
            on_exhausted=retry.on_exhausted,
        ),
        placement=placement,
        endpoint=_endpoint(message) if placement == "push" else None,
        labels=message.labels,
        actor_key=message.actor_key or None,
        concurrency=_limits(message.concurrency),
        flow_control=_flow_control(message),
        metadata=metadata,
        secrets=message.secrets,
        recording=message.recording,
        recording_profile=message.recording_profile,
    )


def _limits(message: ConcurrencyMessage | None) -> tuple[Concurrency, ...]:
    return () if message is None else (Concurrency(message.limit, message.key or None),)


def _flow_control(message: RegisterFunction) -> FlowControl:
    fair, limit, throttle = message.fairness, message.rate_limit, message.throttle
    debounce, batch, single = message.debounce, message.batch, message.singleton
    return FlowControl(
        priority=_priority(message.priority),
        fairness=Fairness(fair.key, fair.weights) if fair is not None else None,
        rate_limit=RateLimit(*_window(limit)) if limit is not None else None,
        throttle=Throttle(*_window(throttle)) if throttle is not None else None,
        debounce=Debounce(
            debounce.period_ms / 1000,
            debounce.key or None,
            debounce.max_wait_ms / 1000 if debounce.max_wait_ms else None,
        )
        if debounce is not None
        else None,
        batch=Batch(batch.size, batch.wait_ms / 1000, batch.key or None)
        if batch is not None
        else None,
        singleton=Singleton(single.key or None, single.mode) if single is not None else None,
    )


def _priority(raw: msgspec.Raw) -> int | str:
    try:
        return msgspec.json.decode(raw, type=int | str)
    except msgspec.ValidationError:
        raise InvalidInput("priority", "must be a whole number or an expression") from None


def _window(message: WindowMessage) -> tuple[int, float, str | None]:
    return message.limit, message.period_ms / 1000, message.key or None


def _endpoint(message: RegisterFunction) -> Endpoint:
    breaker = message.circuit_breaker
    if breaker.max_open_duration_ms < breaker.open_duration_ms:
        raise InvalidInput("circuitBreaker.maxOpenDurationMs", "is less than openDurationMs")
    timeout = min(message.timeout_ms / 1000 or PUSH_SECONDS, PUSH_SECONDS)
    return Endpoint(
        url=message.endpoint_url,
        timeout=timeout,
        breaker=BreakerPolicy(
            failures=breaker.failure_threshold,
            open_for=breaker.open_duration_ms / 1000,
            longest=breaker.max_open_duration_ms / 1000,
        ),
    )


def definition_message(definition: Definition) -> dict[str, Any]:
    """A definition, as the protocol shows it."""
    options, endpoint = definition.options, definition.endpoint
    triggers: list[dict[str, Any]] = [
        {"event": t.event, "expression": t.expression or ""} for t in definition.triggers
    ]
    if definition.cron is not None:
        cron = definition.cron
        triggers.append({"cron": cron.expression, "timezone": cron.timezone})
    metadata = definition.metadata | ({CODE_HASH: definition.code} if definition.code else {})
    message = {
        "id": definition.id,
        "name": definition.name,
        "description": definition.description,
        "triggers": triggers,
        "preferredMode": _MODE_NAMES[definition.placement],
        "actorKey": definition.actor_key or "",
        "retry": {
            "maxAttempts": options.retry.max_attempts,
            "initialDelayMs": round(options.retry.initial_delay * 1000),
            "backoffFactor": options.retry.factor,
            "maxDelayMs": round(options.retry.max_delay * 1000),
            "onExhausted": options.on_exhausted,
        },
        "timeoutMs": round(options.timeout * 1000) if options.timeout else 0,
        "cancelOn": [{"event": c.event, "match": c.match or ""} for c in options.cancel_on],
        "metadata": msgspec.Raw(msgspec.json.encode(metadata)),
        "labels": definition.labels,
        "secrets": list(definition.secrets),
        "recording": definition.recording,
        "recordingProfile": definition.recording_profile,
        **_policies_message(definition),
    }
    if endpoint is not None:
        breaker = endpoint.breaker
        message["endpointUrl"] = endpoint.url
        message["circuitBreaker"] = {
            "failureThreshold": breaker.failures,
            "openDurationMs": round(breaker.open_for * 1000),
            "maxOpenDurationMs": round(breaker.longest * 1000),
        }
    return message


def _policies_message(definition: Definition) -> dict[str, Any]:
    """Flow control, as it is registered; a policy that a function does not have is left out."""
    control, shown = definition.flow_control, dict[str, Any]()
    if definition.concurrency:
        first = definition.concurrency[0]
        shown["concurrency"] = {"limit": first.limit, "key": first.key or ""}
    if control.priority:
        shown["priority"] = msgspec.Raw(msgspec.json.encode(control.priority))
    if control.fairness is not None:
        shown["fairness"] = msgspec.structs.asdict(control.fairness)
    for name, window in (("rateLimit", control.rate_limit), ("throttle", control.throttle)):
        if window is not None:
            period = round(window.period * 1000)
            shown[name] = {"limit": window.limit, "periodMs": period, "key": window.key or ""}
    if control.debounce is not None:
        wait = control.debounce.max_wait
        shown["debounce"] = {
            "periodMs": round(control.debounce.period * 1000),
            "key": control.debounce.key or "",
            "maxWaitMs": round(wait * 1000) if wait is not None else 0,
        }
    if control.batch is not None:
        batch = control.batch
        wait_ms = round(batch.wait * 1000)
        shown["batch"] = {"size": batch.size, "waitMs": wait_ms, "key": batch.key or ""}
    if control.singleton is not None:
        single = control.singleton
        shown["singleton"] = {"key": single.key or "", "mode": single.mode}
    return shown
