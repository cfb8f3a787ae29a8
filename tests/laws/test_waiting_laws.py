"""Rows of waiting runs, held against a plain sorted list of everybody."""

from __future__ import annotations

import sys
from time import process_time

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ironflow.actors.slots import waiting_rows
from ironflow.actors.slots.waiting_rows import WaitingRows

RUNS = st.sampled_from([f"run{number}" for number in range(40)])
ROWS = st.sampled_from("abc")


class Rows(RuleBasedStateMachine):
    """The model: (place, run, row) of everybody who waits, and the places of those with a grant."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: WaitingRows[str] = WaitingRows()
        self.model: list[tuple[int, str, str]] = []
        self.granted: dict[str, int] = {}
        self.last = 0

    def mine(self, run: str) -> tuple[int, str, str] | None:
        return next((entry for entry in self.model if entry[1] == run), None)

    @rule(run=RUNS, row=ROWS)
    def join(self, run: str, row: str) -> None:
        self.rows.join(run, row)
        if self.mine(run) is None:
            self.last += run not in self.granted
            self.model.append((self.granted.pop(run, self.last), run, row))
            self.model.sort()

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def take(self, data: st.DataObject) -> None:
        row = data.draw(st.sampled_from(sorted({row for _, _, row in self.model})))
        first = next(entry for entry in self.model if entry[2] == row)
        assert self.rows.first(row) == first[:2]
        assert self.rows.take(row) == first[1]
        self.model.remove(first)
        self.granted[first[1]] = first[0]

    @rule(run=RUNS)
    def settle(self, run: str) -> None:
        self.rows.settle(run)
        self.granted.pop(run, None)

    @rule(run=RUNS)
    def leave(self, run: str) -> None:
        self.rows.leave(run)
        self.granted.pop(run, None)
        self.model = [entry for entry in self.model if entry[1] != run]

    @precondition(lambda self: self.model)
    @rule(data=st.data(), row=ROWS)
    def move(self, data: st.DataObject, row: str) -> None:
        place, run, before = data.draw(st.sampled_from(self.model))
        self.rows.move(run, row)
        self.model.remove((place, run, before))
        self.model.append((place, run, row))
        self.model.sort()

    @rule(row=ROWS)
    def clear(self, row: str) -> None:
        assert self.rows.clear(row) == [run for _, run, r in self.model if r == row]
        self.model = [entry for entry in self.model if entry[2] != row]

    @invariant()
    def agrees(self) -> None:
        assert len(self.rows) == len(self.model)
        for row in "abc":
            members = [run for _, run, r in self.model if r == row]
            assert self.rows.members(row) == members
            assert self.rows.has(row) is bool(members)
            for number, run in enumerate(members):
                assert run in self.rows
                assert (self.rows.before(run), self.rows.row_of(run)) == (number, row)


TestRows = Rows.TestCase


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """So that forty runs fill several."""
    if "cost" not in request.node.name:
        monkeypatch.setattr(waiting_rows, "BLOCK", 3)


def test_the_cost_of_an_operation_does_not_grow_with_the_row() -> None:
    def seconds(size: int) -> float:
        rows: WaitingRows[str] = WaitingRows()
        for number in range(size):
            rows.join(str(number), "")
        best = sys.float_info.max
        for _ in range(3):
            began = process_time()
            for number in range(size // 4, size // 4 + 500):
                rows.before(str(number))
                rows.leave(str(number))
                rows.join(str(number), "")
                rows.take("")
            best = min(best, process_time() - began)
        return best

    # A scan would cost 50 times as much in a row that is 50 times as long.
    assert seconds(100_000) < 12 * seconds(2_000)
