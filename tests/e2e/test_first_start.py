"""The first start of a server as its user sees it: the admin's key, who is asked for one, and how
tools find the server. Real processes in folders of their own.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

APP = """
import ironflow

@ironflow.function
async def greet(ctx, name):
    return f"hello {name}"
"""
LIMIT = 60.0
KEY = re.compile(r"ifkey_[0-9a-f]{32}")


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("IRONFLOW_")}
    return {**kept, **more}


class Started:
    """`ironflow serve app.py` in a folder; everything that it said until it was ready."""

    def __init__(self, folder: Path, *options: str) -> None:
        (folder / "app.py").write_text(APP)
        line = [sys.executable, "-m", "ironflow", "serve", "app.py", "--port", "0", *options]
        self.process = subprocess.Popen(
            line, cwd=folder, env=environment(), stderr=subprocess.PIPE, text=True
        )
        assert self.process.stderr is not None
        said, url = [], None
        for text in self.process.stderr:
            said.append(text)
            url = re.search(r"serves .* on (http://\S+)", text)
            if url is not None:
                break
        self.said = "".join(said)
        assert url is not None, self.said
        self.url = url[1]

    def status(self, path: str, key: str | None = None) -> int:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        request = urllib.request.Request(self.url + path, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=LIMIT) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            error.close()
            return error.code

    def end(self, number: int = signal.SIGTERM) -> None:
        if self.process.poll() is None:
            self.process.send_signal(number)
        self.process.wait(LIMIT)
        assert self.process.stderr is not None
        self.process.stderr.close()


@contextlib.contextmanager
def started(folder: Path, *options: str) -> Iterator[Started]:
    server = Started(folder, *options)
    try:
        yield server
    finally:
        server.end()


def cli(folder: Path, *line: str, **env: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "ironflow", *line],
        cwd=folder, env=environment(**env), capture_output=True, text=True, timeout=LIMIT,
        check=True,
    )  # fmt: skip
    return done.stdout


def test_one_command_and_everything_in_its_folder_works_without_a_key(tmp_path: Path) -> None:
    file = tmp_path / ".ironflow" / "engine.json"
    with started(tmp_path) as server:
        (key,) = KEY.findall(server.said)
        assert "not shown again" in server.said
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert json.loads(file.read_text())["url"] == server.url
        below = tmp_path / "deeper"
        below.mkdir()
        assert '"hello Ada"' in cli(
            below, "invoke", "greet", "--input", '"Ada"', "--wait", "30s", "--json"
        )
        assert server.status("/api/v1/runs") == 200
        assert server.status("/api/v1/runs", key) == 200
        made = cli(below, "keys", "create", "ops", "--role", "admin").strip()
        assert KEY.fullmatch(made)
        assert server.status("/api/v1/runs") == 401
        assert server.status("/api/v1/runs", key) == server.status("/api/v1/runs", made) == 200
    assert not file.exists()
    with started(tmp_path) as server:
        assert not KEY.search(server.said), "it is shown once"
        assert server.status("/api/v1/runs") == 401
        assert server.status("/api/v1/runs", key) == 200
        server.end(signal.SIGKILL)
        assert file.exists()
    with started(tmp_path, "--dev") as server:
        assert json.loads(file.read_text())["url"] == server.url, "a dead one's is replaced"
        assert server.status("/api/v1/runs") == 200, "development asks for no key"
        assert server.status("/api/v1/runs", "ifkey_wrong") == 200


def test_authentication_that_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "admin.key"
    with started(tmp_path, "--auth", "required", "--bootstrap-key-file", str(path)) as server:
        assert not KEY.search(server.said)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        key = path.read_text().strip()
        assert server.status("/api/v1/runs") == 401
        assert server.status("/api/v1/keys", key) == 200
        made = cli(tmp_path, "keys", "create", "eye", "--role", "viewer", IRONFLOW_API_KEY=key,
                   IRONFLOW_SERVER_URL=server.url)  # fmt: skip
        assert server.status("/api/v1/keys", made.strip()) == 403


@pytest.mark.parametrize("db", ["app.db", "memory"])
def test_beyond_loopback_a_key_is_needed_from_the_first_moment(tmp_path: Path, db: str) -> None:
    with started(tmp_path, "--host", "0.0.0.0", "--db", db) as server:
        (key,) = KEY.findall(server.said)
        assert server.status("/api/v1/runs") == 401
        assert server.status("/api/v1/runs", key) == 200
        assert server.status("/health") == 200
        assert not (tmp_path / ".ironflow").exists()


def test_no_key_and_no_loopback_is_refused(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "ironflow", "serve", "--port", "0", "--host", "0.0.0.0", "--dev"]
    done = subprocess.run(
        line, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=LIMIT,
        check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "--insecure" in done.stderr
    with started(tmp_path, "--host", "0.0.0.0", "--dev", "--insecure") as server:
        assert server.status("/api/v1/runs") == 200


def test_a_start_that_fails_makes_no_key(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        cases = [
            (["--port", port], "another process listens there"),
            (["--host", "0.0.0.0", "--dev"], "the API asks for no key"),
        ]
        for options, reason in cases:
            line = [sys.executable, "-m", "ironflow", "serve", *options]
            done = subprocess.run(
                line, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
            )
            assert done.returncode == 2
            assert reason in done.stderr
            assert not KEY.search(done.stderr), "it would be shown once, and by a start that failed"
    with started(tmp_path) as server:
        assert KEY.search(server.said)


def test_a_server_may_keep_to_itself_where_it_is(tmp_path: Path) -> None:
    with started(tmp_path, "--no-discovery", "--db", "memory") as server:
        assert not (tmp_path / ".ironflow").exists()
        assert not KEY.search(server.said), "nothing would remember it, and nobody asks for it"


SDK_WORKER = """
import asyncio, os
from ironflow.worker import Worker, function

@function(id="double", triggers=[])
async def double(ctx):
    async def body():
        return ctx.event.data["n"] * 2
    return await ctx.step.run("double", body)

Worker(functions=[double]).run()
"""


def test_the_published_sdk_finds_the_server(
    tmp_path: Path, peer_python: Callable[[str], Path]
) -> None:
    python = str(peer_python("ironflow-py"))
    (tmp_path / "worker.py").write_text(SDK_WORKER)
    with started(tmp_path) as server:
        worker = subprocess.Popen(
            [python, "worker.py"],
            cwd=tmp_path,
            env=environment(),
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            body = _wait_for_function(server, worker)
        finally:
            worker.terminate()
            _, said = worker.communicate(timeout=LIMIT)
    assert body["result"] == 42, said


def _wait_for_function(server: Started, worker: subprocess.Popen[str]) -> Any:
    """Its run's end, once the worker has registered."""
    while worker.poll() is None:
        request = urllib.request.Request(
            f"{server.url}/api/v1/functions/double/invoke?wait=60s",
            data=b'{"input": {"n": 21}}',
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=70) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            error.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.wait(0.1)
    raise AssertionError("the worker ended")
