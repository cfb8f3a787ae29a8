"""Laws of schedules: each moment once, in order, whatever the zone does."""

from __future__ import annotations

import string
from datetime import UTC, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st
from laws.json_values import TEXT, refusal

from ironflow.core.clock import to_datetime
from ironflow.core.errors import InvalidInput
from ironflow.core.functions.schedules import CronSchedule

YEAR = 365 * 86_400 * 10**6
MOMENTS = st.integers(30 * YEAR, 70 * YEAR)


# Around the changes of 2026, where mistakes live.
CHANGES = [1774746000, 1792890000, 1772953200, 1793512800, 1791046800, 1775314800]
NEAR = st.builds(
    lambda base, shift: base * 10**6 + shift,
    st.sampled_from(CHANGES),
    st.integers(-4 * 3600 * 10**6, 4 * 3600 * 10**6),
)
CRONS = st.sampled_from(
    [
        "* * * * *",
        "*/7 * * * *",
        "30 * * * *",
        "0 */2 * * *",
        "30 2 * * *",
        "15,45 1,2,3 * * *",
        "*/10 2 * * *",
        "0 0 * * *",
        "59 23 * * *",
        "0 9 * * 1-5",
        "*/30 */5 * * * *",
        "5 0 2 * * *",
        "0 0 1 * *",
        "30 1-3 * * 0",
        "30 * * * 0",
    ]
)
ZONE_NAMES = st.sampled_from(
    [
        "UTC",
        "Europe/Berlin",
        "America/New_York",
        "Australia/Lord_Howe",
        "Asia/Kolkata",
        "Africa/Cairo",
    ]
)


@given(CRONS, ZONE_NAMES, MOMENTS | NEAR)
def test_times_grow_strictly_and_are_the_same_from_any_point_between(
    cron: str, zone: str, start: int
) -> None:
    schedule = CronSchedule(cron, zone)
    times = [schedule.next_after(start)]
    for _ in range(4):
        times.append(schedule.next_after(times[-1]))
    assert start < times[0]
    assert all(a < b for a, b in pairwise(times))
    for before, after in zip([start, *times], times, strict=False):
        for point in (before, (before + after) // 2, after - 1):
            assert schedule.next_after(point) == after
    assert schedule.between(start + 1, times[-1]) == times
    assert all(time % 10**6 == 0 for time in times)


@given(ZONE_NAMES, NEAR, st.integers(0, 59))
def test_an_hourly_schedule_fires_whenever_the_clock_shows_its_minute(
    zone: str, start: int, minute: int
) -> None:
    schedule = CronSchedule(f"{minute} * * * *", zone)
    end = start + 6 * 3600 * 10**6
    first = -(-start // 60_000_000)
    expected = [
        at * 60_000_000
        for at in range(first, end // 60_000_000 + 1)
        if to_datetime(at * 60_000_000).astimezone(ZoneInfo(zone)).minute == minute
    ]
    assert schedule.between(start, end) == expected


@given(ZONE_NAMES, NEAR, st.integers(0, 23), st.integers(0, 59))
def test_a_fixed_time_fires_once_on_each_local_day(
    zone: str, start: int, hour: int, minute: int
) -> None:
    schedule = CronSchedule(f"{minute} {hour} * * *", zone)
    times = schedule.between(start, start + 5 * 86_400 * 10**6)
    local = [to_datetime(time).astimezone(ZoneInfo(zone)) for time in times]
    days = [moment.date() for moment in local]
    assert days == [days[0] + timedelta(days=n) for n in range(len(days))]
    assert len(days) in (4, 5, 6)
    for moment in local:
        assert moment.fold == 0
        on_time = (moment.hour, moment.minute) == (hour, minute)
        wanted = moment.replace(hour=hour, minute=minute, second=0, microsecond=0)
        real = wanted.astimezone(UTC).astimezone(ZoneInfo(zone)).replace(tzinfo=None)
        assert on_time == (real == wanted.replace(tzinfo=None))


@given(st.text(max_size=20) | st.text(string.digits + "*/-,# LR?@", min_size=9, max_size=20), TEXT)
def test_any_text_is_a_schedule_or_refused(expression: str, zone: str) -> None:
    for name in (zone, "UTC"):
        refused = refusal(InvalidInput, lambda: CronSchedule(expression, name))  # noqa: B023
        if refused is not None:
            assert refused.field in ("cron", "timezone")
        else:
            assert CronSchedule(expression, name).next_after(0) > 0
