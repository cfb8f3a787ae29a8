"""How values become JSON: one walk over a value, which gives its parts their tags or, for readers
that know none, their plain form. `ironflow.core.values.codec` says which tags there are.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import cast
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec

from ironflow.core.values import types
from ironflow.core.values.types import Unfit

MAX_DEPTH = 64
MAX_ITEMS = 2_000_000
"""Items in all containers of a value: one that shares its parts again and again must not hang."""
NOT_FINITE = "NaN and infinities have no JSON form"
TOO_MANY = f"the whole value has more than {MAX_ITEMS} items"


class Refused(Exception):
    """A value has no stored form; `path` is collected backwards while this travels outwards."""

    def __init__(self, value: object, reason: str = "") -> None:
        self.kind, self.reason = name_kind(value), reason
        self.path: list[str] = []


def name_kind(value: object) -> str:
    """The name of a value's type, as a refusal tells it."""
    cls = type(value)
    module, name = (
        type.__getattribute__(cls, "__module__"),
        type.__getattribute__(cls, "__qualname__"),
    )
    return str(name) if module == "builtins" else f"{module}.{name}"


class Walk:
    """One walk over one value: turns it into what msgspec encodes as it is."""

    def __init__(self, leaf: Callable[[object], object], tagged: bool) -> None:
        self.leaf, self.tagged = leaf, tagged
        self.active: set[int] = set()
        self.items = MAX_ITEMS

    def tag(self, value: object, depth: int) -> object:
        cls = type(value)
        if cls is str:
            return _text(cast(str, value))
        if cls is bool or value is None:
            return value
        # issubclass(), because isinstance() asks the value itself for its class.
        if issubclass(cls, Enum):
            if self.tagged:
                return self.leaf(value)
            return self.tag(cast(Enum, value).value, self.deeper(value, depth))
        if not issubclass(cls, dict | list | tuple) and not types.has_fields(cls):
            return self.leaf(value)
        if id(value) in self.active:
            raise Refused(value, "it contains itself")
        depth = self.deeper(value, depth)
        self.active.add(id(value))
        try:
            if issubclass(cls, dict):
                return self.mapping(cast("dict[object, object]", value), depth)
            if issubclass(cls, list | tuple):
                return self.sequence(cast("list[object]", value), cls, depth)
            return self.instance(value, cls, depth)
        finally:
            self.active.discard(id(value))

    def deeper(self, value: object, depth: int) -> int:
        if depth == 0:
            raise Refused(value, f"it is nested deeper than {MAX_DEPTH}")
        return depth - 1

    def spend(self, value: object, count: int) -> None:
        self.items -= count
        if self.items < 0:
            raise Refused(value, TOO_MANY)

    def sequence(self, value: list[object], cls: type, depth: int) -> list[object]:
        found: list[object] = []
        # Of the base class: a subclass may iterate over something else.
        base = list if issubclass(cls, list) else tuple
        self.spend(value, base.__len__(value))  # type: ignore[arg-type]
        for place, item in enumerate(base.__iter__(value)):  # type: ignore[arg-type]
            try:
                found.append(self.tag(item, depth))
            except Refused as refused:
                refused.path.append(f"[{place}]")
                raise
        return found

    def mapping(self, value: dict[object, object], depth: int) -> object:
        found: dict[str, object] = {}
        self.spend(value, dict.__len__(value))
        for key, item in dict.items(value):
            if not issubclass(type(key), str):
                raise Refused(key, "the keys of a mapping must be text")
            try:
                name = _text(cast(str, key))
                found[name] = self.tag(item, depth)
            except Refused as refused:
                refused.path.append(write_segment(cast(str, key)))
                raise
        if self.tagged and any(name[:1] == "$" for name in found):
            return {"$dict": [[name, item] for name, item in found.items()]}
        return found

    def instance(self, value: object, cls: type, depth: int) -> object:
        found: dict[str, object] = {}
        try:
            if self.tagged:
                found["$type"] = types.type_name(cls)
            fields = types.read_fields(value, cls)
        except Unfit as unfit:
            raise Refused(value, str(unfit)) from None
        self.spend(value, len(fields))
        names = self.names(cls, fields)
        for name, item in fields.items():
            try:
                found[_text(names.get(name, name))] = self.tag(item, depth)
            except Refused as refused:
                refused.path.append(write_segment(name))
                raise
        return found

    def names(self, cls: type, fields: dict[str, object]) -> dict[str, str]:
        """The names under which fields are written, where they are others."""
        if not self.tagged and issubclass(cls, msgspec.Struct):
            return dict(zip(cls.__struct_fields__, cls.__struct_encode_fields__, strict=True))
        if self.tagged and any(name[:1] == "$" for name in fields):
            raise Refused(cls, "a field's name begins with `$`")
        return {}


def write_segment(key: str) -> str:
    """One part of a path: a key or a field."""
    name = str.__str__(key)
    return f".{name}" if name.isidentifier() else f"[{name!a}]"


def _text(value: str) -> str:
    text = str.__str__(value)
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise Refused(value, "it holds a lone surrogate, which has no UTF-8 form") from None
    return text


def _finite(value: float) -> float:
    number = float.__float__(value)
    if not math.isfinite(number):
        raise Refused(value, NOT_FINITE)
    return number


def tag_leaf(value: object) -> object:
    """The tagged form of what is no container."""
    cls = type(value)
    if issubclass(cls, Enum):
        member = cast(Enum, value)
        try:
            return {"$enum": types.type_name(cls), "value": types.enum_value(member)}
        except (Unfit, ValueError, TypeError) as error:
            raise Refused(value, str(error)) from None
    if issubclass(cls, datetime):
        return _tag_datetime(cast(datetime, value))
    if issubclass(cls, timedelta):
        return _tag_timedelta(cast(timedelta, value))
    if cls is bytes:
        return {"$bytes": base64.b64encode(cast(bytes, value)).decode("ascii")}
    scalar = plain_leaf(value, huge=lambda number: {"$int": hex(number)})
    for kind, tag in ((UUID, "$uuid"), (date, "$date"), (Decimal, "$decimal")):
        if issubclass(cls, kind):
            return {tag: scalar}
    return scalar


def plain_leaf(value: object, huge: Callable[[int], object] | None = None) -> object:
    """The JSON form, without tags, of what is no container."""
    cls = type(value)
    if value is None or cls is bool:
        return value
    if issubclass(cls, str):
        return _text(cast(str, value))
    if issubclass(cls, int):
        number = int.__int__(cast(int, value))
        try:
            # Digit by digit here, for Python refuses to write thousands of them.
            return number if -(2**63) <= number < 2**64 else msgspec.Raw(str(number).encode())
        except ValueError:
            if huge is not None:
                return huge(number)
            raise Refused(value, "it has too many digits") from None
    if issubclass(cls, float):
        return _finite(cast(float, value))
    if issubclass(cls, datetime):
        return _iso(cast(datetime, value))
    if issubclass(cls, date):
        return date.isoformat(cast(date, value))
    if issubclass(cls, timedelta):
        return timedelta.total_seconds(cast(timedelta, value))
    if issubclass(cls, UUID | Decimal):
        return (
            UUID.__str__(value)
            if isinstance(value, UUID)
            else Decimal.__str__(cast(Decimal, value))
        )
    if cls is bytes:
        return base64.b64encode(cast(bytes, value)).decode("ascii")
    raise Refused(value)


def _iso(value: datetime) -> str:
    try:
        return datetime.isoformat(value)
    except Exception as error:
        raise Refused(value, f"its time zone fails: {type(error).__name__}") from error


def _tag_datetime(value: datetime) -> object:
    found: dict[str, object] = {"$datetime": _iso(value)}
    # The offset alone would lose the zone's rules, by which the user goes on computing.
    zone = value.tzinfo
    if type(zone) is ZoneInfo and zone.key:
        found["zone"] = zone.key
    if value.fold:
        found["fold"] = 1
    return found


def _tag_timedelta(value: timedelta) -> object:
    """Seconds where a number is exact, else whole seconds and microseconds."""
    seconds, micros = divmod(value // timedelta(microseconds=1), 1_000_000)
    number = timedelta.total_seconds(value) if micros else seconds
    try:
        exact = timedelta(seconds=number) == value
    except OverflowError:
        exact = False  # next to the largest timedelta the nearest float is past it
    return {"$timedelta": number if exact else [seconds, micros]}
