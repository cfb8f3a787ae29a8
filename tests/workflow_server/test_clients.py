"""The clients that users have today, the one that they had before, and our own, each in its own
environment: the same programs, the same answers.

What is expected was seen at the original server; where it answers otherwise, a comment says so.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from workflow_server import scenarios
from workflow_server.process import Served

PEERS = {"today": "llama-client", "old": "llama-2.11", "ours": ""}
SCRIPT = Path(scenarios.__file__)
SECONDS = 120

STOP = ["StopEvent"]
GREETED = [
    ["Greeting", {"text": "thinking"}, None],
    ["Greeting", {"text": "hello Cyd"}, None],
    ["StopEvent", {"result": "HELLO CYD"}, None],
]
EXPECTED: dict[str, Any] = {
    "health": "healthy",
    "run_with_event": ["completed", "StopEvent", {"result": "HELLO ADA"}, None],
    "run_with_fields": ["completed", "StopEvent", {"result": "HELLO BOB"}, None],
    "run_without_event": ["completed", "StopEvent", {"result": "HELLO WORLD"}, None],
    "run_typed": ["completed", "Receipt", {"customer": "Ada", "total": 19.0}, STOP],
    "built_in_event_is_loaded": [True, "HELLO WORLD"],
    "stream": ["running", None, GREETED],
    "stream_with_internal_events": [
        ["StepStateChanged", "hello", "running"],
        ["Greeting", None, None],
        ["StepStateChanged", "hello", "not_running"],
        ["StepStateChanged", "shout", "running"],
        ["Greeting", None, None],
        ["StepStateChanged", "shout", "not_running"],
        ["StopEvent", None, None],
    ],
    "stream_of_a_run_that_is_over": [["Greeting", "Greeting", "StopEvent"]] * 2,
    "two_readers": [["Progress"] * 20 + STOP] * 2,
    "human_in_the_loop": [
        [
            ["Approval", {"prefix": "May it go on?"}, ["InputRequiredEvent"]],
            "sent",
            ["StopEvent", {"result": "they said yes"}, None],
        ],
        ["completed", "StopEvent", {"result": "they said yes"}, None],
    ],
    "human_answers_a_waiting_step": ["completed", "StopEvent", {"result": "hello Dee"}, None],
    "failing": 500,
    "timed_out": [
        ["WorkflowTimedOutEvent", {"timeout": 0.5, "active_steps": ["doze"]}, STOP],
        500,
    ],
    "fan_out": ["completed", "StopEvent", {"result": [0, 1, 2, 3, 4]}, None],
    "continued_handler": [True, {"result": 1}, {"result": 2}],
    "context_is_continued": ["completed", "StopEvent", {"result": 42}, None],
    "running_handler_is_refused": 409,
    "cancelled": ["cancelled", ["WorkflowCancelledEvent", {}, STOP], 500, 404],
    "purged": ["deleted", 404],
    "filtered_list": [True, [], True, True],
    "unknown_names": [404, 404, 404],
    "refused_events": [400, 400, 400, 400],  # a wrong step is 500 there
    "event_after_the_end": 409,
    "schemas": [["customer"], ["customer", "total"], ["Checked", "Order", "Receipt"]],
    "graph": [
        "Approve",
        [
            ["Approval", "event"],
            ["Decision", "event"],
            ["StartEvent", "event"],
            ["StopEvent", "event"],
            ["act", "step"],
            ["ask", "step"],
            ["external_step", "external"],
        ],
        [
            ["Approval", "external_step"],
            ["Decision", "act"],
            ["StartEvent", "ask"],
            ["act", "StopEvent"],
            ["ask", "Approval"],
            ["external_step", "Decision"],
        ],
    ],
    "resumed_stream": [[0, 1], [2, 3, None]],
    "waited_for": ["completed", "StopEvent", {"result": [0, 1, 2, 3, 4, 5]}, None],
}
NOT_OLD = {"schemas", "graph", "resumed_stream", "waited_for"}


def run_scenarios(python: Path, url: str, *arguments: str) -> dict[str, dict[str, Any]]:
    """What a client saw, by scenario."""
    done = subprocess.run(
        [str(python), str(SCRIPT), url, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {line["scenario"]: line for line in lines}


def find_python(flavour: str, peer_python: Callable[[str], Path]) -> Path:
    """The interpreter that has this client."""
    peer = PEERS[flavour]
    return peer_python(peer) if peer else Path(sys.executable)


Seen = Callable[[str], dict[str, dict[str, Any]]]


@pytest.fixture(scope="module")
def seen(served: Served, peer_python: Callable[[str], Path]) -> Seen:
    """What each client saw; its programs run once."""
    found: dict[str, dict[str, dict[str, Any]]] = {}

    def look(flavour: str) -> dict[str, dict[str, Any]]:
        if flavour not in found:
            python = find_python(flavour, peer_python)
            found[flavour] = run_scenarios(python, served.url, flavour)
        return found[flavour]

    return look


@pytest.mark.parametrize("flavour", list(PEERS))
@pytest.mark.parametrize("scenario", [*EXPECTED, "list_workflows", "failing_stream"])
def test_client_sees(seen: Seen, flavour: str, scenario: str) -> None:
    line = seen(flavour)[scenario]
    assert "error" not in line, line["error"]
    saw = line["saw"]
    if scenario == "list_workflows":
        assert {"greet", "checkout", "approve"} <= set(saw)
    elif scenario == "failing_stream":
        assert saw[0] == "WorkflowFailedEvent"
        assert saw[1]["step_name"] == "fail"
        assert saw[1]["exception"]["exception_message"] == "it cannot work"
    elif flavour == "old" and scenario in NOT_OLD:
        assert saw is None, "that client has no such method"
    else:
        assert saw == EXPECTED[scenario]


def test_every_scenario_is_looked_at() -> None:
    assert {*EXPECTED, "list_workflows", "failing_stream"} == set(scenarios.SCENARIOS)


@pytest.mark.parametrize("flavour", list(PEERS))
def test_clients_go_on_after_a_kill(
    flavour: str, peer_python: Callable[[str], Path], tmp_path: Path
) -> None:
    """The server dies while runs wait for a human, at a gate, and in the middle of a step."""
    python, server = find_python(flavour, peer_python), Served(tmp_path).start()
    try:
        before = run_scenarios(python, server.url, flavour, "before_the_kill")["before_the_kill"]
        assert "error" not in before, before["error"]
        server.kill()
        server.start()
        ids = json.dumps(before["saw"])
        after = run_scenarios(python, server.url, flavour, "after_the_kill", ids)["after_the_kill"]
        assert "error" not in after, after["error"]
    finally:
        server.kill()
    found, streams = after["saw"]
    assert {name: told[2]["result"] for name, told in found.items()} == {
        "approve": "they said go",
        "waiter": "hello Eve",
        "gate": "open",
        "endures": "beat 2",
    }
    # Each event once, also of the step that was cut off and ran again; then the end.
    assert streams == {
        "approve": ["Approval", "StopEvent"],
        "waiter": ["Asked", "StopEvent"],
        "gate": ["Progress"] * 3 + STOP,
        "endures": ["Beat", "StopEvent"],
    }
