"""What every store promises of the tables that are read with SQL, and of forgetting whole runs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ironflow.core.errors import StreamConflict
from ironflow.storage.memory.store import MemoryStore
from ironflow.storage.ports import RUNS, SNAPSHOTS, TIMERS, Batch, NewEntry, Store, Table
from ironflow.storage.relational.prefect_runs import (
    FLOW_RUNS,
    FLOWS,
    RUN_INPUTS,
    RUN_STATES,
    TASK_RUNS,
)
from ironflow.storage.sqlite.store import open_sqlite

Row = tuple[Any, ...]


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    opened: Store = MemoryStore()
    if request.param == "sqlite":
        opened = await open_sqlite(tmp_path / "iron.db")
    yield opened
    await opened.close()


def row(table: Table, **values: Any) -> Row:
    known: dict[str, Any] = dict.fromkeys(table.columns) | {
        "tags": "[]", "created_at": 1, "updated_at": 1, "run_count": 0, "run_time": 0, "body": b"{",
        "auto_scheduled": 0, "task_key": "k", "dynamic_key": "0", "name": "n", "flow_id": "f",
        "function_id": "f", "status": "running", "attempt": 1, "version": 1, "crashes": 0,
        "kind": "flow",
    }  # fmt: skip
    known |= values
    return tuple(known[name] for name in table.columns)


def entry(run_id: str, version: int) -> NewEntry:
    return NewEntry(f"run/{run_id}", version, version, "flow_run.moved", b"{}")


async def put(store: Store, *puts: tuple[Table, Row], entries: tuple[NewEntry, ...] = ()) -> None:
    await store.journal.commit(Batch(list(entries), list(puts), []))


async def test_a_row_is_read_as_soon_as_it_is_committed(store: Store) -> None:
    await put(store, (FLOWS, row(FLOWS, id="a", name="one", body=b'{"a":1}')))
    query = "SELECT body FROM flows WHERE name = ?"
    assert await store.reader.select(query, ("one",), quick=True) == [(b'{"a":1}',)]
    named = "SELECT id FROM flows WHERE name = :name"
    assert await store.reader.select(named, {"name": "one"}) == [("a",)]
    assert await store.reader.select(named, {"name": "two"}) == []


async def test_a_later_put_changes_what_may_change(store: Store) -> None:
    await put(store, (FLOW_RUNS, row(FLOW_RUNS, id="r", state_type="PENDING", expected_at=5)))
    later = row(FLOW_RUNS, id="r", state_type="RUNNING", flow_id="other", expected_at=9, name="m")
    await put(store, (FLOW_RUNS, later))
    query = "SELECT state_type, name, flow_id, expected_at FROM flow_runs"
    assert await store.reader.select(query) == [("RUNNING", "m", "f", 5)]


async def test_within_a_batch_the_last_put_counts_and_deletes_come_first(store: Store) -> None:
    await put(store, (FLOWS, row(FLOWS, id="a", name="one", updated_at=1)))
    puts = [(FLOWS, row(FLOWS, id=id_, name=id_ * 2, updated_at=n)) for n, id_ in enumerate("bb")]
    puts.append((FLOWS, row(FLOWS, id="a", name="one", updated_at=7)))
    await store.journal.commit(Batch([], puts, [(FLOWS, ("a",)), (FLOWS, ("b",))]))
    found = await store.reader.select("SELECT id, name, updated_at FROM flows ORDER BY id")
    assert found == [("a", "one", 7), ("b", "bb", 1)]
    await store.journal.commit(Batch([], [], [(FLOWS, ("a",)), (FLOWS, ("b",))]))
    assert await store.reader.select("SELECT id FROM flows") == []


async def test_a_batch_that_loses_the_fence_leaves_no_row(store: Store) -> None:
    await put(store, entries=(entry("r", 1),))
    batch = Batch([entry("r", 1)], [(FLOW_RUNS, row(FLOW_RUNS, id="r"))], [])
    with pytest.raises(StreamConflict):
        await store.journal.commit(batch)
    assert await store.reader.select("SELECT id FROM flow_runs") == []


async def test_forgetting_a_run_takes_all_of_it_and_nothing_else(store: Store) -> None:
    for id_ in ("gone", "kept"):
        await put(
            store,
            (RUNS, row(RUNS, id=id_)),
            (FLOW_RUNS, row(FLOW_RUNS, id=id_)),
            (TASK_RUNS, row(TASK_RUNS, id=f"task-{id_}", flow_run_id=id_)),
            (TASK_RUNS, row(TASK_RUNS, id=id_)),
            (RUN_INPUTS, (id_, "k", 1, b"{}", "1")),
            (RUN_STATES, (f"run/{id_}", 1, f"state-{id_}", id_, "flow_run", 1)),
            (SNAPSHOTS, (f"run/{id_}", 2, b"{}")),
            (TIMERS, (f"flow_run/{id_}", "late", 5, 1)),
            entries=(entry(id_, 1), entry(id_, 2)),
        )
    last = store.journal.last_seq
    assert await store.forget(["gone", "never was"]) == 2
    for name in ("flow_runs", "task_runs", "run_inputs", "run_states"):
        column = "stream" if name == "run_states" else "*"
        found = await store.reader.select(f"SELECT {column} FROM {name}")
        assert found
        assert not any("gone" in str(value) for line in found for value in line)
    assert await store.reader.run("gone") is None
    assert await store.reader.run("kept") is not None
    loaded = await store.reader.load("run/gone")
    assert (loaded.snapshot, loaded.entries) == (None, [])
    assert [timer.target for timer in await store.reader.timers(10, 10)] == ["flow_run/kept"]
    # Numbers are not given twice, and the stream may begin anew.
    await put(store, entries=(entry("gone", 1),))
    assert store.journal.last_seq == last + 1


async def test_the_tables_are_counted(store: Store) -> None:
    await put(store, (FLOWS, row(FLOWS, id="a", name="one")))
    assert (await store.reader.info()).rows["flows"] == 1
