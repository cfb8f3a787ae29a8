"""What `db check` finds in a file whose rows and whose journal say two different things."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ironflow import EventWait, RunWait, TimerWait, embedded, function
from ironflow.actors.audit import check_store
from ironflow.cli import main as cli
from ironflow.storage.maintenance.picture import picture_of
from ironflow.storage.ports import Entry

LEFT_TIMER = """INSERT INTO timers SELECT 'run/' || id, 'left', 1, 1 FROM runs
WHERE status = 'completed'"""
FOREIGN_SNAPSHOT = """INSERT INTO snapshots
SELECT 'run/' || id, 1, json_object('id', id, 'version', 1) FROM runs"""


@function(id="audit-waiter", timeout=1000)
async def waiter(ctx: Any) -> None:
    waits = {"t": TimerWait(900), "e": EventWait("never.comes"), "c": RunWait("audit-child")}
    await ctx.step.wait_any("race", waits)


@function(id="audit-child")
async def child(ctx: Any) -> None:
    await ctx.step.sleep("nap", 900)


@function(id="audit-done")
async def done(ctx: Any) -> int:
    return 1


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with runs that wait and one that has ended."""
    db = tmp_path_factory.mktemp("audit") / "sound.db"

    async def main() -> None:
        async with embedded.open_engine(db, functions=[waiter, child, done]) as engine:
            sleeps = asyncio.Event()

            def listen(entries: Sequence[Entry]) -> None:
                if any(e.kind == "wait.started" and b'"key":"nap"' in e.data for e in entries):
                    sleeps.set()

            engine.store.journal.subscribe(listen)
            await engine.invoke("audit-waiter")
            created = await engine.invoke("audit-done")
            await engine.wait(created.run_id)
            await sleeps.wait()

    asyncio.run(main())
    return db


@pytest.mark.parametrize(
    ("sql", "law"),
    [
        ("UPDATE runs SET status = 'running' WHERE status = 'waiting'", "row_agrees_with_stream"),
        ("UPDATE runs SET function_id = 'other'", "row_agrees_with_stream"),
        ("UPDATE runs SET version = 99", "row_agrees_with_stream"),
        ("DELETE FROM runs", "row_agrees_with_stream"),
        ("DELETE FROM timers", "timers_agree_with_stream"),
        ("UPDATE timers SET at = at + 1", "timers_agree_with_stream"),
        ("DELETE FROM waiters", "waiters_agree_with_stream"),
        ("UPDATE waiters SET event = 'other'", "waiters_agree_with_stream"),
        ("UPDATE waiters SET step = 'other'", "waiters_agree_with_stream"),
        ("UPDATE runs SET ended_at = 1 WHERE status = 'waiting'", "something_will_wake_it"),
        ("DELETE FROM journal WHERE version = 2", "versions_are_gapless"),
        ("UPDATE journal SET data = '{}' WHERE kind = 'run.created'", "entries_can_be_read"),
        (LEFT_TIMER, "timers_agree_with_stream"),
        (FOREIGN_SNAPSHOT, "snapshot_agrees_with_stream"),
    ],
)
def test_what_does_not_agree_is_found(sound: Path, tmp_path: Path, sql: str, law: str) -> None:
    hurt = tmp_path / "hurt.db"
    shutil.copy(sound, hurt)
    with closing(sqlite3.connect(hurt)) as db:
        assert db.execute(sql).rowcount > 0
        db.commit()
    with picture_of(hurt) as picture:
        assert law in {finding.law for finding in check_store(picture)}


def test_a_sound_file_has_no_finding(sound: Path) -> None:
    with picture_of(sound) as picture:
        assert list(check_store(picture)) == []


def test_the_command_says_it(
    sound: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check: Callable[[], tuple[int, str]] = lambda: (cli.main(), capfd.readouterr().out)  # noqa: E731
    hurt = tmp_path / "hurt.db"
    shutil.copy(sound, hurt)
    monkeypatch.setattr("sys.argv", ["ironflow", "db", "check", "--db", str(hurt)])
    assert check() == (0, f"{hurt} is whole\n")
    with closing(sqlite3.connect(hurt)) as db:
        db.execute("DELETE FROM timers")
        db.commit()
    code, out = check()
    assert code == 1
    assert "needs the timer 'timeout', which is not there" in out
