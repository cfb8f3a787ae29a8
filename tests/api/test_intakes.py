"""Debounce, batch and singleton over HTTP: what is answered, what is listed, what is refused."""

from __future__ import annotations

import base64
from typing import Any

import pytest

import ironflow.sdk.function as sdk

DAY = 86_400


@pytest.fixture
async def shop(memory_api: Any) -> Any:
    """A server whose functions wait for a day, so that nothing happens by itself."""

    async def keep(ctx: Any, data: Any) -> Any:
        return data

    async def wait(ctx: Any, data: Any) -> Any:
        return (await ctx.step.wait_for_event("open", "door.opened")).data

    key = "data.user"
    made = [
        sdk.function(keep, id="calm", on="user.*", flow_control={
            "debounce": {"period": DAY, "key": key}}),
        sdk.function(keep, id="bulk", on="user.*", flow_control={
            "batch": {"size": 3, "wait": DAY}}),
        sdk.function(wait, id="only", on={"event": "user.*", "if": "data.user != 'x'"},
                     flow_control={"singleton": {"key": key}}),
    ]  # fmt: skip
    await memory_api.engine.register([one.definition for one in made])
    return memory_api


async def emit(api: Any, n: int, user: Any = "u", **more: Any) -> Any:
    answer = await api.post(
        "/api/v1/events", {"name": "user.changed", "data": {"n": n, "user": user}, **more}
    )
    assert answer.status in (200, 201), answer.body
    return answer.json


def fates(view: Any) -> dict[str, str]:
    return {one["function_id"]: one["fate"] for one in view["outcomes"]}


def encoded(key: str) -> str:
    return base64.urlsafe_b64encode(key.encode()).rstrip(b"=").decode()


async def test_an_emit_says_what_became_of_the_event_and_the_event_says_so_later(shop: Any) -> None:
    first, second = await emit(shop, 1), await emit(shop, 2)
    assert fates(first) == {"calm": "debounced", "bulk": "batched", "only": "started"}
    assert fates(second) == {"calm": "debounced", "bulk": "batched", "only": "skipped"}
    assert (len(first["run_ids"]), second["run_ids"]) == (1, [])
    by = {one["function_id"]: one for one in second["outcomes"]}
    assert by["only"]["run_id"] == first["run_ids"][0]
    assert by["calm"]["run_id"] is by["bulk"]["run_id"] is None
    assert by["calm"]["due_at"] is not None
    assert by["bulk"]["due_at"] is not None
    one = (await shop.get(f"/api/v1/events/{first['event_id']}")).json
    assert one["run_ids"] == first["run_ids"]
    texts = {view["function_id"]: view["text"] for view in one["outcomes"]}
    assert "newer event" in texts["calm"]
    assert "batch of 2" in texts["bulk"]
    third = await emit(shop, 3, "x")
    assert fates(third) == {"calm": "debounced", "bulk": "batched"}
    events = (await shop.get("/api/v1/events")).json["items"]
    assert fates(events[0]) == {"calm": "debounced", "bulk": "batched", "only": "filtered"}
    by = {view["function_id"]: view for view in events[2]["outcomes"]}
    assert by["bulk"]["run_id"] is not None  # the third one has filled the batch
    run = (await shop.get(f"/api/v1/runs/{by['bulk']['run_id']}")).json
    assert [taken["id"] for taken in run["events"]] == [e["id"] for e in reversed(events)]
    async with shop.client.get("/metrics") as metrics:
        text = await metrics.text()
    assert 'ironflow_intake_requests_total{fate="debounced",function_id="calm"} 3.0' in text
    assert 'ironflow_intake_requests_total{fate="filtered",function_id="only"} 1.0' in text


async def test_debounced_events_are_listed_started_and_cancelled(shop: Any) -> None:
    for n, user in enumerate(["a", "a", "b/ü", None]):
        last = await emit(shop, n, user)
    entries = (await shop.get("/api/v1/debounce/entries")).json
    assert [(e["debounce_key"], e["events"]) for e in entries] == [("", 1), ("a", 2), ("b/ü", 1)]
    assert entries[0]["event_id"] == last["event_id"]
    assert {e["period_ms"] for e in entries} == {DAY * 1000}
    assert [e["path_key"] for e in entries] == ["-", encoded("a"), encoded("b/ü")]
    assert {(e["function_id"], e["function_version"]) for e in entries} == {("calm", 1)}
    assert len((await shop.get("/api/v1/debounce/entries?function_id=calm&limit=2")).json) == 2
    assert (await shop.get("/api/v1/debounce/entries?function_id=cal")).json == []
    base = "/api/v1/debounce/entries/env_default/calm"
    fired = await shop.post(f"{base}/{encoded('a')}/fire")
    assert fired.json["status"] == "started"
    run = (await shop.get(f"/api/v1/runs/{fired.json['run_id']}/result?wait=30s")).json
    assert run["result"] == {"n": 1, "user": "a"}
    assert (await shop.get(f"/api/v1/runs/{fired.json['run_id']}")).json["merged"] == 2
    gone = await shop.ask("DELETE", f"{base}/{encoded('b/ü')}")
    assert (gone.status, gone.json["status"]) == (200, "cancelled")
    assert (await shop.ask("DELETE", f"{base}/")).json["key"] == ""
    assert (await shop.get("/api/v1/debounce/entries")).json == []
    one = (await shop.get(f"/api/v1/events/{last['event_id']}")).json
    (calm,) = [view for view in one["outcomes"] if view["function_id"] == "calm"]
    assert (calm["run_id"], "no run came of" in calm["text"]) == (None, True)


async def test_batches_and_singletons_are_listed(shop: Any) -> None:
    first = await emit(shop, 1)
    (entry,) = (await shop.get("/api/v1/batches")).json["items"]
    assert (entry["events"], entry["size"], entry["path_key"]) == (1, 3, "-")
    (held,) = (await shop.get("/api/v1/singletons")).json["items"]
    assert (held["run_id"], held["singleton_key"]) == (first["run_ids"][0], "u")
    fired = (await shop.post("/api/v1/batches/default/bulk/-/fire")).json
    ended = (await shop.get(f"/api/v1/runs/{fired['run_id']}/result?wait=30s")).json
    assert ended["result"] == [{"n": 1, "user": "u"}]
    await emit(shop, 2)
    assert (await shop.ask("DELETE", "/api/v1/batches/env_default/bulk/-")).status == 200
    assert (await shop.get("/api/v1/batches")).json["items"] == []


@pytest.mark.parametrize("method", ["DELETE", "POST"])
@pytest.mark.parametrize("base", ["/api/v1/debounce/entries", "/api/v1/batches"])
@pytest.mark.parametrize(
    "path",
    ["env_default/calm/-", "other/calm/-", "env_default/none/eA", "env_default/calm/!!",
     "env_default/calm/A", "env_default/calm/_w", "env_default/calm/" + "QUFB" * 1000],
)  # fmt: skip
async def test_what_does_not_wait_is_not_found(
    shop: Any, method: str, base: str, path: str
) -> None:
    url = f"{base}/{path}" + ("/fire" if method == "POST" else "")
    answer = await shop.ask(method, url)
    assert (answer.status, answer.json["code"]) == (404, "not_found"), answer.body


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "limit=99999999", "unknown=1"])
async def test_bad_queries_are_named(shop: Any, query: str) -> None:
    for path in ("debounce/entries", "batches", "singletons"):
        answer = await shop.get(f"/api/v1/{path}?{query}")
        assert (answer.status, answer.json["field"]) == (422, query.partition("=")[0])


async def test_invocations_of_what_waits_have_no_run_and_cannot_be_waited_for(shop: Any) -> None:
    body = {"input": {"n": 1, "user": "u"}, "idempotency_key": "k"}
    for function_id, fate in (("calm", "debounced"), ("bulk", "batched")):
        path = f"/api/v1/functions/{function_id}/invoke"
        first, again = await shop.post(path, body), await shop.post(path, body)
        assert (first.status, again.status) == (202, 202)
        assert (first.json["run_id"], first.json["fate"]) == (None, fate)
        assert first.json["due_at"] is not None
        assert first.headers["Location"] == f"/api/v1/events/{first.json['event_id']}"
        assert (again.json["event_id"], again.json["created"]) == (first.json["event_id"], False)
        other = await shop.post(path, {**body, "input": 2})
        assert (other.status, other.json["code"]) == (409, "idempotency_conflict")
        waited = await shop.post(f"{path}?wait=1s", body)
        assert (waited.status, waited.json["code"]) == (409, "failed_precondition")
        assert fate in waited.json["detail"]
    (event,) = [
        e for e in (await shop.get("/api/v1/events")).json["items"]
        if fates(e) == {"calm": "debounced"}
    ]  # fmt: skip
    assert (event["name"], event["source"]) == ("ironflow.invoke", "invoke")


async def test_an_invocation_of_a_singleton_gives_the_run_that_is_there(shop: Any) -> None:
    path, body = "/api/v1/functions/only/invoke", {"input": {"user": "u"}}
    first, second = await shop.post(path, body), await shop.post(path, body)
    assert (first.status, first.json["fate"]) == (201, "started")
    assert (second.status, second.json["fate"]) == (200, "skipped")
    assert second.json["run_id"] == first.json["run_id"]
    await shop.post("/api/v1/events", {"name": "door.opened", "data": 7})
    waited = await shop.get(f"/api/v1/runs/{first.json['run_id']}/result?wait=30s")
    assert waited.json["result"] == 7
    third = await shop.post(path, body)
    assert (third.status, third.json["fate"]) == (201, "started")


async def test_a_batch_emit_answers_for_each_item(shop: Any) -> None:
    good = {"name": "user.changed", "data": {"n": 1, "user": "u"}, "idempotency_key": "a"}
    items = [
        good,
        {"name": "no good name", "data": 1},
        {"data": 1},
        good,
        {**good, "data": {"n": 2}},
        {"name": "user.changed", "data": {"n": 3, "user": "v"}},
    ]
    answer = (await shop.post("/api/v1/events/batch", items)).json["items"]
    assert [item["ok"] for item in answer] == [True, False, False, True, False, True]
    codes = [item["problem"]["code"] for item in answer if not item["ok"]]
    assert codes == ["invalid_input", "invalid_input", "idempotency_conflict"]
    assert answer[0]["event"]["event_id"] == answer[3]["event"]["event_id"]
    assert answer[3]["event"]["created"] is False
    assert answer[0]["event"]["outcomes"] == answer[3]["event"]["outcomes"]
    entries = (await shop.get("/api/v1/debounce/entries")).json
    assert [(e["debounce_key"], e["events"]) for e in entries] == [("u", 1), ("v", 1)]


REGISTER = "/ironflow.v1.IronflowService/RegisterFunction"


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"debounce": {"periodMs": 999}}, "debounce.period"),
        ({"debounce": {"periodMs": 5000, "maxWaitMs": 4000}}, "debounce.max_wait"),
        ({"debounce": {"periodMs": 5000, "key": "a["}}, "debounce.key"),
        ({"debounce": {}}, "period"),
        ({"batch": {"size": 0, "waitMs": 1000}}, "batch.size"),
        ({"batch": {"size": 2, "waitMs": 0}}, "batch.wait"),
        ({"singleton": {"mode": "both"}}, "singleton"),
        ({"debounce": {"periodMs": 5000}, "batch": {"size": 2, "waitMs": 1000}}, "batch"),
    ],
)
async def test_registrations_that_make_no_sense_name_the_field(
    shop: Any, options: dict[str, Any], field: str
) -> None:
    async with shop.client.post(REGISTER, json={"id": "far", **options}) as answer:
        error = await answer.json()
    assert (answer.status, error["code"]) == (400, "invalid_argument")
    assert field in error["message"], error


async def test_a_registered_function_shows_its_debounce(shop: Any) -> None:
    wanted = {"periodMs": 1000, "key": "event.data.user", "maxWaitMs": "2000"}
    async with shop.client.post(REGISTER, json={"id": "far", "debounce": wanted}) as answer:
        assert answer.status == 200
        function = (await answer.json())["function"]
    assert function["debounce"] == wanted
    shown = (await shop.get("/api/v1/functions/far")).json["flow_control"]
    assert shown["debounce"] == {"period": 1.0, "key": "event.data.user", "max_wait": 2.0}


async def test_a_worker_of_the_protocol_is_handed_the_list_of_a_batch(shop: Any) -> None:
    body = {"id": "far", "triggers": [{"event": "far.*"}], "batch": {"size": 2, "waitMs": 60_000}}
    async with shop.client.post(REGISTER, json=body) as answer:
        assert answer.status == 200
    register = {"function_ids": ["far"], "max_concurrent_jobs": 1}
    await shop.post("/api/v1/workers/w/register", register)
    ids = []
    for n in range(2):
        emitted = await shop.post("/api/v1/events", {"name": "far.away", "data": {"n": n}})
        ids.append(emitted.json["event_id"])
    (job,) = (await shop.get("/api/v1/workers/w/jobs?available=1&wait=5")).json["jobs"]
    assert job["event"]["data"] == [{"n": 0}, {"n": 1}]
    assert job["event"]["id"] == ids[0]
    batch = job["event"]["metadata"]["batch"]
    assert [(taken["id"], taken["name"]) for taken in batch] == [(i, "far.away") for i in ids]
