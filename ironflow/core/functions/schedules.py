"""Cron schedules in a time zone, and what they do when the clocks change.

Nothing else imports croniter, and this does so for the first schedule: 1.7 MiB and 15 ms that a
server without one does not pay. Five fields are minute, hour, day of month, month, day of week; six
have seconds in front. Also `@hourly`, `@daily` and their like, and a prefix
`CRON_TZ=Europe/Berlin`. If both days are restricted, either will do.

Summer time: a schedule with fixed hours fires once per local time: only the first of two equal
times in autumn, and at the first instant after the gap in spring (once, however many of its times
fell into it). One whose hour field has a `*` follows real time: it fires in every real hour in
which the local clock shows one of its times, in both passes of a repeated hour, and never for a
time that did not exist.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from ironflow.core.clock import SECOND, from_datetime
from ironflow.core.errors import InvalidInput

ALIASES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
MAX_LENGTH = 256

_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - local times are naive here, on purpose
_LAST = datetime(9990, 1, 1)  # noqa: DTZ001
_SECOND = timedelta(seconds=1)
_DAY = 86_400 * SECOND
_PROBE = _DAY // 2
"""Steps in which changes of the offset are looked for; no zone changes twice in half a day."""

_PREFIX = re.compile(r"(?:CRON_TZ|TZ)=(\S+)\s+")
# Which characters and names a field may have: croniter would also take random (R) and odd (W) ones.
_NUMBERS = r"[0-9*,/-]+"
_MONTHS = "jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec"
_DAYS = "sun|mon|tue|wed|thu|fri|sat"
_LARGEST = {
    "second": 59,
    "minute": 59,
    "hour": 23,
    "day of month": 31,
    "month": 12,
    "day of week": 7,
}
_FIELDS = {
    "second": _NUMBERS,
    "minute": _NUMBERS,
    "hour": _NUMBERS,
    "day of month": r"[0-9*,/?-]+|(?:[0-9,/-]+,)?l",
    "month": rf"(?:[0-9*,/-]|{_MONTHS})+",
    "day of week": rf"(?:[0-9*,/?#-]|{_DAYS}|l(?=[0-7]))+",
}


@dataclass(frozen=True, slots=True)
class CronSchedule:
    """The times of a cron expression in a time zone; moments are microseconds since the epoch, UTC.

    Raises `InvalidInput` on construction, for `cron` or `timezone`.
    """

    expression: str
    timezone: str = "UTC"
    _zone: ZoneInfo = field(init=False, repr=False, compare=False)
    _cron: str = field(init=False, repr=False, compare=False)
    _follows_real_time: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        text, zone_name = _split_zone(self.expression, self.timezone)
        cron, hours = _check(text)
        for name, value in (
            ("expression", text),
            ("timezone", zone_name),
            ("_zone", _load_zone(zone_name)),
            ("_cron", cron),
            ("_follows_real_time", "*" in hours),
        ):
            object.__setattr__(self, name, value)

    def next_after(self, at: int) -> int:
        """The first time strictly later than `at`.

        Raises `InvalidInput` if there is none before year 9990.
        """
        if self.timezone == "UTC":
            return _to_micros(self._match_after(_from_micros(at)))
        if self._follows_real_time:
            return self._next_real(at)
        return self._next_fixed(at)

    def between(self, start: int, end: int, limit: int = 1000) -> list[int]:
        """The times from `start` up to `end`, both included, at most `limit` of them."""
        times: list[int] = []
        at = start - 1
        while len(times) < limit:
            at = self.next_after(at)
            if at > end:
                break
            times.append(at)
        return times

    def _match_after(self, local: datetime) -> datetime:
        """The next local time of the expression, time zones aside."""
        from croniter import CroniterError, croniter

        if local < _LAST:
            whole = local.replace(microsecond=0)
            try:
                found = croniter(self._cron, whole, second_at_beginning=True).get_next(datetime)
            except CroniterError as error:
                raise InvalidInput(
                    "cron", f"{self.expression!r} has no next time: {error}"
                ) from None
            assert isinstance(found, datetime)
            return found
        raise InvalidInput("cron", f"{self.expression!r} has no next time before year 9990")

    def _next_fixed(self, at: int) -> int:
        local = _local(at, self._zone)
        while True:
            local = self._match_after(local)
            moment = _to_utc(local, self._zone)
            # Not so for the second pass of a repeated hour, and for a gap whose end is past.
            if moment > at:
                return moment

    def _next_real(self, at: int) -> int:
        moment, local = at, _local(at, self._zone)
        while True:
            offset = _offset(moment, self._zone)
            found = _to_micros(self._match_after(local)) - offset
            change = _next_change(moment, found, self._zone)
            if change is None:
                return found
            # The clock changes before: look again from there, the instant of the change included.
            moment = change
            local = _local(change, self._zone) - _SECOND


def _split_zone(expression: object, timezone: object) -> tuple[str, str]:
    if not isinstance(expression, str):
        raise InvalidInput("cron", f"must be text, not {type(expression).__name__}")
    if not isinstance(timezone, str):
        raise InvalidInput("timezone", f"must be text, not {type(timezone).__name__}")
    if len(expression) > MAX_LENGTH:
        raise InvalidInput("cron", f"is longer than {MAX_LENGTH} characters")
    text = expression.strip()
    prefix = _PREFIX.match(text)
    if prefix is None:
        return text, timezone
    if timezone not in ("UTC", prefix[1]):
        raise InvalidInput("timezone", f"is {timezone!r}, but the expression says {prefix[1]!r}")
    return text[prefix.end() :], prefix[1]


def _load_zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # unknown, absolute path or odd text, a folder
        raise InvalidInput(
            "timezone", f"{name!r} is not a time zone; use names like 'Europe/Berlin' or 'UTC'"
        ) from None


def _check(text: str) -> tuple[str, str]:
    """The expression as croniter takes it, and its hour field."""
    if text.startswith("@"):
        cron = ALIASES.get(text.lower(), "")
        if not cron:
            raise InvalidInput("cron", f"{text!r} is unknown; there are {', '.join(ALIASES)}")
    else:
        cron = text.lower()
    fields = cron.split()
    if len(fields) not in (5, 6):
        raise InvalidInput(
            "cron",
            f"{text!r} has {len(fields)} fields: give minute, hour, day of month, month, "
            "day of week, with seconds in front if there are six",
        )
    names = list(_FIELDS)[6 - len(fields) :]
    for name, value in zip(names, fields, strict=True):
        if not re.fullmatch(_FIELDS[name], value):
            raise InvalidInput("cron", f"{text!r}: {value!r} is not a {name}")
        for step in re.findall(r"/([0-9]+)", value):
            if len(step) > 2 or int(step) > _LARGEST[name]:
                raise InvalidInput("cron", f"{text!r}: a step of {step} is too large for {name}")
    if re.search("[#l]", fields[-1]) and fields[-3] not in ("*", "?"):
        # croniter would take the one or the other, depending on the month.
        raise InvalidInput("cron", f"{text!r}: `#` and `L` need a `*` as day of month")
    from croniter import CroniterError, croniter

    cron = " ".join(fields)
    try:
        # A date that never comes (30 February) is found out here, not when it is too late.
        croniter(cron, _EPOCH, second_at_beginning=True).get_next(datetime)
    except (CroniterError, ValueError, KeyError, IndexError, TypeError) as error:
        reason = str(error).removeprefix(f"[{cron}] ")
        if "failed to find" in reason:
            reason = "that date never comes"
        raise InvalidInput("cron", f"{text!r}: {reason}") from None
    return cron, fields[-4]


def _from_micros(at: int) -> datetime:
    try:
        return _EPOCH + timedelta(microseconds=at)
    except OverflowError:
        raise InvalidInput("at", f"{at} is not a moment of the calendar") from None


def _to_micros(local: datetime) -> int:
    return (local - _EPOCH) // timedelta(microseconds=1)


def _offset(at: int, zone: ZoneInfo) -> int:
    """How far local time is ahead of UTC at a moment, in microseconds."""
    try:
        shift = _from_micros(at).replace(tzinfo=UTC).astimezone(zone).utcoffset()
    except OverflowError:
        raise InvalidInput("at", f"{at} is not a moment of the calendar") from None
    return 0 if shift is None else shift // timedelta(microseconds=1)


def _local(at: int, zone: ZoneInfo) -> datetime:
    return _from_micros(at + _offset(at, zone))


def _to_utc(local: datetime, zone: ZoneInfo) -> int:
    """The moment of a local time: the first of two, or the end of the gap into which it falls."""
    moment = from_datetime(local.replace(tzinfo=zone, fold=0))
    if _local(moment, zone) == local:
        return moment
    # In a gap, fold=0 counts with the offset before it and fold=1 with the one after (PEP 495).
    before = from_datetime(local.replace(tzinfo=zone, fold=1))
    return _bisect_change(before, moment, zone)


def _next_change(start: int, end: int, zone: ZoneInfo) -> int | None:
    """The first instant after `start`, up to `end`, from which on another offset holds."""
    for low, high in _probes(start, end):
        if _offset(high, zone) != _offset(low, zone):
            return _bisect_change(low, high, zone)
    return None


def _probes(start: int, end: int) -> Iterator[tuple[int, int]]:
    low = start
    while low < end:
        high = min(low + _PROBE, end)
        yield low, high
        low = high


def _bisect_change(low: int, high: int, zone: ZoneInfo) -> int:
    """The instant after `low`, up to `high`, from which the offset is no longer that of `low`."""
    offset = _offset(low, zone)
    while high - low > 1:
        middle = (low + high) // 2
        if _offset(middle, zone) == offset:
            low = middle
        else:
            high = middle
    return high
