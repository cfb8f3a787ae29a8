"""Events over HTTP: emit one or many, list, get."""

from __future__ import annotations

from typing import Any

import pytest

from ironflow.web import events_api

EVENTS = "/api/v1/events"


async def test_an_event_starts_the_functions_that_want_it(api: Any) -> None:
    answer = await api.post(EVENTS, {"name": "order.new", "data": {"amount": 11}})
    assert answer.status == 201
    assert answer.json["created"] is True
    assert answer.headers["Location"] == f"{EVENTS}/{answer.json['event_id']}"
    (run_id,) = answer.json["run_ids"]
    run = await api.reach(run_id, "completed")
    assert (run.function_id, run.input.json) == ("on-order", b'{"amount":11}')
    event = (await api.get(f"{EVENTS}/{answer.json['event_id']}")).json
    assert (event["name"], event["data"], event["source"]) == ("order.new", {"amount": 11}, "api")
    assert event["run_ids"] == [run_id]
    unwanted = await api.post(EVENTS, {"name": "order.new", "data": {"amount": 1}})
    assert unwanted.json["run_ids"] == []


async def test_an_event_wakes_whoever_waits_for_it(api: Any) -> None:
    run_id = await api.start("waits")
    await api.reach(run_id, "waiting")
    await api.post(EVENTS, {"name": "door.opened", "data": [1]})
    result = await api.get(f"/api/v1/runs/{run_id}/result?wait=60s")
    assert (result.status, result.json["result"]) == (200, [1])


async def test_a_key_finds_the_first_event(api: Any) -> None:
    body = {"name": "a.b", "data": 1, "idempotency_key": "k"}
    first, again = await api.post(EVENTS, body), await api.post(EVENTS, body)
    assert (first.status, again.status) == (201, 200)
    assert again.json["event_id"] == first.json["event_id"]
    header = await api.post(EVENTS, {"name": "a.b", "data": 1}, headers={"Idempotency-Key": "k"})
    assert (header.status, header.json["event_id"]) == (200, first.json["event_id"])
    other = await api.post(EVENTS, {**body, "data": 2})
    assert (other.status, other.json["code"]) == (409, "idempotency_conflict")
    assert len((await api.get(EVENTS)).json["items"]) == 1


async def test_data_is_kept_as_the_text_that_came(api: Any) -> None:
    text = b'{"n":123456789012345678901234567890.10,"n":1e-30}'
    answer = await api.post(EVENTS, b'{"name":"a","data":' + text + b"}")
    event = await api.get(f"{EVENTS}/{answer.json['event_id']}")
    assert b'"data":' + text in event.body


async def test_large_data_is_named_in_lists_and_loaded_alone(api: Any) -> None:
    data = "y" * 100_000
    answer = await api.post(EVENTS, {"name": "big.one", "data": data})
    (listed,) = (await api.get(EVENTS)).json["items"]
    assert listed["data"]["size"] == len(data) + 2
    (listed,) = (await api.get(f"{EVENTS}?full=true")).json["items"]
    assert listed["data"] == data
    event = await api.get(f"{EVENTS}/{answer.json['event_id']}")
    assert event.json["data"] == data


@pytest.mark.parametrize("event_id", ["x", "%00", "00000000-0000-7000-8000-000000000000"])
async def test_an_unknown_event_is_not_found(memory_api: Any, event_id: str) -> None:
    answer = await memory_api.get(f"{EVENTS}/{event_id}")
    assert (answer.status, answer.json["code"]) == (404, "not_found")


@pytest.mark.parametrize("name", ["", "a..b", "a b", "a.*", ">", "x" * 257, "a\u0000"])
async def test_a_name_that_is_none_is_refused(memory_api: Any, name: str) -> None:
    answer = await memory_api.post(EVENTS, {"name": name})
    assert (answer.status, answer.json["field"]) == (422, "name")
    if name:
        answer = await memory_api.get(EVENTS, params={"name": name})
        assert (answer.status, answer.json["field"]) == (422, "name")


async def test_lists_are_filtered(api: Any) -> None:
    ids = {}
    for name in ("a.one", "b.two", "c.three"):
        ids[name] = (await api.post(EVENTS, {"name": name})).json["event_id"]

    async def names(query: str) -> list[str]:
        return [item["name"] for item in (await api.get(f"{EVENTS}?{query}")).json["items"]]

    assert await names("") == ["c.three", "b.two", "a.one"]
    assert await names("name=b.two") == ["b.two"]
    assert await names("name=a.one&name=c.three") == ["c.three", "a.one"]
    assert await names("source=api") == ["c.three", "b.two", "a.one"]
    assert await names("source=other") == []
    at = (await api.get(f"{EVENTS}/{ids['b.two']}")).json["at"]
    assert await names(f"since={at}") == ["c.three", "b.two"]
    assert await names(f"until={at}") == ["a.one"]


async def test_pages_cover_everything_once_while_new_events_arrive(api: Any) -> None:
    old = [(await api.post(EVENTS, {"name": "n", "data": n})).json["event_id"] for n in range(10)]
    seen, cursor = [], ""
    while cursor is not None:
        suffix = f"&cursor={cursor}" if cursor else ""
        page = (await api.get(f"{EVENTS}?limit=5{suffix}")).json
        seen += [item["id"] for item in page["items"]]
        cursor = page["next_cursor"]
        await api.post(EVENTS, {"name": "new"})
    assert seen == old[::-1]


async def test_each_event_of_a_batch_is_stored_or_refused_for_itself(api: Any) -> None:
    batch = [
        {"name": "order.new", "data": {"amount": 12}},
        {"name": "a b"},
        {"name": "k", "idempotency_key": "1", "data": 1},
        {"name": "k", "idempotency_key": "1", "data": 1},
        {"nome": "x"},
        7,
        {"name": "k", "data": {"deep": None}, "idempotency_key": ""},
        {"name": "last"},
    ]
    answer = await api.post(f"{EVENTS}/batch", batch)
    assert answer.status == 200
    items = answer.json["items"]
    assert [item["ok"] for item in items] == [True, False, True, True, False, False, False, True]
    assert len(items[0]["event"]["run_ids"]) == 1
    assert sorted([items[2]["event"]["created"], items[3]["event"]["created"]]) == [False, True]
    assert items[2]["event"]["event_id"] == items[3]["event"]["event_id"]
    assert [item["problem"] and item["problem"]["status"] for item in items] == [
        None, 422, None, None, 422, 422, 422, None,
    ]  # fmt: skip
    assert items[4]["problem"]["field"] == "[4].nome"
    listed = [item["name"] for item in (await api.get(EVENTS)).json["items"]]
    assert sorted(listed) == ["k", "last", "order.new"]


async def test_a_batch_keeps_its_order(api: Any) -> None:
    batch = [{"name": "n", "data": n} for n in range(50)]
    answer = await api.post(f"{EVENTS}/batch", batch)
    ids = [item["event"]["event_id"] for item in answer.json["items"]]
    listed = (await api.get(f"{EVENTS}?limit=200")).json["items"]
    assert [item["id"] for item in listed] == ids[::-1]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{}", 422),
        (b'{"name":"a"}', 422),
        (b"[]", 200),
        (b"[1" + b",1" * 1000 + b"]", 422),
    ],
)
async def test_a_batch_is_a_list_of_a_thousand_at_most(
    memory_api: Any, body: bytes, status: int
) -> None:
    assert (await memory_api.post(f"{EVENTS}/batch", body)).status == status


async def test_names_are_counted_over_the_newest_events(
    api: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await api.get(f"{EVENTS}/names")).json == {
        "names": [], "scanned": 0, "scan_cap": 10_000, "truncated": False
    }  # fmt: skip
    names = ["a.b", "c", "a.b", "d", "c", "a.b"]
    for name in names:
        assert (await api.post(EVENTS, {"name": name, "data": 1})).status == 201
    monkeypatch.setattr(events_api, "SCANNED_AT_ONCE", 2)  # several pages
    whole = (await api.get(f"{EVENTS}/names")).json
    counts = [(one["name"], one["count"]) for one in whole["names"]]
    assert counts == [("a.b", 3), ("c", 2), ("d", 1)]
    assert (whole["scanned"], whole["truncated"]) == (6, False)
    monkeypatch.setattr(events_api, "SCAN_CAP", 3)
    newest = (await api.get(f"{EVENTS}/names")).json
    assert {one["name"]: one["count"] for one in newest["names"]} == {"a.b": 1, "c": 1, "d": 1}
    assert (newest["scanned"], newest["scan_cap"], newest["truncated"]) == (3, 3, True)
    assert (await api.get(f"{EVENTS}/names?source=cron")).json["names"] == []
    assert (await api.get(f"{EVENTS}/names?until=2001-01-01T00:00:00Z")).json["scanned"] == 0
    refused = await api.get(f"{EVENTS}/names?since=yesterday")
    assert (refused.status, refused.json["field"]) == (422, "since")
