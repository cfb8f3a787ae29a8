"""Steps in processes of a real server: it answers while they compute, and none outlives it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

REQUESTS = 200


def appeared(path: Path) -> list[int]:
    """The pids in a file, once a step has written it."""
    pause = threading.Event()
    while not path.exists():
        pause.wait(0.01)
    return [int(word) for word in path.read_text().split()]


def gone(pids: list[int]) -> None:
    """Return once no process has these pids (a zombie that nobody reaps is gone, too)."""

    def lives(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
        except OSError:
            return False

    pause = threading.Event()
    while any(lives(pid) for pid in pids):
        pause.wait(0.01)


def test_the_api_answers_while_a_step_computes(
    make_server: Callable[..., Any], tmp_path: Path
) -> None:
    server = make_server("process_app.py")
    server.start()
    file = tmp_path / "pids"
    call = {"input": {"step": "burn", "file": str(file)}}
    run_id = server.post("/api/v1/functions/burn/invoke", call)["run_id"]
    pids = appeared(file)

    def ask(number: int) -> int:
        path = "/api/v1/functions/quick/invoke?wait=60s"
        assert server.get(f"/api/v1/runs/{run_id}")["status"] == "running"
        return int(server.post(path, {"input": number})["result"])

    with ThreadPoolExecutor(16) as threads:
        assert list(threads.map(ask, range(REQUESTS))) == [n + 1 for n in range(REQUESTS)]
    steps = server.get(f"/api/v1/runs/{run_id}/steps")["items"]
    assert [step["status"] for step in steps] == ["running"]
    server.post(f"/api/v1/runs/{run_id}/cancel", {"reason": "enough"})
    ended = server.get(f"/api/v1/runs/{run_id}/result?wait=60s")
    assert ended["status"] == "cancelled"
    gone(pids)
    steps = server.get(f"/api/v1/runs/{run_id}/steps")["items"]
    assert steps[0]["error"]["kind"] == "StepProcessLost"
    held_up = server.get("/api/v1/statistics")["event_loop"]["latest"]
    assert [found for found in held_up if found["function_id"]] == []
    assert server.stop() == 0


@pytest.mark.parametrize("step", ["burn", "stall"])
def test_no_process_outlives_a_server_that_was_killed(
    make_server: Callable[..., Any], tmp_path: Path, step: str
) -> None:
    server = make_server("process_app.py")
    server.start()
    file = tmp_path / "pids"
    call = {"input": {"step": step, "file": str(file)}}
    run_id = server.post("/api/v1/functions/burn/invoke", call)["run_id"]
    pids = appeared(file)
    server.kill()
    gone(pids)
    server.start()
    ended = server.get(f"/api/v1/runs/{run_id}/result?wait=60s")
    assert ended["result"] == "second time"
    assert server.stop() == 0


def test_a_server_that_stops_kills_what_does_not_end(
    make_server: Callable[..., Any], tmp_path: Path
) -> None:
    server = make_server("process_app.py", "--drain-timeout", "0")
    server.start()
    file = tmp_path / "pids"
    call = {"input": {"step": "stall", "file": str(file)}}
    run_id = server.post("/api/v1/functions/burn/invoke", call)["run_id"]
    pids = appeared(file)
    assert server.stop() == 0
    gone(pids)
    server.start()
    assert server.get(f"/api/v1/runs/{run_id}/result?wait=60s")["result"] == "second time"
    assert server.stop() == 0


def test_a_function_that_holds_up_the_loop_is_named_everywhere(
    make_server: Callable[..., Any],
) -> None:
    server = make_server("process_app.py", "--blocked-after", "50ms")
    server.start()
    path = "/api/v1/functions/careless/invoke?wait=60s"
    run_id = server.post(path, {"input": str(server.log)})["run_id"]
    log = server.log.read_text()
    assert f"function 'careless' (run {run_id}, step 'block') at " in log
    assert "process_app.py:" in log
    while not (loop := server.get("/api/v1/statistics")["event_loop"])["blocked"]:
        server.process_pause()
    found = next(item for item in loop["latest"] if item["function_id"])
    assert (found["function_id"], found["run_id"], found["step"]) == ("careless", run_id, "block")
    assert loop["blocked_seconds"] >= found["seconds"] >= 0.05
    metrics = server.text("/metrics")
    assert 'ironflow_event_loop_blocked_total{function_id="careless"} 1.0' in metrics
    assert 'ironflow_event_loop_blocked_seconds_total{function_id="careless"}' in metrics
    doctor = server.cli("doctor", "--port", str(server.port), "--db", str(server.db))
    assert "function 'careless', step 'block' at " in doctor
    assert "last by function 'careless'" in server.cli("stats", "--server", server.url)
    assert server.stop() == 0
