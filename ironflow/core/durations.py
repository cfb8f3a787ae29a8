"""Durations as users write them, and as people read them.

A number is seconds, a `timedelta` is itself, text is `<number><ms|s|m|h|d|w>`, also several in a
row ("1h30m", "2h 3m") or a bare number of seconds. Inside ironflow a duration is `float` seconds
or, next to timestamps, `int` microseconds.
"""

from __future__ import annotations

import math
import re
from datetime import timedelta

from ironflow.core.clock import SECOND
from ironflow.core.errors import InvalidInput

MAX_SECONDS = 100 * 365.25 * 86400.0
"""A hundred years: more is a mistake in the unit, and would not fit into a date."""

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_PART = re.compile(rf"({_NUMBER})\s*(ms|[smhdw])\s*")
_TEXT = re.compile(rf"\s*(?:{_PART.pattern})+")
_BARE = re.compile(rf"\s*{_NUMBER}\s*")
_MAX_TEXT = 64


def parse_duration(value: float | timedelta | str, field: str = "duration") -> float:
    """Seconds, zero or more.

    Raises `InvalidInput` naming `field` for anything that is no duration.
    """
    if isinstance(value, bool):
        raise InvalidInput(field, "is a truth value, not a duration")
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, int | float):
        if not isinstance(value, int) and not math.isfinite(value):
            raise InvalidInput(field, f"{value} is not a duration")
        # An int may be too large for a float, so it is cut to what is refused below anyway.
        seconds = float(min(max(value, -1), MAX_SECONDS + 1))
    elif isinstance(value, str):
        seconds = _parse_text(value, field)
    else:
        raise InvalidInput(
            field,
            f"is {type(value).__name__}, not a duration: give seconds, a timedelta, "
            'or text like "500ms", "1.5s", "1h30m"',
        )
    if seconds < 0:
        raise InvalidInput(field, "is negative")
    if seconds > MAX_SECONDS:
        raise InvalidInput(field, "is longer than 100 years")
    return seconds


def _parse_text(text: str, field: str) -> float:
    if len(text) <= _MAX_TEXT:
        if _TEXT.fullmatch(text):
            return math.fsum(float(n) * _UNITS[unit] for n, unit in _PART.findall(text))
        if _BARE.fullmatch(text):
            return float(text.strip())  # more counts as space in a pattern than in a number
    raise InvalidInput(
        field,
        f"{text[:_MAX_TEXT]!r} is not a duration: write numbers with units ms, s, m, h, d or w, "
        'like "500ms", "1.5s", "1h30m"',
    )


def to_micros(seconds: float) -> int:
    """Seconds as whole microseconds, rounded to the nearest."""
    return round(seconds * SECOND)


def format_duration(seconds: float) -> str:
    """Short text for people, the two largest units at most: "250ms", "1.5s", "2h 3m"."""
    if seconds < 0:
        return "-" + format_duration(-seconds)
    millis = seconds * 1000
    if millis < 999.5:
        return f"{millis:.0f}ms" if millis >= 10 else f"{millis:.3g}ms" if millis else "0s"
    if round(seconds, 1) < 60:
        return f"{seconds:.1f}".removesuffix(".0") + "s"
    # Rounded first to the smaller unit shown, so that 59 m 59.9 s is an hour and not "59m 60s".
    if (count := round(seconds)) < 3600:
        return _two(count, 60, "m", "s")
    if (count := round(seconds / 60)) < 1440:
        return _two(count, 60, "h", "m")
    return _two(round(seconds / 3600), 24, "d", "h")


def _two(count: int, base: int, large: str, small: str) -> str:
    whole, rest = divmod(count, base)
    return f"{whole}{large} {rest}{small}" if rest else f"{whole}{large}"
