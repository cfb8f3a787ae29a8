"""Events whose class shows that they come back from their stored form as they went into it."""

from __future__ import annotations

import types
from typing import Any, Union, get_args, get_origin

import msgspec
from pydantic import BaseModel

from ironflow.workflows.events import Event
from ironflow.workflows.vocabulary import by_class

_encode = msgspec.json.Encoder().encode

_PLAIN = frozenset((str, int, bool, type(None)))
"""What JSON gives back as it was. Not floats: some have no JSON form."""
_DUMPS = [each.func for each in Event.__pydantic_decorators__.model_serializers.values()]
"""Ours, which a class may override under its name."""


def undeclared(event: Any) -> dict[str, Any]:
    """The further fields of an event, ours or LlamaIndex's; not by attribute, which asks pydantic
    three times.
    """
    private = event.__pydantic_private__
    found: dict[str, Any] = private["_data"] if private else {}
    return found


def encode_plain(event: Any) -> bytes | None:
    """The fields of an event as JSON, as pydantic would make it, if the event that is read from
    that is sure to be the same; else None.
    """
    fields, private = _plain_fields(type(event)), event.__pydantic_private__
    if fields is None or (private and private["_data"]):
        return None
    values = event.__dict__
    for name, value in values.items():
        if type(value) not in fields.get(name, ()):
            return None
    try:
        return _encode(values)
    except (OverflowError, UnicodeEncodeError):
        return None  # it has no JSON form: that is said elsewhere


@by_class
def _plain_fields(kind: type) -> dict[str, frozenset[type]] | None:
    """By field the types of which its value may be; None for a class that has anything in it which
    makes another value of a stored one, or may refuse it.
    """
    if not (
        issubclass(kind, Event)
        and kind.__init__ is Event.__init__
        and kind.__eq__ is BaseModel.__eq__
        and kind.model_dump is BaseModel.model_dump
        and _schema_of(kind) is _schema_of(BaseModel)
        and kind.model_config == Event.model_config
        and kind.__private_attributes__.keys() == {"_data"}
        and not _is_decorated(kind)
    ):
        return None
    fields = {name: _plain_types(field) for name, field in kind.model_fields.items()}
    return {n: t for n, t in fields.items() if t is not None} if all(fields.values()) else None


def _schema_of(kind: type[BaseModel]) -> Any:
    """What says what the values of a class are, and how they are written."""
    return getattr(kind.__get_pydantic_core_schema__, "__func__", None)


def _is_decorated(kind: type[Event]) -> bool:
    """Whether the class has validators, serializers or computed fields beside ours."""
    found = kind.__pydantic_decorators__
    others = (
        found.validators, found.field_validators, found.root_validators, found.field_serializers,
        found.model_validators, found.computed_fields,
    )  # fmt: skip
    dumps = [serializer.func for serializer in found.model_serializers.values()]
    return any(others) or dumps != _DUMPS


def _plain_types(field: Any) -> frozenset[type] | None:
    """The types that a field is declared with, if all are plain and nothing else is said of it."""
    said = (
        field.metadata, field.alias, field.validation_alias, field.serialization_alias,
        field.exclude, getattr(field, "exclude_if", None), field.discriminator,
    )  # fmt: skip
    if any(said):
        return None
    is_union = get_origin(field.annotation) in (Union, types.UnionType)
    kinds = frozenset(get_args(field.annotation) if is_union else (field.annotation,))
    return kinds if kinds <= _PLAIN else None
