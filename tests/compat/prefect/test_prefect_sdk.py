"""Unmodified Prefect 3 runs a user's script against ironflow, and reads back through its own client
what it would read from its own server. What is expected here is what the real server answers.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from compat.prefect.servers import Ironflow
from peers.prefect import client_environment

SCRIPT = Path(__file__).with_name("sdk") / "main.py"

TASK = {
    "name": "add",
    "state": ["COMPLETED", "Completed"],
    "run_count": 1,
    "flow_run_run_count": 1,
    "times": True,
    "run_time": True,
    "own": True,
    "state_ids": [True, True],
}

EXPECTED: dict[str, dict[str, Any]] = {
    "tasks": {
        "total": 16,
        "name": "sum-5",
        "parameters": {"start": 5},
        "version": "7",
        "state": ["COMPLETED", "Completed"],
        "run_count": 1,
        "times": True,
        "total_run_time": True,
        "labels": True,
        "flow": True,
        "history": ["Pending", "Running", "Completed"],
        "tasks": [TASK, TASK],
        "task_history": [["Pending", "Running", "Completed"]] * 2,
    },
    "sync_flow": {
        "last": 8,
        "states": ["Completed"] * 4,
        "inputs": [1, "task_run", 1],
        "roots": 3,
        "nodes": ["task-run"],
        "parents": 2,
    },
    "mapped": {"squares": True, "tasks": 50, "states": ["Completed"], "dynamic_keys": 50},
    "tagged": {
        "tags": ["nightly"],
        "task_tags": ["database", "nightly", "slow"],
        "marked": [True, True],
        "found": [True],
    },
    "flow_retries": {
        "history": [
            *["Pending", "Running", "AwaitingRetry", "Running"],
            *["AwaitingRetry", "Running", "Completed"],
        ],
        "run_count": 3,
        "seen": 3,
        "policy": [2, 0, "in_process"],
        "messages": [
            "Flow run encountered an exception: ValueError: attempt 1",
            "Flow run encountered an exception: ValueError: attempt 2",
        ],
        "scheduled": [True, True],
    },
    "task_retries": {
        "counts": [3, 2],
        "delayed": [
            *["Pending", "Running", "AwaitingRetry", "Retrying"],
            *["AwaitingRetry", "Retrying", "Completed"],
        ],
        "prompt": ["Pending", "Running", "Retrying", "Completed"],
        "run_counts": [3, 2],
        "policy": [2, True],
    },
    "subflows": {
        "results": [2, 3],
        "parents": True,
        "children": True,
        "dummies": ["Completed", "Completed"],
        "child_ids": True,
        "graph": ["flow-run", "flow-run"],
    },
    "failed": {
        "local": "Failed",
        "state": [
            "FAILED",
            "Failed",
            "Flow run encountered an exception: RuntimeError: the task's reason",
        ],
        "task": ["FAILED", "Task run encountered an exception RuntimeError: the task's reason"],
        "history": ["Pending", "Running", "Failed"],
    },
    "crashed": {
        "raised": "the plug",
        "state": ["CRASHED", "Crashed"],
        "message": True,
        "history": ["Pending", "Running", "Crashed"],
    },
    "own_states": {
        "skipped": ["COMPLETED", "Skipped", "nothing to do"],
        "slow": ["FAILED", "TimedOut"],
        "task": ["FAILED", "TimedOut"],
    },
    "logs": {
        "messages": ["printed", "informed", "alarmed: äöü \N{SNOWMAN}"],
        "loud": [["alarmed: äöü \N{SNOWMAN}", 40], ["from the task", 30]],
        "before_last": True,
        "from_task": ["from the task", "Finished in state Completed()"],
        "ordered": True,
    },
    "live_logs": {"heard": ["alarmed: äöü \N{SNOWMAN}", "from the task"]},
    "caching": {
        "values": [2, 2, 3],
        "calls": 2,
        "states": ["Completed", "Cached", "Completed"],
        "types": ["COMPLETED"],
    },
    "results": {"flow": True, "task": "kept", "data": "ResultRecordMetadata"},
    "transactions": {
        "undone": ["removed"],
        "rolled_back": "RolledBack",
        "flow": "FAILED",
        "committed": ["COMMITTED", "Completed"],
    },
    "pause_with_input": {
        "paused": ["PAUSED", "Paused", "1", False],
        "keyset": ["description", "response", "schema"],
        "timeout": True,
        "wrong": [
            "REJECT",
            True,
        ],
        "right": ["ACCEPT", "Running"],
        "answer": [True, 3],
        "again": ["ABORT", True],
        "history": ["Pending", "Running", "Paused", "Running", "Completed"],
        "run_count": 2,
    },
    "pause_timeout": {"local": "Failed", "state": ["FAILED", "Failed"]},
    "suspend_without_deployment": {
        "local": "Failed",
        "reason": True,
        "state": ["FAILED", "Failed"],
    },
    "suspend_and_resume": {
        "first": "Pause",
        "suspended": ["PAUSED", "Suspended"],
        "reschedule": True,
        "wrong": "REJECT",
        "right": ["ACCEPT", "SCHEDULED", "Resuming"],
        "second": "ended",
        "began": 2,
        "ended": ["COMPLETED", 1, 9],
        "history": ["Pending", "Running", "Suspended", "Resuming", "Running", "Completed"],
    },
    "run_inputs": {
        "heard": 41,
        "keys": ["plain", "plain-two"],
        "rest": ["plain-two"],
        "text": "text",
        "gone": True,
    },
    "cancellation": {
        "scheduled": ["REJECT", "CANCELLED"],
        "running": ["ACCEPT", "CANCELLING"],
        "back": "REJECT",
        "forced": ["ACCEPT", "FAILED"],
        "history": ["Pending", "Running", "Cancelling", "Failed"],
    },
    "client_calls": {
        "healthy": True,
        "hello": 200,
        "version": "3",
        "by_name": ["two"],
        "by_state": ["two"],
        "counted": 2,
        "renamed": ["uno", ["renamed"], {"a": [1, None]}, "data"],
        "missing": "ObjectNotFound",
        "flow": True,
        "task": ["ABORT", "Pending"],
    },
    "events": {
        "got": [0, 1, 2, 3, 4, 5],
        "total": 6,
        "first": 4,
        "seen": [0, 1, 2, 3, 4, 5],
        "end": None,
        "by_resource": [1] * 6,
    },
    "flow_run_events": {
        "names": [
            "prefect.flow-run.Pending",
            "prefect.flow-run.Running",
            "prefect.flow-run.Completed",
        ],
        "state": "COMPLETED",
        "roles": ["flow"],
    },
    "threads": {
        "found": [True, 3],
        "tasks": [200, 201],
        "states": ["Completed"],
        "keys": 200,
        "waited": 200,
        "counts": [1],
    },
    "gathered": {
        "sums": [3, 6, 9, 12, 15, 7],
        "tasks": [6, ["Completed"]],
        "children": ["inner-0", "inner-1", "inner-2", "inner-3", "inner-4"],
        "of_children": [3, 3, 3, 3, 3],
        "dummies": 5,
    },
    "upstream": {
        "local": ["Failed", "1/2 states failed."],
        "state": ["FAILED", "Failed", "1/2 states failed."],
        "tasks": [
            ["breaks", "FAILED", "Failed"],
            ["follows", "COMPLETED", "Completed"],
            ["follows", "PENDING", "NotReady"],
        ],
    },
    "hooks": {
        "completed": [
            "COMPLETED",
            "Completed",
            ["running", "hooked", "Running"],
            ["task-completed", "hooked_task", "Completed"],
            ["completed", "hooked", "Completed"],
        ],
        "failed": [
            "FAILED",
            "Failed",
            ["running", "hooked", "Running"],
            ["task-failed", "hooked_task", "Failed"],
            ["failed", "hooked", "Failed"],
        ],
        "cancelled": ["CANCELLED", "Cancelled", ["running", "hooked", "Running"]],
        "crashed": [
            "CRASHED",
            "Crashed",
            ["running", "hooked", "Running"],
            ["crashed", "hooked", "Crashed"],
        ],
    },
    "own_ends": {
        "broken": [["FAILED", "Broken", "by hand"]] * 2,
        "skipped": [["COMPLETED", "Skipped", "not today"]] * 2,
        "several": [["FAILED", "Failed", "1/2 states failed."]] * 2,
        "task": [["FAILED", "Failed", "1/1 states failed."]] * 2,
    },
    "options": {
        "value": 2,
        "task": [True, ["optional"], 2],
        "history": ["Pending", "Running", "Retrying", "Completed"],
        "runtime": [
            *[True, "made-of-3", "at-runtime", {"n": 3}, ["outer"], None, True, 1, True],
            ["named-3", {"n": 3}, ["inner", "outer"], 1],
        ],
        "names": ["made-of-3", "named-3"],
        "tags": [["outer"], ["inner", "outer"]],
        "again": [2, "optional-again", 2],
        "flow_history": ["Pending", "Running", "AwaitingRetry", "Running", "Completed"],
    },
    "heavy_logging": {"lines": 1000, "ordered": True, "long": [20_000], "elsewhere": [40]},
    "retried_with_children": {
        "values": [1, 2],
        "calls": [1, 2],
        "history": ["Pending", "Running", "AwaitingRetry", "Running", "Completed"],
        "tasks": [
            ["kept-child", "Completed", 1, 0],
            ["kept_task", "Completed", 1, 1],
            ["kept_task", "Completed", 1, 2],
        ],
        "children": [["Completed", 1]],
    },
}


@pytest.fixture(scope="module")
def answers(
    ours: Ironflow, peer_python: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    """What each scenario found, all of them run in one process."""
    done = subprocess.run(
        [peer_python("prefect"), SCRIPT],
        env=client_environment(ours.url, tmp_path_factory.mktemp("client")),
        cwd=tmp_path_factory.mktemp("cwd"),
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert {line["scenario"] for line in lines} == EXPECTED.keys(), done.stderr[-5000:]
    return {line["scenario"]: line for line in lines}


@pytest.mark.parametrize("name", EXPECTED)
def test_the_real_client_finds_what_its_own_server_would_tell(
    answers: dict[str, dict[str, Any]], name: str
) -> None:
    line = answers[name]
    if "since" in line:
        pytest.skip(f"came with Prefect {'.'.join(map(str, line['since']))}")
    assert "error" not in line, line["error"]
    assert line["answer"] == EXPECTED[name]


def test_the_client_brings_its_key_to_requests_and_sockets(
    peer_python: Callable[[str], Path], tmp_path: Path
) -> None:
    """What it tells over websockets (task runs, events) arrives as well as what it asks for."""
    server = Ironflow(tmp_path / "server", "--auth", "required")
    server.start()
    try:
        said = server.log.read_text()
        key = said[said.index("ifkey_") :].split()[0]
        environment = client_environment(server.url, tmp_path / "client")
        done = subprocess.run(
            [peer_python("prefect"), SCRIPT, "tasks", "events"],
            env={**environment, "PREFECT_API_AUTH_STRING": f"user:{key}"},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
    finally:
        server.stop()
    answers = {line["scenario"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert {name: line.get("answer") for name, line in answers.items()} == {
        name: EXPECTED[name] for name in ("tasks", "events")
    }, done.stderr[-3000:]
