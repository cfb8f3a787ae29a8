"""`ironflow demo` as a user runs it: the archive, an empty folder, a real `kill -9`."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import IO, Any

import pytest

MODULES = 60


def environment(pyz: Path) -> dict[str, str]:
    """One home for all tests: the archive is unpacked there once."""
    home = pyz.parent / "home"
    home.mkdir(exist_ok=True)
    return {"HOME": str(home), "PATH": os.environ["PATH"]}


def demo(pyz: Path, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, pyz, "demo", *options],
        cwd=folder,
        env=environment(pyz) | {"IRONFLOW_PORT": "nonsense"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def is_alive(pid: int) -> bool:
    """Whether there is such a process; the demo has reaped its own before it ends."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def step_counts(db: Path, run_id: str) -> dict[str, int]:
    """Entries `step.completed` by key, as the journal has them."""
    query = (
        "SELECT json_extract(data, '$.key'), count(*) FROM journal"
        " WHERE stream = ? AND kind = 'step.completed' GROUP BY 1"
    )
    with closing(sqlite3.connect(db)) as connection:
        return dict(connection.execute(query, (f"run/{run_id}",)))


@pytest.fixture(scope="module")
def killed(pyz: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    """The folder, the outcome and what was said, of one demo with its kill."""
    folder = tmp_path_factory.mktemp("demo")
    done = demo(pyz, folder, "--limit", str(MODULES), "--json")
    assert done.returncode == 0, done.stderr
    return folder / "ironflow-demo", json.loads(done.stdout), done.stderr


def test_the_verdict_holds_and_says_what_was_killed(
    killed: tuple[Path, dict[str, Any], str],
) -> None:
    _, outcome, said = killed
    verdict = outcome["verdict"]
    assert outcome["holds"]
    assert verdict["problems"] == []
    assert outcome["survey"]["modules"] == MODULES
    assert verdict["steps"] == verdict["finished_before"] + verdict["finished_after"] == MODULES + 3
    assert verdict["finished_before"] > MODULES // 2
    assert verdict["finished_after"] >= 2  # at least the join and the report
    assert verdict["again"] == verdict["recorded_twice"] == 0
    assert verdict["starts"] == 2
    before, after = outcome["pids"]
    assert f"kill -9 {before}" in said
    assert f"pid {after}" in said
    assert (
        f"no finished step ran twice: yes ({verdict['finished_before']} before the kill, 0" in said
    )


def test_the_evidence_can_be_checked_by_anyone(killed: tuple[Path, dict[str, Any], str]) -> None:
    folder, outcome, _ = killed
    counts = step_counts(folder / "demo.db", outcome["run_id"])
    parses = {key: count for key, count in counts.items() if "/parse " in key}
    assert len(parses) == MODULES
    assert set(parses.values()) == {1}
    lines = [line.split("\t") for line in (folder / "executions.log").read_text().splitlines()]
    assert {line[0] for line in lines} == {outcome["run_id"]}
    assert {int(line[1]) for line in lines} == set(outcome["pids"])
    assert len(lines) == outcome["verdict"]["executions"]
    verdict = outcome["verdict"]
    assert len(lines) == verdict["steps"] + verdict["retried"] + verdict["interrupted"]


def test_it_leaves_the_report_and_no_process(killed: tuple[Path, dict[str, Any], str]) -> None:
    folder, outcome, _ = killed
    page = Path(outcome["report"]).read_text(encoding="utf-8")
    assert outcome["report"] == str(folder / "report.html")
    assert outcome["run_id"] in page
    assert "2 server processes worked on this run" in page
    assert not any(is_alive(pid) for pid in outcome["pids"])
    names = {path.name for path in folder.iterdir()}
    assert names <= {"demo.db", "demo.db.lock", "executions.log", "report.html", "server.log"}


def test_again_in_the_same_folder_without_a_kill(
    pyz: Path, killed: tuple[Path, dict[str, Any], str]
) -> None:
    folder, outcome, _ = killed
    done = demo(pyz, folder.parent, "--limit", "20", "--no-kill")
    assert done.returncode == 0, done.stderr
    assert "parsed 20 of 20\n" in done.stdout
    assert "no finished step ran twice: yes (23 steps; nothing was killed)\n" in done.stdout
    assert "kill -9" not in done.stdout
    assert done.stderr == ""
    assert outcome["run_id"] not in (folder / "report.html").read_text(encoding="utf-8")


def server_pid(lines: IO[str]) -> int:
    """The first server's process, as the demo says it."""
    line = next(line for line in lines if line.startswith("Server up at "))
    return int(line.rpartition("pid ")[2])


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_takes_its_server_along(
    pyz: Path, tmp_path: Path, number: signal.Signals
) -> None:
    command = [sys.executable, str(pyz), "demo", "--limit", "20", "--no-kill", "--keep"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment(pyz),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        pid = server_pid(process.stdout)
        line = next(line for line in process.stdout if "The server stays up" in line)
        assert "Ctrl-C ends it" in line
        assert is_alive(pid)
        process.send_signal(number)
        output, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0, output
    assert errors == ""
    assert not is_alive(pid)


def test_interrupted_in_the_middle_nothing_is_left_running(pyz: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, pyz, "demo"],
        cwd=tmp_path,
        env=environment(pyz),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        pid = server_pid(process.stdout)
        next(line for line in process.stdout if line.startswith("Run "))
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert not is_alive(pid)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--dir", "taken"], "dir: "),
        (["--dir", "file"], "dir: cannot use "),
        (["--port", "99999"], "--port: "),
        (["--limit", "3"], "--limit: "),
    ],
)
def test_what_cannot_be_is_said_in_one_line(
    pyz: Path, tmp_path: Path, options: list[str], line: str
) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("precious")
    (tmp_path / "file").write_text("")
    done = demo(pyz, tmp_path, *options)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"error: {line}")
    assert done.stderr.count("\n") == 1
