"""What a run can wait for, as data: given to `ctx.step.wait_any` and `wait_all`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from ironflow.core.errors import InvalidInput

if TYPE_CHECKING:
    from ironflow.sdk.function import Function

Duration = float | int | str | timedelta
"""Seconds, a timedelta, or text such as `500ms`, `1.5s`, `2h`, `7d`."""


class Event(msgspec.Struct, frozen=True):
    """An event that a run waited for, or took with its batch. `at` is RFC 3339 text."""

    id: str
    name: str
    data: Any
    at: str
    source: str = ""


class EventWait(msgspec.Struct, frozen=True):
    """The first event named `event` (a pattern) that matches. `match`: a filter expression, or
    paths and their values.
    """

    event: str
    match: str | Mapping[str, object] | None = None
    timeout: Duration | None = None
    lookback: Duration | None = None


class TimerWait(msgspec.Struct, frozen=True):
    """A while."""

    duration: Duration


class RunWait(msgspec.Struct, frozen=True):
    """The end of a run of `function`, which is started for it."""

    function: Function | str
    input: Any = None
    timeout: Duration | None = None


Wait = EventWait | TimerWait | RunWait


class Winner(msgspec.Struct, frozen=True):
    """The first of several waits: which one, and what came."""

    name: str
    value: Any


class Outcome(msgspec.Struct, frozen=True):
    """How one branch of a settled block ended: with a value, or with an error."""

    value: Any = None
    error: Exception | None = None

    @property
    def ok(self) -> bool:
        """Whether there is a value."""
        return self.error is None


def match_expression(match: str | Mapping[str, object] | None) -> str | None:
    """A match as an expression: `{"data.order_id": 7}` becomes `event.data.order_id == 7`."""
    if match is None or isinstance(match, str):
        return match
    terms = []
    for path, value in match.items():
        if not isinstance(value, str | int | float | bool | None):
            raise InvalidInput("match", f"the value at {path!r} must be a scalar")
        path = path.removeprefix("$.").removeprefix("event.")
        terms.append(f"event.{path} == {msgspec.json.encode(value).decode()}")
    return " && ".join(terms)


def parse_moment(moment: datetime | str | float) -> datetime:
    """A moment given by a user: a datetime, RFC 3339 text, or seconds since the epoch. Raises
    `InvalidInput`.
    """
    from datetime import UTC

    if isinstance(moment, datetime):
        return moment
    try:
        if isinstance(moment, str):
            return datetime.fromisoformat(moment)
        return datetime.fromtimestamp(moment, UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise InvalidInput("until", f"not a moment: {moment!r}") from error
