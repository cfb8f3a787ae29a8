"""Laws of those who wait: the order, the shares, the limits, the windows, whatever is done."""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ironflow.actors.slots.lanes import Lanes
from ironflow.actors.slots.lines import Row, Ticket
from ironflow.actors.slots.waiting_rows import WaitingRows
from ironflow.actors.slots.windows import Start, Windows

PERIOD = 1000
WEIGHTS = {"a": 1.0, "b": 2.0, "c": 0.5}
SHARES = st.sampled_from(sorted(WEIGHTS))


class Time:
    """A clock, and what is called later."""

    def __init__(self) -> None:
        self.micros = 0
        self.alarms: list[tuple[int, int, Handle]] = []

    def now(self) -> int:
        return self.micros

    def later(self, seconds: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        handle = Handle(callback)
        at = self.micros + max(round(seconds * 1_000_000), 0)
        heapq.heappush(self.alarms, (at, id(handle), handle))
        return cast(asyncio.TimerHandle, handle)

    def advance(self, micros: int) -> None:
        until = self.micros + micros
        while self.alarms and self.alarms[0][0] <= until:
            at, _, handle = heapq.heappop(self.alarms)
            self.micros = max(self.micros, at)
            if handle.callback is not None:
                handle.callback()
        self.micros = until


class Handle:
    """What cancels a call."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


# -- one line --------------------------------------------------------------------------------------


@st.composite
def tickets(draw: Any, shares: Any = SHARES, most: int = 40) -> list[Ticket]:
    facts = draw(st.lists(st.tuples(st.integers(0, 20), st.integers(-1, 1), shares), max_size=most))
    return [
        Ticket(f"r{number:03d}", "f", came, (), priority, share)
        for number, (came, priority, share) in enumerate(facts)
    ]


def drained(row: Row) -> list[Ticket]:
    taken = []
    while row:
        taken.append(row.take())
    return taken


@given(tickets(), st.data())
def test_the_order_is_told_as_it_is_whatever_was_added_and_taken_away(
    waiting: list[Ticket], data: Any
) -> None:
    row = Row(WEIGHTS.__getitem__)
    present: dict[str, Ticket] = {}
    for ticket in waiting:
        row.add(ticket)
        present[ticket.run_id] = ticket
        what = data.draw(st.sampled_from(["nothing", "take", "discard"]))
        if what == "take":
            del present[row.take().run_id]
        elif what == "discard":
            gone = data.draw(st.sampled_from(sorted(present)))
            row.discard(gone)
            del present[gone]
        assert len(row) == len(present)
    told = list(row)
    assert told == drained(row)
    assert {ticket.run_id for ticket in told} == set(present)
    priorities = [ticket.priority for ticket in told]
    assert priorities == sorted(priorities, reverse=True)
    for priority in set(priorities):
        for share in WEIGHTS:
            equals = [t.age for t in told if (t.priority, t.share) == (priority, share)]
            assert equals == sorted(equals)


@given(tickets(shares=st.none()))
def test_without_a_fair_key_equals_begin_as_they_came(waiting: list[Ticket]) -> None:
    row = Row(lambda share: 1.0)
    for ticket in waiting:
        row.add(ticket)
    assert drained(row) == sorted(waiting, key=lambda each: (-each.priority, each.age))


@given(
    st.lists(st.tuples(SHARES, st.booleans()), min_size=1, max_size=120),
    st.dictionaries(SHARES, st.integers(1, 60), min_size=1),
)
def test_no_share_gets_more_than_its_weight_and_one_turn(
    moves: list[tuple[str, bool]], backlog: dict[str, int]
) -> None:
    """Two shares that both wait all the while differ by a turn at most, whoever else comes and
    goes.
    """
    row, number = Row(WEIGHTS.__getitem__), 0

    def add(share: str) -> None:
        nonlocal number
        number += 1
        row.add(Ticket(f"r{number:05d}", "f", number, (), 0, share))

    for share, runs in backlog.items():
        for _ in range(runs):
            add(share)
    served: Counter[str] = Counter()
    waiting = Counter(backlog)
    always = set(backlog)
    for share, comes in moves:
        if comes:
            add(share)
            waiting[share] += 1
        if not row:
            break
        taken = row.take().share
        assert taken is not None
        served[taken] += 1
        waiting[taken] -= 1
        always -= {share for share in always if not waiting[share]}
        for one in always:
            for other in always:
                behind = served[one] / WEIGHTS[one] - served[other] / WEIGHTS[other]
                assert abs(behind) <= 1 / WEIGHTS[one] + 1 / WEIGHTS[other] + 1e-9


@given(st.integers(1, 5), st.integers(2, 30))
def test_who_comes_one_at_a_time_gains_nothing_by_it(flood: int, turns: int) -> None:
    """A share that asks anew as soon as it was served does not push the others aside."""
    row = Row(lambda share: 1.0)
    for number in range(turns):
        row.add(Ticket(f"f{number:03d}", "f", number, (), 0, "flood"))
    row.add(Ticket("s000", "f", 0, (), 0, "single"))
    order = []
    for number in range(1, turns):
        ticket = row.take()
        order.append(ticket.share)
        if ticket.share == "single":
            row.add(Ticket(f"s{number:03d}", "f", number, (), 0, "single"))
    assert abs(order.count("flood") - order.count("single")) <= 1


@given(tickets(most=25), st.data())
def test_places_of_a_row_are_given_by_rank_and_those_of_others_stay(
    waiting: list[Ticket], data: Any
) -> None:
    """Two functions in one row: the one without an order of its own is served as if the other had
    none either.
    """
    ordered = {ticket.run_id: ticket for ticket in waiting}
    plain: WaitingRows[str] = WaitingRows()
    rows: WaitingRows[str] = WaitingRows()
    rows.order_by(ordered.get, lambda function_id, share: WEIGHTS[share])
    names = [f"p{number}" for number in range(data.draw(st.integers(0, 10)))]
    arrivals = data.draw(st.permutations([*names, *ordered]))
    for run_id in arrivals:
        rows.join(run_id, "row")
        plain.join(run_id, "row")
    reference = Row(WEIGHTS.__getitem__)
    for run_id in arrivals:
        if run_id in ordered:
            reference.add(ordered[run_id])
    for run_id in data.draw(st.sets(st.sampled_from(arrivals))) if arrivals else ():
        rows.leave(run_id)
        if run_id in ordered:
            reference.discard(run_id)
    taken = []
    while rows.has("row"):
        head = rows.members("row")[0]
        run_id = rows.take("row")
        taken.append(run_id)
        assert (head in ordered) == (run_id in ordered)
    assert [run for run in taken if run in ordered] == [t.run_id for t in drained(reference)]
    others = [run for run in taken if run not in ordered]
    assert others == [run for run in arrivals if run in others]
    assert not rows._orders


# -- lanes and windows -----------------------------------------------------------------------------


LIMITS = {"f#0": 2, 'f#1:"a"': 1, 'f#1:"b"': 3, "f#throttle": 2}
RUNS = st.sampled_from([f"r{n}" for n in range(9)])


class LanesKeepTheirLaws(RuleBasedStateMachine):
    """Any run may ask, begin, leave, end and come again; the process may die at any moment."""

    def __init__(self) -> None:
        super().__init__()
        self.time = Time()
        self.tickets: dict[str, Ticket] = {}
        self.holds: set[str] = set()
        self.begun: dict[str, int] = {}
        self.starts: list[Start] = []
        """What is durable."""
        self.live()

    def live(self) -> None:
        self.windows = Windows(lambda lane: (LIMITS[lane], PERIOD), self.time, self.time.later)
        self.lanes = Lanes(
            LIMITS.__getitem__,
            lambda function_id, share: WEIGHTS[share],
            self.admit,
            self.windows,
        )

    def admit(self, ticket: Ticket) -> None:
        assert ticket.run_id not in self.holds
        self.holds.add(ticket.run_id)

    def ticket(self, run: str, started: bool) -> Ticket:
        number = int(run[1:])
        lanes = ("f#0", f'f#1:"{"ab"[number % 2]}"')
        if number % 3 == 0:
            lanes = ("f#0",)
        if number != 8 and not started:
            lanes = (*lanes, "f#throttle")
        return Ticket(run, "f", self.time.now(), lanes, number % 4 // 3, "abc"[number % 3])

    @rule(run=RUNS)
    def ask(self, run: str) -> None:
        if run not in self.tickets:
            self.tickets[run] = self.ticket(run, run in self.begun)
            self.lanes.enqueue(self.tickets[run])

    @rule(run=RUNS)
    def ask_at_once(self, run: str) -> None:
        if run not in self.tickets:
            ticket = self.ticket(run, run in self.begun)
            if self.lanes.acquire(run, ticket.lanes):
                self.holds.add(run)
                self.tickets[run] = ticket

    @rule(run=RUNS)
    def begin(self, run: str) -> None:
        if run in self.holds and run not in self.begun:
            now = self.begun[run] = self.time.now()
            ticket = self.tickets[run]
            if "f#throttle" in ticket.lanes:
                self.starts.append(Start("f#throttle", now, run))
                self.lanes.begin(run, now)
            self.tickets[run] = (
                ticket._replace(lanes=ticket.lanes[:-1] or ("f#0",))
                if ("f#throttle" in ticket.lanes)
                else ticket
            )

    @rule(run=RUNS)
    def leave(self, run: str) -> None:
        if run in self.holds:
            self.holds.discard(run)
            del self.tickets[run]
            self.lanes.release(run)

    @rule(run=RUNS)
    def give_back_and_ask_again(self, run: str) -> None:
        """What was granted had no use: the run keeps its place."""
        if run in self.holds:
            ticket = self.tickets[run]
            self.holds.discard(run)
            self.lanes.release(run)
            self.lanes.enqueue(ticket)

    @rule(run=RUNS)
    def end(self, run: str) -> None:
        if run in self.tickets:
            self.holds.discard(run)
            del self.tickets[run]
            self.lanes.discard(run)
        self.begun.pop(run, None)

    @rule(micros=st.integers(0, PERIOD))
    def wait(self, micros: int) -> None:
        self.time.advance(micros)

    @precondition(lambda self: self.tickets)
    @rule()
    def die(self) -> None:
        self.windows.stop()
        held, self.holds = self.holds, set()
        self.live()
        self.windows.load(self.starts)
        began = {run for run in held if run in self.begun}
        for ticket in sorted(
            self.tickets.values(), key=lambda each: (each.run_id not in began, each.age)
        ):
            self.lanes.enqueue(ticket)
        assert began <= self.holds, "who executed goes on"

    @invariant()
    def nobody_is_in_two_places(self) -> None:
        states = self.lanes.states()
        waiting = [ticket.run_id for state in states for ticket in state.waiting]
        assert len(waiting) == len(set(waiting)) == self.lanes.queued
        assert set(waiting) == set(self.tickets) - self.holds
        for state in states:
            if state.name != "f#throttle":
                assert set(state.holders) == {
                    run for run in self.holds if state.name in self.tickets[run].lanes
                }

    @invariant()
    def no_limit_is_exceeded(self) -> None:
        for state in self.lanes.states():
            assert len(state.holders) <= state.limit

    @invariant()
    def nobody_waits_for_a_lane_that_has_room(self) -> None:
        for state in self.lanes.states():
            assert not state.waiting or len(state.holders) >= state.limit

    @invariant()
    def no_stretch_of_a_period_has_more_starts_than_the_limit(self) -> None:
        moments = sorted(start.at for start in self.starts)
        limit = LIMITS["f#throttle"]
        for first, last in zip(moments, moments[limit:], strict=False):
            assert last - first >= PERIOD

    @invariant()
    def what_is_empty_costs_nothing(self) -> None:
        if not self.tickets:
            lanes = self.lanes
            assert not lanes._lines
            assert not lanes._queues
            assert not lanes._waiting
            assert not lanes._held
            assert not lanes._holders

    @invariant()
    def a_full_throttle_says_when_it_opens(self) -> None:
        state = self.lanes.state("f#throttle")
        reserved = self.windows.reserved("f#throttle")
        if len(state.holders) >= state.limit and not reserved:
            assert state.opens_at is not None
            assert state.opens_at > self.time.now()


TestLanes = LanesKeepTheirLaws.TestCase


class Running(Time):
    """It goes on, a microsecond each time that somebody looks."""

    def now(self) -> int:
        self.micros += 1
        return self.micros


@pytest.mark.parametrize("early", range(12))
def test_a_throttle_that_opens_while_somebody_joins_the_line_forgets_nobody(early: int) -> None:
    time, admitted = Running(), list[str]()
    lanes = Lanes(
        lambda lane: 5 if lane == "f#0" else 1,
        lambda function_id, share: 1.0,
        lambda ticket: admitted.append(ticket.run_id),
        Windows(lambda lane: (1, PERIOD), time, time.later),
    )
    places = ("f#0", "f#throttle")
    lanes.enqueue(Ticket("first", "f", 0, places))
    began = time.now()
    lanes.begin("first", began)
    time.micros = began + PERIOD - early
    lanes.enqueue(Ticket("second", "f", 1, places))
    time.advance(2 * PERIOD)
    assert admitted == ["first", "second"]


def test_no_run_is_looked_at_before_its_turn() -> None:
    """Thousands who wait behind a user's own limit and everybody's: each release asks a few lanes
    for room, however many wait.
    """
    limits = {"all": 3}
    time, asked = Time(), Counter[str]()

    def limit_of(lane: str) -> int:
        asked["limit"] += 1
        return limits.get(lane.partition("#")[0], 1)

    admitted: list[str] = []
    lanes = Lanes(
        limit_of,
        lambda function_id, share: 1.0,
        lambda ticket: admitted.append(ticket.run_id),
        Windows(lambda lane: (1, PERIOD), time, time.later),
    )
    waiting = 5000
    for number in range(waiting):
        user = "abcd"[number % 4] if number % 2 else "a"
        lanes.enqueue(Ticket(f"r{number:05d}", "f", number, ("all#0", f"f#1:{user}"), 0, user))
    asked.clear()
    for number in range(waiting):
        before = asked["limit"]
        lanes.release(admitted[number])
        assert asked["limit"] - before < 30
    assert len(admitted) == waiting
