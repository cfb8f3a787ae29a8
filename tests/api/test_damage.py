"""Bytes that rotted on the disk: one run cannot be read, and says so; nothing else suffers."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from ironflow.storage.sqlite.store import open_sqlite

ROT = [b"\xff\xfe", b'{"key":' + b"[" * 100_000, b'{"nothing":1}', b"", b"[]"]


@pytest.mark.parametrize("rot", ROT, ids=range(len(ROT)))
async def test_a_damaged_run_is_told_apart(serve: Any, tmp_path: Path, rot: bytes) -> None:
    db = tmp_path / "damage.db"
    async with serve(await open_sqlite(db)) as api:
        damaged, sound = await api.start("waits"), await api.start("waits")
        for run_id in (damaged, sound):
            await api.reach(run_id, "waiting")
    with sqlite3.connect(db) as connection:
        last = "SELECT max(version) FROM journal WHERE stream = :stream"
        update = f"UPDATE journal SET data = :rot WHERE stream = :stream AND version = ({last})"
        connection.execute(update, {"rot": rot, "stream": f"run/{damaged}"})
    connection.close()

    async with serve(await open_sqlite(db)) as api:
        for path in ("", "/steps", "/why", "/result"):
            answer = await api.get(f"/api/v1/runs/{damaged}{path}")
            assert (answer.status, answer.json["code"]) == (503, "damaged")
            assert f"of run {damaged} cannot be read" in answer.json["detail"]
        assert (await api.post(f"/api/v1/runs/{damaged}/cancel")).json["code"] == "damaged"
        # What is there is shown, also what cannot be read.
        items = (await api.get(f"/api/v1/runs/{damaged}/history")).json["items"]
        assert items[0]["kind"] == "run.created"
        assert "$damaged" in items[-1]["data"] or rot in (b'{"nothing":1}', b"[]")
        # Its event wakes the other run, which has nothing to do with it.
        assert (await api.post("/api/v1/events", {"name": "door.opened", "data": 5})).status == 201
        ended = await api.get(f"/api/v1/runs/{sound}/result?wait=60s")
        assert ended.json["result"] == 5
        assert (await api.get("/ready")).status == 200


async def test_a_damaged_message_stays_and_the_server_starts(serve: Any, tmp_path: Path) -> None:
    db = tmp_path / "damage.db"
    await (await open_sqlite(db)).close()
    rows = [("a", "emit", b"\xff"), ("b", "emit", b"[" * 100_000), ("c", "no such kind", b"{}")]
    with sqlite3.connect(db) as connection:
        for id_, kind, data in rows:
            values = {"id": id_, "target": "router/", "kind": kind, "data": data, "at": 1}
            columns = [row[1] for row in connection.execute("PRAGMA table_info(deliveries)")]
            row = [values.get(name, 1) for name in columns]
            marks = ", ".join("?" * len(columns))
            connection.execute(f"INSERT INTO deliveries VALUES ({marks})", row)
    connection.close()
    async with serve(await open_sqlite(db)) as api:
        assert (await api.end("echo", "well"))["result"] == "well"
    connection = sqlite3.connect(db)
    assert connection.execute("SELECT count(*) FROM deliveries").fetchone() == (3,)
    connection.close()
