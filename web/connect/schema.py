"""What `ironflow.proto` says: messages, enums and services as data. Reads the part of the proto3
language that the file uses, when it is first asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

SCALARS = frozenset({"string", "bytes", "bool", "double", "int32", "int64", "uint32", "uint64"})
STRUCT, VALUE = "google.protobuf.Struct", "google.protobuf.Value"
TIMESTAMP, EMPTY = "google.protobuf.Timestamp", "google.protobuf.Empty"
WELL_KNOWN = frozenset({STRUCT, VALUE, TIMESTAMP, EMPTY})

SOURCE = files("ironflow.web.connect").joinpath("ironflow.proto").read_text(encoding="utf-8")
"""The text of the file."""

_TOKEN = re.compile(r'\s+|//[^\n]*|("[^"]*")|([\w.]+)|([{}()\[\];=<>,])')
_SNAKE = re.compile(r"_([a-z0-9])")


def camel(name: str) -> str:
    """The name of a field in JSON."""
    return _SNAKE.sub(lambda found: found[1].upper(), name)


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a message. `kind` is a scalar, or the name of a message or an enum."""

    name: str
    json_name: str
    number: int
    kind: str
    repeated: bool = False
    optional: bool = False
    """It tells the zero value from no value."""
    is_map: bool = False
    """A map from strings to `kind`."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message, with its fields by either name."""

    name: str
    fields: tuple[Field, ...]
    by_name: dict[str, Field]


@dataclass(frozen=True, slots=True)
class Method:
    """A method of a service."""

    request: str
    reply: str
    streams: bool
    """The reply is a stream of messages."""
    reads: bool
    """It changes nothing."""


@dataclass(slots=True)
class Schema:
    """Everything in the file. `methods` by (service, method), `enums` by name, then by value."""

    package: str = ""
    messages: dict[str, Message] = field(default_factory=dict)
    enums: dict[str, dict[str, int]] = field(default_factory=dict)
    methods: dict[tuple[str, str], Method] = field(default_factory=dict)

    def message(self, name: str) -> Message:
        """A message by its name; well-known ones have no fields here."""
        return self.messages.get(name) or Message(name, (), {})


@cache
def schema() -> Schema:
    """The file, read."""
    return _Parser(SOURCE).parse()


class _Parser:
    def __init__(self, text: str) -> None:
        self.tokens = _tokens(text)
        self.schema = Schema()

    def parse(self) -> Schema:
        readers = {"message": self._message, "enum": self._enum, "service": self._service}
        for word in self.tokens:
            if word in readers:
                readers[word](next(self.tokens))
            elif word == "package":
                self.schema.package = self._until(";")[0]
            else:
                self._until(";")
        return self.schema

    def _until(self, end: str) -> list[str]:
        words: list[str] = []
        for word in self.tokens:
            if word == end:
                return words
            words.append(word)
        raise ValueError(f"the file ends before {end!r}")

    def _message(self, name: str) -> None:
        self._expect("{")
        fields = []
        while (word := next(self.tokens)) != "}":
            fields.append(_field([word, *self._until(";")]))
        by_name = {f.name: f for f in fields} | {f.json_name: f for f in fields}
        self.schema.messages[name] = Message(name, tuple(fields), by_name)

    def _enum(self, name: str) -> None:
        self._expect("{")
        values = {}
        while (word := next(self.tokens)) != "}":
            values[word] = int(self._until(";")[1])
        self.schema.enums[name] = values

    def _service(self, name: str) -> None:
        self._expect("{")
        while next(self.tokens) == "rpc":
            method = next(self.tokens)
            self._expect("(")
            request = self._until(")")
            self._expect("returns", "(")
            reply = self._until(")")
            options = [] if next(self.tokens) == ";" else self._until("}")
            self.schema.methods[name, method] = Method(
                request[-1], reply[-1], "stream" in reply, "NO_SIDE_EFFECTS" in options
            )

    def _expect(self, *words: str) -> None:
        for word in words:
            if (found := next(self.tokens)) != word:
                raise ValueError(f"{word!r} is expected, not {found!r}")


def _tokens(text: str) -> Iterator[str]:
    at = 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise ValueError(f"unexpected {text[at : at + 20]!r}")
        at = found.end()
        word = found[1] or found[2] or found[3]
        if word:
            yield word


def _field(words: list[str]) -> Field:
    label = words.pop(0) if words[0] in ("repeated", "optional") else ""
    is_map = words[0] == "map"
    if is_map:  # map < string , kind > name = number
        del words[:4]
        words.remove(">")
    kind, name, _, number = words
    return Field(
        name=name,
        json_name=camel(name),
        number=int(number),
        kind=kind,
        repeated=label == "repeated",
        optional=label == "optional",
        is_map=is_map,
    )
