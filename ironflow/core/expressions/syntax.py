"""The spelling of expressions: text to tokens to a tree, with bounds on its length, size and depth.

The grammar is a part of CEL's (Common Expression Language): literals, `? :`, `||`, `&&`,
comparisons and `in`, `+ - * / %`, unary `!` and `-`, members, indexes and calls. What a name means
is not decided here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

MAX_LENGTH = 4096
MAX_NODES = 1000
MAX_DEPTH = 32
INT_MIN, INT_MAX = -(2**63), 2**63 - 1


class Fault(Exception):
    """What is wrong with an expression, or with a value that it met, and at which character."""

    def __init__(self, position: int, reason: str) -> None:
        self.position, self.reason = position, reason
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class Node:
    """A piece of an expression; `at` is the place of its first or telling character, from 0."""

    at: int


@dataclass(frozen=True, slots=True)
class Constant(Node):
    """A literal value."""

    value: str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Name(Node):
    """A variable."""

    name: str


@dataclass(frozen=True, slots=True)
class Index(Node):
    """`base.key` (then `member`) or `base[key]`."""

    base: Node
    key: Node
    member: bool


@dataclass(frozen=True, slots=True)
class Call(Node):
    """`name(args)`, or `base.name(args)` when there is a base."""

    name: str
    base: Node | None
    args: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Unary(Node):
    """`!operand` or `-operand`."""

    operator: str
    operand: Node


@dataclass(frozen=True, slots=True)
class Binary(Node):
    """Comparison, membership or arithmetic."""

    operator: str
    left: Node
    right: Node


@dataclass(frozen=True, slots=True)
class Logic(Node):
    """`a && b && ...` or `a || b || ...`."""

    operator: str
    operands: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Choice(Node):
    """`condition ? yes : no`."""

    condition: Node
    yes: Node
    no: Node


@dataclass(frozen=True, slots=True)
class ListOf(Node):
    """`[a, b]`."""

    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class MapOf(Node):
    """`{k: v}`."""

    pairs: tuple[tuple[Node, Node], ...]


@dataclass(frozen=True, slots=True)
class Token:
    """A word of the text: `kind` is number, string, name, the operator itself, or end."""

    kind: str
    text: str
    at: int


_TOKEN = re.compile(
    r"""[ \t\r\n]*(?:
      (?P<number>0[xX][0-9a-fA-F]+ | (?:[0-9]+\.[0-9]+ | \.[0-9]+ | [0-9]+)(?:[eE][+-]?[0-9]+)?)
    | (?P<string>[rR]"[^"\n]*" | [rR]'[^'\n]*' | "(?:[^"\\\n]|\\.)*" | '(?:[^'\\\n]|\\.)*')
    | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
    | (?P<operator>&& | \|\| | [=!<>]= | [-+*/%<>!?:.,()\[\]{}])
    | (?P<end>\Z)
    )""",
    re.VERBOSE,
)
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)
_SIMPLE = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"} | {
    c: c for c in "\\\"'`?"
}
_WORDS: dict[str, bool | None] = {"true": True, "false": False, "null": None}
_RELATIONS = frozenset({"==", "!=", "<", "<=", ">", ">=", "in"})
_STRENGTH = {
    "||": 1,
    "&&": 2,
    **dict.fromkeys(_RELATIONS, 3),
    "+": 4,
    "-": 4,
    "*": 5,
    "/": 5,
    "%": 5,
}


def tokenize(text: str) -> Iterator[Token]:
    """The tokens of a text, the last of kind `end`. Raises `Fault`."""
    at = 0
    while True:
        match = _TOKEN.match(text, at)
        if match is None or match.lastgroup is None:
            at += len(text[at:]) - len(text[at:].lstrip(" \t\r\n"))
            what = "an unfinished string" if text[at] in "\"'" else f"unexpected {text[at]!r}"
            raise Fault(at, what)
        kind, word = match.lastgroup, match[match.lastgroup]
        start, at = match.end() - len(word), match.end()
        if kind == "number" and text[at : at + 1].isidentifier():
            raise Fault(at, f"unexpected {text[at]!r} after a number")
        if kind == "operator" or word == "in":
            kind = word
        yield Token(kind, word, start)
        if kind == "end":
            return


def parse(text: str) -> Node:
    """The tree of an expression. Raises `Fault`."""
    if len(text) > MAX_LENGTH:
        raise Fault(MAX_LENGTH, f"the expression is longer than {MAX_LENGTH} characters")
    parser = _Parser(text)
    tree = parser.expression()
    parser.take("end")
    return tree


class _Parser:
    """Precedence climbing over the tokens; bounds the nodes, their height and the recursion."""

    def __init__(self, text: str) -> None:
        self.tokens = list(tokenize(text))
        self.place = 0
        self.level = 0
        self.heights: dict[int, int] = {}
        self.made: list[Node] = []

    @property
    def token(self) -> Token:
        return self.tokens[self.place]

    def accept(self, kind: str) -> bool:
        if self.token.kind != kind:
            return False
        self.place += 1
        return True

    def take(self, kind: str) -> Token:
        token = self.token
        if token.kind != kind:
            found = "the end" if token.kind == "end" else repr(token.text)
            wanted = {"end": "the end", "name": "a name"}.get(kind, repr(kind))
            raise Fault(token.at, f"expected {wanted}, found {found}")
        self.place += 1
        return token

    def add(self, node: Node, *parts: Node) -> Node:
        """A node whose parts are these, if the tree is still small enough."""
        height = 1 + max((self.heights[id(part)] for part in parts), default=0)
        self.made.append(node)
        self.heights[id(node)] = height
        if len(self.made) > MAX_NODES:
            raise Fault(node.at, f"the expression has more than {MAX_NODES} parts")
        if height > MAX_DEPTH:
            raise Fault(node.at, f"the expression is nested deeper than {MAX_DEPTH}")
        return node

    def expression(self) -> Node:
        self.level += 1
        if self.level > MAX_DEPTH:
            raise Fault(self.token.at, f"the expression is nested deeper than {MAX_DEPTH}")
        tree = self.operation(1)
        at = self.token.at
        if self.accept("?"):
            yes = self.operation(1)
            self.take(":")
            no = self.expression()
            tree = self.add(Choice(at, tree, yes, no), tree, yes, no)
        self.level -= 1
        return tree

    def operation(self, least: int) -> Node:
        left = self.unary()
        while (strength := _STRENGTH.get(self.token.kind, 0)) >= least:
            token = self.take(self.token.kind)
            right = self.operation(strength + 1)
            if strength <= 2:
                # One wide node instead of a deep one, so that a long list of conditions is not
                # deep.
                wide = isinstance(left, Logic) and left.operator == token.kind
                first = left.operands if wide and isinstance(left, Logic) else (left,)
                operands = (*first, right)
                left = self.add(Logic(token.at, token.kind, operands), *operands)
            else:
                left = self.add(Binary(token.at, token.kind, left, right), left, right)
        return left

    def unary(self) -> Node:
        operators = []
        while self.token.kind in ("!", "-"):
            operators.append(self.take(self.token.kind))
        node = self.postfix()
        for token in reversed(operators):
            node = self.add(Unary(token.at, token.kind, node), node)
        return node

    def postfix(self) -> Node:
        node = self.primary()
        while True:
            if self.accept("."):
                name = self.take("name")
                if self.accept("("):
                    args = self.items(")")
                    node = self.add(Call(name.at, name.text, node, args), node, *args)
                else:
                    key = self.add(Constant(name.at, name.text))
                    node = self.add(Index(node.at, node, key, True), node, key)
            elif self.accept("["):
                key = self.expression()
                self.take("]")
                node = self.add(Index(node.at, node, key, False), node, key)
            else:
                return node

    def primary(self) -> Node:
        token = self.token
        self.place += 1
        match token.kind:
            case "number":
                return self.add(Constant(token.at, _number(token)))
            case "string":
                return self.add(Constant(token.at, _string(token)))
            case "name" if token.text in _WORDS:
                return self.add(Constant(token.at, _WORDS[token.text]))
            case "name" if self.accept("("):
                args = self.items(")")
                return self.add(Call(token.at, token.text, None, args), *args)
            case "name":
                return self.add(Name(token.at, token.text))
            case "(":
                inner = self.expression()
                self.take(")")
                return inner
            case "[":
                items = self.items("]")
                return self.add(ListOf(token.at, items), *items)
            case "{":
                return self.pairs(token.at)
            case "end":
                raise Fault(token.at, "the expression ends too early")
            case _:
                raise Fault(token.at, f"unexpected {token.text!r}")

    def items(self, close: str) -> tuple[Node, ...]:
        found: list[Node] = []
        while not self.accept(close):
            if found:
                self.take(",")
                if close == "]" and self.accept(close):
                    break
            found.append(self.expression())
        return tuple(found)

    def pairs(self, at: int) -> Node:
        found: list[tuple[Node, Node]] = []
        while not self.accept("}"):
            if found:
                self.take(",")
                if self.accept("}"):
                    break
            key = self.expression()
            self.take(":")
            found.append((key, self.expression()))
        return self.add(MapOf(at, tuple(found)), *(part for pair in found for part in pair))


def _number(token: Token) -> int | float:
    text = token.text
    if text[:2] in ("0x", "0X"):
        value = int(text, 16)
    elif text.isdigit():
        # Never more digits than int() takes: the length is bounded before.
        value = int(text) if len(text) <= 20 else INT_MAX + 1
    else:
        number = float(text)
        if number in (float("inf"), float("-inf")):
            raise Fault(token.at, f"{text} is too large")
        return number
    if value > INT_MAX:
        raise Fault(token.at, f"{text:.40} is too large for an integer")
    return value


def _string(token: Token) -> str:
    text = token.text
    if text[0] in "rR":
        return text[2:-1]

    def unescape(match: re.Match[str]) -> str:
        code = match[1] or match[2] or match[3]
        if code is None:
            if match[4] not in _SIMPLE:
                raise Fault(token.at + 1 + match.start(), f"unknown escape {match[0]!r}")
            return _SIMPLE[match[4]]
        if int(code, 16) > 0x10FFFF or 0xD800 <= int(code, 16) <= 0xDFFF:
            raise Fault(token.at + 1 + match.start(), f"{match[0]!r} is no character")
        return chr(int(code, 16))

    return _ESCAPE.sub(unescape, text[1:-1])
