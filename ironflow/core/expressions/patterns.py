"""Names of events and the patterns that select them.

A name is segments joined by dots: `order.created`. A pattern is a name in which `*` may stand for
any one segment and a last `>` for all that remain, at least one: `order.*`, `*.failed`, `order.>`.
`PatternIndex` finds what is registered for a name without looking at every pattern.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Generic, TypeVar

from ironflow.core.errors import InvalidInput

V = TypeVar("V")

MAX_NAME = 256
# Lone surrogates have no UTF-8 form, so a name that holds one could not be stored.
_SEGMENT = re.compile(r"[^\s.*>\x00-\x1f\x7f-\x9f\ud800-\udfff]+")


def validate_event_name(name: str, field: str = "name") -> None:
    """Raises `InvalidInput` unless `name` is the name of an event."""
    for segment in _segments(name, field):
        if not _SEGMENT.fullmatch(segment):
            raise InvalidInput(field, _reason(name, segment))


def validate_pattern(text: str, field: str = "pattern") -> None:
    """Raises `InvalidInput` unless `text` is a pattern; every name is one."""
    segments = _segments(text, field)
    for place, segment in enumerate(segments):
        if segment == "*" or (segment == ">" and place == len(segments) - 1):
            continue
        if segment == ">":
            raise InvalidInput(field, f"{text!r}: `>` may only be the last segment")
        if not _SEGMENT.fullmatch(segment):
            raise InvalidInput(field, _reason(text, segment))


def _segments(text: object, field: str) -> list[str]:
    if not isinstance(text, str):
        raise InvalidInput(field, f"must be text, not {type(text).__name__}")
    if not text:
        raise InvalidInput(field, "must not be empty")
    if len(text) > MAX_NAME:
        raise InvalidInput(field, f"is longer than {MAX_NAME} characters")
    return text.split(".")


def _reason(text: str, segment: str) -> str:
    if not segment:
        return f"{text!r} has an empty segment"
    if "*" in segment or ">" in segment:
        return f"{text!r}: `*` and `>` stand for whole segments, in patterns only"
    return f"{text!r} has a blank or a control character"


class Pattern:
    """A compiled pattern: `text`, whether it is `exact` (a plain name), and `matches`."""

    __slots__ = ("_match", "exact", "text")

    def __init__(self, text: str) -> None:
        self.text, self.exact = text, not _is_wild(text)
        parts = [
            {"*": r"[^.]+", ">": r"[^.]+(?:\.[^.]+)*"}.get(segment, re.escape(segment))
            for segment in text.split(".")
        ]
        self._match = re.compile(r"\.".join(parts)).fullmatch

    def matches(self, name: str) -> bool:
        """Whether the event's name is selected."""
        return self._match(name) is not None

    def __repr__(self) -> str:
        return f"Pattern({self.text!r})"


def _is_wild(text: str) -> bool:
    return "*" in text or text == ">" or text.endswith(".>")


def compile_pattern(text: str, field: str = "pattern") -> Pattern:
    """A pattern ready to match. Raises `InvalidInput` naming `field`."""
    validate_pattern(text, field)
    return _compile(text)


@lru_cache(maxsize=1024)
def _compile(text: str) -> Pattern:
    return Pattern(text)


class _Node(Generic[V]):
    """A place in the trie of wildcard patterns: `ends` here; `rest` takes all further segments."""

    __slots__ = ("children", "ends", "rest")

    def __init__(self) -> None:
        self.children: dict[str, _Node[V]] = {}
        self.ends: dict[int, tuple[int, V]] = {}
        self.rest: dict[int, tuple[int, V]] = {}

    def is_empty(self) -> bool:
        return not (self.children or self.ends or self.rest)


class PatternIndex(Generic[V]):
    """Values under patterns; `find` answers every value whose pattern selects a name.

    A value is known by identity and held once under a pattern; it need not be hashable. Adding,
    removing and finding cost the length of the name, not the number of patterns.
    """

    def __init__(self) -> None:
        self._exact: dict[str, dict[int, tuple[int, V]]] = {}
        self._root: _Node[V] = _Node()
        self._added = 0
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, pattern: str, value: V) -> None:
        """Register a value. Raises `InvalidInput` for what is no pattern."""
        validate_pattern(pattern)
        values = self._values(pattern, create=True)
        if id(value) not in values:
            self._added += 1
            self._size += 1
            values[id(value)] = (self._added, value)

    def remove(self, pattern: str, value: V) -> bool:
        """Forget a value; an equal one will do if the very object is not there.

        False if there is none.
        """
        values = self._values(pattern, create=False)
        key = id(value)
        if key not in values:
            equal = [k for k, (_, other) in values.items() if other == value]
            if not equal:
                return False
            key = equal[0]
        del values[key]
        self._size -= 1
        if not values:
            self._prune(pattern)
        return True

    def find(self, name: str) -> list[V]:
        """The values for a name, in the order in which they were added."""
        exact = self._exact.get(name)
        if self._root.is_empty():
            return [value for _, value in exact.values()] if exact else []
        found = list(exact.values()) if exact else []
        for values in _walk(self._root, name.split(".")):
            found.extend(values.values())
        found.sort(key=lambda pair: pair[0])
        return [value for _, value in found]

    def _values(self, pattern: str, create: bool) -> dict[int, tuple[int, V]]:
        if not _is_wild(pattern):
            return self._exact.setdefault(pattern, {}) if create else self._exact.get(pattern, {})
        segments = pattern.split(".")
        node = self._root
        for segment in segments[:-1] if segments[-1] == ">" else segments:
            child = node.children.get(segment)
            if child is None:
                child = _Node()
                if create:
                    node.children[segment] = child
            node = child
        return node.rest if segments[-1] == ">" else node.ends

    def _prune(self, pattern: str) -> None:
        """Drop the nodes that hold nothing any more."""
        if not _is_wild(pattern):
            del self._exact[pattern]
            return
        trail: list[tuple[_Node[V], str]] = []
        node = self._root
        for segment in pattern.removesuffix(".>").split(".") if pattern != ">" else ():
            trail.append((node, segment))
            node = node.children[segment]
        for parent, segment in reversed(trail):
            if not parent.children[segment].is_empty():
                break
            del parent.children[segment]


def _walk(node: _Node[V], segments: list[str]) -> Iterator[dict[int, tuple[int, V]]]:
    """Every set of values that the wildcard patterns below `node` hold for a name's segments."""
    nodes = [node]
    for segment in segments:
        below: list[_Node[V]] = []
        for at in nodes:
            if at.rest and segment:
                yield at.rest
            child = at.children.get(segment)
            if child is not None:
                below.append(child)
            star = at.children.get("*")
            if star is not None and segment:
                below.append(star)
        nodes = below
    for at in nodes:
        if at.ends:
            yield at.ends
