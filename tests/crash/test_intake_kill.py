"""A server that is killed while events wait with its intakes: none is lost, none counts twice."""

from __future__ import annotations

import http.client
import json
import random
import sqlite3
import subprocess
import threading
import urllib.error
from collections import Counter, defaultdict
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from server_process import ServerProcess

EVENTS = 60
FUNCTIONS = {"calm", "bulk", "only", "newest"}


class Emitter(threading.Thread):
    """Emits numbered events, each until it is acknowledged, through the deaths of the server."""

    def __init__(self, server: Any) -> None:
        super().__init__(daemon=True)
        self.server = server
        self.acknowledged: dict[int, Any] = {}
        self.stopped = threading.Event()

    def run(self) -> None:
        """The same key for the same number."""
        for n in range(EVENTS):
            body = {
                "name": "row.added",
                "data": {"n": n, "key": "ab"[n % 3 == 0]},
                "idempotency_key": f"event-{n}",
            }
            while not self.stopped.is_set():
                try:
                    self.acknowledged[n] = self.server.post("/api/v1/events", body)
                    break
                except urllib.error.HTTPError as error:
                    if error.code < 500:
                        raise AssertionError(error.read().decode()) from error
                except (OSError, http.client.HTTPException, ValueError):
                    pass
                self.stopped.wait(0.02)
            self.stopped.wait(0.02)


def test_kill_while_events_wait(make_server: Any) -> None:
    rng = random.Random(1)
    server = make_server("intake_app.py")
    server.start()
    emitter = Emitter(server)
    emitter.start()
    try:
        for _ in range(4):
            emitter.stopped.wait(rng.uniform(0.05, 0.9))
            server.kill()
            server.start()
        emitter.join(60)
        assert len(emitter.acknowledged) == EVENTS
        let_all_start(server)
        let_all_end(server)
    finally:
        emitter.stopped.set()
    assert server.stop() == 0
    check(server.db, {n: view["event_id"] for n, view in emitter.acknowledged.items()})


def let_all_start(server: Any) -> None:
    """Start what still waits; what has started by itself meanwhile is not there any more."""
    entries = server.get("/api/v1/debounce/entries")
    paths = [("/api/v1/debounce/entries", entry) for entry in entries]
    paths += [("/api/v1/batches", entry) for entry in server.get("/api/v1/batches")["items"]]
    for base, entry in paths:
        path = f"{base}/env_default/{entry['function_id']}/{entry['path_key']}/fire"
        try:
            server.post(path, {})
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise


def let_all_end(server: Any) -> None:
    """A run that ends may let another one begin, but all of them are there."""
    cursor = ""
    while True:
        page = server.get(f"/api/v1/runs?limit=100{cursor}")
        for run in page["items"]:
            ended = server.get(f"/api/v1/runs/{run['id']}/result?wait=60s")
            assert ended["status"] in ("completed", "cancelled"), ended
        if page["next_cursor"] is None:
            return
        cursor = f"&cursor={page['next_cursor']}"


def check(db: Path, events: dict[int, str]) -> None:
    connection = sqlite3.connect(f"file:{db}?mode=ro", uri=True)
    runs: dict[str, list[Any]] = defaultdict(list)
    spans: dict[str, tuple[Any, ...]] = {}
    for row in connection.execute("SELECT id, started_at, ended_at, status FROM runs"):
        spans[row[0]] = row
    query = "SELECT stream, data FROM journal WHERE kind = 'run.created' ORDER BY seq"
    for stream, data in connection.execute(query):
        created = json.loads(data)
        runs[created["function_id"]].append((stream.removeprefix("run/"), created))
    assert len(events) == EVENTS
    assert set(runs) == FUNCTIONS
    taken = [event["id"] for _, created in runs["bulk"] for event in created["events"]]
    assert taken == [events[n] for n in range(EVENTS)], "every event once, in order"
    assert sum(created["merged"] for _, created in runs["calm"]) == EVENTS
    assert Counter(created["event"]["id"] for _, created in runs["calm"]).most_common(1)[0][1] == 1
    outcomes: dict[str, dict[str, tuple[str, str]]] = defaultdict(dict)
    for subject, function_id, fate, run_id in connection.execute(
        "SELECT subject, function_id, fate, run_id FROM outcomes"
    ):
        outcomes[subject][function_id] = fate, run_id
        assert run_id in spans, (subject, function_id, fate)
    for event_id in events.values():
        assert set(outcomes[event_id]) == FUNCTIONS
        assert outcomes[event_id]["newest"][0] == "started"
    assert len(runs["newest"]) == EVENTS
    for name in ("only", "newest"):
        for key in "ab":
            mine = [spans[run_id] for run_id, created in runs[name] if key_of(created) == key]
            began = sorted((start, end) for _, start, end, _ in mine if start is not None)
            assert all(end <= start for (_, end), (start, _) in pairwise(began)), name
    for table in ("intakes", "timers", "deliveries"):
        assert connection.execute(f"SELECT * FROM {table}").fetchall() == [], table
    connection.close()


def key_of(created: Any) -> str:
    return str(created["input"]["json"]["key"])


SDK_WORKER = """
import sys
from ironflow.worker import Worker, function

@function(id="sdk-calm", triggers=[{"event": "sdk.changed"}],
          debounce={"period": "60s", "key": "user", "max_wait": "2m"})
async def calm(ctx):
    return [ctx.event.data, ctx.event.id]

@function(id="sdk-bulk", triggers=[{"event": "sdk.changed"}])
async def bulk(ctx):
    return [ctx.event.data, [taken["id"] for taken in ctx.event.metadata["batch"]]]

Worker(functions=[calm, bulk], server_url=sys.argv[1], heartbeat_interval="500ms").run()
"""


def batch_of(server: ServerProcess, event_id: str) -> str:
    """The run of the batch that an event has filled, once that is known."""
    while True:
        for outcome in server.get(f"/api/v1/events/{event_id}")["outcomes"]:
            if outcome["function_id"] == "sdk-bulk" and outcome["run_id"] is not None:
                return str(outcome["run_id"])
        server.process_pause()


def test_the_unmodified_sdk_is_debounced_and_handed_batches(
    peer_python: Callable[[str], Path], tmp_path: Path
) -> None:
    server = ServerProcess(tmp_path, None)
    script = tmp_path / "worker.py"
    script.write_text(SDK_WORKER)
    server.start()
    line = [str(peer_python("ironflow-py")), str(script), server.url]
    worker = subprocess.Popen(line, cwd=tmp_path)
    try:
        while len(functions := server.get("/api/v1/functions")["items"]) < 2:
            server.process_pause()
        assert functions[1]["flow_control"]["debounce"]["period"] == 60.0
        # Its decorator knows no batches: its server does.
        batch = {"id": "sdk-bulk", "triggers": [{"event": "sdk.changed"}],
                 "batch": {"size": 3, "waitMs": 60_000}}  # fmt: skip
        server.post("/ironflow.v1.IronflowService/RegisterFunction", batch)
        body = {"name": "sdk.changed", "data": {"user": "u", "n": 0}}
        emitted = [server.post("/api/v1/events", {**body, "data": {"user": "u", "n": n}})
                   for n in range(3)]  # fmt: skip
        ids = [view["event_id"] for view in emitted]
        assert [view["run_ids"] for view in emitted] == [[], [], []]
        (entry,) = server.get("/api/v1/debounce/entries")
        assert (entry["debounce_key"], entry["events"]) == ("u", 3)
        bulk = server.get(f"/api/v1/runs/{batch_of(server, ids[2])}/result?wait=60s")
        assert bulk["result"] == [[{"user": "u", "n": n} for n in range(3)], ids]
        fired = server.post("/api/v1/debounce/entries/env_default/sdk-calm/dQ/fire", {})
        calm = server.get(f"/api/v1/runs/{fired['run_id']}/result?wait=60s")
        assert calm["result"] == [{"user": "u", "n": 2}, ids[2]]
    finally:
        worker.kill()
        worker.wait()
        server.kill()
