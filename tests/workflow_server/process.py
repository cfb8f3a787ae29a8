"""The server under test as users run it: a process, a database and a port of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
APP = HERE / "served_app.py"
_ADDRESS = re.compile(r"(http://\S+:\d+)")
START_SECONDS = 60


class Served:
    """A server process over a database file; it can be killed and started again at its port."""

    def __init__(self, folder: Path, app: Path = APP) -> None:
        self.folder, self.app, self.port = folder, app, 0
        self.environment: dict[str, str] = {}
        """More variables for the process."""
        self.url = ""
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> Served:
        """Start it, and return once it listens."""
        env = {key: text for key, text in os.environ.items() if not key.startswith("IRONFLOW_")}
        env |= {
            "WORKFLOWS_PY_SERVER_PORT": str(self.port),
            "IRONFLOW_DB": str(self.folder / "served.db"),
            **self.environment,
        }
        with (self.folder / "server.log").open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ironflow.workflows.server", str(self.app)],
                cwd=self.folder,
                env=env,
                stdout=log,
                stderr=subprocess.PIPE,
                text=True,
            )
        assert self.process.stderr is not None
        seen = ""
        for line in self.process.stderr:
            seen += line
            found = _ADDRESS.search(line)
            if found is not None and "serving" in line:
                self.url = found.group(1)
                self.port = int(self.url.rpartition(":")[2])
                return self
        raise AssertionError(f"the server did not start:\n{seen}")

    def kill(self) -> None:
        """End it as a power cut would."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(START_SECONDS)
        self._close()

    def stop(self) -> int:
        """Ask it to end, and wait for that; its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(START_SECONDS)
        self._close()
        return code

    def _close(self) -> None:
        assert self.process is not None
        assert self.process.stderr is not None
        self.process.stderr.close()
