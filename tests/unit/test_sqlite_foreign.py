"""What another program writes into the database by hand, in spite of the lock: the server stops,
says which row it was, and has lost nothing."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest
from store_rows import Opener, entries

from ironflow.core.errors import StorageError
from ironflow.storage.maintenance.files import check
from ironflow.storage.ports import Batch, NewEntry
from ironflow.storage.sqlite.errors import Broken
from ironflow.storage.sqlite.plan import MUCH


def write(path: Path, statement: str) -> None:
    """As somebody does who does not care for locks."""
    with sqlite3.connect(path) as other:
        other.execute(statement)
    other.close()


async def test_a_foreign_entry_stops_the_server_and_loses_nothing(
    open_store: Opener, tmp_path: Path
) -> None:
    path, fatal = tmp_path / "iron.db", list[StorageError]()
    store = await open_store(path, on_fatal=fatal.append)
    await store.journal.commit(entries("s", 1))
    await store.journal.settle()
    write(path, "INSERT INTO journal VALUES (2, 's', 2, 1, 'k', x'00')")
    await store.journal.commit(entries("s", 2))
    named = (
        r"another program has written to the journal: the row of seq 2 \(stream 's', version 2, "
        r"kind 'k'\) .* belongs: seq 2, stream 's', version 2, .*DELETE FROM journal WHERE seq = 2,"
    )
    with pytest.raises(Broken, match=named):
        await store.journal.settle()
    assert [type(error) for error in fatal] == [Broken]
    with pytest.raises(Broken):
        await store.journal.commit(entries("s", 3))
    assert [e.data for e in (await store.reader.load("s")).entries] == [b"{}", b"\0"]
    await store.close()
    with pytest.raises(Broken, match=named):
        await open_store(path)
    assert (
        "the row of seq 2 (stream 's', version 2"
        in (await asyncio.to_thread(check, path)).findings[0]
    )
    write(path, "DELETE FROM journal WHERE seq = 2")
    assert (await asyncio.to_thread(check, path)).ok
    store = await open_store(path)
    assert [e.data for e in (await store.reader.load("s")).entries] == [b"{}", b"{}"]


@pytest.mark.parametrize("row", ["9, 's', 3", "3, 't', 1"])
async def test_a_foreign_entry_is_named_whichever_of_its_numbers_is_taken(
    open_store: Opener, tmp_path: Path, row: str
) -> None:
    path = tmp_path / "iron.db"
    store = await open_store(path)
    for version in range(1, 6):
        await store.journal.commit(entries("s", version))
    write(path, f"INSERT INTO journal VALUES ({row}, 1, 'k', x'00')")
    with pytest.raises(Broken, match=f"the row of seq {row[0]} .*: seq 3, stream 's', version 3"):
        await store.journal.settle()
    await store.close()
    write(path, f"DELETE FROM journal WHERE seq = {row[0]}")
    store = await open_store(path)
    assert [e.version for e in (await store.reader.load("s")).entries] == [1, 2, 3, 4, 5]


async def test_a_large_commit_in_the_place_of_a_foreign_entry_stops_the_server(
    open_store: Opener, tmp_path: Path
) -> None:
    path, fatal = tmp_path / "iron.db", list[StorageError]()
    store = await open_store(path, on_fatal=fatal.append)
    await store.journal.commit(entries("s", 1))
    await store.journal.settle()
    write(path, "INSERT INTO journal VALUES (2, 't', 1, 1, 'k', x'00')")
    with pytest.raises(Broken, match=r"the row of seq 2 .stream 't', version 1"):
        await store.journal.commit(Batch([NewEntry("s", 2, 1, "k", bytes(MUCH + 1))], [], []))
    assert [type(error) for error in fatal] == [Broken]


async def test_of_two_writers_one_stops_at_its_next_commit(
    open_store: Opener, tmp_path: Path
) -> None:
    path, fatal = tmp_path / "iron.db", list[StorageError]()
    store = await open_store(path, on_fatal=fatal.append)
    await store.journal.commit(entries("s", 1))
    await store.journal.commit(entries("s", 2))
    write(path, "INSERT INTO deferred VALUES (3, 7, x'90')")  # where it would write next
    with pytest.raises(Broken, match="another program has written to the database"):
        await store.journal.commit(entries("s", 3))
    assert [type(error) for error in fatal] == [Broken]
    await store.close()
    write(path, "DELETE FROM deferred WHERE slot = 3")
    store = await open_store(path)
    assert [entry.version for entry in (await store.reader.load("s")).entries] == [1, 2]
    await store.journal.commit(entries("s", 3))
    await store.journal.settle()
    write(path, "UPDATE deferred SET commit_id = 7 WHERE slot = 1")  # what it would use again
    with pytest.raises(Broken, match="another program has written to the database"):
        await store.journal.commit(entries("s", 4))
