"""Laws of values: what is stored comes back the same, and whatever is hostile is refused."""

from __future__ import annotations

import base64
import dataclasses
import enum
import json
from datetime import UTC, date, datetime, timedelta, tzinfo
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import pydantic
from hypothesis import assume, example, given
from hypothesis import strategies as st
from laws.json_values import JSONS, KEYS, PLAIN, TEXT, refusal

from ironflow.core.errors import ExpressionError, InvalidInput, NotSerializable, UnreadableValue
from ironflow.core.values.codec import (
    convert_input,
    decode_value,
    encode_plain,
    encode_value,
    is_plain,
    normalize,
)


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


ZONES = st.sampled_from([UTC, ZoneInfo("Europe/Berlin"), ZoneInfo("Australia/Lord_Howe")])
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
