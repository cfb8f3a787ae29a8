"""The codec for the values that steps take and return: compact JSON, and the same types back.

What JSON can say is stored as it is (tuples become lists). Everything else is an object whose first
key begins with `$`: `$type` (dataclasses, msgspec structs, pydantic models, with their fields),
`$uuid`, `$datetime`, `$date`, `$timedelta`, `$bytes`, `$decimal`, `$enum`, `$int` (of thousands of
digits), and `$dict` for a mapping whose own keys begin with `$`. What fits nowhere is refused at
once with `NotSerializable`, naming the place.

`decode_value` imports the classes that it finds named, so it is for what ironflow stored itself.
JSON that comes from outside is read by `convert_input`, which knows no tags.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Callable
from datetime import date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from enum import Enum
from typing import Any, cast
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec

from ironflow.core import value_types as types
from ironflow.core.errors import NotSerializable, UnreadableValue
from ironflow.core.input_types import convert_input, json_schema
from ironflow.core.value_types import Unfit

__all__ = [
    "convert_input",
    "decode_value",
    "encode_plain",
    "encode_value",
    "is_plain",
    "json_schema",
    "normalize",
]

MAX_DEPTH = 64
TEXT_DEPTH = 4 * MAX_DEPTH
"""Levels of the text of a value: what JSON does not know is an object of its name and parts."""
MAX_ITEMS = 2_000_000
"""Items in all containers of a value: one that shares its parts again and again must not hang."""

_encode = msgspec.json.encode
_SCALARS = frozenset({str, int, bool, type(None)})
_PLAIN, _LISTED, _TAGGED = 0, 1, 2
_NOT_FINITE = "NaN and infinities have no JSON form"
_TOO_MANY = f"the whole value has more than {MAX_ITEMS} items"


def encode_value(value: object, where: str) -> bytes:
    """The stored form of a value. Raises `NotSerializable` with `where` (the step) and the path."""
    return _encode_as(value, where, _tag_leaf, tagged=True)


def encode_plain(value: object, where: str) -> bytes:
    """JSON for readers that know no tags: UUIDs and dates are text, dataclasses objects.

    Raises `NotSerializable` for what cannot be stored either.
    """
    return _encode_as(value, where, _plain_leaf, tagged=False)


def _encode_as(value: object, where: str, leaf: Callable[[object], object], tagged: bool) -> bytes:
    try:
        if type(value) in _SCALARS or _shape(value, MAX_DEPTH, [MAX_ITEMS], not tagged) != _TAGGED:
            try:
                return _encode(value)
            except (UnicodeEncodeError, ValueError, RecursionError):
                pass  # a lone surrogate or a huge integer: the walk below finds its place
        return _encode(_Walk(leaf, tagged).tag(value, MAX_DEPTH))
    except _Refused as refused:
        path = "$" + "".join(reversed(refused.path))
        raise NotSerializable(where, path, refused.kind, refused.reason) from None
    except RecursionError:
        raise NotSerializable(where, "$", _kind(value), "it is nested too deeply") from None


def is_plain(value: object) -> bool:
    """Whether the value is stored as it is and comes back equal, with the same types."""
    try:
        return _shape(value, MAX_DEPTH, [MAX_ITEMS]) == _PLAIN and bool(_encode(value))
    except (UnicodeEncodeError, ValueError, RecursionError, _Refused):
        return False


def normalize(value: object, where: str) -> tuple[bytes, object]:
    """The stored form, and the value as every replay will see it. Raises `NotSerializable`.

    A scalar is itself; anything else is made anew from its stored form, so that what the caller
    changes later is not seen, and so that a value that cannot be restored fails now.
    """
    data = encode_value(value, where)
    kind = type(value)
    if kind in _SCALARS or kind is float:
        return data, value
    try:
        return data, decode_value(data)
    except UnreadableValue as error:
        raise NotSerializable(where, error.path, _kind(value), error.reason) from error


def _shape(value: object, depth: int, budget: list[int], dollars: bool = False) -> int:
    """Whether a value is plain, plain but for tuples, or needs the slow walk."""
    kind = type(value)
    if kind in _SCALARS:
        return _PLAIN
    if kind is float:
        return _PLAIN if math.isfinite(cast(float, value)) else _TAGGED
    if depth == 0:
        return _TAGGED
    items: Any
    shape = _PLAIN
    if kind is dict:
        budget[0] -= len(cast("dict[object, object]", value))
        for key in cast("dict[object, object]", value):
            if type(key) is not str or (not dollars and key[:1] == "$"):
                return _TAGGED
        items = cast("dict[str, object]", value).values()
    elif kind is list or kind is tuple:
        items = value
        budget[0] -= len(items)
        if kind is tuple:
            shape = _LISTED
    else:
        return _TAGGED
    if budget[0] < 0:
        raise _Refused(value, _TOO_MANY)
    for item in items:
        if type(item) in _SCALARS:
            continue
        found = _shape(item, depth - 1, budget, dollars)
        if found == _TAGGED:
            return _TAGGED
        shape = shape or found
    return shape


# -- encoding, with tags ---------------------------------------------------------------------------


class _Refused(Exception):
    """A value has no stored form; `path` is collected backwards while this travels outwards."""

    def __init__(self, value: object, reason: str = "") -> None:
        self.kind, self.reason = _kind(value), reason
        self.path: list[str] = []


def _kind(value: object) -> str:
    cls = type(value)
    module, name = (
        type.__getattribute__(cls, "__module__"),
        type.__getattribute__(cls, "__qualname__"),
    )
    return str(name) if module == "builtins" else f"{module}.{name}"


class _Walk:
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
            raise _Refused(value, "it contains itself")
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
            raise _Refused(value, f"it is nested deeper than {MAX_DEPTH}")
        return depth - 1

    def spend(self, value: object, count: int) -> None:
        self.items -= count
        if self.items < 0:
            raise _Refused(value, _TOO_MANY)

    def sequence(self, value: list[object], cls: type, depth: int) -> list[object]:
        found: list[object] = []
        # Of the base class: a subclass may iterate over something else.
        base = list if issubclass(cls, list) else tuple
        self.spend(value, base.__len__(value))  # type: ignore[arg-type]
        for place, item in enumerate(base.__iter__(value)):  # type: ignore[arg-type]
            try:
                found.append(self.tag(item, depth))
            except _Refused as refused:
                refused.path.append(f"[{place}]")
                raise
        return found

    def mapping(self, value: dict[object, object], depth: int) -> object:
        found: dict[str, object] = {}
        self.spend(value, dict.__len__(value))
        for key, item in dict.items(value):
            if not issubclass(type(key), str):
                raise _Refused(key, "the keys of a mapping must be text")
            try:
                name = _text(cast(str, key))
                found[name] = self.tag(item, depth)
            except _Refused as refused:
                refused.path.append(_segment(cast(str, key)))
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
            raise _Refused(value, str(unfit)) from None
        self.spend(value, len(fields))
        names = self.names(cls, fields)
        for name, item in fields.items():
            try:
                found[_text(names.get(name, name))] = self.tag(item, depth)
            except _Refused as refused:
                refused.path.append(_segment(name))
                raise
        return found

    def names(self, cls: type, fields: dict[str, object]) -> dict[str, str]:
        """The names under which fields are written, where they are others."""
        if not self.tagged and issubclass(cls, msgspec.Struct):
            return dict(zip(cls.__struct_fields__, cls.__struct_encode_fields__, strict=True))
        if self.tagged and any(name[:1] == "$" for name in fields):
            raise _Refused(cls, "a field's name begins with `$`")
        return {}


def _segment(key: str) -> str:
    name = str.__str__(key)
    return f".{name}" if name.isidentifier() else f"[{name!a}]"


def _text(value: str) -> str:
    text = str.__str__(value)
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise _Refused(value, "it holds a lone surrogate, which has no UTF-8 form") from None
    return text


def _finite(value: float) -> float:
    number = float.__float__(value)
    if not math.isfinite(number):
        raise _Refused(value, _NOT_FINITE)
    return number


def _tag_leaf(value: object) -> object:
    """The tagged form of what is no container."""
    cls = type(value)
    if issubclass(cls, Enum):
        member = cast(Enum, value)
        try:
            return {"$enum": types.type_name(cls), "value": types.enum_value(member)}
        except (Unfit, ValueError, TypeError) as error:
            raise _Refused(value, str(error)) from None
    if issubclass(cls, datetime):
        return _tag_datetime(cast(datetime, value))
    if issubclass(cls, timedelta):
        return _tag_timedelta(cast(timedelta, value))
    if cls is bytes:
        return {"$bytes": base64.b64encode(cast(bytes, value)).decode("ascii")}
    scalar = _plain_leaf(value, huge=lambda number: {"$int": hex(number)})
    for kind, tag in ((UUID, "$uuid"), (date, "$date"), (Decimal, "$decimal")):
        if issubclass(cls, kind):
            return {tag: scalar}
    return scalar


def _plain_leaf(value: object, huge: Callable[[int], object] | None = None) -> object:
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
            raise _Refused(value, "it has too many digits") from None
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
    raise _Refused(value)


def _iso(value: datetime) -> str:
    try:
        return datetime.isoformat(value)
    except Exception as error:
        raise _Refused(value, f"its time zone fails: {type(error).__name__}") from error


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


# -- decoding --------------------------------------------------------------------------------------


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
                value[key] = _restore_at(item, _segment(key))
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
        made[pair[0]] = _restore_at(pair[1], _segment(pair[0]))
    return made


def _read_object(found: dict[str, Any]) -> object:
    cls = types.find_type(found["$type"], types.has_fields)
    fields = {
        name: _restore_at(item, _segment(name)) for name, item in found.items() if name != "$type"
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
