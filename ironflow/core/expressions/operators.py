"""What the operators and functions of expressions do with values.

Values are those of JSON: None, bool, int, float, str, lists and mappings; whatever else it meets
has no operations. A bool is not a number. Each function is told the position to complain about, and
raises `Fault`.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

from ironflow.core.expressions.syntax import INT_MAX, INT_MIN, Fault

MAX_TEXT = 65_536
MAX_COMPARED = 10_000
"""Items of lists and maps that one comparison looks at."""

_MAX_NESTING = 32
NUMBERS = (int, float)


def kind_of(value: object) -> str:
    """The name of a value's type, for messages."""
    match value:
        case None:
            return "null"
        case bool():
            return "a truth value"
        case int():
            return "an integer"
        case float():
            return "a float"
        case str():
            return "text"
        case list() | tuple():
            return "a list"
        case Mapping():
            return "a map"
        case _:
            return f"a {type(value).__name__}"


def as_bool(value: object, at: int) -> bool:
    """The value, if it is true or false."""
    if value is True or value is False:
        return value
    raise Fault(at, f"is {kind_of(value)}, not true or false")


def as_str(value: object, at: int) -> str:
    """The value, if it is text."""
    if isinstance(value, str):
        return value
    raise Fault(at, f"is {kind_of(value)}, not text")


def is_number(value: object) -> bool:
    """Whether arithmetic applies."""
    return isinstance(value, NUMBERS) and not isinstance(value, bool)


def look_up(base: object, key: object, at: int, default: object) -> object:
    """`base[key]` of a mapping or list, or `default`."""
    if isinstance(base, Mapping):
        # Asked before it is read: a defaultdict would otherwise make the key.
        return base[key] if isinstance(key, str) and key in base else default
    if isinstance(base, list | tuple) and isinstance(key, int) and not isinstance(key, bool):
        return base[key] if 0 <= key < len(base) else default
    return default


_NOTHING = object()


def member(base: object, key: object, at: int) -> object:
    """`base.key`."""
    if not isinstance(base, Mapping):
        raise Fault(at, f"{_shown(key)} is asked of {kind_of(base)}, which has no members")
    return item(base, key, at)


def item(base: object, key: object, at: int) -> object:
    """`base[key]`."""
    found = look_up(base, key, at, _NOTHING)
    if found is _NOTHING:
        if not isinstance(base, Mapping | list | tuple):
            raise Fault(at, f"{kind_of(base)} has nothing inside")
        raise Fault(at, f"there is no {_shown(key)} in {kind_of(base)}")
    return found


def equals(left: object, right: object, at: int) -> bool:
    """CEL's equality: by value, 1 == 1.0 but true != 1, values of different types are different."""
    return _equals(left, right, at, [MAX_COMPARED], 0)


def _equals(left: object, right: object, at: int, budget: list[int], depth: int) -> bool:
    if left is None or left is True or left is False:
        return left is right
    if isinstance(left, str):
        return isinstance(right, str) and left == right
    if is_number(left):
        return is_number(right) and left == right
    if depth > _MAX_NESTING:
        raise Fault(at, f"values nested deeper than {_MAX_NESTING} are not compared")
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        if len(left) != len(right):
            return False
        _spend(budget, len(left), at)
        return all(_equals(a, b, at, budget, depth + 1) for a, b in zip(left, right, strict=True))
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        if len(left) != len(right):
            return False
        _spend(budget, len(left), at)
        return all(
            key in right and _equals(value, right[key], at, budget, depth + 1)
            for key, value in left.items()
        )
    return False


def _spend(budget: list[int], count: int, at: int) -> None:
    budget[0] -= count
    if budget[0] < 0:
        raise Fault(at, f"more than {MAX_COMPARED} items are not compared")


def differs(left: object, right: object, at: int) -> bool:
    """`!=`."""
    return not equals(left, right, at)


def _ordered(compare: Callable[[Any, Any], Any]) -> Callable[[object, object, int], object]:
    def run(left: object, right: object, at: int) -> object:
        kind, other = type(left), type(right)
        if (kind is int or kind is float) and (other is int or other is float):
            return compare(left, right)
        if isinstance(left, str) and isinstance(right, str):
            return compare(left, right)
        if is_number(left) and is_number(right):
            return compare(left, right)
        raise Fault(at, f"{kind_of(left)} and {kind_of(right)} have no order")

    return run


def contains(value: object, inside: object, at: int) -> bool:
    """`value in inside`: an item of a list, a key of a map."""
    if isinstance(inside, Mapping):
        return isinstance(value, str) and value in inside
    if isinstance(inside, list | tuple):
        budget = [MAX_COMPARED]
        _spend(budget, len(inside), at)
        return any(_equals(value, each, at, budget, 0) for each in inside)
    hint = ", use contains()" if isinstance(inside, str) else ""
    raise Fault(at, f"`in` wants a list or a map on its right, not {kind_of(inside)}{hint}")


def _numbers(left: object, right: object, at: int, sign: str) -> tuple[int | float, int | float]:
    if isinstance(left, bool) or not isinstance(left, int | float):
        raise Fault(at, f"`{sign}` is for numbers, not for {kind_of(left)}")
    if isinstance(right, bool) or not isinstance(right, int | float):
        raise Fault(at, f"`{sign}` is for numbers, not for {kind_of(right)}")
    return left, right


def _bounded(value: float, at: int) -> int | float:
    if isinstance(value, int) and not INT_MIN <= value <= INT_MAX:
        raise Fault(at, "the result is too large for an integer")
    return value


def _arithmetic(
    sign: str, operate: Callable[[int | float, int | float], int | float]
) -> Callable[[object, object, int], object]:
    def run(left: object, right: object, at: int) -> object:
        a, b = _numbers(left, right, at, sign)
        try:
            return _bounded(operate(_bounded(a, at), _bounded(b, at)), at)
        except ZeroDivisionError:
            raise Fault(at, "division by zero") from None

    return run


def _plus(left: object, right: object, at: int) -> object:
    if isinstance(left, str) and isinstance(right, str):
        if len(left) + len(right) > MAX_TEXT:
            raise Fault(at, f"the text becomes longer than {MAX_TEXT} characters")
        return left + right
    return _add(left, right, at)


def _divide(a: float, b: float) -> int | float:
    """Towards zero between integers, as CEL has it."""
    if isinstance(a, int) and isinstance(b, int):
        quotient = abs(a) // abs(b)
        return quotient if (a < 0) == (b < 0) else -quotient
    return a / b


def _remainder(left: object, right: object, at: int) -> object:
    a, b = _numbers(left, right, at, "%")
    if not isinstance(a, int) or not isinstance(b, int):
        raise Fault(at, "`%` is for integers")
    if b == 0:
        raise Fault(at, "division by zero")
    rest = abs(_bounded(a, at)) % abs(_bounded(b, at))
    return -rest if a < 0 else rest


_add = _arithmetic("+", operator.add)

BINARY: dict[str, Callable[[object, object, int], object]] = {
    "==": equals,
    "!=": differs,
    "<": _ordered(operator.lt),
    "<=": _ordered(operator.le),
    ">": _ordered(operator.gt),
    ">=": _ordered(operator.ge),
    "in": contains,
    "+": _plus,
    "-": _arithmetic("-", operator.sub),
    "*": _arithmetic("*", operator.mul),
    "/": _arithmetic("/", _divide),
    "%": _remainder,
}


def negate(value: object, at: int) -> object:
    """`-value`."""
    if isinstance(value, NUMBERS) and not isinstance(value, bool):
        return _bounded(-value, at)
    raise Fault(at, f"`-` is for numbers, not for {kind_of(value)}")


def size(value: object, at: int) -> object:
    """Characters of text, items of a list or map."""
    if isinstance(value, str | list | tuple | Mapping):
        return len(value)
    raise Fault(at, f"{kind_of(value)} has no size")


_INT = re.compile(r"-?[0-9]{1,19}")
_FLOAT = re.compile(r"-?(?:[0-9]{1,400}(?:\.[0-9]{1,400})?|\.[0-9]{1,400})(?:[eE][+-]?[0-9]{1,4})?")


def to_int(value: object, at: int) -> object:
    """`int(value)`: of a number (towards zero) or of its text."""
    if isinstance(value, float) and math.isfinite(value):
        return _bounded(math.trunc(value), at)
    if isinstance(value, int) and not isinstance(value, bool):
        return _bounded(value, at)
    if isinstance(value, str) and _INT.fullmatch(value):
        return _bounded(int(value), at)
    raise Fault(at, f"{_shown(value)} is not an integer")


def to_double(value: object, at: int) -> object:
    """`double(value)`: of a number or of its text."""
    if isinstance(value, float):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return float(_bounded(value, at))
    if isinstance(value, str) and _FLOAT.fullmatch(value):
        return float(value)
    raise Fault(at, f"{_shown(value)} is not a number")


def to_string(value: object, at: int) -> object:
    """`string(value)`: of text, a number or a truth value."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, int):
        return str(_bounded(value, at))
    raise Fault(at, f"{kind_of(value)} has no text")


def _shown(value: object) -> str:
    if isinstance(value, str | float):
        return f"{value!r:.60}"
    # Python refuses to write integers of thousands of digits.
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() <= 64:
        return str(value)
    return kind_of(value)


FUNCTIONS: dict[str, Callable[[object, int], object]] = {
    "size": size,
    "int": to_int,
    "double": to_double,
    "string": to_string,
}

TEXT_METHODS: dict[str, Callable[[str, str], bool]] = {
    "startsWith": str.startswith,
    "endsWith": str.endswith,
    "contains": str.__contains__,
}
