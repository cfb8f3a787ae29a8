"""Looking runs up by name, and cursors that lie before the first or behind the last event."""

from __future__ import annotations

import pytest
from workflow_server.http_client import Http


async def test_handlers_by_name_answer_200_however_they_ended(memory_http: Http) -> None:
    http = memory_http
    await http.post("/workflows/fails/run", {"start_event": {}, "handler_id": "bad"})
    await http.post("/workflows/greet/run", {"start_event": {}, "handler_id": "good"})
    status, page = await http.get("/handlers?handler_id=bad")
    assert status == 200
    assert [(row["handler_id"], row["status"]) for row in page["handlers"]] == [("bad", "failed")]
    assert page["handlers"][0]["error"] == "it cannot work"
    for query, names in {
        "handler_id=good&handler_id=bad&handler_id=good": ["good", "bad"],
        "handler_id=good&handler_id=bad&status=completed": ["good"],
        "handler_id=good&handler_id=bad&workflow_name=fails": ["bad"],
        "handler_id=good&status=zzz": [],
        "handler_id=nobody": [],
    }.items():
        status, page = await http.get(f"/handlers?{query}")
        assert status == 200
        assert [row["handler_id"] for row in page["handlers"]] == names, query
    status, answer = await http.get("/handlers?handler_id=a%00b")
    assert status == 400
    assert "handler_id" in answer["detail"]


@pytest.mark.parametrize("after", ["-1", "-7", f"-{10**40}"])
async def test_a_cursor_before_the_first_event_gives_all(memory_http: Http, after: str) -> None:
    handler = await memory_http.start("greet")
    all_of_them = await memory_http.events(handler)
    assert await memory_http.events(handler, f"?after_sequence={after}") == all_of_them


@pytest.mark.parametrize("after", ["now", "NOW", "99", str(10**40)])
async def test_a_cursor_behind_the_end_of_a_run_that_is_over_gives_nothing(
    memory_http: Http, after: str
) -> None:
    handler = await memory_http.start("greet")
    await memory_http.events(handler)
    response = await memory_http.stream(handler, f"?after_sequence={after}")
    assert response.status == 204


async def test_reasons_and_descriptions_read_well(memory_http: Http) -> None:
    status, refusal = await memory_http.post("/workflows/greet/run", {"start_event": 1})
    assert (status, refusal["detail"]) == (400, "start_event: must be an object, not a number")
    _, answer = await memory_http.get("/workflows/endures/representation")
    assert answer["graph"]["description"] == "Works for a while.\n\nIn one step, and in a next one."
