"""What must be true of a database and of a side file when everything has ended, told from the
journal alone: its entries are folded once more, in the order in which they were committed.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ironflow.core.runs.entries import decode_entry
from ironflow.core.runs.fold import apply
from ironflow.core.runs.state import Run, RunStatus


@dataclass(frozen=True)
class Limit:
    """At most `most` runs at once of a function, for each value of `key` in its input."""

    most: int
    key: str | None = None


def entries(db: Path) -> Iterator[tuple[str, int, int, str, bytes]]:
    """Stream, version, moment, kind and data of every entry."""
    connection = sqlite3.connect(f"file:{db}?mode=ro", uri=True)
    try:
        yield from connection.execute(
            "SELECT stream, version, at, kind, data FROM journal ORDER BY seq"
        )
    finally:
        connection.close()


def check_streams(db: Path) -> None:
    """Versions are gapless, and a step completes once."""
    versions: Counter[str] = Counter()
    completed: Counter[tuple[str, str]] = Counter()
    for stream, version, _, kind, data in entries(db):
        versions[stream] += 1
        assert version == versions[stream], f"{stream} has a gap before {version}"
        if kind == "step.completed":
            completed[stream, json.loads(data)["key"]] += 1
    assert completed
    twice = {key: count for key, count in completed.items() if count > 1}
    assert twice == {}, "completed more than once"


def check_nothing_is_left(db: Path) -> None:
    """Every run has ended as it should; no timer, waiter, message or place in a lane is kept."""
    connection = sqlite3.connect(f"file:{db}?mode=ro", uri=True)
    try:
        ends = connection.execute("SELECT id, status, reason FROM runs").fetchall()
        wrong = [row for row in ends if row[1] not in ("completed", "cancelled")]
        assert wrong == [], "not ended, parked, or ended badly"
        for table in ("waiters", "deliveries", "run_lanes"):
            left = connection.execute(f"SELECT * FROM {table}").fetchall()
            assert left == [], f"left in {table}"
        timers = connection.execute(
            "SELECT target, name FROM timers WHERE target NOT LIKE 'breaker/%'"
        ).fetchall()
        assert timers == [], "timers are left"
    finally:
        connection.close()


def most_at_once(db: Path, limits: Mapping[str, tuple[Limit, ...]]) -> dict[tuple[Any, ...], int]:
    """How full each lane ever was, by function, limit and key. Raises `AssertionError` at the first
    entry after which a lane held more than its limit.
    """
    runs: dict[str, Run] = {}
    inside: dict[tuple[Any, ...], set[str]] = defaultdict(set)
    most: dict[tuple[Any, ...], int] = {}
    for stream, version, at, kind, data in entries(db):
        if not stream.startswith("run/"):
            continue
        run_id = stream.removeprefix("run/")
        run = runs.setdefault(run_id, Run(run_id))
        apply(run, decode_entry(kind, data), at)
        for number, limit in enumerate(limits.get(run.function_id, ())):
            assert run.input.json is not None
            value = json.loads(run.input.json)[limit.key] if limit.key is not None else None
            lane = run.function_id, number, value
            if run.status is not RunStatus.RUNNING:
                inside[lane].discard(run_id)
                continue
            inside[lane].add(run_id)
            held = len(inside[lane])
            assert held <= limit.most, (
                f"lane {lane} held {held} at {stream} {version} ({kind}): {sorted(inside[lane])}"
            )
            most[lane] = max(most.get(lane, 0), held)
    return most


def check_side_file(db: Path, side_file: Path) -> Counter[str]:
    """No execution of a step began after its result was in the journal. How often each was
    executed, by run and step.
    """
    committed: dict[tuple[str, str], int] = {}
    for stream, _, at, kind, data in entries(db):
        if kind == "step.completed":
            name = json.loads(data)["name"]
            committed[stream.removeprefix("run/"), name] = at
    executed: Counter[str] = Counter()
    for line in side_file.read_text().splitlines():
        run_id, step, pid, at = line.split()
        executed[f"{run_id} {step}"] += 1
        end = committed.get((run_id, step))
        assert end is None or int(at) <= end, (
            f"{step} of run {run_id} began in process {pid} {(int(at) - end) / 1e6:.3f} s after "
            "its result was recorded"
        )
    ran = set(executed)
    unseen = [f"{run} {step}" for run, step in committed if f"{run} {step}" not in ran]
    waits = {"nap", "go"}
    assert [one for one in unseen if one.split()[1] not in waits] == [], "recorded, never executed"
    return executed
