"""Statements that write many rows in one step.

Each `sqlite3_step` gives the interpreter lock away and queues for it again, so `executemany` would
queue once a row behind a busy event loop. Sizes are powers of two, so that few texts exist and the
statement cache is hit; a remainder is padded with NULL rows, which every statement passes over.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import chain
from typing import Any

from ironflow.storage.ports import Table

MOST_ROWS = 128

JOURNAL = Table("journal", 1, ("seq", "stream", "version", "at", "kind", "data"))


def chunks(count: int) -> Iterator[tuple[int, int]]:
    """Split `count` rows into (size of the statement, rows in it), at most two beyond the full
    ones."""
    while count >= MOST_ROWS:
        yield MOST_ROWS, MOST_ROWS
        count -= MOST_ROWS
    if not count:
        return
    whole = 1 << (count.bit_length() - 1)
    rest = count - whole
    if rest * 2 > whole:
        yield whole * 2, count
        return
    yield whole, whole
    if rest:
        yield 1 << (rest - 1).bit_length(), rest


def write_rows(
    connection: sqlite3.Connection,
    texts: dict[int, str],
    rows: Sequence[tuple[Any, ...]],
    width: int,
) -> None:
    """Execute the statement of `texts` of the right sizes for all `rows` of `width` values."""
    if len(rows) == 1:
        connection.execute(texts[1], rows[0])
        return
    start = 0
    for size, count in chunks(len(rows)):
        part = rows if count == len(rows) else rows[start : start + count]
        values = list(chain.from_iterable(part))
        if size > count:
            values += [None] * ((size - count) * width)
        connection.execute(texts[size], values)
        start += count


def _sizes() -> list[int]:
    return [1 << power for power in range(MOST_ROWS.bit_length())]


@cache
def insert(table: Table, *, replace: bool) -> dict[int, str]:
    """INSERT by number of rows; with `replace` a known key changes the columns that may change."""
    row = f"({', '.join('?' * len(table.columns))})"
    clause = ""
    if replace:
        changing = [name for name in table.columns[table.key :] if name not in table.fixed]
        sets = ", ".join(f"{name} = excluded.{name}" for name in changing)
        keys = ", ".join(table.columns[: table.key])
        clause = f" ON CONFLICT ({keys}) DO {f'UPDATE SET {sets}' if sets else 'NOTHING'}"
    names = ", ".join(table.columns)
    head = f"INSERT INTO {table.name} ({names}) SELECT * FROM (VALUES "
    return {
        size: f"{head}{', '.join([row] * size)}) WHERE column1 IS NOT NULL{clause}"
        for size in _sizes()
    }


@cache
def delete(table: Table) -> dict[int, str]:
    """DELETE by number of keys."""
    names = ", ".join(table.columns[: table.key])
    row = f"({', '.join('?' * table.key)})"
    head = f"DELETE FROM {table.name} WHERE ({names}) IN (VALUES "
    return {size: f"{head}{', '.join([row] * size)})" for size in _sizes()}


@cache
def heads() -> dict[int, str]:
    """The newest version of each stream by number of streams: a seek each, whatever their
    length."""
    newest = "(SELECT max(version) FROM journal WHERE stream = column1)"
    return {
        size: f"SELECT column1, {newest} FROM (VALUES {', '.join(['(?)'] * size)})"
        for size in _sizes()
    }


def read_heads(connection: sqlite3.Connection, streams: Sequence[str]) -> dict[str, int]:
    """The newest version of each of `streams`, 0 for one without entries."""
    found: dict[str, int] = {}
    start = 0
    for size, count in chunks(len(streams)):
        values = [*streams[start : start + count], *[None] * (size - count)]
        for stream, version in connection.execute(heads()[size], values):
            if stream is not None:
                found[stream] = version or 0
        start += count
    return found


def put_entries(connection: sqlite3.Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    """Append to the journal."""
    if rows:
        write_rows(connection, insert(JOURNAL, replace=False), rows, len(JOURNAL.columns))
