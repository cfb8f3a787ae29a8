"""Text search: words are alternatives, `+word` must be there, `-word` or `!word` must not.

Quotes keep a phrase together. The case of ASCII letters does not matter: that is what SQLite's
`lower` knows, and both must agree.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_LOWER = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}
_TERM = re.compile(r'([-+!]?)(?:"([^"]*)"?|(\S+))')


class TextQuery(NamedTuple):
    """A parsed query; every term in folded case."""

    any: tuple[str, ...] = ()
    all: tuple[str, ...] = ()
    none: tuple[str, ...] = ()

    def matches(self, text: str) -> bool:
        """Whether `text` is found."""
        text = fold(text)
        return (
            (not self.any or any(term in text for term in self.any))
            and all(term in text for term in self.all)
            and not any(term in text for term in self.none)
        )


def fold(text: str) -> str:
    """`text` with its ASCII letters in lower case."""
    return text.translate(_LOWER)


def parse_text_query(text: str) -> TextQuery:
    """A query from what a user typed; never fails."""
    terms: dict[str, list[str]] = {"": [], "+": [], "-": []}
    for sign, phrase, word in _TERM.findall(text):
        term = fold(phrase or word)
        if term:
            terms["-" if sign == "!" else sign].append(term)
    return TextQuery(tuple(terms[""]), tuple(terms["+"]), tuple(terms["-"]))
