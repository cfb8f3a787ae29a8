"""Answers of two servers made comparable: what each server makes up itself becomes a word,
everything else stays as it is.

Identifiers become `id-1`, `id-2` in the order in which they are met, so that two answers are only
equal when the same things are the same. Moments become their rounded distance from now, spans
become `zero` or `some`. Reasons are each server's own words.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
MOMENT = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)?")
MADE_UP_NAME = re.compile(r"[a-z]+-[a-z]+")
SPANS = frozenset(
    {
        "total_run_time",
        "estimated_run_time",
        "estimated_start_time_delta",
        "delay_seconds",
        "total_task_run_time",
        "average_lateness",
        "average_run_time",
        "sum_estimated_run_time",
        "sum_estimated_lateness",
    }
)
ROUND_TO = 600
"""Seconds: the sequences use offsets of whole hours, and a run of a test takes less than this."""


class NormalForm:
    """The normal form of one server's answers; keeps its names of identifiers between them."""

    def __init__(self) -> None:
        self.ids: dict[str, str] = {}

    def of(self, value: Any, key: str = "") -> Any:
        """The value with the server's own inventions replaced."""
        match value:
            case dict():
                return self._of_dict(value)
            case list():
                return [self.of(item, key) for item in value]
            case str():
                return "said" if key == "reason" and value else self._of_text(value)
            case bool() | None:
                return value
            case int() | float() if key in SPANS:
                return "zero" if value == 0 else "some" if value > 0 else "negative"
            case _:
                return value

    def _of_dict(self, value: Mapping[str, Any]) -> dict[str, Any]:
        found = {self._of_text(key): self.of(value[key], key) for key in sorted(value)}
        name = found.get("name")
        if found.get("job_variables") == {}:
            found["job_variables"] = None  # the real server forgets it beside an idempotency key
        if isinstance(found.get("pause_keys"), list):
            found["pause_keys"] = sorted(found["pause_keys"])  # a set there
        is_run = "flow_id" in found or "task_key" in found
        if is_run and isinstance(name, str) and MADE_UP_NAME.fullmatch(name):
            found["name"] = "made-up"
        return found

    def _of_text(self, text: str) -> str:
        text = MOMENT.sub(self._moment, text)
        return UUID.sub(lambda match: self._id(match.group()), text)

    def _id(self, text: str) -> str:
        return self.ids.setdefault(text, f"id-{len(self.ids) + 1}")

    def _moment(self, match: re.Match[str]) -> str:
        text = match.group().replace("Z", "+00:00")
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        distance = (moment - datetime.now(UTC)).total_seconds()
        return f"now{round(distance / ROUND_TO) * ROUND_TO:+d}s"


def differences(theirs: Any, ours: Any, place: str = "") -> list[str]:
    """Each place where two normal forms differ, in one line."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        lines = []
        for key in sorted(theirs.keys() | ours.keys()):
            inner = f"{place}.{key}".lstrip(".")
            if key not in ours:
                lines.append(f"{inner}: real {theirs[key]!r}, ours has none")
            elif key not in theirs:
                lines.append(f"{inner}: real has none, ours {ours[key]!r}")
            else:
                lines += differences(theirs[key], ours[key], inner)
        return lines
    if isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours):
        return [
            line
            for number, (one, other) in enumerate(zip(theirs, ours, strict=True))
            for line in differences(one, other, f"{place}[{number}]")
        ]
    if theirs == ours:
        return []
    return [f"{place or 'body'}: real {_brief(theirs)}, ours {_brief(ours)}"]


def _brief(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(one, dict) and "name" in one for one in value):
        return f"{len(value)} named {[one['name'] for one in value]}"
    text = repr(value)
    return text if len(text) < 300 else f"{text[:300]}..."
