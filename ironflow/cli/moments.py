"""Moments and durations as people read them, from the RFC 3339 text of the API."""

from __future__ import annotations

from datetime import UTC, datetime

from ironflow.core.durations import format_duration


def parse(text: str) -> datetime:
    """The moment that the API wrote."""
    return datetime.fromisoformat(text)


def full(text: str | None) -> str:
    """`2026-01-31 12:00:00.123 UTC`, empty when not yet."""
    if text is None:
        return ""
    return parse(text).astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + " UTC"


def clock(text: str) -> str:
    """`12:00:00.123` on the user's clock."""
    return parse(text).astimezone().strftime("%H:%M:%S.%f")[:-3]


def seconds_since(text: str, now: datetime | None = None) -> float:
    """Seconds from then to now; negative when it lies ahead."""
    return ((now or datetime.now(UTC)) - parse(text)).total_seconds()


def ago(text: str | None, now: datetime | None = None) -> str:
    """`5m 3s ago`, or `in 2h` for the future; empty when not yet."""
    if text is None:
        return ""
    seconds = seconds_since(text, now)
    if seconds < -0.5:
        return f"in {format_duration(-seconds)}"
    return "just now" if seconds < 1 else f"{format_duration(seconds)} ago"


def duration(seconds: float | None) -> str:
    """`1.5s`; empty when not known."""
    return "" if seconds is None else format_duration(max(seconds, 0.0))
