r"""Regular expressions whose time is bounded, for patterns that come from outside.

Python's `re` backtracks: a short pattern can take hours on a short text. This one never looks back:
it follows all possibilities at once (Thompson's construction) and remembers the sets it has seen,
as RE2 does, so a search costs about one dictionary lookup a character. RE2's spelling: literals,
`.`, classes, `\d \w \s` (ASCII) and their opposites, groups, `|`, `* + ? {m,n}`, `^ $ \A \z`, a
leading `(?i)`. No back-references, look-around or word boundaries. It answers only whether a match
exists anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

MAX_PATTERN = 512
MAX_PROGRAM = 1000
MAX_TEXT = 65_536
MAX_WORK = 200_000
"""Steps of the slow path in one search: a hostile pattern is given up after some 30 ms."""

_MAX_DEPTH = 20
_MAX_REPEAT = 200
_CACHE_SIZE = 20_000
"""Remembered transitions and set members of one pattern; then it forgets them and begins again."""

_LAST = 0x10FFFF


class RegexError(ValueError):
    """The pattern is not understood, or a search takes too much work."""


Ranges = tuple[tuple[int, int], ...]

_DIGIT: Ranges = ((48, 57),)
_WORD: Ranges = ((48, 57), (65, 90), (95, 95), (97, 122))
_SPACE: Ranges = ((9, 13), (32, 32))
_CONTROLS = {"t": "\t", "n": "\n", "r": "\r", "f": "\f", "v": "\v", "a": "\a"}


def _invert(ranges: Ranges) -> Ranges:
    found, low = [], 0
    for first, last in sorted(ranges):
        if low < first:
            found.append((low, first - 1))
        low = max(low, last + 1)
    if low <= _LAST:
        found.append((low, _LAST))
    return tuple(found)


_CLASSES = {"d": _DIGIT, "w": _WORD, "s": _SPACE}
_CLASSES |= {name.upper(): _invert(ranges) for name, ranges in _CLASSES.items()}
_ANY = _invert(((10, 10),))


@dataclass(frozen=True, slots=True)
class _Set:
    """One character of these ranges."""

    ranges: Ranges


@dataclass(frozen=True, slots=True)
class _Edge:
    """The start of the text, or its end."""

    is_start: bool


@dataclass(frozen=True, slots=True)
class _All:
    """One part after the other."""

    parts: tuple[_Tree, ...]


@dataclass(frozen=True, slots=True)
class _Any:
    """One of the parts."""

    parts: tuple[_Tree, ...]


@dataclass(frozen=True, slots=True)
class _Repeat:
    """A part, from `low` to `high` times; None is without end."""

    part: _Tree
    low: int
    high: int | None


_Tree = _Set | _Edge | _All | _Any | _Repeat


class _Parser:
    """Recursive descent over the pattern's text."""

    def __init__(self, pattern: str) -> None:
        self.pattern, self.at, self.depth = pattern, 0, 0
        self.ignores_case = self.accept("(?i)")

    def parse(self) -> _Tree:
        tree = self.alternatives()
        if self.at < len(self.pattern):
            raise self.error("a `)` too many")
        return tree

    def error(self, reason: str) -> RegexError:
        return RegexError(f"{reason}, at position {self.at} of the pattern")

    def peek(self) -> str:
        return self.pattern[self.at : self.at + 1]

    def take(self) -> str:
        char = self.peek()
        if not char:
            raise self.error("the pattern ends too early")
        self.at += 1
        return char

    def accept(self, text: str) -> bool:
        found = self.pattern.startswith(text, self.at)
        self.at += len(text) if found else 0
        return found

    def alternatives(self) -> _Tree:
        parts = [self.sequence()]
        while self.accept("|"):
            parts.append(self.sequence())
        return parts[0] if len(parts) == 1 else _Any(tuple(parts))

    def sequence(self) -> _Tree:
        parts = []
        while self.peek() and self.peek() not in "|)":
            parts.append(self.repeated())
        return _All(tuple(parts))

    def repeated(self) -> _Tree:
        part = self.atom()
        low: int
        high: int | None
        match self.peek():
            case "*":
                low, high = 0, None
            case "+":
                low, high = 1, None
            case "?":
                low, high = 0, 1
            case "{":
                low, high = self.counts()
            case _:
                return part
        self.take()
        self.accept("?")  # a lazy repeat matches the same texts
        if self.peek() and self.peek() in "*+?{":
            raise self.error("a repeat of a repeat")
        return _Repeat(part, low, high)

    def counts(self) -> tuple[int, int | None]:
        """`{m}`, `{m,}` or `{m,n}`, up to its brace."""
        end = self.pattern.find("}", self.at)
        first, comma, last = self.pattern[self.at + 1 : end].partition(",")
        numbers = [first, last] if last else [first]
        if end < 0 or not all(n.isascii() and n.isdigit() and len(n) <= 3 for n in numbers):
            raise self.error("`{` must be followed by a count like {2}, {2,} or {2,5}")
        low = int(first)
        high = int(last) if last else None if comma else low
        if max(low, high or 0) > _MAX_REPEAT or (high is not None and high < low):
            raise self.error(f"a count must grow and be at most {_MAX_REPEAT}")
        self.at = end
        return low, high

    def atom(self) -> _Tree:
        char = self.take()
        match char:
            case ".":
                return _Set(_ANY)
            case "^":
                return _Edge(True)
            case "$":
                return _Edge(False)
            case "[":
                return _Set(self.char_class())
            case "(":
                return self.group()
            case "\\":
                if self.peek() and self.peek() in "Az":
                    return _Edge(self.take() == "A")
                return _Set(self.fold(self.escape()))
            case "*" | "+" | "?" | "{":
                raise self.error(f"nothing before `{char}` to repeat")
            case _:
                return _Set(self.fold(((ord(char), ord(char)),)))

    def group(self) -> _Tree:
        if self.accept("?") and not self.accept(":"):
            raise self.error("only (...) and (?:...) groups are understood, and (?i) in front")
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise self.error(f"groups are nested deeper than {_MAX_DEPTH}")
        tree = self.alternatives()
        if not self.accept(")"):
            raise self.error("a group is not closed")
        self.depth -= 1
        return tree

    def escape(self) -> Ranges:
        char = self.take()
        if char in _CLASSES:
            return _CLASSES[char]
        if char in _CONTROLS:
            return ((ord(_CONTROLS[char]),) * 2,)
        if char == "x":
            digits = self.pattern[self.at : self.at + 2]
            if len(digits) < 2 or not set(digits) <= set("0123456789abcdefABCDEF"):
                raise self.error("`\\x` needs two hexadecimal digits")
            self.at += 2
            return ((int(digits, 16),) * 2,)
        if char.isascii() and char.isalnum():
            raise self.error(f"`\\{char}` is not understood")
        return ((ord(char), ord(char)),)

    def char_class(self) -> Ranges:
        """`[...]`, from behind its bracket."""
        negated = self.accept("^")
        ranges: list[tuple[int, int]] = []
        first = True
        while first or self.peek() != "]":
            first = False
            if self.pattern.startswith("[:", self.at):
                raise self.error("named classes are not understood")
            low = self.class_member()
            if self.peek() == "-" and self.pattern[self.at + 1 : self.at + 2] != "]":
                self.take()
                high = self.class_member()
                if (
                    len(low) > 1
                    or len(high) > 1
                    or low[0][0] != low[0][1]
                    or high[0][0] < low[0][0]
                ):
                    raise self.error("a range of characters must grow")
                ranges.append((low[0][0], high[0][0]))
            else:
                ranges.extend(low)
        self.take()
        folded = self.fold(tuple(ranges))
        return _invert(folded) if negated else folded

    def fold(self, ranges: Ranges) -> Ranges:
        """With the other case of each letter, if case is ignored; sorted and joined."""
        if self.ignores_case:
            small = [(low, high) for low, high in ranges if high - low < 512] + [
                (max(low, 65), min(high, 122)) for low, high in ranges if high - low >= 512
            ]
            chars = {chr(code) for low, high in small for code in range(low, high + 1)}
            cases = {c for char in chars for c in (char.lower(), char.upper()) if len(c) == 1}
            ranges += tuple((ord(c), ord(c)) for c in cases)
        return _invert(_invert(ranges))

    def class_member(self) -> Ranges:
        char = self.take()
        return self.escape() if char == "\\" else ((ord(char), ord(char)),)


class Regex:
    """A compiled pattern. Raises `RegexError` for one that is not understood or too large."""

    def __init__(self, pattern: str) -> None:
        if len(pattern) > MAX_PATTERN:
            raise RegexError(f"the pattern is longer than {MAX_PATTERN} characters")
        parser = _Parser(pattern)
        tree = parser.parse()
        self.pattern = pattern
        # A state reads a character (`_reads`) or goes on unread, perhaps at an edge of the text
        # only.
        self._reads: list[Ranges | None] = [None]
        self._next: list[tuple[int, ...]] = [()]
        self._edges: list[bool | None] = [None]
        self._entry = self._build(tree, 0)
        self._known: dict[frozenset[int], _State] = {}
        self._held = 0

    def _add(
        self, after: tuple[int, ...], reads: Ranges | None = None, edge: bool | None = None
    ) -> int:
        if len(self._next) >= MAX_PROGRAM:
            raise RegexError("the pattern is too large")
        self._next.append(after)
        self._reads.append(reads)
        self._edges.append(edge)
        return len(self._next) - 1

    def _build(self, tree: _Tree, after: int) -> int:
        """Add the states of a tree that leads to the state `after`, and answer the one to enter by.

        Each tree adds a state, so that the bound on states bounds the work, of empty repeats too.
        """
        match tree:
            case _Set(ranges):
                return self._add((after,), ranges)
            case _Edge(is_start):
                return self._add((after,), edge=is_start)
            case _All(parts):
                entry = self._add((after,))
                for part in reversed(parts):
                    entry = self._build(part, entry)
                return entry
            case _Any(parts):
                return self._add(tuple(self._build(part, after) for part in parts))
            case _Repeat(part, low, high):
                if high is None:
                    entry = self._add((after,))
                    self._next[entry] = (self._build(part, entry), after)
                else:
                    entry = after
                    for _ in range(high - low):
                        entry = self._add((self._build(part, entry), after))
                for _ in range(low):
                    entry = self._build(part, entry)
                return entry

    def search(self, text: str) -> bool:
        """Whether the pattern matches anywhere in the text.

        Raises `RegexError` if that is too much work.
        """
        if len(text) > MAX_TEXT:
            raise RegexError(f"the text is longer than {MAX_TEXT} characters")
        if not text:
            return 0 in self._close([self._entry], at_start=True, at_end=True)
        work = 0
        state = self._state(self._close([self._entry], at_start=True))
        for char in text:
            if state.matched:
                return True
            after = state.after.get(char)
            if after is None:
                after = state.after[char] = self._step(state, ord(char))
                work += state.cost + after.cost
                if work > MAX_WORK:
                    raise RegexError("the search takes too much work")
            state = after
        return state.matched or state.matches_at_end

    def _step(self, state: _State, code: int) -> _State:
        # The entry is among them at each character: a match may begin anywhere.
        reached = [self._entry]
        for member in state.members:
            ranges = self._reads[member]
            if ranges is not None:
                for low, high in ranges:
                    if low <= code <= high:
                        reached.extend(self._next[member])
                        break
        return self._state(self._close(reached, at_start=False))

    def _close(self, states: list[int], at_start: bool, at_end: bool = False) -> frozenset[int]:
        """The states that are reached without reading."""
        seen: set[int] = set()
        pending = list(states)
        while pending:
            state = pending.pop()
            if state in seen:
                continue
            seen.add(state)
            edge = self._edges[state]
            if self._reads[state] is None and (edge is None or (at_start if edge else at_end)):
                pending.extend(self._next[state])
        return frozenset(seen)

    def _state(self, members: frozenset[int]) -> _State:
        state = self._known.get(members)
        if state is None:
            cost = 1 + sum(1 + len(self._reads[member] or ()) for member in members)
            self._held += cost
            if self._held > _CACHE_SIZE:
                self._known.clear()
                self._held = cost
            at_end = self._close(list(members), at_start=False, at_end=True)
            state = self._known[members] = _State(members, cost, 0 in members, 0 in at_end)
        self._held += 1
        return state


class _State:
    """A set of states, and where each character leads."""

    __slots__ = ("after", "cost", "matched", "matches_at_end", "members")

    def __init__(
        self, members: frozenset[int], cost: int, matched: bool, matches_at_end: bool
    ) -> None:
        self.members, self.cost = members, cost
        self.matched, self.matches_at_end = matched, matches_at_end
        self.after: dict[str, _State] = {}


@lru_cache(maxsize=256)
def compile_regex(pattern: str) -> Regex:
    """A pattern ready to search. Raises `RegexError`."""
    return Regex(pattern)
