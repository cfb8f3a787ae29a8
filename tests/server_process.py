"""A real server process that a test may kill and start again on the same database."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

START_LIMIT = 30.0


class ServerProcess:
    """`ironflow serve` in a folder of its own."""

    program: tuple[str, ...] = (sys.executable, "-m", "ironflow")

    def __init__(self, folder: Path, app: Path | None, *options: str) -> None:
        """`app` None: a server that serves no functions itself."""
        self.folder, self.app, self.options = folder, app, options
        self.db = folder / "crash.db"
        self.side_file = folder / "side.txt"
        self.log = folder / "server.log"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.process: subprocess.Popen[bytes] | None = None
        self.kills = 0
        self.crash_point = ""
        """Where its next life ends, as `IRONFLOW_CRASH_POINT` says; it may not come to be ready."""

    def start(self) -> None:
        """Start, and return when it takes work."""
        line = [*self.program, "serve", "--db", str(self.db)]
        line += [str(self.app)] if self.app is not None else []
        line += ["--port", str(self.port), *self.options]
        environment = {**os.environ, "CRASH_SIDE_FILE": str(self.side_file)}
        if self.crash_point:
            environment["IRONFLOW_CRASH_POINT"] = self.crash_point
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                line, cwd=self.folder, env=environment, stdout=log, stderr=log
            )
        end = time.monotonic() + START_LIMIT
        while time.monotonic() < end:
            if self.process.poll() is not None:
                if self.crash_point and self.process.returncode == -signal.SIGKILL:
                    return
                break
            try:
                if self.get("/ready")["status"] == "ready":
                    return
            except (OSError, ValueError):
                self.process_pause()
        pytest.fail(f"the server did not start:\n{self.log.read_text()}")

    def process_pause(self) -> None:
        """Give the process a moment; it has nothing that could tell us to look again."""
        assert self.process is not None
        try:
            self.process.wait(0.05)
        except subprocess.TimeoutExpired:
            return

    def kill(self) -> None:
        """`kill -9`."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.kills += 1

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        if self.process is None or self.process.poll() is not None:
            return self.process.returncode if self.process is not None else 0
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def text(self, path: str) -> str:
        """An answer as text."""
        with urllib.request.urlopen(self.url + path, timeout=70) as reply:
            return str(reply.read().decode())

    def get(self, path: str) -> Any:
        """A JSON answer."""
        return json.loads(self.text(path))

    def cli(self, *line: str) -> str:
        """What a verb prints."""
        done = subprocess.run(
            [*self.program, *line], cwd=self.folder, capture_output=True, text=True, check=True
        )
        return done.stdout

    def post(self, path: str, body: object) -> Any:
        """POST JSON; the JSON answer."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
            method="POST",
        )
        with urllib.request.urlopen(request, timeout=60) as reply:
            return json.load(reply)
