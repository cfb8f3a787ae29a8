"""Where a commit is made, and what is done for the log between commits: `storage.pace` and
`storage.wal`."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ironflow.core.errors import StreamConflict
from ironflow.storage import connection as settings
from ironflow.storage.pace import ALONE, PROMPT, QUICK, Pace
from ironflow.storage.ports import TIMERS, Batch, NewEntry
from ironflow.storage.sqlite import SqliteStore, open_sqlite
from ironflow.storage.wal import FRAME, STEP


def entry(stream: str, version: int, data: bytes = b"{}") -> Batch:
    return Batch([NewEntry(stream, version, 1, "k", data)], [], [])


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = await open_sqlite(tmp_path / "iron.db")
    yield store
    await store.close()


async def make_quick(store: SqliteStore, stream: str = "s") -> int:
    """Commit until commits are made on the loop, however slow this disk is; the next version."""
    for version in range(1, ALONE + 2):
        await store.journal.commit(entry(stream, version))
    pace = store.journal.pace
    pace.average, pace.is_short = 0.0, lambda batches, delay: batches == 1  # type: ignore[method-assign]
    return ALONE + 2


# -- the choice --------------------------------------------------------------------------------


def quick_pace() -> Pace:
    pace = Pace()
    for _ in range(ALONE):
        assert not pace.is_short(1, 0.0)
        pace.note(1, QUICK / 4)
    return pace


def test_quick_commits_that_come_alone_are_made_on_the_loop() -> None:
    assert quick_pace().is_short(1, 0.0)


def test_commits_that_are_shared_go_to_the_thread() -> None:
    pace = quick_pace()
    assert not pace.is_short(2, 0.0)
    assert not pace.is_short(1, 0.0)  # and so does the next, until several came alone again
    for _ in range(ALONE):
        pace.note(1, QUICK / 4)
    assert pace.is_short(1, 0.0)


def test_a_busy_loop_is_not_held_up() -> None:
    pace = quick_pace()
    assert not pace.is_short(1, PROMPT * 2)
    assert not pace.is_short(1, 0.0)


def test_a_slow_disk_never_holds_the_loop_up() -> None:
    pace = Pace()
    for _ in range(1000):
        assert not pace.is_short(1, 0.0)
        pace.note(1, QUICK * 2)


def test_a_disk_that_stalls_is_left_to_the_thread_for_a_while() -> None:
    pace = quick_pace()
    pace.note(1, 0.1)
    commits = 0
    while not pace.is_short(1, 0.0):
        pace.note(1, QUICK / 4)
        commits += 1
    assert 100 < commits < 400


def test_a_machine_on_which_commits_stall_now_and_then_is_left_to_the_thread() -> None:
    pace, on_loop = quick_pace(), 0
    for number in range(3000):
        on_loop += pace.is_short(1, 0.0)
        pace.note(1, QUICK * 8 if number % 40 == 0 else QUICK / 2)
    assert on_loop < 300


# -- a commit on the loop ----------------------------------------------------------------------


async def test_a_commit_on_the_loop_is_as_durable_and_as_ordered(store: SqliteStore) -> None:
    version = await make_quick(store)
    heard: list[int] = []
    store.journal.subscribe(lambda entries: heard.extend(e.version for e in entries))
    told: list[int] = []
    for number in range(version, version + 50):
        store.journal.append(entry("s", number), lambda error, n=number: told.append(n))  # type: ignore[misc]
        match number % 4:
            case 0 | 1:
                await store.journal.flush()
            case 2:
                await asyncio.sleep(0)  # the next comes while this one's answer is on its way
    await store.journal.flush()
    assert store.journal.pace.on_loop > 5
    wanted = list(range(version, version + 50))
    assert (told, heard) == (wanted, wanted)
    stored = (await store.reader.load("s")).entries
    assert [e.version for e in stored] == list(range(1, version + 50))


async def test_a_conflict_on_the_loop_is_refused_like_any(store: SqliteStore) -> None:
    version = await make_quick(store)
    before = store.journal.pace.on_loop
    for wrong in (version - 1, version + 1):
        with pytest.raises(StreamConflict):
            await store.journal.commit(entry("s", wrong))
    assert store.journal.pace.on_loop == before
    row = ("s", "t", 5, 1)
    await store.journal.commit(Batch([NewEntry("s", version, 1, "k", b"{}")], [(TIMERS, row)], []))
    assert store.journal.pace.on_loop == before + 1
    assert [tuple(t) for t in await store.reader.timers(10, 10)] == [row]


async def test_a_lock_of_another_program_does_not_hold_the_loop_up(
    store: SqliteStore, tmp_path: Path
) -> None:
    version = await make_quick(store)
    other = sqlite3.connect(tmp_path / "iron.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    waiting = asyncio.create_task(store.journal.commit(entry("s", version)))
    for _ in range(5):
        await asyncio.sleep(0)  # the loop turns although the commit waits
    assert not waiting.done()
    other.execute("ROLLBACK")
    other.close()
    await waiting
    await store.journal.commit(entry("s", version + 1))
    assert len((await store.reader.load("s")).entries) == version + 1


# -- the log -----------------------------------------------------------------------------------


@pytest.mark.parametrize("on_loop", [False, True])
async def test_the_log_is_folded_into_the_database_between_commits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_loop: bool
) -> None:
    monkeypatch.setattr(settings, "CHECKPOINT_PAGES", 100)
    path = tmp_path / "iron.db"
    await (await open_sqlite(path)).close()  # its tables alone fill a log of this size
    store = await open_sqlite(path)
    first = await make_quick(store) if on_loop else 1
    for version in range(first, 400):
        await store.journal.commit(entry("s", version, b"x" * 500))
    assert path.stat().st_size > 100_000
    assert os.path.getsize(f"{path}-wal") < 160 * FRAME  # noqa: ASYNC240
    assert len((await store.reader.load("s")).entries) == 399
    await store.close()


async def test_a_reader_that_holds_the_log_delays_its_folding_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "CHECKPOINT_PAGES", 100)
    path = tmp_path / "iron.db"
    await (await open_sqlite(path)).close()
    store = await open_sqlite(path)
    await store.journal.commit(entry("s", 1))
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM journal").fetchone() == (1,)
    for version in range(2, 200):
        await store.journal.commit(entry("s", version, b"x" * 500))
    held = os.path.getsize(f"{path}-wal")  # noqa: ASYNC240
    assert held > 200 * FRAME
    assert reader.execute("SELECT count(*) FROM journal").fetchone() == (1,)
    reader.close()
    for version in range(200, 400):
        await store.journal.commit(entry("s", version, b"x" * 500))
    assert os.path.getsize(f"{path}-wal") <= held + 60 * FRAME  # noqa: ASYNC240
    assert len((await store.reader.load("s")).entries) == 399
    await store.close()


async def test_room_is_made_ahead_of_the_log_and_means_nothing(tmp_path: Path) -> None:
    path = tmp_path / "iron.db"
    store = await open_sqlite(path)
    log = tmp_path / "iron.db-wal"
    made = log.stat().st_size  # by its tables
    await store.journal.commit(entry("s", 1))
    assert made < log.stat().st_size < made + 16 * FRAME  # who writes little gets none
    for version in range(2, 60):
        await store.journal.commit(entry("s", version, b"x" * 500))
    assert log.stat().st_size >= STEP * FRAME
    assert log.read_bytes()[-FRAME:] == bytes(FRAME)
    # As a process that is killed leaves it.
    lost = tmp_path / "lost.db"
    shutil.copy(path, lost)
    shutil.copy(log, f"{lost}-wal")
    with sqlite3.connect(lost) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("SELECT max(version) FROM journal").fetchone() == (59,)
    connection.close()
    for version in range(60, 600):
        await store.journal.commit(entry("s", version, b"x" * 500))
    assert 4 * STEP * FRAME < log.stat().st_size <= settings.CHECKPOINT_PAGES * 5120
    await store.close()
    assert not log.exists()


async def test_a_database_that_need_not_wait_for_the_disk_gets_no_room(tmp_path: Path) -> None:
    store = await open_sqlite(tmp_path / "iron.db", durability="process")
    log = tmp_path / "iron.db-wal"
    made = log.stat().st_size
    for version in range(1, 60):
        await store.journal.commit(entry("s", version))
    written = (log.stat().st_size - made) // FRAME
    assert 59 < written < 59 * 6
    assert log.read_bytes()[-FRAME:] != bytes(FRAME), "nothing is behind what was written"
    await store.close()
