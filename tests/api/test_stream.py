"""The live streams over real HTTP: nothing lost, nothing twice, however slowly it is read."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from api.stream_reader import RUN, Stalled, World, seqs

from ironflow.actors.kernel.virtual_time import in_virtual_time, virtual_clock
from ironflow.core.clock import SystemClock
from ironflow.storage.memory.store import MemoryStore
from ironflow.storage.ports import Batch, Entry, Store
from ironflow.storage.sqlite.store import open_sqlite
from ironflow.web.feed import Selection, encode_frame


@pytest.fixture(params=["memory", "sqlite"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    store: Store
    store = MemoryStore() if request.param == "memory" else await open_sqlite(tmp_path / "t.db")
    found = World(store, SystemClock())
    await found.listen()
    yield found
    await found.close()


@pytest.fixture
async def small(tmp_path: Path) -> AsyncIterator[World]:
    """A world whose ring holds very little, over a real file."""
    found = World(await open_sqlite(tmp_path / "t.db"), SystemClock())
    await found.listen(entries=64, size=64 * 1024)
    yield found
    await found.close()


# -- frames ----------------------------------------------------------------------------------------


def test_a_frame_has_the_entry_as_it_is_and_its_seq_as_id() -> None:
    entry = Entry(7, 'run/ä"', 3, 1_767_225_600_000_001, "step.completed", b'{"x":[1, 2.50]}')
    lines = encode_frame(entry).decode().split("\n")
    assert lines[:2] == ["id: 7", "event: step.completed"]
    assert lines[3:] == ["", ""]
    assert json.loads(lines[2].removeprefix("data: ")) == {
        "seq": 7,
        "stream": 'run/ä"',
        "version": 3,
        "at": "2026-01-01T00:00:00.000001Z",
        "kind": "step.completed",
        "data": {"x": [1, 2.5]},
    }


def test_json_on_several_lines_stays_one_line_of_data() -> None:
    entry = Entry(1, "s", 1, 0, "k", b'{\r\n "a": "x\\ny",\n "b": 2}')
    body = encode_frame(entry)
    assert body.count(b"\n") == 4
    assert b"\r" not in body
    data = json.loads(body.split(b"data: ", 1)[1])
    assert data["data"] == {"a": "x\ny", "b": 2}


# -- everything ------------------------------------------------------------------------------------


async def test_the_stream_begins_now_unless_told_otherwise(world: World) -> None:
    await world.write(world.entry("a"), world.entry("a"))
    async with world.stream() as now, world.stream(after=0) as whole:
        await world.is_waiting(2)
        await world.write(world.entry("a"), world.entry("b"))
        assert [f.data["version"] for f in await now.take(2)] == [3, 1]
        frames = await whole.take(4)
    assert seqs(frames) == [1, 2, 3, 4]
    assert [f.id for f in frames] == ["1", "2", "3", "4"]
    assert {f.event for f in frames} == {"step.completed"}


async def test_a_client_that_comes_back_goes_on_where_it_stood(world: World) -> None:
    for _ in range(5):
        await world.write(world.entry("a"))
    async with world.stream(last_id=2) as reader:
        assert seqs(await reader.take(3)) == [3, 4, 5]
    async with world.stream(after=4) as reader:
        assert seqs(await reader.take(1)) == [5]
    # A browser repeats the address it began with, and adds the header.
    async with world.stream(last_id=4, after=0) as reader:
        assert seqs(await reader.take(1)) == [5]


async def test_a_client_lost_before_its_first_frame_knows_where_it_stood(world: World) -> None:
    await world.write(world.entry("a"))
    async with world.stream() as reader:
        await world.is_waiting(1)
        first = (await reader.response.content.readline()).decode()
    assert first == "id: 1\n"


@pytest.mark.parametrize("bad", ["-1", "x", "1.5", "٣", "9" * 19, "", "1e3"])
async def test_a_bad_position_is_refused(world: World, bad: str) -> None:
    run = (await world.begin_run(1)).removeprefix("run/")
    for path in ("/api/v1/stream", f"/api/v1/runs/{run}/stream"):
        async with world.session.get(path, headers={"Last-Event-ID": bad or "+"}) as response:
            assert response.status == 422
            assert response.content_type == "application/problem+json"
            assert (await response.json())["field"] == "Last-Event-ID"
        async with world.session.get(path, params={"after": bad or "+"}) as response:
            assert response.status == 422
            assert (await response.json())["field"] == "after"
    assert world.feed.readers == 0


async def test_a_position_beyond_the_journal_is_refused(world: World) -> None:
    await world.write(world.entry("a"))
    for query in ({"after": "2"}, {"nope": "1"}, {"kind": "a..b"}, {"kind": ">.x"}):
        async with world.session.get("/api/v1/stream", params=query) as response:
            assert response.status == 422
            assert (await response.json())["field"] == next(iter(query))


async def test_filters_leave_out_what_does_not_match(world: World) -> None:
    one = await world.begin_run(1, "orders")
    two = await world.begin_run(2, "mail")
    await world.write(
        world.entry(one),
        world.entry(two),
        world.entry("event/x", "event.emitted"),
        world.entry("schedule/orders", "schedule.set"),
        world.entry(one, "run.paused"),
        world.entry("function/orders", "function.registered"),
    )
    cases: list[tuple[dict[str, Any], list[int]]] = [
        ({"kind": "run.*"}, [1, 2, 7]),
        ({"kind": ["run.created", "event.>"]}, [1, 2, 5]),
        ({"function_id": "orders"}, [1, 3, 6, 7, 8]),
        ({"function_id": "orders", "kind": "step.*,run.paused"}, [3, 7]),
        ({"stream": two}, [2, 4]),
        ({"stream": "event/"}, [5]),
    ]
    for query, expected in cases:
        async with world.stream(after=0, **query) as reader:
            assert seqs(await reader.take(len(expected))) == expected, query
            await world.is_waiting(1)
    # The same live, and for runs that began before the stream did.
    async with world.stream(function_id="mail") as reader:
        await world.is_waiting(1)
        await world.write(world.entry(one), world.entry(two), world.entry("event/y"))
        await world.write(world.entry(two))
        assert seqs(await reader.take(2)) == [10, 12]


# -- no loss, no duplicate -------------------------------------------------------------------------


async def test_streams_opened_amid_writes_have_neither_gap_nor_repetition(small: World) -> None:
    total = 6000

    async def produce(name: str) -> None:
        for _ in range(1500):
            await small.write(
                *[small.entry(name) for _ in range(random.Random(name).choice((1, 3)))]
            )

    async def consume(after: int) -> list[int]:
        found: list[int] = []
        while not found or found[-1] < total:
            # Lose the connection now and then, and come back with the last id.
            last = found[-1] if found else after
            async with small.stream(last_id=last) as reader:
                count = random.Random(last + after).randint(1, 900)
                found += seqs(await reader.take(min(count, total - last)))
        return found

    writers = [asyncio.create_task(produce(f"s{n}")) for n in range(4)]
    readers = [asyncio.create_task(consume(0)) for _ in range(4)]
    await asyncio.gather(*writers)
    assert small.store.journal.last_seq >= total
    for reader in readers:
        assert await reader == list(range(1, total + 1))


async def test_many_readers_share_the_frames_and_the_rings(world: World) -> None:
    opened = [world.stream() for _ in range(50)]
    readers = [await stream.__aenter__() for stream in opened]
    await world.is_waiting(50)
    for _ in range(40):
        await world.write(*[world.entry("a") for _ in range(5)])
    expected = list(range(1, 201))
    for reader in readers:
        assert seqs(await reader.take(200)) == expected
    assert world.feed.encoded == 200
    assert world.feed.pulses <= 40
    for stream in opened:
        await stream.__aexit__(None, None, None)
    await world.is_waiting(0)
    assert len(world.feed) == 0
    await world.write(world.entry("a"))
    assert len(world.feed) == 0


@pytest.mark.parametrize("path", ["/api/v1/stream", f"/api/v1/runs/{RUN.format(1)}/stream"])
async def test_a_reader_that_stops_reading_holds_nobody_up_and_loses_nothing(
    small: World, path: str
) -> None:
    stream = await small.begin_run(1)
    loop = asyncio.get_running_loop()
    _, client = await loop.create_connection(Stalled, "127.0.0.1", small.server.port)
    client.transport.write(f"GET {path}?after=1 HTTP/1.0\r\nHost: x\r\n\r\n".encode())
    await small.is_waiting(1)
    data = json.dumps({"pad": "x" * 2000}).encode()
    async with small.stream() as quick:
        await small.is_waiting(2)
        for _ in range(200):
            await small.write(*[small.entry(stream, data=data) for _ in range(20)])
            assert len(await quick.take(20)) == 20
            assert len(small.feed) <= small.feed.limit
            assert small.feed.size <= small.feed.size_limit
    assert not client.received
    client.transport.resume_reading()
    body = await client.until(b"id: 4001\n")
    ids = [int(line[4:]) for line in body.split(b"\n") if line.startswith(b"id: ")]
    assert [i for i in ids if i > 1] == list(range(2, 4002))
    client.transport.abort()
    await small.is_waiting(0)


async def test_large_entries_pass_through_a_ring_that_cannot_hold_them(small: World) -> None:
    data = json.dumps("y" * 60_000).encode()
    for _ in range(8):
        await small.write(*[small.entry("big", data=data) for _ in range(8)])
    async with small.stream(after=0) as reader:
        await small.write(*[small.entry("big", data=data) for _ in range(8)])
        frames = await reader.take(72)
    assert seqs(frames) == list(range(1, 73))
    assert all(len(frame.data["data"]) == 60_000 for frame in frames)


# -- one run ---------------------------------------------------------------------------------------


async def test_a_run_is_streamed_from_its_beginning_to_its_end(world: World) -> None:
    stream = await world.begin_run(1)
    other = await world.begin_run(2)
    path = f"/api/v1/runs/{RUN.format(1)}/stream"
    async with world.stream(path) as reader:
        await world.is_waiting(1)
        await world.write(world.entry(other), world.entry(stream))
        await world.write(world.entry(stream))
        await world.end_run(other)
        await world.end_run(stream)
        frames = await reader.rest()
    assert [f.event for f in frames] == [
        "run.created", "step.completed", "step.completed", "run.completed", "end",
    ]  # fmt: skip
    assert [f.data["version"] for f in frames[:-1]] == [1, 2, 3, 4]
    assert frames[-1].data == {"run_id": RUN.format(1), "status": "completed"}
    # The same once it has ended, and from behind its last entry.
    async with world.stream(path) as reader:
        assert await reader.rest() == frames
    async with world.stream(path, last_id=int(frames[-2].id)) as reader:
        assert [(f.event, f.data) for f in await reader.rest()] == [("end", frames[-1].data)]
    async with world.stream(path, last_id=int(frames[1].id)) as reader:
        assert [f.id for f in await reader.rest()] == [f.id for f in frames[2:]]


async def test_a_run_that_is_tried_again_does_not_end_at_its_first_end(world: World) -> None:
    stream = await world.begin_run(1)
    await world.end_run(stream, "run.failed")
    path = f"/api/v1/runs/{RUN.format(1)}/stream"
    async with world.stream(path, follow="true") as follower:
        assert [f.event for f in await follower.take(2)] == ["run.created", "run.failed"]
        await world.write(world.entry(stream, "run.reopened"))
        assert [f.event for f in await follower.take(1)] == ["run.reopened"]
        async with world.stream(path) as reader:
            await world.write(world.entry(stream))
            await world.end_run(stream)
            events = [f.event for f in await reader.rest()]
        assert [f.event for f in await follower.take(2)] == ["step.completed", "run.completed"]
    assert events == [
        "run.created", "run.failed", "run.reopened", "step.completed", "run.completed", "end",
    ]  # fmt: skip


async def test_a_long_run_is_resumed_without_reading_it_from_the_start(small: World) -> None:
    stream = await small.begin_run(1)
    for _ in range(60):
        await small.write(*[small.entry(stream) for _ in range(50)])
    await small.end_run(stream)
    asked: list[int] = []
    history = small.feed.reader.entries

    async def count(name: str, after: int = 0, limit: int = 1000) -> list[Entry]:
        asked.append(after)
        return await history(name, after, limit)

    small.feed.reader.entries = count  # type: ignore[method-assign]
    async with small.stream(f"/api/v1/runs/{RUN.format(1)}/stream", last_id=2990) as reader:
        frames = await reader.rest()
    assert seqs(frames[:-1]) == list(range(2991, 3003))
    assert min(asked) >= 2900


async def test_a_burst_larger_than_the_news_of_a_run_is_whole(small: World) -> None:
    stream = await small.begin_run(1)
    async with small.stream(f"/api/v1/runs/{RUN.format(1)}/stream", last_id=1) as reader:
        await small.is_waiting(1)
        # In one turn of the loop: the reader is rung but has no chance to read.
        for _ in range(6):
            batch = Batch([small.entry(stream) for _ in range(300)], [], [])
            small.store.journal.append(batch, lambda error: None)
        await small.end_run(stream)
        frames = await reader.rest()
    assert [f.data["version"] for f in frames[:-1]] == list(range(2, 1803))


async def test_there_is_no_stream_of_a_run_that_does_not_exist(world: World) -> None:
    for name in (RUN.format(9), "nonsense"):
        async with world.session.get(f"/api/v1/runs/{name}/stream") as response:
            assert response.status == 404
            assert (await response.json())["code"] == "not_found"
    await world.is_waiting(0)


# -- idle and closing ------------------------------------------------------------------------------


@in_virtual_time
async def test_idle_streams_get_a_comment_every_fifteen_seconds_and_busy_ones_none() -> None:
    clock = virtual_clock()
    world = World(MemoryStore(), clock)
    await world.listen()
    loop = asyncio.get_running_loop()
    stream = await world.begin_run(1)
    async with (
        world.stream(kind="never.*") as idle,
        world.stream(f"/api/v1/runs/{RUN.format(1)}/stream") as run,
    ):
        await run.take(1)
        await world.write(world.entry("a"))
        began, beats = loop.time(), []
        while len(beats) < 3:
            line = (await idle.response.content.readline()).decode()
            if line == ": heartbeat\n":
                beats.append(round(loop.time() - began))
        assert beats == [15, 30, 45]
        # The position moves on with what was left out.
        assert (await idle.response.content.readline()) == b"id: 2\n"
        for _ in range(6):
            await asyncio.sleep(10)
            await world.write(world.entry(stream))
        comments = run.comments
        assert len(await run.take(6)) == 6
        # Three while it was idle, none while it was busy.
        assert run.comments - comments == 3
    await world.close()


async def test_closing_the_server_tells_every_reader_at_once(world: World) -> None:
    await world.begin_run(1)
    loop = asyncio.get_running_loop()
    _, stuck = await loop.create_connection(Stalled, "127.0.0.1", world.server.port)
    stuck.transport.write(b"GET /api/v1/stream?after=0 HTTP/1.0\r\nHost: x\r\n\r\n")
    await world.is_waiting(1)
    data = json.dumps("z" * 50_000).encode()
    for _ in range(20):
        await world.write(*[world.entry("a", data=data) for _ in range(10)])
    path = f"/api/v1/runs/{RUN.format(1)}/stream"
    async with world.stream() as everything, world.stream(path) as one:
        await one.take(1)
        await world.is_waiting(3)
        closing = asyncio.create_task(world.feed.close(grace=0.2))
        assert [f.event for f in await everything.rest()] == ["shutdown"]
        assert [f.event for f in await one.rest()] == ["shutdown"]
        await closing
    await world.is_waiting(0)
    async with world.session.get("/api/v1/stream") as response:
        assert response.status == 503
        assert "Retry-After" in response.headers
    stuck.transport.abort()


async def test_a_client_that_goes_away_leaves_nothing_behind(world: World) -> None:
    for _ in range(20):
        async with world.stream(after=0):
            pass
    for _ in range(3):
        await world.write(world.entry("a"))
    await world.is_waiting(0)
    assert len(world.feed) == 0


# -- the feed itself -------------------------------------------------------------------------------


async def test_a_cursor_that_fell_out_of_the_ring_goes_on_from_the_database(small: World) -> None:
    asked: list[int] = []
    tail = small.feed.reader.tail

    async def count(after: int, limit: int = 1000) -> list[Entry]:
        asked.append(after)
        return await tail(after, limit)

    small.feed.reader.tail = count  # type: ignore[method-assign]
    async with small.stream() as reader:
        await small.is_waiting(1)
        for _ in range(5):
            await small.write(small.entry("a"))
            await reader.take(1)
        assert not asked
        for _ in range(20):
            batch = Batch([small.entry("a") for _ in range(20)], [], [])
            small.store.journal.append(batch, lambda error: None)
        await small.store.journal.flush()
        assert seqs(await reader.take(400)) == list(range(6, 406))
    assert asked


async def test_readers_in_step_get_the_very_same_bytes(world: World) -> None:
    async with world.stream(), world.stream():
        await world.is_waiting(2)
        await world.write(world.entry("a"), world.entry("b"))
        first, _ = await world.feed.chunk(0, Selection())
        second, last = await world.feed.chunk(0, Selection())
        assert first is second
        assert last == 2
        only, last = await world.feed.chunk(0, Selection(prefix="b"))
        assert only.count(b"event:") == 1
        assert last == 2


def test_the_frame_of_every_entry_is_what_the_views_say() -> None:
    body = encode_frame(Entry(1, "s", 2, 3, "k", b"null"))
    decoded = msgspec.json.decode(body.split(b"data: ", 1)[1])
    assert list(decoded) == ["seq", "stream", "version", "at", "kind", "data"]
