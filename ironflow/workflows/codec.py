"""Events and values as the journal has them, and back.

An event is stored as its fields (`model_dump` in JSON mode), a value of the store as the values of
steps are (`ironflow.core.values.codec`), which keeps dates, UUIDs, dataclasses and models. What has
no such form is refused with `NotSerializable` naming the place; a runtime without a database may
keep the object itself.
"""

from __future__ import annotations

import hashlib
import importlib
import re
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec
from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from ironflow.core.errors import NotSerializable
from ironflow.core.values.payloads import Payload, pack
from ironflow.core.workflows.stream import envelope
from ironflow.workflows import events
from ironflow.workflows.plain import encode_plain, undeclared
from ironflow.workflows.vocabulary import ancestors, is_step_failed, is_stop, wire_name

_encode = msgspec.json.Encoder().encode
_MODEL_DUMP: Any = BaseModel.model_dump

MODEL = "__is_pydantic"
OPAQUE = "$object"
"""Stands for an object that has no stored form, in a runtime that keeps objects."""

_NUMBER = re.compile(rb',"index":\d+\}')
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def event_value(event: Any) -> Any:
    """The fields of an event as JSON values. Raises `NotSerializable`."""
    kind = type(event)
    if is_step_failed(kind):
        return {
            "step_name": event.step_name,
            "input_event": tag_event(event.input_event),
            "exception": events.describe_exception(event.exception),
            "attempts": event.attempts,
            "elapsed_seconds": event.elapsed_seconds,
            "failed_at": event.failed_at.isoformat(),
        }
    try:
        if kind.model_dump is _MODEL_DUMP:  # without the dozen options of pydantic's own method
            value = kind.__pydantic_serializer__.to_python(event, mode="json")
        else:
            value = event.model_dump(mode="json")
        if is_stop(kind) and event._result is not None and "result" not in value:
            # LlamaIndex's before 2.8 does not say it.
            value["result"] = to_jsonable_python(event._result)
        return value
    except Exception as error:
        try:
            return _fields_of(event)
        except Exception:  # noqa: BLE001 - the first one says what is wrong
            place = _culprit(event)
        raise NotSerializable(kind.__name__, place, kind.__name__, str(error)) from error


def _fields_of(event: Any) -> dict[str, Any]:
    """The fields of an event without the serializer of its class: that of LlamaIndex's agents
    asks for fields which need not be there.
    """
    found = {name: getattr(event, name) for name in type(event).model_fields}
    value: dict[str, Any] = to_jsonable_python(found)
    if extra := undeclared(event):
        value["_data"] = to_jsonable_python(extra)
    return value


def _culprit(event: Any) -> str:
    """The first field of an event that has no JSON form."""
    fields = {name: getattr(event, name, None) for name in type(event).model_fields}
    fields |= dict(getattr(event, "_data", {}) or {})
    fields["result"] = getattr(event, "_result", None)
    for name, value in fields.items():
        try:
            dumped = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
            msgspec.json.encode(dumped)
        except Exception:  # noqa: BLE001 - it is being looked for
            return f"$.{name}"
    return "$"


class Keeper:
    """Objects that have no stored form, or are more than theirs, held by a runtime without a
    database. A run has one, and hands it on to the run that goes on with its store.
    """

    def __init__(self) -> None:
        self._objects: list[Any] = []
        self._indexes: dict[int, int] = {}
        self._only: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self._objects)

    def keep(self, value: Any, text: str | None = None) -> dict[str, Any]:
        """Hold an object; the mark that stands for it, with its text for whoever reads that."""
        index = self._indexes.setdefault(id(value), len(self._objects))
        if index == len(self._objects):
            self._objects.append(value)
        if text is None:
            text = _ADDRESS.sub("", repr(value))[:200]
        return {OPAQUE: text, "index": index}

    def keep_stored(self, value: Any) -> dict[str, Any]:
        """Hold a value of the store; what it has that is no data is never copied."""
        self._note(value)
        return self.keep(value)

    def _note(self, value: Any) -> None:
        if isinstance(value, dict | list | tuple | set | frozenset):
            for each in value.values() if isinstance(value, dict) else value:
                self._note(each)
        elif not isinstance(value, str | bytes | int | float | BaseModel | None):
            self._only[id(value)] = value

    def only(self) -> dict[int, Any]:
        """The objects of the store that are one of their kind, as `copy.deepcopy` takes them."""
        return dict(self._only)

    def find(self, mark: Any) -> Any:
        """The object of a mark."""
        return self._objects[mark["index"]]

    @staticmethod
    def unnumbered(text: bytes) -> bytes:
        """What a step says again when it is executed again, with objects that are new but alike."""
        return _NUMBER.sub(b"}", text) if b'"$object"' in text else text


def encode_fields(event: Any, keeper: Keeper | None = None) -> bytes:
    """The fields of an event as JSON.

    An event without a stored form, or one whose stored form would come back as another (a model in
    a field of type `Any`), goes to the `keeper`. Raises `NotSerializable` without one for the first
    kind.
    """
    plain = encode_plain(event)
    if plain is not None:
        return plain
    kind = type(event)
    try:
        data = _encode(event_value(event))
        if keeper is None or _comes_back(event, data):
            return data
        return _encode(keeper.keep(event, data.decode()))
    except (NotSerializable, TypeError, ValueError, UnicodeEncodeError) as error:
        if keeper is None:
            if isinstance(error, NotSerializable):
                raise
            place = _culprit(event)
            raise NotSerializable(kind.__name__, place, kind.__name__, str(error)) from error
        return _encode(keeper.keep(event))


def _comes_back(event: Any, data: bytes) -> bool:
    """Whether the event that is read from its stored form is the same."""
    try:
        return bool(decode_event(type(event), data) == event)
    except Exception:  # noqa: BLE001 - arrays that compare to arrays, validators that refuse
        return False


def encode_event(event: Any, keeper: Keeper | None = None) -> bytes:
    """An event as clients get it: its envelope. Raises what `encode_fields` does."""
    kind = type(event)
    types = list(ancestors(kind)) or None
    data = msgspec.Raw(encode_fields(event, keeper))
    return envelope(data, wire_name(kind), kind.__name__, types)


def tag_event(event: Any) -> dict[str, Any]:
    """An event inside another value."""
    return {MODEL: True, "value": event_value(event), "qualified_name": wire_name(type(event))}


def digest(*parts: str | bytes) -> str:
    """A short mark by which the same effect is recognised."""
    hashed = hashlib.blake2b(digest_size=8)
    for part in parts:
        hashed.update(part.encode() if isinstance(part, str) else part)
        hashed.update(b"\0")
    return hashed.hexdigest()


def decode_event(
    kind: type,
    data: bytes,
    keeper: Keeper | None = None,
    typed: Mapping[str, Any] = MappingProxyType({}),
) -> Any:
    """The event of a class with these fields, of which those in `typed` are values already. Raises
    `pydantic.ValidationError`.
    """
    value = msgspec.json.decode(data)
    if type(value) is not dict:
        return kind.model_validate(value)  # type: ignore[attr-defined]
    if keeper is not None and OPAQUE in value:
        return keeper.find(value)
    if is_step_failed(kind):
        value["input_event"] = untag(value["input_event"])
        value["exception"] = build_exception(value["exception"])
    for name, each in typed.items():
        place = value["_data"] if name in value.get("_data", ()) else value
        place[name] = each
    return kind(**value)  # as `model_validate` would call it, at half the price


def untag(value: Any) -> Any:
    """A tagged model as an instance of its class."""
    if isinstance(value, dict) and value.get(MODEL):
        kind = find_class(value["qualified_name"])
        if kind is None:
            return events.Event(**value["value"])
        return kind.model_validate(value["value"])  # type: ignore[attr-defined]
    return value


def find_class(name: str) -> type | None:
    """The class of a full name, if its module can be imported."""
    module_name, _, class_name = name.rpartition(".")
    if module_name == "workflows.events" and module_name not in sys.modules:
        module_name = events.__name__
    try:
        module = sys.modules.get(module_name) or importlib.import_module(module_name)
    except ImportError:
        return None
    kind = getattr(module, class_name, None)
    return kind if isinstance(kind, type) else None


def build_exception(facts: dict[str, str]) -> Exception:
    """An exception that says what the original said, of its class if that can be built."""
    find_class(facts["exception_type"])  # its module is imported, if it is not yet
    return events.restore_exception(facts)


def payload_of(data: bytes, blobs: dict[str, bytes]) -> Payload:
    """JSON text as a payload; what is too large goes into `blobs`."""
    payload, blob = pack(data)
    if blob is not None:
        blobs[payload.blob or ""] = blob
    return payload
