"""Lanes over HTTP."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from ironflow.core.flow_control import Concurrency
from ironflow.core.functions import Definition


async def test_lanes_name_who_executes_and_who_waits(memory_api: Any) -> None:
    api = memory_api
    assert (await api.get("/api/v1/lanes")).json["items"] == []
    limits = (Concurrency(1, "data.org"),)
    made = Definition(id="far", name="far", code="c", placement="pull", concurrency=limits)
    await api.engine.register_remote(made)
    register = {"function_ids": ["far"], "max_concurrent_jobs": 9}
    await api.post("/api/v1/workers/w/register", register)
    ids = [await api.start("far", {"org": "a"}) for _ in range(3)]
    other = await api.start("far", {"org": "b"})
    jobs = (await api.get("/api/v1/workers/w/jobs?available=9&wait=5")).json["jobs"]
    assert {job["run_id"] for job in jobs} <= {ids[0], other}
    name = 'far#0:"a"'
    lane = (await api.get(f"/api/v1/lanes/{quote(name, safe='')}")).json
    assert (lane["function_id"], lane["limit"]) == ("far", 1)
    assert (lane["holders"], lane["waiting"]) == ([ids[0]], ids[1:])
    assert name in [item["name"] for item in (await api.get("/api/v1/lanes")).json["items"]]
    why = (await api.get(f"/api/v1/runs/{ids[2]}/why")).json
    assert f"lane {name}" in why["summary"]
    assert "1 wait before" in why["summary"]
    for missing in ("none", "far%231", "far%230x", "%23"):
        assert (await api.get(f"/api/v1/lanes/{missing}")).status in (200, 404)
    assert (await api.get("/api/v1/lanes/none")).status == 404
