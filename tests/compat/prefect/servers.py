"""The two servers that answer for Prefect's API: the real one, in an environment of its own, and
ironflow; each a process on a free port with a folder of its own.
"""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from harness.processes import free_port
from peers.prefect import QUIET, migrated_database, server_environment, server_line

START_LIMIT = 90.0
MOVERS = ("SCHEDULER", "LATE_RUNS", "PAUSE_EXPIRATIONS", "CANCELLATION_CLEANUP", "FOREMAN")
"""Services of the real server that move runs without being asked."""


class Answer(NamedTuple):
    """What a server said to one request."""

    status: int
    headers: dict[str, str]
    body: Any
    """Decoded JSON; text where it is none; None for an empty one."""


class Server:
    """A process that serves Prefect's API below `/api` on a port of this machine."""

    line: list[str]
    environment: dict[str, str]

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / f"{name}.log"
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self._connection: http.client.HTTPConnection | None = None

    @property
    def url(self) -> str:
        """What goes into `PREFECT_API_URL`."""
        return f"http://127.0.0.1:{self.port}/api"

    def start(self) -> None:
        """Start it, and return when it takes work: it is healthy a little earlier."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.line,
                cwd=self.folder,
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        end = time.monotonic() + START_LIMIT
        while time.monotonic() < end and self.process.poll() is None:
            try:
                if self.ask("GET", "/ready").status == 200:
                    return
                self._pause()
            except (OSError, http.client.HTTPException):
                self._pause()
        said = self.log.read_text(errors="replace")[-3000:]
        self.kill()
        raise RuntimeError(f"{self.name} did not start:\n{said}")

    def _pause(self) -> None:
        """A moment; a process that starts has nothing that could tell us to look again."""
        assert self.process is not None
        try:
            self.process.wait(0.05)
        except subprocess.TimeoutExpired:
            return

    def kill(self) -> None:
        """`kill -9`."""
        self._hang_up()
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()

    def stop(self) -> None:
        """SIGTERM, and SIGKILL when that does not end it soon."""
        self._hang_up()
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()

    def ask(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        """One request below `/api`. Bytes go as they are, everything else as JSON."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        fields = {"Content-Type": "application/json"} if data is not None else {}
        fields |= {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            return self._exchange(method, path, data, fields)
        except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
            # A kept-alive connection that was closed in the meantime; nothing was answered.
            self._hang_up()
            return self._exchange(method, path, data, fields)

    def _exchange(
        self, method: str, path: str, data: bytes | None, fields: dict[str, str]
    ) -> Answer:
        if self._connection is None:
            self._connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            self._connection.request(method, f"/api{path}", body=data, headers=fields)
            reply = self._connection.getresponse()
            raw = reply.read()
        except (OSError, http.client.HTTPException):
            self._hang_up()
            raise
        return Answer(
            reply.status, {key.lower(): value for key, value in reply.getheaders()}, _decode(raw)
        )

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Ironflow(Server):
    """`ironflow serve`."""

    def __init__(self, folder: Path, *options: str) -> None:
        super().__init__("ironflow", folder)
        self.db = folder / "ironflow.db"
        self.line = [sys.executable, "-m", "ironflow", "serve", "--db", str(self.db)]
        self.line += ["--port", str(self.port), *options]
        self.environment = {}


class RealPrefect(Server):
    """The real Prefect server on SQLite. `python` is that of its own environment."""

    def __init__(self, python: Path, folder: Path, **settings: str) -> None:
        super().__init__("prefect-server", folder)
        home = folder / "home"
        home.mkdir(exist_ok=True)
        shutil.copy(migrated_database(python), home / "prefect.db")
        self.line = server_line(python, self.port)
        # Services that move runs in their own time would make answers depend on the machine's.
        idle = {f"PREFECT_SERVER_SERVICES_{name}_ENABLED": "false" for name in MOVERS}
        self.environment = server_environment(home) | idle | settings


def openapi_of(python: Path) -> dict[str, Any]:
    """What the real server says of its API: `/api/openapi.json`, without starting it; kept beside
    its environment.
    """
    path = python.parents[1] / "openapi.json"
    with (python.parents[1] / "openapi.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            script = (
                "import json, sys; from prefect.server.api.server import create_app;"
                "from prefect.server.api import server as s;"
                "app = s.create_api_app(); app.title = 'Prefect';"
                "json.dump(app.openapi(), open(sys.argv[1], 'w'))"
            )
            part = path.with_suffix(".part")
            with_home = {**os.environ, **QUIET, "PREFECT_HOME": str(python.parents[1] / "home")}
            subprocess.run(
                [str(python), "-c", script, str(part)],
                env=with_home,
                check=True,
                capture_output=True,
            )
            part.replace(path)
    document: dict[str, Any] = json.loads(path.read_text())
    return document


def _decode(raw: bytes) -> Any:
    if not raw:
        return None
    try:
        return json.loads(raw)
    except ValueError:
        return raw.decode(errors="replace")
