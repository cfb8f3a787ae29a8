"""schemathesis against a real server over SQLite: whatever `/openapi.json` allows and does not
allow is sent, and every answer must be one that it describes. No 5xx, whatever comes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from server_process import ServerProcess

HERE = Path(__file__).parent
LEFT_OUT = ("positive_data_acceptance", "allow_header_conformance", "ignored_auth")
"""Of schemathesis' checks. The first: cursors, digests and names of control characters are text to
a schema and refused by us. The second: `/api/v1/events/batch` also matches
`/api/v1/events/{event_id}`, which has another method. The third: there are no keys."""
EACH_ITEM = "/api/v1/events/batch"
"""Refuses wrong items one by one, in an answer of status 200."""
LENIENT = "^/(workflows|handlers|results|events)"
"""As lenient as the server whose clients they are for."""
LEFT_ALONE = "(stream|/jobs|/metrics|keys|^/api/v1/environments$|^/api/(?!v1))"
"""Answers that do not end or are no JSON; the keys: once there is one, all that comes after is 401
and shows nothing; and environments, each of which is a database."""
PER_OPERATION = 12


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    made = ServerProcess(tmp_path, HERE / "schema_app.py")
    made.start()
    try:
        yield made
    finally:
        if made.process is not None and made.process.poll() is None:
            made.process.kill()
            made.process.wait()


def prepare(server: ServerProcess) -> dict[str, Any]:
    """Some of everything, and an id of each kind for requests to find."""
    for function_id, value in (("echo", {"a": [1]}), ("fails", None), ("waits", None)):
        path = f"/api/v1/functions/{function_id}/invoke"
        run_id = server.post(path, {"input": value})["run_id"]
    emitted = server.post("/api/v1/events", {"name": "door.knocked", "data": 1})
    return {"run_id": run_id, "event_id": emitted["event_id"], "function_id": "echo"}


def test_every_answer_is_one_that_the_description_has(
    server: ServerProcess, tmp_path: Path
) -> None:
    known = prepare(server)
    config = tmp_path / "schemathesis.toml"
    config.write_text(
        f'[parameters]\nrun_id = "{known["run_id"]}"\nevent_id = "{known["event_id"]}"\n'
        f'function_id = "{known["function_id"]}"\nwait = "10ms"\n'
        + "".join(f"[checks.{name}]\nenabled = false\n" for name in LEFT_OUT)
        + f'[[operations]]\ninclude-path = "{EACH_ITEM}"\n'
        "checks.negative_data_rejection.enabled = false\n"
        f'[[operations]]\ninclude-path-regex = "{LENIENT}"\n'
        "checks.negative_data_rejection.enabled = false\n"
    )
    report = tmp_path / "report.json"
    line = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run"]
    line += [f"{server.url}/openapi.json", "--exclude-path-regex", LEFT_ALONE, "--mode", "all"]
    line += ["--phases", "examples,coverage,fuzzing", "--max-examples", str(PER_OPERATION)]
    line += ["--generation-deterministic"]
    line += ["--suppress-health-check", "all", "--continue-on-failure", "--request-timeout", "30"]
    line += ["--report", "json", "--report-json-path", str(report), "--no-color"]
    done = subprocess.run(
        line, cwd=tmp_path, capture_output=True, encoding="utf-8", check=False, timeout=400
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert json.loads(report.read_text())
    assert "Tested: " in done.stdout
    # It lived through all of it, and no actor did not.
    assert server.get("/ready")["status"] == "ready"
    actors = server.get("/api/v1/statistics")["actors"]
    assert {kind: total["restarts"] for kind, total in actors.items()} == dict.fromkeys(actors, 0)
    log = server.log.read_text(errors="replace")
    assert "Traceback" not in log
    assert server.stop() == 0
