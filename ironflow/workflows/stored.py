"""Values of the store as JSON trees, and back.

Beside what `ironflow.core.values.codec` keeps: sets, events, and components, as LlamaIndex calls
objects that turn themselves into dictionaries (the memory of an agent, a document store). Events
and components stand as LlamaIndex writes them into contexts. A mapping of the user's that looks
like one is marked as such, for what is read here is built without asking.
"""

from __future__ import annotations

from typing import Any

import msgspec
from pydantic import BaseModel

from ironflow.core.errors import NotSerializable
from ironflow.core.values.codec import decode_value, encode_value
from ironflow.workflows.codec import MODEL, OPAQUE, Keeper, find_class, tag_event, untag
from ironflow.workflows.vocabulary import by_class, is_event, wire_name

COMPONENT = "__is_component"
FIELDS = "__has_fields"
"""A component that is a model and could not say itself what it is: its fields."""
MAPPING = "__is_mapping"
"""The key of a mapping that must not be taken for something else."""
SET = "$set"
_MARKS = (MODEL, COMPONENT, FIELDS, MAPPING, SET)


@by_class
def makes_components(kind: type) -> bool:
    """Whether objects of a class turn themselves into dictionaries, and are made from them."""
    names = ("class_name", "to_dict", "from_dict")
    return all(callable(getattr(kind, name, None)) for name in names)


def encode_stored(value: object, where: str, keeper: Keeper | None = None) -> Any:
    """A value of the store as a JSON tree. Raises `NotSerializable` without a `keeper`."""
    kind = type(value)
    if value is None or kind in (bool, int) or (kind is str and value.isascii()):  # type: ignore[attr-defined]
        return value
    try:
        return msgspec.json.decode(encode_value(_mark(value), where))
    except Exception as error:
        if keeper is not None:
            return keeper.keep_stored(value)
        if isinstance(error, NotSerializable):
            raise
        said = f"{type(error).__name__}: {error}"
        raise NotSerializable(where, "$", kind.__name__, said) from error


def decode_stored(tree: Any, keeper: Keeper | None = None) -> Any:
    """The value of a JSON tree."""
    if tree is None or type(tree) in (str, bool, int, float):
        return tree
    if type(tree) is dict and OPAQUE in tree and keeper is not None:
        return keeper.find(tree)
    return _unmark(decode_value(msgspec.json.encode(tree)))


def names_classes(tree: Any) -> bool:
    """Whether something in a tree would be built as an object of a class."""
    if type(tree) is dict:
        named = any(mark in tree for mark in (MODEL, COMPONENT, FIELDS, "$type", "$enum"))
        return named or any(names_classes(each) for each in tree.values())
    return type(tree) is list and any(names_classes(each) for each in tree)


def _mark(value: Any) -> Any:
    kind = type(value)
    if is_event(value):
        return tag_event(value)
    if makes_components(kind):
        return _tag_component(value)
    if kind is dict:
        marked = {key: _mark(each) for key, each in value.items()}
        return {MAPPING: marked} if any(mark in value for mark in _MARKS) else marked
    if kind in (list, tuple):
        return [_mark(each) for each in value]
    if kind in (set, frozenset):
        return {SET: [_mark(each) for each in sorted(value, key=repr)]}
    return value


def _tag_component(value: Any) -> dict[str, Any]:
    kind: Any = type(value)
    try:
        mark, given = COMPONENT, value.to_dict()
    except Exception:
        # Such as the memory of LlamaIndex's agents with newer versions of pydantic.
        if not isinstance(value, BaseModel):
            raise
        names = [name for name, field in kind.model_fields.items() if not field.exclude]
        mark, given = FIELDS, {name: getattr(value, name) for name in names}
    return {mark: True, "value": _mark(given), "qualified_name": wire_name(kind)}


def _unmark(value: Any) -> Any:
    if type(value) is dict:
        if "qualified_name" in value:
            if value.get(MODEL):
                return untag(value)
            if value.get(COMPONENT) or value.get(FIELDS):
                return _make_component(value)
        if len(value) == 1:
            if type(value.get(SET)) is list:
                return set(map(_unmark, value[SET]))
            value = value.get(MAPPING, value)
        return {key: _unmark(each) for key, each in value.items()}
    if type(value) is list:
        return [_unmark(each) for each in value]
    return value


def _make_component(tagged: dict[str, Any]) -> Any:
    name = tagged["qualified_name"]
    kind: Any = find_class(name)
    if kind is None or not makes_components(kind):
        raise LookupError(f"the class {name} of a stored component is not known here")
    given = _unmark(tagged["value"])
    return kind.from_dict(given) if COMPONENT in tagged else kind.model_validate(given)
