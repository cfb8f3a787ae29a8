"""A folder with an application, a server that can be started in it, and the command line."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

START_LIMIT = 30.0
LIMIT = 60.0
APP = '''
"""Functions for the tests of the command line."""

import time

from ironflow import NonRetryable, function


@function(id="greet")
async def greet(ctx, input: dict):
    """Says hello."""
    name = await ctx.step.run("look up", lambda: input["name"])
    return {"hello": name}


@function(id="fail", retry=1)
async def fail(ctx, input):
    def boom():
        raise NonRetryable("no \\x1b[31mred\\x1b[0m today")

    await ctx.step.run("boom", boom)


@function(id="sleepy")
async def sleepy(ctx):
    await ctx.step.sleep("nap", "1h")
    return "rested"


@function(id="approval", on="order.placed")
async def approval(ctx, input):
    found = await ctx.step.wait_for_event("approved", "order.approved", timeout="2h")
    return found.data


@function(id="fan")
async def fan(ctx):
    async def branch():
        await ctx.step.run("quick", lambda: 1)
        await ctx.step.run("slow", lambda: time.sleep(0.3))

    await ctx.step.parallel("work", {"a": branch, "b": branch})
    return "done"


@function(id="calm", on="desk.*", flow_control={"debounce": {"period": "1h", "key": "data.user"}})
async def calm(ctx, data):
    return data["n"]


@function(id="bulk", on="desk.*", flow_control={"batch": {"size": 9, "wait": "1h"}})
async def bulk(ctx, rows):
    return len(rows)


@function(id="lone", on="desk.*", flow_control={"singleton": {}})
async def lone(ctx, data):
    await ctx.step.sleep("nap", "1h")
'''


def clean_environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("IRONFLOW_")}
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES"):
        kept.pop(name, None)
    return {**kept, "PYTHONWARNINGS": "error::ResourceWarning", "TERM": "xterm-256color", **more}


class Place:
    """A folder with an app, a server that can be started in it, and the command line."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.db = folder, folder / "app.db"
        (folder / "app.py").write_text(APP)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "server.log"
        self.server: subprocess.Popen[bytes] | None = None
        self.opened: list[subprocess.Popen[Any]] = []
        self.watchdogs: list[threading.Timer] = []

    def start(self) -> None:
        line = [sys.executable, "-m", "ironflow", "serve", "app.py"]
        line += ["--db", str(self.db), "--port", str(self.port)]
        with self.log.open("ab") as log:
            self.server = subprocess.Popen(
                line, cwd=self.folder, env=clean_environment(), stdout=log, stderr=log
            )
        end = time.monotonic() + START_LIMIT
        while time.monotonic() < end and self.server.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.url}/ready", timeout=5):
                    return
            except urllib.error.URLError:
                select.select([], [], [], 0.05)
        pytest.fail(f"the server did not start:\n{self.log.read_text()}")

    def stop(self) -> int:
        assert self.server is not None
        self.server.send_signal(signal.SIGTERM)
        return self.server.wait(2 * LIMIT)

    def close(self) -> None:
        """End everything that a test that failed has left."""
        for watchdog in self.watchdogs:
            watchdog.cancel()
        for process in [*self.opened, *([self.server] if self.server else [])]:
            if process.poll() is None:
                process.kill()
                process.wait()

    def open(self, *arguments: str, **options: Any) -> subprocess.Popen[Any]:
        """Start it; a process that hangs is killed, so that whoever reads its output goes on."""
        environment = clean_environment(IRONFLOW_SERVER_URL=self.url, **options.pop("env", {}))
        line = [sys.executable, "-m", "ironflow", *arguments]
        process = subprocess.Popen(line, cwd=self.folder, env=environment, **options)
        self.opened.append(process)
        watchdog = threading.Timer(LIMIT, process.kill)
        watchdog.daemon = True
        watchdog.start()
        self.watchdogs.append(watchdog)
        return process

    def cli(self, *arguments: str, code: int = 0, text: str = "", **env: str) -> tuple[str, str]:
        """Run to the end; what came on stdout and stderr. A traceback is always a failure."""
        process = self.open(
            *arguments, env=env, text=True, encoding="utf-8",
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        out, err = process.communicate(text, timeout=2 * LIMIT)
        assert process.returncode == code, (arguments, process.returncode, out, err)
        assert "Traceback" not in err or "--debug" in arguments, err
        assert not re.search("[\x00-\x08\x0b-\x1f]", out), repr(out)
        return out, err

    def value(self, *arguments: str, code: int = 0) -> Any:
        """What `--json` prints, decoded; with several lines a list."""
        out, _ = self.cli(*arguments, "--json", code=code)
        return json.loads(out)

    def items(self, *arguments: str) -> list[Any]:
        out, _ = self.cli(*arguments, "--json")
        return [json.loads(line) for line in out.splitlines()]

    def error(self, *arguments: str, code: int, **env: str) -> str:
        """The one line on stderr of a verb that fails, without `error: `."""
        out, err = self.cli(*arguments, code=code, **env)
        assert out == ""
        assert err.startswith("error: ")
        assert err.count("\n") == 1, err
        return err.removeprefix("error: ").rstrip("\n")
