"""The server is killed while a real Prefect flow runs: the client tries again, the flow completes,
and everything that was acknowledged is there.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from compat.prefect.servers import Ironflow
from peers.prefect import client_environment

SCRIPT = Path(__file__).with_name("sdk") / "survivor.py"


class Script:
    """The flow's process."""

    def __init__(self, python: Path, url: str, folder: Path) -> None:
        self.log = folder / "script.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [python, SCRIPT],
                env=client_environment(url, folder / "client"),
                cwd=folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def expect(self, at: str) -> dict[str, Any]:
        """Its next line, which must be of this place."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.log.read_text()[-3000:]
        said: dict[str, Any] = json.loads(line)
        assert said["at"] == at
        return said

    def go_on(self) -> None:
        """Let it go on."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()


def cli(server: Ironflow, *words: str) -> str:
    """What `ironflow ...` prints."""
    line = [sys.executable, "-m", "ironflow", *words]
    line += ["--server", f"http://127.0.0.1:{server.port}"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def wait_for_log(server: Ironflow, message: str) -> None:
    """Until the client's log sender has brought it: it sends every two seconds, and what it cannot
    send it drops.
    """
    end = time.monotonic() + 30
    wanted = {"logs": {"text": {"query": f'"{message}"'}}}
    while not server.ask("POST", "/logs/filter", wanted).body:
        assert time.monotonic() < end, f"no log says {message!r}"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def survived(peer_python: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The server after the flow, the flow run's id, and what the flow returned."""
    folder = tmp_path_factory.mktemp("survivor")
    server = Ironflow(folder)
    server.start()
    script = Script(peer_python("prefect"), server.url, folder)
    try:
        run_id = script.expect("first")["run"]
        wait_for_log(server, "before the first death")
        told = server.ask("GET", f"/flow_runs/{run_id}").body
        server.kill()
        script.go_on()
        server.start()
        script.expect("second")
        wait_for_log(server, "after the first death")
        server.kill()
        script.go_on()
        server.start()
        result = script.expect("end")["result"]
        assert script.process.wait(60) == 0
        yield server, run_id, result, told
    finally:
        script.process.kill()
        script.process.wait()
        for stream in (script.process.stdin, script.process.stdout):
            assert stream is not None
            stream.close()
        server.stop()


def test_the_flow_completes(survived: Any) -> None:
    server, run_id, result, told = survived
    assert result == [1, 4, 9, *[n * n for n in range(20)], 16]
    run = server.ask("GET", f"/flow_runs/{run_id}").body
    assert run["state_type"] == "COMPLETED"
    assert run["run_count"] == 1
    for field in ("id", "name", "start_time", "parameters", "created", "flow_id"):
        assert run[field] == told[field], field
    states = server.ask("GET", f"/flow_run_states/?flow_run_id={run_id}").body
    assert [state["name"] for state in states] == ["Pending", "Running", "Completed"]


def test_every_task_run_is_recorded_once(survived: Any) -> None:
    server, run_id, _, _ = survived
    mine = {"task_runs": {"flow_run_id": {"any_": [run_id]}}, "limit": 200}
    tasks = server.ask("POST", "/task_runs/filter", mine).body
    # Two at first, twenty in the fan-out, and one for each of the two children.
    assert len(tasks) == 24
    assert {task["state_type"] for task in tasks} == {"COMPLETED"}
    children = {
        "flow_runs": {"parent_flow_run_id": {"any_": [run_id]}},
        "task_runs": {"state": {"type": {"any_": ["COMPLETED"]}}},
    }
    found = server.ask("POST", "/flow_runs/filter", children).body
    assert {run["state_type"] for run in found} == {"COMPLETED"}
    assert len(found) == 2


def test_logs_of_both_lives_are_there(survived: Any) -> None:
    server, run_id, _, _ = survived
    logs = {"logs": {"flow_run_id": {"any_": [run_id]}}, "sort": "TIMESTAMP_ASC"}
    said = [log["message"] for log in server.ask("POST", "/logs/filter", logs).body]
    assert said.count("before the first death") == 1
    assert said.count("after the first death") == 1


def test_the_native_verbs_know_the_run(survived: Any) -> None:
    server, run_id, _, _ = survived
    assert "survivor" in cli(server, "runs", "ls")
    shown = json.loads(cli(server, "runs", "show", run_id, "--json"))
    assert shown["kind"] == "flow"
    assert shown["status"] == "completed"
    assert "square" in cli(server, "runs", "show", run_id)
    assert "Completed" in cli(server, "why", run_id)
    waiting = server.ask(
        "POST",
        "/flow_runs/",
        {"flow_id": server.ask("GET", f"/flow_runs/{run_id}").body["flow_id"]},
    ).body
    assert "pending" in cli(server, "why", waiting["id"]).lower()


def test_the_journal_tells_the_whole_life(survived: Any) -> None:
    server, run_id, _, _ = survived
    with_history = f"/v1/runs/{run_id}/history?limit=500"
    entries = server.ask("GET", with_history).body["items"]
    assert [entry["version"] for entry in entries] == list(range(1, len(entries) + 1))
    moves = [
        entry["data"]["state"]["name"] for entry in entries if entry["kind"] == "flow_run.moved"
    ]
    assert moves == ["Pending", "Running", "Completed"]
    assert uuid.UUID(entries[0]["data"]["info"]["id"]) == uuid.UUID(run_id)
