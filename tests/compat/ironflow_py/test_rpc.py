"""The unmodified `ironflow-py` SDK's RPC clients against a real server."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2
from server_process import ServerProcess

from ironflow.web.connect.proto_codec import file_descriptor
from ironflow.web.connect.schema import schema

HERE = Path(__file__).parent
OUR_OWN = 100
"""Numbers of fields from here on are ironflow's additions."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    process = ServerProcess(tmp_path_factory.mktemp("rpc"), HERE / "rpc_app.py")
    process.start()
    yield process
    assert process.stop() == 0


def output_of(*line: str | Path, cwd: Path) -> str:
    command = list(map(str, line))
    environment = {name: v for name, v in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, cwd=cwd, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_every_served_method_answers_the_sdk(
    mode: str, server: ServerProcess, peer_python: Callable[[str], Path], tmp_path: Path
) -> None:
    url = f"http://127.0.0.1:{server.port}"
    program = HERE / "rpc_program.py"
    text = output_of(peer_python("ironflow-py"), program, url, mode, cwd=tmp_path)
    said: dict[str, list[Any]] = json.loads(text.strip().splitlines()[-1])
    check_functions(said, f"sdk-{mode}")
    check_events(said)
    check_runs(said)
    for path in ("pubsub.list_topics", "projections.list", "query.execute_sql", "runs.redact"):
        assert said[path] == [{"error": "unimplemented"}], path


def check_functions(said: dict[str, list[Any]], function_id: str) -> None:
    first, again, changed = said["functions.register"]
    assert [x["function"]["version"] for x in (first, again, changed)] == [1, 1, 2]
    assert [x.get("created", False) for x in (first, again, changed)] == [True, False, False]
    found, missing = said["functions.get"]
    assert (found["name"], found["metadata"]) == ("other", {"n": 1})
    assert missing == {"error": "not_found"}
    assert [f["id"] for f in said["functions.list"][0]["functions"]] == [function_id]
    assert said["functions.update_status"][0]["status"] == "FUNCTION_STATUS_PAUSED"
    assert said["functions.rollback"][0]["function"]["version"] == 3
    history = said["functions.list_history"][0]["entries"]
    types = ["rollback", "status_change", "update", "created"]
    assert [entry["changeType"] for entry in history] == types
    assert said["functions.get_at_version"][0]["entry"]["functionSnapshot"]["name"] == "other"
    assert said["functions.delete"] == [{}]
    assert said["functions.invoke"][0]["runId"]


def check_events(said: dict[str, list[Any]]) -> None:
    first, again = said["events.emit"]
    assert len(first["runIds"]) == 1
    assert again == first == said["runs.trigger"][0]
    assert said["pubsub.emit"][0]["eventId"]
    good, bad = said["runs.trigger_batch"][0]["results"]
    assert len(good["runIds"]) == 1
    assert bad["error"]["code"] == "invalid_argument"
    (result,) = said["runs.trigger_sync"][0]["results"]
    assert (result["status"], result["output"]) == ("RUN_STATUS_COMPLETED", {"n": 42})
    events, quiet, wrong = said["pubsub.subscribe"]
    assert [event["topic"] for event in events] == ["events:rpc.go", "events:rpc.other"]
    assert quiet == [{"error": "deadline_exceeded"}]
    assert wrong == [{"error": "invalid_argument"}]


def check_runs(said: dict[str, list[Any]]) -> None:
    assert said["runs.invoke_function_sync"][0]["result"]["output"] == {"n": 10}
    run = said["runs.get"][0]
    assert (run["status"], run["input"], run["output"]) == (
        "RUN_STATUS_COMPLETED", {"n": 5}, {"n": 10},
    )  # fmt: skip
    assert len(said["runs.list"][0]["runs"]) == 2
    (step,) = said["runs.get_steps"][0]["steps"]
    assert (step["stepType"], step["outputValue"]) == ("STEP_TYPE_INVOKE", 10)
    (snapshot,) = said["time_travel.get_run_state_at"][0]["snapshot"]["steps"]
    assert base64.b64decode(snapshot["output"]) == b"10"
    assert said["time_travel.get_run_timeline"][0]["events"][0]["eventType"] == "run.created"
    assert base64.b64decode(said["time_travel.get_step_output_at"][0]["output"]) == b"10"
    trail = said["audit.get_trail"][0]
    assert trail["totalCount"] == len(trail["events"]) >= 3
    assert said["runs.cancel"][0] == {"error": "failed_precondition"}
    assert said["runs.delete"] == [{}]
    (before,) = said["runs.get_paused_state"][0]["steps"]
    assert (before["name"], base64.b64decode(before["output"])) == ("before", b"1")
    assert base64.b64decode(said["runs.inject_step_output"][0]["previousOutput"]) == b"1"
    patched = said["runs.patch_step"][0]
    assert (patched["outputValue"], patched["originalOutputValue"]) == (9, 1)
    assert said["runs.resume"][0]["id"]
    assert said["runs.cancel"][1]["status"] in ("RUN_STATUS_CANCELLED", "RUN_STATUS_RUNNING")


def test_our_messages_are_the_sdks_messages(
    peer_python: Callable[[str], Path], tmp_path: Path
) -> None:
    text = output_of(peer_python("ironflow-py"), HERE / "dump_descriptors.py", cwd=tmp_path)
    theirs = facts(
        [
            descriptor_pb2.FileDescriptorProto.FromString(base64.b64decode(line))
            for line in text.split()
        ]
    )
    ours = facts([file_descriptor(schema(), [])])
    assert ours
    unknown = {name for name in ours if name not in theirs}
    # Flow control that the protocol does not have.
    assert unknown == {"FairnessConfig", "BatchConfig", "SingletonConfig"}
    for name in ours.keys() - unknown:
        shared = {number: what for number, what in ours[name].items() if number < OUR_OWN}
        assert shared == theirs[name], name


def facts(files: list[descriptor_pb2.FileDescriptorProto]) -> dict[str, dict[int, Any]]:
    """Of each message and enum what stands under each number."""
    found: dict[str, dict[int, Any]] = {}
    for file in files:
        for message in file.message_type:
            found[message.name] = {
                f.number: (f.name, f.label, f.type, f.type_name, f.proto3_optional)
                for f in message.field
            }
        for enum in file.enum_type:
            found[enum.name] = {value.number: value.name for value in enum.value}
    return found
