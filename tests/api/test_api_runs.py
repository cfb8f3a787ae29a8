"""Runs over HTTP: lists and pages, one run from every side, cancel, pause, resume, retry."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

RUNS = "/api/v1/runs"
NOWHERE = "00000000-0000-7000-8000-000000000000"


async def test_a_run_is_shown_whole(api: Any) -> None:
    run_id = (await api.end("echo", [1, 2]))["run_id"]
    run = (await api.get(f"{RUNS}/{run_id}")).json
    assert (run["id"], run["function_id"], run["status"]) == (run_id, "echo", "completed")
    assert (run["input"], run["result"], run["error"]) == ([1, 2], [1, 2], None)
    assert (run["attempt"], run["execution"], run["steps_total"]) == (1, 1, 1)
    assert run["created_at"] <= run["started_at"] <= run["ended_at"] == run["updated_at"]
    assert run["duration"] >= 0
    assert run["waiting_for"] == []
    (listed,) = (await api.get(RUNS)).json["items"]
    assert listed == {name: run[name] for name in listed}


async def test_ids_are_taken_in_capitals(memory_api: Any) -> None:
    run_id = (await memory_api.end("echo"))["run_id"]
    assert (await memory_api.get(f"{RUNS}/{run_id.upper()}")).json["id"] == run_id


@pytest.mark.parametrize("run_id", [NOWHERE, "x", "%00", "a%2Fb", f"{NOWHERE}0", "%F0%9F%98%80"])
async def test_an_unknown_run_is_not_found_at_every_route(memory_api: Any, run_id: str) -> None:
    for part in ("", "/steps", "/history", "/result", "/why"):
        answer = await memory_api.get(f"{RUNS}/{run_id}{part}")
        assert (answer.status, answer.json["code"]) == (404, "not_found"), part
    answer = await memory_api.get(f"{RUNS}/{run_id}/result?wait=60s")
    assert answer.status == 404
    for part in ("cancel", "pause", "resume", "retry"):
        answer = await memory_api.post(f"{RUNS}/{run_id}/{part}")
        assert (answer.status, answer.json["code"]) == (404, "not_found"), part
    assert memory_api.engine.endings._waiting == {}


async def test_a_waiting_run_says_what_it_waits_for(api: Any) -> None:
    run_id = await api.start("waits")
    await api.reach(run_id, "waiting")
    run = (await api.get(f"{RUNS}/{run_id}")).json
    assert "door.opened" in run["waiting_for"][0]
    why = (await api.get(f"{RUNS}/{run_id}/why")).json
    assert (why["run_id"], why["status"]) == (run_id, "waiting")
    assert [(r["kind"], r["step"]) for r in why["reasons"]] == [("event", "opened")]
    assert "door.opened" in why["summary"]
    (step,) = (await api.get(f"{RUNS}/{run_id}/steps")).json["items"]
    assert (step["status"], step["kind"], step["event"]) == ("waiting", "event", "door.opened")
    assert step["ended_at"] is None


async def test_steps_show_what_executes_now(api: Any) -> None:
    run_id = await api.start("gated")
    await api.shelf.entered.wait()
    page = (await api.get(f"{RUNS}/{run_id}/steps")).json
    assert page["status"] == "running"
    assert [(s["key"], s["status"], s["position"]) for s in page["items"]] == [
        ("before", "completed", 0),
        ("gate", "running", 1),
    ]
    assert page["items"][1]["started_at"] >= page["items"][0]["ended_at"]
    assert page["items"][1]["duration"] is None
    api.shelf.gate.set()
    await api.reach(run_id, "completed")
    page = (await api.get(f"{RUNS}/{run_id}/steps")).json
    assert [(s["status"], s["result"]) for s in page["items"]] == [
        ("completed", 1),
        ("completed", "through"),
    ]


async def test_a_failed_step_keeps_its_error(api: Any) -> None:
    run_id = (await api.end("fails"))["run_id"]
    (step,) = (await api.get(f"{RUNS}/{run_id}/steps")).json["items"]
    assert step["status"] == "failed"
    assert step["error"]["message"] == "never"
    run = (await api.get(f"{RUNS}/{run_id}")).json
    assert run["status"] == "failed"
    assert "never" in run["reason"]


async def test_large_values_are_named_in_lists_and_loaded_when_asked_for(api: Any) -> None:
    run_id = (await api.end("large"))["run_id"]
    value = "x" * 100_000
    (step,) = (await api.get(f"{RUNS}/{run_id}/steps")).json["items"]
    assert step["result"]["size"] == len(value) + 2
    assert len(step["result"]["$blob"]) == 64
    (step,) = (await api.get(f"{RUNS}/{run_id}/steps?full=true")).json["items"]
    assert step["result"] == value
    entries = (await api.get(f"{RUNS}/{run_id}/history")).json["items"]
    done = next(e for e in entries if e["kind"] == "step.completed")
    assert set(done["data"]["result"]) == {"$blob", "size"}
    entries = (await api.get(f"{RUNS}/{run_id}/history?full=true")).json["items"]
    done = next(e for e in entries if e["kind"] == "step.completed")
    assert done["data"]["result"] == value
    assert (await api.get(f"{RUNS}/{run_id}")).json["result"] == value
    assert (await api.get(f"{RUNS}/{run_id}/result")).json["result"] == value


async def test_history_is_the_journal_in_pages(api: Any) -> None:
    run_id = (await api.end("echo", {"a": 1}))["run_id"]
    whole = (await api.get(f"{RUNS}/{run_id}/history")).json
    assert whole["next_version"] is None
    entries = whole["items"]
    assert [e["version"] for e in entries] == list(range(1, len(entries) + 1))
    assert [e["kind"] for e in entries][:1] + [e["kind"] for e in entries][-1:] == [
        "run.created",
        "run.completed",
    ]
    assert entries[0]["data"]["input"] == {"a": 1}
    assert entries[-1]["data"]["result"] == {"a": 1}
    assert {e["stream"] for e in entries} == {f"run/{run_id}"}
    paged, after = [], 0
    while after is not None:
        page = (await api.get(f"{RUNS}/{run_id}/history?limit=1&after={after}")).json
        paged += page["items"]
        after = page["next_version"]
    assert paged == entries
    assert (await api.get(f"{RUNS}/{run_id}/history?after=99")).json["items"] == []


async def test_the_result_can_be_waited_for(api: Any) -> None:
    run_id = await api.start("gated")
    early = await api.get(f"{RUNS}/{run_id}/result")
    assert (early.status, early.json["result"]) == (202, None)
    assert (await api.get(f"{RUNS}/{run_id}/result?wait=1ms")).status == 202
    await api.shelf.entered.wait()
    waiting = asyncio.create_task(api.get(f"{RUNS}/{run_id}/result?wait=60s"))
    await api.awaited(run_id)
    api.shelf.gate.set()
    late = await waiting
    assert (late.status, late.json["status"], late.json["result"]) == (200, "completed", "through")
    assert (await api.get(f"{RUNS}/{run_id}/result?wait=60s")).json == late.json
    assert api.engine.endings._waiting == {}


async def test_cancel_a_waiting_run(api: Any) -> None:
    run_id = await api.start("waits")
    await api.reach(run_id, "waiting")
    answer = await api.post(f"{RUNS}/{run_id}/cancel", {"reason": "no longer wanted"})
    assert answer.json == {"run_id": run_id, "status": "cancelled", "pending": None}
    run = (await api.get(f"{RUNS}/{run_id}")).json
    assert (run["status"], run["reason"]) == ("cancelled", "no longer wanted")
    again = await api.post(f"{RUNS}/{run_id}/cancel")
    assert (again.status, again.json["code"]) == (409, "conflict")


async def test_cancel_a_running_run_is_pending_first(api: Any) -> None:
    run_id = await api.start("gated")
    await api.shelf.entered.wait()
    answer = await api.post(f"{RUNS}/{run_id}/cancel")
    assert (answer.json["status"], answer.json["pending"]) == ("running", "cancel")
    assert (await api.reach(run_id, "cancelled")).reason == "cancelled by request"


async def test_pause_and_resume(api: Any) -> None:
    run_id = await api.start("waits")
    await api.reach(run_id, "waiting")
    answer = await api.post(f"{RUNS}/{run_id}/pause", {"reason": "lunch"})
    assert answer.json == {"run_id": run_id, "status": "paused", "pending": None}
    assert (await api.get(f"{RUNS}/{run_id}")).json["reason"] == "lunch"
    answer = await api.post(f"{RUNS}/{run_id}/resume")
    assert answer.json["status"] in ("queued", "running")
    conflict = await api.post(f"{RUNS}/{run_id}/resume")
    assert conflict.status == 409
    await api.reach(run_id, "waiting")
    await api.post("/api/v1/events", {"name": "door.opened", "data": 5})
    result = await api.get(f"{RUNS}/{run_id}/result?wait=60s")
    assert result.json["result"] == 5


async def test_pause_of_a_running_run_is_pending_until_the_boundary(api: Any) -> None:
    run_id = await api.start("gated")
    await api.shelf.entered.wait()
    answer = await api.post(f"{RUNS}/{run_id}/pause")
    assert (answer.json["status"], answer.json["pending"]) == ("running", "pause")
    api.shelf.gate.set()
    await api.reach(run_id, "paused")


async def test_retry_goes_on_from_the_failure(api: Any) -> None:
    run_id = (await api.end("fails"))["run_id"]
    answer = await api.post(f"{RUNS}/{run_id}/retry", {"reason": "once more"})
    assert answer.json["status"] in ("queued", "running")
    run = await api.reach(run_id, "failed")
    assert run.attempt == 2
    entries = (await api.get(f"{RUNS}/{run_id}/history")).json["items"]
    assert next(e for e in entries if e["kind"] == "run.reopened")["data"]["reason"] == "once more"
    done = (await api.end("echo"))["run_id"]
    assert (await api.post(f"{RUNS}/{done}/retry")).status == 409


async def test_a_reason_has_a_limit(memory_api: Any) -> None:
    run_id = await memory_api.start("waits")
    answer = await memory_api.post(f"{RUNS}/{run_id}/cancel", {"reason": "x" * 2001})
    assert (answer.status, answer.json["field"]) == (422, "reason")


async def test_lists_are_filtered(api: Any) -> None:
    done = (await api.end("echo"))["run_id"]
    failed = (await api.end("fails"))["run_id"]
    waiting = await api.start("waits")
    await api.reach(waiting, "waiting")
    emitted = (await api.post("/api/v1/events", {"name": "order.new", "data": {"amount": 11}})).json
    (started,) = emitted["run_ids"]
    await api.reach(started, "completed")

    async def ids(query: str) -> list[str]:
        items = (await api.get(f"{RUNS}?{query}")).json["items"]
        return [item["id"] for item in items]

    assert set(await ids("")) == {done, failed, waiting, started}
    assert await ids("function_id=echo") == [done]
    assert await ids("status=failed") == [failed]
    assert set(await ids("status=failed,waiting")) == {failed, waiting}
    assert set(await ids("status=failed&status=waiting")) == {failed, waiting}
    assert await ids(f"event_id={emitted['event_id']}") == [started]
    assert await ids("event_name=order.new&status=completed") == [started]
    assert await ids("event_name=null") == []
    assert await ids(f"parent_id={done}") == []
    at = (await api.get(f"{RUNS}/{failed}")).json["created_at"]
    assert done not in await ids(f"since={at}")
    assert failed in await ids(f"since={at}")
    assert await ids(f"until={at}") == [done]
    assert await ids(f"until={at.replace('Z', '+00:00')}") == [done]
    assert await ids("since=2999-01-01T00:00:00Z") == []


async def test_children_are_found_by_their_parent(api: Any) -> None:
    async def parent(ctx: Any) -> Any:
        return await ctx.step.invoke("child", "echo", 3)

    import ironflow.sdk.function as sdk

    made = sdk.function(parent, id="parent")
    await api.engine.register([made.definition])
    run_id = (await api.end("parent"))["run_id"]
    (child,) = (await api.get(f"{RUNS}?parent_id={run_id}")).json["items"]
    (step,) = (await api.get(f"{RUNS}/{run_id}/steps")).json["items"]
    assert (step["kind"], step["child_run_id"]) == ("invoke", child["id"])
    assert (step["child_function_id"], step["result"]) == ("echo", 3)


async def test_pages_cover_everything_once_while_new_runs_arrive(api: Any) -> None:
    old = [(await api.end("echo", n))["run_id"] for n in range(11)]
    seen: list[str] = []
    cursor, pages = "", 0
    while cursor is not None:
        suffix = f"&cursor={cursor}" if cursor else ""
        page = (await api.get(f"{RUNS}?limit=3{suffix}")).json
        assert len(page["items"]) <= 3
        seen += [item["id"] for item in page["items"]]
        cursor = page["next_cursor"]
        pages += 1
        await api.end("echo", -1)
    assert seen == old[::-1]
    assert pages == 4


@pytest.mark.parametrize("size", [1, 5, 10])
async def test_a_last_page_that_is_full_ends_the_list(memory_api: Any, size: int) -> None:
    for n in range(10):
        await memory_api.end("echo", n)
    cursor, lengths = "", []
    while cursor is not None:
        suffix = f"&cursor={cursor}" if cursor else ""
        page = (await memory_api.get(f"{RUNS}?limit={size}{suffix}")).json
        lengths.append(len(page["items"]))
        cursor = page["next_cursor"]
    assert lengths == [size] * (10 // size)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=x", "limit"),
        ("limit=1.5", "limit"),
        ("limit=99999999999999999999", "limit"),
        ("limit=1&limit=2", "limit"),
        ("status=done", "status"),
        ("status=failed,done", "status"),
        ("since=yesterday", "since"),
        ("until=2026-01-01", "until"),
        ("cursor=x", "cursor"),
        ("cursor=%C3%BC", "cursor"),
        ("cursor=WzFd", "cursor"),
        ("cursor=WzEwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMCwieCJd", "cursor"),
        ("function_id=a&function_id=b", "function_id"),
        ("function_id=a%00", "function_id"),
        ("colour=red", "colour"),
    ],
)
async def test_a_query_that_makes_no_sense_is_refused(
    memory_api: Any, query: str, field: str
) -> None:
    answer = await memory_api.get(f"{RUNS}?{query}")
    assert answer.status == 422, answer.body
    assert answer.json["field"].split("[")[0] == field


async def test_an_unknown_parameter_is_told_the_known_ones(memory_api: Any) -> None:
    answer = await memory_api.get(f"{RUNS}?colour=red")
    assert "function_id" in answer.json["detail"]
    answer = await memory_api.get("/health?colour=red")
    assert (answer.status, answer.json["field"]) == (422, "colour")


async def test_the_trail_of_a_run(api: Any) -> None:
    made = await api.post("/api/v1/functions/echo/invoke?wait=20s", {"input": {"a": 1}})
    run_id = made.json["run_id"]
    whole = (await api.get(f"/api/v1/audit?run_id={run_id}")).json
    assert (whole["total_count"], whole["next_cursor"]) == (len(whole["events"]), "")
    told = [event["event_type"] for event in whole["events"]]
    assert told[0] == "run.created"
    done = whole["events"][told.index("step.completed")]
    assert done["payload"]["output"] == {"a": 1}
    assert (done["run_id"], done["function_id"], done["step_id"]) == (
        run_id, "echo", f"{run_id}:keep"
    )  # fmt: skip
    assert done["environment_id"] == "env_default"
    pages, cursor = list[str](), ""
    while True:
        page = (await api.get(f"/api/v1/audit?run_id={run_id}&limit=2&cursor={cursor}")).json
        pages += [event["event_type"] for event in page["events"]]
        if not (cursor := page["next_cursor"]):
            break
    assert pages == told
    of_type = (await api.get(f"/api/v1/audit?run_id={run_id}&event_type=step.completed")).json
    assert (of_type["total_count"], of_type["events"]) == (1, [done])
    last = whole["events"][-1]["created_at"]
    assert (await api.get(f"/api/v1/audit?run_id={run_id}&from={last}")).json["events"]
    first = whole["events"][0]["created_at"]
    before = (await api.get(f"/api/v1/audit?run_id={run_id}&to={first}")).json
    assert before["events"][0]["event_type"] == "run.created"
    other = (await api.get(f"/api/v1/audit?run_id={run_id}&function_id=order")).json
    assert (other["events"], other["total_count"]) == ([], 0)


@pytest.mark.parametrize(
    ("query", "status", "field"),
    [
        ("", 422, "run_id"),
        ("function_id=echo", 422, "run_id"),
        ("run_id=x&action=runs:cancel", 422, "action"),
        ("run_id=x&api_key_id=1", 422, "api_key_id"),
        ("run_id=x&from=yesterday", 422, "from"),
        ("run_id=x&limit=0", 422, "limit"),
        ("run_id=x&run_id=y", 422, "run_id"),
        ("run_id=x", 404, None),
        ("run_id=00000000-0000-7000-8000-000000000000", 404, None),
        ("run_id=00000000-0000-7000-8000-000000000000&cursor=!", 422, "cursor"),
    ],
)
async def test_a_trail_that_cannot_be(
    memory_api: Any, query: str, status: int, field: str | None
) -> None:
    answer = await memory_api.get(f"/api/v1/audit?{query}")
    assert (answer.status, answer.json["field"] if field else None) == (status, field), answer.body
