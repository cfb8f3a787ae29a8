"""Laws of the pure core, over generated values: codec, expressions, patterns, schedules."""

from __future__ import annotations

import base64
import dataclasses
import enum
import json
import string
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, tzinfo
from decimal import Decimal
from itertools import pairwise
from typing import Any, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import pydantic
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from ironflow.core.clock import to_datetime
from ironflow.core.errors import ExpressionError, InvalidInput, NotSerializable, UnreadableValue
from ironflow.core.expressions import MISSING, compile_expression, compile_path
from ironflow.core.patterns import PatternIndex, compile_pattern
from ironflow.core.schedules import CronSchedule
from ironflow.core.values import (
    convert_input,
    decode_value,
    encode_plain,
    encode_value,
    is_plain,
    normalize,
)

E = TypeVar("E", bound=Exception)


def refusal(kind: type[E], call: Callable[[], object]) -> E | None:
    """The expected error of a call, or None if there is none; any other error fails the test."""
    try:
        call()
    except kind as error:
        return error
    return None


# -- values ----------------------------------------------------------------------------------------


@dataclasses.dataclass
class Box:
    content: Any
    label: str = ""


class Crate(msgspec.Struct, frozen=True):
    content: Any
    size: int = 0


class Parcel(pydantic.BaseModel):
    content: Any = None
    weight: float = 0.0


class Color(enum.Enum):
    RED = 1
    BLUE = 2


TEXT = st.text(max_size=8)
KEYS = TEXT | st.sampled_from(["$type", "$dict", "$", "$uuid", "a"])
ZONES = st.sampled_from([UTC, ZoneInfo("Europe/Berlin"), ZoneInfo("Australia/Lord_Howe")])
PLAIN = (
    st.none()
    | st.booleans()
    | st.integers()
    | TEXT
    | st.floats(allow_nan=False, allow_infinity=False)
)
SCALARS = (
    PLAIN
    | st.uuids()
    | st.binary(max_size=8)
    | st.dates()
    | st.timedeltas()
    | st.datetimes()
    | st.datetimes(timezones=ZONES)
    | st.decimals()
    | st.sampled_from(Color)
)


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return (
        st.lists(inner, max_size=4)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.builds(Box, inner, TEXT)
        | st.builds(Crate, inner, st.integers())
        | st.builds(
            lambda content, weight: Parcel(content=content, weight=weight),
            inner,
            st.floats(allow_nan=False, allow_infinity=False),
        )
    )


VALUES = st.recursive(SCALARS, containers, max_leaves=12)
JSONS = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4)
)


def shape(value: object) -> object:
    """A value as something whose equality tells types, zones, signs and order of keys apart."""
    match value:
        case list():
            return [shape(item) for item in value]
        case dict():
            return [(key, shape(item)) for key, item in value.items()]
        case Box():
            return ("box", shape(value.content), value.label)
        case Crate():
            return ("crate", shape(value.content), value.size)
        case Parcel():
            return ("parcel", shape(value.content), repr(value.weight))
        case datetime():
            return ("datetime", value.replace(tzinfo=None), value.fold, str(value.tzinfo))
        case _:
            return (type(value), repr(value))


@given(VALUES)
def test_decoding_undoes_encoding(value: object) -> None:
    data = encode_value(value, "s")
    assert shape(decode_value(data)) == shape(value)
    assert encode_value(decode_value(data), "s") == data


@given(VALUES)
def test_live_and_replayed_code_see_the_same(value: object) -> None:
    data, live = normalize(value, "s")
    assert shape(live) == shape(decode_value(data))
    if is_plain(value):
        assert json.loads(data) == value


@given(VALUES)
def test_the_plain_form_has_no_tags_of_ours(value: object) -> None:
    seen = json.loads(encode_plain(value, "s"))
    assert seen == plain(value)


def plain(value: object) -> object:
    """The model of the untagged form."""
    match value:
        case list():
            return [plain(item) for item in value]
        case dict():
            return {key: plain(item) for key, item in value.items()}
        case Box():
            return {"content": plain(value.content), "label": value.label}
        case Crate():
            return {"content": plain(value.content), "size": value.size}
        case Parcel():
            return {"content": plain(value.content), "weight": value.weight}
        case Color():
            return value.value
        case datetime() | date():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case UUID() | Decimal():
            return str(value)
        case bytes():
            return base64.b64encode(value).decode()
        case _:
            return value


class Nasty:
    """Answers every question with an exception."""

    def __getattribute__(self, name: str) -> object:
        raise RuntimeError(name)

    def __iter__(self) -> object:
        raise RuntimeError

    def __eq__(self, other: object) -> bool:
        raise RuntimeError

    def __hash__(self) -> int:
        return 1

    def __repr__(self) -> str:
        raise RuntimeError


class NastyMeta(type):
    def __getattr__(cls, name: str) -> object:
        return name


class Claims(metaclass=NastyMeta):
    """A class that seems to have any attribute."""


class NastyDict(dict[Any, Any]):
    def items(self) -> Any:
        raise RuntimeError

    def __iter__(self) -> Any:
        raise RuntimeError


class NastyText(str):
    __slots__ = ()

    def __str__(self) -> str:
        raise RuntimeError

    def encode(self, *_: object) -> bytes:  # type: ignore[override]
        raise RuntimeError


@dataclasses.dataclass
class NastyFields:
    x: int

    @property
    def y(self) -> int:
        raise RuntimeError

    def __getattribute__(self, name: str) -> object:
        if name == "x":
            raise RuntimeError
        return object.__getattribute__(self, name)


class NastyZone(tzinfo):  # type: ignore[misc]
    def utcoffset(self, when: object) -> timedelta:
        raise RuntimeError


ODDITIES: list[Any] = [
    Nasty(),
    Nasty,
    Claims(),
    Claims,
    NastyDict(a=1),
    NastyText("x"),
    NastyFields(1),
    {NastyText("k"): 1},
    datetime(2020, 1, 1, tzinfo=NastyZone()),
    float("nan"),
    {1, 2},
    range(3),
    (1, 2),
    "\ud800",
    object(),
    ...,
    NotImplemented,
    print,
    lambda: 1,
    memoryview(b""),
    {None: 1},
    Box,
    Color,
    10**5000,
    type,
    json,
    1j,
    frozenset(),
    ExpressionError("a", "b"),
    {"\udfff": 1},
    b"",
    bytearray(),
    datetime.max.time(),
]
# By number, for hypothesis asks the elements of a choice for their names, and some answer badly.
ODD = st.integers(0, len(ODDITIES) - 1).map(lambda number: ODDITIES[number])


@given(
    st.recursive(
        SCALARS | ODD, lambda inner: containers(inner) | st.tuples(inner, inner), max_leaves=8
    )
)
def test_encoding_refuses_odd_objects_in_one_way_only(value: object) -> None:
    for encode in (encode_value, encode_plain, normalize):
        refused = refusal(NotSerializable, lambda: encode(value, "step"))  # noqa: B023
        if refused is not None:
            assert refused.step == "step"
            assert refused.path.startswith("$")


TAGS = st.sampled_from(
    [
        "$type",
        "$enum",
        "$uuid",
        "$datetime",
        "$date",
        "$timedelta",
        "$bytes",
        "$decimal",
        "$int",
        "$dict",
        "$x",
        "value",
        "zone",
        "fold",
        "content",
    ]
)
HOSTILE = st.recursive(
    PLAIN
    | st.sampled_from([f"{__name__}:Box", f"{__name__}:Color", "os:path", "enum:Enum", "UTC"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TAGS, inner, max_size=3),
)


@given(HOSTILE)
@example({"$type": f"{__name__}:Box", "content": 1, "$type2": 2})
@example({"$datetime": "2020-01-01", "zone": 5, "fold": []})
@example({"$enum": "enum:Enum", "value": "x"})
def test_decoding_hostile_json_fails_in_one_way_only(value: object) -> None:
    try:
        data = msgspec.json.encode(value)
    except UnicodeEncodeError:
        assume(False)
    refused = refusal(UnreadableValue, lambda: decode_value(data))
    assert refused is None or refused.path.startswith("$")


@given(st.binary(max_size=30) | st.text(max_size=30))
def test_decoding_any_bytes_fails_in_one_way_only(data: bytes | str) -> None:
    refusals = (
        refusal(UnreadableValue, lambda: decode_value(data)),
        refusal(InvalidInput, lambda: convert_input(data)),
    )
    if any(refused is None for refused in refusals):
        msgspec.json.decode(data)  # only what is JSON can be the one or the other


@given(
    JSONS,
    st.sampled_from([Box, Crate, Parcel, int, list[Box], dict[str, Parcel], Color, UUID, None]),
)
def test_input_is_converted_or_refused_as_input(value: object, kind: Any) -> None:
    data = msgspec.json.encode(value)
    refused = refusal(InvalidInput, lambda: convert_input(data, kind, "input"))
    assert refused is None or refused.field.startswith("input")


# -- expressions -----------------------------------------------------------------------------------

VARIABLES = frozenset({"event", "data"})
WORDS = st.sampled_from(
    [
        "event",
        "data",
        ".",
        "name",
        "a",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        ",",
        ":",
        "?",
        "&&",
        "||",
        "!",
        "-",
        "+",
        "*",
        "/",
        "%",
        "==",
        "!=",
        "<",
        ">",
        "<=",
        ">=",
        "in",
        "1",
        "2.5",
        '"x"',
        "'a'",
        "true",
        "null",
        "has(",
        "size(",
        "int(",
        "string(",
        ".startsWith(",
        ".matches(",
        "0x",
        "\\",
        "__class__",
        " ",
    ]
)


@given(
    st.text(max_size=40)
    | st.lists(WORDS, max_size=16).map(" ".join)
    | st.lists(WORDS).map("".join),
    JSONS,
)
@settings(max_examples=400)
def test_any_text_is_an_expression_or_refused(text: str, data: object) -> None:
    try:
        expression = compile_expression(text, VARIABLES)
    except ExpressionError:
        return
    bindings = {"event": {"name": "x", "data": data}, "data": data}
    assert expression.matches(bindings) in (True, False)
    try:
        assert expression.matches(bindings) is (expression.evaluate(bindings) is True)
    except ExpressionError:
        assert not expression.matches(bindings)


OPERATORS = {"&&": "and", "||": "or", "!": "not "}
NUMBERS = st.integers(0, 9).map(str)


def binary(operators: list[str]) -> Any:
    def join(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        return st.tuples(inner, st.sampled_from(operators), inner).map(" ".join) | inner.map(
            lambda text: f"({text})"
        )

    return join


SUMS = st.recursive(NUMBERS, binary(["+", "-", "*"]), max_leaves=6)
COMPARED = st.tuples(SUMS, st.sampled_from(["==", "!=", "<", "<=", ">", ">="]), SUMS).map(" ".join)
CONDITIONS = st.recursive(
    COMPARED | st.sampled_from(["true", "false"]),
    lambda inner: binary(["&&", "||"])(inner) | inner.map(lambda text: f"!({text})"),
    max_leaves=6,
)


def python(text: str) -> object:
    for ours, theirs in {
        "&&": " and ",
        "||": " or ",
        "!(": " not (",
        "true": "True",
        "false": "False",
    }.items():
        text = text.replace(ours, theirs)
    return eval(text.strip(), {"__builtins__": {}})


@given(SUMS | CONDITIONS)
@settings(max_examples=400)
def test_precedence_is_pythons(text: str) -> None:
    assert compile_expression(text, frozenset()).evaluate({}) == python(text)


@given(CONDITIONS, SUMS, SUMS)
def test_a_choice_is_pythons_conditional(condition: str, yes: str, no: str) -> None:
    found = compile_expression(f"{condition} ? {yes} : {no}", frozenset()).evaluate({})
    assert found == (python(yes) if python(condition) else python(no))


@given(st.integers(-(10**9), 10**9), st.integers(-(10**9), 10**9).filter(bool))
def test_division_cuts_towards_zero(a: int, b: int) -> None:
    quotient: Any = compile_expression(f"({a}) / ({b})", frozenset()).evaluate({})
    rest: Any = compile_expression(f"({a}) % ({b})", frozenset()).evaluate({})
    assert quotient * b + rest == a
    assert abs(rest) < abs(b)
    assert rest == 0 or (rest < 0) == (a < 0)


@given(JSONS, JSONS)
def test_equality_is_an_equivalence_that_tells_truth_from_numbers(a: object, b: object) -> None:
    equal = compile_expression("event == data", VARIABLES)
    assert equal.matches({"event": a, "data": a})
    assert equal.matches({"event": a, "data": b}) == equal.matches({"event": b, "data": a})
    assert equal.matches({"event": a, "data": b}) == (numbered(a) == numbered(b))


def numbered(value: object) -> object:
    if isinstance(value, bool):
        return ("bool", value)
    if isinstance(value, list):
        return [numbered(item) for item in value]
    if isinstance(value, dict):
        return {key: numbered(item) for key, item in value.items()}
    return value


@given(JSONS, st.lists(st.sampled_from(["a", "b"]) | st.integers(0, 3), min_size=1, max_size=4))
def test_a_path_finds_what_indexing_finds(value: object, steps: list[str | int]) -> None:
    text = "".join(
        f"[{step}]" if isinstance(step, int) else f".{step}" for step in ["root", *steps]
    )
    found: Any = {"root": value}
    try:
        for step in ["root", *steps]:
            if isinstance(found, str):
                raise KeyError(step)
            found = found[step]
    except (KeyError, IndexError, TypeError):
        found = MISSING
    assert compile_path(text[1:]).get({"root": value}) is found


# -- patterns --------------------------------------------------------------------------------------

SEGMENTS = st.sampled_from(["a", "b", "c"])
NAMES = st.lists(SEGMENTS, min_size=1, max_size=4).map(".".join)
PATTERNS = st.builds(
    lambda parts, tail: ".".join([*parts, *tail]),
    st.lists(SEGMENTS | st.just("*"), max_size=3),
    st.sampled_from([[], [">"]]),
).filter(bool)


@given(st.lists(st.tuples(st.booleans(), PATTERNS), max_size=20), NAMES)
def test_the_index_finds_what_a_list_of_patterns_finds(
    changes: list[tuple[bool, str]], name: str
) -> None:
    index: PatternIndex[list[str]] = PatternIndex()
    model: list[list[str]] = []
    for add, pattern in changes:
        held = [value for value in model if value[0] == pattern]
        if add or not held:
            value = [pattern]
            index.add(pattern, value)
            model.append(value)
        else:
            assert index.remove(pattern, held[0])
            model = [value for value in model if value is not held[0]]
    expected = [value for value in model if compile_pattern(value[0]).matches(name)]
    found = index.find(name)
    assert len(found) == len(expected)
    assert all(a is b for a, b in zip(found, expected, strict=True))
    assert len(index) == len(model)


# -- schedules -------------------------------------------------------------------------------------

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
