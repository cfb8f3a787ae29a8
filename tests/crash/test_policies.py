"""Flow control under SIGKILL, read from the journal of what really happened: no lane ever held more
than its limit, no period had more starts, nothing was counted twice.
"""

from __future__ import annotations

import json
import random
import sqlite3
import threading
import urllib.error
from collections import defaultdict
from pathlib import Path
from typing import Any

from ironflow.core.functions.lanes import parse_lane
from ironflow.core.runs.entries import decode_entry
from ironflow.core.runs.fold import apply
from ironflow.core.runs.state import Run, RunStatus

LIMIT, PERIOD, AT_ONCE, RATE = 6, 1.5, 4, 15
"""As in `policies_app.py`."""
RUNS = 36
ORGS = ("a", "b")


def test_policies_hold_through_kills(make_server: Any) -> None:
    rng = random.Random(5)
    server = make_server("policies_app.py")
    server.start()
    ids = [start(server, number) for number in range(RUNS)]
    for _ in range(4):
        threading.Event().wait(rng.uniform(0.2, 1.2))
        server.kill()
        server.start()
    for number, run_id in enumerate(ids):
        ended = server.get(f"/api/v1/runs/{run_id}/result?wait=60s")
        assert (ended["status"], ended["result"]) == ("completed", number)
    assert server.stop() == 0
    check_limits(server.db)


def test_a_rate_limit_is_used_up_once_however_often_the_server_dies(make_server: Any) -> None:
    server = make_server("policies_app.py")
    server.start()
    made: set[str] = set()
    refused = 0
    for number in range(RATE + 5):
        answer = ask(server, number)
        if isinstance(answer, str):
            made.add(answer)
            assert ask(server, number) == answer, "asking again uses up nothing"
        else:
            refused += 1
            assert answer > 3000
        if number % 4 == 3:
            server.kill()
            server.start()
    assert (len(made), refused) == (RATE, 5)
    lanes = server.get("/api/v1/lanes")["items"]
    assert [(lane["policy"], lane["held"]) for lane in lanes] == [("rate_limit", RATE)]
    assert "rate limit in 1h" in server.cli("lanes", "ls")
    shown = server.cli("lanes", "show", "rated#rate")
    assert f"{RATE} of {RATE}" in shown
    assert "the next may at" in shown
    assert server.stop() == 0


def start(server: Any, number: int) -> str:
    data = {"n": number, "org": ORGS[number % 3 == 0], "priority": number % 5 // 2}
    body = {"input": data, "idempotency_key": f"run-{number}"}
    return str(server.post("/api/v1/functions/ruled/invoke", body)["run_id"])


def ask(server: Any, number: int) -> str | float:
    """The id of the run, or for how many seconds none is made."""
    body = {"idempotency_key": f"k{number}"}
    try:
        return str(server.post("/api/v1/functions/rated/invoke", body)["run_id"])
    except urllib.error.HTTPError as error:
        refusal = error
    problem = json.loads(refusal.read())
    assert (refusal.code, problem["code"]) == (429, "rate_limited")
    assert "the rate limit of rated" in problem["detail"]
    return float(refusal.headers["Retry-After"])


def check_limits(db: Path) -> None:
    connection = sqlite3.connect(f"file:{db}?mode=ro", uri=True)
    query = "SELECT stream, kind, data, at FROM journal WHERE stream LIKE 'run/%' ORDER BY seq"
    runs: dict[str, Run] = {}
    inside: dict[str, set[str]] = defaultdict(set)
    starts: dict[str, list[int]] = defaultdict(list)
    for stream, kind, data, at in connection.execute(query):
        run = runs.setdefault(stream, Run(stream))
        began = run.started_at is not None
        apply(run, decode_entry(kind, data), at)
        for lane in run.lanes:
            if parse_lane(lane)[1] == "throttle":
                if run.started_at is not None and not began:
                    starts[lane].append(at)
            elif run.status is RunStatus.RUNNING:
                inside[lane].add(stream)
                assert len(inside[lane]) <= AT_ONCE
            else:
                inside[lane].discard(stream)
    assert sorted(starts) == [f'ruled#throttle:"{org}"' for org in ORGS]
    for moments in starts.values():
        for first, last in zip(moments, moments[LIMIT:], strict=False):
            assert last - first >= PERIOD * 1_000_000
    assert sum(map(len, starts.values())) == len(runs) == RUNS
    assert not any(inside.values())
    assert connection.execute("SELECT * FROM run_lanes").fetchall() == []
    connection.close()
