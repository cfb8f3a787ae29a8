"""Single values of a client's JSON: ids, numbers, truths, moments, in each form in which Prefect's
own server takes them. None stands for what is none.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import Any

import msgspec

from ironflow.core.clock import SECOND, from_datetime

_UUID = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}")
_WRAPPED_UUID = re.compile(
    r"(?:\{|urn:uuid:)([0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})\}?"
)
_INTEGER = re.compile(r"\s*([+-]?\d+(?:_\d+)*)(?:\.0*)?\s*", re.ASCII)
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?", re.ASCII)
MOST_DIGITS = 40
"""Characters of a number that stands in a string."""
MILLISECONDS_FROM = 20_000_000_000
"""A moment that is a larger number than this is meant in milliseconds, else in seconds."""
FIRST_MOMENT = from_datetime(datetime.min.replace(tzinfo=UTC))
LAST_MOMENT = from_datetime(datetime.max.replace(tzinfo=UTC))
_TRUTHS = {
    **dict.fromkeys(("1", "on", "t", "true", "y", "yes"), True),
    **dict.fromkeys(("0", "off", "f", "false", "n", "no"), False),
}


def parse_uuid(value: Any) -> str | None:
    """A UUID in its usual form, None for anything else."""
    if not isinstance(value, str):
        return None
    text = value.lower()
    if _UUID.fullmatch(text) is None:
        wrapped = _WRAPPED_UUID.fullmatch(value)
        if wrapped is None or value.startswith("{") != value.endswith("}"):
            return None
        return wrapped.group(1).lower()
    if len(text) == 36:
        return text
    text = text.replace("-", "")
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def parse_integer(value: Any) -> int | None:
    """A whole number that fits a column, None for anything else."""
    if isinstance(value, str):
        found = _INTEGER.fullmatch(value) if len(value) <= MOST_DIGITS else None
        value = None if found is None else int(found.group(1))
    elif isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or not -(2**63) <= value < 2**63:
        return None
    return int(value)


def parse_number(value: Any) -> float | None:
    """A finite number, None for anything else."""
    if isinstance(value, str) and len(value) > MOST_DIGITS:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def parse_truth(value: Any) -> bool | None:
    """A truth, None for anything else."""
    if isinstance(value, str):
        return _TRUTHS.get(value.lower())
    return bool(value) if isinstance(value, bool | int | float) and value in (0, 1) else None


def parse_moment(value: Any) -> int | None:
    """A moment as microseconds, None for what is none; one without a zone is UTC, a number counts
    from 1970.
    """
    if isinstance(value, str) and not _is_number(value):
        return _parse_date(value)
    number = None if isinstance(value, bool) else parse_number(value)
    if number is None:
        return None
    if abs(number) > MILLISECONDS_FROM:
        number /= 1000
    at = round(number * SECOND)
    return at if FIRST_MOMENT <= at <= LAST_MOMENT else None


def _is_number(text: str) -> bool:
    return _NUMBER.fullmatch(text) is not None


def _parse_date(text: str) -> int | None:
    try:
        moment = msgspec.convert(text, datetime)
    except msgspec.ValidationError:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return from_datetime(moment)
