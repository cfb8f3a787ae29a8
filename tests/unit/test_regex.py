from __future__ import annotations

import random
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ironflow.core.expressions.regex import MAX_PATTERN, MAX_TEXT, Regex, RegexError, compile_regex


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("", "", True),
        ("a", "cab", True),
        ("^a", "cab", False),
        ("b$", "cab", True),
        (r"\Acab\z", "cab", True),
        ("^$", "", True),
        ("$^", "", True),
        ("^$", "x", False),
        ("a.c", "a\nc", False),
        ("[a-c]{2,3}$", "xabc", True),
        ("^(ab|cd)+$", "abcdab", True),
        ("^(ab|cd)+$", "abcda", False),
        (r"^order-\d{4}(-[A-Z]+)?$", "order-2026-EU", True),
        (r"^\w+@\w+\.com$", "me@example.com", True),
        ("(?i)^straße$", "STRAßE", True),
        ("(?i)[^a]", "A", False),
        ("[]a]", "]", True),
        ("[^]a]", "]a", False),
        ("[a-]", "-", True),
        (r"[\d\-x]+$", "1-x", True),
        ("a*?b", "aaab", True),
        ("x{0}y", "y", True),
        (r"\x41\.", "A.", True),
        ("😀+", "a😀😀", True),
        ("(|a)*b", "aab", True),
        ("a{2}", "a", False),
    ],
)
def test_searches(pattern: str, text: str, expected: bool) -> None:
    assert Regex(pattern).search(text) is expected


@pytest.mark.parametrize(
    "pattern",
    [
        "(",
        ")",
        "[",
        "[a",
        "a)",
        "*",
        "a**",
        "a{2}{3}",
        "a{3,2}",
        "a{1000}",
        "a{x}",
        "a{2",
        "\\",
        r"\b",
        r"(a)\1",
        "(?=a)",
        "(?P<n>a)",
        "[z-a]",
        "[[:alpha:]]",
        r"\xZZ",
        "(" * 50 + ")" * 50,
        "+",
        "?",
        "((((a{100}){100}){100}))",
        "((){200}){200}",
        "a" * (MAX_PATTERN + 1),
        r"[\d-x]",
    ],
)
def test_patterns_that_are_refused(pattern: str) -> None:
    with pytest.raises(RegexError):
        Regex(pattern)


@pytest.mark.parametrize(
    "pattern", ["(a*)*b", "(a|a)*b", "(a+)+$b", "a*a*a*a*a*a*b", "(a|aa)+c", "(.*)*x"]
)
def test_what_takes_others_for_ever_takes_one_pass(pattern: str) -> None:
    regex = Regex(pattern)
    assert regex.search("a" * MAX_TEXT) is False
    # Its states are few, so nearly every character was one look into a dictionary.
    assert len(regex._known) < 50


def test_a_search_that_needs_too_many_states_is_given_up() -> None:
    rng = random.Random(1)
    text = "".join(rng.choice("ab") for _ in range(MAX_TEXT))
    with pytest.raises(RegexError, match="too much work"):
        Regex("(a|b)*a(a|b){60}c").search(text)
    with pytest.raises(RegexError, match="longer"):
        Regex("a").search("b" * (MAX_TEXT + 1))


def test_memory_is_bounded() -> None:
    regex, rng = Regex("(a|b)*a(a|b){12}c"), random.Random(1)
    for _ in range(200):
        regex.search("".join(rng.choice("ab") for _ in range(200)))
    assert sum(1 + len(state.after) for state in regex._known.values()) <= 20_000


ATOMS = st.sampled_from(["a", "b", "c", ".", "[ab]", "[^a]", r"\d", r"\w", "1", "^", "$", "(?:)"])
PATTERNS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda pair: f"({pair[0]}|{pair[1]})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{0,2}", "{1,}"])).map(
            lambda pair: f"(?:{pair[0]}){pair[1]}"
        ),
    ),
    max_leaves=8,
)


@given(PATTERNS, st.text("abc1 ", max_size=8))
@example("(?:^|a)+b", "ab")
@example("(?:(?:a?)*)*$", "")
def test_it_agrees_with_pythons_own(pattern: str, text: str) -> None:
    assert compile_regex(pattern).search(text) is bool(re.search(pattern, text, re.ASCII))


@given(st.text(max_size=40) | st.text("ab()[]{}|*+?^$.\\-,12", max_size=40), st.text(max_size=20))
def test_any_text_is_a_pattern_or_refused(pattern: str, text: str) -> None:
    try:
        regex = Regex(pattern)
    except RegexError:
        return
    assert regex.search(text) in (True, False)
