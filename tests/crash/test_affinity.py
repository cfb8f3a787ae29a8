"""Actor keys with real workers, ours and those of the unmodified SDK: killed, ended, back again."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from crash.conftest import ServerProcess
from crash.test_kill import check_journal
from crash.test_workers import WorkerProcess, crew_wait, wait_for_function

OURS = """
import os
from ironflow import function

@function(id="counted", actor_key="data.user")
async def counted(ctx, order: dict):
    return await ctx.step.run("who", os.getpid)
"""
THEIRS = """
import os
from ironflow.worker import Worker, function

@function(id="counted", actor_key="data.user")
async def counted(ctx):
    return await ctx.step.run("who", os.getpid)

Worker(functions=[counted], heartbeat_interval="500ms", reconnect_delay="100ms").run()
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    """Serves nothing itself; not started yet."""
    made = ServerProcess(tmp_path, None, "--worker-lease", "3s")
    yield made
    if made.process is not None and made.process.poll() is None:
        made.process.kill()
        made.process.wait()


@pytest.fixture
def crew() -> Iterator[list[WorkerProcess]]:
    """Whatever is put in here does not outlive the test."""
    workers: list[WorkerProcess] = []
    yield workers
    for worker in workers:
        if worker.process is not None and worker.process.poll() is None:
            worker.process.kill()
            worker.process.wait()


def hire(
    server: ServerProcess, crew: list[WorkerProcess], line: list[str], number: int
) -> dict[int, WorkerProcess]:
    """Workers by their process ids, once the server knows all of them."""
    crew += [WorkerProcess(server, line) for _ in range(number)]
    for worker in crew:
        worker.start()
    wait_for_function(server, crew, "counted")
    wait_for_workers(server, number)
    return {worker.process.pid: worker for worker in crew if worker.process is not None}


def wait_for_workers(server: ServerProcess, number: int) -> None:
    while len(online(server)) != number:
        crew_wait(0.05, server)


def online(server: ServerProcess) -> list[dict[str, Any]]:
    workers = server.get("/api/v1/workers")["workers"]
    return [worker for worker in workers if worker["status"] == "online"]


def count(server: ServerProcess, user: str) -> int:
    """The process that executed a run of this user."""
    body = {"input": {"user": user}}
    run_id = server.post("/api/v1/functions/counted/invoke", body)["run_id"]
    ended = server.get(f"/api/v1/runs/{run_id}/result?wait=60s")
    assert ended["status"] == "completed", ended
    run = server.get(f"/api/v1/runs/{run_id}")
    assert (run["actor"], bool(run["worker"])) == (user, True)
    return int(ended["result"])


@pytest.mark.parametrize("whose", ["ours", "theirs"])
def test_an_actor_stays_with_its_worker_until_that_is_gone(
    server: ServerProcess,
    crew: list[WorkerProcess],
    peer_python: Callable[[str], Path],
    tmp_path: Path,
    whose: str,
) -> None:
    script = tmp_path / "app.py"
    script.write_text(OURS if whose == "ours" else THEIRS)
    line = [str(peer_python("ironflow-py")), str(script)]
    if whose == "ours":
        line = [sys.executable, "-m", "ironflow", "worker", str(script), "--heartbeat", "1s"]
    server.start()
    by_pid = hire(server, crew, line, 3)
    users = [f"user{number}" for number in range(8)]
    homes = {user: count(server, user) for user in users}
    for _ in range(3):
        assert {user: count(server, user) for user in users} == homes
    assert sum(worker["actors"] for worker in online(server)) == len(users)
    # Its actors move once it has said nothing for too long, and stay there when it is back.
    victim = by_pid[homes[users[0]]]
    victim.kill(signal.SIGKILL if whose == "ours" else signal.SIGTERM)
    wait_for_workers(server, 2)
    moved = {user: count(server, user) for user in users}
    for user in users:
        if by_pid[homes[user]] is victim:
            assert moved[user] != homes[user]
        else:
            assert moved[user] == homes[user]
    victim.start()
    wait_for_workers(server, 3)
    assert {user: count(server, user) for user in users} == moved
    for worker in crew:
        worker.kill(signal.SIGTERM)
    assert server.stop() == 0
    check_journal(server.db)
