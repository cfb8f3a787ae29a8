"""Messages as JSON. What handlers see of a message is a dict by JSON names: moments as
microseconds, enums by name, users' own values as JSON text that nothing was rounded in.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import msgspec

from ironflow.core.clock import from_datetime, to_rfc3339
from ironflow.core.errors import InvalidInput
from ironflow.core.values.json_text import keep_json
from ironflow.web.connect.schema import (
    SCALARS,
    STRUCT,
    TIMESTAMP,
    VALUE,
    Field,
    Message,
    Schema,
)
from ironflow.web.problems import Malformed

Plain = dict[str, Any]
RANGES = {
    "int32": (-(2**31), 2**31 - 1),
    "int64": (-(2**63), 2**63 - 1),
    "uint32": (0, 2**32 - 1),
    "uint64": (0, 2**64 - 1),
}
_NULL = b"null"
_decode = msgspec.json.decode
_Object = dict[str, msgspec.Raw]


def decode_json(schema: Schema, name: str, data: bytes) -> Plain:
    """The message `name` from JSON; either spelling of a field's name, unknown ones passed over.

    Raises `Malformed` for what is not JSON, `InvalidInput` naming the field.
    """
    try:
        return _message(schema, schema.message(name), data.strip() or b"{}", "")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"the body is not JSON: {error}") from error


def encode_json(schema: Schema, name: str, plain: Mapping[str, Any]) -> bytes:
    """The message `name` as JSON."""
    return msgspec.json.encode(_shown(schema, schema.message(name), plain))


# -- decoding -------------------------------------------------------------------------------------


def _message(schema: Schema, message: Message, data: bytes, path: str) -> Plain:
    try:
        found = _decode(data, type=_Object)
    except msgspec.ValidationError:
        raise InvalidInput(path or "body", "must be a JSON object") from None
    plain: Plain = {}
    for key, raw in found.items():
        field = message.by_name.get(key)
        if field is None or bytes(raw) == _NULL:
            continue
        where = f"{path}.{field.json_name}" if path else field.json_name
        plain[field.json_name] = _field(schema, field, bytes(raw), where)
    return plain


def _field(schema: Schema, field: Field, data: bytes, path: str) -> Any:
    if field.repeated:
        items = _as(data, list[msgspec.Raw], path, "a list")
        return [_single(schema, field, bytes(r), f"{path}[{i}]") for i, r in enumerate(items)]
    if field.is_map:
        pairs = _as(data, _Object, path, "an object")
        return {k: _single(schema, field, bytes(r), f"{path}.{k}") for k, r in pairs.items()}
    return _single(schema, field, data, path)


def _single(schema: Schema, field: Field, data: bytes, path: str) -> Any:
    kind = field.kind
    if kind in SCALARS:
        return _SCALARS[kind](data, path)
    if kind == TIMESTAMP:
        return check_moment(from_datetime(_as(data, datetime, path, "RFC 3339 text")), path)
    if kind == STRUCT and not data.lstrip().startswith(b"{"):
        raise InvalidInput(path, "must be a JSON object; other values go into its twin, ...Value")
    if kind in (STRUCT, VALUE):
        return msgspec.Raw(keep_json(msgspec.Raw(data), path))
    if kind in schema.enums:
        return enum_name(schema, kind, _as(data, str | int, path, "a name or a number"), path)
    return _message(schema, schema.message(kind), data, path)


def enum_name(schema: Schema, kind: str, value: str | int, path: str) -> str:
    """The name of an enum's value. Raises `InvalidInput` for one that is not known."""
    values = schema.enums[kind]
    if value in values:
        return str(value)
    for name, number in values.items():
        if value in (number, str(number)):
            return name
    raise InvalidInput(path, f"must be one of {', '.join(values)}")


def check_moment(at: int, path: str) -> int:
    """A moment between the years 1970 and 9999."""
    if not 0 <= at < 253_402_300_800_000_000:
        raise InvalidInput(path, "must be a moment between the years 1970 and 9999")
    return at


def _as(data: bytes, kind: Any, path: str, what: str) -> Any:
    try:
        return _decode(data, type=kind)
    except msgspec.ValidationError:
        raise InvalidInput(path, f"must be {what}") from None


def _text(data: bytes, path: str) -> str:
    text: str = _as(data, str, path, "text")
    return text


def _truth(data: bytes, path: str) -> bool:
    return bool(_as(data, bool, path, "true or false"))


def _double(data: bytes, path: str) -> float:
    value = _as(data, float | str, path, "a number")
    try:
        number = float(value)
    except ValueError:
        raise InvalidInput(path, "must be a number") from None
    if not abs(number) < float("inf"):
        raise InvalidInput(path, "must be a finite number")
    return number


def _integer(kind: str) -> Callable[[bytes, str], int]:
    low, high = RANGES[kind]

    def decode(data: bytes, path: str) -> int:
        value = _as(data, int | float | str, path, "a whole number")
        try:
            number = int(value)
        except (ValueError, OverflowError):
            raise InvalidInput(path, "must be a whole number") from None
        if isinstance(value, float) and value != number:
            raise InvalidInput(path, "must be a whole number")
        if not low <= number <= high:
            raise InvalidInput(path, f"must be between {low} and {high}")
        return number

    return decode


def _bytes(data: bytes, path: str) -> bytes:
    text = _as(data, str, path, "base64").rstrip("=")
    try:
        return base64.b64decode(
            text.translate(str.maketrans("-_", "+/")) + "=" * (-len(text) % 4), validate=True
        )
    except (binascii.Error, ValueError):
        raise InvalidInput(path, "must be base64") from None


_SCALARS: dict[str, Callable[[bytes, str], Any]] = {
    "string": _text,
    "bool": _truth,
    "bytes": _bytes,
    "double": _double,
    **{kind: _integer(kind) for kind in RANGES},
}


# -- encoding -------------------------------------------------------------------------------------


def _shown(schema: Schema, message: Message, plain: Mapping[str, Any]) -> Plain:
    shown: Plain = {}
    for key, value in plain.items():
        field = message.by_name[key]
        if value is None:
            continue
        if field.repeated:
            shown[key] = [_show(schema, field, item) for item in value]
        elif field.is_map:
            shown[key] = {k: _show(schema, field, item) for k, item in value.items()}
        else:
            shown[key] = _show(schema, field, value)
    return shown


def _show(schema: Schema, field: Field, value: Any) -> Any:
    match field.kind:
        case "int64" | "uint64":
            return str(value)
        case "bytes":
            return base64.b64encode(value).decode()
        case "google.protobuf.Timestamp":
            return to_rfc3339(value)
        case kind if kind in schema.messages:
            return _shown(schema, schema.messages[kind], value)
        case _:
            return value
