"""Moments and identifiers."""

from __future__ import annotations

import random
import subprocess
import sys
import uuid
from datetime import UTC, datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from ironflow.core.clock import (
    SECOND,
    Ids,
    SystemClock,
    derive_id,
    from_datetime,
    to_datetime,
    to_rfc3339,
)
from ironflow.core.errors import NonRetryable


class SetClock:
    """A clock that shows what it is set to."""

    def __init__(self, at: int) -> None:
        self.at = at

    def now(self) -> int:
        return self.at


MOMENTS = st.integers(0, 253_402_300_799_999_999)  # to the end of the year 9999


@given(st.lists(st.integers(0, 4_000_000_000 * SECOND), min_size=1, max_size=50))
def test_ids_are_valid_and_rise_whatever_the_clock_does(moments: list[int]) -> None:
    clock = SetClock(0)
    ids, made = Ids(clock), []
    for clock.at in moments:
        made += [ids.new() for _ in range(3)]
    assert made == sorted(set(made))
    for text in made:
        identifier = uuid.UUID(text)
        assert str(identifier) == text
        assert identifier.version == 7
        assert identifier.variant == uuid.RFC_4122


@given(st.integers(1, 4_000_000_000 * SECOND))
def test_an_id_begins_with_its_millisecond_and_keeps_the_order_within_it(at: int) -> None:
    clock = SetClock(at)
    first = uuid.UUID(Ids(clock).new()).int
    assert first >> 80 == at // 1000
    # The 12 bits after the version tell quarters of a microsecond apart.
    assert first >> 64 & 0xFFF == at % 1000 * 4096 // 1000
    clock.at += 1
    assert uuid.UUID(Ids(clock).new()).int >> 64 > first >> 64


def test_ids_of_one_seed_repeat_and_those_of_two_objects_differ() -> None:
    clock = SetClock(1_767_225_600 * SECOND)
    seeded = [Ids(clock, random.Random(7)).new() for _ in range(2)]
    assert seeded[0] == seeded[1]
    assert Ids(clock).new() != Ids(clock).new()


def test_many_ids_at_one_instant_are_distinct() -> None:
    ids = Ids(SetClock(5))
    assert len({ids.new() for _ in range(20_000)}) == 20_000


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=4))
def test_derived_ids_are_valid_and_always_the_same(parts: list[str]) -> None:
    text = derive_id(*parts)
    assert derive_id(*parts) == text
    identifier = uuid.UUID(text)
    assert (identifier.version, identifier.variant) == (8, uuid.RFC_4122)


@given(st.lists(st.text("ab:1\x00", max_size=4), max_size=3), st.data())
def test_other_parts_give_another_derived_id(parts: list[str], data: st.DataObject) -> None:
    other = data.draw(st.lists(st.text("ab:1\x00", max_size=4), max_size=3))
    assert (derive_id(*parts) == derive_id(*other)) == (parts == other)


def test_derived_ids_never_change() -> None:
    """They are in databases: a change would create twice what must be created once."""
    assert derive_id("invoke", "orders", "key-1") == "b0267962-884f-8c05-945c-84a5e171fd1b"
    assert derive_id() == "e3b0c442-98fc-8c14-9afb-f4c8996fb924"


@given(MOMENTS)
def test_rfc3339_there_and_back(at: int) -> None:
    text = to_rfc3339(at)
    assert len(text) == 27
    assert text.endswith("Z")
    assert from_datetime(datetime.fromisoformat(text)) == at
    assert to_datetime(at).tzinfo is UTC
    assert from_datetime(to_datetime(at)) == at


def test_moments_of_other_zones_and_of_none() -> None:
    noon = datetime(2026, 7, 1, 12, 0, 0, 250, tzinfo=timezone(timedelta(hours=2)))
    assert to_rfc3339(from_datetime(noon)) == "2026-07-01T10:00:00.000250Z"
    naive = datetime(2026, 7, 1, 12)  # noqa: DTZ001 - a naive one is meant
    assert to_rfc3339(from_datetime(naive)) == "2026-07-01T12:00:00.000000Z"
    assert to_rfc3339(0) == "1970-01-01T00:00:00.000000Z"


def test_the_system_clock_is_the_wall_clock() -> None:
    before = from_datetime(datetime.now(UTC))
    now = SystemClock().now()
    after = from_datetime(datetime.now(UTC))
    assert before - SECOND <= now <= after + SECOND


def test_errors_without_a_docstring_have_a_message() -> None:
    class Declined(NonRetryable):
        pass

    assert str(Declined()) == "Declined"
    assert str(NonRetryable("card expired")) == "card expired"
    code = "from ironflow.core.errors import Gone; print(Gone())"
    done = subprocess.run([sys.executable, "-OO", "-c", code], capture_output=True, check=True)
    assert done.stdout.strip() == b"Gone"
