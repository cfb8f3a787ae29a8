"""Migrations: numbered, recorded with their checksum, in one transaction, after a backup."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from ironflow.core.errors import SchemaTooNew, StorageError
from ironflow.storage.sqlite.schema import (
    APPLICATION_ID,
    Migration,
    migrate,
    migrations,
    schema_version,
    statements,
)
from ironflow.storage.sqlite.store import open_sqlite

LAST = len(migrations())
NEXT = Migration(LAST + 1, "add_color", "ALTER TABLE runs ADD COLUMN color TEXT;\n")
NOW = 1_700_000_000_000_000


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "iron.db")


@pytest.fixture
def connection(path: str) -> Iterator[sqlite3.Connection]:
    opened = sqlite3.connect(path, isolation_level=None)
    yield opened
    opened.close()


def backups(path: str) -> list[Path]:
    return sorted(Path(path).parent.glob("*.backup-*"))


def test_a_new_database_gets_every_migration_and_no_backup(
    connection: sqlite3.Connection, path: str
) -> None:
    assert schema_version(connection, path, 1) == 0
    assert migrate(connection, path, NOW) == len(migrations())
    rows = connection.execute("SELECT version, name, checksum, applied_at FROM migrations")
    assert rows.fetchall() == [(m.version, m.name, m.checksum, NOW) for m in migrations()]
    assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
    assert migrate(connection, path, NOW + 1) == len(migrations())
    assert backups(path) == []


def test_an_old_database_is_backed_up_and_brought_forward(
    connection: sqlite3.Connection, path: str
) -> None:
    migrate(connection, path, NOW)
    connection.execute("INSERT INTO meta VALUES ('kept', 'yes')")
    assert migrate(connection, path, NOW, (*migrations(), NEXT)) == LAST + 1
    assert connection.execute("SELECT color FROM runs").fetchall() == []
    assert connection.execute("SELECT value FROM meta").fetchone() == ("yes",)
    (copy,) = backups(path)
    assert copy.name == f"iron.db.backup-{LAST}-20231114T221320"
    old = sqlite3.connect(copy)
    assert old.execute("SELECT value FROM meta").fetchone() == ("yes",)
    assert schema_version(old, path, LAST) == LAST
    old.close()


def test_a_failing_migration_leaves_the_database_as_it_was(
    connection: sqlite3.Connection, path: str
) -> None:
    migrate(connection, path, NOW)
    text = "CREATE TABLE half (x);\nINSERT INTO half VALUES (1);\nSELECT * FROM no;"
    bad = Migration(LAST + 1, "bad", text)
    with pytest.raises(StorageError, match="no such table") as caught:
        migrate(connection, path, NOW, (*migrations(), bad))
    assert caught.value.__notes__ == [f"in migration {LAST + 1} (bad)"]
    assert schema_version(connection, path, LAST + 1) == LAST
    names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    assert "half" not in names
    assert migrate(connection, path, NOW + 10**6, (*migrations(), NEXT)) == LAST + 1


def test_several_migrations_are_applied_all_or_none(
    connection: sqlite3.Connection, path: str
) -> None:
    bad = Migration(LAST + 1, "bad", "SELECT * FROM no;")
    with pytest.raises(StorageError, match="no such table"):
        migrate(connection, path, NOW, (*migrations(), bad))
    assert connection.execute("SELECT name FROM sqlite_master").fetchall() == []
    migrate(connection, path, NOW)
    with pytest.raises(StorageError, match="no such table"):
        migrate(connection, path, NOW, (*migrations(), NEXT, bad._replace(version=LAST + 2)))
    assert schema_version(connection, path, LAST + 2) == LAST
    with pytest.raises(sqlite3.OperationalError, match="no such column"):
        connection.execute("SELECT color FROM runs")


def test_a_changed_migration_is_refused(connection: sqlite3.Connection, path: str) -> None:
    migrate(connection, path, NOW)
    changed = migrations()[0]._replace(text=migrations()[0].text + "-- changed\n")
    with pytest.raises(StorageError, match="migration 1 is not the one that was applied"):
        migrate(connection, path, NOW, (changed, *migrations()[1:], NEXT))
    assert backups(path) == []


def test_a_newer_schema_is_refused_and_left_alone(
    connection: sqlite3.Connection, path: str
) -> None:
    migrate(connection, path, NOW, (*migrations(), NEXT))
    connection.close()
    before = Path(path).read_bytes()
    with pytest.raises(
        SchemaTooNew, match=f"has schema version {LAST + 1}, this ironflow knows up to {LAST}"
    ) as e:
        asyncio.run(open_sqlite(path))
    assert (e.value.found, e.value.known) == (LAST + 1, LAST)
    assert Path(path).read_bytes() == before


def test_a_backup_that_cannot_be_made_stops_the_migration(
    connection: sqlite3.Connection, path: str
) -> None:
    migrate(connection, path, NOW)
    Path(f"{path}.backup-{LAST}-20231114T221320").mkdir()  # in the way
    with pytest.raises(StorageError, match="cannot back up"):
        migrate(connection, path, NOW, (*migrations(), NEXT))
    assert schema_version(connection, path, LAST + 1) == LAST


def test_scripts_are_cut_into_statements() -> None:
    script = (
        "-- a comment; with a semicolon\nCREATE TABLE a (x TEXT DEFAULT ';');\n"
        "CREATE TRIGGER t AFTER INSERT ON a BEGIN\n  DELETE FROM a;\n  SELECT 1;\nEND;\n"
        "-- the end\n"
    )
    found = list(statements(script))
    assert len(found) == 2
    assert found[1].startswith("CREATE TRIGGER")
    assert found[1].endswith("END;")
    with pytest.raises(ValueError, match="does not end"):
        list(statements("CREATE TABLE a (x)"))


def test_runs_of_the_first_schema_are_functions(connection: sqlite3.Connection, path: str) -> None:
    migrate(connection, path, NOW, migrations()[:1])
    columns = "id, function_id, status, created_at, updated_at, attempt, version, crashes"
    connection.execute(f"INSERT INTO runs ({columns}) VALUES ('a', 'f', 'queued', 1, 1, 1, 1, 0)")
    migrate(connection, path, NOW)
    assert connection.execute("SELECT id, kind FROM runs").fetchall() == [("a", "function")]


def test_migrations_are_numbered_without_a_gap() -> None:
    assert [m.version for m in migrations()] == list(range(1, len(migrations()) + 1))
    assert all(len(m.checksum) == 64 for m in migrations())
