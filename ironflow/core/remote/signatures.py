"""Signatures of what the server sends to endpoints, and of what they say of themselves: HMAC-SHA256
over the moment and the body.

`t=<unix seconds>,v1=<hex>` and, when the key has a name, `,kid=<name>`. The moment is signed, so
that an old request cannot be sent again for ever; who receives it decides how old is too old, and
remembers what it has seen until then (`Seen`). While keys are rotated there are two digests and two
names, in the same order, and either will do.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Self

HEADER = "X-Ironflow-Signature"
TOLERANCE = 300
"""Seconds by which the clocks of both sides may differ, transport included."""
MOST_DIGESTS = 4
"""In one header."""
MOST_SEEN = 100_000
"""Signatures that are remembered."""


class BadSignature(Exception):
    """The request is not from who has the key, or too old. `code` is for the wire."""

    def __init__(self, code: str, reason: str) -> None:
        self.code = code
        super().__init__(reason)


class Key(str):
    """A signing key. Its `name` goes along, so that a receiver of several knows which to try."""

    __slots__ = ("name",)

    name: str

    def __new__(cls, secret: str, name: str = "") -> Self:
        """The secret is the text itself."""
        made = super().__new__(cls, secret)
        made.name = name
        return made


def sign(key: str, body: bytes, seconds: int, key_id: str = "") -> str:
    """The header's value. `seconds` since the epoch."""
    return sign_with([Key(key, key_id)], body, seconds)


def sign_with(keys: Sequence[Key], body: bytes, seconds: int) -> str:
    """The header's value: a digest by each key, the new one last: who reads one reads the last."""
    parts = [f"t={seconds}"]
    for key in reversed(keys):
        parts.append(f"v1={_digest(key, body, str(seconds))}")
        if any(one.name for one in keys):
            parts.append(f"kid={key.name}")
    return ",".join(parts)


def verify(
    header: str | None,
    body: bytes,
    keys: Mapping[str, str] | Sequence[Key],
    now: float,
    tolerance: float = TOLERANCE,
) -> None:
    """Raise `BadSignature` unless one of the keys signed this very body, not longer than
    `tolerance` seconds ago. A key without a name is always tried, another one only for a header
    that names it or names none.
    """
    if not header:
        raise BadSignature("SIGNATURE_MISSING", "the request is not signed")
    pairs = [part.partition("=")[::2] for part in header.split(",")]
    stamp = next((value for name, value in pairs if name == "t"), "")
    claimed = [value for name, value in pairs if name == "v1" and value][:MOST_DIGESTS]
    if not stamp.isascii() or not stamp.isdigit() or len(stamp) > 12 or not claimed:
        raise BadSignature("SIGNATURE_INVALID", "the signature has no moment or no digest")
    if abs(now - int(stamp)) > tolerance:
        raise BadSignature("SIGNATURE_INVALID", "the signature is too old, or the clocks differ")
    kids = [value for name, value in pairs if name == "kid"]
    wanted = set() if "" in kids or len(kids) < len(claimed) else set(kids)
    if isinstance(keys, Mapping):
        keys = [Key(secret, name) for name, secret in keys.items()]
    candidates = [key for key in keys if not wanted or not key.name or key.name in wanted]
    # Every candidate is compared, each in constant time.
    found = [
        hmac.compare_digest(_digest(key, body, stamp).encode(), one.encode())
        for key in candidates
        for one in claimed
    ]
    if not any(found):
        raise BadSignature("SIGNATURE_INVALID", "the signature does not fit")


class Seen:
    """Signatures that were good: each is taken once. What is older than the tolerance is refused
    for its age, so it need not be remembered.
    """

    def __init__(self, tolerance: float = TOLERANCE, most: int = MOST_SEEN) -> None:
        self._keep, self._most = 2 * tolerance, most  # a clock that is ahead counts, too
        self._order: deque[tuple[float, str]] = deque()
        self._known: set[str] = set()

    def take(self, header: str, now: float) -> None:
        """Remember a signature. Raises `BadSignature` for one that was taken before."""
        while self._order and (self._order[0][0] < now or len(self._order) >= self._most):
            self._known.discard(self._order.popleft()[1])
        # Not the whole header: what is not signed in it could be changed.
        digests = [part[3:] for part in header.split(",") if part.startswith("v1=")]
        if not self._known.isdisjoint(digests):
            raise BadSignature("SIGNATURE_REPLAYED", "this very request was taken before")
        for digest in digests:
            self._known.add(digest)
            self._order.append((now + self._keep, digest))


def _digest(key: str, body: bytes, stamp: str) -> str:
    return hmac.new(key.encode(), f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()
