"""The processes of the proof: a server and everything that executes for it, each to be killed and
started again at any moment; a client that starts runs, and one that tells them to go on.
"""

from __future__ import annotations

import http.client
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from server_process import ServerProcess

HERE = Path(__file__).parent
OWN, FOREIGN = str(HERE / "own_app.py"), str(HERE / "sdk_app.py")
OPTIONS = ["--worker-lease", "2s", "--push-networks", "127.0.0.0/8", "--signing-key", "proof-key"]
PLACES = ("sdk-worker", "sdk-asgi", "worker", "aiohttp", "flask")
PULL = ("sdk-worker", "worker")
BREATH = 0.05
"""Seconds between two looks at something that has no way of telling."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Member:
    """A process that executes runs of one place."""

    place: str
    line: list[str]
    folder: Path
    environment: dict[str, str]
    port: int = 0
    """Of an endpoint."""
    process: subprocess.Popen[bytes] | None = None
    kills: int = 0

    @property
    def log(self) -> Path:
        return self.folder / f"{self.place}.log"

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.line, cwd=self.folder, env=self.environment, stdout=log, stderr=log
            )

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.kills += 1

    def is_up(self) -> bool:
        """Whether it answers, or, a worker, lives."""
        assert self.process is not None
        if self.process.poll() is not None:
            pytest.fail(f"{self.place} ended by itself:\n{self.log.read_text()[-3000:]}")
        if not self.port:
            return True
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return True
        except OSError:
            return False


@dataclass
class Crew:
    """A server and one or two members for each place."""

    folder: Path
    peer_python: Callable[[str], Path]
    places: tuple[str, ...] = PLACES
    members: list[Member] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.server = ServerProcess(self.folder, None, *OPTIONS)
        self.server.options += ("--public-url", self.server.url)
        self.side_file = self.folder / "side.txt"
        self.side_file.touch()
        for place in self.places:
            self.members += [self._member(place) for _ in range(2 if place in PULL else 1)]

    def _member(self, place: str) -> Member:
        environment = {
            **os.environ,
            "PROOF_SIDE_FILE": str(self.side_file),
            "IRONFLOW_SIGNING_KEY": "proof-key",
            "IRONFLOW_NO_DISCOVERY": "1",
        }
        port = 0 if place in PULL else free_port()
        line = self._line("work", place, port)
        return Member(place, line, self.folder, environment, port)

    def _line(self, verb: str, place: str, port: int) -> list[str]:
        foreign = place.startswith("sdk-")
        program = (
            [str(self.peer_python("ironflow-py")), FOREIGN] if foreign else [sys.executable, OWN]
        )
        return [*program, verb, place, self.server.url, str(port)]

    def start(self) -> None:
        """Everything, until every function is known to the server."""
        self.server.start()
        for member in self.members:
            member.start()
        for member in self.members:
            while not member.is_up():
                self.breathe()
            if member.port:
                line = self._line("register", member.place, member.port)
                done = subprocess.run(
                    line, cwd=self.folder, env=member.environment, capture_output=True, text=True,
                    check=False,
                )  # fmt: skip
                assert done.returncode == 0, done.stderr
        wanted = {f"proof-{place}" for place in self.places}
        while not wanted <= {f["id"] for f in self.server.get("/api/v1/functions")["items"]}:
            self.breathe()

    def breathe(self, seconds: float = BREATH) -> None:
        """A pause; only the death of the server that nobody killed would end it early."""
        assert self.server.process is not None
        try:
            self.server.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return
        pytest.fail(f"the server ended by itself:\n{self.server.log.read_text()[-3000:]}")

    def kill_and_start(self, victim: int) -> str:
        """Kill a member, or the server for a number beyond, and start it again; its name."""
        if victim >= len(self.members):
            self.server.kill()
            self.server.start()
            return "server"
        member = self.members[victim]
        member.kill()
        member.start()
        return member.place

    def end(self) -> None:
        """Whatever still lives."""
        processes = [member.process for member in self.members]
        for process in [*processes, self.server.process]:
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()


class Client(threading.Thread):
    """Starts runs, the same key for the same number, until all are acknowledged."""

    def __init__(self, crew: Crew, numbers: range, seed: int) -> None:
        super().__init__(daemon=True)
        self.crew, self.numbers, self.rng = crew, numbers, random.Random(seed)
        self.acknowledged: dict[int, str] = {}
        self.stopped = threading.Event()
        self.fault: BaseException | None = None

    def place(self, number: int) -> str:
        return self.crew.places[number % len(self.crew.places)]

    def run(self) -> None:
        try:
            for number in self.numbers:
                order = {
                    "number": number,
                    "group": number // len(self.crew.places) % 4,
                    "nap": self.rng.uniform(0.02, 2.0),
                }
                body = {"input": order, "idempotency_key": f"run-{number}"}
                path = f"/api/v1/functions/proof-{self.place(number)}/invoke"
                answer = self.insist(path, body)
                if answer is not None:
                    self.acknowledged[number] = answer["run_id"]
        except BaseException as error:
            self.fault = error
            raise

    def insist(self, path: str, body: object) -> Any:
        """An answer, through however many deaths of the server; None once stopped."""
        is_repeated = False
        while not self.stopped.is_set():
            try:
                return self.crew.server.post(path, body)
            except urllib.error.HTTPError as error:
                text = error.read().decode()
                if is_repeated and "has ended already: cancelled" in text:
                    return text  # it was, and the server died before it could say so
                if error.code != 503 and error.code != 429:
                    raise AssertionError(f"{path}: {error.code} {text}") from error
            except (OSError, http.client.HTTPException, ValueError):
                is_repeated = True
            self.stopped.wait(0.03)
        return None


class Teller(Client):
    """Sends each run that waits the event that it waits for, a moment after the wait is on the
    disk; one in ten is cancelled instead.
    """

    def __init__(self, crew: Crew, seed: int) -> None:
        super().__init__(crew, range(0), seed)
        self.due: dict[str, float] = {}
        self.told: set[str] = set()
        self.cancelled: set[str] = set()

    def run(self) -> None:
        connection = sqlite3.connect(f"file:{self.crew.server.db}?mode=ro", uri=True, timeout=10)
        try:
            while not self.stopped.is_set():
                rows = connection.execute("SELECT run_id, event FROM waiters").fetchall()
                now = time.monotonic()
                for run_id, event in rows:
                    if event == "proof.go":
                        self.due.setdefault(run_id, now + self.rng.uniform(0.0, 3.0))
                for run_id in [r for r, at in self.due.items() if at <= now and r not in self.told]:
                    self.tell(run_id)
                self.stopped.wait(BREATH)
        except BaseException as error:
            self.fault = error
            raise
        finally:
            connection.close()

    def tell(self, run_id: str) -> None:
        path: str = "/api/v1/events"
        key = f"go-{run_id}"
        body: dict[str, Any] = {
            "name": "proof.go", "data": {"run": run_id, "sum": 9}, "idempotency_key": key
        }  # fmt: skip
        if len(self.told) % 10 == 7:
            path, body = f"/api/v1/runs/{run_id}/cancel", {"reason": "not wanted"}
            self.cancelled.add(run_id)
        if self.insist(path, body) is not None:
            self.told.add(run_id)


def unfinished(db: Path) -> list[tuple[str, str, str]]:
    """Runs that have not ended: id, function, status."""
    connection = sqlite3.connect(f"file:{db}?mode=ro", uri=True, timeout=10)
    try:
        return connection.execute(
            "SELECT id, function_id, status FROM runs WHERE ended_at IS NULL"
        ).fetchall()
    finally:
        connection.close()


def await_the_end(crew: Crew, seconds: float) -> None:
    """Until every run has ended; a failure says what the others wait for."""
    end = time.monotonic() + seconds
    while left := unfinished(crew.server.db):
        if time.monotonic() > end:
            why = [
                crew.server.cli("why", run_id, "--server", crew.server.url)
                for run_id, *_ in left[:8]
            ]
            pytest.fail(f"{len(left)} runs have not ended: {left[:20]}\n" + "\n".join(why))
        crew.breathe()
