"""Values held against JSON Schema: what flow parameters and typed inputs are described with.

The keywords that say something of a value's shape are understood; the others (formats, titles) say
nothing. References stay within the schema. Patterns are those of `ironflow.core.expressions.regex`,
which a hostile one cannot hold up.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from ironflow.core.errors import InvalidInput
from ironflow.core.expressions.regex import Regex, RegexError

MOST_STEPS = 10_000
"""Subschemas that are held against one value: more is refused, so that none takes for ever."""
TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "integer": lambda value: (
        not isinstance(value, bool)
        and (isinstance(value, int) or (isinstance(value, float) and value.is_integer()))
    ),
}

Path = tuple[str | int, ...]


class Mismatch(NamedTuple):
    """Where a value does not fit, and why in words."""

    path: Path
    text: str


def find_mismatches(schema: Any, value: Any) -> list[Mismatch]:
    """Everything about a value that does not fit a schema. Raises `InvalidInput` for a schema that
    is none."""
    try:
        return list(_Checker(schema).check(schema, value, ()))
    except RecursionError as error:
        raise InvalidInput("schema", "refers to itself for ever") from error


class _Checker:
    def __init__(self, root: Any) -> None:
        self.root, self.steps = root, 0

    def check(self, schema: Any, value: Any, path: Path) -> Iterator[Mismatch]:
        """What does not fit."""
        self.steps += 1
        if self.steps > MOST_STEPS:
            raise InvalidInput("schema", f"takes more than {MOST_STEPS} steps")
        if schema is True or schema == {}:
            return
        if schema is False:
            yield Mismatch(path, f"{_show(value)} is not allowed here")
            return
        if not isinstance(schema, dict):
            raise InvalidInput("schema", f"{_show(schema)} is not a schema")
        if "$ref" in schema:
            yield from self.check(self.resolve(schema["$ref"]), value, path)
        yield from self.check_kind(schema, value, path)
        yield from self.check_combinations(schema, value, path)
        if isinstance(value, dict):
            yield from self.check_object(schema, value, path)
        elif isinstance(value, list):
            yield from self.check_array(schema, value, path)
        elif isinstance(value, str):
            yield from _check_string(schema, value, path)
        elif TYPES["number"](value):
            yield from _check_number(schema, value, path)

    def fits(self, schema: Any, value: Any) -> bool:
        """Whether nothing is wrong."""
        return next(self.check(schema, value, ()), None) is None

    def resolve(self, reference: Any) -> Any:
        """The schema that a local reference names."""
        if not isinstance(reference, str) or not reference.startswith("#"):
            raise InvalidInput("schema", f"{_show(reference)} is not a reference within the schema")
        found = self.root
        for part in reference[1:].split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(found, dict) or name not in found:
                raise InvalidInput("schema", f"{_show(reference)} names nothing in the schema")
            found = found[name]
        return found

    def check_kind(self, schema: dict[str, Any], value: Any, path: Path) -> Iterator[Mismatch]:
        kinds = schema.get("type")
        if kinds is not None:
            names = kinds if isinstance(kinds, list) else [kinds]
            unknown = [n for n in names if not isinstance(n, str) or n not in TYPES]
            if unknown:
                raise InvalidInput("schema", f"{_show(unknown[0])} is not a type")
            if not any(TYPES[name](value) for name in names):
                wanted = ", ".join(map(repr, names))
                yield Mismatch(path, f"{_show(value)} is not of type {wanted}")
        if "enum" in schema and not any(_same(value, one) for one in _list(schema, "enum")):
            yield Mismatch(path, f"{_show(value)} is not one of {schema['enum']!r:.200}")
        if "const" in schema and not _same(value, schema["const"]):
            yield Mismatch(path, f"{_show(schema['const'])} was expected")

    def check_combinations(
        self, schema: dict[str, Any], value: Any, path: Path
    ) -> Iterator[Mismatch]:
        for part in _list(schema, "allOf"):
            yield from self.check(part, value, path)
        text = f"{_show(value)} is not valid under any of the given schemas"
        if "anyOf" in schema and not any(self.fits(p, value) for p in _list(schema, "anyOf")):
            yield Mismatch(path, text)
        if "oneOf" in schema:
            fitting = sum(self.fits(part, value) for part in _list(schema, "oneOf"))
            if fitting == 0:
                yield Mismatch(path, text)
            elif fitting > 1:
                yield Mismatch(path, f"{_show(value)} is valid under each of several schemas")
        if "not" in schema and self.fits(schema["not"], value):
            yield Mismatch(path, f"{_show(value)} should not be valid under {schema['not']!r:.200}")
        if "if" in schema:
            branch = "then" if self.fits(schema["if"], value) else "else"
            if branch in schema:
                yield from self.check(schema[branch], value, path)

    def check_object(
        self, schema: dict[str, Any], value: dict[str, Any], path: Path
    ) -> Iterator[Mismatch]:
        properties = schema.get("properties", {})
        if not isinstance(properties, dict):
            raise InvalidInput("schema", "properties must be an object")
        for name in _list(schema, "required"):
            if name not in value:
                yield Mismatch((*path, str(name)), f"{name!r} is a required property")
        rest = schema.get("additionalProperties")
        for name, inner in value.items():
            if name in properties:
                yield from self.check(properties[name], inner, (*path, name))
            elif rest is False:
                text = f"Additional properties are not allowed ({name!r} was unexpected)"
                yield Mismatch(path, text)
            elif rest is not None:
                yield from self.check(rest, inner, (*path, name))
        yield from _check_size(schema, value, path, "Properties", "properties")

    def check_array(
        self, schema: dict[str, Any], value: list[Any], path: Path
    ) -> Iterator[Mismatch]:
        first = _list(schema, "prefixItems")
        for number, (part, inner) in enumerate(zip(first, value, strict=False)):
            yield from self.check(part, inner, (*path, number))
        if "items" in schema:
            for number, inner in enumerate(value[len(first) :], len(first)):
                yield from self.check(schema["items"], inner, (*path, number))
        if schema.get("uniqueItems") is True and any(
            _same(one, other) for n, one in enumerate(value[:500]) for other in value[:n]
        ):
            yield Mismatch(path, f"{_show(value)} has non-unique elements")
        yield from _check_size(schema, value, path, "Items", "items")


def _check_size(
    schema: dict[str, Any], value: Any, path: Path, keyword: str, what: str
) -> Iterator[Mismatch]:
    least, most = _number(schema, f"min{keyword}"), _number(schema, f"max{keyword}")
    if least is not None and len(value) < least:
        yield Mismatch(path, f"{_show(value)} has fewer {what} than {least}")
    if most is not None and len(value) > most:
        yield Mismatch(path, f"{_show(value)} has more {what} than {most}")


def _check_string(schema: dict[str, Any], value: str, path: Path) -> Iterator[Mismatch]:
    least, most = _number(schema, "minLength"), _number(schema, "maxLength")
    if least is not None and len(value) < least:
        yield Mismatch(path, f"{_show(value)} is too short")
    if most is not None and len(value) > most:
        yield Mismatch(path, f"{_show(value)} is too long")
    if "pattern" in schema:
        pattern = schema["pattern"]
        if not isinstance(pattern, str):
            raise InvalidInput("schema", "a pattern must be a string")
        try:
            found = Regex(pattern).search(value)
        except RegexError as error:
            raise InvalidInput("schema", f"{pattern!r:.200} is not a pattern: {error}") from error
        if not found:
            yield Mismatch(path, f"{_show(value)} does not match {pattern!r:.200}")


def _check_number(schema: dict[str, Any], value: float, path: Path) -> Iterator[Mismatch]:
    for keyword, (wrong, words) in _BOUNDS.items():
        bound = _number(schema, keyword)
        if bound is not None and wrong(value, bound):
            yield Mismatch(path, f"{_show(value)} is {words} {bound}")


_BOUNDS: dict[str, tuple[Callable[[float, float], bool], str]] = {
    "minimum": (operator.lt, "less than the minimum of"),
    "maximum": (operator.gt, "greater than the maximum of"),
    "exclusiveMinimum": (operator.le, "less than or equal to the minimum of"),
    "exclusiveMaximum": (operator.ge, "greater than or equal to the maximum of"),
    "multipleOf": (lambda value, bound: bound > 0 and value % bound != 0, "not a multiple of"),
}


def _number(schema: dict[str, Any], keyword: str) -> float | None:
    bound = schema.get(keyword)
    if bound is None:
        return None
    if not TYPES["number"](bound):
        raise InvalidInput("schema", f"{keyword} must be a number")
    found: float = bound
    return found


def _list(schema: dict[str, Any], keyword: str) -> list[Any]:
    found = schema.get(keyword, [])
    if not isinstance(found, list):
        raise InvalidInput("schema", f"{keyword} must be a list")
    return found


def _same(one: Any, other: Any) -> bool:
    """Equality of JSON values: true is not 1."""
    numbers = TYPES["number"](one) and TYPES["number"](other)
    return (numbers or type(one) is type(other)) and bool(one == other)


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:197]}..."
