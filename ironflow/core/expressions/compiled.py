"""Filter expressions and paths: compiled once, asked often, and safe to take from anyone.

An expression sees the variables it is given and what is inside them, by mapping and list access
only: no attribute of Python is ever reached. It has no loops, its size is bounded, and so are the
strings it builds, the lists it compares and the work of its regular expressions; so it ends
quickly, whatever it says. The spelling and the meaning are CEL's, with these differences: ints and
floats mix in arithmetic, `has` is false when any part of its path is missing, and `matches` wants a
literal pattern.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Final

from ironflow.core.errors import ExpressionError
from ironflow.core.expressions import operators as ops
from ironflow.core.expressions.operators import as_bool, as_str, kind_of
from ironflow.core.expressions.regex import RegexError, compile_regex
from ironflow.core.expressions.syntax import (
    Binary,
    Call,
    Choice,
    Constant,
    Fault,
    Index,
    ListOf,
    Logic,
    MapOf,
    Name,
    Node,
    Unary,
    parse,
)

Bindings = Mapping[str, object]
Run = Callable[[Bindings], object]

EVENT_VARIABLES = frozenset({"event", "data"})
"""What an expression on an event may speak of: the whole event, and `data`, short for `event.data`.
"""

MISSING: Final = object()
"""What a path answers by default when there is nothing at its place."""


class Expression:
    """A compiled expression. `text` is its source, `field` names it in errors."""

    __slots__ = ("_run", "field", "text")

    def __init__(self, text: str, field: str, run: Run) -> None:
        self.text, self.field, self._run = text, field, run

    def evaluate(self, bindings: Bindings) -> object:
        """The value. Raises `ExpressionError` for a missing key or a value of the wrong type."""
        try:
            return self._run(bindings)
        except Fault as fault:
            raise _as_error(self.field, fault) from None

    def matches(self, bindings: Bindings) -> bool:
        """Whether the value is true; a missing key or a value of the wrong type is a no."""
        try:
            return self._run(bindings) is True
        except Fault:
            return False

    def __repr__(self) -> str:
        return f"Expression({self.text!r})"


def compile_expression(
    text: str, variables: frozenset[str], field: str = "expression"
) -> Expression:
    """An expression over these variables.

    Raises `ExpressionError` with the position of what is wrong.
    """
    if not isinstance(text, str):
        raise ExpressionError(field, f"must be text, not {type(text).__name__}")
    try:
        return Expression(text, field, _compile_text(text, frozenset(variables)))
    except Fault as fault:
        raise _as_error(field, fault) from None


def _as_error(field: str, fault: Fault) -> ExpressionError:
    return ExpressionError(field, f"at position {fault.position + 1}: {fault.reason}")


@lru_cache(maxsize=1024)
def _compile_text(text: str, variables: frozenset[str]) -> Run:
    return _Compiler(variables).compile(parse(text))


class _Compiler:
    """Turns a tree into closures, innermost first."""

    def __init__(self, variables: frozenset[str]) -> None:
        self.variables = variables

    def compile(self, node: Node) -> Run:
        match node:
            case Constant(value=value):
                return lambda _: value
            case Name():
                return self.name(node)
            case Index():
                return self.index(node)
            case Logic(operator=operator, operands=operands):
                return _logic(operator == "&&", tuple((self.compile(o), o.at) for o in operands))
            case Binary():
                return self.binary(node)
            case Unary():
                return self.unary(node)
            case Choice(condition=condition, yes=yes, no=no):
                return _choice(
                    self.compile(condition), condition.at, self.compile(yes), self.compile(no)
                )
            case Call():
                return self.call(node)
            case ListOf(items=items):
                parts = tuple(self.compile(item) for item in items)
                return lambda b: [part(b) for part in parts]
            case MapOf():
                return self.mapping(node)
            case _:
                raise AssertionError(node)

    def name(self, node: Name) -> Run:
        name, at = node.name, node.at
        if name not in self.variables:
            known = ", ".join(sorted(self.variables)) or "none"
            raise Fault(at, f"unknown variable {name!r}; there are {known}")

        def run(bindings: Bindings) -> object:
            if name not in bindings:
                raise Fault(at, f"{name!r} has no value")
            return bindings[name]

        return run

    def index(self, node: Index) -> Run:
        """Literal keys after a variable are one closure: the usual case, and the fastest."""
        keys: list[tuple[str, int]] = []
        base: Node = node
        while (
            isinstance(base, Index)
            and isinstance(base.key, Constant)
            and isinstance(base.key.value, str)
        ):
            keys.append((base.key.value, base.key.at))
            base = base.base
        if keys and isinstance(base, Name):
            self.name(base)
            return _chain(base.name, base.at, tuple(reversed(keys)))
        inner, at = self.compile(node.base), node.key.at
        if node.member and isinstance(node.key, Constant):
            key = node.key.value
            return lambda b: ops.member(inner(b), key, at)
        choose = self.compile(node.key)
        return lambda b: ops.item(inner(b), choose(b), at)

    def binary(self, node: Binary) -> Run:
        left, right, at = self.compile(node.left), self.compile(node.right), node.at
        operate = ops.BINARY[node.operator]
        if isinstance(node.right, Constant):
            value = node.right.value
            if type(value) is str and node.operator in ("==", "!="):
                # Text equals text only, so Python's own comparison is exact here.
                if node.operator == "==":
                    return lambda b: left(b) == value
                return lambda b: left(b) != value
            return lambda b: operate(left(b), value, at)
        if isinstance(node.left, Constant):
            first = node.left.value
            return lambda b: operate(first, right(b), at)
        return lambda b: operate(left(b), right(b), at)

    def unary(self, node: Unary) -> Run:
        operand, at = self.compile(node.operand), node.at
        if node.operator == "!":
            return lambda b: not as_bool(operand(b), at)
        return lambda b: ops.negate(operand(b), at)

    def mapping(self, node: MapOf) -> Run:
        pairs = tuple((self.compile(k), self.compile(v), k.at) for k, v in node.pairs)

        def run(bindings: Bindings) -> object:
            made: dict[str, object] = {}
            for key, value, at in pairs:
                name = as_str(key(bindings), at)
                if name in made:
                    raise Fault(at, f"key {name!r} is there twice")
                made[name] = value(bindings)
            return made

        return run

    def call(self, node: Call) -> Run:
        name, at = node.name, node.at
        if node.base is None and name == "has":
            return self.has(node)
        if node.base is None and name in ops.FUNCTIONS:
            _check_count(node, 1)
            function, value = ops.FUNCTIONS[name], self.compile(node.args[0])
            return lambda b: function(value(b), at)
        if node.base is not None and name == "size":
            _check_count(node, 0)
            base = self.compile(node.base)
            return lambda b: ops.size(base(b), at)
        if node.base is not None and name == "matches":
            return self.matches(node, node.base)
        if node.base is not None and name in ops.TEXT_METHODS:
            _check_count(node, 1)
            method = ops.TEXT_METHODS[name]
            text, part = self.compile(node.base), self.compile(node.args[0])
            return lambda b: method(as_str(text(b), at), as_str(part(b), at))
        if node.base is None:
            known = ", ".join(sorted(["has", *ops.FUNCTIONS]))
            raise Fault(at, f"unknown function {name!r}; there are {known}")
        known = ", ".join(sorted(["size", "matches", *ops.TEXT_METHODS]))
        raise Fault(at, f"unknown method {name!r}; there are {known}")

    def has(self, node: Call) -> Run:
        _check_count(node, 1)
        path = node.args[0]
        steps: list[tuple[Run, int]] = []
        while isinstance(path, Index):
            steps.append((self.compile(path.key), path.at))
            path = path.base
        if not steps or not isinstance(path, Name):
            raise Fault(node.at, "has() wants a path, like has(event.data.total)")
        self.name(path)
        root, keys = path.name, tuple(reversed(steps))

        def run(bindings: Bindings) -> object:
            value = bindings.get(root, MISSING)
            for key, at in keys:
                value = ops.look_up(value, key(bindings), at, MISSING)
                if value is MISSING:
                    return False
            return True

        return run

    def matches(self, node: Call, base: Node) -> Run:
        _check_count(node, 1)
        pattern, at = node.args[0], node.at
        if not isinstance(pattern, Constant) or not isinstance(pattern.value, str):
            raise Fault(pattern.at, "matches() wants its pattern as literal text")
        try:
            search = compile_regex(pattern.value).search
        except RegexError as error:
            raise Fault(pattern.at, str(error)) from None
        text = self.compile(base)

        def run(bindings: Bindings) -> object:
            try:
                return search(as_str(text(bindings), at))
            except RegexError as error:
                raise Fault(at, str(error)) from None

        return run


def _check_count(node: Call, wanted: int) -> None:
    if len(node.args) != wanted:
        raise Fault(node.at, f"{node.name}() takes {wanted} arguments, not {len(node.args)}")


def _chain(root: str, at: int, keys: tuple[tuple[str, int], ...]) -> Run:
    names = tuple(name for name, _ in keys)

    def slowly(bindings: Bindings) -> object:
        if root not in bindings:
            raise Fault(at, f"{root!r} has no value")
        value = bindings[root]
        for name, place in keys:
            value = ops.member(value, name, place)
        return value

    def run(bindings: Bindings) -> object:
        value = bindings.get(root)
        for name in names:
            # Exactly a dict, as JSON gives: a subclass may run code of its own when asked for a
            # key.
            if type(value) is not dict or name not in value:
                return slowly(bindings)
            value = value[name]
        return value

    return run


def _choice(condition: Run, at: int, yes: Run, no: Run) -> Run:
    return lambda b: yes(b) if as_bool(condition(b), at) else no(b)


def _logic(conjunction: bool, operands: tuple[tuple[Run, int], ...]) -> Run:
    """`&&` and `||` as CEL has them: one decisive operand decides, even if another one fails."""
    decisive = not conjunction

    def run(bindings: Bindings) -> object:
        fault: Fault | None = None
        for operand, at in operands:
            try:
                value = operand(bindings)
            except Fault as error:
                fault = fault or error
                continue
            if value is decisive:
                return decisive
            if value is not conjunction:
                fault = fault or Fault(at, f"is {kind_of(value)}, not true or false")
        if fault is not None:
            raise fault
        return conjunction

    return run


# -- paths -----------------------------------------------------------------------------------------

MAX_PATH = 512
_STEP = re.compile(r"""\.?([^.\[\]"'\s]+)|\[([0-9]{1,9})\]|\["([^"\]]*)"\]|\['([^'\]]*)'\]""")


class Path:
    """A compiled path into nested mappings and lists."""

    __slots__ = ("steps", "text")

    def __init__(self, text: str, steps: tuple[str | int, ...]) -> None:
        self.text, self.steps = text, steps

    def get(self, value: object, default: object = MISSING) -> object:
        """What is at this place inside `value`, or `default`; a number counts in a list from 0."""
        for step in self.steps:
            if type(value) is dict and step in value:
                value = value[step]
            else:
                value = ops.look_up(value, step, 0, MISSING)
                if value is MISSING:
                    return default
        return value

    def __repr__(self) -> str:
        return f"Path({self.text!r})"


def compile_path(text: str, field: str = "path") -> Path:
    """A path like `data.orderId`, `$.data.items[0]["a.b"]`.

    Raises `ExpressionError` naming `field`.
    """
    if not isinstance(text, str):
        raise ExpressionError(field, f"must be text, not {type(text).__name__}")
    try:
        return _compile_path(text)
    except Fault as fault:
        raise _as_error(field, fault) from None


@lru_cache(maxsize=1024)
def _compile_path(text: str) -> Path:
    if len(text) > MAX_PATH:
        raise Fault(MAX_PATH, f"the path is longer than {MAX_PATH} characters")
    at = 2 if text.startswith("$.") else 1 if text.startswith("$[") else 0
    steps: list[str | int] = []
    while at < len(text):
        match = _STEP.match(text, at)
        if match is None or (not steps and text[at] == ".") or (steps and text[at] not in ".["):
            raise Fault(at, f"{text[at]!r} is not understood in a path")
        key, number, double, single = match.groups()
        steps.append(
            int(number) if number else next(s for s in (key, double, single) if s is not None)
        )
        at = match.end()
    if not steps:
        raise Fault(0, "the path is empty")
    return Path(text, tuple(steps))
