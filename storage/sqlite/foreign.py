"""Entries that another program has written to the journal, in places that belong to ours.

Only one process writes a database; who inserts rows by hand, in spite of that, takes a number or a
version that has been given to an entry which is acknowledged and waits in `deferred`. That stops
the server: one of the two must go, and which one is for people to say. So they are told which row
is in the way, and what to do.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from typing import Any

from ironflow.storage.sqlite.errors import Broken

Row = tuple[Any, ...]

_COLUMNS = "seq, stream, version, at, kind, data"
_AT = (
    f"SELECT {_COLUMNS} FROM main.journal WHERE seq = ? "
    f"UNION SELECT {_COLUMNS} FROM main.journal WHERE stream = ? AND version = ?"
)


def foreign_entries(connection: sqlite3.Connection, entries: Iterable[Row]) -> Iterator[str]:
    """A sentence for each row of the journal that stands where one of `entries` belongs."""
    told: set[int] = set()
    for ours in entries:
        for row in connection.execute(_AT, ours[:3]).fetchall():
            seq, stream, version, _, kind, _ = row
            if row == ours or seq in told:
                continue
            told.add(seq)
            yield (
                f"the row of seq {seq} (stream {stream!r}, version {version}, kind {kind!r}) stands"
                f" where an acknowledged entry belongs: seq {ours[0]}, stream {ours[1]!r}, version"
                f" {ours[2]}, kind {ours[4]!r}. Stop the server, keep a copy of the file and its"
                f" -wal, DELETE FROM journal WHERE seq = {seq}, and start again: that entry is then"
                " put in its place"
            )


def intrusion(
    connection: sqlite3.Connection, entries: Iterable[Row], error: sqlite3.IntegrityError
) -> Broken:
    """What to say when the journal does not take `entries` of ours because of `error`."""
    found = list(foreign_entries(connection, entries))
    said = found[0] if found else str(error)
    more = f" (and so do {len(found) - 1} more)" if len(found) > 1 else ""
    return Broken(f"another program has written to the journal: {said}{more}")
