"""Functions over the Connect services: versions, history, status, rollback, in both codecs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from connect_client import CODECS, Caller

from ironflow.storage.sqlite.store import open_sqlite

WHOLE = {
    "id": "f",
    "name": "The function",
    "description": "says everything",
    "triggers": [
        {"event": "order.*", "expression": "data.total > 10"},
        {"cron": "0 9 * * *", "timezone": "Europe/Berlin"},
    ],
    "retry": {
        "maxAttempts": 4,
        "initialDelayMs": 10,
        "backoffFactor": 1.5,
        "maxDelayMs": 1000,
        "onExhausted": "fail",
    },
    "timeoutMs": 60_000,
    "concurrency": {"limit": 3, "key": "org"},
    "preferredMode": "EXECUTION_MODE_PULL",
    "recording": True,
    "recordingProfile": "steps",
    "metadata": {"team": "a", "__ironflow_code_hash": "0123456789abcdef"},
    "cancelOn": [{"event": "order.gone", "match": "data.id"}],
    "labels": {"gpu": "yes"},
}


@pytest.fixture(params=CODECS)
def caller(request: pytest.FixtureRequest, api: Any) -> Caller:
    return Caller(api.client, request.param)


async def test_all_of_a_definition_comes_back(caller: Caller) -> None:
    answer = await caller.ok("RegisterFunction", WHOLE | {"changeReason": "first"})
    assert answer["created"] is True
    found = await caller.ok("GetFunction", {"id": "f"})
    facts = {name: found[name] for name in WHOLE}
    assert facts == WHOLE
    assert (found["version"], found["status"]) == (1, "FUNCTION_STATUS_ACTIVE")
    assert found["createdAt"] == found["updatedAt"]
    assert found["nextRun"] > found["createdAt"]


async def test_a_changed_definition_bumps_the_version_and_the_same_one_does_not(
    caller: Caller,
) -> None:
    for body, version, created in (
        ({"id": "f"}, 1, True),
        ({"id": "f"}, 1, False),
        ({"id": "f", "name": "other"}, 2, False),
        ({"id": "f", "name": "other", "metadata": {"a": 1}}, 3, False),
    ):
        answer = await caller.ok("RegisterFunction", body)
        assert (answer["function"]["version"], answer.get("created", False)) == (version, created)


async def test_many_at_once_make_one_version(caller: Caller) -> None:
    calls = [caller.ok("RegisterFunction", {"id": "f"}) for _ in range(10)]
    answers = await asyncio.gather(*calls)
    assert [a["function"]["version"] for a in answers] == [1] * 10
    assert sum(a.get("created", False) for a in answers) == 1


async def test_every_change_is_in_the_history_and_survives_deletion(caller: Caller) -> None:
    await caller.ok("RegisterFunction", {"id": "f", "name": "one", "changeReason": "begun"})
    await caller.ok("RegisterFunction", {"id": "f", "name": "two", "changeReason": "better"})
    paused = {"id": "f", "status": "FUNCTION_STATUS_PAUSED"}
    assert (await caller.ok("UpdateFunctionStatus", paused))["status"] == paused["status"]
    await caller.ok("UpdateFunctionStatus", paused)  # once more changes nothing
    back = await caller.ok(
        "RollbackFunction", {"functionId": "f", "version": "1", "changeReason": "worse"}
    )
    assert (back["function"]["name"], back["function"]["version"]) == ("one", 3)
    assert back["function"]["status"] == paused["status"]
    await caller.ok("DeleteFunction", {"id": "f"})
    assert (await caller.fail("GetFunction", {"id": "f"}))[0] == "not_found"
    page = await caller.ok("ListFunctionHistory", {"functionId": "f"})
    told = [
        (e["entityVersion"], e["changeType"], e["functionSnapshot"]["name"], e.get("changeReason"))
        for e in page["entries"]
    ]
    assert [tuple(x or None for x in t) for t in told] == [
        ("5", "delete", "one", None),
        ("4", "rollback", "one", "worse"),
        ("3", "status_change", "two", None),
        ("2", "update", "two", "better"),
        ("1", "created", "one", "begun"),
    ]
    assert not page.get("hasMore")
    older = await caller.ok(
        "ListFunctionHistory", {"functionId": "f", "limit": 2, "fromVersion": 4}
    )
    assert [e["entityVersion"] for e in older["entries"]] == ["3", "2"]
    assert older["hasMore"] is True
    at = await caller.ok("GetFunctionAtVersion", {"functionId": "f", "version": "2"})
    assert at["entry"]["functionSnapshot"]["name"] == "two"
    fresh = await caller.ok("RegisterFunction", {"id": "f", "name": "one"})
    assert (fresh["created"], fresh["function"]["version"]) == (True, 4)
    assert fresh["function"]["status"] == "FUNCTION_STATUS_ACTIVE"


async def test_lists_are_filtered_and_paged(caller: Caller) -> None:
    for number in range(5):
        await caller.ok("RegisterFunction", {"id": f"list-{number}", "name": f"Nr {number}"})
    paused = {"id": "list-3", "status": "FUNCTION_STATUS_PAUSED"}
    await caller.ok("UpdateFunctionStatus", paused)
    page = await caller.ok("ListFunctions", {"name": "list-", "limit": 2})
    assert ([f["id"] for f in page["functions"]], page["totalCount"]) == (["list-0", "list-1"], 5)
    rest = await caller.ok("ListFunctions", {"name": "list-", "cursor": page["nextCursor"]})
    assert [f["id"] for f in rest["functions"]] == ["list-2", "list-3", "list-4"]
    assert not rest.get("nextCursor")
    skipped = await caller.ok("ListFunctions", {"name": "Nr", "offset": 4})
    assert [f["id"] for f in skipped["functions"]] == ["list-4"]
    for query in ({"status": "FUNCTION_STATUS_PAUSED"}, {"mode": "pull", "name": "list-3"}):
        found = await caller.ok("ListFunctions", query)
        assert [f["id"] for f in found["functions"]] == ["list-3"]


async def test_a_paused_function_holds_its_runs_and_lets_them_go(api: Any) -> None:
    caller = Caller(api.client)
    await caller.ok("UpdateFunctionStatus", {"id": "echo", "status": "FUNCTION_STATUS_PAUSED"})
    run_id = await api.start("echo", 7)
    why = (await api.get(f"/api/v1/runs/{run_id}/why")).json
    assert "paused" in str(why["reasons"]), why
    assert (await api.engine.run(run_id)).status == "queued"
    await caller.ok("UpdateFunctionStatus", {"id": "echo", "status": "FUNCTION_STATUS_ACTIVE"})
    await api.reach(run_id, "completed")


async def test_status_and_history_outlive_the_process(serve: Any, tmp_path: Path) -> None:
    path = tmp_path / "again.db"
    async with serve(await open_sqlite(path)) as api:
        caller = Caller(api.client)
        for function_id, status in (("echo", "PAUSED"), ("far", "PAUSED"), ("old", "ARCHIVED")):
            if function_id != "echo":
                await caller.ok("RegisterFunction", {"id": function_id, "changeReason": "new"})
            change = {"id": function_id, "status": f"FUNCTION_STATUS_{status}"}
            await caller.ok("UpdateFunctionStatus", change)
        run_id = await api.start("echo", 7)
    async with serve(await open_sqlite(path)) as api:
        caller = Caller(api.client)
        listed = await caller.ok("ListFunctions", {"status": "FUNCTION_STATUS_PAUSED"})
        assert [f["id"] for f in listed["functions"]] == ["echo", "far"]
        assert (await caller.fail("InvokeFunction", {"functionId": "old"}))[0] == (
            "failed_precondition"
        )
        history = await caller.ok("ListFunctionHistory", {"functionId": "far"})
        assert [e["changeReason"] for e in history["entries"]] == ["", "new"]
        assert (await api.engine.run(run_id)).status == "queued"
        again = {"id": "echo", "status": "FUNCTION_STATUS_ACTIVE"}
        await caller.ok("UpdateFunctionStatus", again)
        await api.reach(run_id, "completed")


async def test_a_paused_pull_function_is_handed_to_nobody(api: Any) -> None:
    caller = Caller(api.client)
    await caller.ok("RegisterFunction", {"id": "far"})
    worker = {"function_ids": ["far"], "max_concurrent_jobs": 2}
    assert (await api.post("/api/v1/workers/w/register", worker)).status == 200
    run_id = await api.start("far")
    await caller.ok("UpdateFunctionStatus", {"id": "far", "status": "FUNCTION_STATUS_PAUSED"})
    jobs = "/api/v1/workers/w/jobs?available=2"
    assert (await api.get(f"{jobs}&wait=0.01")).status == 204
    poll = asyncio.create_task(api.get(f"{jobs}&wait=20"))
    await caller.ok("UpdateFunctionStatus", {"id": "far", "status": "FUNCTION_STATUS_ACTIVE"})
    assert [job["run_id"] for job in (await poll).json["jobs"]] == [run_id]


async def test_an_archived_function_is_not_started(api: Any) -> None:
    caller = Caller(api.client)
    body = {"id": "f", "triggers": [{"event": "go"}, {"cron": "0 0 1 1 *"}]}
    await caller.ok("RegisterFunction", body)
    await caller.ok("UpdateFunctionStatus", {"id": "f", "status": "FUNCTION_STATUS_ARCHIVED"})
    assert (await api.post("/api/v1/events", {"name": "go"})).json["run_ids"] == []
    assert (await api.post("/api/v1/functions/f/invoke")).status == 409
    await caller.ok("RegisterFunction", body | {"name": "again"})  # a worker came back
    assert (await api.post("/api/v1/events", {"name": "go"})).json["run_ids"] == []
    active = {"id": "f", "status": "FUNCTION_STATUS_ACTIVE"}
    assert (await caller.ok("UpdateFunctionStatus", active))["nextRun"]
    assert len((await api.post("/api/v1/events", {"name": "go"})).json["run_ids"]) == 1


async def test_the_server_says_what_it_is(api: Any, caller: Caller) -> None:
    await caller.ok("RegisterFunction", {"id": "f"})
    info = await caller.ok("Info")
    assert (info["version"], info["functionCount"]) == ("1.2.3", len(api.shelf.registry.all()) + 1)
    health = await caller.ok("Health")
    assert (health["status"], health["components"]["journal"]["status"]) == ("healthy", "healthy")
    spoken = (await api.get("/api/v1/capabilities")).json
    assert "connect" in spoken["transports"]
    assert spoken["auth_required"] is False


@pytest.mark.parametrize(
    ("method", "message", "code"),
    [
        ("GetFunction", {}, "invalid_argument"),
        ("GetFunction", {"id": "none"}, "not_found"),
        ("RegisterFunction", {}, "invalid_argument"),
        ("RegisterFunction", {"id": "echo"}, "failed_precondition"),
        ("RegisterFunction", {"id": "f", "preferredMode": 1}, "invalid_argument"),
        ("RegisterFunction", {"id": "f", "recordingProfile": "some"}, "invalid_argument"),
        ("RegisterFunction", {"id": "f", "retry": {"onExhausted": "no"}}, "invalid_argument"),
        ("RegisterFunction", {"id": "f", "concurrency": {"limit": -1}}, "invalid_argument"),
        ("UpdateFunctionStatus", {"id": "f"}, "invalid_argument"),
        ("UpdateFunctionStatus", {"id": "f", "status": "FUNCTION_STATUS_PAUSED"}, "not_found"),
        (
            "UpdateFunctionStatus",
            {"id": "echo", "status": "FUNCTION_STATUS_ARCHIVED"},
            "failed_precondition",
        ),
        ("DeleteFunction", {"id": "none"}, "not_found"),
        ("DeleteFunction", {"id": "echo"}, "failed_precondition"),
        ("ListFunctions", {"limit": -1}, "invalid_argument"),
        ("ListFunctions", {"cursor": "x"}, "invalid_argument"),
        ("ListFunctions", {"mode": "other"}, "invalid_argument"),
        ("ListFunctionHistory", {"functionId": "none"}, "not_found"),
        ("ListFunctionHistory", {}, "invalid_argument"),
        ("GetFunctionAtVersion", {"functionId": "echo", "version": "9"}, "not_found"),
        ("RollbackFunction", {"functionId": "echo", "version": "-1"}, "not_found"),
        ("RollbackFunction", {"functionId": "echo", "version": "1"}, "failed_precondition"),
    ],
)
async def test_refusals(caller: Caller, method: str, message: dict[str, Any], code: str) -> None:
    assert (await caller.fail(method, message))[0] == code


async def test_what_is_over_a_rate_limit_is_refused_or_a_cancelled_run(caller: Caller) -> None:
    limit = {"limit": 1, "periodMs": 3_600_000}
    message = {"id": "rated", "triggers": [{"event": "rated.go"}], "rateLimit": limit}
    await caller.ok("RegisterFunction", message)
    await caller.ok("InvokeFunction", {"functionId": "rated"})
    assert (await caller.fail("InvokeFunction", {"functionId": "rated"}))[0] == "resource_exhausted"
    (run_id,) = (await caller.ok("Emit", {"event": "rated.go"}))["runIds"]
    run = await caller.ok("GetRun", {"id": run_id})
    assert run["status"] == "RUN_STATUS_CANCELLED"
    assert "rate limit" in run["cancellationCause"]
