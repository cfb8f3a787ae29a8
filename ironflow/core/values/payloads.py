"""Values and failures as entries hold them: JSON text, inline or in the blob table."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

INLINE_LIMIT = 64 * 1024
"""Bytes of JSON that an entry holds itself; larger values go to the content-addressed blob
table.
"""

_NOTHING = msgspec.Raw()


class Payload(msgspec.Struct, frozen=True, omit_defaults=True):
    """A JSON value, here (`json`) or in the blob table (`blob`, its SHA-256; `size` in bytes)."""

    # Not `Raw | None`: in a union msgspec does not keep the text as it is.
    raw: msgspec.Raw = msgspec.field(default=_NOTHING, name="json")
    blob: str | None = None
    size: int = 0

    @property
    def json(self) -> bytes | None:
        """The JSON text, unless it lies in the blob table."""
        return bytes(self.raw) if self.blob is None else None


NULL = Payload(raw=msgspec.Raw(b"null"))


def pack(data: bytes) -> tuple[Payload, bytes | None]:
    """JSON text as a payload, and the bytes that the blob table must hold when it is too large to
    go inline.
    """
    if len(data) <= INLINE_LIMIT:
        return Payload(raw=msgspec.Raw(data)), None
    return Payload(blob=hashlib.sha256(data).hexdigest(), size=len(data)), data


class Failure(msgspec.Struct, frozen=True, omit_defaults=True):
    """What went wrong: the exception's type name, its sentence, a stable code, and where."""

    kind: str
    message: str
    code: str = "error"
    retryable: bool = True
    trace: str = ""
    facts: dict[str, Any] | None = None
    """What an ironflow error knows beside its sentence, so that replay raises it whole."""

    def __post_init__(self) -> None:
        # Exceptions say what they like, such as the name of a file that is not UTF-8.
        for name in ("kind", "message", "trace"):
            text = getattr(self, name)
            if not text.isascii():
                msgspec.structs.force_setattr(self, name, to_storable(text))
        if self.facts is not None:
            facts = {k: to_storable(v) if type(v) is str else v for k, v in self.facts.items()}
            msgspec.structs.force_setattr(self, "facts", facts)


def to_storable(text: str) -> str:
    """Text as UTF-8 can have it: what it cannot is escaped, as in Python's source."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
