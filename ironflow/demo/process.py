"""The demo's server: a process of this ironflow on loopback; how to speak to it and kill it."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from ironflow.core.errors import ConfigError, IronflowError

T = TypeVar("T")

HOST = "127.0.0.1"
START_SECONDS = 60.0
"""A first start unpacks the archive, perhaps on a slow disk."""
STOP_SECONDS = 15.0


class DemoError(IronflowError):
    """The demo could not be brought to its end."""

    code = "demo_failed"


def pick_port(port: int) -> int:
    """`port` if nobody listens there, a free one for 0. Raises `ConfigError`."""
    with socket.socket() as probe:
        if os.name == "posix":  # elsewhere it would share a port that is taken
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ConfigError(
                f"port: cannot listen on {HOST}:{port}: {error.strerror}; "
                "choose another with --port, or leave it to the demo"
            ) from error
        return int(probe.getsockname()[1])


class Server:
    """One server process at a time, always with the same database and port.

    `launch` is the beginning of a command line that starts ironflow.
    """

    def __init__(
        self, launch: Sequence[str], folder: Path, db: Path, port: int, modules: Sequence[str]
    ) -> None:
        self.folder, self.port = folder, port
        self.log = folder / "server.log"
        self.pids: list[int] = []
        self._command = [
            *[*launch, "serve", *modules, "--db", str(db), "--host", HOST, "--port", str(port)],
            "--no-discovery",  # it is gone in a minute, and leaves only what it has to show
        ]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        """The process that runs now, or ran last."""
        return self.pids[-1]

    def start(self) -> None:
        """Start it; return when it takes work. Raises `DemoError` with its last words."""
        # The demo's settings are its flags: neither the user's environment nor a file of theirs
        # counts.
        environment = {k: v for k, v in os.environ.items() if not k.startswith("IRONFLOW_")}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C is for the demo, which decides what becomes of the server.
                start_new_session=True,
            )
        self.pids.append(self._process.pid)
        deadline = time.monotonic() + START_SECONDS
        while not self._is_ready():
            if self._process.poll() is not None:
                raise DemoError(f"the server did not start: {self.last_words()}")
            if time.monotonic() > deadline:
                raise DemoError(f"the server was not ready in {START_SECONDS:g} s; see {self.log}")
            time.sleep(0.03)

    def _is_ready(self) -> bool:
        try:
            status, _ = self._exchange("GET", "/ready", None)
        except (OSError, http.client.HTTPException):
            return False
        return status == 200

    def last_words(self) -> str:
        """The last line of the server's log."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
        return last.removeprefix("error: ")

    def check(self) -> None:
        """Raise `DemoError` when the process is gone without having been asked to."""
        if self._process is not None and (code := self._process.poll()) is not None:
            raise DemoError(f"the server ended by itself (exit {code}): {self.last_words()}")

    def kill(self) -> None:
        """SIGKILL: the process has no chance to do anything any more. Returns when it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """Ask it to end in order, and do not take no for an answer."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self.kill()

    def ask(self, method: str, path: str, answer: type[T], body: Any = None) -> T:
        """The decoded answer of a request below `/api/v1`. Raises `DemoError` for others."""
        data = None if body is None else msgspec.json.encode(body)
        try:
            status, content = self._exchange(method, f"/api/v1{path}", data)
            if status < 300:
                return msgspec.json.decode(content, type=answer)
        except (OSError, http.client.HTTPException, msgspec.DecodeError) as error:
            self.check()
            raise DemoError(f"{method} {path}: {error}") from error
        raise DemoError(
            f"{method} {path}: HTTP {status}: {content.decode('utf-8', 'replace'):.300}"
        )

    def _exchange(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=30.0)
        try:
            headers = {} if body is None else {"Content-Type": "application/json"}
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()
