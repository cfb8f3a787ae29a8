"""Events and logs of the Prefect face over real sockets: what was acknowledged stays, a follower
sees each item once, and nobody waits for a slow one.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientWebSocketResponse, WSMsgType, WSServerHandshakeError
from api.conftest import Api, Serve

from ironflow.core.clock import derive_id
from ironflow.core.errors import StorageFull
from ironflow.core.prefect.packets import make_packet
from ironflow.storage.memory.store import MemoryStore
from ironflow.storage.sqlite.store import open_sqlite

AUTH = {"type": "auth", "token": None}
DAY = timedelta(days=1)


def make_event(name: str = "made.up", number: int = 0, **facts: Any) -> dict[str, Any]:
    return {
        "occurred": datetime.now(UTC).isoformat(),
        "event": name,
        "resource": {"prefect.resource.id": "thing"},
        "related": [],
        "payload": {"number": number},
        "id": derive_id(name, str(number)),
        **facts,
    }


def make_log(message: str, level: int = 20) -> dict[str, Any]:
    at = datetime.now(UTC).isoformat()
    return {"name": "test", "level": level, "message": message, "timestamp": at}


@asynccontextmanager
async def connected(api: Api, path: str, *messages: Any) -> AsyncIterator[ClientWebSocketResponse]:
    """A socket that has introduced itself and said `messages`."""
    socket = await api.client.ws_connect(f"/api{path}", protocols=("prefect",), autoping=False)
    try:
        await socket.send_json(AUTH)
        assert await socket.receive_json() == {"type": "auth_success"}
        for message in messages:
            await socket.send_json(message)
        yield socket
    finally:
        await socket.close()


def wanting(**wanted: Any) -> dict[str, Any]:
    now = datetime.now(UTC)
    occurred = {"since": (now - DAY).isoformat(), "until": (now + DAY).isoformat()}
    return {"type": "filter", "filter": {"occurred": occurred, **wanted}}


async def settle(socket: ClientWebSocketResponse) -> None:
    """Wait for a pong: everything sent before is durable."""
    await socket.ping(b"there?")
    message = await socket.receive()
    assert (message.type, message.data) == (WSMsgType.PONG, b"there?")


async def ask(api: Api, path: str, body: Any) -> Any:
    async with api.client.post(f"/api{path}", json=body) as response:
        assert response.status < 300, await response.text()
        data = await response.read()
        return json.loads(data) if data else None


async def numbers(api: Api, name: str) -> list[int]:
    """The numbers of the stored events of a name, oldest first."""
    body = {"filter": {"event": {"name": [name]}, "order": "ASC"}, "limit": 200}
    page = await ask(api, "/events/filter", body)
    return [event["payload"]["number"] for event in page["events"]]


async def receive_numbers(socket: ClientWebSocketResponse, count: int) -> list[int]:
    found = []
    async with asyncio.timeout(30):
        while len(found) < count:
            message = await socket.receive()
            if message.type is WSMsgType.PING:
                await socket.pong(message.data)
                continue
            assert message.type is WSMsgType.TEXT, message
            found.append(json.loads(message.data)["event"]["payload"]["number"])
    return found


# -- the handshake --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "messages", "code", "reason"),
    [
        ("/events/out", [{"type": "filter", "filter": {}}], 1008, "Expected 'auth' message"),
        ("/events/in", [make_event()], 1008, "Expected 'auth' message"),
        ("/logs/out", [{"type": "other"}], 1008, "Expected 'auth' message"),
        ("/events/out", [AUTH, {"type": "other"}], 1002, "Expected 'filter' message"),
        ("/events/out", [AUTH, {"type": "filter"}], 1002, "Invalid filter: there is none"),
        ("/events/out", [AUTH, "not json"], 1002, "a message must be a JSON object"),
        ("/events/out", [AUTH, wanting(nope=1)], 1002, "filter.nope: Extra inputs"),
        ("/events/out", [AUTH, {"type": "filter", "filter": 5}], 1002, "must be an object"),
        ("/logs/out", [AUTH, {"type": "filter", "filter": {"levle": {}}}], 1002, "filter.levle"),
        ("/events/in", [AUTH, "not json"], 1007, "JSON decode error"),
        ("/events/in", [AUTH, {"event": "x"}], 1007, "occurred: Field required"),
        ("/events/in", [AUTH, make_event(resource={})], 1007, "resource: must have the label"),
    ],
)
async def test_who_breaks_the_rules_is_told_why(
    memory_api: Api, path: str, messages: list[Any], code: int, reason: str
) -> None:
    socket = await memory_api.client.ws_connect(f"/api{path}", protocols=("prefect",))
    for message in messages:
        await socket.send_str(message if isinstance(message, str) else json.dumps(message))
    message = await socket.receive()
    if message.type is WSMsgType.TEXT:
        assert json.loads(message.data) == {"type": "auth_success"}
        message = await socket.receive()
    assert message.type is WSMsgType.CLOSE
    assert message.data == code
    assert reason in message.extra


async def test_a_client_may_ask_whether_anybody_is_there_first(memory_api: Api) -> None:
    socket = await memory_api.client.ws_connect(
        "/api/events/in", protocols=("prefect",), autoping=False
    )
    await settle(socket)
    await socket.send_json(AUTH)
    assert await socket.receive_json() == {"type": "auth_success"}
    assert socket.protocol == "prefect"
    await socket.close()


@pytest.mark.parametrize("path", ["/api/events/in", "/api/events/out", "/api/logs/out"])
async def test_a_page_of_another_site_opens_no_socket(memory_api: Api, path: str) -> None:
    """A browser lets any page open one, and read all that comes."""
    for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        with pytest.raises(WSServerHandshakeError) as refused:
            await memory_api.client.ws_connect(path, protocols=("prefect",), headers=headers)
        assert refused.value.status == 403
    own = str(memory_api.client.make_url("/")).rstrip("/")
    async with memory_api.client.ws_connect(
        path, protocols=("prefect",), headers={"Origin": own}
    ) as socket:
        await socket.send_json(AUTH)
        assert (await socket.receive_json())["type"] == "auth_success"


async def test_a_client_without_the_subprotocol_only_sends(memory_api: Api) -> None:
    socket = await memory_api.client.ws_connect("/api/events/in", autoping=False)
    await socket.send_json(make_event("plain"))
    await settle(socket)
    assert await numbers(memory_api, "plain") == [0]
    await socket.close()


# -- taking ---------------------------------------------------------------------------------------


async def test_a_pong_says_that_all_before_it_is_kept(api: Api) -> None:
    async with connected(api, "/events/in") as socket:
        for number in range(120):
            await socket.send_json(make_event("kept", number))
        await settle(socket)
        assert await numbers(api, "kept") == list(range(120))


async def test_what_cannot_be_kept_gets_no_pong(serve: Serve) -> None:
    full = False
    store = MemoryStore(fault=lambda batches: StorageFull("the disk is full") if full else None)
    async with serve(store) as api:
        async with connected(api, "/events/in") as socket:
            await socket.send_json(make_event("early", 1))
            await settle(socket)
            full = True
            await socket.send_json(make_event("late", 1))
            await socket.ping(b"?")
            message = await socket.receive()
            assert (message.type, message.data) == (WSMsgType.CLOSE, 1013)
        async with api.client.post("/api/events", json=[make_event("late", 2)]) as response:
            assert response.status == 503
            assert int(response.headers["Retry-After"]) >= 1
        full = False
        async with connected(api, "/events/in") as socket:
            await socket.send_json(make_event("late", 1))
            await settle(socket)
        assert await numbers(api, "late") == [1]
        assert await numbers(api, "early") == [1]


async def test_a_defect_gives_no_pong(
    memory_api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def break_down(events: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(memory_api.engine.feeds, "accept", break_down)
    async with connected(memory_api, "/events/in") as socket:
        await socket.send_json(make_event("lost"))
        await socket.ping(b"?")
        message = await socket.receive()
        assert (message.type, message.data) == (WSMsgType.CLOSE, 1011)
    assert "could not be taken" in caplog.text


async def test_events_before_a_bad_one_are_kept(api: Api) -> None:
    async with connected(api, "/events/in") as socket:
        await socket.send_json(make_event("good", 1))
        await socket.send_str("{")
        assert (await socket.receive()).type is WSMsgType.CLOSE
    assert await numbers(api, "good") == [1]


async def test_an_event_that_comes_again_is_one(api: Api) -> None:
    async with (
        connected(api, "/events/out", wanting(event={"name": ["twice"]})) as follower,
        connected(api, "/events/in") as socket,
    ):
        for number in (1, 1, 2, 1):
            await socket.send_json(make_event("twice", number))
        await ask(api, "/events", [make_event("twice", 2), make_event("twice", 3)])
        await settle(socket)
        assert sorted(await receive_numbers(follower, 3)) == [1, 2, 3]
    assert sorted(await numbers(api, "twice")) == [1, 2, 3]


async def test_events_known_before_a_restart_are_known_after_it(
    serve: Serve, tmp_path: Path
) -> None:
    for _ in range(2):
        async with serve(await open_sqlite(tmp_path / "again.db")) as api:
            await ask(api, "/events", [make_event("again", number) for number in range(3)])
            assert await numbers(api, "again") == [0, 1, 2]
            assert await ask(api, "/events/filter", {"limit": 0}) == {
                "events": [],
                "total": 3,
                "next_page": None,
            }


# -- following ------------------------------------------------------------------------------------


async def test_every_follower_sees_every_event_once_while_writers_write(api: Api) -> None:
    """Followers come at any moment: what they are shown of the past and what they hear of join
    without a gap and without an overlap."""
    writers, each = 3, 60
    total = writers * each
    joined: list[asyncio.Task[list[int]]] = []

    async def follow() -> list[int]:
        async with connected(api, "/events/out", wanting(event={"prefix": ["se"]})) as socket:
            return await receive_numbers(socket, total)

    async def write(writer: int) -> None:
        async with connected(api, "/events/in") as socket:
            for number in range(writer * each, (writer + 1) * each):
                await socket.send_json(make_event("seam", number))
                if number % 20 == 0:
                    joined.append(asyncio.create_task(follow()))
                    await settle(socket)
            await settle(socket)

    async with asyncio.timeout(60):
        await asyncio.gather(*(write(writer) for writer in range(writers)))
        seen = await asyncio.gather(*joined)
    assert len(seen) == total // 20
    for found in seen:
        assert sorted(found) == list(range(total))


async def test_a_move_of_a_flow_run_and_its_event_are_one_commit(api: Api) -> None:
    await api.engine.feeds.ready()
    flow = await ask(api, "/flows/", {"name": "told"})
    run = await ask(api, "/flow_runs/", {"flow_id": flow["id"]})
    names = [f"prefect.flow-run.{name}" for name in ("Pending", "Running", "Completed")]
    async with connected(api, "/events/out", wanting(event={"name": names})) as socket:
        stats = api.engine.store.journal.stats
        for kind in ("RUNNING", "COMPLETED"):
            before = stats.commits
            await ask(api, f"/flow_runs/{run['id']}/set_state", {"state": {"type": kind}})
            assert stats.commits == before + 1
            wanted = {"event": {"name": [f"prefect.flow-run.{kind.capitalize()}"]}}
            assert (await ask(api, "/events/filter", {"filter": wanted}))["total"] == 1
        heard = [(await socket.receive_json())["event"] for _ in names]
    assert [event["event"] for event in heard] == names
    assert {event["resource"]["prefect.resource.id"] for event in heard} == {
        f"prefect.flow-run.{run['id']}"
    }


async def test_the_past_comes_oldest_first_or_not_at_all(memory_api: Api) -> None:
    api = memory_api
    await ask(api, "/events", [make_event("past", number) for number in range(600)])
    async with connected(api, "/events/out", wanting(order="DESC")) as socket:
        assert await receive_numbers(socket, 600) == list(range(600))
    silent = {**wanting(event={"name": ["past"]}), "backfill": False}
    async with connected(api, "/events/out", silent, silent) as socket:
        # The follower follows once it is rung for; until then what comes is the past.
        while not api.engine.feeds.events.waiting:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0)
        await ask(api, "/events", [make_event("past", 1000)])
        assert await receive_numbers(socket, 1) == [1000]


async def test_who_falls_behind_reads_on_from_the_database(api: Api) -> None:
    """More than memory holds comes at once; also behind it the order is that of acceptance."""
    api.engine.feeds.events.most_items = 5
    async with connected(api, "/events/out", wanting(event={"name": ["many"]})) as socket:
        await ask(api, "/events", [make_event("many", 0)])
        assert await receive_numbers(socket, 1) == [0]
        batch = [make_event("many" if n % 2 else "other", n) for n in range(1, 1200)]
        await ask(api, "/events", batch)
        assert await receive_numbers(socket, 600) == list(range(1, 1200, 2))
        await ask(api, "/events", [make_event("many", 5000)])
        assert await receive_numbers(socket, 1) == [5000]
    assert len(api.engine.feeds.events._items) <= 11


async def test_a_follower_that_does_not_read_holds_nobody_up(api: Api) -> None:
    padding = "x" * 20_000
    async with (
        connected(api, "/events/out", wanting(event={"name": ["big"]})) as sleeper,
        connected(api, "/events/out", wanting(event={"name": ["big"]})) as reader,
    ):
        for start in range(0, 400, 10):
            batch = [make_event("big", n, follows=None) for n in range(start, start + 10)]
            for event in batch:
                event["payload"]["padding"] = padding
            await ask(api, "/events", batch)
            assert await receive_numbers(reader, 10) == list(range(start, start + 10))
        assert await receive_numbers(sleeper, 400) == list(range(400))


async def test_a_server_that_stops_says_goodbye(memory_api: Api) -> None:
    api = memory_api
    async with (
        connected(api, "/events/out", wanting()) as events,
        connected(api, "/logs/out", {"type": "filter", "filter": {}}) as logs,
        connected(api, "/events/in") as sender,
    ):
        await ask(api, "/events", [make_event("last")])
        assert await receive_numbers(events, 1) == [0]
        await ask(api, "/logs/", [make_log("last")])
        assert (await logs.receive_json())["log"]["message"] == "last"
        await sender.send_json(make_event("last", 1))
        assert await receive_numbers(events, 1) == [1]
        api.engine.begin_drain()
        for socket in (events, logs, sender):
            message = await socket.receive()
            assert (message.type, message.data) == (WSMsgType.CLOSE, 1001)


async def test_a_plain_request_to_a_socket_is_told_so(memory_api: Api) -> None:
    for path in ("/events/in", "/events/out", "/logs/out"):
        async with memory_api.client.get(f"/api{path}") as response:
            assert response.status == 400
            assert "WebSocket" in (await response.json())["detail"]


@pytest.mark.parametrize("size", [1, 125, 126, 65_535, 65_536, 200_000])
def test_a_packet_is_one_whole_frame(size: int) -> None:
    """By the tables of RFC 6455: final text frame, no mask, the shortest length."""
    frame = b"x" * size
    packet = make_packet(frame)
    assert packet[0] == 0x81
    wide = {126: 2, 127: 8}.get(packet[1], 0)
    length = int.from_bytes(packet[2 : 2 + wide]) if wide else packet[1]
    assert (length, packet[2 + wide :]) == (size, frame)
    assert wide == (0 if size < 126 else 2 if size < 65_536 else 8)


# -- logs -----------------------------------------------------------------------------------------


async def test_log_lines_are_followed_from_the_past_into_the_present(api: Api) -> None:
    await ask(api, "/logs/", [make_log(f"past {n}", n) for n in range(0, 50, 10)])
    wanted = {"type": "filter", "filter": {"level": {"ge_": 20}, "text": {"query": "-secret"}}}
    async with connected(api, "/logs/out", wanted) as socket:
        first = [(await socket.receive_json())["log"]["message"] for _ in range(3)]
        assert first == ["past 20", "past 30", "past 40"]
        lines = [make_log("low", 10), make_log("a SECRET", 50), make_log("high", 50)]
        await ask(api, "/logs/", lines)
        message = await socket.receive_json()
        assert message["type"] == "log"
        assert message["log"]["message"] == "high"
        # More than memory holds comes at once.
        api.engine.feeds.logs.most_items = 5
        await ask(api, "/logs/", [make_log(f"{n}", 10 + n % 2 * 20) for n in range(1000)])
        seen = [(await socket.receive_json())["log"]["message"] for _ in range(500)]
        assert seen == [str(n) for n in range(1, 1000, 2)]
