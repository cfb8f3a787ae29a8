"""Recorded histories: what earlier versions wrote folds to what it meant then, is played on from
every commit to the same end, and opens from every old schema."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from golden_stories import STORIES, Flaky, Mended, Story

from ironflow import embedded
from ironflow.actors.audit import check_store
from ironflow.actors.kernel.virtual_time import VirtualTimeLoop, run_virtual
from ironflow.actors.runs.rows import fold
from ironflow.core.errors import Conflict
from ironflow.core.runs.entries import KINDS
from ironflow.core.runs.state import Run, StepStatus
from ironflow.sdk.function import Registry
from ironflow.simulation.faults import Chance
from ironflow.simulation.process import Process
from ironflow.simulation.story import Story as Told
from ironflow.storage.maintenance import files as maintenance
from ironflow.storage.maintenance.picture import picture_of
from ironflow.storage.ports import TABLES, Batch, Entry, Loaded, NewEntry, RunFilter
from ironflow.storage.relational.tables import RELATIONAL

HERE = Path(__file__).parent
BY_NAME = {story.name: story for story in STORIES}
NAMES = sorted(file.stem for file in HERE.glob("*.ndjson"))
_TABLES = {table.name: table for table in (*TABLES, *RELATIONAL)}
LATER: dict[str, Any] = {
    "kind": "function",
    "priority": 0,
    "status": "active",
    "created_at": 0,
    "revision": 1,
}
"""Columns that tables got after journals were recorded, and what a migration gave old rows."""


def read(value: Any) -> Any:
    if isinstance(value, dict):
        return value["text"].encode() if "text" in value else base64.b64decode(value["base64"])
    return value


def batches(name: str) -> list[Batch]:
    """The recorded commits of a story."""
    found = []
    for line in (HERE / f"{name}.ndjson").read_text().splitlines():
        facts = json.loads(line)
        found.append(
            Batch(
                [NewEntry(*entry[:4], read(entry[4])) for entry in facts["entries"]],
                [
                    (_TABLES[t], tuple(read(row.get(c, LATER.get(c))) for c in _TABLES[t].columns))
                    for t, row in facts["puts"]
                ],
                [(_TABLES[table], tuple(key)) for table, key in facts["deletes"]],
            )
        )
    return found


def recorded_state(name: str) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((HERE / f"{name}.state.json").read_text())
    return state


def streams(commits: list[Batch]) -> dict[str, list[Entry]]:
    found: dict[str, list[Entry]] = {}
    for seq, entry in enumerate(e for batch in commits for e in batch.entries):
        found.setdefault(entry.stream, []).append(Entry(seq + 1, *entry))
    return found


def test_every_story_is_recorded_and_every_kind_of_entry_is_in_one() -> None:
    assert sorted(BY_NAME) == NAMES, "python tests/golden/record.py records those that are missing"
    kinds = {e.kind for name in NAMES for batch in batches(name) for e in batch.entries}
    assert set(KINDS.values()) <= kinds


@pytest.mark.parametrize("name", NAMES)
def test_what_was_written_folds_to_what_it_meant(name: str) -> None:
    state = recorded_state(name)
    for run_id, wanted in state["runs"].items():
        run = fold(run_id, Loaded(None, streams(batches(name))[f"run/{run_id}"]))
        found = json.loads(msgspec.json.encode(run))
        # A later version may know more of a run; what was known must be the same.
        assert {key: found.get(key) for key in wanted} == wanted
    assert set(state["runs"]) == {
        stream[4:] for stream in streams(batches(name)) if stream.startswith("run/")
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_story_is_played_on_from_every_commit(name: str) -> None:
    commits = batches(name)
    state = recorded_state(name)
    run_id = state["run_id"]
    created = next(
        number
        for number, batch in enumerate(commits, 1)
        if any(entry.stream == f"run/{run_id}" for entry in batch.entries)
    )
    for count in range(created, len(commits) + 1):
        ended, calls, before = play_on(BY_NAME[name], commits[:count], run_id, state["end"])
        assert ended == state["end"], f"from commit {count}"
        finished = {
            step.name
            for step in before.steps.values()
            if step.status is StepStatus.COMPLETED and step.kind in ("run", "compensate")
        }
        total = Counter(
            step["name"]
            for step in state["runs"][run_id].get("steps", {}).values()
            if step["kind"] in ("run", "compensate")
        )
        for step_name in finished:
            done = sum(s.name == step_name for s in before.steps.values())
            assert calls[step_name] <= total[step_name] - done, f"{step_name} from commit {count}"


def play_on(
    story: Story, commits: list[Batch], run_id: str, wanted: dict[str, Any]
) -> tuple[dict[str, Any], Counter[str], Run]:
    """Start a process on a journal as it was after some commits, and bring the run to its end.

    Every law of the simulation holds on the way. Returns how the run ended, the calls of steps of
    its function, and the run as it was found.
    """
    result: list[Any] = []
    last = max(entry.at for batch in commits for entry in batch.entries)
    reopened = any(e.kind == "run.reopened" for batch in commits for e in batch.entries)
    Flaky.failures, Mended.broken = 0, not reopened
    before = fold(run_id, Loaded(None, streams(commits)[f"run/{run_id}"]))

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        served = Registry()
        for function in story.functions:
            served.add(function)
        process = Process(
            loop, served, Chance(0), frozenset(), Told(), lambda: None, capacity=story.capacity
        )
        await preload(process, commits)
        await process.boot()
        process.watch.unsettle()
        ended = await bring_to_end(process, story, run_id, wanted)
        assert process.watch.findings == []
        calls = Counter(name for fid, name in process.calls if fid == before.function_id)
        result.append((ended, calls, before))
        loop.on_turn = loop.on_rest = None
        process.executor.abandon()
        await process.engine.stop()

    run_virtual(main, start=last + 1000)
    return result[0]  # type: ignore[no-any-return]


async def preload(process: Process, commits: list[Batch]) -> None:
    """Put recorded commits onto the disk of a process that has not started."""
    for batch in commits:
        kept = process.store.journal.keep([batch])
        assert not kept.errors
        entries = [Entry._make(row) for row in kept.rows]
        if entries:
            process.store.journal._last_seq = entries[-1].seq
        process.watch.committed([batch], entries)


async def bring_to_end(
    process: Process, story: Story, run_id: str, wanted: dict[str, Any]
) -> dict[str, Any]:
    """Let time pass; what came from outside comes again as long as it is needed."""
    for turn in range(200):
        await process.advance(7 if turn < 20 else 300)
        run = await process.state(run_id)
        orders: list[str] = []
        if not run.is_terminal:
            orders = [order for order in story.orders if order != "retry"]
            for name, data in story.events:
                await process.emit(name, data)
            if story.again is not None and turn > 8:
                await story.again(process, run_id)
        elif run.status.value != wanted["status"]:
            orders = ["retry"]
            Mended.broken = False
        for order in orders:
            with suppress(Conflict):
                await getattr(process, order)(run_id)
        ended = await process.state(run_id)
        if ended.is_terminal and ended.status.value == wanted["status"]:
            break
    await process.advance(130)
    described = await process._describe(await process.state(run_id))
    return {"status": described.status, "result": described.result}


@pytest.mark.parametrize("file", sorted(HERE.glob("schema-*.db")), ids=lambda file: file.stem)
def test_a_database_of_an_old_schema_is_migrated_and_goes_on(file: Path, tmp_path: Path) -> None:
    db = tmp_path / "old.db"
    shutil.copy(file, db)
    Flaky.failures, Mended.broken = 0, False
    # Two stories may share a function; a process serves one of an id.
    functions = list({fn.id: fn for story in STORIES for fn in story.functions}.values())

    async def main() -> None:
        async with embedded.open_engine(db, functions=functions) as engine:
            reader = engine.store.reader
            states = RunFilter(statuses=("queued", "running", "waiting", "paused"))
            unfinished = [row.id for row in await reader.runs(states, 1000)]
            assert unfinished, "a golden database has something left to do"
            for run_id in unfinished:
                with suppress(Conflict):
                    await engine.cancel(run_id)
            for run_id in unfinished:
                run = await engine.wait(run_id, 60.0)
                assert run is not None
                assert run.is_terminal

    asyncio.run(main())
    assert maintenance.check(db).findings == []
    with picture_of(db) as picture:
        assert list(check_store(picture)) == []
