"""Hostile requests and messages to the Prefect face: nothing is a 5xx, and the server lives on."""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter
from urllib.parse import quote

import pytest
from aiohttp import WSMsgType
from api.conftest import Api

from ironflow.web.prefect.face import ROUTES, SOCKETS

SOMEWHERE = "11111111-1111-4111-8111-111111111111"
# JSON texts, so that what no encoder would write is among them.
VALUES = [
    '"\\ud800"', '"\\u0000"', "1e400", "-1", "123456789012345678901234567890", "NaN", '""', "null",
    "true", "[]", "{}", '"x"', '"2026-01-01T00:00:00Z"', '"0001-01-01T00:00:00Z"',
    '"9999-12-31T23:59:59Z"', '"9999-12-31T23:59:59-14:00"', "9007199254740993", "0.1",
    "-9223372036854775809", f'"{SOMEWHERE}"', "[[]]", '{"a": {"b": null}}', '"\\n\\r"', '"%"',
    '"é☃"', "200", "201", "50", "1", "[" * 200 + "]" * 200, '"RUNNING"', '"COMPLETED"',
    '{"prefect.resource.id": "r"}', '[{"prefect.resource.id": "r", "prefect.resource.role": "x"}]',
]  # fmt: skip
PARTS = ["x", "a%20b", "%00", "%ff", "..", quote("💥"), "'", SOMEWHERE, "9" * 40]
KEYS = sorted(
    {
        "name", "flow_id", "state", "type", "tags", "labels", "limit", "offset", "sort", "page",
        "flows", "flow_runs", "task_runs", "deployments", "id", "any_", "not_any_", "all_", "like_",
        "before_", "after_", "is_null_", "operator", "filter", "level", "message", "timestamp",
        "flow_run_id", "task_run_id", "occurred", "event", "resource", "related", "any_resource",
        "payload", "since", "until", "prefix", "text", "query", "order", "parameters", "context",
        "empirical_policy", "state_details", "scheduled_time", "pause_timeout", "transition_id",
        "data", "force", "key", "value", "run_input", "schema", "values", "flow_ids", "role",
        "flow_run_ids", "start_time", "history_start", "history_end", "history_interval_seconds",
        "names", "slots", "mode", "task_key", "dynamic_key", "task_inputs", "cache_key", "distinct",
        "time_unit", "time_interval", "retries", "retry_delay", "pause_keys", "filters",
        "idempotency_key", "parent_task_run_id", "created_by", "job_variables", "follows",
        "page-token", "client", "order_by", "logs", "exclude_prefix", "resources_in_roles",
    }
)  # fmt: skip


def make_json(rng: random.Random, depth: int = 0) -> str:
    roll = rng.random()
    if depth > 3 or (depth and roll < 0.45):
        return rng.choice(VALUES)
    if roll < 0.9:
        items = (
            f'"{rng.choice(KEYS)}": {make_json(rng, depth + 1)}' for _ in range(rng.randint(0, 4))
        )
        return f"{{{', '.join(items)}}}"
    return f"[{', '.join(make_json(rng, depth + 1) for _ in range(rng.randint(0, 3)))}]"


def make_body(rng: random.Random) -> bytes:
    data = make_json(rng).encode()
    roll = rng.random()
    if roll < 0.1:
        return data[: rng.randint(0, len(data))]
    return data + b"\xff" if roll < 0.13 else data


@pytest.mark.parametrize("seed", range(4))
async def test_no_request_is_a_defect(memory_api: Api, seed: int) -> None:
    rng, api, defects, seen = random.Random(seed), memory_api, list[object](), Counter[int]()
    async with api.client.post("/api/flows/", json={"name": "f"}) as response:
        flow = (await response.json())["id"]
    ids = [flow]
    for path, body in (
        ("/flow_runs/", {"flow_id": flow}),
        ("/task_runs/", {"task_key": "k", "dynamic_key": "0"}),
    ):
        async with api.client.post(f"/api{path}", json=body) as response:
            ids.append((await response.json())["id"])
    for _ in range(600):
        route = rng.choice(ROUTES)
        path = re.sub(r"\{\w+\}", lambda _: rng.choice([*PARTS, *ids * 3]), route.path)
        if rng.random() < 0.3:
            path += (
                f"?{rng.choice(KEYS)}={rng.choice(PARTS)}&{rng.choice(KEYS)}={rng.choice(PARTS)}"
            )
        body = None if route.method == "GET" else make_body(rng)
        async with api.client.request(
            route.method, f"/api{path}", data=body, allow_redirects=False
        ) as response:
            text = await response.text()
        seen[response.status] += 1
        if response.status >= 500:
            defects.append((route.method, path, body, response.status, text))
    assert defects == []
    assert min(seen[200], seen[404], seen[422]) > 10
    async with api.client.get("/api/health") as response:
        assert response.status == 200


@pytest.mark.parametrize("seed", range(2))
async def test_no_message_is_a_defect(
    memory_api: Api, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    rng, api = random.Random(seed), memory_api
    paths = [path for path, _ in SOCKETS]
    for number in range(120):
        socket = await api.client.ws_connect(f"/api{rng.choice(paths)}", protocols=("prefect",))
        if number % 4:
            await socket.send_str('{"type": "auth"}')
            wanted = f'{{"type": "filter", "filter": {make_json(rng)}}}'
            await socket.send_str(rng.choice([wanted, make_json(rng)]))
        data = make_body(rng)
        if rng.random() < 0.5:
            await socket.send_bytes(data)
        else:
            await socket.send_str(data.decode("utf-8", "replace"))
        await socket.close()
        assert socket.close_code is not None
    async with asyncio.timeout(60):
        socket = await api.client.ws_connect("/api/events/out", protocols=("prefect",))
        await socket.send_str('{"type": "auth"}')
        assert (await socket.receive()).type is WSMsgType.TEXT
        await socket.close()
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
