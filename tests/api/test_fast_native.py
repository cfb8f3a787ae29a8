"""Runs that are started over the native API, and reports of workers, on the fast path: answered as
aiohttp's way does.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from api import fast_site
from api.fast_site import HEAD, Line, Site, make_key

INVOKE = "/v1/functions/{}/invoke"
REPORT = {
    "job_id": "j", "execution_seq": 1, "lease_token": "t", "command": "end_execution",
    "data": {"execution": 1, "outcome": "completed"},
}  # fmt: skip
REQUESTS: dict[str, tuple[str, Any]] = {
    "ended": (INVOKE.format("echo") + "?wait=20s", {"input": {"a": [1, 2.50, "ü"]}}),
    "begun": (INVOKE.format("echo"), {"input": 1}),
    "no-body": (INVOKE.format("echo") + "?wait=20s", b""),
    "failed": (INVOKE.format("fails") + "?wait=20s", {}),
    "not-in-time": (INVOKE.format("gated") + "?wait=0.01s", {}),
    "keyed": (INVOKE.format("echo") + "?wait=20s", {"idempotency_key": "k", "input": 1}),
    "nowhere": (INVOKE.format("nowhere"), {}),
    "odd-input": (INVOKE.format("order"), {"input": {"amount": "much"}}),
    "odd-field": (INVOKE.format("echo"), {"imput": 1}),
    "no-json": (INVOKE.format("echo"), b"{"),
    "no-worker": ("/v1/workers/none/commands", {"reports": []}),
    "nothing-said": ("/v1/workers/w/commands", {"reports": []}),
    "stale": ("/v1/workers/w/commands", {"reports": [REPORT], "window": 3}),
    "odd-window": ("/v1/workers/w/commands", {"reports": [], "window": 0}),
}


def encode(path: str, body: Any, head: str = HEAD) -> bytes:
    return fast_site.encode("POST", path, body, head)


def blind(answer: tuple[int, dict[str, str], bytes]) -> Any:
    """An answer without what differs from one run to the next."""
    status, headers, body = answer
    headers.pop("Content-Length")
    found = msgspec.json.decode(body)
    run_id = found.pop("run_id", None)
    if "Location" in headers:
        headers["Location"] = headers["Location"].replace(str(run_id), "{run}")
        assert "{run}" in headers["Location"]
    if isinstance(found.get("error"), dict):
        found["error"].pop("trace", None)
    return status, headers, found


@pytest.fixture
async def desk(site: Site) -> tuple[Site, Line]:
    """A site with a worker, and a connection to it."""
    api = site.api
    definition = {"id": "remote", "name": "remote", "code": "c", "placement": "pull"}
    await api.ask("PUT", "/api/v1/functions/remote", json=definition)
    await api.post("/api/v1/workers/w/register", {"function_ids": ["remote"]})
    return site, await site.dial()


@pytest.mark.parametrize("case", REQUESTS)
async def test_the_answer_is_the_one_that_aiohttp_gives(desk: tuple[Site, Line], case: str) -> None:
    place, line = desk
    path, body = REQUESTS[case]
    if case == "keyed":
        await line.ask(encode(path, body, f"X-First: 1\r\n{HEAD}"))  # then there is no new run
    slow = await line.ask(encode(path, body, f"X-Case: {case}\r\n{HEAD}"))
    await line.ask(encode(path, {"another": "length"}))
    before = place.taken
    fast = await line.ask(encode(path, body))
    assert place.taken == before + 1
    assert blind(fast) == blind(slow)


@pytest.mark.parametrize(
    ("status", "path"),
    [
        (422, INVOKE.format("echo") + "?wait=soon"),
        (422, INVOKE.format("echo") + "?weight=1"),
        (422, INVOKE.format("echo") + "?wait=1s&wait=2s"),
        (200, INVOKE.format("echo") + "?wait=1%30s"),
        (404, INVOKE.format("no%20where")),
        (404, "/v1/functions/a/b/invoke"),
        (405, "/v1/functions/echo"),
    ],
)
async def test_what_is_not_plain_goes_the_usual_way(
    desk: tuple[Site, Line], status: int, path: str
) -> None:
    _, line = desk
    await line.ask(encode(INVOKE.format("echo"), {}))
    for _ in range(3):
        assert (await line.ask(encode(path, {})))[0] == status


async def test_a_head_counts_whatever_the_length_of_its_body(desk: tuple[Site, Line]) -> None:
    place, line = desk
    path = INVOKE.format("echo") + "?wait=20s"
    await line.ask(encode(path, {"input": 0}))
    for size in (1, 10, 100, 1000):
        value = "x" * size
        before = place.taken
        _, _, answer = await line.ask(encode(path, {"input": value}))
        assert msgspec.json.decode(answer)["result"] == value
        assert place.taken == before + 1
    # Two lengths are a request that means two things: aiohttp refuses it.
    head = f"{HEAD}Content-Length: 3\r\n"
    for _ in range(2):
        twice = await place.dial()
        assert (await twice.ask(encode(path, {"input": 1}, head)))[0] == 400


async def test_environments_and_idempotency_keys_in_headers(desk: tuple[Site, Line]) -> None:
    place, line = desk
    path, own = INVOKE.format("echo"), f"{HEAD}X-Ironflow-Environment-ID: env_default\r\n"
    for head, taken, status in (
        (own, 1, 201),
        (f"{HEAD}X-Ironflow-Environment-ID: nowhere\r\n", 0, 404),
        (f"{HEAD}X-Ironflow-Environment: nowhere\r\n", 0, 404),
        (f"{own}X-Ironflow-Environment: nowhere\r\n", 0, 201),  # the id is what counts
        (f"{HEAD}Idempotency-Key: {'x' * 600}\r\n", 1, 422),
    ):
        await line.ask(encode(path, {}, head))
        before = place.taken
        assert (await line.ask(encode(path, {}, head)))[0] == status
        assert place.taken - before == taken, head
    keyed = f"{HEAD}Idempotency-Key: once\r\n"
    answers = [await line.ask(encode(path, {"input": n}, keyed)) for n in (1, 1, 2)]
    assert [status for status, *_ in answers] == [201, 200, 409]


async def test_keys_are_asked_for_and_what_they_hold_is_counted(desk: tuple[Site, Line]) -> None:
    place, line = desk
    path = INVOKE.format("echo")
    admin = await make_key(place, "admin", "")
    viewer = await make_key(place, "viewer", admin)
    for secret, status in ((admin, 201), (viewer, 403), ("ifkey_no", 401)):
        head = f"{HEAD}Authorization: Bearer {secret}\r\n"
        for _ in range(3):
            assert (await line.ask(encode(path, {}, head)))[0] == status
    # Whether it waits stands in the query, and only the usual way counts that.
    head, before = f"{HEAD}Authorization: Bearer {admin}\r\n", place.taken
    for _ in range(3):
        assert (await line.ask(encode(f"{path}?wait=20s", {}, head)))[0] == 200
    assert place.taken == before


async def test_one_that_hangs_up_waits_for_nothing(desk: tuple[Site, Line]) -> None:
    place, line = desk
    path, engine = INVOKE.format("gated") + "?wait=60s", place.api.engine
    await line.ask(encode(INVOKE.format("gated") + "?wait=0.01s", {}))
    line.writer.write(encode(path, {}))
    async with asyncio.timeout(20):
        while not engine.endings._waiting:  # noqa: ASYNC110 - what is awaited has no event
            await asyncio.sleep(0.005)
        line.writer.close()
        while engine.endings._waiting:  # noqa: ASYNC110 - what is awaited has no event
            await asyncio.sleep(0.005)
    assert await place.counts("/api/v1/functions/{function_id}/invoke", 499)
