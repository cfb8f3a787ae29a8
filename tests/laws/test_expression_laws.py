"""Laws of expressions and of patterns of event names."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from laws.json_values import JSONS

from ironflow.core.errors import ExpressionError
from ironflow.core.expressions.compiled import MISSING, compile_expression, compile_path
from ironflow.core.expressions.patterns import PatternIndex, compile_pattern

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
