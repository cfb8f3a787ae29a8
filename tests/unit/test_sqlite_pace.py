"""Where a commit is made, and what is done for the log between commits: `storage.sqlite.pace` and
`storage.sqlite.wal`."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import shutil
import sqlite3
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as given_settings
from hypothesis import strategies as st

from ironflow.core.errors import StorageFull, StreamConflict
from ironflow.storage.maintenance.files import opened
from ironflow.storage.ports import TIMERS, Batch, NewEntry
from ironflow.storage.sqlite import connection as settings
from ironflow.storage.sqlite import plan, wal
from ironflow.storage.sqlite import writer as sqlite_writer
from ironflow.storage.sqlite.pace import EACH, QUICK, SEVERAL, Pace
from ironflow.storage.sqlite.store import SqliteStore, open_sqlite
from ironflow.storage.sqlite.wal import FRAME, STEP


def entry(stream: str, version: int, data: bytes = b"{}") -> Batch:
    return Batch([NewEntry(stream, version, 1, "k", data)], [], [])


def newest_version(path: Path) -> int:
    with opened(path) as (connection, _):
        (version,) = connection.execute("SELECT max(version) FROM journal").fetchone()
        return int(version)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = await open_sqlite(tmp_path / "iron.db")
    yield store
    await store.close()


async def make_quick(store: SqliteStore, stream: str = "s") -> int:
    """Have commits made on the loop, however slow this disk is; the next version."""
    await store.journal.commit(entry(stream, 1))
    store.journal.pace = Always()
    return 2


class Always(Pace):
    """Every disk is quick."""

    def __init__(self) -> None:
        super().__init__()
        self.is_quick = True

    def _move(self, seconds: float, weight: float) -> None:
        """It stays so."""


# -- the choice --------------------------------------------------------------------------------


def quick_pace() -> Pace:
    pace = Pace()
    assert not pace.is_quick
    pace.note_thread(1, QUICK / 2)
    assert pace.is_quick
    return pace


def test_a_slow_disk_never_holds_the_loop_up() -> None:
    pace = Pace()
    for _ in range(1000):
        assert not pace.is_quick
        pace.note_thread(1, QUICK * 2)


def test_a_disk_that_becomes_slow_is_noticed_soon() -> None:
    pace, commits = quick_pace(), 0
    while pace.is_quick:
        pace.note(1, QUICK * 4)
        commits += 1
    assert 2 <= commits <= 4


def test_a_commit_that_takes_longer_now_and_then_is_not_held_against_the_disk() -> None:
    pace = quick_pace()
    for number in range(2000):
        assert pace.is_quick
        pace.note(1, QUICK * 5 if number % 60 == 0 else QUICK / 2)


@pytest.mark.parametrize("seconds", [0.02, 0.1, 60.0])
def test_a_disk_that_stalls_is_left_to_the_thread_for_a_while(seconds: float) -> None:
    pace = quick_pace()
    pace.note(1, seconds)
    commits = 0
    while not pace.is_quick:
        pace.note_thread(1, QUICK / 2)
        commits += 1
    assert SEVERAL <= commits <= 10 * SEVERAL


def test_commits_that_are_shared_may_take_longer() -> None:
    pace = quick_pace()
    for _ in range(100):
        pace.note(20, QUICK / 2 + 19 * EACH)
    assert pace.is_quick
    for _ in range(100):
        pace.note(20, QUICK + 20 * EACH)
    assert not pace.is_quick


def test_what_the_thread_waits_for_the_interpreter_says_nothing_about_the_disk() -> None:
    pace = Pace()
    pace.note_thread(1, QUICK * 5)
    commits = 0
    while not pace.is_quick:
        pace.note_thread(1, QUICK / 2 if commits % SEVERAL == 5 else QUICK * 5)
        commits += 1
    assert SEVERAL <= commits <= 10 * SEVERAL


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


class Whims(Pace):
    """A disk that is quick or slow at random."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.chance = random.Random(seed)

    def _move(self, seconds: float, weight: float) -> None:
        self.is_quick = self.chance.random() < 0.5


@pytest.mark.parametrize("seed", range(4))
async def test_everybody_is_told_in_order_wherever_commits_are_made(
    store: SqliteStore, seed: int
) -> None:
    journal = store.journal
    journal.pace = whims = Whims(seed)
    made, told, heard = list[int](), list[int](), list[int]()
    journal.subscribe(lambda entries: heard.extend(e.version for e in entries))

    def make() -> None:
        version = len(made) + 1
        made.append(version)
        journal.append(entry("s", version), lambda error: tell(version, error))

    def tell(version: int, error: Exception | None) -> None:
        assert error is None
        told.append(version)
        # Some answers lead to what is written next, as a body that goes on does.
        for _ in range(whims.chance.choice((0, 0, 1, 2)) if len(made) < 600 else 0):
            make()

    while len(made) < 600:
        make()
        if len(made) % 3:
            await asyncio.sleep(0)
        if len(made) % 7 == 0:
            await journal.exclusive(lambda connection: None)
    await journal.flush()
    assert told == heard == made
    assert 0 < journal.pace.on_loop < journal.stats.commits
    assert [e.version for e in (await store.reader.load("s")).entries] == made


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
    await store.journal.settle()
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


async def test_a_checkpoint_that_found_no_space_is_made_when_there_is_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(settings, "CHECKPOINT_PAGES", 100)
    monkeypatch.setattr(sqlite_writer, "PATIENCE", 0.01)
    monkeypatch.setattr(sqlite_writer, "LINGER", 1000.0)
    path = tmp_path / "iron.db"
    store = await open_sqlite(path)
    journal, log = store.journal, store.journal._log
    with monkeypatch.context() as full:
        tries = 0

        def refuse(connection: sqlite3.Connection) -> None:
            nonlocal tries
            tries += 1
            raise StorageFull("the disk is full")

        full.setattr(log, "_checkpoint", refuse)
        version = 0
        while not log.is_put_off:
            await journal.commit(entry("s", version := version + 1, b"x" * 20_000))
        async with asyncio.timeout(60):
            while tries < 4:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.001)  # nobody writes
    before = path.stat().st_size
    async with asyncio.timeout(60):
        while log.is_put_off:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.001)
    assert path.stat().st_size > before
    assert caplog.text.count("the disk is full") == 1
    assert len((await store.reader.load("s")).entries) == version
    await store.close()


@pytest.mark.parametrize("by_job", [False, True])
async def test_the_log_is_as_long_as_it_is_whatever_commits_are_thought_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_job: bool
) -> None:
    monkeypatch.setattr(plan, "pages_of", lambda rows, size, changes: 1)
    monkeypatch.setattr(settings, "CHECKPOINT_PAGES", 400)
    monkeypatch.setattr(wal, "STEP", 32)
    path = tmp_path / "iron.db"
    store = await open_sqlite(path, durability="process")
    for version in range(1, 200):
        if by_job:
            await store.journal.exclusive(insert_large_row)
        else:
            await store.journal.commit(entry("s", version, b"x" * 17_000))  # five pages
    longest = 400 + 32 * 5 + 20
    assert os.path.getsize(f"{path}-wal") < longest * FRAME  # noqa: ASYNC240
    await store.close()


def insert_large_row(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE TABLE IF NOT EXISTS large (data)")
    connection.execute("INSERT INTO large VALUES (zeroblob(100000))")


async def test_a_checkpoint_that_finds_no_space_holds_no_commit_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(settings, "CHECKPOINT_PAGES", 100)
    path = tmp_path / "iron.db"
    store = await open_sqlite(path)
    for version in range(1, 11):
        await store.journal.commit(entry("s", version, b"x" * 100_000))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # No file may be larger than the database is; its log is smaller.
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size, before[1]))
    refused = False
    try:
        async with asyncio.timeout(60):
            for version in range(11, 60):
                try:
                    await store.journal.commit(entry("s", version, b"x" * 100_000))
                except StorageFull:
                    refused = True
                    break
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert refused, "a full disk is told"
    assert 0 < caplog.text.count("the log of") < 10, "a chore that fails is not repeated at once"
    await store.journal.commit(entry("s", version, b"x"))
    assert len((await store.reader.load("s")).entries) == version
    await store.close()


def frames_of(path: Path) -> int:
    """How many frames of the log SQLite itself counts, by the index that it keeps of them."""
    return int.from_bytes(Path(f"{path}-shm").read_bytes()[16:20], sys.byteorder)


def counted(path: Path) -> int:
    descriptor = os.open(f"{path}-wal", os.O_RDONLY)
    try:
        return wal._count(descriptor, os.fstat(descriptor).st_size // FRAME)
    finally:
        os.close(descriptor)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("commit"), st.integers(1, 30)),
            st.tuples(
                st.sampled_from(["fold", "truncate", "hold", "room", "spill", "kill"]),
                st.just(0),
            ),
        ),
        max_size=25,
    )
)
@given_settings(deadline=None, max_examples=40)
def test_the_frames_of_a_log_are_counted_as_sqlite_counts_them(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    """Whatever came before: a log that began anew, is held by a reader, has room, was left by a
    process that died."""
    folder = tmp_path_factory.mktemp("log")
    path, readers, loose = folder / "0.db", list[sqlite3.Connection](), False

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(path, isolation_level=None)
        for pragma in ("journal_mode = WAL", "wal_autocheckpoint = 0", "cache_size = 5"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("CREATE TABLE IF NOT EXISTS t (x)")
        return connection

    writer = connect()
    for number, (what, pages) in enumerate(steps, 1):
        match what:
            case "commit":
                writer.execute("INSERT INTO t VALUES (zeroblob(?))", (pages * 4000,))
            case "fold" | "truncate":
                mode = "PASSIVE" if what == "fold" else "TRUNCATE"
                if what == "fold" or not readers:
                    writer.execute(f"PRAGMA wal_checkpoint({mode})").fetchall()
                    loose = loose and what == "fold"
            case "hold" if not readers:
                readers.append(sqlite3.connect(path, isolation_level=None))
                readers[-1].execute("BEGIN")
                readers[-1].execute("SELECT count(*) FROM t").fetchall()
            case "hold":
                readers.pop().close()
            case "room":
                with open(f"{path}-wal", "ab") as file:
                    file.write(bytes(20 * FRAME))
            case "spill":
                writer.execute("BEGIN")
                writer.execute("INSERT INTO t VALUES (zeroblob(200000))")
                writer.execute("ROLLBACK")
                loose = True
            case _:
                copy = folder / f"{number}.db"
                shutil.copy(path, copy)
                shutil.copy(f"{path}-wal", f"{copy}-wal")
                for connection in (*readers, writer):
                    connection.close()
                path, readers = copy, []
                writer = connect()
                writer.execute("SELECT count(*) FROM t").fetchall()
        if loose:
            assert counted(path) >= frames_of(path)
        else:
            assert counted(path) == frames_of(path)
    for connection in (*readers, writer):
        connection.close()


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
    connection.close()
    assert await asyncio.to_thread(newest_version, lost) == 59
    for version in range(60, 600):
        await store.journal.commit(entry("s", version, b"x" * 4000))
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
    assert 59 <= written < 59 * 6
    assert log.read_bytes()[-FRAME:] != bytes(FRAME), "nothing is behind what was written"
    await store.close()
