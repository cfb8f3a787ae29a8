"""How stored values are read back: JSON whose tags become what they stand for. The classes that are
named in it are imported, so it is for what ironflow stored itself.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from datetime import date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from enum import Enum
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec

from ironflow.core.errors import UnreadableValue
from ironflow.core.values import types
from ironflow.core.values.encoding import write_segment
from ironflow.core.values.types import Unfit


def decode_value(data: bytes | str) -> object:
    """The value of a stored form.

    Raises `UnreadableValue`; imports the modules of the types named in it.
    """
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise UnreadableValue("$", f"it is not JSON: {error}") from None
    if ('"$' in data) if isinstance(data, str) else (b'"$' in data):
        try:
            return _restore(value)
        except _Unreadable as fault:
            path = "$" + "".join(reversed(fault.path))
            raise UnreadableValue(path, fault.reason) from fault.__cause__
        except RecursionError:
            raise UnreadableValue("$", "it is nested too deeply") from None
    return value


class _Unreadable(Exception):
    """A tag is not understood; the path is collected on the way out."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        self.path: list[str] = []


def _restore(value: object) -> object:
    """The value with its tags resolved; changes lists and dicts in place, for they are fresh."""
    if type(value) is list:
        for place, item in enumerate(value):
            if type(item) is dict or type(item) is list:
                value[place] = _restore_at(item, f"[{place}]")
    elif type(value) is dict:
        tag = next(iter(value), "")
        if tag[:1] == "$":
            return _untag(tag, value)
        for key, item in value.items():
            if type(item) is dict or type(item) is list:
                value[key] = _restore_at(item, write_segment(key))
    return value


def _restore_at(value: object, segment: str) -> object:
    try:
        return _restore(value)
    except _Unreadable as fault:
        fault.path.append(segment)
        raise


def _untag(tag: str, found: dict[str, Any]) -> object:
    if tag == "$dict":
        return _read_dict(found[tag])
    reader = _READERS.get(tag)
    if reader is None:
        raise _Unreadable(f"the tag {tag!r:.50} is unknown; was it stored by a newer ironflow?")
    try:
        return reader(found)
    except Unfit as unfit:
        raise _Unreadable(str(unfit)) from unfit
    except (
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        OverflowError,
        InvalidOperation,
        binascii.Error,
    ) as error:
        raise _Unreadable(f"{tag} with {found[tag]!r:.100} makes no value: {error}") from error


def _read_dict(pairs: object) -> object:
    if not isinstance(pairs, list):
        raise _Unreadable("$dict needs a list of pairs")
    made: dict[str, object] = {}
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2 or not isinstance(pair[0], str):
            raise _Unreadable("$dict needs a list of pairs")
        made[pair[0]] = _restore_at(pair[1], write_segment(pair[0]))
    return made


def _read_object(found: dict[str, Any]) -> object:
    cls = types.find_type(found["$type"], types.has_fields)
    fields = {
        name: _restore_at(item, write_segment(name))
        for name, item in found.items()
        if name != "$type"
    }
    return types.build(cls, fields)


def _read_enum(found: dict[str, Any]) -> object:
    cls = types.find_type(found["$enum"], lambda kind: issubclass(kind, Enum))
    return types.find_member(cls, found["value"])


def _read_datetime(found: dict[str, Any]) -> object:
    moment = datetime.fromisoformat(found["$datetime"])
    if "zone" in found:
        try:
            moment = moment.replace(tzinfo=ZoneInfo(found["zone"]))
        except (OSError, KeyError, ValueError, TypeError):
            return moment  # this machine does not know the zone: the offset is still right
    return moment.replace(fold=1) if found.get("fold") == 1 else moment


def _read_timedelta(found: dict[str, Any]) -> object:
    stored = found["$timedelta"]
    if isinstance(stored, list):
        seconds, micros = stored
        return timedelta(seconds=seconds, microseconds=micros)
    return timedelta(seconds=stored)


_READERS: dict[str, Callable[[dict[str, Any]], object]] = {
    "$type": _read_object,
    "$enum": _read_enum,
    "$uuid": lambda found: UUID(found["$uuid"]),
    "$datetime": _read_datetime,
    "$date": lambda found: date.fromisoformat(found["$date"]),
    "$timedelta": _read_timedelta,
    "$bytes": lambda found: base64.b64decode(found["$bytes"], validate=True),
    "$decimal": lambda found: Decimal(found["$decimal"]),
    "$int": lambda found: int(found["$int"], 16),
}
