"""The real command line of Prefect against ironflow."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from compat.prefect.servers import Ironflow
from peers.prefect import client_environment

HERE = Path(__file__).parent


class Shown(NamedTuple):
    """How a command ended, and what it printed."""

    returncode: int
    stdout: str
    stderr: str


Run = Callable[..., Shown]


@pytest.fixture(scope="module")
def prefect(
    ours: Ironflow, peer_python: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Run]:
    """`prefect ...`, with what it prints."""
    environment = client_environment(ours.url, tmp_path_factory.mktemp("client"))
    environment |= {"COLUMNS": "200", "NO_COLOR": "1"}
    program = subprocess.Popen(
        [peer_python("prefect"), HERE / "commands.py"],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    said, heard = program.stdin, program.stdout
    assert said is not None
    assert heard is not None

    def run(*words: str) -> Shown:
        said.write(json.dumps(["--no-prompt", *words]) + "\n")
        said.flush()
        return Shown(*json.loads(heard.readline()))

    with program:
        yield run
        said.close()


@pytest.fixture(scope="module")
def run_ids(ours: Ironflow) -> dict[str, str]:
    """Flow runs in several states, with logs."""
    flow = ours.ask("POST", "/flows/", {"name": "by-hand", "tags": ["cli"]}).body["id"]
    found = {}
    states: dict[str, Any] = {
        "running": {"type": "RUNNING"},
        "failed": {"type": "FAILED", "message": "it broke"},
        "later": {"type": "SCHEDULED", "state_details": {"scheduled_time": "2999-01-01T00:00:00Z"}},
    }
    for name, state in states.items():
        body = {"flow_id": flow, "name": f"{name}-one", "state": state, "tags": ["cli"]}
        found[name] = ours.ask("POST", "/flow_runs/", body).body["id"]
    log = {"name": "prefect.flow_runs", "level": 20, "flow_run_id": found["failed"]}
    lines = [
        {**log, "message": f"line {n:03}", "timestamp": f"2026-01-01T00:00:{n % 60:02}.{n:06}Z"}
        for n in range(230)
    ]
    assert ours.ask("POST", "/logs/", lines).status == 201
    return found


def test_flow_ls(prefect: Run, run_ids: dict[str, str]) -> None:
    shown = prefect("flow", "ls")
    assert shown.returncode == 0, shown.stderr
    assert "by-hand" in shown.stdout


def test_flow_run_ls(prefect: Run, run_ids: dict[str, str]) -> None:
    shown = prefect("flow-run", "ls", "--flow-name", "by-hand", "--limit", "5", "-o", "json")
    assert shown.returncode == 0, shown.stderr
    rows = {row["id"]: row["state"]["type"] for row in json.loads(shown.stdout)}
    assert rows[run_ids["running"]] == "RUNNING"
    assert rows[run_ids["failed"]] == "FAILED"
    only = prefect("flow-run", "ls", "--state", "Failed", "--flow-name", "by-hand")
    assert "failed-one" in only.stdout
    assert "running-one" not in only.stdout


def test_flow_run_inspect(prefect: Run, run_ids: dict[str, str]) -> None:
    shown = prefect("flow-run", "inspect", run_ids["failed"], "-o", "json")
    assert shown.returncode == 0, shown.stderr
    run = json.loads(shown.stdout)
    assert run["state"]["message"] == "it broke"
    assert run["tags"] == ["cli"]
    missing = prefect("flow-run", "inspect", "00000000-0000-4000-8000-000000000000")
    assert missing.returncode == 1
    assert "not found" in missing.stdout + missing.stderr


def test_flow_run_logs(prefect: Run, run_ids: dict[str, str]) -> None:
    shown = prefect("flow-run", "logs", run_ids["failed"])
    assert shown.returncode == 0, shown.stderr
    lines = [line for line in shown.stdout.splitlines() if "line " in line]
    assert len(lines) == 230  # more than a page
    tail = prefect("flow-run", "logs", run_ids["failed"], "--tail", "--num-logs", "3")
    assert [line.rsplit(" ", 1)[1] for line in tail.stdout.splitlines() if "line " in line] == [
        line.rsplit(" ", 1)[1] for line in lines[-3:]
    ]


def test_flow_run_cancel(prefect: Run, ours: Ironflow, run_ids: dict[str, str]) -> None:
    later = prefect("flow-run", "cancel", run_ids["later"])
    assert later.returncode == 0, later.stdout + later.stderr
    assert ours.ask("GET", f"/flow_runs/{run_ids['later']}").body["state_type"] == "CANCELLED"
    running = prefect("flow-run", "cancel", run_ids["running"])
    assert running.returncode == 0, running.stdout + running.stderr
    assert ours.ask("GET", f"/flow_runs/{run_ids['running']}").body["state_type"] == "CANCELLING"
    ended = prefect("flow-run", "cancel", run_ids["failed"])
    assert ended.returncode == 1
    assert "FAILED" in ended.stdout + ended.stderr


def test_flow_run_delete(prefect: Run, ours: Ironflow, run_ids: dict[str, str]) -> None:
    gone = prefect("flow-run", "delete", run_ids["failed"])
    assert gone.returncode == 0, gone.stdout + gone.stderr
    assert ours.ask("GET", f"/flow_runs/{run_ids['failed']}").status == 404
    again = prefect("flow-run", "delete", run_ids["failed"])
    assert again.returncode == 1
    assert "not found" in again.stdout + again.stderr
