"""Real processes, killed with SIGKILL at named points and at random instants, life after life on
one database: what was acknowledged is there, no finished step ran again, every run ends, and every
law holds on the file itself."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from ironflow.actors.audit import check_store
from ironflow.core.crash_points import POINTS
from ironflow.storage.maintenance import files as maintenance
from ironflow.storage.maintenance.picture import picture_of

ROUNDS = int(os.environ.get("IRONFLOW_TEST_CRASH_ROUNDS", "1"))
"""How often each series is repeated, with other counts."""
HERE = Path(__file__).parent
WORKING = [
    "commit.before", "commit.after", "answer.before", "answer.after", "timer.ringing",
    "timer.rung", "message.posting",
]  # fmt: skip
RECOVERING = ["recovery.messages", "recovery.runs", "recovery.timers"]
RETAINING = ["retention.deleted", "retention.chunk"]
OFFLINE = [
    "migration.backup", "migration.statement", "migration.committed", "backup.copied",
    "restore.aside",
]  # fmt: skip


class Lives:
    """Begins lives in a folder and looks at what they leave."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.db = folder, folder / "lives.db"
        self.errors = (folder / "errors").open("wb")
        self.zygote = subprocess.Popen(
            [sys.executable, str(HERE / "lives_app.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
        )
        self.deaths: Counter[str] = Counter()

    def close(self) -> None:
        assert self.zygote.stdin is not None
        self.zygote.stdin.close()
        self.zygote.wait(30)
        assert self.zygote.stdout is not None
        self.zygote.stdout.close()
        self.errors.close()

    def begin(self, point: str = "-", purpose: str = "work") -> int:
        assert self.zygote.stdin is not None
        self.zygote.stdin.write(f"{self.folder} {point} {purpose}\n".encode())
        self.zygote.stdin.flush()
        return int(self._line())

    def end(self, point: str = "") -> int:
        """Wait for the end of the life; its exit code."""
        code = int(self._line())
        assert code in (0, -signal.SIGKILL), (self.folder / "errors").read_text()
        if code:
            self.deaths[point] += 1
        return code

    def live(self, point: str = "-", purpose: str = "work") -> int:
        self.begin(point, purpose)
        return self.end(point.partition(":")[0])

    def _line(self) -> bytes:
        assert self.zygote.stdout is not None
        line = self.zygote.stdout.readline()
        assert line, (self.folder / "errors").read_text()
        return line

    def is_made(self) -> bool:
        """Whether a life came so far as to make the tables, which it does in one transaction."""
        if not self.db.exists():
            return False
        with contextlib.closing(sqlite3.connect(f"file:{self.db}?mode=ro", uri=True)) as db:
            return bool(db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])

    def check(self, *, is_at_rest: bool = False) -> None:
        """Every law on the file as it lies there; at rest nothing may be left over."""
        assert maintenance.check(self.db).findings == []
        with picture_of(self.db) as picture:
            assert list(check_store(picture)) == []
        with maintenance.opened(self.db) as (db, _):
            seqs = [seq for (seq,) in db.execute("SELECT seq FROM journal ORDER BY seq")]
            assert len(seqs) == len(set(seqs))
            facts = db.execute("SELECT stream, kind, at, data FROM journal ORDER BY seq").fetchall()
            if is_at_rest:
                left = "SELECT id FROM runs WHERE ended_at IS NULL"
                assert db.execute(left).fetchall() == []
                for table in ("timers", "waiters", "deliveries"):
                    assert db.execute(f"SELECT * FROM {table}").fetchall() == [], table
        self._check_notes({(stream, kind) for stream, kind, _, _ in facts})
        self._check_steps(facts)

    def _check_notes(self, kinds: set[tuple[str, str]]) -> None:
        wanted = {"created": "run.created", "ended": "run.completed"}
        for line in _lines(self.folder / "notes"):
            what, run_id = line.split()
            assert (f"run/{run_id}", wanted[what]) in kinds, f"{line} was acknowledged"

    def _check_steps(self, facts: list[tuple[str, str, int, bytes]]) -> None:
        committed: dict[tuple[str, str], int] = {}
        for stream, kind, at, data in facts:
            if kind == "step.completed":
                key = stream.removeprefix("run/"), json.loads(data)["key"]
                assert key not in committed, f"{key} has two results"
                committed[key] = at
        in_one_life: Counter[str] = Counter()
        for line in _lines(self.folder / "side"):
            run_id, step, pid, at = line.split()
            in_one_life[f"{run_id} {step} {pid}"] += 1
            done = committed.get((run_id, step))
            assert done is None or int(at) <= done, f"{step} of {run_id} ran after its commit"
        assert not [what for what, count in in_one_life.items() if count > 1]


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Lives]:
    made = Lives(tmp_path)
    yield made
    made.close()


def test_every_point_is_tested() -> None:
    assert sorted(POINTS) == sorted([*WORKING, *RECOVERING, *RETAINING, *OFFLINE])


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_a_series_of_lives_that_end_at_named_points(world: Lives, round_: int) -> None:
    rng = random.Random(round_)
    series = [(point, count) for point in WORKING for count in (1, 2, 5, 13, 34)]
    rng.shuffle(series)
    for number, (point, count) in enumerate(series):
        world.live(f"{point}:{count + round_}")
        if number % 3 == 0:  # and the next one dies while it recovers
            world.live(f"{rng.choice(RECOVERING)}:{1 + number % 2}", "rest")
        if number % 10 == 0:
            world.check()
    assert world.live("-", "rest") == 0
    world.check(is_at_rest=True)
    for point in WORKING:
        assert world.deaths[point] >= 3, world.deaths
    assert sum(world.deaths[point] for point in RECOVERING) >= 4, world.deaths


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_a_series_of_lives_that_end_at_any_instant(world: Lives, round_: int) -> None:
    rng = random.Random(1000 + round_)
    for number in range(40):
        pid = world.begin("-", "work" if number % 4 else "rest")
        time.sleep(rng.uniform(0.005, 0.12))  # the instant is what is tested
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        world.end("instant")
        if number % 10 == 0 and world.is_made():
            world.check()
    assert world.live("-", "rest") == 0
    world.check(is_at_rest=True)
    assert world.deaths["instant"] > 20


def test_lives_that_end_inside_retention(world: Lives) -> None:
    assert world.live() == 0
    (world.folder / "notes").unlink()  # what was acknowledged is about to be deleted
    for point in ("retention.deleted:1", "retention.deleted:5", "retention.chunk:1"):
        assert world.live(point, "retain") == -signal.SIGKILL
        world.check()
    assert world.live("-", "retain") == 0
    world.check(is_at_rest=True)
    with contextlib.closing(sqlite3.connect(world.db)) as db:
        assert db.execute("SELECT count(*) FROM runs").fetchone() == (4,)
        assert db.execute("SELECT count(*) FROM events").fetchone() == (4,)
        assert db.execute("SELECT count(DISTINCT stream) FROM journal").fetchone()[0] == 8 + 2


def ironflow(folder: Path, point: str, *words: str) -> int:
    """The real command, which dies at a point."""
    line = [sys.executable, "-m", "ironflow", *words]
    environment = {**os.environ, "IRONFLOW_CRASH_POINT": point} if point else dict(os.environ)
    done = subprocess.run(line, env=environment, cwd=folder, capture_output=True, check=False)
    return done.returncode


def test_a_backup_that_is_cut_off_is_none(world: Lives) -> None:
    assert world.live() == 0
    copy = world.folder / "copy.db"
    words = ("db", "backup", str(copy), "--db", str(world.db))
    assert ironflow(world.folder, "backup.copied", *words) == -signal.SIGKILL
    assert not copy.exists()
    world.check()
    assert ironflow(world.folder, "", *words) == 0
    assert maintenance.check(copy).findings == []
    assert not [name for name in os.listdir(world.folder) if name.endswith(".part")]


def test_a_restoration_that_is_cut_off_has_lost_nothing(world: Lives) -> None:
    assert world.live() == 0
    copy = world.folder / "copy.db"
    backup = maintenance.backup(world.db, copy)
    assert world.live() == 0
    newest = maintenance.database_info(world.db).last_seq
    assert newest > backup.last_seq
    words = ("db", "restore", str(copy), "--db", str(world.db))
    assert ironflow(world.folder, "restore.aside", *words) == -signal.SIGKILL
    (kept,) = world.folder.glob("lives.db.replaced-*[0-9]")
    assert maintenance.check(kept).findings == []
    assert maintenance.database_info(kept).last_seq == newest
    assert ironflow(world.folder, "", *words) == 0
    assert maintenance.check(world.db).findings == []
    assert maintenance.database_info(world.db).last_seq == backup.last_seq
    left = {file.name for file in world.folder.iterdir()}
    assert not {"lives.db.restored", "lives.db-wal"} & left


@pytest.mark.parametrize(
    "point", ["migration.backup:1", "migration.statement:1", "migration.statement:2",
              "migration.committed:1"],
)  # fmt: skip
def test_a_migration_that_is_cut_off_goes_on(tmp_path: Path, point: str) -> None:
    golden = HERE.parent / "golden" / "schema-1.db"
    db = tmp_path / "old.db"
    db.write_bytes(golden.read_bytes())
    words = ("db", "vacuum", "--keep-runs", "1000", "--yes", "--db", str(db))
    assert ironflow(tmp_path, point, *words) == -signal.SIGKILL
    backups = [name for name in os.listdir(tmp_path) if ".backup-" in name]
    assert all(name.endswith(".part") for name in backups) == point.startswith("migration.backup")
    assert ironflow(tmp_path, "", *words) == 0
    assert maintenance.check(db).findings == []
    with picture_of(db) as picture:
        assert list(check_store(picture)) == []


def test_a_point_that_is_none_is_told(tmp_path: Path) -> None:
    assert ironflow(tmp_path, "nowhere:1", "db", "info", "--db", str(tmp_path / "none.db")) == 2
    assert ironflow(tmp_path, "commit.before:x", "db", "info", "--db", str(tmp_path / "no.db")) == 2
