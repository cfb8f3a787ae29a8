"""The Prefect face as such: spellings of paths, versions, refusals, and what is not stored."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from api.conftest import Api, Serve

from ironflow.actors.prefect.events import DELETED_AT_ONCE, DeleteOld
from ironflow.actors.prefect.logs import DeleteOldLogs
from ironflow.core.clock import SECOND, derive_id
from ironflow.core.errors import StorageFull
from ironflow.storage.memory.store import MemoryStore
from ironflow.storage.sqlite import writer as sqlite_writer
from ironflow.storage.sqlite.store import open_sqlite

NOWHERE = "11111111-1111-4111-8111-111111111111"
VERSION = "X-PREFECT-API-VERSION"


async def ask(
    api: Api, method: str, path: str, body: Any = None, **headers: str
) -> tuple[int, Any, Any]:
    """Status, parsed body (None when there is none) and headers; redirects are not followed."""
    data = body if isinstance(body, bytes | None) else json.dumps(body)
    options: dict[str, Any] = {"data": data, "headers": headers, "allow_redirects": False}
    async with api.client.request(method, f"/api{path}", **options) as response:
        text = await response.read()
        return response.status, json.loads(text) if text else None, response.headers


@pytest.mark.parametrize(
    ("method", "path", "other"),
    [
        ("GET", "/health/", "/health"),
        ("POST", "/flows", "/flows/"),
        ("POST", "/logs", "/logs/"),
        ("POST", "/events/", "/events"),
        ("GET", "/flow_run_states?flow_run_id=a%20b", "/flow_run_states/?flow_run_id=a%20b"),
        ("GET", f"/flows/{NOWHERE}/", f"/flows/{NOWHERE}"),
    ],
)
async def test_the_other_spelling_is_a_redirect(
    memory_api: Api, method: str, path: str, other: str
) -> None:
    status, _, headers = await ask(memory_api, method, path, b"{}")
    assert status == 307
    place = headers["Location"]
    host = str(memory_api.client.make_url("/api"))
    assert place.replace("+", "%20") == host + other
    status, *_ = await ask(memory_api, method, place.removeprefix(host), b"{}")
    assert status != 307


async def test_a_redirect_is_followed_with_its_body(memory_api: Api) -> None:
    async with memory_api.client.post("/api/flows", json={"name": "moved"}) as response:
        assert response.status == 201
        assert (await response.json())["name"] == "moved"


@pytest.mark.parametrize(
    ("version", "status"),
    [
        ("0.8.4", 200), ("0.8.0", 200), ("0.9.0", 200), ("1.0.0", 200), ("0.7.9", 400),
        ("0.8", 400), ("new", 400), ("0.8.4.1", 400), ("", 400),
    ],
)  # fmt: skip
async def test_api_versions(memory_api: Api, version: str, status: int) -> None:
    found, body, _ = await ask(memory_api, "GET", "/admin/version", **{VERSION: version})
    assert found == status
    assert body == "3.9.1" if status == 200 else "detail" in body


async def test_what_is_not_there_and_what_is_not_allowed(memory_api: Api) -> None:
    api = memory_api
    for path in ("/nothing", "/flows/no-uuid", f"/flows/{NOWHERE}/more", "/flow_runs/filter/x"):
        status, body, _ = await ask(api, "GET", path)
        assert (status, body) == (404, {"detail": "Not Found"})
    status, body, headers = await ask(api, "PUT", "/flows/")
    assert (status, body) == (405, {"detail": "Method Not Allowed"})
    assert "POST" in headers["Allow"]
    status, body, _ = await ask(api, "GET", f"/flow_runs/{NOWHERE}")
    assert (status, body) == (404, {"detail": "Flow run not found"})
    # An id may be written without its dashes, and in capitals.
    _, flow, _ = await ask(api, "POST", "/flows/", {"name": "dashed"})
    for spelling in (flow["id"].replace("-", ""), flow["id"].upper()):
        status, body, _ = await ask(api, "GET", f"/flows/{spelling}")
        assert (status, body["id"]) == (200, flow["id"])
    # The native face keeps its own refusals.
    async with api.client.get("/api/v1/nothing") as response:
        assert response.content_type == "application/problem+json"


@pytest.mark.parametrize(
    ("body", "where", "kind"),
    [
        (b"", ["body"], "missing"),
        (b"{", ["body"], "json_invalid"),
        (b'{"name": "\xff"}', ["body"], "json_invalid"),
        ({}, ["body", "name"], "missing"),
        ({"name": 5}, ["body", "name"], "string_type"),
        ({"name": "x", "more": 1}, ["body", "more"], "extra_forbidden"),
        ([], ["body"], "model_attributes_type"),
        (b'{"name":' + b"[" * 100_000, ["body"], "recursion"),
    ],
)
async def test_a_bad_body_is_shown_with_its_faults(
    memory_api: Api, body: Any, where: list[Any], kind: str
) -> None:
    status, answer, _ = await ask(memory_api, "POST", "/flows/", body)
    assert status == 422
    assert answer.keys() == {"exception_message", "exception_detail", "request_body"}
    (fault,) = answer["exception_detail"]
    assert (fault["loc"], fault["type"]) == (where, kind)
    assert fault["msg"]
    if isinstance(body, dict):
        assert answer["request_body"] == body


_CONSTANT = {"input_type": "constant", "type": "int"}


@pytest.mark.parametrize(
    ("inputs", "where", "kind"),
    [
        ({"x": [_CONSTANT], "y": 5}, ["y"], "list_type"),
        ({"x": [_CONSTANT], "y": [_CONSTANT, None]}, ["y", 1], "model_attributes_type"),
        ({"y": [_CONSTANT, {"input_type": "task_run"}]}, ["y", 1, "id"], "missing"),
        ({"y": [{"input_type": "task_run", "id": "x"}]}, ["y", 0, "id"], "uuid_parsing"),
        ({"y": [{"input_type": "magic"}]}, ["y", 0, "input_type"], "value_error"),
        ({"x": [_CONSTANT], "y": [{**_CONSTANT, "type": 4}]}, ["y", 0, "type"], "string_type"),
    ],
)
async def test_inputs_that_a_client_could_not_read_back_are_refused(
    memory_api: Api, inputs: Any, where: list[Any], kind: str
) -> None:
    body = {"task_key": "t", "dynamic_key": "0", "task_inputs": inputs}
    status, answer, _ = await ask(memory_api, "POST", "/task_runs/", body)
    (fault,) = answer["exception_detail"]
    assert (status, fault["loc"], fault["type"]) == (422, ["body", "task_inputs", *where], kind)


@pytest.mark.parametrize("label", [None, [1], {"b": 1}])
async def test_a_label_that_is_no_value_is_refused_by_its_name(memory_api: Api, label: Any) -> None:
    labels = {"fine": 1, "team": label}
    for path, body, within in (
        ("/flows/", {"name": "labelled", "labels": labels}, ["body", "labels"]),
        (f"/flow_runs/{NOWHERE}/labels", labels, ["body"]),
    ):
        method = "PATCH" if path.endswith("labels") else "POST"
        status, answer, _ = await ask(memory_api, method, path, body)
        (fault,) = answer["exception_detail"]
        assert (status, fault["loc"], fault["input"]) == (422, [*within, "team"], label)


@pytest.mark.parametrize(
    "odd", [{"labels": {"team": None}}, {"task_inputs": {"x": [{"input_type": "task_run"}]}}]
)
async def test_a_report_that_a_client_could_not_read_back_makes_no_task_run(
    memory_api: Api, odd: dict[str, Any]
) -> None:
    """One such row would break every list that it is in."""

    def report(number: int, **more: Any) -> dict[str, Any]:
        task = {"name": f"t{number}", "task_key": "t", "dynamic_key": str(number), **more}
        return {
            "id": derive_id("report", str(number)),
            "occurred": "2026-11-26T04:00:00Z",
            "event": "prefect.task-run.Running",
            "resource": {
                "prefect.resource.id": f"prefect.task-run.{derive_id('task', str(number))}",
                "prefect.orchestration": "client",
            },
            "payload": {"task_run": task, "validated_state": {"type": "RUNNING"}},
        }

    fine = {
        "labels": {"team": "data", "size": 1.5},
        "task_inputs": {"x": [_CONSTANT, {"input_type": "task_run", "id": NOWHERE}]},
    }
    events = [report(1, **odd), report(2, **fine)]
    assert (await ask(memory_api, "POST", "/events", events))[0] == 204
    _, rows, _ = await ask(memory_api, "POST", "/task_runs/filter", {})
    assert [row["name"] for row in rows] == ["t2"]
    assert {name: rows[0][name] for name in fine} == fine


async def test_a_body_that_is_too_large_is_refused(serve: Serve) -> None:
    async with serve(MemoryStore(), body_limit=2048) as api:
        status, body, _ = await ask(api, "POST", "/flows/", {"name": "x" * 4096})
        assert status == 413
        assert "too large" in body["detail"]


async def test_what_may_go_well_later_is_a_503(serve: Serve) -> None:
    full = False
    store = MemoryStore(fault=lambda batches: StorageFull("the disk is full") if full else None)
    line = {"name": "n", "level": 20, "message": "m", "timestamp": "2026-01-01T00:00:00Z"}
    async with serve(store) as api:
        full = True
        for path, body in (("/flows/", {"name": "x"}), ("/logs/", [line])):
            status, answer, headers = await ask(api, "POST", path, body)
            assert status == 503
            assert answer["detail"]
            assert int(headers["Retry-After"]) >= 1
        assert (await ask(api, "POST", "/logs/filter"))[:2] == (200, [])


async def test_lists_are_read_while_the_disk_is_full(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_writer, "LINGER", 1000.0)
    store = await open_sqlite(tmp_path / "iron.db")
    async with serve(store) as api:
        _, flow, _ = await ask(api, "POST", "/flows/", {"name": "f"})
        made = []
        for number in range(30):
            run = {"flow_id": flow["id"], "name": f"name {number} {'x' * 300}", "tags": ["t"]}
            status, body, _ = await ask(api, "POST", "/flow_runs/", run)
            assert status == 201
            made.append(body["id"])
        assert store.journal.backlog.rows
        pages = "PRAGMA max_page_count"
        store._writer.raw.execute(f"{pages} = 1")  # as many as there are
        with pytest.raises(StorageFull):
            await store.journal.settle()
        questions: dict[str, dict[str, Any]] = {
            "all": {"limit": 50},
            "by name": {"flow_runs": {"name": {"like_": "name 2"}}, "sort": "NAME_ASC"},
            "by parts": {"flow_runs": {"name": {"any_": [f"name 7 {'x' * 300}"]}}},
            "a page": {"offset": 10, "limit": 5, "sort": "EXPECTED_START_TIME_DESC"},
        }

        async def answers() -> dict[str, set[str]]:
            found = {}
            for name, question in questions.items():
                status, rows, _ = await ask(api, "POST", "/flow_runs/filter", question)
                assert status == 200, rows
                found[name] = {row["id"] for row in rows}
            status, count, _ = await ask(api, "POST", "/flow_runs/count", {})
            assert (status, count) == (200, 30)
            return found

        without = await answers()
        assert without["all"] == set(made)
        assert {name: len(ids) for name, ids in without.items()} == {
            "all": 30, "by name": 11, "by parts": 1, "a page": 5,
        }  # fmt: skip
        gathered = await asyncio.gather(*[answers() for _ in range(5)])
        assert all(each == without for each in gathered)
        assert store.journal.backlog.rows  # nothing was written
        store._writer.raw.execute(f"{pages} = 100000")
        assert await answers() == without
        assert not store.journal.backlog.rows


async def test_pages_of_another_site_may_not_write(memory_api: Api) -> None:
    headers = {"Origin": "https://evil.example"}
    status, *_ = await ask(memory_api, "POST", "/flows/", {"name": "x"}, **headers)
    assert status == 403


# -- pages of events ------------------------------------------------------------------------------


def make_events(count: int, name: str = "paged") -> list[dict[str, Any]]:
    now = datetime.now(UTC)
    return [
        {
            "occurred": (now - timedelta(seconds=count - n)).isoformat(),
            "event": name,
            "resource": {"prefect.resource.id": f"r{n % 3}"},
            "payload": {"n": n},
            "id": derive_id(name, str(n)),
        }
        for n in range(count)
    ]


async def test_the_next_page_is_at_the_host_that_was_asked(api: Api) -> None:
    await ask(api, "POST", "/events", make_events(130))
    search = {"filter": {"event": {"name": ["paged"]}}}
    headers = {"Host": "flows.example:8080"}
    _, page, _ = await ask(api, "POST", "/events/filter", search, **headers)
    seen = [event["payload"]["n"] for event in page["events"]]
    assert page["total"] == 130
    await ask(api, "POST", "/events", make_events(5, "later"))
    while (place := page["next_page"]) is not None:
        start = "http://flows.example:8080/api"
        assert place.startswith(start)
        status, page, _ = await ask(api, "GET", place.removeprefix(start), **headers)
        assert (status, page["total"]) == (200, 130)
        seen += [event["payload"]["n"] for event in page["events"]]
    assert seen == list(range(129, -1, -1))


@pytest.mark.parametrize("token", ["", "abc", "e30", "%00", "bnVsbA", "e30=" * 400])
async def test_a_token_that_was_not_given_out_is_forbidden(memory_api: Api, token: str) -> None:
    status, body, _ = await ask(memory_api, "GET", f"/events/filter/next?page-token={token}")
    assert (status, body) == (403, {"detail": "Forbidden"})


async def test_counts_in_time_cover_the_whole_span(memory_api: Api) -> None:
    start = datetime(2026, 3, 4, 5, 30, tzinfo=UTC)
    events = make_events(4)
    for number, event in enumerate(events):
        event["occurred"] = (start + timedelta(minutes=40 * number)).isoformat()
    await ask(memory_api, "POST", "/events", events)
    until = (start + timedelta(hours=3)).isoformat()
    wanted = {"occurred": {"since": start.isoformat(), "until": until}}
    body = {"filter": wanted, "time_unit": "hour", "time_interval": 1.0}
    _, found, _ = await ask(memory_api, "POST", "/events/count-by/time", body)
    assert [span["count"] for span in found] == [1, 2, 1, 0]
    assert found[0]["start_time"] == "2026-03-04T05:00:00.000000Z"
    assert found[-1]["end_time"] == "2026-03-04T08:59:59.999999Z"
    status, refused, _ = await ask(
        memory_api, "POST", "/events/count-by/time", {**body, "time_unit": "second"}
    )
    assert status == 422
    assert "10801 spans" in refused["detail"]
    _, by_resource, _ = await ask(memory_api, "POST", "/events/count-by/resource", body)
    assert [(one["value"], one["count"]) for one in by_resource] == [
        ("r0", 2),
        ("r1", 1),
        ("r2", 1),
    ]


# -- retention ------------------------------------------------------------------------------------


async def test_old_events_and_logs_of_no_run_go(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also more than go at once; a log line of a run stays as long as the run."""
    _, flow, _ = await ask(api, "POST", "/flows/", {"name": "kept"})
    _, run, _ = await ask(api, "POST", "/flow_runs/", {"flow_id": flow["id"]})
    line = {"name": "n", "level": 20, "message": "m", "timestamp": "2020-01-01T00:00:00Z"}
    lines = [line, {**line, "flow_run_id": NOWHERE}, {**line, "flow_run_id": run["id"]}]
    await ask(api, "POST", "/logs/", lines)
    await ask(api, "POST", "/events", make_events(DELETED_AT_ONCE + 50, "old"))
    now = api.engine.clock.now()
    week = 7 * 86_400 * SECOND
    monkeypatch.setattr(type(api.engine.clock), "now", lambda clock: now + week + SECOND * 60)
    await ask(api, "POST", "/events", make_events(3, "new"))
    gone = [await api.engine.feeds.event_keeper.ask(DeleteOld()) for _ in range(3)]
    # The first piece asks for the next one itself; between them all that is old has gone.
    assert sum(gone) <= DELETED_AT_ONCE + 50 + 10
    _, page, _ = await ask(api, "POST", "/events/filter", {"limit": 200})
    assert {event["event"] for event in page["events"]} == {"new"}
    query = "SELECT count(*) FROM event_resources"
    assert await api.engine.store.reader.select(query) == [(3,)]
    assert await api.engine.feeds.log_keeper.ask(DeleteOldLogs()) == 2
    _, left, _ = await ask(api, "POST", "/logs/filter")
    assert [one["flow_run_id"] for one in left] == [run["id"]]
    # Nothing is looked at twice, and what comes later is looked at, too.
    assert await api.engine.feeds.log_keeper.ask(DeleteOldLogs()) == 0
    await ask(api, "POST", "/logs/", lines[:2])
    later = now + 3 * week
    monkeypatch.setattr(type(api.engine.clock), "now", lambda clock: later)
    assert await api.engine.feeds.log_keeper.ask(DeleteOldLogs()) == 2
    await ask(api, "DELETE", f"/flow_runs/{run['id']}")
    assert (await ask(api, "POST", "/logs/filter"))[1] == []


# -- what is not stored ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "answer"),
    [
        ("POST", "/deployments/filter", {}, 200, []),
        ("POST", "/deployments/count", {}, 200, 0),
        ("GET", "/deployments/name/a/b", None, 404, {"detail": "Deployment not found"}),
        ("POST", "/work_pools/filter", None, 200, []),
        ("GET", "/block_types/slug/secret", None, 404, {"detail": "Block type not found"}),
        ("POST", "/variables/filter", {}, 200, []),
        ("POST", "/artifacts/count", {}, 200, 0),
        ("GET", "/collections/views/x", None, 404, {"detail": "View not found"}),
        ("POST", "/concurrency_limits/filter", {}, 200, []),
        (
            "POST", "/v2/concurrency_limits/increment",
            {"names": ["tag:x"], "slots": 1}, 200, [],
        ),
        (
            "POST", f"/v2/concurrency_limits/leases/{NOWHERE}/renew",
            {"lease_duration": 60}, 410,
            {"detail": "Lease not found - it may have expired or been revoked"},
        ),
        ("POST", "/v2/concurrency_limits/decrement-with-lease", {"lease_id": NOWHERE}, 204, None),
    ],
)  # fmt: skip
async def test_what_is_not_stored_is_not_made_up(
    memory_api: Api, method: str, path: str, body: Any, status: int, answer: Any
) -> None:
    assert (await ask(memory_api, method, path, body))[:2] == (status, answer)


@pytest.mark.parametrize(
    ("method", "path", "what"),
    [
        ("POST", "/variables/", "Variables"),
        ("PATCH", "/variables/name/x", "Variables"),
        ("POST", "/deployments/", "Deployments"),
        ("POST", "/work_pools/", "Work pools"),
        ("POST", "/v2/concurrency_limits/", "Concurrency limits"),
        ("PUT", f"/automations/{NOWHERE}", "Automations"),
    ],
)
async def test_who_writes_what_is_not_stored_is_told_so(
    memory_api: Api, method: str, path: str, what: str
) -> None:
    status, answer, _ = await ask(memory_api, method, path, {"name": "x"})
    assert status in (404, 405)
    assert answer == {"detail": f"{what} are not stored by this server"}


async def test_a_tagged_task_gets_its_lease_of_nothing(memory_api: Api) -> None:
    body = {"names": ["tag:a"], "slots": 1, "mode": "concurrency"}
    path = "/v2/concurrency_limits/increment-with-lease"
    status, answer, _ = await ask(memory_api, "POST", path, body)
    assert (status, answer["limits"]) == (200, [])
    for bad in ({**body, "slots": 0}, {**body, "mode": "x"}, {"slots": 1}):
        assert (await ask(memory_api, "POST", path, bad))[0] == 422
