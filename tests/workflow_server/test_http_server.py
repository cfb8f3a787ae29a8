"""The workflow API over HTTP: what a server says it serves, and to whose pages."""

from __future__ import annotations

from typing import Any

import pytest
from workflow_server import served_app
from workflow_server.http_client import Http, serving

from ironflow.workflows.server import WorkflowServer

# -- what is served --------------------------------------------------------------------------------


async def test_what_is_served_is_described(memory_http: Http) -> None:
    _, found = await memory_http.get("/workflows")
    assert found["workflows"] == list(served_app.server.entries)  # in the order of their adding
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
    assert health["loaded_workflows"] == len(served_app.server.entries)
    server: Any = memory_http.server._server
    server.engine.started = False  # as while it brings back what was unfinished
    url = f"{memory_http.server.url}/health"
    async with memory_http.session.get(url) as response:
        assert (response.status, (await response.json())["status"]) == (503, "unhealthy")


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


# -- browsers --------------------------------------------------------------------------------------


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
