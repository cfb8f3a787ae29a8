"""Names of things: `irn:ironflow:{organization}:{project}:{type}:{environment}:{id}`. Pure.

In a pattern `*` stands for any characters of a segment, none among them: `*` matches every id,
`order.*` those that begin with `order.`. An id may contain colons; no other segment may.
"""

from __future__ import annotations

from typing import NamedTuple

from ironflow.core.errors import InvalidInput

PREFIX = "irn:ironflow"
TYPES = (
    "function", "run", "event", "worker", "lane", "breaker", "apikey", "server", "org", "project",
    "environment", "role", "policy", "stream", "projection", "secret", "user",
)  # fmt: skip
SEGMENTS = ("organization", "project", "type", "environment", "id")
MAX_LENGTH = 2000


class Irn(NamedTuple):
    """A name, or a pattern of names."""

    organization: str
    project: str
    type: str
    environment: str
    id: str

    def __str__(self) -> str:
        return ":".join((PREFIX, *self))


def parse_irn(text: str, field: str = "resource", *, pattern: bool = False) -> Irn:
    """The name in a text. Raises `InvalidInput` that says which segment is wrong."""
    if len(text) > MAX_LENGTH:
        raise InvalidInput(field, f"is longer than {MAX_LENGTH} characters")
    parts = text.split(":", 6)
    if parts[:2] != ["irn", "ironflow"]:
        raise InvalidInput(field, f"{text!r:.100} must begin with {PREFIX}:")
    if len(parts) != 7:
        missing = SEGMENTS[len(parts) - 2]
        raise InvalidInput(field, f"{text!r:.100} has no {missing}: {_shape()}")
    for name, part in zip(SEGMENTS, parts[2:], strict=True):
        if not part:
            raise InvalidInput(field, f"the {name} of {text!r:.100} is empty")
        if not part.isprintable() or (" " in part and name != "id"):
            raise InvalidInput(field, f"the {name} {part!r:.100} has characters that cannot be")
        if "*" in part and not pattern:
            raise InvalidInput(field, f"the {name} {part!r:.100} is a pattern; name one thing")
    if parts[4] not in TYPES and "*" not in parts[4]:
        raise InvalidInput(field, f"there is no type {parts[4]!r:.100}; known: {', '.join(TYPES)}")
    return Irn(*parts[2:])


def _shape() -> str:
    return f"write {PREFIX}:{':'.join(f'{{{name}}}' for name in SEGMENTS)}"


def matches(pattern: Irn, name: Irn) -> bool:
    """Whether every segment fits."""
    return all(glob(one, text) for one, text in zip(pattern, name, strict=True))


def glob(pattern: str, text: str) -> bool:
    """Whether a text fits a pattern with `*`. Linear in the text, whatever the pattern."""
    if "*" not in pattern:
        return pattern == text
    first, *middle, last = pattern.split("*")
    if not text.startswith(first) or len(text) < len(first) + len(last):
        return False
    if not text.endswith(last):
        return False
    place, end = len(first), len(text) - len(last)
    for part in middle:
        found = text.find(part, place, end)
        if found < 0:
            return False
        place = found + len(part)
    return True
