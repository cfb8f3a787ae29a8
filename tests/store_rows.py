"""Rows and batches for tests of stores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ironflow.storage.ports import RUNS, Batch, NewEntry, Store, Table

Put = tuple[Table, tuple[Any, ...]]


def new(stream: str, version: int, data: bytes = b"{}") -> NewEntry:
    return NewEntry(stream, version, 1000 + version, "kind", data)


def batch(*entries: NewEntry, puts: Sequence[Put] = (), deletes: Sequence[Put] = ()) -> Batch:
    return Batch(list(entries), list(puts), list(deletes))


def run_row(id_: str, **changes: Any) -> tuple[Any, ...]:
    row: dict[str, Any] = dict.fromkeys(RUNS.columns)
    row |= {"id": id_, "function_id": "fn", "status": "queued", "created_at": 1, "updated_at": 1}
    row |= {"attempt": 1, "version": 1, "crashes": 0, "kind": "function"} | changes
    return tuple(row[name] for name in RUNS.columns)


async def put(store: Store, *puts: Put, deletes: Sequence[Put] = ()) -> None:
    await store.journal.commit(batch(puts=puts, deletes=deletes))
