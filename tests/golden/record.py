"""Records the golden journals that are missing, and databases of the schema versions that are
named: `python tests/golden/record.py [VERSION...]`. Never touches one that is there: what an
earlier version recorded must be played by every later one.

`NAME.ndjson` holds a commit a line, in order; `NAME.state.json` what its runs fold to, and how the
run of the story ended. `schema-N.db` is a database of schema version N with all the journals in it.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sqlite3
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import msgspec
from golden_stories import STORIES, Flaky, Mended, Story

from ironflow import testing
from ironflow.actors.runs.rows import fold
from ironflow.storage.memory.store import MemoryJournal
from ironflow.storage.ports import Batch, Loaded
from ironflow.storage.sqlite import schema

HERE = Path(__file__).parent


def plain(value: Any) -> Any:
    """A column as JSON: bytes as text, or as base64 where they are none."""
    if isinstance(value, bytes):
        try:
            return {"text": value.decode()}
        except UnicodeDecodeError:
            return {"base64": base64.b64encode(value).decode()}
    return value


def line_of(batch: Batch) -> dict[str, Any]:
    return {
        "entries": [[e.stream, e.version, e.at, e.kind, plain(e.data)] for e in batch.entries],
        "puts": [
            [table.name, dict(zip(table.columns, map(plain, row), strict=True))]
            for table, row in batch.puts
        ],
        "deletes": [[table.name, list(key)] for table, key in batch.deletes],
    }


def record(story: Story) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Play a story: its commits, and what they come to."""
    lines: list[dict[str, Any]] = []
    keep = MemoryJournal._keep

    def kept(self: Any, batch: Batch, rows: Any) -> None:
        lines.append(line_of(batch))
        keep(self, batch, rows)

    MemoryJournal._keep = kept  # type: ignore[method-assign]

    async def main(world: testing.World) -> dict[str, Any]:
        run_id = await story.play(world)
        ended = await world.wait(run_id)
        await world.advance(400)
        runs = {
            stream.removeprefix("run/"): json.loads(
                msgspec.json.encode(fold(stream.removeprefix("run/"), Loaded(None, entries)))
            )
            for stream, entries in world.store.tables.streams.items()
            if stream.startswith("run/")
        }
        end = {"status": ended.status, "result": ended.result}
        return {"run_id": run_id, "end": end, "runs": runs}

    Flaky.failures, Mended.broken = 1, True
    try:
        state = testing.run(main, functions=story.functions, capacity=story.capacity)
    finally:
        MemoryJournal._keep = keep  # type: ignore[method-assign]
    return json.loads(scrub(json.dumps(lines))), json.loads(scrub(json.dumps(state)))


def scrub(text: str) -> str:
    """Tracebacks name files of the machine that records; a journal must not."""
    for folder in (str(HERE.parents[1]), sys.base_prefix):
        text = text.replace(folder, "")
    return text


def make_database(path: Path, version: int) -> None:
    """A database of an old schema, with the rows that it had columns for."""
    connection = sqlite3.connect(path, isolation_level=None)
    schema.migrate(connection, str(path), 0, schema.migrations()[:version])
    connection.execute("BEGIN")
    seq = 0
    known = {
        name: {row[1] for row in connection.execute(f"PRAGMA table_info({name})")}
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    }
    seen: set[str] = set()
    for file in sorted(HERE.glob("*.ndjson")):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        streams = {entry[0] for line in lines for entry in line["entries"]}
        if streams & seen:
            continue  # the same function with the same key in two stories
        seen |= streams
        # The last third of a story is missing: there must be something left to do.
        for line in lines[: max(2 * len(lines) // 3, 1)]:
            for entry in line["entries"]:
                seq += 1
                row = (seq, *entry[:4], bytes_of(entry[4]))
                connection.execute("INSERT INTO journal VALUES (?, ?, ?, ?, ?, ?)", row)
            apply_rows(connection, line, known)
    connection.execute("COMMIT")
    connection.execute("VACUUM")
    connection.close()


def apply_rows(connection: sqlite3.Connection, line: Any, known: dict[str, set[str]]) -> None:
    keys = {"runs": ["id"], "timers": ["target", "name"], "waiters": ["run_id", "step"]}
    for table, key in line["deletes"]:
        columns = keys.get(table, ["id"])
        where = " AND ".join(f"{column} = ?" for column in columns)
        connection.execute(f"DELETE FROM {table} WHERE {where}", key)
    for table, row in line["puts"]:
        facts = {name: value for name, value in row.items() if name in known.get(table, ())}
        if facts:
            names, marks = ", ".join(facts), ", ".join("?" * len(facts))
            values = [bytes_of(value) for value in facts.values()]
            connection.execute(f"INSERT OR REPLACE INTO {table} ({names}) VALUES ({marks})", values)


def bytes_of(value: Any) -> Any:
    if isinstance(value, dict):
        return value["text"].encode() if "text" in value else base64.b64decode(value["base64"])
    return value


def main() -> None:
    for story in STORIES:
        target = HERE / f"{story.name}.ndjson"
        if target.exists():
            continue
        lines, state = record(story)
        target.write_text("".join(json.dumps(line) + "\n" for line in lines))
        (HERE / f"{story.name}.state.json").write_text(json.dumps(state, indent=1) + "\n")
        print(f"recorded {story.name}: {len(lines)} commits")
    for version in map(int, sys.argv[1:]):
        path = HERE / f"schema-{version}.db"
        if not path.exists():
            make_database(path, version)
            print(f"made {path.name}")


if __name__ == "__main__":
    asyncio.set_event_loop(None)
    main()
