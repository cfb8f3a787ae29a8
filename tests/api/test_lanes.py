"""Lanes over HTTP."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from ironflow.core.functions.definition import Definition
from ironflow.core.functions.flow_control import (
    Concurrency,
    Fairness,
    FlowControl,
    RateLimit,
    Throttle,
)


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


async def register(api: Any, control: FlowControl) -> None:
    """A function of workers, and one that asks for work."""
    made = Definition(id="far", name="far", code="c", placement="pull", flow_control=control)
    await api.engine.register_remote(made)
    await api.post("/api/v1/workers/w/register", {"function_ids": ["far"]})


async def polled(api: Any, available: int) -> list[str]:
    """The runs that a worker is handed."""
    answer = await api.get(f"/api/v1/workers/w/jobs?available={available}&wait=5")
    return [job["run_id"] for job in answer.json["jobs"]]


async def test_workers_are_handed_the_higher_priority_first_and_shares_in_turns(
    memory_api: Any,
) -> None:
    control = FlowControl(priority="data.p", fairness=Fairness("org", {"b": 2}))
    await register(memory_api, control)
    wanted = [(0, "a"), (0, "a"), (0, "a"), (0, "b"), (0, "b"), (0, "b"), (7, "c")]
    ids = [await memory_api.start("far", {"p": p, "org": org}) for p, org in wanted]
    why = (await memory_api.get(f"/api/v1/runs/{ids[6]}/why")).json
    assert "its priority is 7" in str(why["reasons"])
    assert "one of 'c'" in str(why["reasons"])
    assert memory_api.engine.pool.position(ids[6]) == 0
    order = [run for _ in range(7) for run in await polled(memory_api, 1)]
    assert [ids.index(run) for run in order] == [6, 0, 3, 4, 1, 5, 2]


async def test_a_throttle_names_who_waits_in_which_order_and_until_when(memory_api: Any) -> None:
    api = memory_api
    throttle = Throttle(2, 3600, "org")
    await register(api, FlowControl(throttle=throttle, priority="data.p"))
    ids = [await api.start("far", {"org": "a", "p": p}) for p in (0, 0, 0, 3)]
    assert await polled(api, 9) == ids[:2]
    name = 'far#throttle:"a"'
    lane = (await api.get(f"/api/v1/lanes/{quote(name, safe='')}")).json
    assert (lane["policy"], lane["limit"], lane["period"]) == ("throttle", 2, 3600.0)
    assert (lane["held"], lane["queued"]) == (2, 2)
    assert sorted(lane["holders"]) == sorted(ids[:2])
    assert [(one["run_id"], one["priority"]) for one in lane["line"]] == [(ids[3], 3), (ids[2], 0)]
    assert lane["opens_at"] is not None
    assert lane["opens_at"] in lane["reason"]
    why = (await api.get(f"/api/v1/runs/{ids[2]}/why")).json
    assert f"lane {name} lets 2 begin in 1h; the next may at {lane['opens_at']}" in why["summary"]
    assert "1 wait before" in why["summary"]


async def test_lanes_come_in_pages(memory_api: Any) -> None:
    api = memory_api
    await register(api, FlowControl(rate_limit=RateLimit(1, 60, "org")))
    for org in "cab":
        await api.start("far", {"org": org})
    first = (await api.get("/api/v1/lanes?limit=2")).json
    assert [lane["name"] for lane in first["items"]] == ['far#rate:"a"', 'far#rate:"b"']
    assert first["items"][0]["policy"] == "rate_limit"
    rest = (await api.get(f"/api/v1/lanes?limit=2&cursor={first['next_cursor']}")).json
    assert [lane["name"] for lane in rest["items"]] == ['far#rate:"c"']
    assert rest["next_cursor"] is None
    assert (await api.get("/api/v1/lanes?function_id=other")).json["items"] == []
    assert (await api.get("/api/v1/lanes?cursor=x")).status in (400, 422)
    refused = await api.post("/api/v1/functions/far/invoke", {"input": {"org": "a"}})
    assert (refused.status, refused.json["code"]) == (429, "rate_limited")
    assert 0 < float(refused.headers["Retry-After"]) <= 60


async def test_a_key_with_a_long_value_has_a_short_name(memory_api: Any) -> None:
    await register(memory_api, FlowControl(throttle=Throttle(1, 60, "org")))
    for org in ("x" * 100_000, "x" * 100_001):
        await memory_api.start("far", {"org": org})
    assert len(await polled(memory_api, 9)) == 2  # different ones stay different
    names = [lane["name"] for lane in (await memory_api.get("/api/v1/lanes")).json["items"]]
    assert len(names) == 2
    assert all(len(name) < 150 for name in names)
