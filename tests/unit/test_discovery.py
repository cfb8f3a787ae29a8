"""`.ironflow/engine.json`: which files are believed, and whose are replaced."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ironflow import discovery
from ironflow.discovery import DEFAULT_URL, Found, credentials, locate, publish, withdraw

GOOD = {"version": 1, "url": "http://127.0.0.1:5123", "environment": "env_x", "api_key": "ifkey_1"}


def put(folder: Path, content: Any) -> Path:
    path = folder / ".ironflow" / "engine.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def test_the_nearest_file_upwards_is_taken(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    put(tmp_path, GOOD)
    assert locate({}, deep) == Found("http://127.0.0.1:5123", "ifkey_1", "env_x")
    put(tmp_path / "a", {**GOOD, "url": "http://localhost:1"})
    assert locate({}, deep).url == "http://localhost:1"
    put(deep, b"{")
    assert locate({}, deep) == Found(DEFAULT_URL), "the nearest wins even when it is of no use"


@pytest.mark.parametrize(
    "content",
    [
        {**GOOD, "url": "https://127.0.0.1:5123"},
        {**GOOD, "url": "http://10.0.0.1:5123"},
        {**GOOD, "url": "http://evil.example"},
        {**GOOD, "url": "http://127.0.0.1.evil.example"},
        {**GOOD, "url": "http://127.0.0.1:99999"},
        {**GOOD, "url": "http://[::1"},
        {**GOOD, "url": 5},
        {**GOOD, "version": 2},
        {"url": "http://127.0.0.1:5123"},
        [GOOD],
        b"",
        b"\xff\xfe",
        b"[" * 50_000,
        json.dumps({**GOOD, "more": "x" * 70_000}).encode(),
    ],
    ids=range(14),
)
def test_what_is_not_a_local_server_is_not_believed(tmp_path: Path, content: Any) -> None:
    put(tmp_path, content)
    assert locate({}, tmp_path) == Found(DEFAULT_URL)


def test_variables_win_and_can_forbid_to_look(tmp_path: Path) -> None:
    put(tmp_path, GOOD)
    assert locate({"IRONFLOW_SERVER_URL": "http://x"}, tmp_path) == Found("http://x")
    assert locate({"IRONFLOW_API_KEY": "k"}, tmp_path) == Found(DEFAULT_URL, "k")
    assert locate({"IRONFLOW_NO_DISCOVERY": "1"}, tmp_path) == Found(DEFAULT_URL)
    assert locate({"IRONFLOW_ENV": "mine"}, tmp_path).environment == "mine"


def test_a_files_key_goes_to_its_own_server_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("IRONFLOW_SERVER_URL", "IRONFLOW_API_KEY", "IRONFLOW_ENV"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    put(tmp_path, GOOD)
    assert credentials("http://127.0.0.1:5123/").api_key == "ifkey_1"
    assert credentials("http://elsewhere:5123").api_key == ""


def test_a_file_is_whole_private_and_taken_back(tmp_path: Path) -> None:
    assert publish(tmp_path, "http://127.0.0.1:1", "env_default")
    path = tmp_path / ".ironflow" / "engine.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in sorted(path.parent.iterdir())] == [".gitignore", "engine.json"]
    assert locate({}, tmp_path) == Found("http://127.0.0.1:1", "", "env_default")
    withdraw(tmp_path)
    assert not path.exists()


def test_a_server_that_lives_is_left_and_a_dead_ones_file_replaced(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        put(tmp_path, {"version": 1, "url": url, "pid": os.getppid()})
        assert not publish(tmp_path, "http://127.0.0.1:2", "env_default")
        withdraw(tmp_path)  # not ours
        assert locate({}, tmp_path).url == url
        ended = subprocess.Popen([sys.executable, "-c", ""])
        ended.wait()
        put(tmp_path, {"version": 1, "url": url, "pid": ended.pid})
        assert publish(tmp_path, "http://127.0.0.1:2", "env_default")
    put(tmp_path, {"version": 1, "url": url, "pid": os.getppid()})
    assert publish(tmp_path, "http://127.0.0.1:3", "env_default"), "nothing listens there any more"


def test_a_folder_that_cannot_be_written_is_an_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError("read-only")

    monkeypatch.setattr(discovery.os, "replace", refuse)
    with pytest.raises(OSError, match="read-only"):
        publish(tmp_path, "http://127.0.0.1:1", "env_default")
    assert [entry.name for entry in (tmp_path / ".ironflow").iterdir()] == [".gitignore"]
