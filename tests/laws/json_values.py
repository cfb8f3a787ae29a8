"""JSON that laws of the pure core are tried with, and what a call is refused with."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from hypothesis import strategies as st

E = TypeVar("E", bound=Exception)


def refusal(kind: type[E], call: Callable[[], object]) -> E | None:
    """The expected error of a call, or None if there is none; any other error fails the test."""
    try:
        call()
    except kind as error:
        return error
    return None


TEXT = st.text(max_size=8)
KEYS = TEXT | st.sampled_from(["$type", "$dict", "$", "$uuid", "a"])
PLAIN = (
    st.none()
    | st.booleans()
    | st.integers()
    | TEXT
    | st.floats(allow_nan=False, allow_infinity=False)
)
JSONS = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4)
)
