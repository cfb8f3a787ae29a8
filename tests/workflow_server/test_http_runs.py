"""The workflow API over HTTP: starting runs, looking at them, sending to them, ending them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from workflow_server import served_app
from workflow_server.http_client import START, Http

# -- run and look ----------------------------------------------------------------------------------


async def test_run_answers_with_the_handler(http: Http) -> None:
    status, handler = await http.post("/workflows/greet/run", {"start_event": START})
    assert status == 200
    assert set(handler) == {
        "handler_id", "workflow_name", "run_id", "error", "result", "result_unreadable", "status",
        "run_status", "started_at", "updated_at", "completed_at",
    }  # fmt: skip
    assert handler["workflow_name"] == "greet"
    assert handler["status"] == "completed"
    assert handler["result"] == {
        "value": {"result": "HELLO ADA"},
        "qualified_name": "workflows.events.StopEvent",
        "type": "StopEvent",
        "types": None,
    }
    assert handler["started_at"] <= handler["completed_at"]
    assert handler["started_at"].endswith("+00:00")
    # The same again when it is asked for, and unwrapped.
    status, again = await http.get(f"/handlers/{handler['handler_id']}")
    assert (status, again["result"]) == (200, handler["result"])
    assert (again["started_at"], again["run_id"]) == (handler["started_at"], handler["run_id"])
    status, bare = await http.get(f"/results/{handler['handler_id']}")
    assert (status, bare["result"]) == (200, "HELLO ADA")


@pytest.mark.parametrize(
    "body",
    [
        {"start_event": START},
        {"start_event": json.dumps(START)},
        {"start_event": {"type": "StartEvent", "value": START}},
        {"start_event": json.dumps({"type": "StartEvent", "value": START})},
        {"start_event": {"value": START, "type": "StartEvent", "qualified_name": None}},
        {
            "start_event": {
                "__is_pydantic": True,
                "qualified_name": "workflows.events.StartEvent",
                "value": START,
            }
        },
        {"start_event": {"_data": START}},
        {"start_event": {"data": START, "type": "StartEvent", "qualified_name": "x.StartEvent"}},
        {"kwargs": START},
        {"start_event": "", "kwargs": START},
        # The debugger of old sends a bare name where a qualified one is meant: the type wins.
        {"start_event": {"value": START, "type": "StartEvent", "types": [], "qualified_name": "X"}},
    ],
)
async def test_forms_of_a_start_event(memory_http: Http, body: dict[str, Any]) -> None:
    status, handler = await memory_http.post("/workflows/greet/run", body)
    assert (status, handler.get("result", handler)["value"]) == (200, {"result": "HELLO ADA"})


async def test_a_missing_start_event_has_no_fields(memory_http: Http) -> None:
    ids = set()
    for body in ({}, {"start_event": None}, {"handler_id": None}, {"handler_id": ""}):
        _, handler = await memory_http.post("/workflows/greet/run", body)
        assert handler["result"]["value"] == {"result": "HELLO WORLD"}
        ids.add(handler["handler_id"])
    assert [(len(each), each.isalnum()) for each in ids] == [(10, True)] * 4


async def test_run_nowait_and_results(http: Http) -> None:
    handler_id = await http.start("gate", ticks=1)
    for path in (f"/results/{handler_id}", f"/handlers/{handler_id}"):
        status, handler = await http.get(path)
        assert (status, handler["status"], handler["result"]) == (202, "running", None)
        assert handler["completed_at"] is None
    sent = await http.post(f"/events/{handler_id}", {"event": {"type": "Go", "value": {}}})
    assert sent == (200, {"status": "sent"})
    await http.events(handler_id)
    status, handler = await http.get(f"/results/{handler_id}")
    assert (status, handler["status"], handler["result"]) == (200, "completed", "gone")


async def test_typed_results_are_whole(memory_http: Http) -> None:
    _, handler = await memory_http.post(
        "/workflows/checkout/run", {"start_event": {"customer": "Ada", "amount": 2}}
    )
    assert handler["result"]["types"] == ["StopEvent"]
    _, bare = await memory_http.get(f"/results/{handler['handler_id']}")
    assert bare["result"] == {"customer": "Ada", "total": 19.0}
    # What descends from StopEvent ends the stream.
    (last,) = await memory_http.events(handler["handler_id"])
    assert (last[1]["type"], last[1]["types"]) == ("Receipt", ["StopEvent"])


FAILED = {"step_name", "exception", "attempts", "elapsed_seconds"}
TIMED_OUT = "Workflow timed out after 0.5s"


@pytest.mark.parametrize(
    ("workflow", "error", "event", "fields"),
    [
        ("fails", "it cannot work", "WorkflowFailedEvent", FAILED),
        ("dozes", TIMED_OUT, "WorkflowTimedOutEvent", {"timeout", "active_steps"}),
    ],
)
async def test_bad_ends_answer_500_with_the_handler(
    memory_http: Http, workflow: str, error: str, event: str, fields: set[str]
) -> None:
    status, handler = await memory_http.post(f"/workflows/{workflow}/run", {})
    assert (status, handler["status"], handler["error"]) == (500, "failed", error)
    assert handler["result"] is None
    for path in ("results", "handlers"):
        again = await memory_http.get(f"/{path}/{handler['handler_id']}")
        assert (again[0], again[1]["error"]) == (500, error)
    last = (await memory_http.events(handler["handler_id"]))[-1][1]
    assert (last["type"], last["types"]) == (event, ["StopEvent"])
    assert set(last["value"]) == fields
    assert last["qualified_name"] == f"workflows.events.{event}"


async def test_a_handler_goes_on_with_its_state(http: Http) -> None:
    body = {"handler_id": "my-own-name"}
    results = []
    for _ in range(3):
        status, handler = await http.post("/workflows/tally/run", body)
        assert (status, handler["handler_id"]) == (200, "my-own-name")
        results.append(handler["result"]["value"]["result"])
    assert results == [1, 2, 3]
    _, page = await http.get("/handlers")
    assert [found["handler_id"] for found in page["handlers"]] == ["my-own-name"]


async def test_a_handler_goes_on_however_its_run_ended(memory_http: Http) -> None:
    for workflow, status in (("fails", "failed"), ("gate", "cancelled")):
        body = {"handler_id": workflow}
        await memory_http.post(f"/workflows/{workflow}/run-nowait", body)
        await memory_http.post(f"/handlers/{workflow}/cancel")  # refused of the one that has ended
        before = (await memory_http.get(f"/handlers/{workflow}"))[1]
        assert before["status"] == status
        code, after = await memory_http.post("/workflows/greet/run", body)
        assert (code, after["workflow_name"], after["status"]) == (200, "greet", "completed")
        assert after["run_id"] != before["run_id"]


async def test_a_context_in_the_middle_goes_on_there(memory_http: Http) -> None:
    handler = served_app.Approve(timeout=None).run(name="this")
    async for event in handler.stream_events():
        if isinstance(event, served_app.Approval):
            break
    context = handler.ctx.to_dict()
    await handler.cancel_run()
    assert context["is_running"]
    body = {"context": context, "handler_id": "moved"}
    assert (await memory_http.post("/workflows/approve/run-nowait", body))[0] == 200
    answer = {"event": {"type": "Decision", "value": {"response": "go"}}}
    assert (await memory_http.post("/events/moved", answer))[0] == 200
    events = await memory_http.events("moved", "?include_internal=true")
    assert events[-1][1]["value"] == {"result": "they said go"}
    assert {e["value"]["name"] for _, e in events if "name" in e["value"]} == {"act"}  # not `ask`


async def test_a_running_handler_is_409(http: Http) -> None:
    body = {"handler_id": "busy"}
    assert (await http.post("/workflows/gate/run-nowait", body))[0] == 200
    for verb in ("run", "run-nowait"):
        status, refusal = await http.post(f"/workflows/gate/{verb}", body)
        assert (status, refusal) == (409, {"detail": "Handler 'busy' is already running"})


# -- lists -----------------------------------------------------------------------------------------


async def test_handlers_are_listed_filtered_and_paged(http: Http) -> None:
    for number in range(7):
        await http.post("/workflows/greet/run", {"handler_id": f"greet-{number}"})
    await http.post("/workflows/fails/run", {"handler_id": "failed"})
    await http.post("/workflows/gate/run-nowait", {"handler_id": "open"})

    async def ids(query: str) -> list[str]:
        status, page = await http.get(f"/handlers{query}")
        assert status == 200
        return [handler["handler_id"] for handler in page["handlers"]]

    greets = [f"greet-{number}" for number in range(7)]
    assert await ids("") == ["open", "failed", *reversed(greets)]
    assert await ids("?status=running") == ["open"]
    assert await ids("?status=failed&status=running") == ["open", "failed"]
    assert await ids("?workflow_name=fails&workflow_name=gate&status=") == ["open", "failed"]
    assert await ids("?status=failed&workflow_name=greet") == []
    assert await ids("?status=unknown") == []
    assert await ids("?status=unknown&status=failed") == ["failed"]
    cursor, seen = "", []
    while True:
        _, page = await http.get(f"/handlers?workflow_name=greet&limit=3{cursor}")
        seen.append([handler["handler_id"] for handler in page["handlers"]])
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert seen == [greets[:3:-1], greets[3:0:-1], greets[:1]]
    _, page = await http.get("/handlers?workflow_name=greet&limit=1")
    assert page["handlers"][0]["result"]["value"] == {"result": "HELLO WORLD"}
    _, page = await http.get("/handlers?workflow_name=greet&include_results=false")
    assert {handler["result"] for handler in page["handlers"]} == {None}
    for bad in ("limit=0", "limit=x", "limit=1001", "cursor=nonsense"):
        assert (await http.get(f"/handlers?{bad}"))[0] == 400


async def test_a_run_that_waits_is_told_from_one_that_works(http: Http) -> None:
    waiting, working = await http.start("approve"), await http.start("endures", seconds=3600)
    for handler_id, parked in ((waiting, "WorkflowIdleEvent"), (working, "StepStateChanged")):
        response = await http.stream(handler_id, "?include_internal=true")
        while parked not in (await response.content.readuntil(b"\n\n")).decode():
            pass

    async def listed(query: str) -> list[tuple[str, str, str]]:
        _, page = await http.get(f"/handlers?{query}")
        rows = page["handlers"]
        return [(row["handler_id"], row["status"], row["run_status"]) for row in rows]

    both = [(working, "running", "running"), (waiting, "running", "waiting")]
    assert await listed("") == await listed("status=running") == both
    assert await listed("run_status=waiting") == await listed("run_status=waiting&status=running")
    assert await listed("run_status=waiting") == [(waiting, "running", "waiting")]
    assert await listed(f"run_status=waiting&handler_id={working}") == []
    assert await listed("run_status=waiting&status=failed") == await listed("run_status=x") == []
    assert (await http.get(f"/handlers/{waiting}"))[1]["run_status"] == "waiting"
    await http.post(f"/handlers/{working}/cancel?purge=true")


# -- send and cancel -------------------------------------------------------------------------------


async def test_events_in_every_form(memory_http: Http) -> None:
    forms = [
        {"type": "Go", "value": {"word": "w"}},
        json.dumps({"type": "Go", "value": {"word": "w"}}),
        {"qualified_name": f"{served_app.Go.__module__}.Go", "value": {"word": "w"}},
        {"__is_pydantic": True, "type": "Go", "value": {"word": "w"}, "qualified_name": "x.Y"},
        {"type": "Go", "data": {"word": "w"}},
        {"type": "Nothing", "qualified_name": f"{served_app.Go.__module__}.Go",
         "value": {"word": "w"}},
        {"qualified_name": "__main__.Go", "value": {"word": "w"}},  # as the caller's module has it
    ]  # fmt: skip
    for form in forms:
        handler_id = await memory_http.start("gate")
        assert await memory_http.post(
            f"/events/{handler_id}", {"event": form, "step": "leave"}
        ) == (
            200,
            {"status": "sent"},
        )
        assert (await memory_http.events(handler_id))[-1][1]["value"] == {"result": "w"}


async def test_an_event_reaches_all_who_take_or_wait_for_it_or_one_step(memory_http: Http) -> None:
    http, word = memory_http, {"type": "Word", "value": {}}
    for_all, for_one = await http.start("choir"), await http.start("choir")
    streams = [await http.stream(run, "?include_internal=true") for run in (for_all, for_one)]
    for stream in streams:
        while b"WorkflowIdleEvent" not in await stream.content.readuntil(b"\n\n"):
            pass
    await http.post(f"/events/{for_all}", {"event": word})
    assert (await http.events(for_all))[-1][1]["value"] == {"result": ["begin", "first", "second"]}
    await http.post(f"/events/{for_one}", {"event": word, "step": "first"})
    while b'"by":"first"' not in await streams[1].content.readuntil(b"\n\n"):
        pass
    await http.post(f"/handlers/{for_one}/cancel")
    heard = [envelope["value"].get("by") for _, envelope in await http.events(for_one)]
    assert heard == ["nobody", "first", None]


async def test_refused_events_change_nothing(http: Http) -> None:
    handler_id = await http.start("gate", ticks=0)
    go = {"type": "Go", "value": {}}
    path = f"/events/{handler_id}"
    for body, word in [
        ({}, "Event data is required"),
        ({"event": None}, "Event data is required"),
        ({"event": []}, "Event data is required"),
        ({"event": [1]}, "event"),
        ({"event": "text"}, "event"),
        ({"event": {"type": "Nothing", "value": {}}}, "Nothing"),
        ({"event": {"value": {}}}, "event"),
        ({"event": {"qualified_name": "os.system", "value": {}}}, "os.system"),
        ({"event": {"type": "Nothing", "qualified_name": "x.Go", "value": {}}}, "Nothing"),
        ({"event": {"type": "Go", "value": []}}, "event"),
        ({"event": {"type": "Go", "value": {"word": {"not": "text"}}}}, "word"),
        ({"event": go, "step": "nothing"}, "nothing"),
        ({"event": go, "step": "tick"}, "tick"),
        ({"event": go, "step": 7}, "step"),
        ({"event": go, "answers": "1"}, "answers"),
        ({"event": go, "answers": True}, "answers"),
        ({"event": go, "answers": -1}, "answers"),
        ({"event": go, "answers": 2**70}, "answers"),
    ]:
        status, refusal = await http.post(path, body)
        assert (status, word in refusal["detail"]) == (400, True), (body, refusal)
    _, history = await http.get(f"/api/v1/runs/{await run_of(http, handler_id)}/history")
    assert "signal.received" not in {entry["kind"] for entry in history["items"]}
    await http.post(path, {"event": go})
    await http.events(handler_id)
    assert await http.post(path, {"event": go}) == (409, {"detail": "Workflow already completed"})


async def run_of(http: Http, handler_id: str) -> str:
    return str((await http.get(f"/handlers/{handler_id}"))[1]["run_id"])


async def test_sent_means_stored(http: Http) -> None:
    """The event stands in the journal before the sender is told."""
    handler_id = await http.start("waiter")
    response = await http.stream(handler_id)
    await response.content.readuntil(b"\n\n")  # it has asked
    answer = {"type": "HumanResponseEvent", "value": {"response": "Ada"}}
    assert (await http.post(f"/events/{handler_id}", {"event": answer}))[0] == 200
    _, history = await http.get(f"/api/v1/runs/{await run_of(http, handler_id)}/history")
    assert "signal.received" in {entry["kind"] for entry in history["items"]}


async def test_cancel_and_purge(http: Http) -> None:
    handler_id = await http.start("gate")
    run_id = await run_of(http, handler_id)
    assert await http.post(f"/handlers/{handler_id}/cancel") == (200, {"status": "cancelled"})
    status, handler = await http.get(f"/handlers/{handler_id}")
    assert (status, handler["status"], handler["result"]) == (500, "cancelled", None)
    last = (await http.events(handler_id))[-1][1]
    assert (last["type"], last["value"], last["types"]) == (
        "WorkflowCancelledEvent",
        {},
        ["StopEvent"],
    )
    assert (await http.post(f"/handlers/{handler_id}/cancel"))[0] == 404
    purged = await http.post(f"/handlers/{handler_id}/cancel?purge=TRUE")
    assert purged == (200, {"status": "deleted"})
    for path in (f"/handlers/{handler_id}", f"/results/{handler_id}", f"/events/{handler_id}"):
        assert (await http.get(path)) == (404, {"detail": "Handler not found"})
    assert (await http.get(f"/api/v1/runs/{run_id}"))[0] == 404
    assert (await http.get("/handlers"))[1]["handlers"] == []
    running = await http.start("gate")
    purged = await http.post(f"/handlers/{running}/cancel?purge=true")
    assert purged == (200, {"status": "deleted"})


async def test_a_reader_that_goes_away_does_not_touch_the_run(http: Http) -> None:
    handler_id = await http.start("gate", ticks=2)
    response = await http.stream(handler_id)
    await response.content.readuntil(b"\n\n")
    response.close()
    await http.post(f"/events/{handler_id}", {"event": {"type": "Go", "value": {}}})
    events = await http.events(handler_id)
    assert [envelope["type"] for _, envelope in events] == ["Progress", "Progress", "StopEvent"]
