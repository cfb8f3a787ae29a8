"""Signatures of what the server sends to endpoints: HMAC-SHA256 over the moment and the body.

`t=<unix seconds>,v1=<hex>` and, when the key has a name, `,kid=<name>`. The moment is signed, so
that an old request cannot be sent again for ever; who receives it decides how old is too old.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping

HEADER = "X-Ironflow-Signature"
TOLERANCE = 300
"""Seconds by which the clocks of both sides may differ, transport included."""


class BadSignature(Exception):
    """The request is not from who has the key, or too old. `code` is for the wire."""

    def __init__(self, code: str, reason: str) -> None:
        self.code = code
        super().__init__(reason)


def sign(key: str, body: bytes, seconds: int, key_id: str = "") -> str:
    """The header's value. `seconds` since the epoch."""
    digest = _digest(key, body, str(seconds))
    return f"t={seconds},v1={digest}" + (f",kid={key_id}" if key_id else "")


def verify(
    header: str | None,
    body: bytes,
    keys: Mapping[str, str],
    now: float,
    tolerance: float = TOLERANCE,
) -> None:
    """Raise `BadSignature` unless one of the keys (by name; any, when the header names none) signed
    this very body, not longer than `tolerance` seconds ago.
    """
    if not header:
        raise BadSignature("SIGNATURE_MISSING", "the request is not signed")
    parts = dict(part.partition("=")[::2] for part in header.split(","))
    stamp, claimed = parts.get("t", ""), parts.get("v1", "")
    if not stamp.isascii() or not stamp.isdigit() or len(stamp) > 12 or not claimed:
        raise BadSignature("SIGNATURE_INVALID", "the signature has no moment or no digest")
    if abs(now - int(stamp)) > tolerance:
        raise BadSignature("SIGNATURE_INVALID", "the signature is too old, or the clocks differ")
    wanted = parts.get("kid")
    candidates = [key for name, key in keys.items() if wanted in (None, name)]
    # Every candidate is compared, each in constant time.
    found = [hmac.compare_digest(_digest(key, body, stamp), claimed) for key in candidates]
    if not any(found):
        raise BadSignature("SIGNATURE_INVALID", "the signature does not fit")


def _digest(key: str, body: bytes, stamp: str) -> str:
    return hmac.new(key.encode(), f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()
