"""JSON that came from outside and is stored as text: nothing in it may trouble a later reader."""

from __future__ import annotations

import msgspec
import orjson

from ironflow.core.errors import InvalidInput
from ironflow.core.values.codec import MAX_DEPTH

_ONE_KIND = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def keep_json(raw: msgspec.Raw | bytes, field: str, depth: int = MAX_DEPTH) -> bytes:
    """JSON text to be stored as it is, but on one line.

    Raises `InvalidInput` for what some later reader of the value would refuse.
    """
    data = bytes(raw)
    if is_too_deep(data, depth):
        raise InvalidInput(field, f"is nested deeper than {depth} levels")
    try:
        orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(field, f"not JSON: {error}") from error
    if b"\n" in data or b"\r" in data:
        data = msgspec.json.format(data, indent=-1)
    return data


def is_too_deep(data: bytes, depth: int = MAX_DEPTH) -> bool:
    """Whether JSON text is nested deeper than `depth`."""
    if len(data) <= depth or data.count(b"[") + data.count(b"{") <= depth:
        return False
    # Without escapes, every second part between quotes is a string. No regex: it takes seconds.
    parts = data.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
    brackets = b"".join(parts[::2]).translate(_ONE_KIND, _NO_BRACKETS)
    for _ in range(depth):
        if not brackets:
            return False
        brackets = brackets.replace(b"[]", b"")  # takes off the innermost level, no more
    return bool(brackets)
