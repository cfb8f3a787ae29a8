"""Query parameters and bodies: from bytes to typed structs, or a refusal that names the culprit.

A query is a struct: a `tuple` field may be given several times or as a comma list, every other one
once. JSON that is only passed through (`input`, `data`) is checked and kept as text, so that no
number is rounded.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import cache
from typing import Annotated, Any, Generic, TypeVar
from urllib.parse import parse_qsl

import msgspec
import msgspec.inspect
from aiohttp import web

from ironflow.core.clock import from_datetime
from ironflow.core.durations import parse_duration
from ironflow.core.errors import InvalidInput, NotFound
from ironflow.core.values.codec import MAX_DEPTH
from ironflow.web.problems import Malformed, invalid_body

MAX_WAIT = 300.0
"""Seconds that a request may wait for a run."""
MAX_KEY = 500
MAX_REASON = 2000

Moment = Annotated[datetime, msgspec.Meta(tz=True)]
"""A moment in a query: RFC 3339 with a zone."""

_INTEGER = re.compile(r"-?[0-9]{1,15}")
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_LOST_PLUS = re.compile(r"(?<=\d) (?=\d\d:\d\d$)")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_TRUTH = {"true": True, "1": True, "": True, "false": False, "0": False}


class Query(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of query structs; on its own: a route without parameters."""


Q = TypeVar("Q", bound=Query)


class QueryDecoder(Generic[Q]):
    """Decodes the query string of one route; every parameter has a default."""

    def __init__(self, kind: type[Q]) -> None:
        self.kind = kind
        self.known = _kinds_of(kind)
        self.default = kind()

    def decode(self, request: web.Request) -> Q:
        """The typed query. Raises `InvalidInput` naming the parameter."""
        return self._decode(request.query.items()) if request.query_string else self.default

    def decode_text(self, text: str) -> Q:
        """The same of the text behind the question mark, in which nothing is escaped."""
        return self._decode(parse_qsl(text, keep_blank_values=True))

    def _decode(self, query: Iterable[tuple[str, str]]) -> Q:
        values: dict[str, Any] = {}
        for name, text in query:
            kind = self.known.get(name)
            if kind is None:
                known = ", ".join(sorted(self.known)) or "none"
                raise InvalidInput(name, f"unknown query parameter; known here: {known}")
            check_text(text, name)
            if kind == "many":
                values.setdefault(name, []).extend(part for part in text.split(",") if part)
            elif name in values:
                raise InvalidInput(name, "may be given only once")
            else:
                values[name] = _coerce(text, kind)
        try:
            return msgspec.convert(values, self.kind)
        except msgspec.ValidationError as error:
            raise invalid_body(error) from error


@cache
def _kinds_of(kind: type[msgspec.Struct]) -> Mapping[str, str]:
    """What each parameter is, by name; environments have applications of their own, which share
    this.
    """
    return {field.encode_name: _kind_of(field.type) for field in msgspec.structs.fields(kind)}


def _kind_of(annotation: Any) -> str:
    kinds = msgspec.inspect.type_info(annotation)
    found = kinds.types if isinstance(kinds, msgspec.inspect.UnionType) else (kinds,)
    for info in found:
        match info:
            case msgspec.inspect.VarTupleType():
                return "many"
            case msgspec.inspect.IntType():
                return "integer"
            case msgspec.inspect.BoolType():
                return "truth"
            case msgspec.inspect.DateTimeType():
                return "moment"
            case _:
                pass
    return "text"


def _coerce(text: str, kind: str) -> Any:
    """A parameter's text as its type; what does not fit stays, for the conversion to refuse."""
    if kind == "integer" and _INTEGER.fullmatch(text):
        return int(text)
    if kind == "truth":
        return _TRUTH.get(text.lower(), text)
    if kind == "moment":
        # A `+` of a zone that was not escaped arrives as a space.
        return _LOST_PLUS.sub("+", text)
    return text


class BodyDecoder:
    """Decodes the body of one route."""

    def __init__(self, kind: Any, *, optional: bool = False) -> None:
        self.kind, self.optional = kind, optional
        self._decode = msgspec.json.Decoder(kind).decode

    def decode(self, data: bytes, field: str = "") -> Any:
        """The typed body. Raises `Malformed` for what is not JSON, `InvalidInput` for the rest."""
        if not data.strip():
            if self.optional:
                return self.kind()
            raise Malformed("the body is empty; send JSON")
        try:
            return self._decode(data)
        except msgspec.ValidationError as error:
            raise invalid_body(error, field) from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Malformed(f"the body is not JSON: {error}") from error
        except RecursionError as error:
            reason = f"is nested deeper than {MAX_DEPTH} levels"
            raise InvalidInput(field or "body", reason) from error


def check_text(text: str, field: str) -> str:
    """Text that can be stored and shown: no control characters, no broken Unicode.

    Raises `InvalidInput`.
    """
    if _CONTROL.search(text):
        raise InvalidInput(field, "has control characters or is not UTF-8")
    return text


def check_key(headers: Mapping[str, str], key: str | None) -> str | None:
    """The idempotency key of the body or the `Idempotency-Key` header. Raises `InvalidInput`."""
    header = headers.get("Idempotency-Key")
    if header is not None:
        if key is not None and key != header:
            raise InvalidInput(
                "idempotency_key", "is not the same in the body and in the Idempotency-Key header"
            )
        key = header
    if key is None:
        return None
    if not 1 <= len(key) <= MAX_KEY:
        raise InvalidInput("idempotency_key", f"must have 1 to {MAX_KEY} characters")
    return check_text(key, "idempotency_key")


def check_reason(reason: str | None, default: str) -> str:
    """Why, for the record. Raises `InvalidInput` when it is too long."""
    if reason is None or not reason.strip():
        return default
    if len(reason) > MAX_REASON:
        raise InvalidInput("reason", f"is longer than {MAX_REASON} characters")
    return reason


def check_run_id(text: str) -> str:
    """A run's id in its usual form. Raises `NotFound` for text that can be none."""
    return check_id("run", text)


def check_id(kind: str, text: str) -> str:
    """The id of a run or event in its usual form. Raises `NotFound` for text that can be none."""
    found = text.lower()
    if not _ID.fullmatch(found):
        raise NotFound(kind, text)
    return found


def parse_wait(text: str) -> float:
    """Seconds to wait for a run. Raises `InvalidInput`."""
    seconds = parse_duration(text, "wait")
    if seconds > MAX_WAIT:
        raise InvalidInput("wait", f"is longer than {MAX_WAIT:g}s; ask again to go on waiting")
    return seconds


def to_micros(moment: datetime | None) -> int | None:
    """A moment of a query as microseconds."""
    return None if moment is None else from_datetime(moment)


def encode_cursor(at: int, key: str) -> str:
    """Where a page ends, as opaque text."""
    return base64.urlsafe_b64encode(msgspec.json.encode((at, key))).rstrip(b"=").decode()


def decode_cursor(text: str | None) -> tuple[int, str] | None:
    """Where the page before ended. Raises `InvalidInput` for text that no page gave out."""
    if text is None:
        return None
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        at, key = msgspec.json.decode(data, type=tuple[int, str])
    except (ValueError, binascii.Error, msgspec.DecodeError, RecursionError) as error:
        raise InvalidInput("cursor", "is not a cursor that this server gave out") from error
    if not -(2**62) < at < 2**62:
        raise InvalidInput("cursor", "is not a cursor that this server gave out")
    return at, check_text(key, "cursor")
