"""What every store promises, whatever it is made of: run for SQLite in both durabilities and for
memory."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

from ironflow.core.errors import InvalidInput, StorageError, StreamConflict
from ironflow.storage.memory import MemoryStore
from ironflow.storage.ports import (
    BLOB_REFS,
    BLOBS,
    DELIVERIES,
    EVENTS,
    FUNCTIONS,
    INTAKES,
    META,
    OUTCOMES,
    RUNS,
    SNAPSHOTS,
    TIMERS,
    WAITERS,
    Batch,
    Entry,
    EventFilter,
    NewEntry,
    RetentionRule,
    RunFilter,
    RunRow,
    Snapshot,
    Store,
    Table,
)
from ironflow.storage.sqlite import open_sqlite

Put = tuple[Table, tuple[Any, ...]]


@pytest.fixture(params=["memory", "full", "process"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    if request.param == "memory":
        opened: Store = MemoryStore()
    else:
        opened = await open_sqlite(tmp_path / "iron.db", durability=request.param)
    yield opened
    await opened.close()


def new(stream: str, version: int, data: bytes = b"{}") -> NewEntry:
    return NewEntry(stream, version, 1000 + version, "kind", data)


def batch(*entries: NewEntry, puts: Sequence[Put] = (), deletes: Sequence[Put] = ()) -> Batch:
    return Batch(list(entries), list(puts), list(deletes))


def run_row(id_: str, **changes: Any) -> tuple[Any, ...]:
    row: dict[str, Any] = dict.fromkeys(RUNS.columns)
    row |= {"id": id_, "function_id": "fn", "status": "queued", "created_at": 1, "updated_at": 1}
    row |= {"attempt": 1, "version": 1, "crashes": 0, "kind": "function"} | changes
    return tuple(row[name] for name in RUNS.columns)


async def put(store: Store, *puts: Put, deletes: Sequence[Put] = ()) -> None:
    await store.journal.commit(batch(puts=puts, deletes=deletes))


def collector(told: list[tuple[str, Exception | None]], name: str) -> Callable[..., None]:
    return lambda error: told.append((name, error))


# -- appends -----------------------------------------------------------------------------------


async def test_entries_get_sequence_numbers_in_the_order_of_the_appends(store: Store) -> None:
    told: list[tuple[str, Exception | None]] = []
    for number in range(300):
        entry = new(f"s/{number % 7}", number // 7 + 1, str(number).encode())
        store.journal.append(batch(entry), collector(told, str(number)))
    await store.journal.flush()
    assert told == [(str(number), None) for number in range(300)]
    entries = await store.reader.tail(0)
    assert [entry.seq for entry in entries] == list(range(1, 301))
    assert [entry.data for entry in entries] == [str(number).encode() for number in range(300)]
    assert store.journal.last_seq == 300
    assert store.journal.stats.entries == 300
    assert store.journal.stats.waiting == 0


async def test_done_is_never_called_within_append(store: Store) -> None:
    told: list[tuple[str, Exception | None]] = []
    store.journal.append(batch(new("s", 1)), collector(told, "a"))
    assert told == []
    assert store.journal.stats.waiting == 1
    await store.journal.flush()
    assert told == [("a", None)]


async def test_a_batch_without_entries_is_committed(store: Store) -> None:
    await put(store, (META, ("color", "blue")))
    assert await store.reader.meta("color") == "blue"
    assert store.journal.last_seq == 0


async def test_the_fence_refuses_a_version_that_is_there_and_one_that_leaves_a_gap(
    store: Store,
) -> None:
    await store.journal.commit(batch(new("s", 1), new("s", 2)))
    for version in (0, 1, 2, 4):
        with pytest.raises(StreamConflict) as caught:
            await store.journal.commit(batch(new("s", version)))
        assert (caught.value.stream, caught.value.version) == ("s", version)
    with pytest.raises(StreamConflict):
        await store.journal.commit(batch(new("unknown", 2)))
    await store.journal.commit(batch(new("s", 3)))
    assert [e.version for e in await store.reader.entries("s")] == [1, 2, 3]
    assert store.journal.last_seq == 3
    assert store.journal.stats.failures == 5


async def test_a_refused_batch_leaves_nothing_and_takes_no_innocent_one_with_it(
    store: Store,
) -> None:
    await store.journal.commit(batch(new("s", 1)))
    told: list[tuple[str, Exception | None]] = []
    append = store.journal.append
    append(batch(new("a", 1)), collector(told, "before"))
    guilty = batch(new("t", 1), new("s", 1), puts=[(META, ("guilty", "yes"))])
    append(guilty, collector(told, "guilty"))
    append(batch(new("s", 2), puts=[(META, ("same", "yes"))]), collector(told, "same stream"))
    append(batch(new("t", 1), new("u", 1)), collector(told, "other stream of the guilty"))
    append(batch(new("u", 1)), collector(told, "stream of a dragged one"))
    append(batch(puts=[(SNAPSHOTS, ("s", 2, b"x"))]), collector(told, "snapshot"))
    append(batch(new("a", 2)), collector(told, "after"))
    await store.journal.flush()
    assert [name for name, _ in told] == [
        "before",
        "guilty",
        "same stream",
        "other stream of the guilty",
        "stream of a dragged one",
        "snapshot",
        "after",
    ]
    assert {name for name, error in told if error is None} == {"before", "after"}
    assert all(isinstance(e, StreamConflict) for _, e in told if e is not None)
    assert len({id(error) for _, error in told if error is not None}) == 5
    assert [(e.stream, e.version) for e in await store.reader.tail(0)] == [
        ("s", 1),
        ("a", 1),
        ("a", 2),
    ]
    assert [e.seq for e in await store.reader.tail(0)] == [1, 2, 3]
    assert await store.reader.meta("guilty") is None
    assert await store.reader.meta("same") is None
    assert (await store.reader.load("s")).snapshot is None


async def test_what_is_queued_while_the_guilty_one_is_written_is_refused_too(store: Store) -> None:
    told: list[tuple[str, Exception | None]] = []
    loop = asyncio.get_running_loop()
    store.journal.append(batch(new("t", 1), new("s", 2)), collector(told, "guilty"))
    # Two turns later the commit is under way, or its outcome known to nobody yet.
    queued = asyncio.Event()

    def queue() -> None:
        if not told:
            store.journal.append(batch(new("t", 1)), collector(told, "behind"))
            store.journal.append(batch(new("x", 1)), collector(told, "innocent"))
        queued.set()

    loop.call_soon(queue)
    await queued.wait()
    await store.journal.flush()
    assert [name for name, _ in told] == ["guilty", "behind", "innocent"]
    assert [type(error) for _, error in told] == [StreamConflict, StreamConflict, type(None)]


async def test_who_was_told_of_the_conflict_may_go_on_at_once(store: Store) -> None:
    await store.journal.commit(batch(new("s", 1)))
    told: list[tuple[str, Exception | None]] = []

    def retry(error: Exception | None) -> None:
        told.append(("first", error))
        store.journal.append(batch(new("s", 2)), collector(told, "again"))

    store.journal.append(batch(new("s", 1)), retry)
    await store.journal.flush()
    await store.journal.flush()
    assert [name for name, _ in told] == ["first", "again"]
    assert told[1][1] is None


async def test_a_row_that_does_not_fit_its_table_is_refused_at_once(store: Store) -> None:
    with pytest.raises(ValueError, match="meta has no row"):
        store.journal.append(batch(puts=[(META, ("only-key",))]), lambda _: None)
    with pytest.raises(ValueError, match="meta has no row"):
        store.journal.append(batch(puts=[(META, (None, "x"))]), lambda _: None)
    await put(store, (META, ("a", "b")))


async def test_commit_raises_what_done_would_be_told(store: Store) -> None:
    async with asyncio.TaskGroup() as group:
        for stream in "abc":
            group.create_task(store.journal.commit(batch(new(stream, 1))))
    with pytest.raises(StreamConflict):
        await store.journal.commit(batch(new("a", 1)))


async def test_a_cancelled_commit_is_still_committed(store: Store) -> None:
    task = asyncio.create_task(store.journal.commit(batch(new("s", 1))))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await store.journal.flush()
    assert (await store.reader.load("s")).entries[0].version == 1


async def test_flush_waits_for_all_that_was_appended_and_nothing_else(store: Store) -> None:
    await store.journal.flush()
    told: list[tuple[str, Exception | None]] = []
    for number in range(1, 1001):
        store.journal.append(batch(new("s", number)), collector(told, str(number)))
    await store.journal.flush()
    assert len(told) == 1000


async def test_after_close_appends_are_refused_and_what_waited_is_committed(store: Store) -> None:
    told: list[tuple[str, Exception | None]] = []
    store.journal.append(batch(new("s", 1)), collector(told, "waiting"))
    await store.close()
    store.journal.append(batch(new("s", 2)), collector(told, "late"))
    await asyncio.sleep(0)
    assert told[0] == ("waiting", None)
    assert isinstance(told[1][1], StorageError)
    with pytest.raises(StorageError):
        await store.retire([RetentionRule(kind="events", max_count=0)], 0, dry_run=False)


# -- subscribers -------------------------------------------------------------------------------


async def test_subscribers_hear_of_entries_after_the_callbacks_and_in_order(store: Store) -> None:
    heard: list[str] = []
    seen: list[Entry] = []

    def listen(entries: Sequence[Entry]) -> None:
        assert all(isinstance(entry, Entry) for entry in entries)
        seen.extend(entries)
        heard.extend(f"heard {entry.stream}" for entry in entries)

    unsubscribe = store.journal.subscribe(listen)
    for stream in "abc":
        done = lambda error, stream=stream: heard.append(f"done {stream}")  # noqa: E731
        store.journal.append(batch(new(stream, 1)), done)
    store.journal.append(batch(new("a", 1)), lambda _: heard.append("refused a"))
    await store.journal.flush()
    assert heard == ["done a", "done b", "done c", "refused a", "heard a", "heard b", "heard c"]
    assert seen == await store.reader.tail(0)
    unsubscribe()
    unsubscribe()
    await store.journal.commit(batch(new("a", 2)))
    assert len(seen) == 3


async def test_observers_are_told_the_size_and_the_time_of_each_commit(store: Store) -> None:
    sizes: list[tuple[int, float]] = []
    store.journal.on_commit(lambda count, seconds: sizes.append((count, seconds)))
    await store.journal.commit(batch(new("s", 1), new("s", 2)))
    await store.journal.flush()
    assert sizes[0][0] == 2
    assert sizes[0][1] >= 0


async def test_a_failing_callback_or_listener_is_reported_and_holds_nobody_up(
    store: Store,
) -> None:
    reported: list[BaseException] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: reported.append(context["exception"]))

    def fail(_: object) -> None:
        raise RuntimeError("on purpose")

    store.journal.subscribe(fail)
    heard: list[Sequence[Entry]] = []
    store.journal.subscribe(heard.append)
    store.journal.append(batch(new("s", 1)), fail)
    await store.journal.commit(batch(new("t", 1)))
    await store.journal.flush()
    assert [str(error) for error in reported] == ["on purpose", "on purpose"]
    assert len(heard[0]) == 2


# -- rows --------------------------------------------------------------------------------------


async def test_of_several_puts_and_deletes_of_a_key_the_last_counts(store: Store) -> None:
    def told(_: Exception | None) -> None:
        assert _ is None

    timer = ("run/a", "t")
    append = store.journal.append
    append(batch(puts=[(TIMERS, (*timer, 10, 1))]), told)
    append(batch(deletes=[(TIMERS, timer)]), told)
    append(batch(puts=[(TIMERS, (*timer, 20, 2))]), told)
    append(batch(puts=[(TIMERS, ("run/b", "t", 1, 1))]), told)
    append(batch(deletes=[(TIMERS, ("run/b", "t"))]), told)
    await store.journal.flush()
    assert [tuple(t) for t in await store.reader.timers(100, 10)] == [("run/a", "t", 20, 2)]
    await put(store, (TIMERS, (*timer, 30, 3)), deletes=[(TIMERS, timer)])
    assert [t.at for t in await store.reader.timers(100, 10)] == [30]
    await put(store, deletes=[(TIMERS, timer), (TIMERS, ("run/none", "x"))])
    assert await store.reader.timers(100, 10) == []


@pytest.mark.parametrize("count", [1, 3, 127, 128, 129, 200, 333])
async def test_any_number_of_rows_fits_in_a_batch(store: Store, count: int) -> None:
    puts: list[Put] = [(META, (f"k{n:03}", str(n))) for n in range(count)]
    await store.journal.commit(batch(*(new("s", n) for n in range(1, count + 1)), puts=puts))
    info = await store.reader.info()
    assert info.rows["meta"] == count
    assert info.rows["journal"] == info.last_seq == count
    keys: list[Put] = [(META, (f"k{n:03}",)) for n in range(0, count, 2)]
    await put(store, deletes=keys)
    assert (await store.reader.info()).rows["meta"] == count // 2
    assert await store.reader.meta("k000") is None


async def test_fixed_columns_keep_their_first_value(store: Store) -> None:
    await put(store, (RUNS, run_row("r", created_at=5, parent_id="p")))
    await put(
        store, (RUNS, run_row("r", created_at=5, parent_id="p", status="running", reason="x"))
    )
    row = await store.reader.run("r")
    assert row is not None
    assert (row.status, row.reason, row.created_at, row.parent_id) == ("running", "x", 5, "p")
    digest = hashlib.sha256(b"one").hexdigest()
    await put(store, (BLOBS, (digest, 3, b"one")))
    await put(store, (BLOBS, (digest, 3, b"two")))
    assert await store.reader.blob(digest) == b"one"
    assert await store.reader.blob("none") is None


async def test_values_of_every_column_come_back_as_they_were(store: Store) -> None:
    odd = "ünï\n\t'\"\u2028 \x00 \U0001f980"
    full = run_row(odd, started_at=2, ended_at=3, event_id="e", event_name="n", code=odd, crashes=9)
    await put(store, (RUNS, full))
    assert await store.reader.run(odd) == RunRow(*full)
    await put(
        store, (WAITERS, ("r", "step", "order.*", None, 7)), (WAITERS, ("q", "s", "e", "a", 8))
    )
    assert [tuple(row) for row in await store.reader.waiters()] == [
        ("q", "s", "e", "a", 8),
        ("r", "step", "order.*", None, 7),
    ]
    data = bytes(range(256))
    await put(
        store,
        (DELIVERIES, ("d2", "run/x", "Wake", data, 5)),
        (DELIVERIES, ("d1", "run/x", "Wake", b"", 5)),
        (DELIVERIES, ("d0", "run/x", "Wake", b"", 6)),
    )
    deliveries = await store.reader.deliveries()
    assert [delivery.id for delivery in deliveries] == ["d1", "d2", "d0"]
    assert deliveries[1].data == data
    await put(
        store,
        (FUNCTIONS, ("f", 1, "h", data, 3, "active", 1, 1)),
        (FUNCTIONS, ("a", 2, "h", b"", 3, "paused", 2, 4)),
    )
    functions = await store.reader.functions()
    assert [(row.id, row.version, row.spec) for row in functions] == [("a", 2, b""), ("f", 1, data)]
    assert [(row.status, row.created_at, row.revision) for row in functions] == [
        ("paused", 2, 4),
        ("active", 1, 1),
    ]


# -- streams -----------------------------------------------------------------------------------


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


# -- lists -------------------------------------------------------------------------------------


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


# -- retention ---------------------------------------------------------------------------------

HOUR = 3_600_000_000


async def put_history(store: Store) -> None:
    """Ten completed runs (one an hour, the first with 300 entries), some that must stay, and
    events."""
    shared, lone = (hashlib.sha256(data).hexdigest() for data in (b"shared", b"lone"))
    for number in range(10):
        id_, stream, at = f"done-{number}", f"run/done-{number}", number * HOUR
        row = run_row(
            id_, status="completed", created_at=at, ended_at=at + 60, event_id=f"e-{number}"
        )
        await store.journal.commit(
            batch(
                *(new(stream, version) for version in range(1, 301 if number == 0 else 4)),
                puts=[
                    (RUNS, row),
                    (SNAPSHOTS, (stream, 2, b"s")),
                    (TIMERS, (stream, "late", at, 1)),
                    (WAITERS, (id_, "step", "e", None, at)),
                    (BLOB_REFS, (stream, shared)),
                    (BLOBS, (shared, 6, b"shared")),
                ],
            )
        )
        event = (f"e-{number}", "name", at, "api", None)
        await store.journal.commit(batch(new(f"event/e-{number}", 1), puts=[(EVENTS, event)]))
    await put(store, (BLOB_REFS, ("run/done-1", lone)), (BLOBS, (lone, 4, b"lone")))
    open_run = run_row("open", status="waiting", created_at=0, event_id="e-2")
    child = run_row("child", status="completed", created_at=0, ended_at=1, parent_id="open")
    orphan = run_row("orphan", status="failed", created_at=0, ended_at=1, parent_id="done-0")
    for row in (open_run, child, orphan):
        await store.journal.commit(batch(new(f"run/{row[0]}", 1), puts=[(RUNS, row)]))


async def ids(store: Store) -> set[str]:
    return {run.id for run in await store.reader.runs(RunFilter(), limit=1000)}


async def test_retention_by_age_deletes_what_it_said_it_would(store: Store) -> None:
    await put_history(store)
    last = store.journal.last_seq
    rules = [
        RetentionRule(kind="completed", max_age=5 * HOUR),
        RetentionRule(kind="failed", max_age=5 * HOUR),
        RetentionRule(kind="events", max_age=5 * HOUR),
    ]
    before = await store.reader.info()
    said = await store.retire(rules, now=9 * HOUR, dry_run=True)
    assert (await store.reader.info()).rows == before.rows
    done = await store.retire(rules, now=9 * HOUR, dry_run=False)
    assert said == done
    assert (done.runs, done.events, done.entries) == (5, 3, 300 + 3 * 3 + 1 + 3)
    assert (done.blobs, done.blob_bytes) == (1, 4)
    assert await ids(store) == {"open", "child", *(f"done-{n}" for n in range(4, 10))}
    events = {event.id for event in await store.reader.events(EventFilter())}
    assert events == {"e-2", *(f"e-{n}" for n in range(4, 10))}
    for stream in ("run/done-0", "run/orphan", "event/e-0"):
        loaded = await store.reader.load(stream)
        assert (loaded.snapshot, loaded.entries) == (None, [])
    assert len((await store.reader.load("run/done-4")).entries) == 1
    info = await store.reader.info()
    assert info.rows["timers"] == info.rows["waiters"] == info.rows["snapshots"] == 6
    assert info.rows["blobs"] == 1
    assert store.journal.last_seq == last
    again = await store.retire(rules, now=9 * HOUR, dry_run=False)
    assert (again.runs, again.events, again.entries, again.blobs) == (0, 0, 0, 0)


async def test_retention_by_count_keeps_the_newest(store: Store) -> None:
    await put_history(store)
    rules = [
        RetentionRule(kind="completed", max_count=3),
        RetentionRule(kind="events", max_count=0),
    ]
    said = await store.retire(rules, now=100 * HOUR, dry_run=True)
    done = await store.retire(rules, now=100 * HOUR, dry_run=False)
    assert said == done
    assert (done.runs, done.events) == (7, 9)
    assert await ids(store) == {"open", "child", "orphan", "done-7", "done-8", "done-9"}


async def test_a_blob_goes_with_the_last_that_mentions_it(store: Store) -> None:
    await put_history(store)
    rules = [RetentionRule(kind="completed", max_count=0)]
    said = await store.retire(rules, now=0, dry_run=True)
    done = await store.retire(rules, now=0, dry_run=False)
    assert said == done
    assert (done.runs, done.blobs, done.blob_bytes) == (10, 2, 10)
    assert (await store.reader.info()).rows["blob_refs"] == 0


async def test_age_and_count_together_delete_what_either_would(store: Store) -> None:
    await put_history(store)
    rules = [
        RetentionRule(kind="completed", max_age=2 * HOUR),
        RetentionRule(kind="completed", max_age=4 * HOUR, max_count=8),
    ]
    said = await store.retire(rules, now=9 * HOUR, dry_run=True)
    done = await store.retire(rules, now=9 * HOUR, dry_run=False)
    assert said == done
    assert await ids(store) == {"open", "child", "orphan", *(f"done-{n}" for n in range(7, 10))}


async def test_appends_go_on_while_retention_deletes(store: Store) -> None:
    await put_history(store)
    retiring = asyncio.create_task(
        store.retire([RetentionRule(kind="completed", max_count=0)], now=0, dry_run=False)
    )
    for version in range(1, 51):
        await store.journal.commit(batch(new("busy", version)))
    assert (await retiring).runs == 10
    assert len((await store.reader.load("busy")).entries) == 50
    # The stream is gone, and so is what memory knew of it.
    with pytest.raises(StreamConflict):
        await store.journal.commit(batch(new("run/done-0", 301)))
    await store.journal.commit(batch(new("run/done-0", 1)))


@pytest.mark.parametrize(
    "rule",
    [
        RetentionRule(kind="running", max_age=1),
        RetentionRule(kind="completed", max_age=-1),
        RetentionRule(kind="events", max_count=-1),
    ],
)
async def test_a_rule_that_makes_no_sense_is_refused(store: Store, rule: RetentionRule) -> None:
    with pytest.raises(InvalidInput):
        await store.retire([rule], now=0, dry_run=True)


async def test_no_rules_delete_nothing(store: Store) -> None:
    await put_history(store)
    rules = [RetentionRule(kind="completed"), RetentionRule(kind="events")]
    assert (await store.retire(rules, now=100 * HOUR, dry_run=False)).runs == 0
    assert len(await ids(store)) == 13


async def test_idle_intakes_and_their_outcomes_go_with_events(store: Store) -> None:
    batch = Batch([], [], [])
    for name, at in (("old", HOUR), ("busy", HOUR), ("young", 9 * HOUR)):
        stream = f"debounce/1:f:{name}"
        batch.entries += [NewEntry(stream, n + 1, at, "debounce.started", b"{}") for n in range(3)]
        batch.puts.append((SNAPSHOTS, (stream, 2, b"{}")))
        batch.puts.append((OUTCOMES, (name, "f", "debounced", "r", at, None)))
    row = ("debounce/1:f:busy", "debounce", "f", "busy", "r", "e", HOUR, 20 * HOUR, 1)
    batch.puts.append((INTAKES, row))
    batch.puts.append((EVENTS, ("busy", "e", 9 * HOUR, "api", None)))
    batch.entries.append(NewEntry("event/busy", 1, 9 * HOUR, "event.emitted", b"{}"))
    await store.journal.commit(batch)
    rules = [RetentionRule(kind="events", max_age=5 * HOUR)]
    await store.retire(rules, now=10 * HOUR, dry_run=True)
    assert len((await store.reader.load("debounce/1:f:old")).entries) == 1
    await store.retire(rules, now=10 * HOUR, dry_run=False)
    for name, count in (("old", 0), ("busy", 1), ("young", 1)):
        loaded = await store.reader.load(f"debounce/1:f:{name}")
        assert (len(loaded.entries), loaded.snapshot is not None) == (count, count > 0), name
    kept = {outcome.subject for outcome in await store.reader.outcomes(["old", "busy", "young"])}
    assert kept == {"busy", "young"}


async def test_intakes_are_paged_by_function_and_key(store: Store) -> None:
    batch = Batch([], [], [])
    names = [(f, k) for f in ("a", "b", "ab") for k in ("", "x", "y")]
    for number, (function_id, key) in enumerate(names):
        row = (f"batch/{number}", "batch", function_id, key, f"run-{number}", "e", 1, 2, 3)
        batch.puts.append((INTAKES, row))
    batch.puts.append((INTAKES, ("other", "debounce", "a", "x", "run-1", "e", 1, None, 1)))
    await store.journal.commit(batch)
    found, after = [], None
    while page := await store.reader.intakes("batch", 2, after):
        found += [(row.function_id, row.key) for row in page]
        after = found[-1]
    assert found == sorted(names)
    only = await store.reader.intakes("batch", 2, ("a", ""), "a")
    assert [(row.function_id, row.key) for row in only] == [("a", "x"), ("a", "y")]
    rows = await store.reader.intakes_of(["run-1", "run-8", "none"])
    assert sorted(row.address for row in rows) == ["batch/1", "batch/8", "other"]
