from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest

from ironflow.core.errors import ExpressionError, InvalidInput
from ironflow.core.expressions import syntax
from ironflow.core.expressions.compiled import MISSING, compile_expression, compile_path

VARIABLES = frozenset({"event", "data"})
DATA = {
    "n": 5,
    "f": 2.5,
    "s": "größe",
    "yes": True,
    "none": None,
    "items": [{"q": 1}, {"q": 2}],
    "tags": ["prod", "eu"],
    "a.b": 1,
    "huge": 10**30,
}
BINDINGS: dict[str, Any] = {"event": {"name": "order.created", "data": DATA}, "data": DATA}


def value(text: str) -> object:
    return compile_expression(text, VARIABLES).evaluate(BINDINGS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1 + 2 * 3 - -4", 11),
        ("(1 + 2) * 3", 9),
        ("7 / 2", 3),
        ("-7 / 2", -3),
        ("-7 % 3", -1),
        ("7 % -3", 1),
        ("7.0 / 2", 3.5),
        ("2 * data.f", 5.0),
        ("0x1F", 31),
        ("1.5e3", 1500.0),
        (".5", 0.5),
        ("--1", 1),
        ("!!true", True),
        ("-data.n", -5),
        ("\"a\" + 'b'", "ab"),
        (r'"\x41é\n\"\'\\"', "Aé\n\"'\\"),
        (r'r"\d+\"', "\\d+\\"),
        ('"&& || !"', "&& || !"),
        ("[1, 2.0, [null]]", [1, 2.0, [None]]),
        ("[1, 2,]", [1, 2]),
        ("{\"a\": 1, 'b': [2],}.b[0]", 2),
        ("[]", []),
        ("{}", {}),
        ("data.items[1].q", 2),
        ('event["data"]["items"][0]["q"]', 1),
        ('data["a.b"]', 1),
        ("data.items[data.n - 4].q", 2),
        ("1 == 1.0", True),
        ("true == 1", False),
        ("null == data.none", True),
        ("null == false", False),
        ('"1" == 1', False),
        ("data.n == 5 ", True),
        ('data.s == "größe"', True),
        ('data.n != "x"', True),
        ("[1, [true]] == [1.0, [true]]", True),
        ("[1] == [true]", False),
        ('{"a": 1} == {"a": 1.0}', True),
        ('{"a": 1} == {"b": 1}', False),
        ("1 < 2.5", True),
        ('"a" < "b"', True),
        ("data.n >= 5 && data.n <= 5", True),
        ('"prod" in data.tags', True),
        ("true in [1]", False),
        ("1.0 in [1]", True),
        ('"n" in data', True),
        ('"x" in data', False),
        ("data.n > 3 ? 'big' : 'small'", "big"),
        ("false ? 1 : true ? 2 : 3", 2),
        ("has(data.n)", True),
        ("has(data.none)", True),
        ("has(data.x)", False),
        ("has(data.x.y.z)", False),
        ("has(data.n.y)", False),
        ("has(data.items[1].q) && !has(data.items[2].q)", True),
        ('has(data["a.b"])', True),
        ("size(data.s)", 5),
        ("data.items.size() + size(data.tags) + size({})", 4),
        ('event.name.startsWith("order.")', True),
        ('event.name.endsWith(".deleted")', False),
        ('event.name.contains("er.cr")', True),
        (r'event.name.matches("^order\\.[a-z]+$")', True),
        (r'event.name.matches(r"^\d+$")', False),
        ('int("-12") + int(3.9) + int(-3.9)', -12),
        ("int(data.n)", 5),
        ('double("1.5e1") + double(1)', 16.0),
        ("string(1) + string(1.5) + string(true) + string('x')", "11.5truex"),
        ("data.missing == 1 || true", True),
        ("true || data.missing == 1", True),
        ("data.missing == 1 && false", False),
        ("data.n && false", False),
        ("data.huge > 9223372036854775807", True),
    ],
)
def test_values(text: str, expected: object) -> None:
    found = value(text)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("data.x", "'x'"),
        ("data.n.x", "no members"),
        ("data.none.x", "no members"),
        ("data.items.q", "no members"),
        ("data.items[2]", "no 2"),
        ("data.items[-1]", "no -1"),
        ("data.items[true]", "no a truth value"),
        ("data[1]", "no 1"),
        ("data.s[0]", "nothing inside"),
        ("event.__class__", "__class__"),
        ("event.data.keys", "keys"),
        ("1 < true", "no order"),
        ('1 < "a"', "no order"),
        ("null < null", "no order"),
        ("true + 1", "numbers"),
        ('"a" * 3', "numbers"),
        ('"a" - "b"', "numbers"),
        ('1 + "a"', "numbers"),
        ("[1] + [2]", "numbers"),
        ("-true", "numbers"),
        ("!1", "not true or false"),
        ("1 ? 2 : 3", "not true or false"),
        ("data.n && true", "not true or false"),
        ("data.x == 1 || false", "'x'"),
        ("1 / 0", "zero"),
        ("1.0 / 0", "zero"),
        ("1 % 0", "zero"),
        ("1.5 % 2", "integers"),
        ("9223372036854775807 + 1", "too large"),
        ("data.huge * 1.5", "too large"),
        ("data.huge + 1", "too large"),
        ('"a" in "abc"', "contains"),
        ("1 in 1", "list or a map"),
        ("size(1)", "no size"),
        ('data.n.startsWith("a")', "not text"),
        ("data.s.startsWith(1)", "not text"),
        ('data.n.matches("a")', "not text"),
        ('int("1.5")', "not an integer"),
        ('int("99999999999999999999")', "not an integer"),
        ("int(null)", "not an integer"),
        ("int(1e300)", "too large"),
        ("int(true)", "not an integer"),
        ('double("inf")', "not a number"),
        ('double("1_0")', "not a number"),
        ("string(null)", "no text"),
        ("string([1])", "no text"),
        ("{1: 2}", "not text"),
        ('{"a": 1, "a": 2}', "twice"),
    ],
)
def test_what_fails_when_it_is_evaluated(text: str, reason: str) -> None:
    expression = compile_expression(text, VARIABLES, "on.expression")
    assert expression.matches(BINDINGS) is False
    with pytest.raises(ExpressionError, match=reason) as caught:
        expression.evaluate(BINDINGS)
    assert caught.value.field == "on.expression"
    assert caught.value.reason.startswith("at position ")


@pytest.mark.parametrize(
    ("text", "position", "reason"),
    [
        ("", 1, "too early"),
        ("1 +", 4, "too early"),
        ("foo.bar", 1, "unknown variable 'foo'"),
        ("data.n == foo", 11, "unknown variable"),
        ("has(foo.x)", 5, "unknown variable"),
        ("eval('1')", 1, "unknown function"),
        ("__import__('os')", 1, "unknown function"),
        ("data.s.upper()", 8, "unknown method"),
        ("data.items.map(x, x)", 12, "unknown method"),
        ("size()", 1, "takes 1"),
        ("has(1)", 1, "path"),
        ("has(data)", 1, "path"),
        ("data.s.matches(data.s)", 16, "literal"),
        ('data.s.matches("(")', 16, "not closed"),
        ('"abc', 1, "unfinished"),
        ('  "abc', 3, "unfinished"),
        (r'"\q"', 2, "escape"),
        (r'"\ud800"', 2, "no character"),
        ("1 2", 3, "expected the end"),
        ("(1", 3, "expected ')'"),
        ("[1 2]", 4, "expected ','"),
        ("{1}", 3, "expected ':'"),
        ("a ? 1", 6, "expected ':'"),
        ("data.", 6, "expected a name"),
        ("data.1", 5, "expected the end"),
        ("12abc", 3, "after a number"),
        ("1 = 1", 3, "unexpected '='"),
        ("a & b", 3, "unexpected '&'"),
        ("a; b", 2, "unexpected ';'"),
        ("in", 1, "unexpected 'in'"),
        ("9223372036854775808", 1, "too large"),
        ("9" * 4000, 1, "too large"),
        ("1e999", 1, "too large"),
        ("ü", 1, "unexpected"),
        ("lambda: 1", 7, "expected the end"),
    ],
)
def test_what_does_not_compile_and_where(text: str, position: int, reason: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        compile_expression(text, VARIABLES, "match")
    assert caught.value.field == "match"
    assert f"at position {position}: " in caught.value.reason
    assert reason in caught.value.reason


def test_text_of_another_type_is_refused() -> None:
    with pytest.raises(InvalidInput):
        compile_expression(None, VARIABLES)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput):
        compile_path(5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        "(" * 1000 + "1" + ")" * 1000,
        "[" * 100 + "]" * 100,
        "!" * 100 + "true",
        "-" * 1000 + "1",
        "1" + "+1" * 100,
        "data" + ".a" * 200,
        "(true ? " * 100 + "1" + " : 2)" * 100,
        "1 ? 2 : " * 100 + "3",
        "[" + "1," * syntax.MAX_NODES + "1]",
        " " * syntax.MAX_LENGTH + "1",
        "size(" * 50 + "1" + ")" * 50,
    ],
)
def test_size_and_depth_are_bounded(text: str) -> None:
    with pytest.raises(ExpressionError, match=r"nested deeper|more than|longer than"):
        compile_expression(text, VARIABLES)


def test_many_conditions_are_wide_and_not_deep() -> None:
    text = " || ".join(f"data.n == {n}" for n in range(100, 200)) + " || data.n == 5"
    assert compile_expression(text, VARIABLES).matches(BINDINGS)


def test_the_work_of_one_evaluation_is_bounded() -> None:
    long = {"data": {"s": "x" * 40_000, "l": list(range(50_000)), "deep": []}, "event": {}}
    inner: list[Any] = long["data"]["deep"]  # type: ignore[index]
    for _ in range(200):
        inner.append([])
        inner = inner[0]
    for text in ("data.s + data.s", "data.l == data.l", "-1 in data.l", "data.deep == data.deep"):
        with pytest.raises(ExpressionError, match=r"longer|more than|deeper"):
            compile_expression(text, VARIABLES).evaluate(long)


def test_only_mappings_and_lists_are_entered() -> None:
    class Secret:
        password = "x"

        def __getitem__(self, key: str) -> str:
            return "leaked"

    factory: defaultdict[str, int] = defaultdict(int)
    for text in ("data.password", 'data["password"]', "data.__class__"):
        assert not compile_expression(f"has({text})", VARIABLES).matches({"data": Secret()})
        with pytest.raises(ExpressionError):
            compile_expression(text, VARIABLES).evaluate({"data": Secret()})
    assert not compile_expression("has(data.x)", VARIABLES).matches({"data": factory})
    with pytest.raises(ExpressionError):
        compile_expression("data.x", VARIABLES).evaluate({"data": factory})
    assert not factory


def test_a_variable_without_a_value() -> None:
    assert not compile_expression("data.n == 1", VARIABLES).matches({})
    assert not compile_expression("has(data.n)", VARIABLES).matches({})
    with pytest.raises(ExpressionError, match="no value"):
        compile_expression("data", VARIABLES).evaluate({})


def test_only_true_matches() -> None:
    assert compile_expression("data.yes", VARIABLES).matches(BINDINGS)
    assert not compile_expression("data.n", VARIABLES).matches(BINDINGS)
    assert not compile_expression("data.s", VARIABLES).matches(BINDINGS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("data.n", 5),
        ("$.data.n", 5),
        ("event.data.items[1].q", 2),
        ('data["a.b"]', 1),
        ("data['a.b']", 1),
        ('$["data"].n', 5),
        ("data.none", None),
        ("data.x", MISSING),
        ("data.n.x", MISSING),
        ("data.items[9]", MISSING),
        ("data.items.q", MISSING),
        ("data.__class__", MISSING),
        ("nothing", MISSING),
        ("data.s[0]", MISSING),
    ],
)
def test_paths(text: str, expected: object) -> None:
    path = compile_path(text)
    assert path.get(BINDINGS) == expected
    assert path.get(BINDINGS, None) == (None if expected is MISSING else expected)
    assert path.get("not a mapping", 7) == 7


@pytest.mark.parametrize(
    "text", ["", "$.", ".a", "a..b", "a.", "a[", "a[x]", "a[-1]", "a b", "a]b", "a" * 600]
)
def test_paths_that_are_refused(text: str) -> None:
    with pytest.raises(ExpressionError):
        compile_path(text, "lane.key")
