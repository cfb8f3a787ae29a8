"""Throttles and a wall clock that is set forward and back: what windows let begin keeps the law
that simulated processes are held to, and the law knows what breaks it."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from ironflow.actors.slots.windows import Windows
from ironflow.simulation.laws import Began, throttles_are_kept

LANE, PERIOD = "f/throttle", 1000


class Case:
    """Windows, a clock that can be set, and what the law has to say."""

    def __init__(self, limit: int) -> None:
        self.limit, self.micros = limit, 100_000
        self.windows = Windows(lambda lane: (limit, PERIOD), self, _never)
        self.starts: list[Began] = []
        self.found: list[str] = []

    def now(self) -> int:
        """The wall clock."""
        return self.micros

    def set(self, by: int) -> None:
        """Set the clock, as `Watch.clock_is_set` sees it."""
        for start in self.starts:
            start.shown = max(start.shown, self.micros)
        self.micros += by

    def begin(self) -> None:
        """One more begins now, whether it may or not."""
        self.windows.begin(LANE, str(len(self.starts)), self.micros)
        self.starts.append(Began(self.micros, self.micros))
        self.found += throttles_are_kept(LANE, self.starts, self.limit, PERIOD)


def _never(seconds: float, callback: Any) -> asyncio.TimerHandle:
    return asyncio.TimerHandle(0.0, callback, (), _LOOP)


_LOOP = asyncio.new_event_loop()
_LOOP.close()

DOINGS = st.lists(
    st.tuples(st.just("pass"), st.integers(1, 2 * PERIOD))
    | st.tuples(st.just("set"), st.integers(-3 * PERIOD, 3 * PERIOD))
    | st.tuples(st.just("try"), st.just(0)),
    max_size=60,
)


@given(st.integers(1, 3), DOINGS)
@example(1, [("try", 0), ("pass", PERIOD), ("set", -PERIOD), ("try", 0)])  # over, then set back
@example(2, [("try", 0), ("set", -PERIOD), ("try", 0), ("pass", PERIOD - 1), ("try", 0)])
def test_windows_keep_the_law_whatever_the_clock_does(
    limit: int, doings: list[tuple[str, int]]
) -> None:
    case = Case(limit)
    for what, micros in doings:
        if what == "pass":
            case.micros += micros
        elif what == "set":
            case.set(micros)
        elif case.windows.room(LANE) > 0:
            case.begin()
    assert case.found == []


def test_one_too_many_is_found_before_and_after_the_clock_was_set_back() -> None:
    for back in (0, 1, PERIOD, 50 * PERIOD):
        case = Case(1)
        case.begin()
        case.micros += PERIOD - 1
        case.set(-back)
        assert case.windows.room(LANE) == 0
        case.begin()  # as one would that forgets what is of the future
        assert len(case.found) == 1, back


def test_what_is_over_stays_over_for_the_law_too() -> None:
    case = Case(1)
    case.begin()
    case.set(PERIOD)
    assert case.windows.room(LANE) == 1
    case.set(-PERIOD)
    case.begin()
    assert case.found == []
