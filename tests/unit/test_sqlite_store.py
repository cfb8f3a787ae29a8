"""What only the SQLite store promises: files, locks, full and broken disks, and plans that read no
whole table."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from store_rows import Opener, entries

from ironflow.core.errors import (
    ConfigError,
    DatabaseInUse,
    StorageError,
    StorageFull,
    StreamConflict,
)
from ironflow.storage.ports import (
    META,
    RUNS,
    TIMERS,
    Batch,
    EventFilter,
    NewEntry,
    RetentionRule,
    RunFilter,
)
from ironflow.storage.sqlite.errors import Broken
from ironflow.storage.sqlite.lock import ProcessLock
from ironflow.storage.sqlite.page_queries import events_query, runs_query
from ironflow.storage.sqlite.writer import MOST_HEADS


@pytest.mark.parametrize("durability", ["full", "process"])
async def test_what_was_committed_is_there_after_reopening(
    open_store: Opener, tmp_path: Path, durability: str
) -> None:
    path = tmp_path / "new folder" / "my #1 db?.db"
    store = await open_store(path, durability=durability)
    await store.journal.commit(entries("s", 1, 2, data=bytes(range(256))))
    await store.close()
    await store.close()
    assert not os.path.exists(f"{path}-wal")  # noqa: ASYNC240
    store = await open_store(path, durability=durability)
    assert store.journal.last_seq == 2
    assert [e.data for e in (await store.reader.load("s")).entries] == [bytes(range(256))] * 2
    with pytest.raises(StreamConflict):
        await store.journal.commit(entries("s", 2))
    await store.journal.commit(entries("s", 3))
    assert [e.seq for e in await store.reader.tail(0)] == [1, 2, 3]
    info = await store.reader.info()
    assert (info.url, info.durability) == (f"sqlite:///{path}", durability)
    await store.close()


async def test_durability_sets_what_a_commit_waits_for(open_store: Opener, tmp_path: Path) -> None:
    for durability, synchronous in (("full", 2), ("process", 1)):
        store = await open_store(tmp_path / "iron.db", durability=durability)
        pragma = lambda c: c.execute("PRAGMA synchronous").fetchone()  # noqa: E731
        assert await store.journal.exclusive(pragma) == (synchronous,)
        await store.close()
    with pytest.raises(ConfigError, match="durability is 'none'"):
        await open_store(tmp_path / "iron.db", durability="none")


# -- one process -------------------------------------------------------------------------------


async def test_a_second_opener_is_refused_in_one_line_that_names_the_owner(
    open_store: Opener, tmp_path: Path
) -> None:
    path = tmp_path / "iron.db"
    store = await open_store(path)
    with pytest.raises(DatabaseInUse, match=f"in use by another ironflow .*pid {os.getpid()}") as e:
        await open_store(path)
    assert "\n" not in str(e.value)
    (tmp_path / "link.db").symlink_to(path)
    with pytest.raises(DatabaseInUse):
        await open_store(tmp_path / "link.db")
    code = (
        "import asyncio, sys\n"
        "from ironflow.storage.sqlite.store import open_sqlite\n"
        "from ironflow.core.errors import DatabaseInUse\n"
        "try: asyncio.run(open_sqlite(sys.argv[1]))\n"
        "except DatabaseInUse as error: print(error)\n"
    )
    command = [sys.executable, "-c", code, str(path)]
    child = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True)
    assert f"(pid {os.getpid()}, since " in child.stdout
    assert child.stderr == ""
    await store.journal.commit(entries("s", 1))
    await store.close()
    # The file of the lock is still there, and in nobody's way.
    assert os.path.exists(f"{path}.lock")  # noqa: ASYNC240
    await (await open_store(path)).close()


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    path = str(tmp_path / "iron.db")
    code = (
        "import sys, time\n"
        "from ironflow.storage.sqlite.lock import ProcessLock\n"
        "lock = ProcessLock(sys.argv[1], 0); print('locked', flush=True); time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, path], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "locked\n"
        with pytest.raises(DatabaseInUse, match=f"pid {child.pid}, since 1970-01-01T00:00:00"):
            ProcessLock(path, 1)
        child.kill()
        child.wait()
    lock = ProcessLock(path, 1)
    lock.release()
    lock.release()


# -- files that are something else -------------------------------------------------------------


async def test_a_file_that_is_no_database_of_ours_is_left_as_it_was(
    open_store: Opener, tmp_path: Path
) -> None:
    text = tmp_path / "notes.txt"
    text.write_bytes(b"These are my notes, not a database. " * 100)
    with pytest.raises(StorageError, match="is not a database"):
        await open_store(text)
    assert text.read_bytes() == b"These are my notes, not a database. " * 100

    foreign = tmp_path / "foreign.db"
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    before = foreign.read_bytes()
    with pytest.raises(StorageError, match="not one of ironflow"):
        await open_store(foreign)
    assert foreign.read_bytes() == before

    with pytest.raises(StorageError, match="cannot open"):
        await open_store(tmp_path)
    with pytest.raises(StorageError, match="cannot make the folder"):
        await open_store(text / "below" / "iron.db")
    # No lock is left behind by a failed opening.
    text.unlink()
    await (await open_store(text)).close()


async def test_a_broken_file_is_said_to_be_broken(open_store: Opener, tmp_path: Path) -> None:
    path = tmp_path / "iron.db"
    store = await open_store(path)
    for version in range(1, 400):
        await store.journal.commit(entries(f"s/{version % 50:03}", (version - 1) // 50 + 1))
    await store.close()

    fatal: list[StorageError] = []
    store = await open_store(path, on_fatal=fatal.append)
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))
    with pytest.raises(Broken):
        await store.reader.entries("s/001")
    await asyncio.sleep(0)
    assert len(fatal) == 1
    told: list[Exception | None] = []
    store.journal.append(entries("s/007", 9), told.append)
    store.journal.append(entries("other", 1), told.append)
    await store.journal.flush()
    assert [type(error) for error in told] == [Broken, Broken]
    assert len(fatal) == 2
    # Better dead than lying: from now on nothing is taken.
    with pytest.raises(StorageError):
        await store.journal.commit(entries("new", 1))
    assert store.journal.stats.commits == 0
    await store.close()


# -- no space ----------------------------------------------------------------------------------


async def test_a_full_disk_refuses_writes_and_nothing_else(
    open_store: Opener, tmp_path: Path
) -> None:
    fatal: list[StorageError] = []
    store = await open_store(
        tmp_path / "iron.db", max_pages=60, group_limit=4, on_fatal=fatal.append
    )
    told: list[Exception | None] = []
    for version in range(1, 401):
        store.journal.append(entries("s", version, data=b"x" * 2000), told.append)
    await store.journal.flush()
    written = told.index(next(error for error in told if error is not None))
    assert all(error is None for error in told[:written])
    assert all(isinstance(error, StorageFull) for error in told[written:])
    assert len({id(error) for error in told[written:]}) == len(told) - written

    loaded = await store.reader.load("s")
    assert [entry.version for entry in loaded.entries] == list(range(1, written + 1))
    with pytest.raises(StorageFull):
        await store.journal.commit(entries("t", 1, data=b"x" * 100_000))
    grow = lambda c: c.execute("PRAGMA max_page_count = 100000").fetchone()  # noqa: E731
    await store.journal.exclusive(grow)
    await store.journal.commit(entries("s", written + 1, data=b"x" * 100_000))
    assert [e.seq for e in await store.reader.tail(written)] == [written + 1]
    assert fatal == []
    await store.close()


FULL_DISK = """
import asyncio, glob, os, resource, sys
from ironflow.core.errors import StorageFull
from ironflow.storage.ports import Batch, NewEntry
from ironflow.storage.sqlite.store import open_sqlite

def next_entry(version):
    return Batch([NewEntry("s", version + 1, 1, "k", b"x" * 5000)], [], [])

async def main():
    store = await open_sqlite(sys.argv[1], on_fatal=lambda error: print("fatal", error))
    most = max(map(os.path.getsize, glob.glob(sys.argv[1] + "*"))) + 500_000
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
    version = 0
    try:
        while True:
            await store.journal.commit(next_entry(version))
            version += 1
    except StorageFull as error:
        print("refused", error.status)
    # Each takes two pages at least, and with the trees that it stands in not ten; the log is folded
    # into the database when there is no more room for it, until there is none for that either.
    assert 80 < len((await store.reader.load("s")).entries) == version < 400, version
    for _ in range(3):
        try:
            await store.journal.commit(next_entry(version))
        except StorageFull:
            print("still refused")
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await store.journal.commit(next_entry(version))
    assert len((await store.reader.load("s")).entries) == version + 1
    print("recovered")
    await store.close()

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit of a file's size")
def test_a_file_system_that_gives_no_more_space_is_survived(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "iron.db")]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    wanted = ["refused 507", *["still refused"] * 3, "recovered"]
    assert (child.stdout.splitlines(), child.stderr) == (wanted, "")


# -- others in the same file -------------------------------------------------------------------


async def test_a_lock_of_another_program_is_waited_for(open_store: Opener, tmp_path: Path) -> None:
    path = tmp_path / "iron.db"
    store = await open_store(path, busy_timeout=0.05)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageError, match="locked by another program") as caught:
        await store.journal.commit(entries("s", 1))
    assert "database is locked" not in str(caught.value)
    waiting = asyncio.create_task(store.journal.commit(entries("s", 1)))
    await asyncio.sleep(0)
    other.execute("ROLLBACK")
    other.close()
    await waiting
    assert (await store.reader.load("s")).entries[0].seq == 1
    await store.close()


# -- fences ------------------------------------------------------------------------------------


async def test_streams_beyond_those_in_memory_are_looked_up(
    open_store: Opener, tmp_path: Path
) -> None:
    store = await open_store(tmp_path / "iron.db", durability="process", group_limit=1000)
    count = MOST_HEADS + 1000
    for start in range(0, count, 1000):
        batch = Batch([NewEntry(f"s/{n}", 1, 1, "k", b"") for n in range(start, start + 1000)])
        await store.journal.commit(batch)
    await asyncio.gather(*(store.journal.commit(entries(f"s/{n}", 2)) for n in range(0, count, 50)))
    for stream in ("s/0", f"s/{count - 1}", "s/49"):
        with pytest.raises(StreamConflict):
            await store.journal.commit(entries(stream, 4))
    await store.close()


async def test_a_value_that_cannot_be_stored_fails_its_batch_alone(
    open_store: Opener, tmp_path: Path
) -> None:
    store = await open_store(tmp_path / "iron.db")
    told: dict[str, Exception | None] = {}

    def append(name: str, *puts: Any) -> None:
        batch = Batch(entries(name, 1).entries, list(puts), [])
        store.journal.append(batch, lambda error: told.update({name: error}))

    append("first", (META, ("first", "x")))
    append("object", (META, ("object", object())))
    append("too large", (TIMERS, ("t", "n", 2**70, 1)))
    append("surrogate", (META, ("surrogate", "\ud800")))
    append("null", (META, ("null", None)))
    append("last", (META, ("last", "x")))
    await store.journal.flush()
    assert list(told) == ["first", "object", "too large", "surrogate", "null", "last"]
    refused = [name for name, error in told.items() if isinstance(error, StorageError)]
    assert refused == ["object", "too large", "surrogate", "null"]
    assert [(e.seq, e.stream) for e in await store.reader.tail(0)] == [(1, "first"), (2, "last")]
    await store.close()


async def test_sequence_numbers_do_not_come_again_after_retention(
    open_store: Opener, tmp_path: Path
) -> None:
    path = tmp_path / "iron.db"
    store = await open_store(path)
    row = dict.fromkeys(RUNS.columns, 1) | {"id": "a", "function_id": "f", "status": "completed"}
    await store.journal.commit(entries("run/b", 1))
    batch = entries("run/a", 1, 2)
    batch.puts.append((RUNS, tuple(row.values())))
    await store.journal.commit(batch)
    await store.retire([RetentionRule(kind="completed", max_count=0)], 1, dry_run=False)
    assert [e.seq for e in await store.reader.tail(0)] == [1]
    await store.close()
    store = await open_store(path)
    assert store.journal.last_seq == 3
    await store.journal.commit(entries("run/c", 1))
    assert (await store.reader.tail(1))[0].seq == 4
    await store.close()


async def test_jobs_and_commits_take_turns(open_store: Opener, tmp_path: Path) -> None:
    store = await open_store(tmp_path / "iron.db", group_limit=1)
    for version in range(1, 4):
        store.journal.append(entries("s", version), lambda _: None)
    count = lambda c: c.execute("SELECT count(*) FROM journal").fetchone()[0]  # noqa: E731
    seen = await asyncio.gather(*(store.journal.exclusive(count) for _ in range(3)))
    assert seen == [1, 2, 3]

    def fail(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO meta VALUES ('half', 'done')")
        connection.execute("SELECT absent")

    with pytest.raises(StorageError, match="no such column"):
        await store.journal.exclusive(fail)
    assert await store.reader.meta("half") is None
    await store.close()


# -- plans -------------------------------------------------------------------------------------


async def test_no_page_reads_a_whole_table_or_sorts_it(open_store: Opener, tmp_path: Path) -> None:
    path = tmp_path / "iron.db"
    store = await open_store(path)
    key = (5, "x")
    queries = [
        runs_query(where, 50, before)
        for before in (None, key)
        for where in (
            RunFilter(),
            RunFilter(function_id="f"),
            RunFilter(statuses=("failed",)),
            RunFilter(function_id="f", statuses=("failed", "completed")),
            RunFilter(event_id="e", statuses=("failed", "completed")),
            RunFilter(event_name="e", statuses=("failed",)),
            RunFilter(parent_id="p"),
            RunFilter(idempotency_key="k", function_id="f"),
            RunFilter(since=1, until=5),
            RunFilter(kind="flow"),
            RunFilter(kind="workflow", statuses=("failed",)),
        )
    ]
    queries += [
        events_query(where, 50, before)
        for before in (None, key)
        for where in (EventFilter(), EventFilter(names=("a",)), EventFilter(since=1, until=2))
    ]
    connection = sqlite3.connect(path)
    for query, values in queries:
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {query}", values)]
        bad = [line for line in plan if "TEMP B-TREE" in line and len(plan) < 4]
        bad += [line for line in plan if line.startswith("SCAN") and "INDEX" not in line]
        bad = [line for line in bad if "SUBQUERY" not in line and "SCAN (subquery" not in line]
        assert bad == [], (query, plan)
    connection.close()
    await store.close()
