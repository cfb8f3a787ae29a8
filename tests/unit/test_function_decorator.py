"""`@function`: what it accepts, what it refuses and how it says so, and the hash of the code."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pydantic
import pytest

from ironflow import CancelOn, RetryPolicy, Trigger, function
from ironflow.core.errors import InvalidInput
from ironflow.sdk.function import Function, Registry, define, hash_code, registry


@dataclass
class Order:
    id: int
    note: str = ""


class Model(pydantic.BaseModel):
    id: int


def make(label: str = "body", /, **options: Any) -> Function:
    options.setdefault("id", f"decorator-{label}")

    async def body(ctx: Any, data: Any) -> Any:
        return data

    body.__qualname__ = label
    made: Function = function(**options)(body)
    return made


# -- forms ----------------------------------------------------------------------------------------


def test_a_bare_decorator_takes_its_id_from_the_name() -> None:
    @function
    async def decorator_bare_form(ctx: Any) -> str:
        """What it does."""
        return "called"

    assert decorator_bare_form.id == "decorator-bare-form"
    assert decorator_bare_form.definition.description == "What it does."
    assert not decorator_bare_form.takes_input
    assert registry.get("decorator-bare-form") is decorator_bare_form
    assert decorator_bare_form.__name__ == "decorator_bare_form"


async def test_calling_it_calls_the_plain_body() -> None:
    @function(id="decorator-call")
    async def body(ctx: Any, number: int) -> int:
        return number + 1

    assert await body(None, 4) == 5


def test_everything_at_once() -> None:
    made = make(
        "everything",
        name="Everything",
        on=["a.b", {"event": "c.*", "if": "data.n > 1"}, Trigger("d.>")],
        cron="*/5 * * * *",
        timezone="Europe/Berlin",
        retry={"max_attempts": 5, "initial_delay": "500ms"},
        timeout="1h",
        cancel_on=["stop.it", CancelOn("stop.one", "data.id")],
        compensate_on=["failed", "timed_out"],
        executor="loop",
        description="All of it",
    )
    definition = made.definition
    assert definition.name == "Everything"
    assert definition.triggers == (
        Trigger("a.b"), Trigger("c.*", "data.n > 1"), Trigger("d.>"),
    )  # fmt: skip
    assert definition.cron is not None
    assert (definition.cron.expression, definition.cron.timezone) == (
        "*/5 * * * *", "Europe/Berlin",
    )  # fmt: skip
    assert definition.options.retry == RetryPolicy(max_attempts=5, initial_delay=0.5)
    assert definition.options.timeout == 3600
    assert definition.options.cancel_on == (CancelOn("stop.it"), CancelOn("stop.one", "data.id"))
    assert definition.options.compensate_on == ("failed", "timed_out")
    assert (definition.executor, definition.description) == ("loop", "All of it")


@pytest.mark.parametrize(
    ("retry", "attempts"),
    [(None, 3), (False, 1), (True, 3), (7, 7), (RetryPolicy(max_attempts=2), 2)],
)
def test_forms_of_retry(retry: Any, attempts: int) -> None:
    assert make("retry", retry=retry).retry.max_attempts == attempts


@pytest.mark.parametrize("timeout", [90, 90.0, "90s", "1.5m", timedelta(seconds=90)])
def test_forms_of_timeout(timeout: Any) -> None:
    assert make("timeout", timeout=timeout).definition.options.timeout == 90


def test_a_cron_may_name_its_zone() -> None:
    made = make("zone", cron="CRON_TZ=Asia/Tokyo 0 9 * * *")
    assert made.definition.cron is not None
    assert made.definition.cron.timezone == "Asia/Tokyo"
    assert made.definition.cron.expression == "0 9 * * *"


# -- input ----------------------------------------------------------------------------------------


def test_input_is_converted_to_the_annotated_type() -> None:
    @function(id="decorator-dataclass")
    async def dataclassed(ctx: Any, order: Order) -> None: ...

    @function(id="decorator-model")
    async def modelled(ctx: Any, data: Model) -> None: ...

    @function(id="decorator-explicit", input=list[int])
    async def explicit(ctx: Any, data: Any) -> None: ...

    @function(id="decorator-untyped")
    async def untyped(ctx: Any, data) -> None: ...  # type: ignore[no-untyped-def]

    assert dataclassed.convert(b'{"id": 1}') == Order(1)
    assert modelled.convert(b'{"id": 1}') == Model(id=1)
    assert explicit.convert(b"[1,2]") == [1, 2]
    assert untyped.convert(b'{"any": [1]}') == {"any": [1]}
    schema = dataclassed.definition.input_schema
    assert schema is not None
    assert "id" in str(schema)
    assert untyped.definition.input_schema is None


@pytest.mark.parametrize(
    ("data", "path"), [(b'{"id": "x"}', "id"), (b"{}", "id"), (b"[1]", ""), (b"{nonsense", "")]
)
def test_wrong_input_names_the_place(data: bytes, path: str) -> None:
    @function(id="decorator-wrong-input")
    async def dataclassed(ctx: Any, order: Order) -> None: ...

    with pytest.raises(InvalidInput) as caught:
        dataclassed.convert(data)
    assert caught.value.field.startswith("input")
    assert path in str(caught.value)


# -- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"id": "has space"}, "id"),
        ({"id": "ümlaut"}, "id"),
        ({"id": "x" * 201}, "id"),
        ({"on": "bad..pattern"}, "on"),
        ({"on": {"if": "data.n > 1"}}, "on"),
        ({"on": {"event": "a", "when": "x"}}, "on"),
        ({"on": {"event": "a", "if": "data.n >"}}, "on"),
        ({"on": {"event": "a", "if": "other.n > 1"}}, "on"),
        ({"cron": "61 * * * *"}, "cron"),
        ({"cron": "nonsense"}, "cron"),
        ({"cron": "0 0 * * *", "timezone": "Mars/Base"}, "timezone"),
        ({"retry": 0}, "retry"),
        ({"retry": {"attempts": 3}}, "retry"),
        ({"timeout": "soon"}, "timeout"),
        ({"timeout": -1}, "timeout"),
        ({"compensate_on": ["exploded"]}, "compensate_on"),
        ({"compensate_on": "failed"}, "compensate_on"),
        ({"executor": "moon"}, "executor"),
        ({"cancel_on": "bad..pattern"}, "cancel_on"),
        ({"cancel_on": [CancelOn("ok.event", "data[")]}, "cancel_on"),
        ({"cancel_on": [5]}, "cancel_on"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused_when_it_is_written(options: Any, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        make("refused", **options)
    assert caught.value.field.startswith(field), caught.value


@pytest.mark.parametrize("body", [lambda: None, lambda a, b, c: None, 5])
def test_a_body_takes_ctx_and_perhaps_input(body: Any) -> None:
    with pytest.raises(InvalidInput, match=r"ctx|not a function"):
        function(body, id="decorator-shape")  # type: ignore[call-overload]


def test_two_functions_of_one_id_are_refused_and_the_same_one_replaced() -> None:
    first = make("twice")
    again = make("twice")
    assert registry.get(first.id) is again
    with pytest.raises(InvalidInput, match="defined twice"):
        make("other", id=first.id)


def test_a_registry_of_ones_own() -> None:
    served = Registry()
    for name in ("b", "a"):
        served.add(make(f"own-{name}"))
    assert [f.id for f in served.all()] == ["decorator-own-a", "decorator-own-b"]
    assert len(served) == 2
    served.clear()
    assert served.get("decorator-own-a") is None


# -- the hash of the code -------------------------------------------------------------------------


def test_the_hash_changes_with_the_code_and_not_with_its_looks() -> None:
    def variants(number: int) -> Any:
        if number == 0:

            def body(ctx: Any) -> int:
                return 1

        elif number == 1:

            def body(ctx: Any) -> int:
                # A comment,
                return 1  # and another.

        else:

            def body(ctx: Any) -> int:
                return 2

        return body

    same, commented, other = (hash_code(variants(n)) for n in range(3))
    assert same == commented
    assert same != other
    assert len(same) == 16


def test_code_without_source_has_a_hash_too() -> None:
    def make_body(text: str) -> Any:
        scope: dict[str, Any] = {}
        exec(f"def body(ctx):\n    return {text}", scope)
        return scope["body"]

    assert hash_code(make_body("1")) == hash_code(make_body("1"))
    assert hash_code(make_body("1")) != hash_code(make_body("2"))
    assert hash_code(make_body("lambda: 1")) != hash_code(make_body("lambda: 2"))


def test_a_wrapped_function_is_hashed_by_what_it_wraps() -> None:
    def plain(ctx: Any) -> int:
        return 1

    @functools.wraps(plain)
    def wrapper(*args: Any) -> int:
        return plain(*args)

    assert hash_code(wrapper) == hash_code(plain)


def test_labels_say_which_workers_may_run_it() -> None:
    assert define(lambda ctx: None, id="f", labels={"gpu": "yes"}).definition.labels == {
        "gpu": "yes"
    }
    assert define(lambda ctx: None, id="f").definition.labels == {}
    for wrong in ("gpu=yes", {"gpu": 1}, [("gpu", "yes")]):
        with pytest.raises(InvalidInput, match=r"labels: .* is no mapping of text to text"):
            define(lambda ctx: None, id="f", labels=wrong)  # type: ignore[arg-type]
