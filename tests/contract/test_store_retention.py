"""What every store promises of retention: what goes, what stays, and what it says of it."""

from __future__ import annotations

import asyncio
import hashlib

import pytest
from store_rows import batch, new, put, run_row

from ironflow.core.errors import InvalidInput, StreamConflict
from ironflow.storage.ports import (
    BLOB_REFS,
    BLOBS,
    EVENTS,
    INTAKES,
    OUTCOMES,
    RUNS,
    SNAPSHOTS,
    TIMERS,
    WAITERS,
    Batch,
    EventFilter,
    NewEntry,
    RetentionRule,
    RunFilter,
    Store,
)

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
