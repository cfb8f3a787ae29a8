"""What does not agree between the stream of an intake and what else is stored of it is found."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from engine_world import is_clean, play, runs_of

from ironflow import embedded, function, testing
from ironflow.actors.audit import check_store
from ironflow.storage.maintenance.picture import picture_of
from ironflow.storage.ports import RetentionRule

DAY = 86_400


@function(id="audit-calm", on="audit.event", flow_control={"debounce": {"period": DAY}})
async def calm(ctx: Any) -> None:
    return None


@function(id="audit-bulk", on="audit.event", flow_control={"batch": {"size": 9, "wait": DAY}})
async def bulk(ctx: Any, rows: Any) -> None:
    return None


@function(id="audit-only", on="audit.event", flow_control={"singleton": {"mode": "cancel"}})
async def only(ctx: Any, data: Any) -> None:
    if data == 0:
        await ctx.step.run("stuck", asyncio.sleep, DAY)
    await ctx.step.sleep("work", DAY)


async def is_settled(engine: Any, source: sqlite3.Connection) -> bool:
    """Whether the tables say all there is, and nothing more is to come: a message on its way would
    excuse what is missing, and a row that was put off would take the place of one that is hurt.
    """
    await engine.store.journal.settle()
    runs = source.execute("SELECT status FROM runs WHERE function_id = 'audit-only'")
    statuses = sorted(status for (status,) in runs)
    messages = source.execute("SELECT count(*) FROM deliveries").fetchone()[0]
    return not messages and statuses == ["cancelled", "cancelled", "waiting"]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database in which something waits with an intake of each kind."""
    db = tmp_path_factory.mktemp("intakes") / "sound.db"

    async def main() -> None:
        async with embedded.open_engine(db, functions=[calm, bulk, only]) as engine:
            for n in range(3):
                await engine.emit("audit.event", b"%d" % n)
            with closing(sqlite3.connect(db)) as source, closing(sqlite3.connect(copy)) as target:
                while not await is_settled(engine, source):  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(0.01)
                source.backup(target)

    copy = db.with_name("copy.db")
    asyncio.run(main())
    return copy


@pytest.mark.parametrize(
    ("sql", "law"),
    [
        ("DELETE FROM intakes WHERE kind = 'debounce'", "intake_agrees_with_stream"),
        ("UPDATE intakes SET size = size + 1 WHERE kind = 'batch'", "intake_agrees_with_stream"),
        ("UPDATE intakes SET run_id = 'x' WHERE kind = 'singleton'", "intake_agrees_with_stream"),
        ("DELETE FROM timers WHERE target LIKE 'batch/%'", "intake_timer_agrees_with_stream"),
        (
            "UPDATE timers SET at = at + 1 WHERE target LIKE 'debounce/%'",
            "intake_timer_agrees_with_stream",
        ),
        (
            "DELETE FROM runs WHERE id IN (SELECT run_id FROM intakes WHERE kind = 'singleton')",
            "singleton_is_held_by_a_run",
        ),
        ("UPDATE journal SET data = '[]' WHERE kind = 'batch.added'", "entries_can_be_read"),
        ("DELETE FROM journal WHERE kind = 'singleton.held'", "intake_agrees_with_stream"),
    ],
)
def test_what_does_not_agree_is_found(sound: Path, tmp_path: Path, sql: str, law: str) -> None:
    hurt = tmp_path / "hurt.db"
    shutil.copy(sound, hurt)
    with closing(sqlite3.connect(hurt)) as db:
        assert db.execute(sql).rowcount > 0
        db.commit()
    with picture_of(hurt) as picture:
        assert law in {finding.law for finding in check_store(picture)}


def test_a_sound_file_has_no_finding(sound: Path) -> None:
    with picture_of(sound) as picture:
        assert list(check_store(picture)) == []


@function(id="audit-short", on="audit.short", flow_control={"debounce": {"period": 5}})
async def short(ctx: Any, data: Any) -> Any:
    return data


@pytest.mark.parametrize("idle", [1, 400])
def test_an_intake_whose_history_was_retired_goes_on(idle: int) -> None:
    """Also one whose actor is still in memory."""

    async def main(world: testing.World) -> None:
        rules = [RetentionRule(kind="events", max_age=0)]
        for n in range(3):
            await world.emit("audit.short", n)
            await world.emit("audit.short", n + 10)
            await world.store.retire(rules, world.clock.now() + 1, dry_run=False)
            await world.advance(6 + idle)
            await world.store.retire(rules, world.clock.now() + 1, dry_run=False)
            assert not [s for s in world.store.tables.streams if s.startswith("debounce/")]
            assert not world.store.tables.rows["outcomes"]
        results = [(await world.wait(run.id)).result for run in await runs_of(world, "audit-short")]
        assert results == [10, 11, 12]
        is_clean(world)

    play(main, functions=[short])
