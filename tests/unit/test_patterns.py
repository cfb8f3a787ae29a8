from __future__ import annotations

import pytest

from ironflow.core.errors import InvalidInput
from ironflow.core.expressions.patterns import (
    MAX_NAME,
    PatternIndex,
    compile_pattern,
    validate_event_name,
    validate_pattern,
)


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("order.created", "order.created", True),
        ("order.created", "order.created2", False),
        ("order.created", "orderxcreated", False),
        ("order.*", "order.created", True),
        ("order.*", "order", False),
        ("order.*", "order.a.b", False),
        ("*.failed", "flow.failed", True),
        ("a.*.c", "a.b.c", True),
        ("order.>", "order.a", True),
        ("order.>", "order.a.b.c", True),
        ("order.>", "order", False),
        ("order.>", "orders.a", False),
        (">", "anything.at.all", True),
        ("*", "one", True),
        ("*", "one.two", False),
        ("*.>", "one", False),
        ("*.>", "one.two", True),
        ("größe/ändern-1.x_y:z", "größe/ändern-1.x_y:z", True),
    ],
)
def test_what_a_pattern_selects(pattern: str, name: str, expected: bool) -> None:
    assert compile_pattern(pattern).matches(name) is expected
    index: PatternIndex[str] = PatternIndex()
    index.add(pattern, "v")
    assert index.find(name) == (["v"] if expected else [])


@pytest.mark.parametrize(
    "name",
    ["", ".", "a.", ".a", "a..b", "a b", "a\n", "a.*", "*", ">", "a*", "a>b", "\x00", "\ud800",
     "x" * (MAX_NAME + 1), None, 3],
)  # fmt: skip
def test_names_that_are_refused(name: object) -> None:
    with pytest.raises(InvalidInput) as caught:
        validate_event_name(name, "event")  # type: ignore[arg-type]
    assert caught.value.field == "event"


@pytest.mark.parametrize("text", ["a.>.b", "a.b*", "**", ">>", "a.", "", "a b", ">.a", None])
def test_patterns_that_are_refused(text: object) -> None:
    with pytest.raises(InvalidInput):
        validate_pattern(text, "on.event")  # type: ignore[arg-type]


def test_every_name_is_a_pattern_and_exact() -> None:
    assert compile_pattern("a.b").exact
    assert not compile_pattern("a.*").exact
    assert not compile_pattern(">").exact


def test_values_come_in_the_order_of_adding_and_need_no_hash() -> None:
    index: PatternIndex[list[int]] = PatternIndex()
    first, second, third = [1], [2], [3]
    index.add("order.>", first)
    index.add("order.created", second)
    index.add("*.created", third)
    assert index.find("order.created") == [first, second, third]
    index.add("order.>", first)
    assert len(index) == 3


def test_a_removed_value_is_gone_and_leaves_nothing_behind() -> None:
    index: PatternIndex[object] = PatternIndex()
    patterns = ["a", "a.b", "a.*", "a.>", ">", "*", "a.*.c", "a.*.>"]
    values = {pattern: object() for pattern in patterns}
    for pattern, value in values.items():
        index.add(pattern, value)
    for pattern, value in values.items():
        assert index.remove(pattern, value)
        assert not index.remove(pattern, value)
    assert len(index) == 0
    assert not index._exact
    assert index._root.is_empty()


def test_an_equal_value_can_be_named_for_removal() -> None:
    index: PatternIndex[tuple[str, int]] = PatternIndex()
    index.add("a", ("x", int("1000")))
    assert not index.remove("a", ("y", 1))
    assert index.remove("a", ("x", 1000))
    assert index.find("a") == []
