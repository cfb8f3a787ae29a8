"""Flow control: by which rules the runs of a function begin, in one object.

What is here is what a user says, checked; it is registered and stored with the function. Every key
is a path into the run's input, such as `data.org_id`, and a policy with a key holds for each value
of it. Periods are seconds; text like "1m" and `timedelta` are taken, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar, get_args

import msgspec

from ironflow.core.durations import parse_duration
from ironflow.core.errors import ExpressionError, InvalidInput
from ironflow.core.expressions.compiled import (
    EVENT_VARIABLES,
    Path,
    compile_expression,
    compile_path,
)

MOST_LANES = 4
"""Limits of one function."""
MOST_STARTS = 100_000
"""Of one throttle or rate limit in its period: each of them is remembered."""
MOST_PRIORITY = 1_000_000
MOST_WEIGHTS = 1000
MOST_BATCHED = 10_000
SHORTEST_PERIOD = 1.0

SingletonMode = Literal["skip", "cancel"]
S = TypeVar("S")


class Concurrency(msgspec.Struct, frozen=True, omit_defaults=True):
    """At most `limit` runs execute at once; with a `key`, for each of its values. Others wait."""

    limit: int
    key: str | None = None


class Fairness(msgspec.Struct, frozen=True, omit_defaults=True):
    """Runs that wait are begun in turns between the values of `key`, so that nobody's ten thousand
    runs are in everybody's way. `weights` are shares by value; one that is not named has 1.
    """

    key: str
    weights: dict[str, float] = {}

    def __post_init__(self) -> None:
        """Raises `InvalidInput`."""
        compile_key(self.key, "flow_control.fairness.key")
        weights: object = self.weights
        if not isinstance(weights, dict) or len(weights) > MOST_WEIGHTS:
            reason = f"must be a mapping of at most {MOST_WEIGHTS} values to numbers"
            raise InvalidInput("flow_control.fairness.weights", reason)
        for value, weight in weights.items():
            if not isinstance(value, str):
                raise InvalidInput("flow_control.fairness.weights", f"{value!r:.50} is no text")
            _check_number(weight, f"flow_control.fairness.weights.{value:.50}", 0.001, 1000)


class RateLimit(msgspec.Struct, frozen=True, omit_defaults=True):
    """At most `limit` runs are made in any `period`; what would make more is refused or skipped."""

    limit: int
    period: float
    key: str | None = None

    def __post_init__(self) -> None:
        """Raises `InvalidInput`."""
        _check_window(self, "flow_control.rate_limit")


class Throttle(msgspec.Struct, frozen=True, omit_defaults=True):
    """At most `limit` runs begin in any `period`; others wait. Only a run's first start counts. A
    run without a value at `key` fails.
    """

    limit: int
    period: float
    key: str | None = None

    def __post_init__(self) -> None:
        """Raises `InvalidInput`."""
        _check_window(self, "flow_control.throttle")


class Debounce(msgspec.Struct, frozen=True, omit_defaults=True):
    """One run with the last of several events: `period` after it, at the latest `max_wait` after
    the first.
    """

    period: float
    key: str | None = None
    max_wait: float | None = None

    def __post_init__(self) -> None:
        """Raises `InvalidInput`."""
        _set_period(self, "period", "flow_control.debounce.period")
        _check_key(self.key, "flow_control.debounce.key")
        if self.max_wait is not None:
            _set_period(self, "max_wait", "flow_control.debounce.max_wait")
            if self.max_wait < self.period:
                raise InvalidInput("flow_control.debounce.max_wait", "is less than period")


class Batch(msgspec.Struct, frozen=True, omit_defaults=True):
    """One run with several events: as soon as there are `size`, at the latest `wait` after the
    first.
    """

    size: int
    wait: float
    key: str | None = None

    def __post_init__(self) -> None:
        """Raises `InvalidInput`."""
        _check_whole(self.size, "flow_control.batch.size", MOST_BATCHED)
        _set_period(self, "wait", "flow_control.batch.wait", shortest=0.001)
        _check_key(self.key, "flow_control.batch.key")


class Singleton(msgspec.Struct, frozen=True, omit_defaults=True):
    """One run at a time, from its creation to its end. A second one is not made (`skip`), or takes
    the place of the first (`cancel`).
    """

    key: str | None = None
    mode: SingletonMode = "skip"

    def __post_init__(self) -> None:
        """Raises `InvalidInput`."""
        _check_key(self.key, "flow_control.singleton.key")
        if self.mode not in get_args(SingletonMode):
            reason = f"{self.mode!r:.50} is none of {', '.join(get_args(SingletonMode))}"
            raise InvalidInput("flow_control.singleton.mode", reason)


class FlowControl(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Every policy of a function. `priority` is a number, or an expression over the event that
    gives one: of the runs that wait, the higher ones begin first.
    """

    concurrency: tuple[Concurrency, ...] = ()
    priority: int | str = 0
    fairness: Fairness | None = None
    rate_limit: RateLimit | None = None
    throttle: Throttle | None = None
    debounce: Debounce | None = None
    batch: Batch | None = None
    singleton: Singleton | None = None

    def __post_init__(self) -> None:
        """Raises `InvalidInput`, also for policies that exclude one another."""
        priority: object = self.priority
        if isinstance(priority, str):
            compile_expression(priority, EVENT_VARIABLES, "flow_control.priority")
        elif isinstance(priority, bool) or not isinstance(priority, int):
            reason = f"{priority!r:.50} is neither a whole number nor an expression"
            raise InvalidInput("flow_control.priority", reason)
        elif abs(priority) > MOST_PRIORITY:
            reason = f"must be from -{MOST_PRIORITY} to {MOST_PRIORITY}"
            raise InvalidInput("flow_control.priority", reason)
        if self.debounce is not None and self.batch is not None:
            reason = "excludes debounce: one keeps the last of several events, the other all"
            raise InvalidInput("flow_control.batch", reason)


NONE = FlowControl()
"""No policy at all. This very object, so that what is stored leaves it out."""

WantedLimit = int | Concurrency | Mapping[str, Any]
WantedLimits = WantedLimit | list[WantedLimit] | tuple[WantedLimit, ...] | None
Wanted = FlowControl | Mapping[str, Any] | None


def flow_control_of(value: Wanted) -> FlowControl:
    """What a user means: the object, or a mapping of its fields. Raises `InvalidInput` naming what
    is wrong.
    """
    if value is None or value == NONE:
        return NONE
    if isinstance(value, Mapping):
        fields = {name: _policy(name, given) for name, given in value.items()}
        value = _make(FlowControl, fields, "flow_control")
    if not isinstance(value, FlowControl):
        raise InvalidInput("flow_control", f"is {type(value).__name__}, not flow control")
    for name, kind in _POLICIES.items():
        if not isinstance(getattr(value, name), kind | None):
            raise InvalidInput(f"flow_control.{name}", f"is no {kind.__name__}")
    limits = concurrency_of(value.concurrency, "flow_control.concurrency")
    return msgspec.structs.replace(value, concurrency=limits)


_POLICIES: dict[str, type] = {
    "fairness": Fairness,
    "rate_limit": RateLimit,
    "throttle": Throttle,
    "debounce": Debounce,
    "batch": Batch,
    "singleton": Singleton,
}


def _policy(name: str, given: object) -> object:
    field = f"flow_control.{name}"
    if name == "concurrency":
        return concurrency_of(given, field)  # type: ignore[arg-type]
    if name in _POLICIES and isinstance(given, Mapping):
        return _make(_POLICIES[name], given, field)
    return given


def _make(kind: Callable[..., S], fields: Mapping[str, Any], field: str) -> S:
    known = {info.name: info for info in msgspec.structs.fields(kind)}  # type: ignore[arg-type]
    for name in fields:
        if name not in known:
            raise InvalidInput(f"{field}.{name}", f"is unknown; there are {', '.join(known)}")
    for name, info in known.items():
        if info.required and name not in fields:
            raise InvalidInput(f"{field}.{name}", "is missing")
    return kind(**fields)


def concurrency_of(value: WantedLimits, field: str = "concurrency") -> tuple[Concurrency, ...]:
    """What a user means: a number, a limit, a mapping of its fields, or several. Raises
    `InvalidInput` naming what is wrong.
    """
    if value is None:
        return ()
    several = value if isinstance(value, list | tuple) else [value]
    if len(several) > MOST_LANES:
        raise InvalidInput(field, f"has more than {MOST_LANES} limits")
    return tuple(_limit(item, field) for item in several)


def _limit(value: object, field: str) -> Concurrency:
    if isinstance(value, Mapping):
        value = _make(Concurrency, value, field)
    elif isinstance(value, int):
        value = Concurrency(value)
    if not isinstance(value, Concurrency):
        raise InvalidInput(field, f"is {type(value).__name__}, not a limit")
    _check_whole(value.limit, f"{field}.limit")
    _check_key(value.key, f"{field}.key")
    return value


def compile_key(text: str, field: str) -> Path:
    """A key as a path below `data`, however it was written. Raises `InvalidInput`."""
    if not isinstance(text, str):
        raise InvalidInput(field, f"must be text, not {type(text).__name__}")
    path = text.removeprefix("$.").removeprefix("event.")
    if path != "data" and not path.startswith(("data.", "data[")):
        path = f"data.{path}"
    try:
        return compile_path(path)
    except ExpressionError as error:
        raise InvalidInput(field, error.reason) from None


def _check_key(key: str | None, field: str) -> None:
    if key is not None:
        compile_key(key, field)


def _check_window(policy: RateLimit | Throttle, field: str) -> None:
    _check_whole(policy.limit, f"{field}.limit", MOST_STARTS)
    _set_period(policy, "period", f"{field}.period")
    _check_key(policy.key, f"{field}.key")


def _set_period(
    policy: msgspec.Struct, name: str, field: str, shortest: float = SHORTEST_PERIOD
) -> None:
    seconds = parse_duration(getattr(policy, name), field)
    if seconds < shortest:
        raise InvalidInput(field, f"must be at least {shortest:g} s")
    msgspec.structs.force_setattr(policy, name, seconds)


def _check_whole(value: object, field: str, most: int | None = None) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidInput(field, f"{value!r:.50} is no whole number from 1")
    if most is not None and value > most:
        raise InvalidInput(field, f"is more than {most}")


def _check_number(value: object, field: str, least: float, most: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidInput(field, f"{value!r:.50} is no number")
    if not least <= value <= most:
        raise InvalidInput(field, f"must be from {least:g} to {most:g}")
