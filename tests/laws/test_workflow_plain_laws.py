"""Events that are encoded as they stand have exactly the bytes that pydantic makes of them."""

from __future__ import annotations

import functools
from datetime import datetime
from enum import Enum
from typing import Annotated, Any, Literal, Optional, Union

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PrivateAttr,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    computed_field,
    create_model,
    field_serializer,
    field_validator,
    model_serializer,
)
from pydantic_core import core_schema

from ironflow.workflows.codec import decode_event
from ironflow.workflows.events import Event, InputRequiredEvent, StartEvent, StopEvent
from ironflow.workflows.plain import encode_plain


class Level(str, Enum):  # noqa: UP042 - the older form, which is a str, too
    LOW = "low"


class Count(int):
    """An int that says something else of itself."""

    def __str__(self) -> str:
        return "count"


class Renamed(Event):
    n: int = Field(default=1, alias="theNumber")


class Quiet(Event):
    n: int = 1
    hidden: int = Field(default=2, exclude=True)


class Lean(Event):
    n: int = Field(default=1, exclude_if=lambda n: n == 1)


class Loud(Event):
    n: int = 1

    @field_serializer("n")
    def _shout(self, n: int) -> str:
        return f"{n}!"


class Annoted(Event):
    n: Annotated[int, PlainSerializer(lambda n: -n)] = 1


class Doubled(Event):
    n: int = 1

    @computed_field
    def twice(self) -> int:
        return 2 * self.n


class Checked(Event):
    n: int = 1

    @field_validator("n")
    @classmethod
    def _raise(cls, n: int) -> int:
        return n + 1


class Private(Event):
    n: int = 1
    _seen: int = PrivateAttr(default=0)


class Configured(Event):
    model_config = ConfigDict(arbitrary_types_allowed=True, use_enum_values=True)
    n: int = 1


class Overridden(Event):
    n: int = 1

    @model_serializer(mode="wrap")
    def _dump(self, handler: SerializerFunctionWrapHandler, info: SerializationInfo) -> Any:
        return {"all": handler(self)}


class Shaped(Event):
    n: int = 1

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        form = core_schema.plain_serializer_function_ser_schema(lambda _: {"shape": 1})
        return core_schema.no_info_after_validator_function(
            lambda made: made, handler(source), serialization=form
        )


class Cached(Event):
    n: int = 1

    @functools.cached_property
    def square(self) -> int:
        return self.n**2


class Derived(Loud):
    text: str = "t"


class Whole(Event):
    flag: bool | None = None
    n: int | str = 0
    text: str = ""


ODD = (
    Renamed, Quiet, Lean, Loud, Annoted, Doubled, Checked, Private, Configured, Overridden, Cached,
    Derived, Shaped, StopEvent, Whole,
)  # fmt: skip

types_of_fields = st.sampled_from([
    str, int, bool, Optional[str], Optional[int], Union[int, str, None], bool | str, float,  # noqa: UP007, UP045
    Any, Literal["a", "b"], Level, list[int], dict[str, int], Inner := create_model("Inner", n=int),
    Optional[Inner], datetime, bytes, Annotated[int, Field(description="said")],  # noqa: UP045
])  # fmt: skip
text = st.text(st.characters(exclude_categories=()))
values: st.SearchStrategy[Any] = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(min_value=-(2**70), max_value=2**70),
    text, st.floats(), st.just(Level.LOW), st.builds(Count, st.integers()), st.binary(),
    st.lists(st.integers(), max_size=2), st.builds(Inner, n=st.integers()),
)  # fmt: skip
names = st.sampled_from(["n", "text", "value", "type", "result", "ü", "data_"])


def encode_as_pydantic_does(event: Event) -> bytes | None:
    try:
        return msgspec.json.encode(BaseModel.model_dump(event, mode="json"))
    except Exception:  # noqa: BLE001 - it has no stored form
        return None


@st.composite
def events(draw: st.DrawFn) -> Event:
    """Events of classes made up, with values that their fields do and do not declare."""
    base = draw(st.sampled_from([Event, StartEvent, InputRequiredEvent]))
    fields: Any = {name: (kind, None) for name, kind in draw(
        st.dictionaries(names, types_of_fields, max_size=3)
    ).items()}  # fmt: skip
    made: Event = create_model("Made", __base__=base, **fields)()
    for name in draw(st.lists(st.sampled_from([*fields, "further"]), max_size=4)):
        made.__setattr__(name, draw(values))
    return made


@given(events())
def test_a_plain_event_has_the_bytes_that_pydantic_makes_and_comes_back(event: Event) -> None:
    plain = encode_plain(event)
    if plain is not None:
        assert plain == encode_as_pydantic_does(event)
        again = decode_event(type(event), plain)
        assert again == event
        assert [type(v) for v in vars(again).values()] == [type(v) for v in vars(event).values()]


@given(st.sampled_from(ODD), values)
def test_a_class_that_says_something_of_its_form_is_never_taken_for_plain(
    kind: type[Event], value: Any
) -> None:
    event = kind()
    if "n" in kind.model_fields:
        event.n = value
    if kind is Cached:
        assert vars(event).setdefault("square", 1) == 1
    plain = encode_plain(event)
    assert plain is None or plain == encode_as_pydantic_does(event)
    assert plain is None or kind in (Whole, Renamed)


def test_plain_events_are_encoded_without_pydantic() -> None:
    """The law above would hold for an encoder that never encodes."""
    assert (
        encode_plain(Whole(flag=True, n=7, text="ü")) == '{"flag":true,"n":7,"text":"ü"}'.encode()
    )
    assert encode_plain(Event()) == b"{}"
    assert encode_plain(Whole(further=1)) is None
