"""`db` operations: facts, backup of a live database, vacuum, export and import, checks."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from ironflow.core.errors import (
    DatabaseInUse,
    InvalidInput,
    NotFound,
    SchemaTooNew,
    StorageError,
)
from ironflow.storage.maintenance.files import backup, check, database_info, outdated, vacuum
from ironflow.storage.maintenance.ndjson import export_ndjson, import_ndjson
from ironflow.storage.ports import (
    BLOB_REFS,
    BLOBS,
    DELIVERIES,
    EVENTS,
    META,
    RUNS,
    SNAPSHOTS,
    Batch,
    NewEntry,
)
from ironflow.storage.sqlite.schema import migrations
from ironflow.storage.sqlite.store import SqliteStore, open_sqlite

pytestmark = pytest.mark.blocks_the_loop  # tools of the command line, called beside a store
GOLDEN = Path(__file__).parents[1] / "golden"
DIGEST = hashlib.sha256(b"blob").hexdigest()


async def fill(store: SqliteStore, runs: int = 20) -> None:
    for number in range(runs):
        stream, id_ = f"run/{number}", str(number)
        values = dict.fromkeys(RUNS.columns, 0)
        values |= {"id": id_, "function_id": "f", "status": "completed", "reason": None}
        batch = Batch(
            [NewEntry(stream, v, 5, "k", b'{"x": "\xc3\xbc"}' * 20) for v in (1, 2, 3)],
            [
                (RUNS, tuple(values.values())),
                (SNAPSHOTS, (stream, 2, bytes(range(256)))),
                (BLOBS, (DIGEST, 4, b"blob")),
                (BLOB_REFS, (stream, DIGEST)),
            ],
        )
        await store.journal.commit(batch)
    event = NewEntry("event/e", 1, 5, "k", b"{}")
    puts = [
        (EVENTS, ("e", "name", 5, "api", None)),
        (DELIVERIES, ("d", "run/1", "Wake", b"\xff\x00", 5)),
        (META, ("zero", "a\x00b\n")),
    ]
    await store.journal.commit(Batch([event], puts))


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    store = await open_sqlite(tmp_path / "iron.db", durability="process")
    await fill(store)
    await store.close()
    return tmp_path / "iron.db"


def test_info_reads_a_database_at_rest(path: Path) -> None:
    info = database_info(path)
    assert (info.rows["runs"], info.rows["journal"], info.last_seq) == (20, 61, 61)
    assert (info.schema_version, info.wal_size) == (len(migrations()), 0)
    assert sorted(file.name for file in path.parent.iterdir()) == ["iron.db", "iron.db.lock"]
    with pytest.raises(NotFound):
        database_info(path.parent / "none.db")
    (path.parent / "empty.db").touch()
    with pytest.raises(StorageError, match="is empty"):
        database_info(path.parent / "empty.db")


async def test_a_backup_of_a_busy_database_is_one_moment_of_it(path: Path) -> None:
    store = await open_sqlite(path)
    stop = asyncio.Event()

    async def write(name: str) -> int:
        version = 0
        while not stop.is_set():
            version += 1
            entries = [NewEntry(f"{name}/{side}", version, 1, "k", b"x" * 500) for side in "ab"]
            await store.journal.commit(Batch(entries))
        return version

    writers = [asyncio.create_task(write(str(number))) for number in range(4)]
    await store.journal.commit(Batch([NewEntry("before", 1, 1, "k", b"")]))
    progress: list[tuple[int, int]] = []
    target = path.parent / "copy.db"
    copied = await asyncio.to_thread(
        backup, path, target, lambda done, total: progress.append((done, total))
    )
    await store.journal.commit(Batch([NewEntry("after", 1, 1, "k", b"")]))
    stop.set()
    assert all(await asyncio.gather(*writers))
    assert progress[-1][0] == progress[-1][1] > 0
    await store.close()

    assert check(target).ok
    store = await open_sqlite(target)
    assert store.journal.last_seq == copied.last_seq
    assert (await store.reader.load("before")).entries
    assert not (await store.reader.load("after")).entries
    for number in range(4):
        one = await store.reader.load(f"{number}/a")
        two = await store.reader.load(f"{number}/b")
        assert len(one.entries) == len(two.entries)
    await store.close()
    with pytest.raises(InvalidInput, match="exists already"):
        backup(path, target)
    with pytest.raises(StorageError):
        backup(path, path.parent / "no folder" / "copy.db")


async def test_vacuum_needs_the_database_for_itself_and_gives_space_back(path: Path) -> None:
    store = await open_sqlite(path)
    await store.journal.commit(Batch([], [(SNAPSHOTS, ("big", 1, b"x" * 1_000_000))]))
    await store.journal.commit(Batch([], [], [(SNAPSHOTS, ("big",))]))
    with pytest.raises(DatabaseInUse):
        vacuum(path)
    await store.close()
    before, after = vacuum(path)
    assert after < before - 900_000
    assert check(path).ok
    assert database_info(path).rows["journal"] == 61


def export(path: Path) -> bytes:
    out = io.BytesIO()
    export_ndjson(path, out)
    return out.getvalue()


def test_an_export_imported_is_the_same_database(path: Path) -> None:
    progress: list[tuple[int, int]] = []
    out = io.BytesIO()
    count = export_ndjson(path, out, lambda *at: progress.append(at))
    assert progress[-1] == (count, count)
    text = out.getvalue()
    assert b'{"utf8":' in text
    assert b'{"base64":' in text
    target = path.parent / "copy.db"
    assert import_ndjson(target, io.BytesIO(text)) == count
    assert export(target) == text
    assert check(target).ok
    assert database_info(target).rows == database_info(path).rows
    with pytest.raises(InvalidInput, match=r"path: .* exists already"):
        import_ndjson(target, io.BytesIO(text))


async def test_an_export_of_a_live_database_is_one_moment_of_it(path: Path) -> None:
    store = await open_sqlite(path)
    text = await asyncio.to_thread(export, path)
    await store.close()
    assert text == export(path)


@pytest.mark.parametrize(
    ("change", "line", "reason"),
    [
        (lambda t: t[1:], 1, "not an export"),
        (lambda t: [b'{"ironflow":"export","schema":99}', *t[1:]], 1, "schema version 99"),
        (lambda t: [b'{"ironflow":"backup","schema":1}', *t[1:]], 1, "not an export"),
        (lambda t: [t[0], b"not json", *t[2:]], 2, "no JSON object"),
        (lambda t: [t[0], b'{"a":1,"b":2}', *t[2:]], 2, "one row is expected"),
        (lambda t: [t[0], b'{"none":[1]}', *t[2:]], 2, "no table 'none'"),
        (lambda t: [t[0], b'{"journal":[1]}', *t[2:]], 2, "needs 6 columns"),
        (lambda t: [t[0], b'{"meta":[null,"x"]}', *t[2:]], 2, "key is missing"),
        (lambda t: [t[0], b'{"meta":["x",{"hex":"00"}]}', *t[2:]], 2, "neither utf8 nor base64"),
        (lambda t: [t[0], b'{"meta":["x",{"base64":"="}]}', *t[2:]], 2, "value: "),
        (lambda t: [t[0], b'{"meta":["x",true]}', *t[2:]], 2, "bool is not"),
        (lambda t: [t[0], b'{"meta":["x",null]}', *t[2:]], 2, "NOT NULL"),
        (lambda t: [t[0], t[1], t[1], *t[2:]], 3, "UNIQUE"),
        (lambda t: t[:-1], 0, "cut off"),
        (lambda t: [*t[:5], *t[6:]], 0, "counts at the end"),
        (lambda t: [*t, t[1]], 0, "more after the end"),
        (lambda _: [], 0, "cut off"),
    ],
)
def test_an_export_that_is_not_whole_is_refused_with_the_line(
    path: Path, change, line: int, reason: str
) -> None:
    lines = change(export(path).splitlines())
    target = path.parent / "copy.db"
    with pytest.raises(InvalidInput, match=reason) as caught:
        import_ndjson(target, iter(lines))
    assert caught.value.field == f"line {line or len(lines)}"
    assert not target.exists()
    assert not (path.parent / "copy.db.part").exists()


def test_check_finds_what_is_wrong(path: Path) -> None:
    done: list[tuple[int, int]] = []
    assert check(path, lambda *at: done.append(at)).ok
    assert done[-1][0] == done[-1][1]
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("DELETE FROM journal WHERE stream = 'run/3' AND version = 2")
    connection.execute("DELETE FROM journal WHERE stream IN ('run/4', 'event/e')")
    connection.execute("UPDATE blobs SET data = x'00'")
    connection.execute("INSERT INTO blob_refs VALUES ('run/5', 'missing')")
    connection.execute("UPDATE snapshots SET version = 9 WHERE stream = 'run/6'")
    connection.close()
    findings = "\n".join(check(path).findings)
    for sentence in (
        "run/3: 2 entries with versions 1 to 3",
        "run/5 mentions blob missing, which is missing",
        "run 4 has no stream",
        "event e has no stream",
        "run/6 has a snapshot of version 9, ahead of its entries",
        f"blob {DIGEST} does not have the content of that name",
    ):
        assert sentence in findings


def test_check_finds_broken_pages(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4096 * 3)
        file.write(b"\xff" * 4096 * 3)
    assert not check(path).ok


def test_a_newer_database_is_refused_by_every_operation(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("INSERT INTO migrations VALUES (99, 'future', 'x', 0)")
    connection.commit()
    connection.close()
    target = path.parent / "copy.db"
    for operation in (
        lambda: database_info(path),
        lambda: backup(path, target),
        lambda: vacuum(path),
        lambda: check(path),
        lambda: export(path),
    ):
        with pytest.raises(SchemaTooNew, match="schema version 99"):
            operation()
    assert not target.exists()


@pytest.mark.parametrize("version", [1, 2, 7])
def test_an_older_database_can_be_looked_at_and_copied_as_it_is(
    tmp_path: Path, version: int
) -> None:
    path = tmp_path / "old.db"
    shutil.copy(GOLDEN / f"schema-{version}.db", path)
    assert database_info(path).schema_version == version
    copy = backup(path, tmp_path / "copy.db")
    assert (copy.schema_version, copy.rows) == (version, database_info(path).rows)
    assert check(path).ok
    said = outdated(path)
    assert said is not None
    assert f"schema version {version}, older than this ironflow's {len(migrations())}" in said
    with pytest.raises(StorageError, match="`ironflow serve` migrates it"):
        export_ndjson(path, io.BytesIO())
    assert sorted(file.name for file in tmp_path.iterdir()) == ["copy.db", "old.db"]
    assert outdated(path) == said, "it was only looked at"


def test_a_database_of_other_migrations_is_named_before_anything_reads_it(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE deferred")
        connection.execute("CREATE TABLE deferred (commit_id INTEGER PRIMARY KEY, data BLOB)")
        connection.execute("UPDATE migrations SET checksum = 'other' WHERE version = 16")
    connection.close()
    for operation in (database_info, check, lambda p: asyncio.run(open_sqlite(p))):
        with pytest.raises(StorageError, match="migration 16 is not the one that was applied"):
            operation(path)


def test_a_copy_in_a_folder_that_cannot_be_written_can_be_read(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = path.parent
    monkeypatch.setattr(os, "access", lambda name, how: how == os.R_OK)  # as on a read-only disk
    assert database_info(path).rows["runs"] == 20
    assert check(path).ok
    assert export_ndjson(path, io.BytesIO()) > 60
    assert sorted(file.name for file in folder.iterdir()) == ["iron.db", "iron.db.lock"]
    monkeypatch.setattr(os, "access", lambda name, how: False)
    with pytest.raises(StorageError, match=r"cannot read .*iron\.db: Permission denied"):
        database_info(path)
