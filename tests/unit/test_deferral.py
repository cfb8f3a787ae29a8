"""Rows that commits put off (`storage.sqlite.deferral`): whoever looks sees them, whatever
happens.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ironflow.core.errors import StorageError, StorageFull, StreamConflict
from ironflow.storage.maintenance.files import backup, opened
from ironflow.storage.maintenance.picture import picture_of
from ironflow.storage.ports import META, RUNS, TIMERS, Batch, NewEntry, RunFilter
from ironflow.storage.relational.prefect_runs import FLOW_RUN_MOVES, FLOW_RUNS
from ironflow.storage.sqlite import writer as sqlite_writer
from ironflow.storage.sqlite.deferral import MOST_ROWS, NEWER, overlay, settle
from ironflow.storage.sqlite.plan import MANY, MUCH
from ironflow.storage.sqlite.store import SqliteStore, open_sqlite

Row = tuple[Any, ...]


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written because a machine is slow."""
    monkeypatch.setattr(sqlite_writer, "LINGER", 1000.0)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = await open_sqlite(tmp_path / "iron.db")
    yield store
    await store.close()


def timer(name: str, at: int) -> Row:
    return ("run/a", name, at, 1)


def run(run_id: str, status: str = "running", **values: Any) -> Row:
    known = dict.fromkeys(RUNS.columns) | {
        "id": run_id, "function_id": "f", "status": status, "created_at": 1, "updated_at": 1,
        "attempt": 1, "version": 1, "crashes": 0, "kind": "function",
    }  # fmt: skip
    return tuple((known | values).values())


def flow_run(run_id: str, state: str, name: str = "n") -> Row:
    known = dict.fromkeys(FLOW_RUNS.columns) | {
        "id": run_id, "flow_id": "f", "created_at": 1, "auto_scheduled": 0, "name": name,
        "updated_at": 1, "tags": "[]", "state_type": state, "run_count": 0, "run_time": 0,
        "body": b"{}",
    }  # fmt: skip
    return tuple(known.values())


def stored(path: Path, table: str = "timers") -> list[Row]:
    """What is in a table, for one who knows nothing of what was put off."""
    connection = sqlite3.connect(path)
    try:
        return connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall()
    finally:
        connection.close()


def waiting(path: Path) -> int:
    """How many commits have put off what their tables do not show."""
    connection = sqlite3.connect(path)
    try:
        return len(connection.execute(NEWER).fetchall())
    finally:
        connection.close()


def killed(path: Path, name: str = "killed.db") -> Path:
    """The database as a process that is killed at this moment leaves it."""
    copy = path.with_name(name)
    shutil.copy(path, copy)
    shutil.copy(f"{path}-wal", f"{copy}-wal")
    return copy


async def put(store: SqliteStore, *puts: tuple[Any, Row]) -> None:
    await store.journal.commit(Batch([], list(puts), []))


async def test_rows_wait_until_somebody_wants_to_read_them(
    store: SqliteStore, tmp_path: Path
) -> None:
    path = tmp_path / "iron.db"
    for at in range(1, 6):
        await put(store, (TIMERS, timer("a", at)), (RUNS, run("r", version=at)))
    assert (stored(path), stored(path, "runs")) == ([], [])
    assert waiting(path) == 5
    await store.reader.functions()  # has nothing to do with them
    assert stored(path) == []
    assert await store.reader.timers(9, 9) == [timer("a", 5)]
    assert stored(path) == [timer("a", 5)]
    assert waiting(path) == 0


async def test_places_are_used_again(store: SqliteStore, tmp_path: Path) -> None:
    path = tmp_path / "iron.db"
    for turn in range(3):
        for at in range(1, 6):
            await put(store, (TIMERS, timer("a", 10 * turn + at)))
        copy = await open_sqlite(killed(path, f"{turn}.db"))
        assert await copy.reader.timers(99, 9) == [timer("a", 10 * turn + 5)]
        await copy.close()
        assert await store.reader.timers(99, 9) == [timer("a", 10 * turn + 5)]
    assert [row[:2] for row in stored(path, "deferred")] == [
        (0, 15), (1, 11), (2, 12), (3, 13), (4, 14), (5, 15),
    ]  # fmt: skip


async def test_one_row_is_answered_from_memory(store: SqliteStore, tmp_path: Path) -> None:
    await put(store, (RUNS, run("r", "completed")))
    row = await store.reader.run("r")
    assert row is not None
    assert row.status == "completed"
    await store.journal.commit(Batch([], [], [(RUNS, ("r",))]))
    assert await store.reader.run("r") is None
    assert stored(tmp_path / "iron.db", "runs") == []


async def test_a_query_of_ones_own_sees_them(store: SqliteStore, tmp_path: Path) -> None:
    await put(store, (FLOW_RUNS, flow_run("r", "RUNNING")))
    await put(store, (FLOW_RUN_MOVES, flow_run("r", "COMPLETED")))
    assert await store.reader.select("SELECT count(*) FROM flows") == [(0,)]
    assert stored(tmp_path / "iron.db", "flow_runs") == []
    query = "SELECT state_type FROM flow_runs WHERE id = ?"
    assert await store.reader.select(query, ("r",), quick=True) == [("COMPLETED",)]


async def test_a_large_commit_writes_its_rows_and_those_of_others(
    store: SqliteStore, tmp_path: Path
) -> None:
    await put(store, (TIMERS, timer("a", 1)), (TIMERS, timer("0", 1)))
    many = [Batch([], [(TIMERS, timer(str(n), 2))], []) for n in range(MANY)]
    await asyncio.gather(*map(store.journal.commit, many))
    wanted = sorted([timer("a", 1), *(timer(str(n), 2) for n in range(MANY))])
    assert stored(tmp_path / "iron.db") == wanted
    assert waiting(tmp_path / "iron.db") == 0
    assert not store.journal.backlog.holds()


async def test_a_large_commit_that_is_refused_in_part_loses_nothing(
    store: SqliteStore, tmp_path: Path
) -> None:
    await put(store, (TIMERS, timer("a", 1)))
    wrong = Batch([NewEntry("s", 7, 1, "k", b"{}")], [(TIMERS, timer("wrong", 1))], [])
    many = [Batch([], [(TIMERS, timer(str(n), 2))], []) for n in range(MANY)]
    told = await asyncio.gather(*map(store.journal.commit, [*many, wrong]), return_exceptions=True)
    assert [error for error in told if error is not None] == [told[-1]]
    assert isinstance(told[-1], StreamConflict)
    wanted = sorted([timer("a", 1), *(timer(str(n), 2) for n in range(MANY))])
    assert stored(tmp_path / "iron.db") == wanted


async def test_many_are_written_unasked(store: SqliteStore, tmp_path: Path) -> None:
    for number in range(MOST_ROWS):
        await put(store, (TIMERS, timer(f"{number:04}", number)))
    await store.journal.exclusive(lambda connection: None)
    assert len(stored(tmp_path / "iron.db")) == MOST_ROWS


async def test_a_few_are_written_after_a_moment(
    store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_writer, "LINGER", 0.0)
    await put(store, (TIMERS, timer("a", 1)))
    async with asyncio.timeout(20):
        while not stored(tmp_path / "iron.db"):  # noqa: ASYNC110 - nobody is told
            await asyncio.sleep(0)
    assert stored(tmp_path / "iron.db") == [timer("a", 1)]
    assert waiting(tmp_path / "iron.db") == 0


async def test_what_deletes_rows_sees_them_first(store: SqliteStore) -> None:
    started = NewEntry("run/r", 1, 1, "run.created", b"{}")
    await store.journal.commit(Batch([started], [(RUNS, run("r"))], []))
    assert await store.forget(["r"]) == 1
    assert await store.reader.run("r") is None
    assert await store.reader.runs(RunFilter()) == []


async def test_readers_at_the_same_time_share_one_writing(store: SqliteStore) -> None:
    await put(store, (TIMERS, timer("a", 1)), (RUNS, run("r")))
    commits = store.journal.stats.commits
    answers = await asyncio.gather(
        *(store.reader.timers(9, 9) for _ in range(20)), store.reader.runs(RunFilter())
    )
    assert answers[:20] == [[timer("a", 1)]] * 20
    assert [row.id for row in answers[20]] == ["r"]
    assert store.journal.stats.commits == commits


async def test_a_reader_that_gives_up_does_not_take_others_along(store: SqliteStore) -> None:
    await put(store, (TIMERS, timer("a", 1)))
    impatient = asyncio.create_task(store.reader.timers(9, 9))
    patient = asyncio.create_task(store.reader.timers(9, 9))
    await asyncio.sleep(0)
    impatient.cancel()
    assert await patient == [timer("a", 1)]


# -- entries -----------------------------------------------------------------------------------


def entry(stream: str, version: int, data: bytes = b"{}") -> Batch:
    return Batch([NewEntry(stream, version, 1, "k", data)], [], [])


def big(stream: str, version: int) -> Batch:
    """An entry that is not put off."""
    return entry(stream, version, b"x" * (MUCH + 1))


async def test_entries_that_wait_are_found_without_being_written(
    store: SqliteStore, tmp_path: Path
) -> None:
    path, reader = tmp_path / "iron.db", store.reader
    for batch in (entry("s", 1), entry("t", 1), entry("s", 2), entry("s", 3)):
        await store.journal.commit(batch)
    assert [e.version for e in (await reader.load("s")).entries] == [1, 2, 3]
    assert [e.version for e in await reader.entries("s", after=1)] == [2, 3]
    assert [e.version for e in await reader.entries("s", limit=2)] == [1, 2]
    assert [e.seq for e in await reader.tail(1)] == [2, 3, 4]
    assert [e.seq for e in await reader.tail(1, limit=2)] == [2, 3]
    found = await reader.entry("s", 3)
    assert found is not None
    assert (found.seq, await reader.entry("s", 4), await reader.entry("u", 1)) == (4, None, None)
    assert stored(path, "journal") == []
    query = "SELECT stream, version FROM journal ORDER BY seq"
    assert await reader.select(query) == [("s", 1), ("t", 1), ("s", 2), ("s", 3)]
    assert [row[0] for row in stored(path, "journal")] == [1, 2, 3, 4]
    assert [e.version for e in await reader.entries("s", after=1)] == [2, 3]


async def test_a_commit_of_much_data_writes_its_entries_and_those_of_others(
    store: SqliteStore, tmp_path: Path
) -> None:
    path = tmp_path / "iron.db"
    for version in range(1, 7):
        await store.journal.commit((entry, big)[version % 2]("s", version))
    assert [row[2] for row in stored(path, "journal")] == [1, 2, 3, 4, 5]
    assert [e.version for e in (await store.reader.load("s")).entries] == [1, 2, 3, 4, 5, 6]
    assert [e.version for e in await store.reader.entries("s", 1, 3)] == [2, 3, 4]
    assert [e.seq for e in await store.reader.tail(2, 3)] == [3, 4, 5]
    again = await open_sqlite(killed(path))
    assert [e.version for e in (await again.reader.load("s")).entries] == [1, 2, 3, 4, 5, 6]
    await again.close()


async def test_a_stream_that_is_forgotten_is_fenced_by_what_waits(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_writer, "MOST_HEADS", 4)
    for stream in "abcdefgh":
        await store.journal.commit(entry(stream, 1))
    assert len(store.journal._heads) <= 5
    for stream in "abcdefgh":
        with pytest.raises(StreamConflict):
            await store.journal.commit(entry(stream, 1))
        await store.journal.commit(entry(stream, 2))
        with pytest.raises(StreamConflict):
            await store.journal.commit(entry(stream, 4))
    assert [e.version for e in await store.reader.tail(8)] == [2] * 8


async def test_whoever_asks_finds_what_was_acknowledged_while_it_is_written(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading and writing from all sides: what is found has no gap."""
    monkeypatch.setattr(sqlite_writer, "MOST_ROWS", 3)
    last, acknowledged = 150, 0

    async def write() -> None:
        nonlocal acknowledged
        for version in range(1, last + 1):
            await store.journal.commit(
                big("s", version) if version % 7 == 0 else entry("s", version)
            )
            acknowledged = version

    async def read() -> None:
        while acknowledged < last:
            known = acknowledged
            for found in (
                (await store.reader.load("s")).entries,
                await store.reader.entries("s"),
                await store.reader.tail(0),
            ):
                assert [e.version for e in found] == list(range(1, len(found) + 1))
                assert len(found) >= known

    await asyncio.gather(write(), *(read() for _ in range(3)))


# -- somebody else's process -------------------------------------------------------------------


async def test_a_killed_process_leaves_them_to_the_next(store: SqliteStore, tmp_path: Path) -> None:
    await put(store, (TIMERS, timer("a", 1)), (TIMERS, timer("b", 2)))
    await put(store, (TIMERS, timer("a", 3)))
    await store.journal.commit(Batch([], [], [(TIMERS, ("run/a", "b"))]))
    copy = killed(tmp_path / "iron.db")
    assert stored(copy) == []
    again = await open_sqlite(copy)
    assert stored(copy) == [timer("a", 3)]
    assert stored(copy, "deferred") == []  # a new process counts from one
    assert await again.reader.timers(9, 9) == [timer("a", 3)]
    await again.close()


async def test_tools_see_a_database_as_if_they_were_written(
    store: SqliteStore, tmp_path: Path
) -> None:
    path = tmp_path / "iron.db"
    await put(store, (TIMERS, timer("a", 1)), (TIMERS, timer("b", 1)), (TIMERS, timer("c", 1)))
    await store.reader.timers(9, 9)
    await put(store, (TIMERS, timer("a", 2)), (TIMERS, timer("d", 2)))
    await store.journal.commit(Batch([], [], [(TIMERS, ("run/a", "b"))]))
    wanted = [timer("a", 2), timer("c", 1), timer("d", 2)]
    with picture_of(path) as picture:
        assert picture.rows(TIMERS, "run/a") == wanted
    with opened(path) as (connection, _), pytest.raises(sqlite3.OperationalError, match="readonly"):
        connection.execute("DELETE FROM deferred")
    assert len(stored(path)) == 3  # nothing was changed for it
    assert backup(path, tmp_path / "copy.db").rows["timers"] == 3
    assert stored(tmp_path / "copy.db") == wanted


async def test_closing_writes_them(tmp_path: Path) -> None:
    path = tmp_path / "iron.db"
    store = await open_sqlite(path)
    await put(store, (TIMERS, timer("a", 1)))
    await store.close()
    assert stored(path) == [timer("a", 1)]


# -- when something is wrong -------------------------------------------------------------------


@pytest.mark.parametrize("value", ["\ud800", object(), 2**70])
async def test_a_value_that_no_database_takes_refuses_its_batch_alone(
    store: SqliteStore, value: object
) -> None:
    told: list[Exception | None] = []
    good = Batch([NewEntry("s", 1, 1, "k", b"{}")], [(TIMERS, timer("good", 1))], [])
    bad = Batch([NewEntry("t", 1, 1, "k", b"{}")], [(TIMERS, ("run/a", "b", value, 1))], [])
    store.journal.append(good, told.append)
    store.journal.append(bad, told.append)
    store.journal.append(Batch([], [(TIMERS, timer("other", 2))], []), told.append)
    await store.journal.flush()
    assert [type(error) for error in told] == [type(None), StorageError, type(None)]
    assert await store.reader.timers(9, 9) == [timer("good", 1), timer("other", 2)]
    assert (await store.reader.load("t")).entries == []


async def test_a_row_that_its_table_does_not_take_keeps_none_of_the_others(
    store: SqliteStore, caplog: pytest.LogCaptureFixture
) -> None:
    nameless = ("run/a", "b", None, 1)  # a timer must have a moment
    await put(store, (TIMERS, timer("a", 1)), (TIMERS, nameless), (TIMERS, timer("c", 3)))
    with caplog.at_level(logging.ERROR):
        assert await store.reader.timers(9, 9) == [timer("a", 1), timer("c", 3)]
    assert "timers does not take the row of ('run/a', 'b')" in caplog.text


async def test_without_space_they_wait_and_who_looks_sees_them(tmp_path: Path) -> None:
    store = await open_sqlite(tmp_path / "iron.db")
    await put(store, (RUNS, run("a")), (RUNS, run("b", "completed")))
    assert len(await store.reader.runs(RunFilter())) == 2
    await put(store, (RUNS, run("a", "failed")), (RUNS, run("c", reason="x" * 90_000)))
    await put(store, *((TIMERS, timer("x" * 3000 + str(n), n)) for n in range(40)))
    store._writer.raw.execute("PRAGMA max_page_count = 1")  # as many as there are
    for _ in range(2):
        with pytest.raises(StorageFull):  # who wants to act on them
            await store.reader.timers(99, 99)
        seen = {row.id: row.status for row in await store.reader.runs(RunFilter())}
        assert seen == {"a": "failed", "b": "completed", "c": "running"}
        assert await store.reader.count_matching(RunFilter(statuses=("running",))) == 1
        assert await store.reader.count_runs() == dict.fromkeys(
            [("f", "completed"), ("f", "failed"), ("f", "running")], 1
        )
        assert (await store.reader.info()).rows["timers"] == 40
    store._writer.raw.execute("PRAGMA max_page_count = 100000")
    assert len(await store.reader.timers(99, 99)) == 40
    assert {row.id for row in await store.reader.runs(RunFilter())} == {"a", "b", "c"}
    await store.close()


async def test_rows_of_an_older_schema_are_written_with_the_columns_of_their_day(
    store: SqliteStore, tmp_path: Path
) -> None:
    await put(store, (TIMERS, timer("a", 1)))
    copy = killed(tmp_path / "iron.db")
    connection = sqlite3.connect(copy, isolation_level=None)
    # As before the last column came.
    connection.execute("ALTER TABLE run_lanes DROP COLUMN share")
    data = msgspec.msgpack.encode([([], [("run_lanes", ("r", "[]", 3))])])
    connection.execute("INSERT INTO deferred VALUES (99, 99, ?)", (data,))
    connection.execute("BEGIN")
    overlay(connection, str(copy))
    assert connection.execute("SELECT * FROM run_lanes").fetchall() == [("r", "[]", 3)]
    connection.execute("ROLLBACK")
    assert settle(connection, str(copy)) == 2
    assert connection.execute("SELECT * FROM run_lanes").fetchall() == [("r", "[]", 3)]
    connection.close()


async def test_unreadable_rows_are_reported(store: SqliteStore, tmp_path: Path) -> None:
    await put(store, (TIMERS, timer("a", 1)))
    copy = killed(tmp_path / "iron.db")
    with sqlite3.connect(copy) as connection:
        connection.execute("UPDATE deferred SET data = x'c1'")
    connection.close()
    with pytest.raises(StorageError, match="what was deferred is unreadable"):
        await open_sqlite(copy)


# -- the law -----------------------------------------------------------------------------------

KEYS = st.sampled_from(["a", "b", "c"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), KEYS, st.integers(0, 9)),
        st.tuples(st.just("move"), KEYS, st.integers(0, 9)),
        st.tuples(st.just("delete"), KEYS, st.just(0)),
        st.tuples(st.just("read"), KEYS, st.just(0)),
        st.tuples(st.just("kill"), KEYS, st.just(0)),
        st.tuples(st.just("look"), KEYS, st.just(0)),
        st.tuples(st.just("crowd"), KEYS, st.integers(0, 9)),
        st.tuples(st.just("append"), KEYS, st.integers(0, 9)),
        st.tuples(st.just("much"), KEYS, st.just(0)),
    ),
    max_size=25,
)


@given(STEPS)
@settings(deadline=None, max_examples=25)
async def test_whatever_is_put_off_the_rows_are_what_was_said(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str, int]]
) -> None:
    """Entries, puts, narrow puts and deletes in any order, with readers, tools and kills in
    between."""
    path = tmp_path_factory.mktemp("law") / "0.db"
    store = await open_sqlite(path)
    said: dict[str, Row] = {}
    heads: Counter[str] = Counter()
    query = "SELECT id, state_type, name FROM flow_runs ORDER BY id"
    for number, (what, key, value) in enumerate(steps):
        if what == "put" or (what == "move" and key not in said):
            said[key] = (key, f"S{value}", f"n{number}")
            await put(store, (FLOW_RUNS, flow_run(key, f"S{value}", f"n{number}")))
        elif what == "move":
            said[key] = (key, f"S{value}", said[key][2])
            await put(store, (FLOW_RUN_MOVES, flow_run(key, f"S{value}", said[key][2])))
        elif what == "delete":
            said.pop(key, None)
            await store.journal.commit(Batch([], [], [(FLOW_RUNS, (key,))]))
        elif what in ("append", "much"):
            heads[key] += 1
            batch = (big if what == "much" else entry)(key, heads[key])
            batch.puts = [(TIMERS, timer(key, value))]
            await store.journal.commit(batch)
        elif what == "crowd":
            said[key] = (key, f"S{value}", f"n{number}")
            wanted = Batch([], [(FLOW_RUNS, flow_run(key, f"S{value}", f"n{number}"))], [])
            others = [Batch([], [(META, (f"k{n}", ""))], []) for n in range(MANY)]
            await asyncio.gather(*map(store.journal.commit, [*others, wanted]))
        elif what == "read":
            found = (await store.reader.load(key)).entries
            assert [e.version for e in found] == list(range(1, heads[key] + 1))
            assert await store.reader.select(query) == sorted(said.values())
        elif what == "look":
            with opened(path) as (connection, _):
                assert connection.execute(query).fetchall() == sorted(said.values())
                newest = "SELECT stream, max(version) FROM journal GROUP BY stream"
                assert dict(connection.execute(newest)) == heads
        else:
            await put(store, (META, ("k", str(number))))  # there is a log to copy
            copy = killed(path, f"{number + 1}.db")
            await store.close()
            path, store = copy, await open_sqlite(copy)
    assert await store.reader.select(query) == sorted(said.values())
    assert Counter(e.stream for e in await store.reader.tail(0)) == heads
    await store.close()
