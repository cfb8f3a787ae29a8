"""Rows and batches for tests of stores."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from ironflow.storage.ports import RUNS, Batch, NewEntry, Store, Table
from ironflow.storage.sqlite.store import SqliteStore

Put = tuple[Table, tuple[Any, ...]]
Opener = Callable[..., Awaitable[SqliteStore]]
"""The fixture `open_store`."""


def new(stream: str, version: int, data: bytes = b"{}") -> NewEntry:
    return NewEntry(stream, version, 1000 + version, "kind", data)


def batch(*entries: NewEntry, puts: Sequence[Put] = (), deletes: Sequence[Put] = ()) -> Batch:
    return Batch(list(entries), list(puts), list(deletes))


def entries(stream: str, *versions: int, data: bytes = b"{}") -> Batch:
    return Batch([NewEntry(stream, version, 1, "k", data) for version in versions], [], [])


def run_row(id_: str, **changes: Any) -> tuple[Any, ...]:
    row: dict[str, Any] = dict.fromkeys(RUNS.columns)
    row |= {"id": id_, "function_id": "fn", "status": "queued", "created_at": 1, "updated_at": 1}
    row |= {"attempt": 1, "version": 1, "crashes": 0, "kind": "function"} | changes
    return tuple(row[name] for name in RUNS.columns)


async def put(store: Store, *puts: Put, deletes: Sequence[Put] = ()) -> None:
    await store.journal.commit(batch(puts=puts, deletes=deletes))
