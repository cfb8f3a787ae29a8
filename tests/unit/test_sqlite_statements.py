"""Named queries, statements for many rows, and the names of aiosqlite that the fast path relies
on."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from importlib.resources import files
from itertools import product

import pytest

from ironflow.core.errors import StorageError, StorageFull
from ironflow.storage.ports import BLOB_REFS, RUNS, TABLES, TIMERS, Batch, Table
from ironflow.storage.sqlite import sql, statements
from ironflow.storage.sqlite.changes import Changes, collect, put_changes
from ironflow.storage.sqlite.connection import connect
from ironflow.storage.sqlite.errors import Broken, Meaning, is_out_of_space, meaning, translate
from ironflow.storage.sqlite.schema import migrate


def test_queries_are_cut_at_their_headers() -> None:
    text = "-- about the file\n\n-- name: one\n-- What it is for.\nSELECT 1;\n\n"
    text += "-- name: two\n-- It says\n-- more.\nSELECT '-- name';\n"
    assert sql.parse(text) == {"one": "SELECT 1", "two": "SELECT '-- name'"}


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 1;\n-- name: late\n-- x.\nSELECT 2;\n",
        "-- name: twice\n-- x.\nSELECT 1;\n-- name: twice\n-- x.\nSELECT 2;\n",
        "-- name: one\n-- x.\nSELECT 1;\n-- name: bare\nSELECT 2;\n",
    ],
)
def test_a_file_of_queries_that_is_not_clear_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"SQL before|named twice"):
        sql.parse(text)


def test_every_query_is_valid_against_the_schema() -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    migrate(connection, ":memory:", 0)
    count = 0
    for file in files("ironflow.storage.sqlite").joinpath("queries").iterdir():
        for query in sql.load(file.name.removesuffix(".sql")).values():
            text = query.replace("{columns}", "id").replace("{where}", "true")
            text = text.replace("{status}", "'queued'")
            values = dict.fromkeys(re.findall(r":(\w+)", text), 0)
            # EXPLAIN prepares the statement, which is where a wrong name would show.
            connection.execute(f"EXPLAIN {text}", values or (0,) * text.count("?"))
            count += 1
    connection.close()
    assert count > 30


def test_the_tables_of_the_ports_are_those_of_the_schema() -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    migrate(connection, ":memory:", 0)
    for table in (statements.JOURNAL, *TABLES):
        columns = connection.execute(f"PRAGMA table_info({table.name})").fetchall()
        assert tuple(column[1] for column in columns) == table.columns
        keys = [column[1] for column in sorted(columns, key=lambda c: c[5]) if column[5]]
        assert tuple(keys) == table.columns[: table.key]
    connection.close()


@pytest.mark.parametrize("count", [*range(1, 70), 127, 128, 129, 255, 256, 300, 1000])
def test_chunks_cover_all_rows_with_few_statements(count: int) -> None:
    parts = list(statements.chunks(count))
    assert sum(rows for _, rows in parts) == count
    assert all(rows <= size <= statements.MOST_ROWS for size, rows in parts)
    assert all(size & (size - 1) == 0 for size, _ in parts)
    assert len(parts) <= count // statements.MOST_ROWS + 2
    assert sum(size - rows for size, rows in parts) <= count / 2
    assert list(statements.chunks(0)) == []


def test_padding_writes_and_deletes_nothing() -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    migrate(connection, ":memory:", 0)
    rows = [(f"t{n}", "name", n, n) for n in range(7)]
    texts = statements.insert(TIMERS, replace=True)
    assert list(statements.chunks(7)) == [(8, 7)]
    statements.write_rows(connection, texts, rows, 4)
    assert connection.execute("SELECT * FROM timers ORDER BY target").fetchall() == rows
    keys = [row[:2] for row in rows[:3]]
    statements.write_rows(connection, statements.delete(TIMERS), keys, 2)
    assert connection.execute("SELECT * FROM timers ORDER BY target").fetchall() == rows[3:]
    assert statements.read_heads(connection, ["a", "b", "c"]) == {"a": 0, "b": 0, "c": 0}
    connection.close()


def test_upserts_leave_fixed_columns_alone() -> None:
    assert "DO NOTHING" in statements.insert(BLOB_REFS, replace=True)[1]
    text = statements.insert(RUNS, replace=True)[2]
    assert "status = excluded.status" in text
    assert "created_at = excluded" not in text
    assert "CONFLICT" not in statements.insert(RUNS, replace=False)[1]


# -- errors ------------------------------------------------------------------------------------


def sqlite_error(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("said by SQLite")
    error.sqlite_errorcode, error.sqlite_errorname = code, "SQLITE_X"
    return error


def test_errors_of_sqlite_mean_something(tmp_path: object) -> None:
    path = f"{tmp_path}/iron.db"
    assert meaning(sqlite_error(sqlite3.SQLITE_CONSTRAINT_UNIQUE)) is Meaning.BATCH
    assert meaning(sqlite_error(sqlite3.SQLITE_BUSY_SNAPSHOT)) is Meaning.BUSY
    assert meaning(sqlite_error(sqlite3.SQLITE_IOERR_WRITE)) is Meaning.UNSURE
    assert meaning(OverflowError()) is Meaning.BATCH
    assert meaning(RuntimeError()) is Meaning.OTHER
    assert type(translate(sqlite_error(sqlite3.SQLITE_FULL), path)) is StorageFull
    for code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_READONLY):
        problem = translate(sqlite_error(code), path)
        assert type(problem) is Broken
        assert problem.message == f"{path}: said by SQLite (SQLITE_X)"
    # There is space, so a failed write is not for want of it.
    assert not is_out_of_space(path)
    assert type(translate(sqlite_error(sqlite3.SQLITE_IOERR_WRITE), path)) is StorageError


# -- aiosqlite ---------------------------------------------------------------------------------


async def test_a_function_runs_in_the_thread_of_the_connection() -> None:
    connection = await connect(lambda: sqlite3.connect(":memory:"))
    assert await connection.call(lambda c, x: c.execute("SELECT ?", (x,)).fetchone(), 7) == (7,)
    loop = asyncio.get_running_loop()
    done = asyncio.Event()
    connection.submit(lambda: loop.call_soon_threadsafe(done.set))
    await done.wait()
    await connection.close()
    with pytest.raises(StorageError, match="closed"):
        await connection.call(lambda c: c)
    with pytest.raises(StorageError, match="closed"):
        connection.submit(lambda: None)
    with pytest.raises(StorageError, match="closed"):
        _ = connection.raw


async def test_an_error_of_the_connector_reaches_the_caller() -> None:
    def fail() -> sqlite3.Connection:
        raise StorageError("no such luck")

    with pytest.raises(StorageError, match="no such luck"):
        await connect(fail)


STORY = Table("flows", 1, ("id", "name", "tags", "created_at", "updated_at", "body"))
STORY_MOVES = STORY.narrowed("name", "tags")


@pytest.mark.parametrize("steps", [s for n in range(1, 5) for s in product("wnd", repeat=n)])
@pytest.mark.parametrize("cut", [0, 1, 2])
def test_a_narrow_put_counts_for_what_else_is_under_way(steps: tuple[str, ...], cut: int) -> None:
    """Whatever is put in one commit or in two, the row is the last one that was said: a narrow put
    leaves the columns alone that it says are as they were, and only those.
    """
    connection = sqlite3.connect(":memory:", isolation_level=None)
    migrate(connection, ":memory:", 0)
    said: tuple[object, ...] | None = None
    parts: list[list[Batch]] = [[], []]
    for number, step in enumerate(steps):
        batch = Batch([], [], [])
        if step == "d":
            said = None
            batch.deletes.append((STORY, ("a",)))
        elif step == "w" or said is None:
            said = ("a", f"name {number}", f"[{number}]", 0, number, b"%d" % number)
            batch.puts.append((STORY, said))
        else:
            said = (*said[:4], number, b"%d" % number)
            batch.puts.append((STORY_MOVES, said))
        parts[number >= cut].append(batch)
    for batches in parts:
        changes: Changes = {}
        for batch in batches:
            collect(batch.deletes, batch.puts, changes)
        put_changes(connection, changes.values())
    assert connection.execute("SELECT * FROM flows").fetchall() == ([said] if said else [])
    connection.close()


def test_a_narrow_put_does_not_touch_what_is_as_it_was() -> None:
    wide, narrow = (
        statements.insert(STORY, replace=True),
        statements.insert(STORY_MOVES, replace=True),
    )
    assert "name = excluded.name" in wide[1]
    assert "name = excluded.name" not in narrow[1]
    assert "body = excluded.body" in narrow[1]
