"""What is wrong with a request, all of it at once, as a Prefect client expects to be told."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from ironflow.core.errors import IronflowError

Location = tuple[str | int, ...]
MESSAGE = "Invalid request received."

_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]|\[\.\.\.\]")
_PATH = re.compile(r" - at `(key in )?(\$.*)`$", re.DOTALL)
_GOT = re.compile(r", got `(\w+)`$")
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

_JSON_KINDS: dict[str, tuple[type, ...]] = {
    "null": (type(None),),
    "bool": (bool,),
    "int": (int,),
    "float": (float,),
    "str": (str,),
    "array": (list,),
    "object": (dict,),
}
_SOME_KEY = object()
"""A step of a path: into a value of an object, the decoder does not say under which key."""

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
    return tuple(part for part in _parse_steps(text) if isinstance(part, str | int))


def _parse_steps(text: str) -> list[object]:
    parts: list[object] = []
    for match in _STEP.finditer(text):
        name, index = match.groups()
        if name is not None:
            parts.append(name)
        else:
            parts.append(_SOME_KEY if index is None else int(index))
    return parts


def find_fault(error: msgspec.ValidationError, source: str, value: Any) -> Fault:
    """The fault in a decoding error; `source` is `body` or `query`, `value` what was decoded."""
    text = str(error)
    reason = _PATH.sub("", text)
    found = _PATH.search(text)
    steps = _parse_steps(found.group(2).removeprefix("$")) if found is not None else []
    where = _find_keys(steps, value, reason)
    missing, unknown = _MISSING.match(reason), _UNKNOWN.match(reason)
    inner = look_up(value, where)
    if missing is not None:
        return Fault((source, *where, missing.group(1)), "missing", "Field required", inner)
    if unknown is not None:
        name = unknown.group(1)
        inner = inner.get(name) if isinstance(inner, dict) else None
        text = "Extra inputs are not permitted"
        return Fault((source, *where, name), "extra_forbidden", text, inner)
    kind = next((kind for start, kind in _KINDS if reason.startswith(start)), "value_error")
    return Fault((source, *where), kind, reason, inner)


def _find_keys(steps: list[object], value: Any, reason: str) -> Location:
    """The path with the keys that the decoder left out: those that lead to a value of the kind that
    it did not want, or the only ones. Without them when that does not tell.
    """
    got = _GOT.search(reason)
    kinds = _JSON_KINDS.get(got.group(1)) if got is not None else None
    paths = list(_expand(steps, value, ()))
    if kinds is not None:
        paths = [path for path in paths if type(look_up(value, path)) in kinds][:1]
    if len(paths) == 1:
        return paths[0]
    return tuple(part for part in steps if isinstance(part, str | int))


def _expand(steps: Sequence[object], value: Any, before: Location) -> Iterator[Location]:
    """Every path that the steps can mean in a value."""
    if not steps:
        yield before
        return
    step, rest = steps[0], steps[1:]
    if step is _SOME_KEY:
        if isinstance(value, dict):
            for key, inner in value.items():
                yield from _expand(rest, inner, (*before, key))
    elif isinstance(step, str) and isinstance(value, dict) and (step in value or not rest):
        yield from _expand(rest, value.get(step), (*before, step))
    elif isinstance(step, int) and isinstance(value, list) and step < len(value):
        yield from _expand(rest, value[step], (*before, step))


def look_up(value: Any, where: Location) -> Any:
    """What stands at a place inside a value, None where there is no such place."""
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
