"""What goes wrong over HTTP: every refusal is a problem document with status, code and field."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from ironflow.core.errors import Overloaded, StorageError, StorageFull
from ironflow.storage.memory.store import MemoryStore
from ironflow.storage.ports import Batch

INVOKE = "/api/v1/functions/echo/invoke"
EVENTS = "/api/v1/events"


class Fault:
    """Refuses commits while it has an error."""

    def __init__(self) -> None:
        self.error: StorageError | None = None

    def __call__(self, batches: list[Batch]) -> Exception | None:
        return self.error


@pytest.mark.parametrize("path", ["/nope", "/api/v1/nope", "/api/v1/runs/", "/api", "/%ff%fe"])
async def test_an_unknown_route_is_a_problem(memory_api: Any, path: str) -> None:
    answer = await memory_api.get(path)
    assert (answer.status, answer.kind) == (404, "application/problem+json")
    assert answer.json["code"] == "not_found"


async def test_a_wrong_method_says_the_right_ones(memory_api: Any) -> None:
    answer = await memory_api.ask("DELETE", "/api/v1/runs")
    assert (answer.status, answer.json["code"]) == (405, "method_not_allowed")
    assert answer.headers["Allow"] == "GET, HEAD"
    answer = await memory_api.ask("PUT", EVENTS)
    assert answer.headers["Allow"] == "GET, HEAD, POST"


async def test_head_answers_without_a_body(memory_api: Any) -> None:
    async with memory_api.client.head("/api/v1/runs") as response:
        assert (response.status, await response.read()) == (200, b"")


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b"", 400, None),
        (b"  ", 400, None),
        (b"nope", 400, None),
        (b'{"name": "a"', 400, None),
        (b'{"name": NaN}', 400, None),
        (b'{"name": "\xff"}', 400, None),
        (b'\xef\xbb\xbf{"name": "a"}', 400, None),
        (b"[]", 422, "body"),
        (b"null", 422, "body"),
        (b"{}", 422, "name"),
        (b'{"name": 1}', 422, "name"),
        (b'{"name": "a", "extra": 1}', 422, "extra"),
        (b'{"name": "a", "idempotency_key": 5}', 422, "idempotency_key"),
        (b'{"name": "a", "data": "\xff"}', 422, "data"),
        (b'{"name": "a", "data": 1e999}', 422, "data"),
        (b'{"name": "a", "data": ' + b"[" * 65 + b"]" * 65 + b"}", 422, "data"),
        (b'{"name": "a", "data": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 422, "body"),
        (b'{"name": "a", "data": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"}", 422, "body"),
    ],
)
async def test_a_bad_body_names_the_field(
    memory_api: Any, body: bytes, status: int, field: str | None
) -> None:
    answer = await memory_api.post(EVENTS, body)
    assert answer.status == status, answer.body
    assert answer.json.get("field") == field
    assert answer.json["status"] == status
    assert answer.json["title"]
    assert (await memory_api.get(EVENTS)).json["items"] == []


async def test_nesting_up_to_the_limit_is_taken(memory_api: Any) -> None:
    brackets = b"[" * 64 + b"]" * 64
    quoted = b'{"a":"' + b"[" * 500 + b'\\"[","b":' + b"[" * 63 + b"]" * 63 + b"}"
    for data in (brackets, quoted):
        body = b'{"input":' + data + b"}"
        answer = await memory_api.post(f"{INVOKE}?wait=60s", body)
        assert (answer.status, answer.json["status"]) == (200, "completed"), answer.body
        assert data in answer.body


async def test_a_body_that_is_too_large_is_refused(serve: Any) -> None:
    async with serve(MemoryStore(), body_limit=1000) as api:
        answer = await api.post(EVENTS, {"name": "a", "data": "x" * 1000})
        assert (answer.status, answer.json["code"]) == (413, "too_large")
        assert (await api.post(EVENTS, {"name": "a", "data": "x" * 900})).status == 201


async def test_a_compressed_bomb_is_refused(serve: Any, caplog: pytest.LogCaptureFixture) -> None:
    import gzip

    async with serve(MemoryStore(), body_limit=10_000) as api:
        bomb = gzip.compress(b'{"name":"a","data":"' + b"x" * 1_000_000 + b'"}')
        assert len(bomb) < 10_000
        answer = await api.post(EVENTS, bomb, headers={"Content-Encoding": "gzip"})
        assert answer.status == 413
        answer = await api.post(EVENTS, b"not gzip", headers={"Content-Encoding": "gzip"})
        assert answer.status == 400
        assert (await api.post(EVENTS, {"name": "a", "data": 1})).status == 201
    assert "Unhandled exception" not in caplog.text  # the client's mistake is none of ours


async def test_a_full_disk_is_told_and_reads_go_on(serve: Any) -> None:
    fault = Fault()
    async with serve(MemoryStore(fault=fault)) as api:
        run_id = (await api.end("echo", 1))["run_id"]
        fault.error = StorageFull()
        for path, body in ((INVOKE, {}), (EVENTS, {"name": "a"})):
            answer = await api.post(path, body)
            assert (answer.status, answer.json["code"]) == (507, "storage_full")
            assert answer.headers["Retry-After"] == "5"
            assert answer.json["retry_after"] == 5.0
        batch = await api.post(f"{EVENTS}/batch", [{"name": "a"}])
        assert batch.json["items"][0]["problem"]["status"] == 507
        assert (await api.get(f"/api/v1/runs/{run_id}")).json["result"] == 1
        ready = await api.get("/ready")
        assert (ready.status, ready.json["status"]) == (503, "not_ready")
        assert "disk is full" in ready.json["issues"][0]
        fault.error = None
        assert (await api.get("/ready")).status == 200
        assert (await api.post(EVENTS, {"name": "a"})).status == 201
        assert (await api.get("/ready")).status == 200


async def test_a_broken_journal_is_unavailable(serve: Any) -> None:
    fault = Fault()
    async with serve(MemoryStore(fault=fault)) as api:
        fault.error = StorageError("the disk is gone")
        answer = await api.post(INVOKE)
        assert (answer.status, answer.json["code"]) == (503, "storage_error")
        fault.error = None


async def test_a_full_mailbox_says_when_to_try_again(
    memory_api: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*args: Any, **options: Any) -> None:
        raise Overloaded("the mailbox of router/", 2.5)

    monkeypatch.setattr(memory_api.engine, "emit", refuse)
    answer = await memory_api.post(EVENTS, {"name": "a"})
    assert (answer.status, answer.json["code"]) == (429, "overloaded")
    assert answer.headers["Retry-After"] == "3"
    assert answer.json["retry_after"] == 2.5


async def test_a_server_that_drains_takes_no_new_work(memory_api: Any) -> None:
    run_id = (await memory_api.end("echo"))["run_id"]
    memory_api.engine.begin_drain()
    for path, body in ((INVOKE, {}), (EVENTS, {"name": "a"}), (f"{EVENTS}/batch", [])):
        answer = await memory_api.post(path, body)
        assert (answer.status, answer.json["code"]) == (503, "draining")
        assert answer.headers["Retry-After"] == "5"
    ready = await memory_api.get("/ready")
    assert ready.status == 503
    assert "shutting down" in ready.json["issues"][0]
    assert (await memory_api.get("/health")).status == 200
    assert (await memory_api.get(f"/api/v1/runs/{run_id}")).status == 200


async def test_an_answer_that_does_not_come_is_unavailable(
    memory_api: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(*args: Any, **options: Any) -> None:
        raise TimeoutError

    monkeypatch.setattr(memory_api.engine, "invoke", hang)
    answer = await memory_api.post(INVOKE)
    assert (answer.status, answer.json["code"]) == (503, "unavailable")
    assert answer.headers["Retry-After"] == "1"


@pytest.mark.parametrize("dev", [False, True])
async def test_a_defect_is_named_in_the_log_and_not_in_the_answer(
    serve: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, dev: bool
) -> None:
    async with serve(MemoryStore(), dev=dev) as api:

        async def fail(*args: Any, **options: Any) -> None:
            raise ZeroDivisionError("secret \udcff")

        monkeypatch.setattr(api.engine, "functions", fail)
        with caplog.at_level(logging.ERROR, "ironflow.web"):
            async with api.client.get("/api/v1/functions") as response:
                problem = await response.json(content_type="application/problem+json")
        assert (response.status, problem["code"]) == (500, "internal")
        (record,) = caplog.records
        error_id = record.args[0]
        assert error_id in problem["detail"]
        assert record.exc_info[0] is ZeroDivisionError
        assert "Traceback" not in str(problem)
        assert ("secret" in problem["detail"]) is dev


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
    ],
)
async def test_pages_of_other_sites_may_not_write(memory_api: Any, headers: dict[str, str]) -> None:
    answer = await memory_api.post(INVOKE, headers=headers)
    assert (answer.status, answer.json["code"]) == (403, "cross_origin")
    assert (await memory_api.get("/api/v1/runs", headers=headers)).json["items"] == []


async def test_pages_of_this_site_may_write(memory_api: Any) -> None:
    host = f"{memory_api.client.host}:{memory_api.client.port}"
    for headers in ({"Sec-Fetch-Site": "same-origin"}, {"Origin": f"http://{host}"}):
        assert (await memory_api.post(INVOKE, headers=headers)).status == 201


async def test_an_error_after_the_answer_began_ends_the_connection(
    serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    from aiohttp import ClientPayloadError, web
    from aiohttp.test_utils import TestClient, TestServer

    from ironflow.core.clock import Ids, SystemClock
    from ironflow.web.problems import make_middleware, note_prepared

    async def half(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"half")
        raise ZeroDivisionError

    app = web.Application(middlewares=[make_middleware(Ids(SystemClock()))])
    app.on_response_prepare.append(note_prepared)
    app.router.add_get("/half", half)
    async with TestClient(TestServer(app)) as client, client.get("/half") as response:
        assert response.status == 200
        with pytest.raises(ClientPayloadError):
            await response.read()
    assert "ZeroDivisionError" in caplog.text
