"""What every store promises of what is read: streams, pages of lists, counts."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import pytest
from store_rows import batch, new, put, run_row

from ironflow.storage.ports import (
    EVENTS,
    META,
    RUNS,
    SNAPSHOTS,
    TIMERS,
    Entry,
    EventFilter,
    NewEntry,
    RunFilter,
    RunRow,
    Snapshot,
    Store,
)

# -- streams ---------------------------------------------------------------------------------------


async def test_load_gives_the_snapshot_and_what_came_after(store: Store) -> None:
    for version in range(1, 11):
        await store.journal.commit(batch(new("s", version)))
    loaded = await store.reader.load("s")
    assert loaded.snapshot is None
    assert [entry.version for entry in loaded.entries] == list(range(1, 11))
    await put(store, (SNAPSHOTS, ("s", 4, b"old")))
    await put(store, (SNAPSHOTS, ("s", 8, b"state")))
    loaded = await store.reader.load("s")
    assert loaded.snapshot == Snapshot(8, b"state")
    assert [entry.version for entry in loaded.entries] == [9, 10]
    assert all(isinstance(entry, Entry) for entry in loaded.entries)
    nothing = await store.reader.load("none")
    assert (nothing.snapshot, nothing.entries) == (None, [])


async def test_many_loads_at_once_each_get_their_own_stream(store: Store) -> None:
    await store.journal.commit(batch(*(new(f"s/{n}", 1, str(n).encode()) for n in range(200))))
    streams = [f"s/{n % 200}" for n in range(400)]
    loaded = await asyncio.gather(*(store.reader.load(stream) for stream in streams))
    assert [found.entries[0].stream for found in loaded] == streams


async def test_a_load_sees_what_was_acknowledged_before_it_was_asked(store: Store) -> None:
    async def grow(stream: str) -> None:
        for version in range(1, 20):
            first = asyncio.create_task(store.reader.load(stream))
            await store.journal.commit(batch(new(stream, version)))
            second = await store.reader.load(stream)
            assert len(second.entries) == version
            assert len((await first).entries) in {version - 1, version}

    await asyncio.gather(*(grow(f"s/{n}") for n in range(8)))


async def test_entries_and_tail_come_in_pages(store: Store) -> None:
    for version in range(1, 6):
        await store.journal.commit(batch(new("a", version), new("b", version)))
    page = await store.reader.entries("a", after=1, limit=3)
    assert [(e.stream, e.version) for e in page] == [("a", 2), ("a", 3), ("a", 4)]
    assert [e.seq for e in await store.reader.tail(7, limit=2)] == [8, 9]
    assert await store.reader.tail(10) == []
    assert (await store.reader.entry("b", 3)) == (await store.reader.entries("b"))[2]
    assert await store.reader.entry("b", 6) is None
    assert await store.reader.entry("b", 0) is None


# -- lists -----------------------------------------------------------------------------------------


async def put_runs(store: Store) -> list[RunRow]:
    statuses = ["queued", "running", "waiting", "completed", "failed"]
    rows = [
        run_row(
            f"run-{number:03}",
            function_id=f"fn-{number % 3}",
            status=statuses[number % 5],
            created_at=1000 + number // 4,
            event_id=f"event-{number % 10}" if number % 2 else None,
            event_name=f"name-{number % 4}" if number % 2 else None,
            parent_id=f"parent-{number % 6}" if number % 3 == 0 else None,
            idempotency_key=f"key-{number}" if number % 7 == 0 else None,
            kind="flow" if number % 8 == 0 else "workflow" if number % 9 == 0 else "function",
        )
        for number in range(120)
    ]
    await put(store, *((RUNS, row) for row in reversed(rows)))
    return [RunRow(*row) for row in rows]


FILTERS = [
    RunFilter(),
    RunFilter(function_id="fn-1"),
    RunFilter(statuses=("running",)),
    RunFilter(statuses=("queued", "failed", "nothing")),
    RunFilter(function_id="fn-2", statuses=("queued", "failed")),
    RunFilter(event_id="event-3"),
    RunFilter(event_name="name-1"),
    RunFilter(event_name="name-3", statuses=("running", "completed")),
    RunFilter(parent_id="parent-0"),
    RunFilter(parent_id="parent-3", function_id="fn-0", statuses=("failed",)),
    RunFilter(idempotency_key="key-14"),
    RunFilter(idempotency_key="key-14", statuses=("failed", "queued"), function_id="fn-2"),
    RunFilter(since=1005, until=1020),
    RunFilter(statuses=("failed",), since=1005, until=1020),
    RunFilter(function_id="none"),
    RunFilter(kind="flow"),
    RunFilter(kind="workflow", statuses=("failed", "queued"), until=1090),
    RunFilter(kind="function", function_id="fn-1"),
]


def matches(run: RunRow, where: RunFilter) -> bool:
    given = {
        name: getattr(where, name)
        for name in (
            "function_id", "kind", "event_id", "event_name", "parent_id", "idempotency_key",
        )
    }  # fmt: skip
    return (
        all(value is None or getattr(run, name) == value for name, value in given.items())
        and (not where.statuses or run.status in where.statuses)
        and (where.since is None or run.created_at >= where.since)
        and (where.until is None or run.created_at < where.until)
    )


@pytest.mark.parametrize("where", FILTERS, ids=lambda where: repr(where)[10:60])
async def test_pages_of_runs_hold_what_matches_newest_first(store: Store, where: RunFilter) -> None:
    runs = await put_runs(store)
    wanted = [run for run in runs if matches(run, where)]
    wanted.sort(key=lambda run: (run.created_at, run.id), reverse=True)
    found: list[RunRow] = []
    before = None
    while page := await store.reader.runs(where, limit=7, before=before):
        assert len(page) <= 7
        found += page
        before = page[-1].created_at, page[-1].id
    assert found == wanted


@pytest.mark.parametrize("status", ["queued", "running"])
async def test_unfinished_runs_come_oldest_first_in_pages(
    store: Store, status: Literal["queued", "running"]
) -> None:
    runs = [run for run in await put_runs(store) if run.status == status and run.kind != "flow"]
    found: list[RunRow] = []
    after = None
    while page := await store.reader.unfinished(status, limit=10, after=after):
        found += page
        after = page[-1].created_at, page[-1].id
    assert found == runs


async def test_runs_are_counted_by_function_and_status(store: Store) -> None:
    runs = await put_runs(store)
    counts = await store.reader.count_runs()
    assert sum(counts.values()) == len(runs)
    assert counts["fn-0", "queued"] == sum(
        run.function_id == "fn-0" and run.status == "queued" for run in runs
    )
    assert await store.reader.run("none") is None


async def test_events_come_with_their_data_in_pages(store: Store) -> None:
    for number in range(40):
        row = (f"e-{number:02}", f"name.{number % 3}", 100 + number // 3, "api", None)
        entry = NewEntry(f"event/{row[0]}", 1, row[2], "event.received", str(number).encode())
        await store.journal.commit(batch(entry, puts=[(EVENTS, row)]))
    row = ("e-x", "name.1", 90, "cron", "key")
    await store.journal.commit(batch(new("event/e-x", 1), puts=[(EVENTS, row)]))

    async def pages(where: EventFilter) -> list[str]:
        found: list[str] = []
        before = None
        while page := await store.reader.events(where, limit=6, before=before):
            found += [event.id for event in page]
            before = page[-1].at, page[-1].id
        return found

    every = [f"e-{number:02}" for number in reversed(range(40))]
    assert await pages(EventFilter()) == [*every, "e-x"]
    assert await pages(EventFilter(names=("name.1",))) == [*every[2::3], "e-x"]
    assert await pages(EventFilter(names=("name.2", "name.0", "name.2"))) == [
        id_ for id_ in every if int(id_[2:]) % 3 != 1
    ]
    assert await pages(EventFilter(source="cron")) == ["e-x"]
    assert await pages(EventFilter(names=("name.1", "none"), source="cron")) == ["e-x"]
    within = [id_ for id_ in every if 101 <= 100 + int(id_[2:]) // 3 < 104]
    assert await pages(EventFilter(since=101, until=104)) == within
    event = await store.reader.event("e-07")
    assert event is not None
    assert (event.name, event.at, event.data) == ("name.1", 102, b"7")
    assert await store.reader.event("none") is None


async def test_timers_come_in_pages_by_moment_target_and_name(store: Store) -> None:
    rows = [(f"run/{n % 3}", f"t{n}", 100 + n % 4, n) for n in range(20)]
    await put(store, *((TIMERS, row) for row in rows))
    due = sorted((row for row in rows if row[2] <= 102), key=lambda row: (row[2], row[0], row[1]))
    found: list[tuple[Any, ...]] = []
    after = None
    while page := await store.reader.timers(102, 4, after):
        found += [tuple(timer) for timer in page]
        after = page[-1].at, page[-1].target, page[-1].name
    assert found == due


async def test_info_tells_what_there_is(store: Store) -> None:
    await store.journal.commit(batch(new("s", 1), new("s", 2), puts=[(META, ("a", "b"))]))
    info = await store.reader.info()
    assert info.last_seq == 2
    assert info.rows["journal"] == 2
    assert info.rows["meta"] == 1
    assert info.rows["runs"] == 0
    assert info.size > 0
    assert info.url
