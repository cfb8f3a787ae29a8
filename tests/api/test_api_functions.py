"""Functions over HTTP: list, get, invoke, wait, idempotency, input that is kept as it is."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

INVOKE = "/api/v1/functions/{}/invoke"


async def test_functions_are_listed_by_id(api: Any) -> None:
    answer = await api.get("/api/v1/functions")
    assert answer.status == 200
    ids = [item["id"] for item in answer.json["items"]]
    assert ids == sorted(ids)
    assert {"echo", "order", "ticks"} <= set(ids)
    one = await api.get("/api/v1/functions/ticks")
    assert one.json in answer.json["items"]


async def test_a_function_says_what_starts_it_and_how_it_is_retried(api: Any) -> None:
    ticks = (await api.get("/api/v1/functions/ticks")).json
    assert (ticks["cron"], ticks["timezone"], ticks["timeout"]) == (
        "0 3 * * *",
        "Europe/Berlin",
        3600.0,
    )
    assert ticks["next_run_at"].endswith("Z")
    assert ticks["retry"]["max_attempts"] == 5
    assert ticks["served"] is True
    on_order = (await api.get("/api/v1/functions/on-order")).json
    assert on_order["triggers"] == [{"event": "order.>", "expression": "data.amount > 10"}]
    assert on_order["next_run_at"] is None
    echo = (await api.get("/api/v1/functions/echo")).json
    assert echo["description"] == "Gives back what it was given."
    order = (await api.get("/api/v1/functions/order")).json
    assert "amount" in str(order["input_schema"])


@pytest.mark.parametrize("path", ["/api/v1/functions/none", "/api/v1/functions/a%2Fb%00"])
async def test_an_unknown_function_is_not_found(memory_api: Any, path: str) -> None:
    for answer in (await memory_api.get(path), await memory_api.post(f"{path}/invoke")):
        assert answer.status == 404
        assert answer.kind == "application/problem+json"
        assert answer.json["code"] == "not_found"


async def test_invoke_creates_a_run_and_says_where(api: Any) -> None:
    answer = await api.post(INVOKE.format("echo"), {"input": {"a": [1, None]}})
    assert answer.status == 201
    assert answer.json["created"] is True
    assert answer.headers["Location"] == f"/api/v1/runs/{answer.json['run_id']}"
    run = await api.reach(answer.json["run_id"], "completed")
    assert run.result is not None
    assert run.result.json == b'{"a":[1,null]}'


async def test_invoke_without_a_body_has_null_as_input(api: Any) -> None:
    answer = await api.post(f"{INVOKE.format('echo')}?wait=60s")
    assert (answer.status, answer.json["result"]) == (200, None)


async def test_invoke_and_wait_gives_the_result(api: Any) -> None:
    ended = await api.end("echo", {"deep": [{"er": "ünï"}]})
    assert (ended["status"], ended["result"]) == ("completed", {"deep": [{"er": "ünï"}]})
    assert ended["timed_out"] is False


async def test_invoke_and_wait_gives_the_failure(api: Any) -> None:
    ended = await api.end("fails")
    assert (ended["status"], ended["result"]) == ("failed", None)
    assert "never" in ended["error"]["message"]


async def test_the_wait_may_end_before_the_run(api: Any) -> None:
    answer = await api.post(f"{INVOKE.format('waits')}?wait=1ms")
    assert answer.status == 202
    assert answer.json["timed_out"] is True
    assert answer.json["status"] in ("running", "waiting")
    assert answer.json["result"] is None
    await api.reach(answer.json["run_id"], "waiting")
    assert api.engine.endings._waiting == {}


async def test_a_dropped_connection_frees_its_wait_and_not_the_run(api: Any) -> None:
    waiting = asyncio.create_task(api.post(f"{INVOKE.format('gated')}?wait=300s"))
    await api.shelf.entered.wait()
    (run_id,) = api.engine.endings._waiting
    freed = asyncio.Event()
    forget = api.engine.endings.forget

    def note(*args: Any) -> None:
        forget(*args)
        freed.set()

    api.engine.endings.forget = note
    waiting.cancel()
    async with asyncio.timeout(30):
        await freed.wait()
    assert api.engine.endings._waiting == {}
    api.shelf.gate.set()
    run = await api.reach(run_id, "completed")
    assert run.result.json == b'"through"'


async def test_a_large_result_is_loaded(api: Any) -> None:
    assert (await api.end("large"))["result"] == "x" * 100_000


@pytest.mark.parametrize("header", [False, True])
async def test_an_idempotency_key_finds_the_first_run(api: Any, header: bool) -> None:
    def request(value: int) -> tuple[dict[str, Any], dict[str, str]]:
        if header:
            return {"input": value}, {"Idempotency-Key": "k 1"}
        return {"input": value, "idempotency_key": "k 1"}, {}

    answers = []
    for value in (1, 1, 2):
        body, headers = request(value)
        answers.append(await api.post(INVOKE.format("echo"), body, headers=headers))
    first, again, other = answers
    assert (first.status, again.status, other.status) == (201, 200, 409)
    assert again.json["run_id"] == first.json["run_id"]
    assert again.json["created"] is False
    assert other.json["code"] == "idempotency_conflict"
    found = await api.get("/api/v1/runs?idempotency_key=k%201")
    assert [item["id"] for item in found.json["items"]] == [first.json["run_id"]]


async def test_waiting_with_a_key_seen_before_gives_the_same_result(api: Any) -> None:
    body = {"input": 7, "idempotency_key": "again"}
    path = f"{INVOKE.format('echo')}?wait=60s"
    first, again = await api.post(path, body), await api.post(path, body)
    assert (first.status, again.status) == (200, 200)
    assert first.json["run_id"] == again.json["run_id"]
    assert (first.json["created"], again.json["created"]) == (True, False)
    assert again.json["result"] == 7


async def test_two_different_keys_in_one_request_are_refused(memory_api: Any) -> None:
    body, headers = {"idempotency_key": "a"}, {"Idempotency-Key": "b"}
    answer = await memory_api.post(INVOKE.format("echo"), body, headers=headers)
    assert (answer.status, answer.json["field"]) == (422, "idempotency_key")


@pytest.mark.parametrize("key", ["", "x" * 501, "a\u0000b"])
async def test_a_key_that_cannot_be_kept_is_refused(memory_api: Any, key: str) -> None:
    answer = await memory_api.post(INVOKE.format("echo"), {"idempotency_key": key})
    assert (answer.status, answer.json["field"]) == (422, "idempotency_key")


@pytest.mark.parametrize(
    "text",
    [
        "123456789012345678901234567890",
        "1.00000000000000000000001",
        "0.1e-7",
        "-0.0",
        '"\\u00fc\\ud83d\\ude00 ü"',
        '{"b":1,"a":{"z":[]},"b":2}',
        "{}",
        "[1, 2,\t3]",
    ],
)
async def test_input_is_kept_as_the_text_that_came(api: Any, text: str) -> None:
    body = f'{{"input": {text}}}'.encode()
    answer = await api.post(INVOKE.format("echo"), body)
    assert answer.status == 201
    run = await api.engine.run(answer.json["run_id"])
    assert run.input.json == text.encode()
    shown = await api.get(f"/api/v1/runs/{answer.json['run_id']}")
    assert f'"input":{text},'.encode() in shown.body


async def test_input_on_several_lines_is_kept_on_one(memory_api: Any) -> None:
    body = b'{"input": {"a": 1.0000000000000000001,\r\n "b":\n[]}}'
    answer = await memory_api.post(INVOKE.format("echo"), body)
    run = await memory_api.engine.run(answer.json["run_id"])
    assert run.input.json == b'{"a":1.0000000000000000001,"b":[]}'


async def test_input_that_the_type_refuses_names_the_field(memory_api: Any) -> None:
    answer = await memory_api.post(INVOKE.format("order"), {"input": {"id": "a", "amount": "x"}})
    assert answer.status == 422
    assert "amount" in answer.json["field"]
    assert (await memory_api.get("/api/v1/runs")).json["items"] == []


@pytest.mark.parametrize(
    ("wait", "reason"),
    [("", "not a duration"), ("soon", "not a duration"), ("301s", "300s"), ("-1s", "duration")],
)
async def test_a_wait_that_is_none_is_refused(memory_api: Any, wait: str, reason: str) -> None:
    answer = await memory_api.post(f"{INVOKE.format('echo')}?wait={wait}")
    assert (answer.status, answer.json["field"]) == (422, "wait")
    assert reason in answer.json["detail"]
    assert (await memory_api.get("/api/v1/runs")).json["items"] == []
