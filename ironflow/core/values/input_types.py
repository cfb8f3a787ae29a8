"""Input from outside as the type that a function declares, and that type's JSON Schema.

The type may be anything that msgspec reads (dataclasses, structs, TypedDicts, `list[Order]`, `int`,
UUIDs, datetimes) or a pydantic model, also inside the others. No type, or `Any`, takes JSON as it
is. pydantic is optional and never imported here.
"""

from __future__ import annotations

import inspect
import re
import sys
from typing import Any

import msgspec

from ironflow.core.errors import InvalidInput
from ironflow.core.values.types import is_model

_ANYTHING = (None, Any, object, inspect.Parameter.empty)
_PLACE = re.compile(r"(.*?)(?: - at `(?:key in )?\$(.*)`)?", re.DOTALL)


def convert_input(data: bytes | str, kind: Any = None, field: str = "input") -> object:
    """JSON as the declared type.

    Raises `InvalidInput` whose field is the place, like `input.items[0].qty`.
    """
    try:
        if _is_anything(kind):
            return msgspec.json.decode(data)
        if isinstance(kind, type) and is_model(kind):
            return kind.model_validate_json(data)  # type: ignore[attr-defined]
        return msgspec.json.decode(data, type=kind, dec_hook=_decode_model)
    except InvalidInput:
        raise
    except Exception as error:
        raise _describe(error, kind, field) from error


def _is_anything(kind: Any) -> bool:
    return any(kind is each for each in _ANYTHING)


def _decode_model(kind: type, value: object) -> object:
    if is_model(kind):
        return kind.model_validate(value)  # type: ignore[attr-defined]
    raise TypeError(f"{kind.__qualname__} cannot be read from JSON")


def _describe(error: Exception, kind: Any, field: str) -> InvalidInput:
    if isinstance(error, msgspec.ValidationError):
        cause = error.__cause__
        found = _PLACE.fullmatch(str(error))
        reason, place = (found[1], found[2] or "") if found else (str(error), "")
        if cause is not None and _is_pydantic(cause):
            return _describe_pydantic(cause, field + place)
        return InvalidInput(field + place, reason)
    if isinstance(error, msgspec.DecodeError | UnicodeError | RecursionError):
        return InvalidInput(field, f"is not JSON: {error}")
    if _is_pydantic(error):
        return _describe_pydantic(error, field)
    name = getattr(kind, "__qualname__", str(kind))
    return InvalidInput(field, f"cannot become {name}: {type(error).__name__}: {error}")


def _is_pydantic(error: BaseException) -> bool:
    kind = getattr(sys.modules.get("pydantic_core"), "ValidationError", None)
    return isinstance(kind, type) and isinstance(error, kind)


def _describe_pydantic(error: Any, field: str) -> InvalidInput:
    """The first of the errors; how many more there are is said too."""
    errors = error.errors(include_url=False, include_input=False, include_context=False)
    first = errors[0]
    if first["type"] == "json_invalid":
        return InvalidInput(field, f"is not JSON: {first['msg']}")
    place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in first["loc"])
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return InvalidInput(field + place, first["msg"] + more)


def json_schema(kind: Any) -> dict[str, Any]:
    """The JSON Schema of a declared type, `{}` for anything.

    Raises `InvalidInput` for one that has none.
    """
    if _is_anything(kind):
        return {}
    definitions: dict[str, Any] = {}

    def model_schema(inner: type) -> dict[str, Any]:
        if not is_model(inner):
            raise TypeError(f"{inner.__qualname__} cannot be read from JSON")
        schema: dict[str, Any] = inner.model_json_schema()  # type: ignore[attr-defined]
        # References are from the root of the whole schema, so the definitions move there.
        definitions.update(schema.pop("$defs", {}))
        return schema

    try:
        if isinstance(kind, type) and is_model(kind):
            whole: dict[str, Any] = kind.model_json_schema()  # type: ignore[attr-defined]
        else:
            whole = msgspec.json.schema(kind, schema_hook=model_schema)
    except Exception as error:
        name = getattr(kind, "__qualname__", str(kind))
        raise InvalidInput("input", f"type {name} has no JSON Schema: {error}") from error
    if definitions:
        whole["$defs"] = {**definitions, **whole.get("$defs", {})}
    return whole
