"""Types of values and inputs, for tests of both."""

from __future__ import annotations

from datetime import date
from uuid import UUID

import msgspec
import pydantic


class Address(pydantic.BaseModel):
    city: str
    since: date | None = None


class Customer(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    name: str = pydantic.Field(alias="fullName", default="?")
    addresses: list[Address] = []


class Line(msgspec.Struct):
    qty: int


class Order(msgspec.Struct):
    items: list[Line]
    id: UUID | None = None
