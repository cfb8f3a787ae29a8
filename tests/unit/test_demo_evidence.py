"""The demo's proof must be able to fail; and its beginning: a folder, a port, a screen."""

from __future__ import annotations

import io
import os
import socket
import sys
from collections import Counter
from pathlib import Path

import pytest

from ironflow.core.clock import SystemClock
from ironflow.core.errors import ConfigError
from ironflow.demo.drive import DATABASE, prepare_folder
from ironflow.demo.evidence import Recorded, Verdict, judge
from ironflow.demo.executions import Execution, Notebook
from ironflow.demo.process import HOST, DemoError, Server, pick_port
from ironflow.demo.screen import PlainScreen, open_screen
from ironflow.storage.sqlite.lock import ProcessLock

FIRST, SECOND = 11, 12
LAUNCH = [sys.executable, "-m", "ironflow"]


def recorded(completed: str, failed: str = "", ended: str | None = "run.completed") -> Recorded:
    return Recorded(Counter(completed), Counter(failed), 2, ended)


def verdict_of(
    before: Recorded | None, after: Recorded, first: str, second: str = "", third: str = ""
) -> Verdict:
    log = [
        Execution("r", pid, step)
        for pid, steps in ((FIRST, first), (SECOND, second), (13, third))
        for step in steps
    ]
    return judge(before, after, log, [FIRST, SECOND])


def test_an_honest_run_holds() -> None:
    # b failed once and was retried after the kill, d was under way at the kill
    before = recorded("ac", "b", None)
    verdict = verdict_of(before, recorded("abcde", "b"), "abcd", "bde")
    assert verdict == Verdict(
        holds=True, steps=5, executions=7, finished_before=2, finished_after=3, again=0,
        interrupted=1, retried=1, recorded_twice=0, starts=2, problems=[],
    )  # fmt: skip


def test_a_run_that_was_not_killed_holds() -> None:
    verdict = verdict_of(None, recorded("abc", "b"), "abbc")
    assert verdict.holds
    assert (verdict.finished_before, verdict.finished_after, verdict.interrupted) == (0, 3, 0)


@pytest.mark.parametrize(
    ("after", "second", "problem"),
    [
        (recorded("abcd"), "acd", "1 executions of steps that had finished"),
        (recorded("abbcd"), "bcd", "more than once: b"),
        (recorded("abcd", ended="run.failed"), "bcd", "did not complete: run.failed"),
        (recorded("abcd", ended=None), "bcd", "it has not ended"),
        (recorded("abcd"), "bccd", "do not match: c"),
        (recorded("abcd"), "bc", "do not match: d"),
        (recorded("abcd"), "bbcd", "do not match: b"),
    ],
)
def test_every_way_of_cheating_shows(after: Recorded, second: str, problem: str) -> None:
    # honest would be: a finished before the kill, b under way at it, c and d only after it
    assert verdict_of(recorded("a", ended=None), recorded("abcd"), "ab", "bcd").holds
    if second == "bccd":  # an interrupted step may be made again once, not a third time
        second = "bcccd"
    verdict = verdict_of(recorded("a", ended=None), after, "ab", second)
    assert not verdict.holds
    assert problem in " ".join(verdict.problems)


def test_nothing_is_excused_as_cut_short_when_nothing_was_killed() -> None:
    verdict = verdict_of(None, recorded("ab"), "abb")
    assert verdict.problems == ["executions and recorded outcomes do not match: b"]


def test_executions_by_a_stranger_show() -> None:
    verdict = verdict_of(recorded("a", ended=None), recorded("ab"), "a", "", "b")
    assert verdict.problems == ["executed by processes that are none of ours: [13]"]


def test_the_log_keeps_runs_apart(tmp_path: Path) -> None:
    one, other = Notebook(str(tmp_path), "one"), Notebook(str(tmp_path), "other")
    assert one.read() == []
    for notes, step in ((one, "parse a b"), (other, "parse a b"), (one, "list"), (one, "list")):
        notes.add(step)
    assert one.read()[0] == Execution("one", os.getpid(), "parse a b")
    assert (one.count("list"), other.count("list"), len(one.read())) == (2, 0, 3)


# -- before it starts -----------------------------------------------------------------------------


def test_the_folder_is_made_and_only_our_files_are_removed(tmp_path: Path) -> None:
    folder = prepare_folder(str(tmp_path / "a" / "b"))
    assert folder == tmp_path / "a" / "b"
    for name in (DATABASE, f"{DATABASE}-wal", "executions.log", "report.html", "server.log"):
        (folder / name).write_text("old")
    prepare_folder(str(folder))
    assert [path.name for path in folder.iterdir()] == [f"{DATABASE}.lock"]


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("old")
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(ConfigError, match=r"^dir: .* holds other things .* \(thesis.txt\)"):
        prepare_folder(str(tmp_path))
    assert (tmp_path / "report.html").read_text() == "old"


def test_a_folder_where_another_demo_works_is_refused(tmp_path: Path) -> None:
    (tmp_path / DATABASE).write_text("live")
    lock = ProcessLock(str(tmp_path / DATABASE), SystemClock().now())
    try:
        with pytest.raises(ConfigError, match=r"^dir: another demo works in"):
            prepare_folder(str(tmp_path))
    finally:
        lock.release()
    assert (tmp_path / DATABASE).read_text() == "live"


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"^dir: cannot use .*: (File exists|Not a directory)"):
        prepare_folder(str(tmp_path / "file"))


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    root = os.geteuid() == 0
    try:
        if root:  # who may write anywhere
            os.seteuid(65534)
        with pytest.raises(ConfigError, match=r"^dir: cannot .*Permission denied"):
            prepare_folder(str(tmp_path))
        with pytest.raises(ConfigError, match=r"^dir: cannot .*Permission denied"):
            prepare_folder(str(tmp_path / "below"))
    finally:
        if root:
            os.seteuid(0)
        tmp_path.chmod(0o755)


def test_a_taken_port_is_said_before_anything_happens() -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"^port: cannot listen on {HOST}:{port}: "):
            pick_port(port)
    assert pick_port(0) > 0


def test_a_server_that_does_not_start_is_quoted(tmp_path: Path) -> None:
    server = Server(
        LAUNCH, tmp_path, tmp_path / DATABASE, pick_port(0), ["ironflow.no_such_module"]
    )
    try:
        with pytest.raises(DemoError, match=r"the server did not start: .*no_such_module"):
            server.start()
    finally:
        server.kill()


def test_without_a_terminal_there_are_plain_lines() -> None:
    stream = io.StringIO()
    screen = open_screen(stream)
    assert isinstance(screen, PlainScreen)
    screen.begin("parsed", 40)
    for done in range(41):
        screen.advance(done)
    screen.end()
    screen.table([("modules", "40"), ("", ""), ("report", "here")])
    assert stream.getvalue().splitlines() == [
        "parsed 10 of 40", "parsed 20 of 40", "parsed 30 of 40", "parsed 40 of 40",
        "modules  40", "", "report   here",
    ]  # fmt: skip
