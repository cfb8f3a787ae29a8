"""Runs over the Connect services: started, looked at, steered, changed, seen as they were."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from connect_client import CODECS, Caller

SYNC = {"timeoutMs": 60_000}


@pytest.fixture(params=CODECS)
def caller(request: pytest.FixtureRequest, api: Any) -> Caller:
    return Caller(api.client, request.param)


async def stopped(api: Any, caller: Caller) -> str:
    """A run that was paused behind its steps `before` and `gate`."""
    run_id: str = (await caller.ok("InvokeFunction", {"functionId": "gated"}))["runId"]
    await api.shelf.entered.wait()
    assert (await caller.ok("PauseRun", {"runId": run_id}))["status"] == "pause_requested"
    assert (await caller.ok("GetRun", {"id": run_id}))["pauseRequested"] is True
    api.shelf.gate.set()
    await api.reach(run_id, "paused")
    assert (await caller.ok("PauseRun", {"runId": run_id}))["status"] == "paused"
    return run_id


# -- events and invocations -----------------------------------------------------------------------


async def test_an_event_starts_runs_and_is_waited_for(caller: Caller) -> None:
    event = {"event": "order.placed", "data": {"amount": 20}, **SYNC}
    answer = await caller.ok("TriggerSync", event)
    (result,) = answer["results"]
    assert (result["status"], result["output"]) == ("RUN_STATUS_COMPLETED", {"amount": 20})
    assert not result.get("waitTimedOut")
    run = await caller.ok("GetRun", {"id": result["runId"]})
    assert (run["eventId"], run["eventName"]) == (answer["eventId"], "order.placed")
    assert (run["input"], run["output"]) == ({"amount": 20}, {"amount": 20})
    assert (run["attempt"], run["functionId"]) == (1, "on-order")
    (step,) = (await caller.ok("GetRunSteps", {"runId": run["id"]}))["steps"]
    assert (step["stepType"], step["status"]) == ("STEP_TYPE_INVOKE", "STEP_STATUS_COMPLETED")
    assert step["id"].startswith(run["id"])
    assert step["output"] == {"amount": 20}


@pytest.mark.parametrize("value", [[1, "a"], "text", 7, True, None, {"a": None}])
async def test_any_value_goes_in_and_comes_out(caller: Caller, value: Any) -> None:
    name = "data" if isinstance(value, dict) else "dataValue"
    message = {"functionId": "echo", **SYNC} | ({} if value is None else {name: value})
    result = (await caller.ok("InvokeFunctionSync", message))["result"]
    assert result.get("output" if isinstance(value, dict) else "outputValue") == value


async def test_each_event_of_a_batch_has_its_own_result(caller: Caller) -> None:
    events = [
        {"event": "order.placed", "data": {"amount": 11}},
        {"event": "not a name"},
        {"event": "nobody.listens", "idempotencyKey": "k"},
        {"event": "nobody.listens", "idempotencyKey": "k"},
        {"event": "nobody.listens", "idempotencyKey": "k", "dataValue": 1},
    ]
    results = (await caller.ok("TriggerBatch", {"events": events}))["results"]
    assert len(results[0]["runIds"]) == 1
    assert results[1]["error"]["code"] == "invalid_argument"
    assert results[2]["eventId"] == results[3]["eventId"]
    assert results[4]["error"]["code"] == "already_exists"


async def test_a_repeated_key_finds_the_first(caller: Caller) -> None:
    message = {"functionId": "echo", "idempotencyKey": "once", "dataValue": 1}
    first = await caller.ok("InvokeFunction", message)
    assert await caller.ok("InvokeFunction", message) == first
    assert (await caller.fail("InvokeFunction", message | {"dataValue": 2}))[0] == "already_exists"


async def test_metadata_and_version_of_an_event_are_kept(api: Any, caller: Caller) -> None:
    event = {
        "event": "order.placed",
        "data": {"amount": 12},
        "metadata": {"by": "me"},
        "version": 3,
    }
    emitted = await caller.ok("Emit", event)
    stored = (await api.get(f"/api/v1/events/{emitted['eventId']}")).json
    assert (stored["metadata"], stored["version"]) == ({"by": "me"}, 3)


async def test_a_wait_that_is_over_leaves_the_run_alone(api: Any, caller: Caller) -> None:
    message = {"functionId": "waits", "timeoutMs": 1}
    result = (await caller.ok("InvokeFunctionSync", message))["result"]
    assert result["waitTimedOut"] is True
    assert (await api.engine.run(result["runId"])).ended_at is None


async def test_a_caller_that_goes_away_cancels_the_run_it_started(api: Any) -> None:
    caller = Caller(api.client, "proto")
    calling = asyncio.create_task(caller.call("InvokeFunctionSync", {"functionId": "gated"}))
    await api.shelf.entered.wait()
    (run_id,) = api.engine.endings._waiting
    calling.cancel()
    run = await api.reach(run_id, "cancelled")
    assert "went away" in run.reason


async def test_a_deadline_that_passes_is_a_caller_that_goes_away(api: Any) -> None:
    caller = Caller(api.client)
    for deadline in ("50", "500", "5000"):
        # On a busy machine the first ones may pass before a run is made.
        reply = await caller.call(
            "InvokeFunctionSync", {"functionId": "waits"}, {"Connect-Timeout-Ms": deadline}
        )
        assert (reply.status, reply.code) == (504, "deadline_exceeded")
        if runs := (await caller.ok("ListRuns", {"functionId": "waits"}))["runs"]:
            break
    run = runs[0]
    await api.reach(run["id"], "cancelled")


# -- lists ----------------------------------------------------------------------------------------


async def test_runs_are_filtered_paged_and_counted(api: Any, caller: Caller) -> None:
    ids = []
    for _ in range(5):
        ended = await caller.ok("InvokeFunctionSync", {"functionId": "echo", **SYNC})
        ids.append(ended["result"]["runId"])
    failed = (await caller.ok("InvokeFunctionSync", {"functionId": "fails", **SYNC}))["result"]
    assert failed["status"] == "RUN_STATUS_FAILED"
    assert "never" in failed["error"]["message"]
    page = await caller.ok("ListRuns", {"functionId": "echo", "limit": 2})
    assert ([r["id"] for r in page["runs"]], page["totalCount"]) == (ids[:-3:-1], 5)
    rest = await caller.ok("ListRuns", {"functionId": "echo", "cursor": page["nextCursor"]})
    assert ([r["id"] for r in rest["runs"]], rest.get("nextCursor", "")) == (ids[-3::-1], "")
    skipped = await caller.ok("ListRuns", {"functionId": "echo", "offset": 3})
    assert [r["id"] for r in skipped["runs"]] == ids[1::-1]
    for query, wanted in (
        ({"status": "RUN_STATUS_FAILED"}, [failed["runId"]]),
        ({"statuses": ["RUN_STATUS_FAILED", "RUN_STATUS_PAUSED"]}, [failed["runId"]]),
        ({"search": "fail"}, [failed["runId"]]),
        ({"search": ids[2]}, [ids[2]]),
        ({"since": rest["runs"][0]["createdAt"], "search": ids[0]}, []),
        ({"until": rest["runs"][-1]["createdAt"]}, []),
    ):
        found = await caller.ok("ListRuns", query)
        assert [r["id"] for r in found.get("runs", [])] == wanted, query
        assert found.get("totalCount", 0) == len(wanted)


async def test_ended_runs_are_deleted_and_others_not(api: Any, caller: Caller) -> None:
    for _ in range(3):
        await caller.ok("InvokeFunctionSync", {"functionId": "echo", **SYNC})
    waiting = (await caller.ok("InvokeFunction", {"functionId": "waits"}))["runId"]
    await api.reach(waiting, "waiting")
    assert (await caller.fail("DeleteRun", {"id": waiting}))[0] == "failed_precondition"
    one = (await caller.ok("ListRuns", {"functionId": "echo"}))["runs"][0]["id"]
    await caller.ok("DeleteRun", {"id": one})
    assert (await caller.fail("GetRun", {"id": one}))[0] == "not_found"
    assert int((await caller.ok("DeleteRuns", {"functionId": "echo"}))["deleted"]) == 2
    left = await caller.ok("ListRuns", {})
    assert [r["id"] for r in left["runs"]] == [waiting]


# -- steering -------------------------------------------------------------------------------------


async def test_a_paused_run_is_looked_at_changed_and_goes_on(api: Any, caller: Caller) -> None:
    run_id = await stopped(api, caller)
    state = await caller.ok("GetPausedState", {"runId": run_id})
    assert state["pauseReason"] == "injection"
    assert [(s["name"], s["stepType"], s["status"]) for s in state["steps"]] == [
        ("before", "invoke", "completed"),
        ("gate", "invoke", "completed"),
    ]
    gate = state["steps"][1]
    change = {"runId": run_id, "stepId": gate["id"], "newOutput": _base64('{"an": "other"}')}
    answer = await caller.ok("InjectStepOutput", change | {"reason": "by hand"})
    assert _text(answer["previousOutput"]) == '"through"'
    state = await caller.ok("GetPausedState", {"runId": run_id})
    assert state["steps"][1]["injected"] is True
    run = await caller.ok("ResumeRun", {"runId": run_id})
    assert run["id"] == run_id
    await api.reach(run_id, "completed")
    assert (await caller.ok("GetRun", {"id": run_id}))["output"] == {"an": "other"}
    step = (await caller.ok("GetRunSteps", {"runId": run_id}))["steps"][1]
    assert (step["originalOutputValue"], step["output"]) == ("through", {"an": "other"})
    assert step["patchedAt"]


async def test_a_failed_run_goes_on_behind_a_patched_step(api: Any, caller: Caller) -> None:
    failed = (await caller.ok("InvokeFunctionSync", {"functionId": "fails", **SYNC}))["result"]
    run_id = failed["runId"]
    (step,) = (await caller.ok("GetRunSteps", {"runId": run_id}))["steps"]
    assert step["status"] == "STEP_STATUS_FAILED"
    patched = await caller.ok("PatchStep", {"stepId": step["id"], "outputValue": 1})
    assert (patched["status"], patched["outputValue"]) == ("STEP_STATUS_COMPLETED", 1)
    await caller.ok("ResumeRun", {"runId": run_id})
    await api.reach(run_id, "completed")
    assert (await caller.fail("PatchStep", {"stepId": step["id"], "outputValue": 2}))[0] == (
        "failed_precondition"
    )


async def test_a_run_is_resumed_from_a_step_on(api: Any, caller: Caller) -> None:
    run_id = await stopped(api, caller)
    await caller.ok("ResumeRun", {"runId": run_id, "fromStep": "before"})
    await api.reach(run_id, "completed")
    history = (await api.get(f"/api/v1/runs/{run_id}/history")).json["items"]
    done = [entry["data"]["name"] for entry in history if entry["kind"] == "step.completed"]
    assert done == ["before", "gate", "before", "gate"]


async def test_what_was_changed_outlives_a_restart_of_its_actor(api: Any) -> None:
    caller = Caller(api.client)
    run_id = await stopped(api, caller)
    gate = (await caller.ok("GetPausedState", {"runId": run_id}))["steps"][1]["id"]
    large = json.dumps("y" * 100_000)
    await caller.ok(
        "InjectStepOutput", {"runId": run_id, "stepId": gate, "newOutput": _base64(large)}
    )
    run = await api.engine.run(run_id)  # read from the journal
    assert (run.steps["gate"].injected, run.steps["gate"].result.size) == (True, len(large))
    await caller.ok("ResumeRun", {"runId": run_id})
    await api.reach(run_id, "completed")
    assert (await caller.ok("GetRun", {"id": run_id}))["outputValue"] == "y" * 100_000


async def test_a_run_is_cancelled_once(api: Any, caller: Caller) -> None:
    run_id = (await caller.ok("InvokeFunction", {"functionId": "waits"}))["runId"]
    await api.reach(run_id, "waiting")
    (step,) = (await caller.ok("GetRunSteps", {"runId": run_id}))["steps"]
    assert (step["stepType"], step["status"]) == ("STEP_TYPE_WAIT_FOR_EVENT", "STEP_STATUS_WAITING")
    assert step["waitEventName"] == "door.opened"
    run = await caller.ok("CancelRun", {"id": run_id, "reason": "enough"})
    assert (run["status"], run["cancellationCause"]) == ("RUN_STATUS_CANCELLED", "enough")
    assert (await caller.fail("CancelRun", {"id": run_id}))[0] == "failed_precondition"


# -- as it was ------------------------------------------------------------------------------------


async def test_a_run_is_seen_as_it_was(api: Any, caller: Caller) -> None:
    run_id = await stopped(api, caller)
    timeline = (await caller.ok("TimeTravelService/GetRunTimeline", {"runId": run_id}))["events"]
    types = [event["eventType"] for event in timeline]
    assert types[0] == "run.created"
    assert types.count("step.completed") == 2
    assert types[-1] == "run.paused"
    before = next(e for e in timeline if e.get("stepName") == "before")
    at = {"runId": run_id, "timestamp": before["timestamp"]}
    then = (await caller.ok("TimeTravelService/GetRunStateAt", at))["snapshot"]
    assert (then["status"], [s["name"] for s in then["steps"]]) == ("running", ["before"])
    assert (_text(then["input"]), _text(then["steps"][0]["output"])) == ("null", "1")
    gate = (await caller.ok("GetPausedState", {"runId": run_id}))["steps"][1]["id"]
    change = {"runId": run_id, "stepId": gate, "newOutput": _base64("2")}
    await caller.ok("InjectStepOutput", change)
    step = {"runId": run_id, "stepId": gate}
    now = await caller.ok("TimeTravelService/GetStepOutputAt", step)
    assert (_text(now["output"]), _text(now["originalOutput"])) == ("2", '"through"')
    assert (now["injected"], now["patched"]) == (True, True)
    step["timestamp"] = timeline[-1]["timestamp"]
    earlier = await caller.ok("TimeTravelService/GetStepOutputAt", step)
    assert (_text(earlier["output"]), earlier.get("injected", False)) == ('"through"', False)
    step["timestamp"] = timeline[0]["timestamp"]
    assert (await caller.fail("TimeTravelService/GetStepOutputAt", step))[0] == "not_found"
    at["timestamp"] = "2001-01-01T00:00:00Z"
    assert (await caller.fail("TimeTravelService/GetRunStateAt", at))[0] == "not_found"


async def test_the_trail_of_a_run_has_every_change_with_its_values(
    api: Any, caller: Caller
) -> None:
    run_id = await stopped(api, caller)
    method = "AuditService/GetAuditTrail"
    whole = await caller.ok(method, {"runId": run_id})
    assert whole["totalCount"] == len(whole["events"])
    steps = await caller.ok(method, {"runId": run_id, "eventType": "step.completed"})
    assert [e["payload"]["output"] for e in steps["events"]] == [1, "through"]
    told = [e["eventType"] for e in whole["events"]]
    pages, cursor = list[str](), ""
    while True:
        page = await caller.ok(method, {"runId": run_id, "limit": 2, "cursor": cursor})
        pages += [e["eventType"] for e in page["events"]]
        cursor = page.get("nextCursor", "")
        if not cursor:
            break
    assert pages == told
    late = {"runId": run_id, "fromTimestamp": whole["events"][-1]["createdAt"]}
    assert (await caller.ok(method, late))["totalCount"] >= 1
    changed = next(e for e in whole["events"] if e["payload"].get("newStatus") == "running")
    assert changed["payload"]["oldStatus"] == "waiting_for_capacity"


NOWHERE = "00000000-0000-7000-8000-000000000000"


@pytest.mark.parametrize(
    ("method", "message", "code"),
    [
        ("Emit", {}, "invalid_argument"),
        ("Emit", {"event": "a..b"}, "invalid_argument"),
        ("Emit", {"event": "a", "version": -1}, "invalid_argument"),
        ("TriggerBatch", {"events": [{"event": "a"}] * 1001}, "invalid_argument"),
        ("InvokeFunction", {}, "invalid_argument"),
        ("InvokeFunction", {"functionId": "none"}, "not_found"),
        ("InvokeFunction", {"functionId": "order", "dataValue": 1}, "invalid_argument"),
        ("InvokeFunctionSync", {"functionId": "none"}, "not_found"),
        ("InvokeFunctionSync", {"functionId": "echo", "metadata": {"a": 1}}, "unimplemented"),
        ("GetRun", {}, "not_found"),
        ("GetRun", {"id": NOWHERE}, "not_found"),
        ("GetRunSteps", {"runId": NOWHERE}, "not_found"),
        ("CancelRun", {"id": NOWHERE}, "not_found"),
        ("PauseRun", {"runId": NOWHERE}, "not_found"),
        ("ResumeRun", {"runId": NOWHERE}, "not_found"),
        ("GetPausedState", {"runId": NOWHERE}, "not_found"),
        ("InjectStepOutput", {"runId": NOWHERE, "newOutput": "MQ=="}, "not_found"),
        ("InjectStepOutput", {"runId": NOWHERE}, "invalid_argument"),
        ("PatchStep", {"stepId": "x"}, "invalid_argument"),
        ("PatchStep", {"stepId": "x", "outputValue": 1}, "not_found"),
        ("DeleteRun", {"id": NOWHERE}, "not_found"),
        ("DeleteRuns", {}, "invalid_argument"),
        ("DeleteRuns", {"status": "RUN_STATUS_RUNNING"}, "invalid_argument"),
        ("ListRuns", {"limit": 501}, "invalid_argument"),
        ("ListRuns", {"cursor": "?"}, "invalid_argument"),
        ("RedactRun", {"runId": NOWHERE}, "unimplemented"),
        ("TimeTravelService/GetRunStateAt", {"runId": NOWHERE}, "not_found"),
        ("TimeTravelService/GetRunTimeline", {"runId": "x"}, "not_found"),
        ("AuditService/GetAuditTrail", {}, "invalid_argument"),
        (
            "AuditService/GetAuditTrail",
            {"runId": NOWHERE, "toTimestamp": "now"},
            "invalid_argument",
        ),
    ],
)
async def test_refusals(memory_api: Any, method: str, message: dict[str, Any], code: str) -> None:
    for codec in CODECS:
        assert (await Caller(memory_api.client, codec).fail(method, message))[0] == code


async def test_a_step_that_is_under_way_or_was_never_there_is_not_changed(api: Any) -> None:
    caller = Caller(api.client)
    run_id = (await caller.ok("InvokeFunction", {"functionId": "waits"}))["runId"]
    await api.reach(run_id, "waiting")
    change = {"runId": run_id, "stepId": "opened", "newOutput": _base64("1")}
    assert (await caller.fail("InjectStepOutput", change))[0] == "failed_precondition"
    await caller.ok("PauseRun", {"runId": run_id})
    assert (await caller.fail("InjectStepOutput", change))[0] == "failed_precondition"
    for wrong, code in (
        ({"stepId": "none"}, "not_found"),
        ({"newOutput": _base64("{")}, "invalid_argument"),
        ({"stepId": ""}, "invalid_argument"),
    ):
        assert (await caller.fail("InjectStepOutput", change | wrong))[0] == code
    assert (await caller.fail("ResumeRun", {"runId": run_id, "fromStep": "none"}))[0] == "not_found"


def _base64(text: str) -> str:
    import base64

    return base64.b64encode(text.encode()).decode()


def _text(data: str) -> str:
    import base64

    return base64.b64decode(data).decode()


async def test_a_run_names_the_version_that_its_function_had(api: Any, caller: Caller) -> None:
    runs = []
    for name in ("first", "second", "second", "third"):
        await caller.ok("RegisterFunction", {"id": "changing", "name": name})
        run_id = (await caller.ok("InvokeFunction", {"functionId": "changing"}))["runId"]
        runs.append(run_id)
        if name == "first":  # read before there is a second one, too
            assert (await caller.ok("GetRun", {"id": run_id}))["functionVersion"] == 1
    found = [await caller.ok("GetRun", {"id": run_id}) for run_id in runs]
    assert [run["functionVersion"] for run in found] == [1, 2, 2, 3]
    assert {run["environmentId"] for run in found} == {"env_default"}
    listed = (await caller.ok("ListRuns", {"functionId": "changing"}))["runs"]
    assert {run["id"]: run["functionVersion"] for run in listed} == dict(
        zip(runs, (1, 2, 2, 3), strict=True)
    )
