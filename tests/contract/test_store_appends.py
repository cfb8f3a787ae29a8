"""What every store promises of appends, its subscribers and the rows that come with them."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence

import pytest
from store_rows import Put, batch, new, put, run_row

from ironflow.core.errors import StorageError, StreamConflict
from ironflow.storage.ports import (
    BLOBS,
    DELIVERIES,
    FUNCTIONS,
    META,
    RUNS,
    SNAPSHOTS,
    TIMERS,
    WAITERS,
    Entry,
    RetentionRule,
    RunRow,
    Store,
)


def collector(told: list[tuple[str, Exception | None]], name: str) -> Callable[..., None]:
    return lambda error: told.append((name, error))


# -- appends ---------------------------------------------------------------------------------------


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


# -- subscribers -----------------------------------------------------------------------------------


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


# -- rows ------------------------------------------------------------------------------------------


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
