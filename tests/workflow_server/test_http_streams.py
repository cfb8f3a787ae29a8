"""The workflow API over HTTP: streams of events, and many readers and runs at once."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from aiohttp import ClientSession
from workflow_server.http_client import START, Http, parse, serving

from ironflow.workflows.server import WorkflowServer

# -- streams ---------------------------------------------------------------------------------------


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
    response = await http.stream(handler_id, "?sse=false", headers=header)
    assert len((await response.text()).splitlines()) == 3  # which is for server-sent events alone
    assert await numbers("?acquire_timeout=2.5") == [1, 4, 6]
    # Only `true` is true; what an event does not declare stands apart from its fields.
    assert await numbers("?include_internal=1") == [1, 4, 6]
    response = await http.stream(handler_id, "?sse=yes&after_sequence=4")
    assert response.content_type == "application/x-ndjson"


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


async def test_readers_are_told_which_question_was_answered(http: Http) -> None:
    handler_id = await http.start("approve")
    response = await http.stream(handler_id)
    question, _ = parse((await response.content.readuntil(b"\n\n")).decode().strip())
    answer = {"type": "Decision", "value": {"response": "yes"}}
    sent = await http.post(f"/events/{handler_id}", {"event": answer, "answers": question})
    assert sent == (200, {"status": "sent"})
    events = await http.events(handler_id, "?include_internal=true&include_time=true")
    kinds = [envelope["type"] for _, envelope in events]
    at = kinds.index("QuestionAnswered")
    told, begun = events[at][1], events[at + 1][1]
    assert told["value"] == {"question": question, "event_type": "Decision", "jobs": [1]}
    assert told["types"] == ["InternalDispatchEvent"]
    assert (begun["value"]["name"], begun["job"]) == ("act", 1)
    numbers = [number for number, _ in events]
    assert numbers == list(range(len(numbers)))
    assert "QuestionAnswered" not in {e["type"] for _, e in await http.events(handler_id)}


async def test_an_event_that_nobody_takes_answers_no_question(memory_http: Http) -> None:
    handler_id = await memory_http.start("gate", ticks=1)
    nothing = {"event": {"type": "Progress", "value": {"done": 1, "total": 1}}, "answers": 1}
    assert (await memory_http.post(f"/events/{handler_id}", nothing))[0] == 200
    await memory_http.post(f"/events/{handler_id}", {"event": {"type": "Go", "value": {}}})
    events = await memory_http.events(handler_id, "?include_internal=true")
    assert "QuestionAnswered" not in [envelope["type"] for _, envelope in events]
    (unhandled,) = [envelope for _, envelope in events if envelope["type"] == "UnhandledEvent"]
    assert unhandled["types"] == ["InternalDispatchEvent"]
    name = unhandled["value"].pop("qualified_name")
    assert name.endswith("served_app.Progress")
    assert unhandled["value"] == {"event_type": "Progress", "step_name": None, "idle": True}


async def test_jobs_that_find_no_worker_are_told(http: Http) -> None:
    handler_id = await http.start("fan", count=6)
    events = await http.events(handler_id, "?include_internal=true&include_time=true")
    assert [number for number, _ in events] == list(range(len(events)))
    told: dict[str, list[int]] = {"preparing": [], "running": []}
    for _, envelope in events:
        value = envelope["value"]
        if value.get("name") == "work" and value["step_state"] in told:
            told[value["step_state"]].append(envelope["job"])
            is_worker = value["worker_id"] in ("0", "1", "2")
            assert is_worker == (value["step_state"] == "running")
            assert value["input_event_name"] == "Item"
    assert len(told["running"]) == 6
    assert told["preparing"] == told["running"][3:]  # three workers, and who comes first is served


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
        (f"after_sequence=1{'0' * 100}", "Invalid after_sequence"),
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


# -- many ------------------------------------------------------------------------------------------


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
