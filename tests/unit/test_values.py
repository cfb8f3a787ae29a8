"""Values that steps take and return: every stored form, what is refused, and where."""

from __future__ import annotations

import dataclasses
import enum
import json
import subprocess
import sys
import threading
from collections import OrderedDict
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from types import ModuleType
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import pytest
from value_types import Address, Customer

from ironflow.core.errors import NotSerializable, UnreadableValue
from ironflow.core.values.codec import (
    MAX_DEPTH,
    decode_value,
    encode_plain,
    encode_value,
    is_plain,
    normalize,
)


@dataclasses.dataclass
class Item:
    sku: str
    qty: int = 1


@dataclasses.dataclass(frozen=True, slots=True)
class Point:
    x: int
    y: int = 0


@dataclasses.dataclass
class Derived:
    name: str
    length: int = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.length = len(self.name)
        self.name = self.name + "!"
        self.cache = {"not": "a field"}


class Money(msgspec.Struct, frozen=True, rename="camel"):
    total_amount: Decimal
    currency: str = "EUR"


class Shout(msgspec.Struct):
    text: str

    def __post_init__(self) -> None:
        self.text += "!"


class Color(enum.Enum):
    RED = 1
    BLUE = "b"


class Outer:
    class Inner(enum.Enum):
        DEEP = 1


class Level(enum.IntEnum):
    HIGH = 3


class Name(enum.StrEnum):
    ANNA = "anna"


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


@dataclasses.dataclass
class Mixed:
    a: int


class MixedEnum(Mixed, enum.Enum):
    ONE = 1


class Pair(NamedTuple):
    a: int
    b: int


BERLIN = ZoneInfo("Europe/Berlin")
BACK = [
    None,
    True,
    0,
    -1,
    2**64,
    -(10**30),
    10**5000,
    1.0,
    -0.0,
    1e300,
    "",
    "größe 😀",
    "$5",
    [],
    {},
    [[], {}],
    {"a": [1, {"b": None}]},
    {"": 1},
    {"$type": "x:Y"},
    {"$dict": []},
    {"a": {"$uuid": 1, "b": b"x"}},
    [{"$": {"$$": {}}}],
    UUID(int=5),
    b"",
    b"\x00\xff",
    Decimal("1.10"),
    Decimal("-Infinity"),
    date(2020, 2, 29),
    date.min,
    date.max,
    datetime.fromisoformat("2020-01-01"),
    datetime.fromisoformat("2020-01-01T01:02:03.000004"),
    datetime.fromisoformat("9999-12-31T23:59:59.999999"),
    datetime.fromisoformat("0001-01-01T00:00:00"),
    datetime(2020, 1, 1, tzinfo=UTC),
    datetime(2020, 1, 1, tzinfo=timezone(timedelta(hours=-3, minutes=-30))),
    datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN),
    datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=1),
    timedelta(0),
    timedelta(microseconds=1),
    timedelta(days=-1, microseconds=7),
    timedelta.max,
    timedelta.min,
    timedelta(days=40000, microseconds=1),
    Color.RED,
    Color.BLUE,
    Outer.Inner.DEEP,
    Level.HIGH,
    Name.ANNA,
    Rights.READ | Rights.WRITE,
    Rights(0),
    MixedEnum.ONE,
    Item("a"),
    Point(1, 2),
    Derived("x"),
    Money(Decimal("1.5")),
    Shout("hi"),
    Address(city="Köln", since=date(2020, 1, 1)),
    Customer(fullName="A", addresses=[Address(city="B")], vip=UUID(int=1)),
    {"k": [Item("a", 2), {"m": Money(Decimal(2))}]},
    Item(sku=Point(1), qty=[Level.HIGH]),  # type: ignore[arg-type]
]


def same(left: object, right: object) -> bool:
    """Equal, and of equal types all the way down."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict) and isinstance(right, dict):
        return list(left) == list(right) and all(same(left[k], right[k]) for k in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    if dataclasses.is_dataclass(left) and not isinstance(left, enum.Enum):
        names = [each.name for each in dataclasses.fields(left)]
        return all(same(getattr(left, name), getattr(right, name)) for name in names)
    if isinstance(left, datetime) and isinstance(right, datetime):
        zones = left.tzinfo == right.tzinfo and left.fold == right.fold
        return zones and left.replace(tzinfo=None) == right.replace(tzinfo=None)
    return repr(left) == repr(right) if isinstance(left, float | Decimal) else left == right


@pytest.mark.parametrize("value", BACK, ids=lambda value: f"{type(value).__name__}")
def test_what_is_stored_comes_back(value: object) -> None:
    data = encode_value(value, "s")
    assert same(decode_value(data), value)
    assert same(decode_value(data.decode()), value)
    stored, seen = normalize(value, "s")
    assert stored == data
    assert same(seen, value)


def test_a_value_seen_is_not_the_callers_own() -> None:
    value = {"a": [1]}
    _, seen = normalize(value, "s")
    assert seen == value
    assert seen is not value
    text = "x" * 100
    assert normalize(text, "s")[1] is text


def test_tuples_and_subclasses_become_what_json_has() -> None:
    _, seen = normalize({"t": (1, (2,)), "p": Pair(1, 2), "o": OrderedDict(a=1)}, "s")
    assert same(seen, {"t": [1, [2]], "p": [1, 2], "o": {"a": 1}})
    assert same(normalize({Name.ANNA: 1}, "s")[1], {"anna": 1})


def test_a_constructor_runs_and_the_fields_are_what_was_stored() -> None:
    _, seen = normalize(Derived("ab"), "s")
    assert isinstance(seen, Derived)
    assert (seen.name, seen.length) == ("ab!", 2)
    assert seen.cache == {"not": "a field"}


def test_the_stored_form_does_not_change() -> None:
    # Old journals hold these bytes.
    name = __name__
    assert encode_value(Point(1, 2), "s") == b'{"$type":"%s:Point","x":1,"y":2}' % name.encode()
    assert encode_value(Outer.Inner.DEEP, "s") == (
        b'{"$enum":"%s:Outer.Inner","value":"DEEP"}' % name.encode()
    )
    assert encode_value({"$a": (b"abc", UUID(int=1))}, "s") == (
        b'{"$dict":[["$a",[{"$bytes":"YWJj"},{"$uuid":"00000000-0000-0000-0000-000000000001"}]]]}'
    )
    assert encode_value(datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=1), "s") == (
        b'{"$datetime":"2026-10-25T02:30:00+01:00","zone":"Europe/Berlin","fold":1}'
    )
    assert encode_value(timedelta(seconds=1.5), "s") == b'{"$timedelta":1.5}'
    assert encode_value({"b": 1, "a": None}, "s") == b'{"b":1,"a":null}'


class Silent:
    pass


def cyclic() -> list[object]:
    found: list[object] = [1]
    found.append({"self": found})
    return found


def nested(depth: int) -> object:
    found: object = 1
    for _ in range(depth):
        found = [found]
    return found


def local_class() -> object:
    @dataclasses.dataclass
    class Local:
        x: int

    return Local(1)


def half_made() -> Point:
    return object.__new__(Point)


@pytest.mark.parametrize(
    ("value", "path", "kind", "reason"),
    [
        (
            {"items": [1, 2, 3, {"lock": threading.Lock()}]},
            "$.items[3].lock",
            "_thread.lock",
            "JSON",
        ),
        ({1, 2}, "$", "set", ""),
        ([Silent()], "$[0]", f"{__name__}.Silent", ""),
        (Item("a", {1}), "$.qty", "set", ""),  # type: ignore[arg-type]
        (Point, "$", "type", ""),
        (len, "$", "builtin_function_or_method", ""),
        (float("nan"), "$", "float", "NaN"),
        ({"a": (1, float("-inf"))}, "$.a[1]", "float", "NaN"),
        ({"a": {1: 2}}, "$.a", "int", "keys"),
        ({b"x": 2}, "$", "bytes", "keys"),
        ({"a b": {None: 1}}, "$['a b']", "NoneType", "keys"),
        ({"x": "\ud800"}, "$.x", "str", "surrogate"),
        ({"\ud800": 1}, "$['\\ud800']", "str", "surrogate"),
        (cyclic(), "$[1].self", "list", "contains itself"),
        (bytearray(b"x"), "$", "bytearray", ""),
        (1j, "$", "complex", ""),
        (ValueError("x"), "$", "ValueError", ""),
        (iter([]), "$", "list_iterator", ""),
        (nested(MAX_DEPTH + 1), "$" + "[0]" * MAX_DEPTH, "list", "deeper"),
    ],
)
def test_what_is_refused_names_step_place_and_type(
    value: object, path: str, kind: str, reason: str
) -> None:
    for encode in (encode_value, encode_plain, normalize):
        with pytest.raises(NotSerializable) as caught:
            encode(value, "charge")
        error = caught.value
        assert (error.step, error.path, error.kind) == ("charge", path, kind)
        assert reason in str(error)
    assert not is_plain(value)


def test_local_classes_and_those_that_hide_are_refused_when_stored() -> None:
    with pytest.raises(NotSerializable, match="inside a function"):
        encode_value(local_class(), "s")
    made = dataclasses.make_dataclass("Made", ["x"], namespace={"__module__": __name__})
    with pytest.raises(NotSerializable, match="could not be found again"):
        encode_value(made(1), "s")
    with pytest.raises(NotSerializable, match="'x' cannot be read"):
        encode_value(half_made(), "s")
    assert encode_plain(local_class(), "s") == b'{"x":1}'


@dataclasses.dataclass
class NeedsSecret:
    x: int
    secret: dataclasses.InitVar[str]

    def __post_init__(self, secret: str) -> None:
        assert secret


def test_what_could_not_be_restored_is_refused_at_once() -> None:
    with pytest.raises(NotSerializable, match="NeedsSecret cannot be made again"):
        normalize(NeedsSecret(1, "s"), "charge")


def test_values_at_the_bound_of_depth_are_fine() -> None:
    assert decode_value(encode_value(nested(MAX_DEPTH), "s")) == nested(MAX_DEPTH)
    dollars: object = 1
    for _ in range(MAX_DEPTH):
        dollars = {"$": dollars}
    assert decode_value(encode_value(dollars, "s")) == dollars


def test_shared_parts_do_not_explode() -> None:
    value: object = ["x"]
    for _ in range(40):
        value = [value, value]
    with pytest.raises(NotSerializable, match="items"):
        encode_value(value, "s")


HOSTILE = [
    b"",
    b"{",
    b"\xff",
    b"[" * 3000,
    b"1" * 5000,
    b"1e999",
    b'{"$uuid":"x"}',
    b'{"$uuid":1}',
    b'{"$zzz":1}',
    b'{"$":1}',
    b'{"$dict":1}',
    b'{"$dict":[[1,2]]}',
    b'{"$dict":[["a"]]}',
    b'{"$enum":"os:path"}',
    b'{"$type":"os:path"}',
    b'{"$type":"os:system"}',
    b'{"$type":5}',
    b'{"$type":"builtins:dict"}',
    b'{"$type":"no.such.module:X"}',
    b'{"$type":"datetime:datetime"}',
    b'{"$type":"x y:Z"}',
    b'{"$type":":"}',
    b'{"$type":"threading:Thread","target":1}',
    b'{"$bytes":"*"}',
    b'{"$bytes":[]}',
    b'{"$decimal":"x"}',
    b'{"$decimal":{}}',
    b'{"$int":"zz"}',
    b'{"$int":1}',
    b'{"$datetime":"yesterday"}',
    b'{"$datetime":null}',
    b'{"$date":"2020-13-01"}',
    b'{"$timedelta":1e300}',
    b'{"$timedelta":[1]}',
    b'{"$timedelta":"x"}',
    b'{"a":[{"$date":1}]}',
    b'{"$dict":[["a",{"$date":1}]]}',
    b'{"$a":' * 900 + b"1" + b"}" * 900,
]


@pytest.mark.parametrize("data", HOSTILE, ids=lambda data: data[:24].decode("latin1"))
def test_hostile_stored_forms_are_refused(data: bytes) -> None:
    with pytest.raises(UnreadableValue):
        decode_value(data)


def test_an_unreadable_value_says_where_and_which_type() -> None:
    with pytest.raises(UnreadableValue, match="no_such_app:Order") as caught:
        decode_value(b'{"a":[1,{"$type":"no_such_app:Order","x":1}]}')
    assert caught.value.path == "$.a[1]"
    with pytest.raises(UnreadableValue, match=r"values:Gone is gone"):
        decode_value(b'{"$type":"%s:Gone"}' % __name__.encode())
    with pytest.raises(UnreadableValue, match="no member 'GREEN'"):
        decode_value(b'{"$enum":"%s:Color","value":"GREEN"}' % __name__.encode())


def test_classes_may_gain_and_lose_fields() -> None:
    name = __name__.encode()
    assert decode_value(b'{"$type":"%s:Item","sku":"a","old":1}' % name) == Item("a")
    shout: Any = decode_value(b'{"$type":"%s:Shout","text":"a!","old":1}' % name)
    assert shout.text == "a!"
    with pytest.raises(UnreadableValue, match="sku"):
        decode_value(b'{"$type":"%s:Item","qty":2}' % name)
    with pytest.raises(UnreadableValue, match="city"):
        decode_value(b'{"$type":"%s:Address"}' % name)


def test_a_class_of_a_module_that_is_not_loaded_is_imported(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "import dataclasses\n@dataclasses.dataclass\nclass Order:\n    x: int\n"
    (tmp_path / "late_app_for_values.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    found: Any = decode_value(b'{"$type":"late_app_for_values:Order","x":3}')
    assert found.x == 3
    (tmp_path / "broken_app_for_values.py").write_text("1 / 0")
    with pytest.raises(UnreadableValue, match="ZeroDivisionError"):
        decode_value(b'{"$type":"broken_app_for_values:Order","x":3}')


def test_no_attribute_of_a_module_runs_code_when_a_type_is_looked_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = ModuleType("lazy_for_values")
    module.__getattr__ = lambda name: pytest.fail("asked")  # type: ignore[method-assign]
    monkeypatch.setitem(sys.modules, "lazy_for_values", module)
    with pytest.raises(UnreadableValue, match="gone"):
        decode_value(b'{"$type":"lazy_for_values:Order"}')


def test_pydantic_is_not_imported() -> None:
    code = (
        "import sys, ironflow.core.values.codec as v; v.normalize({'a': [1, (2,)]}, 's');"
        "v.convert_input(b'[1]', list[int]); v.json_schema(list[int]);"
        "sys.exit('pydantic' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"$a": UUID(int=1)}, {"$a": "00000000-0000-0000-0000-000000000001"}),
        (datetime(2020, 1, 1, tzinfo=UTC), "2020-01-01T00:00:00+00:00"),
        (date(2020, 1, 1), "2020-01-01"),
        (timedelta(seconds=1.5), 1.5),
        (b"abc", "YWJj"),
        (Decimal("1.10"), "1.10"),
        ([Color.BLUE, Level.HIGH, Name.ANNA], ["b", 3, "anna"]),
        (Item("a"), {"sku": "a", "qty": 1}),
        (Money(Decimal(1)), {"totalAmount": "1", "currency": "EUR"}),
        (Customer(fullName="A", vip=1), {"name": "A", "addresses": [], "vip": 1}),
        ((1, (2,)), [1, [2]]),
        (2**70, 2**70),
        ([2**70, {"a": b""}], [2**70, {"a": ""}]),
    ],
)
def test_plain_json_for_readers_that_know_no_tags(value: object, expected: object) -> None:
    assert json.loads(encode_plain(value, "s")) == expected


def test_plain_values() -> None:
    assert is_plain({"a": [1, 2.5, None, "x", True]})
    for value in [
        (1,),
        {"$a": 1},
        {1: 1},
        float("nan"),
        "\ud800",
        UUID(int=1),
        [Item("a")],
        {"a": (1,)},
    ]:
        assert not is_plain(value)
