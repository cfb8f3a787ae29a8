"""What must hold between the stream of an intake and what else is stored of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from ironflow.actors.intake.actor import IntakeActor
from ironflow.actors.intake.pending import TIMER, BatchActor, DebounceActor
from ironflow.actors.intake.singleton import SingletonActor
from ironflow.core.functions import intake as i
from ironflow.storage.ports import (
    INTAKES,
    RUNS,
    TIMERS,
    Entry,
    IntakeRow,
    RunRow,
    Snapshot,
    Table,
    TimerRow,
)

ACTORS: dict[str, type[IntakeActor[Any]]] = {
    "debounce/": DebounceActor,
    "batch/": BatchActor,
    "singleton/": SingletonActor,
}
"""Whose streams they are, by the prefix of their names."""

State = i.Debouncing | i.Batching | i.Single


class Picture(Protocol):
    """One moment of a store."""

    def rows(self, table: Table, key: str) -> Sequence[tuple[Any, ...]]:
        """The rows of a table whose first column is `key`."""
        ...

    def messages(self, target: str) -> Sequence[tuple[Any, ...]]:
        """The rows of `deliveries` for a target."""
        ...


def fold_intake(stream: str, snapshot: Snapshot | None, entries: Sequence[Entry]) -> State:
    """The intake that a snapshot and the entries after it make. Raises `Damaged`."""
    actor = next(found for prefix, found in ACTORS.items() if stream.startswith(prefix))
    state: State = actor.read(stream, snapshot, entries)
    return state


def check_intake(stream: str, state: State, picture: Picture) -> Iterator[tuple[str, str]]:
    """Every breach by one intake: the law's name, and a sentence."""
    rows = [IntakeRow(*row) for row in picture.rows(INTAKES, stream)]
    wanted: tuple[object, ...] | None
    due_at: int | None = None
    if isinstance(state, i.Single):
        waiting = state.waiting is not None
        wanted = (state.holder, None, 1 + waiting) if state.holder is not None else None
        yield from _check_holder(stream, state, picture)
    else:
        size = state.count if isinstance(state, i.Debouncing) else len(state.items)
        due_at = state.due_at
        wanted = (state.run_id, due_at, size) if size else None
    found = (rows[0].run_id, rows[0].due_at, rows[0].size) if rows else None
    if found != wanted:
        yield "intake_agrees_with_stream", f"its row has {found}, its stream says {wanted}"
    timers = {row.name: row.at for row in (TimerRow(*r) for r in picture.rows(TIMERS, stream))}
    if timers.get(TIMER) != due_at:
        text = f"its timer is set for {timers.get(TIMER)}, its stream says {due_at}"
        yield "intake_timer_agrees_with_stream", text


def _check_holder(stream: str, state: i.Single, picture: Picture) -> Iterator[tuple[str, str]]:
    """Who holds a singleton has not ended, or word of its end (or of its beginning) is on its
    way.
    """
    for run_id in (state.holder, state.waiting):
        if run_id is None:
            continue
        rows = picture.rows(RUNS, run_id)
        if rows and RunRow(*rows[0]).ended_at is None:
            continue
        if picture.messages(stream) or picture.messages(f"run/{run_id}"):
            continue
        what = "has ended" if rows else "does not exist"
        yield "singleton_is_held_by_a_run", f"run {run_id} holds it and {what}, with no word of it"
