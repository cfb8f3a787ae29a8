"""Time and ids as arguments: whoever needs `now` or a new id is handed a `Clock` and `Ids`.

All moments inside ironflow are `int` microseconds since the epoch, UTC.
"""

from __future__ import annotations

import hashlib
import random
import time
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Protocol

SECOND = 1_000_000
FOREVER = 1e11
"""Seconds after which nobody asks any more: a moment that is further off may not be stored."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_EXACT = 1 << 52
"""Below, a moment in seconds as a float is less than half a microsecond off."""


class Clock(Protocol):
    """Where the present comes from."""

    def now(self) -> int:
        """The present, in microseconds since the epoch."""
        ...


class SystemClock:
    """The machine's wall clock."""

    def now(self) -> int:
        """The present, in microseconds since the epoch."""
        return time.time_ns() // 1000


class Ids:
    """New identifiers: UUIDs of version 7 (RFC 9562), which sort by creation time."""

    def __init__(self, clock: Clock, rng: random.Random | None = None) -> None:
        # Seeded by the system once; asking it for each id would be half of an id's cost.
        self.clock, self.rng = clock, rng or random.Random()
        self._last = 0

    def new(self) -> str:
        """A fresh id, greater than every earlier one of this object."""
        # 48 bits of milliseconds and 12 bits of fraction; a tie or a clock step back counts on.
        stamp = max((self.clock.now() << 12) // 1000, self._last + 1)
        self._last = stamp
        return _format(
            (stamp >> 12) << 80 | 0x7 << 76 | (stamp & 0xFFF) << 64, self.rng.getrandbits(62)
        )


def derive_id(*parts: str) -> str:
    """The id (UUID version 8) that belongs to these parts: creating twice creates once."""
    # Lengths, because a part may contain any separator.
    text = "".join(f"{len(part)}:{part}" for part in parts)
    digest = hashlib.sha256(text.encode()).digest()
    high = int.from_bytes(digest[:8], "big")
    high = high & ~(0xF << 12) | 0x8 << 12
    return _format(high << 64, int.from_bytes(digest[8:16], "big") & (1 << 62) - 1)


def _format(high: int, low: int) -> str:
    text = f"{high | 0b10 << 62 | low:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def to_rfc3339(at: int) -> str:
    """A moment as RFC 3339 text in UTC with microseconds and `Z`."""
    seconds, rest = divmod(at, SECOND)
    return f"{_second(seconds)}.{rest:06d}Z"


moment = lru_cache(4096)(to_rfc3339)
"""The same for moments that are said several times, one soon after the other."""


def to_iso(at: int) -> str:
    """A moment in UTC as `datetime.isoformat` writes it."""
    seconds, rest = divmod(at, SECOND)
    return f"{_second(seconds)}.{rest:06d}+00:00" if rest else f"{_second(seconds)}+00:00"


@lru_cache(256)
def _second(seconds: int) -> str:
    """A whole second as text without a zone. Most moments are of the last few."""
    return (_EPOCH + timedelta(seconds=seconds)).isoformat()[:-6]


def from_datetime(moment: datetime) -> int:
    """A datetime as microseconds since the epoch; a naive one is taken as UTC."""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - _EPOCH) // _MICROSECOND


def to_datetime(at: int) -> datetime:
    """A moment as an aware datetime in UTC."""
    if 0 <= at < _EXACT:
        return datetime.fromtimestamp(at / SECOND, UTC)  # a third of the price of the sum
    return _EPOCH + timedelta(microseconds=at)
