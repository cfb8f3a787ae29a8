"""Server streams of the Connect services: no event is lost, no reader is forgotten."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from connect_client import CODECS, Caller, stream

from ironflow.web.stream import STREAMS

SUBSCRIBE = "PubSubService/Subscribe"


@pytest.fixture(params=CODECS)
def caller(request: pytest.FixtureRequest, api: Any) -> Caller:
    return Caller(api.client, request.param)


async def emit(caller: Caller, name: str, number: int) -> str:
    answer = await caller.ok("PubSubService/Emit", {"event": name, "data": {"n": number}})
    event_id: str = answer["eventId"]
    return event_id


def numbers(messages: list[Any]) -> list[Any]:
    return [message["data"]["n"] for message in messages]


async def test_a_subscriber_hears_what_comes_after_it_and_fits_its_pattern(caller: Caller) -> None:
    await emit(caller, "order.placed", 0)
    query = {"pattern": "events:order.*", "options": {"includeMetadata": True}}
    async with stream(caller, SUBSCRIBE, query) as events:
        for number, name in enumerate(("order.placed", "other", "order.paid", "order.a.b"), 1):
            await emit(caller, name, number)
        first, second = await events.take(2)
    assert numbers([first, second]) == [1, 3]
    assert (first["topic"], second["topic"]) == ("events:order.placed", "events:order.paid")
    assert int(first["sequence"]) < int(second["sequence"])
    assert first["deliveryAttempt"] == 1
    assert first["metadata"]["source"] == "sdk"
    assert first["metadata"]["timestamp"]


async def test_a_filter_looks_into_the_data(caller: Caller) -> None:
    query = {"pattern": "events:>", "options": {"filter": "data.n > 1"}}
    async with stream(caller, SUBSCRIBE, query) as events:
        for number in range(3):
            await emit(caller, "order.placed", number)
        assert numbers(await events.take(1)) == [2]


async def test_the_last_ones_are_replayed_in_order(caller: Caller) -> None:
    for number in range(6):
        await emit(caller, "other" if number % 2 else "order.placed", number)
    query = {"pattern": "events:order.*", "options": {"replay": 2}}
    async with stream(caller, SUBSCRIBE, query) as events:
        assert numbers(await events.take(2)) == [2, 4]
        await emit(caller, "order.placed", 7)
        assert numbers(await events.take(1)) == [7]


async def test_who_comes_back_with_a_sequence_misses_nothing(caller: Caller) -> None:
    """Read in pieces, each from a new connection, while events are being emitted."""
    total, position, seen = 120, "0", list[int]()

    async def produce() -> None:
        for number in range(total):
            await emit(caller, "load", number)

    producing = asyncio.create_task(produce())
    while len(seen) < total:
        options = {"startAfterSequence": position}
        async with stream(caller, SUBSCRIBE, {"pattern": "events:load", "options": options}) as it:
            for message in await it.take(min(17, total - len(seen))):
                seen.append(message["data"]["n"])
                position = message["sequence"]
    await producing
    assert seen == list(range(total))


async def test_a_run_is_followed_by_its_topics(api: Any, caller: Caller) -> None:
    async with stream(caller, SUBSCRIBE, {"pattern": "system.run.>"}) as events:
        run_id = await api.start("echo", {"a": 1})
        told = []
        while (
            not told or not told[-1]["topic"].endswith(".completed") or "step" in told[-1]["topic"]
        ):
            told += await events.take(1)
    assert told[0]["topic"] == f"system.run.{run_id}.created"
    assert told[0]["data"]["functionId"] == "echo"
    assert told[-1]["topic"] == f"system.run.{run_id}.completed"
    assert told[-1]["data"]["output"] == {"a": 1}


async def test_a_quiet_stream_ends_at_its_deadline(caller: Caller) -> None:
    query, headers = {"pattern": "events:quiet"}, {"Connect-Timeout-Ms": "100"}
    async with stream(caller, SUBSCRIBE, query, headers) as events:
        ended = await events.next()
    assert ended["end"]["error"]["code"] == "deadline_exceeded"


async def test_a_subscriber_that_goes_away_is_dropped(api: Any) -> None:
    feed = api.client.server.app[STREAMS].feed
    left = asyncio.Event()
    detach = feed.detach

    def note(*args: Any) -> None:
        detach(*args)
        left.set()

    feed.detach = note
    async with stream(Caller(api.client), SUBSCRIBE, {"pattern": "events:>"}) as events:
        assert feed.readers == 1
        events.response.close()
    async with asyncio.timeout(30):
        await left.wait()
    assert feed.readers == 0


async def test_a_server_that_stops_says_so(api: Any) -> None:
    feed = api.client.server.app[STREAMS].feed
    async with stream(Caller(api.client), SUBSCRIBE, {"pattern": "events:>"}) as events:
        closing = asyncio.create_task(feed.close(10))
        ended = await events.next()
        await closing
    assert ended["end"]["error"]["code"] == "unavailable"


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({}, "invalid_argument"),
        ({"pattern": "order.*"}, "invalid_argument"),
        ({"pattern": "events:a..b"}, "invalid_argument"),
        ({"pattern": "topic:x"}, "unimplemented"),
        ({"pattern": "events:>", "options": {"filter": "nope.x"}}, "invalid_argument"),
        ({"pattern": "events:>", "options": {"namespace": "x"}}, "invalid_argument"),
        ({"pattern": "events:>", "options": {"consumerGroup": "x"}}, "unimplemented"),
        ({"pattern": "events:>", "options": {"ackMode": "ACK_MODE_MANUAL"}}, "unimplemented"),
        (
            {"pattern": "events:>", "options": {"replay": 1, "startAfterSequence": "1"}},
            "invalid_argument",
        ),
        ({"pattern": "events:>", "options": {"startAfterSequence": "999999"}}, "invalid_argument"),
    ],
)
async def test_refusals(memory_api: Any, query: dict[str, Any], code: str) -> None:
    for codec in CODECS:
        async with stream(Caller(memory_api.client, codec), SUBSCRIBE, query) as events:
            ended = await events.next()
        assert ended["end"]["error"]["code"] == code
        assert ended["end"]["error"]["message"]
