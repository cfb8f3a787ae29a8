"""Lanes: who holds places, who waits for one."""

from typing import Literal

from ironflow.web.wire import View


class WaitingView(View, frozen=True):
    """A run that waits in a lane: since when, and what its place among others depends on."""

    run_id: str
    since: str
    priority: int
    share: str | None
    """The value of the fair key."""


class LaneView(View, frozen=True):
    """A lane: at most `limit` runs execute in it (`concurrency`), begin for the first time in any
    `period` (`throttle`), or are made in it (`rate_limit`).

    `holders` are those that count now, `waiting` come next (`line`: and why in this order); at most
    a thousand of either are listed, `held` and `queued` say how many there are.
    """

    name: str
    function_id: str
    policy: Literal["concurrency", "throttle", "rate_limit"]
    limit: int
    period: float | None
    held: int
    queued: int
    holders: list[str]
    waiting: list[str]
    line: list[WaitingView]
    reason: str | None
    """Why nobody of those who wait begins now."""
    opens_at: str | None
    """When a full lane has room again by time alone."""


class LanePage(View, frozen=True):
    """Lanes, by name; `next_cursor` goes on."""

    items: list[LaneView]
    next_cursor: str | None
