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

import math
from collections.abc import Callable
from typing import Any, cast

import msgspec

from ironflow.core.errors import NotSerializable, UnreadableValue
from ironflow.core.values.decoding import decode_value
from ironflow.core.values.encoding import (
    MAX_DEPTH,
    MAX_ITEMS,
    TOO_MANY,
    Refused,
    Walk,
    name_kind,
    plain_leaf,
    tag_leaf,
)
from ironflow.core.values.input_types import convert_input, json_schema

__all__ = [
    "MAX_DEPTH",
    "convert_input",
    "decode_value",
    "encode_plain",
    "encode_value",
    "is_plain",
    "json_schema",
    "normalize",
]

TEXT_DEPTH = 4 * MAX_DEPTH
"""Levels of the text of a value: what JSON does not know is an object of its name and parts."""

_encode = msgspec.json.encode
_SCALARS = frozenset({str, int, bool, type(None)})
_PLAIN, _LISTED, _TAGGED = 0, 1, 2


def encode_value(value: object, where: str) -> bytes:
    """The stored form of a value. Raises `NotSerializable` with `where` (the step) and the path."""
    return _encode_as(value, where, tag_leaf, tagged=True)


def encode_plain(value: object, where: str) -> bytes:
    """JSON for readers that know no tags: UUIDs and dates are text, dataclasses objects.

    Raises `NotSerializable` for what cannot be stored either.
    """
    return _encode_as(value, where, plain_leaf, tagged=False)


def _encode_as(value: object, where: str, leaf: Callable[[object], object], tagged: bool) -> bytes:
    try:
        if type(value) in _SCALARS or _shape(value, MAX_DEPTH, [MAX_ITEMS], not tagged) != _TAGGED:
            try:
                return _encode(value)
            except (UnicodeEncodeError, ValueError, RecursionError):
                pass  # a lone surrogate or a huge integer: the walk below finds its place
        return _encode(Walk(leaf, tagged).tag(value, MAX_DEPTH))
    except Refused as refused:
        path = "$" + "".join(reversed(refused.path))
        raise NotSerializable(where, path, refused.kind, refused.reason) from None
    except RecursionError:
        raise NotSerializable(where, "$", name_kind(value), "it is nested too deeply") from None


def is_plain(value: object) -> bool:
    """Whether the value is stored as it is and comes back equal, with the same types."""
    try:
        return _shape(value, MAX_DEPTH, [MAX_ITEMS]) == _PLAIN and bool(_encode(value))
    except (UnicodeEncodeError, ValueError, RecursionError, Refused):
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
        raise NotSerializable(where, error.path, name_kind(value), error.reason) from error


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
        raise Refused(value, TOO_MANY)
    for item in items:
        if type(item) in _SCALARS:
            continue
        found = _shape(item, depth - 1, budget, dollars)
        if found == _TAGGED:
            return _TAGGED
        shape = shape or found
    return shape
