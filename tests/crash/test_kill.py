"""Real processes, killed with SIGKILL at random instants: what was acknowledged is there, no
finished step ran again, every run ends with the right result."""

from __future__ import annotations

import http.client
import json
import random
import signal
import sqlite3
import subprocess
import threading
import urllib.error
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

RUNS = 24


def expected(number: int) -> list[object]:
    """What `mixed` returns when nothing goes wrong."""
    return [number + 4, [3, 4, 5], number * number, True, "timer", True]


class Client(threading.Thread):
    """Starts runs until it has enough acknowledged ones, through however many deaths of the
    server.
    """

    def __init__(self, server: Any, numbers: range = range(RUNS)) -> None:
        super().__init__(daemon=True)
        self.server, self.numbers = server, numbers
        self.acknowledged: dict[int, str] = {}
        self.stopped = threading.Event()

    def run(self) -> None:
        """The same key for the same number: a request that was cut off is simply sent again."""
        for number in self.numbers:
            while not self.stopped.is_set():
                body = {"input": number, "idempotency_key": f"run-{number}"}
                try:
                    answer = self.server.post("/api/v1/functions/mixed/invoke", body)
                except urllib.error.HTTPError as error:
                    if error.code < 500:
                        raise AssertionError(error.read().decode()) from error
                    self.stopped.wait(0.02)
                    continue
                except (OSError, http.client.HTTPException, ValueError):
                    self.stopped.wait(0.02)
                    continue
                self.acknowledged[number] = answer["run_id"]
                break


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_kill_at_random_instants(server: Any, seed: int) -> None:
    rng = random.Random(seed)
    server.start()
    client = Client(server)
    client.start()
    try:
        for _ in range(5):
            client.stopped.wait(rng.uniform(0.02, 0.6))
            server.kill()
            server.start()
        client.join(60)
        assert len(client.acknowledged) == RUNS
        for number, run_id in client.acknowledged.items():
            ended = server.get(f"/api/v1/runs/{run_id}/result?wait=60s")
            assert ended["status"] == "completed", (run_id, ended)
            assert ended["result"] == expected(number)
    finally:
        client.stopped.set()
    assert server.stop() == 0
    check_journal(server.db)
    check_side_file(server.db, server.side_file)


POINTS = [
    "answer.before:5", "answer.after:9", "recovery.runs:1", "commit.after:12", "timer.rung:2",
    "recovery.messages:1", "message.posting:3",
]  # fmt: skip


def test_a_server_that_dies_at_named_points(server: Any) -> None:
    clients: list[Client] = []
    died = 0
    try:
        for number, server.crash_point in enumerate(POINTS):
            server.start()
            # More work for each life; what the last one cut off is asked for again.
            clients.append(Client(server, range(4 * number, 4 * number + 4)))
            clients[-1].start()
            try:
                died += server.process.wait(5.0) == -signal.SIGKILL
            except subprocess.TimeoutExpired:
                server.kill()  # it had no occasion
        server.crash_point = ""
        server.start()
        acknowledged: dict[int, str] = {}
        for client in clients:
            client.join(60)
            acknowledged.update(client.acknowledged)
        for number, run_id in acknowledged.items():
            ended = server.get(f"/api/v1/runs/{run_id}/result?wait=60s")
            assert ended["result"] == expected(number)
    finally:
        for client in clients:
            client.stopped.set()
    assert len(acknowledged) == 4 * len(POINTS)
    assert died >= len(POINTS) - 2
    assert server.stop() == 0
    check_journal(server.db)
    check_side_file(server.db, server.side_file)


def check_journal(db: Path) -> None:
    """The journal's own laws, and that nothing durable is left over."""
    connection = sqlite3.connect(f"file:{db}?mode=ro", uri=True)
    rows = connection.execute("SELECT stream, version, kind, data FROM journal ORDER BY seq")
    versions: Counter[str] = Counter()
    completed: Counter[tuple[str, str]] = Counter()
    for stream, version, kind, data in rows:
        versions[stream] += 1
        assert version == versions[stream], f"{stream} has a gap before {version}"
        if kind == "step.completed":
            completed[stream, json.loads(data)["key"]] += 1
    assert completed
    assert {key: count for key, count in completed.items() if count > 1} == {}
    open_runs = connection.execute("SELECT id, status FROM runs WHERE ended_at IS NULL").fetchall()
    assert open_runs == []
    for table in ("timers", "waiters", "deliveries"):
        assert connection.execute(f"SELECT * FROM {table}").fetchall() == [], table
    connection.close()


def check_side_file(db: Path, side_file: Path, servers: int = 1) -> None:
    """No execution of a step began after its result was committed; none ran twice in one process,
    but for a worker that has seen so many `servers`: what it reports to one that dies before its
    commit is lost, and the next one has it done again.
    """
    connection = sqlite3.connect(f"file:{db}?mode=ro", uri=True)
    query = "SELECT stream, at, data FROM journal WHERE kind = 'step.completed' ORDER BY seq"
    committed: dict[tuple[str, str], int] = {}
    for stream, at, data in connection.execute(query):
        key = json.loads(data)["key"]
        committed[stream.removeprefix("run/"), key] = at
    connection.close()
    names = {
        **{f"chain{n}": "chain" + (f"#{n}" if n else "") for n in range(3)},
        **{f"first{n}": f"branches/{n - 1}/first" for n in (1, 2, 3)},
        **{f"second{n}": f"branches/{n - 1}/second" for n in (1, 2, 3)},
        "last": "last",
        "square": "square",
    }
    seen: Counter[tuple[str, str, str]] = Counter()
    for line in side_file.read_text().splitlines():
        run_id, step, pid, at = line.split()
        seen[run_id, step, pid] += 1
        assert int(at) <= committed[run_id, names[step]], f"{step} of {run_id} ran after its commit"
    assert {key: count for key, count in seen.items() if count > servers} == {}


def test_terminate_drains_and_loses_nothing(server: Any) -> None:
    server.start()
    ids = [
        server.post("/api/v1/functions/mixed/invoke", {"input": number})["run_id"]
        for number in range(8)
    ]
    assert server.stop() == 0
    server.start()
    for number, run_id in enumerate(ids):
        ended = server.get(f"/api/v1/runs/{run_id}/result?wait=60s")
        assert ended["result"] == expected(number)
        run = server.get(f"/api/v1/runs/{run_id}")
        assert run["crashes"] == 0, "a drained run must not count as one that took the process down"
    assert server.stop() == 0
    check_journal(server.db)
    check_side_file(server.db, server.side_file)
