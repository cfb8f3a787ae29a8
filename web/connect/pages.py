"""Pages of lists: a limit, and where to go on, by an opaque cursor or by an offset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypeVar

import msgspec

from ironflow.web.queries import decode_cursor, encode_cursor

T = TypeVar("T")

MOST = 1000
"""Items of one page."""


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """Which part of a list; a limit of 0 is the default."""

    limit: Annotated[int, msgspec.Meta(ge=0, le=MOST)] = 0
    offset: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0
    cursor: Annotated[str, msgspec.Meta(max_length=1000)] = ""


def cut(items: Sequence[T], page: Page, default: int = 100) -> tuple[Sequence[T], bool]:
    """The items of a page, and whether there are more behind it."""
    end = page.offset + (page.limit or default)
    return items[page.offset : end], len(items) > end


def encode_page_cursor(key: str) -> str:
    """Where a page ends, in a list that is ordered by one text."""
    return encode_cursor(0, key)


def decode_page_cursor(text: str) -> str | None:
    """Where the page before ended. Raises `InvalidInput`."""
    found = decode_cursor(text or None)
    return None if found is None else found[1]
