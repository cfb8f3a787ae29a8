"""Values in events that JSON gives back as something else: a model in a field of type `Any`, a date
among undeclared ones. They are stored beside the event as the store has them, so that a step which
is executed again, in another process, gets what it got the first time.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin
from uuid import UUID

from pydantic import BaseModel

from ironflow.core.errors import NotSerializable, UnreadableValue
from ironflow.core.values.codec import is_plain
from ironflow.workflows.plain import undeclared
from ironflow.workflows.stored import decode_stored, encode_stored
from ironflow.workflows.vocabulary import by_class, is_step_failed

_FIRM = (
    str, int, float, bool, type(None), bytes, datetime, date, time, timedelta, Decimal, UUID,
)  # fmt: skip
_CONTAINERS = (list, tuple, set, frozenset, dict)
_SCALARS = {str, int, float, bool}
_OURS = {"_dump", "custom_model_dump"}
"""The serializers that events have from their base: ours, and LlamaIndex's."""


def typed_values(event: Any) -> dict[str, Any]:
    """By field the trees of the values that the class of an event does not say enough of. Those
    without a tree stay what JSON makes of them.
    """
    loose, extra = _loose_fields(type(event)), undeclared(event)
    if loose is None or not (loose or extra):
        return {}
    found: dict[str, Any] = {}
    for name, value in [*((name, getattr(event, name)) for name in loose), *extra.items()]:
        if is_plain(value):
            continue
        try:
            found[name] = encode_stored(value, name)
        except NotSerializable:
            continue
    return found


def restore_typed(trees: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the trees, but for those whose classes are not there any more."""
    found: dict[str, Any] = {}
    for name, tree in trees.items():
        try:
            found[name] = decode_stored(tree)
        except (UnreadableValue, LookupError, ValueError, TypeError):
            continue
    return found


@by_class
def _loose_fields(kind: Any) -> tuple[str, ...] | None:
    """The fields of a class whose declared types leave open what their values are; None for one
    that says itself what is stored of it.
    """
    found = kind.__pydantic_decorators__
    if is_step_failed(kind) or found.field_serializers or found.model_serializers.keys() - _OURS:
        return None
    fields = kind.model_fields.items()
    return tuple(n for n, f in fields if not (f.exclude or _is_firm(f.annotation, ())))


def _is_firm(annotation: Any, around: tuple[type, ...]) -> bool:
    """Whether a value of a declared type comes back from JSON as what it was; `around` are the
    models in whose fields it is looked at.
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return True
    if origin in (Union, types.UnionType):
        kinds = set(arguments) - {type(None)}
        # Of several that are written as text the first that fits is read.
        return kinds <= _SCALARS or (len(kinds) == 1 and _is_firm(kinds.pop(), around))
    if origin in _CONTAINERS:
        return all(each is ... or _is_firm(each, around) for each in arguments)
    if not isinstance(annotation, type):
        return False
    if annotation in _FIRM or issubclass(annotation, Enum) or annotation in around:
        return True
    if not issubclass(annotation, BaseModel) or hasattr(annotation, "_data"):
        return False
    within = (*around, annotation)
    return all(_is_firm(f.annotation, within) for f in annotation.model_fields.values())
