"""`ironflow.run`: durable functions with no server, on a file and in memory, on the real clock."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import ironflow
from ironflow import NonRetryable, RunError, function
from ironflow.actors.engine import Engine
from ironflow.core.errors import DatabaseInUse, IdempotencyConflict, InvalidInput, StorageError
from ironflow.embedded import open_engine

CALLS: Counter[str] = Counter()


@pytest.fixture(autouse=True)
def no_calls() -> None:
    CALLS.clear()


def count(name: str) -> str:
    CALLS[name] += 1
    return name


@function(id="embedded-sum")
async def total(ctx: Any, numbers: list[int]) -> dict[str, int]:
    found = await ctx.step.map(
        "each", lambda n: ctx.step.run("double", lambda: n * 2), numbers, concurrency=2
    )
    await ctx.step.sleep("nap", 0.001)
    return {"total": sum(found)}


@function(id="embedded-failing", retry=False)
async def failing(ctx: Any) -> None:
    await ctx.step.run("first", count, "first")
    raise NonRetryable("told you so")


@function(id="embedded-patient")
async def patient(ctx: Any) -> Any:
    await ctx.step.run("first", count, "first")
    found = await ctx.step.wait_for_event("it", "embedded.go")
    return found.data


async def test_a_run_in_memory() -> None:
    assert await ironflow.run(total, [1, 2, 3]) == {"total": 12}


def test_a_run_without_an_event_loop() -> None:
    assert ironflow.run_sync(total, [1, 2]) == {"total": 6}


async def test_the_same_key_finds_the_run_that_is_done(tmp_path: Path) -> None:
    db = tmp_path / "app.db"
    for _ in range(2):
        assert await ironflow.run(total, [4], db=db, key="four") == {"total": 8}
    async with open_engine(db, functions=[total]) as engine:
        assert await engine.store.reader.count_runs() == {("embedded-sum", "completed"): 1}
    with pytest.raises(IdempotencyConflict):
        await ironflow.run(total, [5], db=db, key="four")


async def test_a_run_that_fails_says_how(tmp_path: Path) -> None:
    with pytest.raises(RunError) as caught:
        await ironflow.run(failing, db=tmp_path / "app.db")
    error = caught.value
    assert (error.outcome, error.kind, error.function_id) == (
        "failed", "NonRetryable", "embedded-failing",
    )  # fmt: skip
    assert "told you so" in str(error)


async def test_a_cancelled_run_says_so() -> None:
    async with open_engine(functions=[patient]) as engine:
        from ironflow.embedded import result_of

        created = await engine.invoke("embedded-patient")
        await engine.cancel(created.run_id, "by hand")
        run = await engine.wait(created.run_id)
        assert run is not None
        with pytest.raises(RunError, match="by hand") as caught:
            await result_of(engine, run)
        assert caught.value.outcome == "cancelled"


async def test_wrong_input_is_refused_before_anything_is_stored(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"input"):
        await ironflow.run(total, ["one"], db=tmp_path / "app.db")


async def test_a_run_that_takes_too_long_goes_on_next_time(tmp_path: Path) -> None:
    db = tmp_path / "app.db"
    with pytest.raises(TimeoutError, match="has not ended"):
        await ironflow.run(patient, db=db, key="k", timeout=0.05)
    assert CALLS["first"] == 1
    async with open_engine(db, functions=[patient]) as engine:
        created = await engine.invoke("embedded-patient", idempotency_key="k")
        assert not created.created
        await engine.emit("embedded.go", b'{"n": 1}')
        run = await engine.wait(created.run_id, 30)
        assert run is not None
        assert run.status == "completed"
    assert await ironflow.run(patient, db=db, key="k") == {"n": 1}
    assert CALLS["first"] == 1


async def test_what_others_left_unfinished_goes_on_too(tmp_path: Path) -> None:
    db = tmp_path / "app.db"
    async with open_engine(db, functions=[patient, total]) as engine:
        created = await engine.invoke("embedded-patient")
        await until_waiting(engine, created.run_id)
    async with open_engine(db, functions=[patient, total]) as engine:
        waiting = asyncio.create_task(engine.wait(created.run_id, 30))
        await until_waiting(engine, created.run_id)
        await engine.emit("embedded.go", b"5")
        run = await waiting
        assert run is not None
        assert run.status == "completed"
    assert CALLS["first"] == 1


async def until_waiting(engine: Engine, run_id: str) -> None:
    """Looks again after each commit."""
    committed = asyncio.Event()
    engine.store.journal.subscribe(lambda _: committed.set())
    while (await engine.run(run_id)).status != "waiting":
        committed.clear()
        if (await engine.run(run_id)).status != "waiting":
            await committed.wait()


async def test_two_at_once_on_one_file_are_refused(tmp_path: Path) -> None:
    db = tmp_path / "app.db"
    async with open_engine(db, functions=[total]):
        with pytest.raises(DatabaseInUse):
            await ironflow.run(total, [1], db=db)


async def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    db = tmp_path / "app.db"
    db.write_bytes(b"this is not a database, but it is long enough to be read as one" * 50)
    with pytest.raises(StorageError):
        await ironflow.run(total, [1], db=db)


async def test_only_the_functions_given_are_served() -> None:
    async with open_engine(functions=[total]) as engine:
        rows = await engine.functions()
        assert [row.id for row, _ in rows] == ["embedded-sum"]


async def test_hundreds_at_once_on_one_file(tmp_path: Path) -> None:
    async with open_engine(tmp_path / "app.db", functions=[total]) as engine:
        ended = await asyncio.gather(
            *(engine.invoke_and_wait("embedded-sum", b"[1,2]") for _ in range(300))
        )
        assert {run.status for _, run in ended if run is not None} == {"completed"}
        info = await engine.store.reader.info()
        assert info.rows["runs"] == 300
        assert not info.rows["timers"]
        assert not info.rows["deliveries"]
