"""Named SQL from `storage/sqlite/queries/*.sql`, so that Python holds no statement longer than a
line.

A query starts with a `-- name: xyz` line and a comment that says what it is for, and ends where the
next one starts. Files are found through `importlib.resources`, so that they are found wherever the
package was unpacked.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

_HEADER = re.compile(r"^-- name: (\w+)\n((?:-- .+\n)+)", re.MULTILINE)


def parse(text: str) -> dict[str, str]:
    """The queries of one file by name. Raises ValueError for a name given twice, or for SQL outside
    a query."""
    queries: dict[str, str] = {}
    parts = _HEADER.split(text)
    if _without_comments(parts[0]):
        raise ValueError(f"SQL before the first '-- name:' header: {parts[0].strip()[:60]!r}")
    for name, body in zip(parts[1::3], parts[3::3], strict=True):
        if name in queries or "-- name:" in body:
            raise ValueError(f"query {name!r}: named twice, or the next one has no comment")
        queries[name] = body.strip().removesuffix(";")
    return queries


def _without_comments(text: str) -> str:
    return re.sub(r"--.*", "", text).strip()


@cache
def load(file: str) -> dict[str, str]:
    """The queries of `storage/sqlite/queries/<file>.sql`."""
    source = files("ironflow.storage.sqlite").joinpath("queries", f"{file}.sql")
    return parse(source.read_text(encoding="utf-8"))
