"""Prefect's events and logs and a server that is killed: a pong or an answer outlives it, and what
a client sends again is not there twice.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
from crash.conftest import ServerProcess

from ironflow.core.clock import derive_id

AUTH = {"type": "auth", "token": None}
ROUNDS = 3
EACH = 40


def make_event(number: int) -> dict[str, Any]:
    return {
        "occurred": datetime.now(UTC).isoformat(),
        "event": "crash.test",
        "resource": {"prefect.resource.id": "thing"},
        "related": [{"prefect.resource.id": "run", "prefect.resource.role": "flow-run"}],
        "payload": {"number": number},
        "id": derive_id("crash", str(number)),
    }


async def open_socket(session: aiohttp.ClientSession, url: str) -> aiohttp.ClientWebSocketResponse:
    socket = await session.ws_connect(url, protocols=("prefect",), autoping=False)
    await socket.send_json(AUTH)
    assert await socket.receive_json() == {"type": "auth_success"}
    return socket


async def send_until_killed(server: ServerProcess, events: list[dict[str, Any]]) -> int:
    """Send all and kill the server in the middle; how many a pong spoke for."""
    acknowledged = 0
    async with aiohttp.ClientSession() as session:
        socket = await open_socket(session, f"{server.url}/api/events/in")
        for number, event in enumerate(events, 1):
            await socket.send_json(event)
            if number == len(events) // 2:
                await socket.ping()
                assert (await socket.receive()).type is aiohttp.WSMsgType.PONG
                acknowledged = number
        # Those behind the pong are on their way, and no one knows how far.
        server.kill()
    return acknowledged


async def read_numbers(session: aiohttp.ClientSession, url: str) -> list[int]:
    found: list[int] = []
    body = {"filter": {"event": {"name": ["crash.test"]}, "order": "ASC"}, "limit": 50}
    async with session.post(f"{url}/api/events/filter", json=body) as response:
        page = await response.json()
    while True:
        found += [event["payload"]["number"] for event in page["events"]]
        if page["next_page"] is None:
            return found
        async with session.get(page["next_page"]) as response:
            page = await response.json()


def test_what_was_acknowledged_outlives_the_server(
    make_server: Callable[..., ServerProcess],
) -> None:
    server = make_server("kill_app.py")
    server.start()
    kept: list[int] = []
    pending: list[dict[str, Any]] = []
    for turn in range(ROUNDS):
        pending += [make_event(number) for number in range(turn * EACH, (turn + 1) * EACH)]
        line = {
            "name": "crash",
            "level": 20,
            "message": f"line {turn}",
            "timestamp": datetime.now(UTC).isoformat(),
        }
        server.post("/api/logs/", [line] * 3)
        acknowledged = asyncio.run(send_until_killed(server, pending))
        kept += [event["payload"]["number"] for event in pending[:acknowledged]]
        pending = pending[acknowledged:]
        server.start()
    asyncio.run(check(server, kept, pending))
    lines = server.post("/api/logs/filter", {})
    expected = [f"line {turn}" for turn in range(ROUNDS) for _ in range(3)]
    assert [line["message"] for line in lines] == expected


async def check(server: ServerProcess, kept: list[int], pending: list[dict[str, Any]]) -> None:
    now = datetime.now(UTC)
    day = timedelta(days=1)
    occurred = {"since": (now - day).isoformat(), "until": (now + day).isoformat()}
    async with aiohttp.ClientSession() as session:
        found = await read_numbers(session, server.url)
        assert set(kept) <= set(found)
        assert len(found) == len(set(found))
        follower = await open_socket(session, f"{server.url}/api/events/out")
        wanted = {"occurred": occurred, "event": {"name": ["crash.test"]}}
        await follower.send_json({"type": "filter", "filter": wanted})
        # As a client does that has reconnected: all that no pong spoke for, and more.
        socket = await open_socket(session, f"{server.url}/api/events/in")
        for event in [*map(make_event, kept[-5:]), *pending]:
            await socket.send_json(event)
        await socket.ping()
        assert (await socket.receive()).type is aiohttp.WSMsgType.PONG
        every = list(range(ROUNDS * EACH))
        assert sorted(await read_numbers(session, server.url)) == every
        heard = []
        async with asyncio.timeout(30):
            while len(heard) < len(every):
                message = json.loads((await follower.receive()).data)
                heard.append(message["event"]["payload"]["number"])
        assert sorted(heard) == every
