"""Input from outside: converted to the type that a function declares, or refused with its place."""

from __future__ import annotations

import dataclasses
import threading
from datetime import date
from typing import Any
from uuid import UUID

import msgspec
import pytest
from value_types import Address, Customer, Line, Order

from ironflow.core.errors import InvalidInput
from ironflow.core.values.codec import convert_input, json_schema


@dataclasses.dataclass
class Shipment:
    order: Order
    to: Address


class Picky(msgspec.Struct):
    n: int

    def __post_init__(self) -> None:
        if self.n == 0:
            raise ValueError("n must not be zero")
        if self.n == 1:
            raise KeyError("odd")


def test_input_becomes_the_declared_type() -> None:
    order = convert_input(
        b'{"items":[{"qty":2}],"id":"00000000-0000-0000-0000-000000000001"}', Order
    )
    assert order == Order([Line(2)], UUID(int=1))
    shipment = convert_input(b'{"order":{"items":[]},"to":{"city":"Bonn"}}', Shipment)
    assert shipment == Shipment(Order([]), Address(city="Bonn"))
    assert convert_input(b'{"city":"Bonn","since":"2020-01-01"}', Address) == Address(
        city="Bonn", since=date(2020, 1, 1)
    )
    assert convert_input(b"[1,2]", list[int]) == [1, 2]
    assert convert_input(b'{"$type":"os:path"}') == {"$type": "os:path"}
    for anything in (None, Any, object):
        assert convert_input(b'{"a":1}', anything) == {"a": 1}


@pytest.mark.parametrize(
    ("data", "kind", "field", "reason"),
    [
        (b'{"items":[{"qty":"x"}]}', Order, "input.items[0].qty", "Expected `int`"),
        (b"{}", Order, "input", "missing required field `items`"),
        (b"[]", Order, "input", "Expected `object`"),
        (b"", Order, "input", "not JSON"),
        (b"{", None, "input", "not JSON"),
        (b"\xff", None, "input", "not JSON"),
        (b"[" * 5000, None, "input", "not JSON"),
        (b"{", Address, "input", "not JSON"),
        (b'{"since":"x"}', Address, "input.city", "required"),
        (b'{"fullName":1,"addresses":[{"city":"a"},{}]}', Customer, "input.name", "string"),
        (b'{"addresses":[{"city":"a"},{}]}', Customer, "input.addresses[1].city", "required"),
        (b'{"order":{"items":[]},"to":{"city":5}}', Shipment, "input.to.city", "string"),
        (b'{"n":0}', Picky, "input", "must not be zero"),
        (b'{"n":1}', Picky, "input", "odd"),
        (b"1", threading.Thread, "input", "Thread"),
        (b'{"a":"x"}', dict[str, int], "input[...]", "Expected `int`"),
    ],
)
def test_input_of_the_wrong_shape_is_refused_with_its_place(
    data: bytes, kind: Any, field: str, reason: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        convert_input(data, kind)
    assert caught.value.reason.find(reason) >= 0
    assert caught.value.field.replace("fullName", "name") == field
    with pytest.raises(InvalidInput) as again:
        convert_input(data, kind, "body.data")
    assert again.value.field == caught.value.field.replace("input", "body.data", 1)


def test_schemas_of_declared_types() -> None:
    assert json_schema(None) == json_schema(Any) == {}
    assert json_schema(int) == {"type": "integer"}
    assert json_schema(Address)["properties"]["city"]["type"] == "string"
    shipment = json_schema(Shipment)
    assert set(shipment["$defs"]) >= {"Shipment", "Order", "Line"}
    assert shipment["$defs"]["Shipment"]["properties"]["to"]["required"] == ["city"]
    assert "Address" in json_schema(list[Customer])["$defs"]
    with pytest.raises(InvalidInput, match="Thread"):
        json_schema(threading.Thread)
