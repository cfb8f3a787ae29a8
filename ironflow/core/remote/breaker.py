"""A circuit breaker, pure: after so many failures in a row nothing is sent for a while, then one
probe decides.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

import msgspec

from ironflow.core.clock import SECOND

Word = Literal["open", "close", "reset"]
"""What an operator may say: keep it open until told otherwise, close it, forget its failures."""


class BreakerStatus(StrEnum):
    """Whether calls go through."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class BreakerPolicy(msgspec.Struct, frozen=True, omit_defaults=True):
    """`failures` in a row open it for `open_for` seconds; a probe that fails doubles that, to
    `longest`.
    """

    failures: int = 5
    open_for: float = 60.0
    longest: float = 600.0


class CallFailed(msgspec.Struct, frozen=True):
    """A call did not come through; `opens_until` (microseconds) when that opens the breaker."""

    reason: str
    opens_until: int | None = None


class CallSucceeded(msgspec.Struct, frozen=True):
    """A call came through after failures: the breaker is closed."""


class ProbeAllowed(msgspec.Struct, frozen=True):
    """The pause is over: one call may try."""


class OperatorSpoke(msgspec.Struct, frozen=True):
    """An operator opened, closed or reset it by hand."""

    word: Word


BreakerEntry = CallFailed | CallSucceeded | ProbeAllowed | OperatorSpoke
KINDS: dict[type, str] = {
    CallFailed: "breaker.call_failed",
    CallSucceeded: "breaker.call_succeeded",
    ProbeAllowed: "breaker.probe_allowed",
    OperatorSpoke: "breaker.operator_spoke",
}


class Breaker(msgspec.Struct):
    """The fold of a breaker's stream."""

    status: BreakerStatus = BreakerStatus.CLOSED
    failures: int = 0
    """In a row."""
    openings: int = 0
    """In a row, without a call that came through in between."""
    until: int | None = None
    """When the next probe may go; None of an open one: only an operator closes it."""
    last_failure: str = ""
    last_failure_at: int | None = None
    version: int = 0

    def apply(self, entry: BreakerEntry, at: int) -> None:
        """Change by one entry."""
        self.version += 1
        match entry:
            case CallFailed():
                self.failures += 1
                self.last_failure, self.last_failure_at = entry.reason, at
                if entry.opens_until is not None:
                    self.status, self.until = BreakerStatus.OPEN, entry.opens_until
                    self.openings += 1
            case ProbeAllowed():
                self.status, self.until = BreakerStatus.HALF_OPEN, None
            case OperatorSpoke(word="open"):
                self.status, self.until = BreakerStatus.OPEN, None
            case CallSucceeded() | OperatorSpoke():
                self.status, self.until, self.failures, self.openings = (
                    BreakerStatus.CLOSED, None, 0, 0,
                )  # fmt: skip


def on_failure(breaker: Breaker, policy: BreakerPolicy, reason: str, now: int) -> BreakerEntry:
    """What a call that did not come through does."""
    opens = breaker.status is BreakerStatus.HALF_OPEN or (
        breaker.status is BreakerStatus.CLOSED and breaker.failures + 1 >= policy.failures
    )
    if not opens:
        return CallFailed(reason)
    pause = min(policy.open_for * 2.0 ** min(breaker.openings, 30), policy.longest)
    return CallFailed(reason, now + int(pause * SECOND))


def on_success(breaker: Breaker) -> BreakerEntry | None:
    """What a call that came through does: most change nothing."""
    if breaker.status is BreakerStatus.OPEN:
        return None  # an answer to a call from before it opened, or an operator holds it open
    if breaker.failures or breaker.status is BreakerStatus.HALF_OPEN:
        return CallSucceeded()
    return None
