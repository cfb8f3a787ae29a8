"""Users' own values in messages: `x` for an object, its twin `xValue` for anything else."""

from __future__ import annotations

from typing import Any

import msgspec


def payload_of(value: msgspec.Raw, twin: msgspec.Raw) -> bytes | None:
    """The JSON text that a request carries, the twin before the other; None for neither."""
    return bytes(twin) or bytes(value) or None


def show(name: str, text: bytes | None) -> dict[str, Any]:
    """A value as the field of an answer that can hold it; none for no value."""
    if text is None:
        return {}
    is_object = text.lstrip()[:1] == b"{"
    return {name if is_object else f"{name}Value": msgspec.Raw(text)}
