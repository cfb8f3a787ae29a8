"""How deep JSON text is nested, told without parsing it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironflow.core.errors import InvalidInput
from ironflow.core.values.codec import MAX_DEPTH
from ironflow.core.values.json_text import keep_json

TEXT = st.text(st.sampled_from('[]{}"\\:,a'), max_size=8)


def _wrap(value: Any, key: str | None, sibling: str) -> Any:
    return [sibling, value, {}] if key is None else {key: value, key + "2": sibling}


@given(st.lists(st.tuples(st.none() | TEXT, TEXT), min_size=MAX_DEPTH - 3, max_size=MAX_DEPTH + 3))
def test_values_up_to_the_limit_are_kept_and_deeper_ones_refused(
    levels: list[tuple[str | None, str]],
) -> None:
    value: Any = 1
    for key, sibling in levels:
        value = _wrap(value, key, sibling)
    data = msgspec.json.encode(value)
    # The innermost list has a sibling `{}`, which is a level of its own.
    depth = len(levels) + (levels[0][0] is None)
    if depth <= MAX_DEPTH:
        assert keep_json(msgspec.Raw(data), "input") == data
    else:
        with pytest.raises(InvalidInput, match="nested deeper"):
            keep_json(msgspec.Raw(data), "input")
