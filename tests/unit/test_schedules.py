from __future__ import annotations

import pickle
from datetime import datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from ironflow.core.clock import from_datetime, to_datetime, to_rfc3339
from ironflow.core.errors import InvalidInput
from ironflow.core.functions.schedules import ALIASES, CronSchedule


def at(text: str, zone: str = "UTC") -> int:
    return from_datetime(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)))


def fires(cron: str, zone: str, start: str, count: int) -> list[str]:
    """The next times as local text with their offset."""
    schedule, now, found = CronSchedule(cron, zone), at(start, zone), []
    for _ in range(count):
        now = schedule.next_after(now)
        found.append(to_datetime(now).astimezone(ZoneInfo(zone)).strftime("%m-%d %H:%M:%S%z"))
    return found


FIXED = [
    # spring: 02:30 does not exist, so the first instant after the gap; autumn: the first of two
    ("Europe/Berlin", "2026-03-28T12:00", ["03-29 03:00:00+0200", "03-30 02:30:00+0200"]),
    ("Europe/Berlin", "2026-10-24T12:00", ["10-25 02:30:00+0200", "10-26 02:30:00+0100"]),
    ("America/New_York", "2026-03-07T12:00", ["03-08 03:00:00-0400", "03-09 02:30:00-0400"]),
    ("Europe/London", "2026-10-24T12:00", ["10-25 02:30:00+0000", "10-26 02:30:00+0000"]),
    # half an hour: 02:00 becomes 02:30 in spring, 02:00 becomes 01:30 in autumn
    ("Australia/Lord_Howe", "2026-10-03T12:00", ["10-04 02:30:00+1100", "10-05 02:30:00+1100"]),
    ("UTC", "2026-03-28T12:00", ["03-29 02:30:00+0000", "03-30 02:30:00+0000"]),
    ("UTC", "2026-10-24T12:00", ["10-25 02:30:00+0000", "10-26 02:30:00+0000"]),
    # a whole day that Samoa left out, and one midnight that does not exist
    ("Pacific/Apia", "2011-12-29T12:00", ["12-31 00:00:00+1400", "12-31 02:30:00+1400"]),
]


@pytest.mark.parametrize(("zone", "start", "expected"), FIXED)
def test_half_past_two_across_the_change(zone: str, start: str, expected: list[str]) -> None:
    assert fires("30 2 * * *", zone, start, len(expected)) == expected


@pytest.mark.parametrize(
    ("zone", "start", "expected"),
    [
        ("America/New_York", "2026-10-31T12:00", ["11-01 01:30:00-0400", "11-02 01:30:00-0500"]),
        ("Australia/Lord_Howe", "2026-04-04T12:00", ["04-05 01:30:00+1100", "04-06 01:30:00+1030"]),
        ("Australia/Lord_Howe", "2026-10-03T12:00", ["10-04 01:30:00+1030", "10-05 01:30:00+1100"]),
    ],
)
def test_half_past_one_across_the_change(zone: str, start: str, expected: list[str]) -> None:
    assert fires("30 1 * * *", zone, start, len(expected)) == expected


def test_several_times_in_one_gap_fire_once() -> None:
    assert fires("*/15 2 * * *", "Europe/Berlin", "2026-03-28T12:00", 3) == [
        "03-29 03:00:00+0200",
        "03-30 02:00:00+0200",
        "03-30 02:15:00+0200",
    ]
    # The end of the gap is one of its times as well.
    assert fires("0 2,3 * * *", "Europe/Berlin", "2026-03-29T00:00", 2) == [
        "03-29 03:00:00+0200",
        "03-30 02:00:00+0200",
    ]


WILD = [
    (
        "30 * * * *",
        "Europe/Berlin",
        "2026-03-29T00:45",
        ["03-29 01:30:00+0100", "03-29 03:30:00+0200", "03-29 04:30:00+0200"],
    ),
    (
        "30 * * * *",
        "Europe/Berlin",
        "2026-10-25T01:45",
        ["10-25 02:30:00+0200", "10-25 02:30:00+0100", "10-25 03:30:00+0100"],
    ),
    (
        "0 */2 * * *",
        "America/New_York",
        "2026-11-01T00:00",
        ["11-01 02:00:00-0500", "11-01 04:00:00-0500"],
    ),
    (
        "0 * * * *",
        "America/New_York",
        "2026-11-01T00:30",
        ["11-01 01:00:00-0400", "11-01 01:00:00-0500", "11-01 02:00:00-0500"],
    ),
    (
        "45 * * * *",
        "Australia/Lord_Howe",
        "2026-04-05T01:00",
        ["04-05 01:45:00+1100", "04-05 01:45:00+1030", "04-05 02:45:00+1030"],
    ),
    (
        "15 * * * *",
        "Australia/Lord_Howe",
        "2026-10-04T01:00",
        ["10-04 01:15:00+1030", "10-04 03:15:00+1100"],
    ),
    ("0 * * * *", "UTC", "2026-10-25T00:30", ["10-25 01:00:00+0000", "10-25 02:00:00+0000"]),
    # Rare, and its last hour of the day is repeated: Cairo turns back at midnight.
    (
        "30 * 31 10 *",
        "Africa/Cairo",
        "2024-10-31T22:45",
        ["10-31 23:30:00+0300", "10-31 23:30:00+0200", "10-31 00:30:00+0200"],
    ),
]


@pytest.mark.parametrize(("cron", "zone", "start", "expected"), WILD)
def test_a_star_for_the_hour_follows_real_time(
    cron: str, zone: str, start: str, expected: list[str]
) -> None:
    assert fires(cron, zone, start, len(expected)) == expected


def test_every_quarter_hour_is_a_quarter_hour_through_both_changes() -> None:
    for day in ("2026-03-28T20:00", "2026-10-24T20:00"):
        times = CronSchedule("*/15 * * * *", "Europe/Berlin").between(
            at(day), at(day) + 12 * 3600 * 10**6
        )
        assert {b - a for a, b in pairwise(times)} == {900 * 10**6}


def test_the_next_time_is_strictly_later_to_the_microsecond() -> None:
    schedule = CronSchedule("0 12 * * *")
    noon = at("2026-05-05T12:00")
    assert schedule.next_after(noon - 1) == noon
    assert schedule.next_after(noon) == noon + 86400 * 10**6
    assert schedule.next_after(-(10**15)) < 0


def test_between_includes_both_ends_and_stops_at_the_limit() -> None:
    schedule = CronSchedule("0 * * * *")
    start, end = at("2026-05-05T12:00"), at("2026-05-05T14:00")
    assert [to_rfc3339(t)[11:16] for t in schedule.between(start, end)] == [
        "12:00",
        "13:00",
        "14:00",
    ]
    assert len(schedule.between(start, end, 2)) == 2
    assert schedule.between(end, start) == []


@pytest.mark.parametrize(
    ("cron", "expected"),
    [
        ("*/20 * * * * *", ["01-01 00:00:20+0000", "01-01 00:00:40+0000"]),
        ("0 0 * * fri", ["01-02 00:00:00+0000", "01-09 00:00:00+0000"]),
        ("0 0 * * 7", ["01-04 00:00:00+0000", "01-11 00:00:00+0000"]),
        ("0 0 L * *", ["01-31 00:00:00+0000", "02-28 00:00:00+0000"]),
        ("0 0 * * MON#2", ["01-12 00:00:00+0000", "02-09 00:00:00+0000"]),
        ("0 0 * * L5", ["01-30 00:00:00+0000", "02-27 00:00:00+0000"]),
        ("0 0 13 * fri", ["01-02 00:00:00+0000", "01-09 00:00:00+0000", "01-13 00:00:00+0000"]),
        ("@hourly", ["01-01 01:00:00+0000"]),
        ("@Weekly", ["01-04 00:00:00+0000"]),
        ("0 0 29 2 *", ["02-29 00:00:00+0000"]),
    ],
)
def test_spellings(cron: str, expected: list[str]) -> None:
    assert fires(cron, "UTC", "2026-01-01T00:00:00", len(expected)) == expected


def test_every_alias_is_a_schedule() -> None:
    for name, meaning in ALIASES.items():
        assert CronSchedule(name).next_after(0) == CronSchedule(meaning).next_after(0)


def test_the_zone_may_stand_in_the_expression() -> None:
    schedule = CronSchedule("CRON_TZ=Europe/Berlin 0 9 * * *")
    assert schedule == CronSchedule("0 9 * * *", "Europe/Berlin")
    assert schedule == pickle.loads(pickle.dumps(schedule))
    with pytest.raises(InvalidInput) as caught:
        CronSchedule("CRON_TZ=Europe/Berlin 0 9 * * *", "Asia/Tokyo")
    assert caught.value.field == "timezone"


@pytest.mark.parametrize(
    "cron",
    [
        "",
        "* * * *",
        "* * * * * * *",
        "60 * * * *",
        "0 24 * * *",
        "0 0 30 2 *",
        "0 0 31 4,6 *",
        "@every 5m",
        "@reboot",
        "R * * * *",
        "H * * * *",
        "0 0 1W * *",
        "*/0 * * * *",
        "*/61 * * * *",
        "0 */25 * * *",
        "1,,2 * * * *",
        "a b c d e",
        "0 0 * * 9",
        "0 0 * foo *",
        "0 0 13 * fri#2",
        "x" * 300,
        None,
        5,
        "0 0 ? ? * ?",
        "* * * * * \x00",
        "٣ * * * *",
        "1-99999999999 * * * *",
    ],
)
def test_expressions_that_are_refused(cron: object) -> None:
    with pytest.raises(InvalidInput) as caught:
        CronSchedule(cron)  # type: ignore[arg-type]
    assert caught.value.field == "cron"


@pytest.mark.parametrize(
    "zone", ["", "Mars", "../etc/passwd", "/etc/passwd", "America", "+02:00", None, "a\x00"]
)
def test_zones_that_are_refused(zone: object) -> None:
    with pytest.raises(InvalidInput) as caught:
        CronSchedule("* * * * *", zone)  # type: ignore[arg-type]
    assert caught.value.field == "timezone"


def test_past_the_end_of_the_calendar_is_a_clear_refusal() -> None:
    for zone in ("UTC", "Europe/Berlin"):
        for cron in ("0 0 * * *", "0 * * * *"):
            for moment in (10**18, at("9995-01-01T00:00"), -(10**18)):
                with pytest.raises(InvalidInput):
                    CronSchedule(cron, zone).next_after(moment)


def test_a_schedule_is_frozen() -> None:
    with pytest.raises(AttributeError):
        CronSchedule("* * * * *").expression = "x"  # type: ignore[misc]
