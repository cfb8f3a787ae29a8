from __future__ import annotations

import math
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironflow.core.durations import MAX_SECONDS, format_duration, parse_duration, to_micros
from ironflow.core.errors import InvalidInput


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (0, 0.0),
        (3, 3.0),
        (1.5, 1.5),
        (timedelta(minutes=2), 120.0),
        ("500ms", 0.5),
        ("1.5s", 1.5),
        ("7d", 604800.0),
        ("2w", 1209600.0),
        ("1h30m", 5400.0),
        (" 2h 3m ", 7380.0),
        ("90", 90.0),
        ("1m500ms", 60.5),
    ],
)
def test_durations_that_users_write(value: object, seconds: float) -> None:
    assert parse_duration(value) == seconds  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "value",
    [
        "", "s", "1x", "-1s", "1h-2m", "1.s", "1e3", "inf", "nan", "1 2", "m1", "1" * 100, "١s",
        -1, -0.5, math.nan, math.inf, -math.inf, True, None, [], b"1s", timedelta(seconds=-1),
        10**400, -(10**400), MAX_SECONDS * 2, timedelta.max, "9999999999w",
    ],
)  # fmt: skip
def test_what_is_no_duration_is_refused_with_its_field(value: object) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_duration(value, "retry.max_delay")  # type: ignore[arg-type]
    assert caught.value.field == "retry.max_delay"
    assert caught.value.reason


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.00025, "0.25ms"),
        (0.25, "250ms"),
        (0.9996, "1s"),
        (1.5, "1.5s"),
        (59.96, "1m"),
        (90, "1m 30s"),
        (3599.7, "1h"),
        (7380, "2h 3m"),
        (86399, "1d"),
        (90000, "1d 1h"),
        (-1.5, "-1.5s"),
        (86400 * 30, "30d"),
    ],
)
def test_text_for_people(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.floats(0.01, MAX_SECONDS))
def test_text_for_people_is_read_back_within_its_rounding(seconds: float) -> None:
    assert math.isclose(parse_duration(format_duration(seconds)), seconds, rel_tol=0.051)


@given(st.floats(0, MAX_SECONDS) | st.text(max_size=20) | st.integers())
def test_parsing_answers_a_bounded_number_or_refuses(value: float | str) -> None:
    try:
        seconds = parse_duration(value)
    except InvalidInput:
        return
    assert 0 <= seconds <= MAX_SECONDS
    assert to_micros(seconds) >= 0


def test_micros_are_rounded_to_the_nearest() -> None:
    assert to_micros(1.5) == 1_500_000
    assert to_micros(0.1 + 0.2) == 300_000
