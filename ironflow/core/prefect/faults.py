"""What is wrong with a request, all of it at once, as a Prefect client expects to be told."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from ironflow.core.errors import IronflowError

Location = tuple[str | int, ...]
MESSAGE = "Invalid request received."

_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]|\[\.\.\.\]")
_PATH = re.compile(r" - at `(key in )?(\$.*)`$", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.+)`$", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(.+)`$", re.DOTALL)
_KINDS = (
    ("Invalid enum value", "enum"),
    ("Invalid UUID", "uuid_parsing"),
    ("Invalid RFC3339", "datetime_parsing"),
    ("Expected `object", "model_attributes_type"),
    ("Expected `array", "list_type"),
    ("Expected `int", "int_type"),
    ("Expected `float", "float_type"),
    ("Expected `str", "string_type"),
    ("Expected `bool", "bool_type"),
)

_parse = msgspec.json.Decoder().decode


class Fault(NamedTuple):
    """One thing that is wrong: where, what kind of fault, in words, and what stood there."""

    where: Location
    kind: str
    text: str
    value: Any = None


class InvalidRequest(IronflowError):
    """A request whose body, query or path is not what the route takes."""

    code = "invalid_request"
    status = 422

    def __init__(self, faults: Sequence[Fault], body: Any = None) -> None:
        super().__init__(MESSAGE)
        self.faults, self.body = tuple(faults), body


class Refusal(IronflowError):
    """Any other no: a status, and its reason in words."""

    code = "refused"

    def __init__(self, status: int, detail: str, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.retry_after = status, detail, retry_after


def parse_path(text: str) -> Location:
    """A path of the decoder, such as `.flows[2].name`, as its parts."""
    parts: list[str | int] = []
    for match in _STEP.finditer(text):
        name, index = match.groups()
        if name is not None:
            parts.append(name)
        elif index is not None:
            parts.append(int(index))
    return tuple(parts)


def find_fault(error: msgspec.ValidationError, source: str, value: Any) -> Fault:
    """The fault in a decoding error; `source` is `body` or `query`, `value` what was decoded."""
    text = str(error)
    reason = _PATH.sub("", text)
    found = _PATH.search(text)
    where = parse_path(found.group(2).removeprefix("$")) if found is not None else ()
    missing, unknown = _MISSING.match(reason), _UNKNOWN.match(reason)
    inner = _look_up(value, where)
    if missing is not None:
        return Fault((source, *where, missing.group(1)), "missing", "Field required", inner)
    if unknown is not None:
        name = unknown.group(1)
        inner = inner.get(name) if isinstance(inner, dict) else None
        text = "Extra inputs are not permitted"
        return Fault((source, *where, name), "extra_forbidden", text, inner)
    kind = next((kind for start, kind in _KINDS if reason.startswith(start)), "value_error")
    return Fault((source, *where), kind, reason, inner)


def _look_up(value: Any, where: Location) -> Any:
    for part in where:
        if isinstance(value, dict) and isinstance(part, str):
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
        else:
            return None
    return value


def parse_leniently(raw: bytes | str) -> Any:
    """A body for its owner to look at: as JSON, else as text, None when there was none."""
    if not raw.strip():
        return None
    try:
        return _parse(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        data = raw.encode("utf-8", "replace") if isinstance(raw, str) else raw
        return data.decode("utf-8", "backslashreplace")
