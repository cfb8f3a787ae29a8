"""Messages as binary protobuf, over classes made from `ironflow.proto`. The library is loaded when
the first of them comes: most servers never see one.

Numbers of a user's value are doubles in protobuf: whole ones beyond 2^53 lose digits, which JSON
keeps.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import msgspec
from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    empty_pb2,
    message_factory,
    struct_pb2,
    timestamp_pb2,
)
from google.protobuf.message import DecodeError, EncodeError
from google.protobuf.message import Message as Proto

from ironflow.core.errors import InvalidInput, IronflowError
from ironflow.core.values.json_text import keep_json
from ironflow.web.connect.json_codec import Plain, check_moment, enum_name
from ironflow.web.connect.schema import (
    SCALARS,
    STRUCT,
    TIMESTAMP,
    VALUE,
    WELL_KNOWN,
    Field,
    Message,
    Schema,
)
from ironflow.web.problems import Malformed

FILE = "ironflow/v1/ironflow.proto"
EXACT = 2**53
"""Whole numbers up to here are the same as a double."""

_Type = descriptor_pb2.FieldDescriptorProto
_OPTIONAL, _REPEATED = _Type.LABEL_OPTIONAL, _Type.LABEL_REPEATED


class TooDeep(IronflowError):
    """A value is nested too deeply for protobuf; ask for JSON."""

    code = "out_of_range"
    status = 400


def decode_proto(schema: Schema, name: str, data: bytes) -> Plain:
    """The message `name` from protobuf. Raises `Malformed`, `InvalidInput` naming the field."""
    message = message_class(name)()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise Malformed(f"the body is not a {name} in protobuf: {error}") from error
    return _plain(schema, schema.message(name), message, "")


def encode_proto(schema: Schema, name: str, plain: Mapping[str, Any]) -> bytes:
    """The message `name` as protobuf. Raises `TooDeep`."""
    message = message_class(name)()
    _fill(schema, schema.message(name), message, plain)
    try:
        return message.SerializeToString()
    except (EncodeError, RecursionError) as error:
        raise TooDeep from error


# -- classes --------------------------------------------------------------------------------------


@cache
def message_class(name: str) -> type[Proto]:
    """The class of a message of the file."""
    full = name if name in WELL_KNOWN else f"ironflow.v1.{name}"
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(full))


@cache
def _pool() -> descriptor_pool.DescriptorPool:
    from ironflow.web.connect.schema import schema

    pool = descriptor_pool.DescriptorPool()
    known = (struct_pb2, timestamp_pb2, empty_pb2)
    for module in known:
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    pool.Add(file_descriptor(schema(), [module.DESCRIPTOR.name for module in known]))
    return pool


def file_descriptor(schema: Schema, imports: list[str]) -> descriptor_pb2.FileDescriptorProto:
    """The file's messages and enums, as protobuf describes them."""
    file = descriptor_pb2.FileDescriptorProto(
        name=FILE, package=schema.package, syntax="proto3", dependency=imports
    )
    for name, values in schema.enums.items():
        enum = file.enum_type.add(name=name)
        for value, number in values.items():
            enum.value.add(name=value, number=number)
    for message in schema.messages.values():
        described = file.message_type.add(name=message.name)
        for field in message.fields:
            _describe(schema, field, described)
    return file


def _describe(schema: Schema, field: Field, message: descriptor_pb2.DescriptorProto) -> None:
    described = message.field.add(
        name=field.name,
        json_name=field.json_name,
        number=field.number,
        label=_REPEATED if field.repeated or field.is_map else _OPTIONAL,
    )
    target = described
    if field.is_map:
        entry_name = "".join(part.capitalize() for part in field.name.split("_")) + "Entry"
        entry = message.nested_type.add(name=entry_name)
        entry.options.map_entry = True
        entry.field.add(name="key", number=1, label=_OPTIONAL, type=_Type.TYPE_STRING)
        target = entry.field.add(name="value", number=2, label=_OPTIONAL)
        described.type = _Type.TYPE_MESSAGE
        described.type_name = f".{schema.package}.{message.name}.{entry_name}"
    if field.kind in SCALARS:
        target.type = _Type.Type.Value(f"TYPE_{field.kind.upper()}")
    else:
        is_enum = field.kind in schema.enums
        target.type = _Type.TYPE_ENUM if is_enum else _Type.TYPE_MESSAGE
        known = field.kind in WELL_KNOWN
        target.type_name = f".{field.kind}" if known else f".{schema.package}.{field.kind}"
    if field.optional:
        described.proto3_optional = True
        described.oneof_index = len(message.oneof_decl)
        message.oneof_decl.add(name=f"_{field.name}")


# -- decoding -------------------------------------------------------------------------------------


def _plain(schema: Schema, message: Message, proto: Any, path: str) -> Plain:
    plain: Plain = {}
    for descriptor, value in proto.ListFields():
        field = message.by_name[descriptor.name]
        key = field.json_name
        where = f"{path}.{key}" if path else key
        if field.is_map:
            plain[key] = {k: _value(schema, field, value[k], f"{where}.{k}") for k in value}
        elif field.repeated:
            plain[key] = [_value(schema, field, v, f"{where}[{i}]") for i, v in enumerate(value)]
        else:
            plain[key] = _value(schema, field, value, where)
    return plain


def _value(schema: Schema, field: Field, value: Any, path: str) -> Any:
    kind = field.kind
    if kind in SCALARS:
        if kind == "double" and not abs(value) < float("inf"):
            raise InvalidInput(path, "must be a finite number")
        return value
    if kind == TIMESTAMP:
        if not 0 <= value.nanos < 10**9:
            raise InvalidInput(path, "has nanoseconds that are none")
        return check_moment(value.seconds * 10**6 + value.nanos // 1000, path)
    if kind in (STRUCT, VALUE):
        thing = _members(value, path) if kind == STRUCT else _json(value, path)
        return msgspec.Raw(keep_json(msgspec.Raw(msgspec.json.encode(thing)), path))
    if kind in schema.enums:
        return enum_name(schema, kind, value, path)
    return _plain(schema, schema.message(kind), value, path)


def _members(struct: Any, path: str) -> dict[str, Any]:
    return {key: _json(value, path) for key, value in struct.fields.items()}


def _json(value: Any, path: str) -> Any:
    match value.WhichOneof("kind"):
        case "number_value":
            number = value.number_value
            if not abs(number) < float("inf"):
                raise InvalidInput(path, "has a number that JSON cannot hold")
            return int(number) if abs(number) <= EXACT and number == int(number) else number
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "struct_value":
            return _members(value.struct_value, path)
        case "list_value":
            return [_json(item, path) for item in value.list_value.values]
        case _:
            return None


# -- encoding -------------------------------------------------------------------------------------


def _fill(schema: Schema, message: Message, proto: Any, plain: Mapping[str, Any]) -> None:
    for key, value in plain.items():
        field = message.by_name[key]
        if value is None:
            continue
        if field.is_map:
            entries = getattr(proto, field.name)
            for name, item in value.items():
                if field.kind in SCALARS:
                    entries[name] = item
                else:
                    _put(schema, field, entries[name], item)
        elif field.repeated:
            items = getattr(proto, field.name)
            if field.kind in SCALARS:
                items.extend(value)
            elif field.kind in schema.enums:
                items.extend([schema.enums[field.kind][item] for item in value])
            else:
                for item in value:
                    _put(schema, field, items.add(), item)
        elif field.kind in SCALARS:
            setattr(proto, field.name, value)
        elif field.kind in schema.enums:
            setattr(proto, field.name, schema.enums[field.kind][value])
        else:
            target = getattr(proto, field.name)
            target.SetInParent()
            _put(schema, field, target, value)


def _put(schema: Schema, field: Field, proto: Any, value: Any) -> None:
    match field.kind:
        case "google.protobuf.Timestamp":
            proto.seconds, micros = divmod(value, 10**6)
            proto.nanos = micros * 1000
        case "google.protobuf.Struct":
            _fill_struct(proto, msgspec.json.decode(msgspec.json.encode(value)))
        case "google.protobuf.Value":
            _fill_value(proto, msgspec.json.decode(msgspec.json.encode(value)))
        case kind:
            _fill(schema, schema.message(kind), proto, value)


def _fill_struct(struct: Any, members: Mapping[str, Any]) -> None:
    for key, item in members.items():
        _fill_value(struct.fields[key], item)


def _fill_value(proto: Any, value: Any) -> None:
    match value:
        case None:
            proto.null_value = 0
        case bool():
            proto.bool_value = value
        case int() | float():
            try:
                proto.number_value = float(value)
            except OverflowError:
                proto.string_value = str(value)  # no double is near it
        case str():
            proto.string_value = value
        case dict():
            proto.struct_value.SetInParent()
            _fill_struct(proto.struct_value, value)
        case list():
            proto.list_value.SetInParent()
            for item in value:
                _fill_value(proto.list_value.values.add(), item)
        case _:
            raise TypeError(f"{type(value)} is not JSON")
