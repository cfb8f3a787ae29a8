"""The workflow paths over HTTP: statuses, bodies and framings, as a plain HTTP client sees them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientResponse, ClientSession
from workflow_server import served_app

from ironflow.workflows.server import WorkflowServer

START = {"name": "Ada"}


class Http:
    """A started server and a client."""

    def __init__(self, server: WorkflowServer, session: ClientSession) -> None:
        self.server, self.session = server, session
        self.opened: list[ClientResponse] = []

    async def ask(
        self, method: str, path: str, body: Any = None, **options: Any
    ) -> tuple[int, Any]:
        """Status and JSON; `body` is sent as JSON, bytes as they are."""
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        async with self.session.request(
            method, self.server.url + path, data=data, **options
        ) as response:
            text = await response.read()
            assert response.status < 500 or b"handler_id" in text, text
            return response.status, json.loads(text) if text else None

    async def get(self, path: str, **options: Any) -> tuple[int, Any]:
        return await self.ask("GET", path, **options)

    async def post(self, path: str, body: Any = None, **options: Any) -> tuple[int, Any]:
        return await self.ask("POST", path, body, **options)

    async def start(self, workflow: str, **fields: Any) -> str:
        """The handler of a new run."""
        status, handler = await self.post(
            f"/workflows/{workflow}/run-nowait", {"start_event": fields}
        )
        assert status == 200, handler
        return str(handler["handler_id"])

    async def stream(self, handler_id: str, query: str = "", **options: Any) -> ClientResponse:
        """The answer of a stream; its body is not read."""
        url = f"{self.server.url}/events/{handler_id}{query}"
        response = await self.session.get(url, **options)
        self.opened.append(response)
        return response

    async def events(self, handler_id: str, query: str = "", **options: Any) -> list[Any]:
        """Every event as (id, envelope), to the end of the stream."""
        response = await self.stream(handler_id, query, **options)
        assert response.status == 200, await response.text()
        frames = (await response.text()).split("\n\n")
        return [parse(frame) for frame in frames if frame and not frame.startswith(":")]


def parse(frame: str) -> tuple[int, Any]:
    """An id and an envelope; nothing else is in a frame."""
    first, second = frame.split("\n")
    assert first.startswith("id: ")
    assert second.startswith("data: ")
    return int(first[4:]), json.loads(second[6:])


@pytest.fixture(params=["memory", "sqlite"])
async def http(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Http]:
    db = "memory" if request.param == "memory" else str(tmp_path / "http.db")
    async with serving(WorkflowServer(db=db)) as opened:
        yield opened


@pytest.fixture
async def memory_http() -> AsyncIterator[Http]:
    async with serving(WorkflowServer(db="memory")) as opened:
        yield opened


class serving:  # noqa: N801 - used as a function
    """A server with the workflows of `served_app`, started."""

    def __init__(self, server: WorkflowServer) -> None:
        for name, (workflow, events) in served_app.server.entries.items():
            server.add_workflow(name, workflow, events)
        self.server = server

    async def __aenter__(self) -> Http:
        await self.server.start()
        self.session = ClientSession()
        self.http = Http(self.server, self.session)
        return self.http

    async def __aexit__(self, *facts: object) -> None:
        for response in self.http.opened:
            response.close()
        await self.session.close()
        await self.server.stop()


# -- run and look ---------------------------------------------------------------------------------


async def test_run_answers_with_the_handler(http: Http) -> None:
    status, handler = await http.post("/workflows/greet/run", {"start_event": START})
    assert status == 200
    assert set(handler) == {
        "handler_id", "workflow_name", "run_id", "error", "result", "result_unreadable", "status",
        "started_at", "updated_at", "completed_at",
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
    for body in ({}, {"start_event": None}, {"start_event": ""}, {"handler_id": ""}):
        _, handler = await memory_http.post("/workflows/greet/run", body)
        assert handler["result"]["value"] == {"result": "HELLO WORLD"}


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


@pytest.mark.parametrize(
    ("workflow", "error"),
    [("fails", "it cannot work"), ("dozes", "Workflow timed out after 0.5s")],
)
async def test_bad_ends_answer_500_with_the_handler(
    memory_http: Http, workflow: str, error: str
) -> None:
    status, handler = await memory_http.post(f"/workflows/{workflow}/run", {})
    assert (status, handler["status"], handler["error"]) == (500, "failed", error)
    assert handler["result"] is None
    for path in ("results", "handlers"):
        again = await memory_http.get(f"/{path}/{handler['handler_id']}")
        assert (again[0], again[1]["error"]) == (500, error)


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


async def test_a_running_handler_is_409(http: Http) -> None:
    body = {"handler_id": "busy"}
    assert (await http.post("/workflows/gate/run-nowait", body))[0] == 200
    for verb in ("run", "run-nowait"):
        status, refusal = await http.post(f"/workflows/gate/{verb}", body)
        assert (status, refusal) == (409, {"detail": "Handler 'busy' is already running"})


# -- streams --------------------------------------------------------------------------------------


async def test_streams_frame_events_and_say_what_they_are(http: Http) -> None:
    handler_id = await http.start("greet", **START)
    response = await http.stream(handler_id)
    assert response.content_type == "text/event-stream"
    text = await response.text()
    frames = [parse(frame) for frame in text.split("\n\n") if frame]
    assert [number for number, _ in frames] == [1, 4, 6]  # internal ones are counted, too
    assert [envelope["type"] for _, envelope in frames] == ["Greeting", "Greeting", "StopEvent"]
    greeting = frames[0][1]
    assert set(greeting) == {"value", "type", "types", "qualified_name"}
    assert greeting["value"] == {"text": "thinking"}
    assert greeting["qualified_name"].endswith("served_app.Greeting")
    assert greeting["types"] is None
    assert frames[-1][1]["qualified_name"] == "workflows.events.StopEvent"


async def test_ndjson_has_an_envelope_a_line(http: Http) -> None:
    handler_id = await http.start("greet")
    response = await http.stream(handler_id, "?sse=false&include_internal=TRUE")
    assert response.content_type == "application/x-ndjson"
    lines = (await response.text()).splitlines()
    assert len(lines) == 7
    first = json.loads(lines[0])
    assert first == {
        "value": {
            "name": "hello",
            "step_state": "running",
            "worker_id": "0",
            "input_event_name": "StartEvent",
            "output_event_name": None,
        },
        "qualified_name": "workflows.events.StepStateChanged",
        "type": "StepStateChanged",
        "types": ["InternalDispatchEvent"],
    }


async def test_streams_begin_where_they_are_asked_to(http: Http) -> None:
    handler_id = await http.start("greet")
    await http.events(handler_id)

    async def numbers(query: str, **options: Any) -> list[int]:
        return [number for number, _ in await http.events(handler_id, query, **options)]

    assert await numbers("?after_sequence=-1") == [1, 4, 6]
    assert await numbers("?after_sequence=1") == [4, 6]
    assert await numbers("?after_sequence=3&include_internal=true") == [4, 5, 6]
    header = {"Last-Event-ID": "4"}
    assert await numbers("", headers=header) == [6]
    assert await numbers("?after_sequence=-1", headers=header) == [6]
    assert await numbers("?after_sequence=4", headers={"Last-Event-ID": "what"}) == [6]
    assert await numbers("?acquire_timeout=2.5") == [1, 4, 6]


async def test_nothing_left_is_an_empty_204(http: Http) -> None:
    handler_id = await http.start("greet")
    await http.events(handler_id)
    for query in ("?after_sequence=6", "?after_sequence=now", "?after_sequence=999&sse=false"):
        response = await http.stream(handler_id, query)
        assert (response.status, await response.read()) == (204, b"")
        # The connection is as good as before.
        assert (await http.get("/health"))[0] == 200


async def test_now_begins_with_what_comes(http: Http) -> None:
    handler_id = await http.start("gate", ticks=2)
    response = await http.stream(handler_id)
    assert b'"done":0' in await response.content.readuntil(b"\n\n")
    assert b'"done":1' in await response.content.readuntil(b"\n\n")
    late = await http.stream(handler_id, "?after_sequence=now")
    await http.post(f"/events/{handler_id}", {"event": {"type": "Go", "value": {"word": "a"}}})
    assert "done" not in await late.text()
    rest = parse((await response.content.read()).decode().strip())
    assert rest[1]["value"] == {"result": "a"}


async def test_names_can_be_left_out_and_times_put_in(memory_http: Http) -> None:
    handler_id = await memory_http.start("greet")
    query = "?include_qualified_name=false&include_time=true&include_internal=true"
    events = await memory_http.events(handler_id, query)
    assert {envelope["qualified_name"] for _, envelope in events} == {None}
    times = [envelope["at"] for _, envelope in events]
    assert times == sorted(times)


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ("after_sequence=x", "Invalid after_sequence: 'x'"),
        ("after_sequence=1.5", "Invalid after_sequence: '1.5'"),
        ("after_sequence=-2", "Invalid after_sequence: '-2'"),
        ("after_sequence=99999999999999999999999", "Invalid after_sequence"),
        ("acquire_timeout=soon", "Invalid acquire_timeout: 'soon'"),
    ],
)
async def test_bad_parameters_of_streams(memory_http: Http, query: str, detail: str) -> None:
    handler_id = await memory_http.start("greet")
    status, refusal = await memory_http.get(f"/events/{handler_id}?{query}")
    assert status == 400
    assert refusal["detail"].startswith(detail)


async def test_large_events_are_streamed_whole(http: Http) -> None:
    name = "x" * 200_000
    handler_id = await http.start("greet", name=name)
    events = await http.events(handler_id)
    assert events[-1][1]["value"] == {"result": f"HELLO {name}".upper()}
    assert events[1][1]["value"] == {"text": f"hello {name}"}


async def test_a_silent_stream_is_kept_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    from ironflow.web import app

    real = app.add_workflow_routes
    monkeypatch.setattr(app, "add_workflow_routes", lambda *a, **k: real(*a, **k, heartbeat=0.02))
    async with serving(WorkflowServer(db="memory")) as http:
        handler_id = await http.start("gate", ticks=0)
        response = await http.stream(handler_id)
        assert await response.content.readuntil(b"\n\n") == b": heartbeat\n\n"
        lines = await http.stream(handler_id, "?sse=false")
        await http.post(f"/events/{handler_id}", {"event": {"type": "Go", "value": {}}})
        assert len((await lines.text()).splitlines()) == 1  # a line is always an event


# -- lists ----------------------------------------------------------------------------------------


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


# -- send and cancel ------------------------------------------------------------------------------


async def test_events_in_every_form(memory_http: Http) -> None:
    forms = [
        {"type": "Go", "value": {"word": "w"}},
        json.dumps({"type": "Go", "value": {"word": "w"}}),
        {"qualified_name": f"{served_app.Go.__module__}.Go", "value": {"word": "w"}},
        {"__is_pydantic": True, "type": "Go", "value": {"word": "w"}, "qualified_name": "x.Y"},
        {"type": "Go", "data": {"word": "w"}},
    ]
    for form in forms:
        handler_id = await memory_http.start("gate")
        assert await memory_http.post(
            f"/events/{handler_id}", {"event": form, "step": "leave"}
        ) == (
            200,
            {"status": "sent"},
        )
        assert (await memory_http.events(handler_id))[-1][1]["value"] == {"result": "w"}


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
        ({"event": {"type": "Go", "value": []}}, "event"),
        ({"event": {"type": "Go", "value": {"word": {"not": "text"}}}}, "word"),
        ({"event": go, "step": "nothing"}, "nothing"),
        ({"event": go, "step": "tick"}, "tick"),
        ({"event": go, "step": 7}, "step"),
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


# -- what is served -------------------------------------------------------------------------------


async def test_what_is_served_is_described(memory_http: Http) -> None:
    _, found = await memory_http.get("/workflows")
    assert set(found["workflows"]) == set(served_app.server.entries)
    _, schema = await memory_http.get("/workflows/checkout/schema")
    assert schema["start"]["required"] == ["customer"]
    assert schema["start"]["properties"]["amount"]["maximum"] == 1000
    assert set(schema["stop"]["properties"]) == {"customer", "total"}
    for _ in range(2):  # asking does not change it
        _, events = await memory_http.get("/workflows/waiter/events")
        titles = [event["title"] for event in events["events"]]
        assert sorted(titles) == ["Asked", "HumanResponseEvent", "StartEvent", "StopEvent"]
    _, graph = await memory_http.get("/workflows/approve/representation")
    graph = graph["graph"]
    assert (graph["name"], graph["description"]) == (
        "Approve",
        "Asks a human and does what they say.",
    )
    kinds = {node["id"]: node["node_type"] for node in graph["nodes"]}
    assert kinds["external_step"] == "external"
    (approval,) = [node for node in graph["nodes"] if node["id"] == "Approval"]
    assert approval["event_types"] == ["Approval", "InputRequiredEvent"]
    assert approval["produced_by"] == ["ask"]
    assert approval["event_schema"]["properties"]["prefix"]["type"] == "string"
    for node in graph["nodes"]:  # what the clients of before require
        assert "title" in node
        assert "event_type" in node


async def test_unknown_names_are_404(memory_http: Http) -> None:
    for path in ("schema", "events", "representation"):
        status, refusal = await memory_http.get(f"/workflows/nothing/{path}")
        assert (status, refusal) == (404, {"detail": "Workflow 'nothing' not found"})
    for verb in ("run", "run-nowait"):
        assert (await memory_http.post(f"/workflows/nothing/{verb}", {}))[0] == 404
    for path in ("/results/x", "/handlers/x", "/events/x"):
        assert await memory_http.get(path) == (404, {"detail": "Handler not found"})
    event = {"event": {"type": "Go", "value": {}}}
    assert (await memory_http.post("/events/x", event))[0] == 404
    assert (await memory_http.post("/handlers/x/cancel"))[0] == 404


async def test_health_satisfies_every_generation(memory_http: Http) -> None:
    status, health = await memory_http.get("/health")
    assert (status, health["status"]) == (200, "healthy")
    for count in ("loaded_workflows", "active_workflows", "idle_workflows"):
        assert isinstance(health[count], int)


async def test_runs_stand_in_the_native_lists(memory_http: Http) -> None:
    await memory_http.post("/workflows/greet/run", {})
    _, runs = await memory_http.get("/api/v1/runs?kind=workflow")
    assert [(run["function_id"], run["status"]) for run in runs["items"]] == [
        ("greet", "completed")
    ]


async def test_refused_starts_leave_nothing_behind(http: Http) -> None:
    bodies: list[Any] = [
        {"start_event": {"amount": 3}},
        {"start_event": None},
        {"start_event": {"customer": "Ada", "amount": 0}},
        {"start_event": {"type": "Receipt", "value": {"customer": "Ada", "total": 1}}},
        {"start_event": {"type": "Nothing", "value": {}}},
        {"start_event": [1]},
        {"start_event": "nonsense"},
        {"start_event": 7},
        {"start_event": {"customer": "Ada"}, "context": "no"},
        {"start_event": {"customer": "Ada"}, "context": {"version": "no"}},
        {"start_event": {"customer": "Ada"}, "handler_id": 7},
        {"start_event": {"customer": "Ada"}, "handler_id": "\x00"},
        {"start_event": {"customer": "Ada"}, "handler_id": "x" * 500},
        {"kwargs": [1]},
        b"",
        b"{",
        b"[]",
        b'"text"',
        b"\xff",
        b"[" * 5000,
    ]
    for body in bodies:
        for verb in ("run", "run-nowait"):
            status, refusal = await http.post(f"/workflows/checkout/{verb}", body)
            assert (status, set(refusal)) == (400, {"detail"}), (body, refusal)
    assert (await http.get("/handlers"))[1]["handlers"] == []
    assert (await http.get("/api/v1/runs"))[1]["items"] == []


# -- browsers -------------------------------------------------------------------------------------


async def test_any_page_may_call_a_server_of_its_own(memory_http: Http) -> None:
    url, origin = memory_http.server.url, {"Origin": "https://elsewhere.example"}
    async with memory_http.session.post(
        f"{url}/workflows/greet/run", data=b"{}", headers=origin
    ) as response:
        assert response.status == 200
        assert response.headers["Access-Control-Allow-Origin"] == origin["Origin"]
        assert response.headers["Access-Control-Allow-Credentials"] == "true"
    handler_id = await memory_http.start("greet")
    response = await memory_http.stream(handler_id, headers=origin)
    assert response.headers["Access-Control-Allow-Origin"] == origin["Origin"]
    await response.read()
    asks = {**origin, "Access-Control-Request-Headers": "content-type, x-own"}
    async with memory_http.session.options(f"{url}/handlers", headers=asks) as response:
        assert response.status == 204
        assert "POST" in response.headers["Access-Control-Allow-Methods"]
        assert response.headers["Access-Control-Allow-Headers"] == "content-type, x-own"
    # The native API keeps its own rule.
    path = "/api/v1/functions/greet/invoke"
    async with memory_http.session.post(url + path, data=b"{}", headers=origin) as response:
        assert response.status == 403


@pytest.mark.parametrize(
    ("allowed", "origin", "status"),
    [
        ("", "https://elsewhere.example", 403),
        ("", "http://localhost:3000", 200),
        ("", "http://127.0.0.1:5173", 200),
        ("", "http://[::1]:5173", 200),
        ("", "null", 403),
        ("", "http://localhost.elsewhere.example", 403),
        ("https://ui.example, https://other.example", "https://other.example", 200),
        ("https://ui.example", "https://elsewhere.example", 403),
    ],
)
async def test_pages_of_other_sites_may_not_by_default(
    allowed: str, origin: str, status: int
) -> None:
    server = WorkflowServer(db="memory", settings={"workflow_origins": allowed})
    async with serving(server) as http:
        headers = {"Origin": origin}
        async with http.session.post(
            f"{server.url}/workflows/greet/run", data=b"{}", headers=headers
        ) as response:
            assert response.status == status
            shown = response.headers.get("Access-Control-Allow-Origin")
            assert shown == (origin if status == 200 else None)


async def test_the_page_lets_nothing_else_in(memory_http: Http) -> None:
    for path in ("/", "/workflows/ui"):
        async with memory_http.session.get(memory_http.server.url + path) as response:
            assert response.status == 200
            assert response.content_type == "text/html"
            assert "default-src 'self'" in response.headers["Content-Security-Policy"]
            etag = response.headers["ETag"]
            assert "https://" not in await response.text()
        again = {"If-None-Match": etag}
        async with memory_http.session.get(
            memory_http.server.url + path, headers=again
        ) as response:
            assert response.status == 304
    for path in ("nothing.js", "../app.py", "..%2f..%2f..%2fweb%2fapp.py"):
        url = f"{memory_http.server.url}/workflows/ui/static/{path}"
        async with memory_http.session.get(url) as response:
            assert response.status == 404


# -- many -----------------------------------------------------------------------------------------


async def test_fifty_runs_at_once(http: Http) -> None:
    bodies = [{"start_event": {"count": 4}} for _ in range(50)]
    answers = await asyncio.gather(*[http.post("/workflows/fan/run", body) for body in bodies])
    assert {status for status, _ in answers} == {200}
    assert all(handler["result"]["value"]["result"] == [0, 1, 2, 3] for _, handler in answers)


async def test_a_thousand_readers_of_one_stream(memory_http: Http) -> None:
    """All of them get everything, and each event is worked out and encoded once."""
    from aiohttp import TCPConnector

    from ironflow.web.workflows.face import RENDERER

    handler_id = await memory_http.start("gate", ticks=10)
    server = memory_http.server
    async with ClientSession(connector=TCPConnector(limit=0)) as session:
        url = f"{server.url}/events/{handler_id}"
        readers = await asyncio.gather(*[session.get(url) for _ in range(1000)])
        firsts = await asyncio.gather(*[r.content.readuntil(b"\n\n") for r in readers])
        await memory_http.post(f"/events/{handler_id}", {"event": {"type": "Go", "value": {}}})
        rests = await asyncio.gather(*[r.content.read() for r in readers])
    texts = {first + rest for first, rest in zip(firsts, rests, strict=True)}
    (text,) = texts
    assert text.count(b"id: ") == 11
    assert server._server is not None
    runner = server._server._runner
    assert runner is not None
    assert runner.app[RENDERER].worked_out < 50
