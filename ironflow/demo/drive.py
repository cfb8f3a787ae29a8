"""The demo from beginning to end: serve, run the survey, kill the server half-way, serve again,
prove.

Everything happens in one folder, and in processes of our own that never outlive it. What the killed
server left is read from the database file while no server runs; the verdict compares it with what
is there at the end.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from ironflow.core.clock import SystemClock
from ironflow.core.errors import ConfigError, DatabaseInUse, StorageError
from ironflow.demo.evidence import Recorded, Verdict, judge, read_journal
from ironflow.demo.executions import LOG, Notebook
from ironflow.demo.process import DemoError, Server, pick_port
from ironflow.demo.screen import Row, Screen
from ironflow.storage.sqlite.lock import ProcessLock

MODULE, FUNCTION = "ironflow.demo.pipeline", "stdlib-survey"
DATABASE, REPORT = "demo.db", "report.html"
OURS = (DATABASE, LOG, REPORT, "server.log")
"""Beginnings of the names of the files that a demo makes."""
PARSE = "parse "
POLL = 0.02
PAGE = 1000
STALLED = 120.0
"""Seconds without a new entry after which nothing is expected any more."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What can be asked of the demo. `port` 0 picks a free one; `limit` None takes every module."""

    folder: str = "ironflow-demo"
    limit: int | None = None
    port: int = 0
    kill: bool = True
    keep: bool = False


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How it went. `pids` are the server processes in order; times are seconds."""

    holds: bool
    run_id: str
    folder: str
    report: str
    survey: dict[str, Any]
    verdict: Verdict
    killed: bool
    pids: list[int]
    seconds: float


class _Run(msgspec.Struct):
    run_id: str


class _Entry(msgspec.Struct):
    version: int
    kind: str
    data: dict[str, Any]


class _Page(msgspec.Struct):
    items: list[_Entry]


class _Result(msgspec.Struct):
    status: str
    result: Any = None
    error: dict[str, Any] | None = None
    reason: str | None = None


def run_demo(options: Options, screen: Screen, launch: Sequence[str]) -> Outcome:
    """Run it; `launch` is the beginning of a command line that starts ironflow.

    Raises `ConfigError` for a folder or port that cannot be used, `DemoError` when it cannot be
    brought to its end.
    """
    began = time.monotonic()
    port = pick_port(options.port)
    folder = prepare_folder(options.folder)
    server = Server(launch, folder, folder / DATABASE, port, [MODULE])
    with _interruptible():
        try:
            screen.say(f"Working in {folder}")
            server.start()
            screen.say(f"Server up at {server.url}, pid {server.pid}")
            outcome = _drive(options, screen, server, began)
            _show(screen, outcome)
            if options.keep:
                _keep(screen, server)
            else:
                server.stop()
        finally:
            screen.end()
            server.kill()
    return outcome


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM and a closed terminal end the demo as Ctrl-C does: no server is left behind."""
    before = {}
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None:
            before[number] = signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def prepare_folder(name: str) -> Path:
    """The folder, empty but for our own files, which are removed. Raises `ConfigError`."""
    folder = Path(name).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        found = sorted(path.name for path in folder.iterdir())
        foreign = [each for each in found if not each.startswith(OURS)]
        if foreign:
            raise ConfigError(
                f"dir: {folder} holds other things than a demo's ({foreign[0]}); "
                "choose another with --dir"
            )
        lock = ProcessLock(str(folder / DATABASE), SystemClock().now())
        try:
            for old in found:
                if old != f"{DATABASE}.lock":
                    (folder / old).unlink()
        finally:
            lock.release()
    except DatabaseInUse as error:
        raise ConfigError(
            f"dir: another demo works in {folder}; choose another with --dir"
        ) from error
    except StorageError as error:
        raise ConfigError(f"dir: {error}; choose another with --dir") from error
    except OSError as error:
        raise ConfigError(f"dir: cannot use {folder}: {error.strerror}") from error
    return folder


def _drive(options: Options, screen: Screen, server: Server, began: float) -> Outcome:
    folder = server.folder
    wanted = {"folder": str(folder), "limit": options.limit}
    started = server.ask("POST", f"/functions/{FUNCTION}/invoke", _Run, {"input": wanted})
    run_id = started.run_id
    screen.say(f"Run {run_id} of {FUNCTION}")
    progress = _Progress(server, run_id, screen)
    before: Recorded | None = None
    if options.kill:
        progress.follow(until_half=True)
        before = _kill(screen, server, run_id)
        server.start()
        screen.say(f"Server up again on the same file, pid {server.pid}: the run goes on by itself")
    progress.follow()
    screen.end()
    result = server.ask("GET", f"/runs/{run_id}/result", _Result)
    if result.status != "completed":
        why = (result.error or {}).get("message") or result.reason or "see server.log"
        raise DemoError(f"the run {result.status}: {why}")
    journal = read_journal(folder / DATABASE, run_id)
    log = Notebook(str(folder), run_id).read()
    verdict = judge(before, journal, log, server.pids)
    return Outcome(
        holds=verdict.holds,
        run_id=run_id,
        folder=str(folder),
        report=str(folder / REPORT),
        survey=result.result,
        verdict=verdict,
        killed=before is not None,
        pids=server.pids,
        seconds=round(time.monotonic() - began, 2),
    )


def _kill(screen: Screen, server: Server, run_id: str) -> Recorded:
    """Kill the server; answer what it left in the journal."""
    server.kill()
    before = read_journal(server.folder / DATABASE, run_id)
    screen.say(f"kill -9 {server.pid}: the server is dead", "bold red")
    if before.ended is not None:
        raise DemoError(
            "the run had ended before the server could be killed: this machine is too busy; "
            "try again"
        )
    screen.say(f"Its journal holds {before.completed.total()} finished steps", "bold")
    return before


class _Progress:
    """Follows the run by its journal entries, over HTTP, from one server to the next."""

    def __init__(self, server: Server, run_id: str, screen: Screen) -> None:
        self.server, self.run_id, self.screen = server, run_id, screen
        self.version = self.parsed = self.total = 0
        self.has_ended = False

    def follow(self, *, until_half: bool = False) -> None:
        """Until the run has ended, or until half of the modules are parsed."""
        news = time.monotonic()
        while not self.has_ended and not (until_half and 0 < self.total <= 2 * self.parsed):
            if self._read():
                news = time.monotonic()
                continue
            self.server.check()
            if time.monotonic() - news > STALLED:
                raise DemoError(f"nothing happened for {STALLED:g} s; see {self.server.log}")
            time.sleep(POLL)

    def _read(self) -> bool:
        """Take the next entries; whether there were any."""
        path = f"/runs/{self.run_id}/history?after={self.version}&limit={PAGE}"
        items = self.server.ask("GET", path, _Page).items
        for entry in items:
            self.version = entry.version
            self._note(entry)
        if items and self.total:
            self.screen.advance(self.parsed)
        return bool(items)

    def _note(self, entry: _Entry) -> None:
        if entry.kind in ("run.completed", "run.failed", "run.cancelled"):
            self.has_ended = True
        if entry.kind != "step.completed":
            return
        name = entry.data["name"]
        if name == "list":
            self.total = len(entry.data["result"])
            self.screen.begin("parsed", self.total)
        elif name.startswith(PARSE):
            self.parsed += 1


def _show(screen: Screen, outcome: Outcome) -> None:
    survey, verdict = outcome.survey, outcome.verdict
    rows: list[Row] = [
        ("modules", f"{survey['modules']:,}"),
        ("lines", f"{survey['lines']:,}"),
        ("functions, classes", f"{survey['functions']:,}, {survey['classes']:,}"),
        ("imports", "{imports:,} in {layers} layers, {cycles} cycles".format_map(survey)),
        ("most complex", ", ".join(f"{name} ({size})" for name, size in survey["most_complex"])),
        ("findings", f"{survey['findings']}"),
        ("", ""),
        ("steps finished", f"{verdict.steps:,} in {outcome.seconds:.1f} s"),
        ("retried failures", f"{verdict.retried}: every tenth file pretends to be unreadable once"),
    ]
    if outcome.killed:
        rows += [
            ("before the kill", f"{verdict.finished_before} finished (pid {outcome.pids[0]})"),
            ("after the kill", f"{verdict.finished_after} finished (pid {outcome.pids[-1]})"),
            ("cut short by it", f"{verdict.interrupted} under way, executed once more"),
        ]
    screen.table([*rows, ("", ""), ("report", outcome.report)])
    for problem in verdict.problems:
        screen.say(problem, "bold red")
    answer = "no" if verdict.again or verdict.recorded_twice else "yes"
    detail = f"{verdict.finished_before} before the kill, {verdict.again} again"
    detail = detail if outcome.killed else f"{verdict.steps} steps; nothing was killed"
    style = "bold green" if verdict.holds else "bold red"
    screen.say(f"no finished step ran twice: {answer} ({detail})", style)


def _keep(screen: Screen, server: Server) -> None:
    """Leave the server up until Ctrl-C."""
    with suppress(KeyboardInterrupt):
        screen.say(f"The server stays up at {server.url}; Ctrl-C ends it")
        while True:
            server.check()
            time.sleep(0.5)
    server.stop()
