"""Lanes: where a run must have a place before it may begin, by the flow control of its function.

A run knows the lanes that it belongs to from its creation, and its rank among those that wait. It
holds a place in each lane exactly while it executes, in a throttle's for a period after its first
start. So who holds what is nothing but the runs' own record, and no crash can leak a place.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import lru_cache

import msgspec

from ironflow.core.clock import SECOND
from ironflow.core.errors import ExpressionError
from ironflow.core.expressions.compiled import EVENT_VARIABLES, MISSING, Path, compile_expression
from ironflow.core.functions.flow_control import MOST_PRIORITY, FlowControl, compile_key
from ironflow.core.runs.entries import EventRef

LONGEST_VALUE = 200
"""Characters of a key's value that names a lane or a share."""
THROTTLE = "throttle"
RATE = "rate"
_NAME = re.compile(rf"(.*?)#(\d+|{THROTTLE}|{RATE})(?::.*)?", re.DOTALL)
_THROTTLED = f"#{THROTTLE}"


class Rank(msgspec.Struct, frozen=True):
    """What a run's flow control comes to, from its input: where it needs a place, and its rank."""

    lanes: tuple[str, ...] = ()
    priority: int = 0
    share: str | None = None
    """The value of the fair key."""
    rate: str | None = None
    """The lane in which its creation counts."""
    unresolved: str | None = None
    """The key of the throttle, when the input has no value there."""


class Policies:
    """A function's flow control, compiled."""

    def __init__(self, function_id: str, control: FlowControl) -> None:
        self.function_id, self.control = function_id, control
        self._limits = [
            (f"{function_id}#{number}", _compile(one.key))
            for number, one in enumerate(control.concurrency)
        ]
        self._throttle = _compile(control.throttle.key) if control.throttle is not None else None
        self._rate = _compile(control.rate_limit.key) if control.rate_limit is not None else None
        self._fair = _compile(control.fairness.key) if control.fairness is not None else None
        self._priority = (
            compile_expression(control.priority, EVENT_VARIABLES, "flow_control.priority")
            if isinstance(control.priority, str)
            else None
        )
        keys = (self._throttle, self._rate, self._fair, *(key for _, key in self._limits))
        self.reads_input = self._priority is not None or any(key is not None for key in keys)
        """Whether a run's rank depends on its input."""
        self._terms = {
            str(number): (one.limit, 0) for number, one in enumerate(control.concurrency)
        }
        for which, window in ((THROTTLE, control.throttle), (RATE, control.rate_limit)):
            if window is not None:
                self._terms[which] = window.limit, round(window.period * SECOND)
        self.orders = control.priority != 0 or control.fairness is not None
        """Whether its runs have an order of their own among those that wait."""
        self.is_none = control.priority == 0 and not any(
            (control.concurrency, control.throttle, control.rate_limit, control.fairness)
        )
        """Whether every run begins as soon as there is a slot."""

    def rank(self, data: bytes | None, event: EventRef | None = None) -> Rank:
        """The rank of a run with this input (JSON). A value that is missing, or is no text, number
        or truth value, is `null`; a priority that is no number is 0.
        """
        control = self.control
        value = msgspec.json.decode(data) if self.reads_input and data is not None else None
        bindings = {"data": value}
        lanes = [name + _suffix(key, bindings) for name, key in self._limits]
        unresolved = None
        if control.throttle is not None:
            lanes.append(f"{self.function_id}#{THROTTLE}{_suffix(self._throttle, bindings)}")
            if self._throttle is not None and _look_up(self._throttle, bindings) is None:
                unresolved = control.throttle.key
        rate = None
        if control.rate_limit is not None:
            rate = f"{self.function_id}#{RATE}{_suffix(self._rate, bindings)}"
        share = _share(_look_up(self._fair, bindings)) if self._fair is not None else None
        return Rank(tuple(lanes), self._rank_of(value, event), share, rate, unresolved)

    def _rank_of(self, value: object, event: EventRef | None) -> int:
        control = self.control
        if self._priority is None:
            return control.priority if isinstance(control.priority, int) else 0
        whole: dict[str, object] = {"data": value}
        if event is not None:
            whole |= {"id": event.id, "name": event.name}
        try:
            found = self._priority.evaluate({"event": whole, "data": value})
        except ExpressionError:
            return 0
        if not isinstance(found, int | float) or found != found:  # noqa: PLR0124 - not a number
            return 0
        return int(max(-MOST_PRIORITY, min(found, MOST_PRIORITY)))

    def terms(self, which: str) -> tuple[int, int] | None:
        """Limit and period (microseconds, 0 without one) of one of its lanes, if it has it."""
        return self._terms.get(which)

    def weight(self, share: str) -> float:
        """What a share weighs."""
        fairness = self.control.fairness
        return 1.0 if fairness is None else fairness.weights.get(share, 1.0)


def parse_lane(name: str) -> tuple[str, str]:
    """The function of a lane, and which of its lanes it is: the number of a limit, `throttle` or
    `rate`. Raises `ValueError` for what names no lane.
    """
    # There are as many lanes as values of a key, but few names before the value.
    found = _parse_head(name.partition(":")[0]) or _parse_head.__wrapped__(name)
    if found is None:
        raise ValueError(f"{name!r} names no lane")
    return found


@lru_cache(maxsize=1024)
def _parse_head(name: str) -> tuple[str, str] | None:
    found = _NAME.fullmatch(name)
    return None if found is None else (found[1], found[2])


def is_throttle(lane: str) -> bool:
    """Whether a place in the lane is held for a period after the first start."""
    return _THROTTLED in lane and parse_lane(lane)[1] == THROTTLE


def is_windowed(lane: str) -> bool:
    """Whether what is in the lane counts for a period."""
    return not parse_lane(lane)[1].isdecimal()


def lanes_of(lanes: tuple[str, ...], started: bool) -> tuple[str, ...]:
    """Where a run with these lanes needs a place now: only a first start is throttled."""
    if started:
        for lane in lanes:
            if _THROTTLED in lane:
                return tuple([lane for lane in lanes if not is_throttle(lane)])
    return lanes


def _compile(key: str | None) -> Path | None:
    return None if key is None else compile_key(key, "key")


def _look_up(key: Path, bindings: Mapping[str, object]) -> object:
    found = key.get(bindings)
    return None if found is MISSING or isinstance(found, dict | list) else found


def _suffix(key: Path | None, bindings: Mapping[str, object]) -> str:
    if key is None:
        return ""
    text = _json(_look_up(key, bindings))
    return ":" + (text if len(text) <= LONGEST_VALUE else _json(_shorten(text)))


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _share(value: object) -> str:
    """A share by the text that `weights` knows it by."""
    text = value if isinstance(value, str) else _json(value)
    return text if len(text) <= LONGEST_VALUE else _shorten(text)


def _shorten(text: str) -> str:
    """A name for a value that is too long to be one; different ones keep different names."""
    return f"{text[:50]}...{hashlib.sha256(text.encode()).hexdigest()[:32]}"
