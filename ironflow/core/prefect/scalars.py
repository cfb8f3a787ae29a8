"""Single values of a client's JSON: ids, whole numbers, moments. None stands for what is none."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import msgspec

from ironflow.core.clock import from_datetime

_UUID = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}")


def parse_uuid(value: Any) -> str | None:
    """A UUID in its usual form, None for anything else."""
    if not isinstance(value, str):
        return None
    text = value.lower()
    if _UUID.fullmatch(text) is None:
        return None
    if len(text) == 36:
        return text
    text = text.replace("-", "")
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def parse_integer(value: Any) -> int | None:
    """A whole number that fits a column, None for anything else."""
    if isinstance(value, str) and re.fullmatch(r"-?\d{1,18}", value, re.ASCII):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not -(2**63) <= value < 2**63:
        return None
    return value


def parse_moment(value: Any) -> int | None:
    """A moment as microseconds, None for text that is none; one without a zone is UTC."""
    if not isinstance(value, str):
        return None
    try:
        moment = msgspec.convert(value, datetime)
    except msgspec.ValidationError:
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return from_datetime(moment)
