"""What must hold between the stream of a Prefect flow run and what else is stored of it; see
`ironflow.actors.audit`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from ironflow.actors.prefect.history import fold
from ironflow.actors.prefect.rows import flow_run_row, run_row, task_run_row
from ironflow.core.prefect import bodies
from ironflow.core.prefect import runs as r
from ironflow.core.prefect.timers import wanted_timers
from ironflow.storage.ports import RUNS, SNAPSHOTS, TIMERS, Entry, Loaded, RunRow, Snapshot, Table
from ironflow.storage.relational.prefect_runs import FLOW_RUNS, RUN_INPUTS, RUN_STATES, TASK_RUNS


class Picture(Protocol):
    """The part of a store at one moment that is looked at."""

    def rows(self, table: Table, key: str) -> Sequence[tuple[Any, ...]]:
        """The rows of a table whose first column is `key`, in the order of their keys."""
        ...


Law = Callable[[r.History, list[Entry], Picture], Iterator[str]]


def row_agrees_with_stream(
    history: r.History, entries: list[Entry], picture: Picture
) -> Iterator[str]:
    """The row that lists of all runs read says what the stream says."""
    rows = picture.rows(RUNS, history.id)
    if not rows:
        yield "has a stream and no row in the list of runs"
        return
    lagging = {"version", "updated_at"}
    row, wanted = RunRow(*rows[0]), RunRow(*run_row(history))
    for name in RunRow.__struct_fields__:
        found, says = getattr(row, name), getattr(wanted, name)
        if name not in lagging and found != says:
            yield f"its row has {name} {found!r}, its stream says {says!r}"


def bodies_agree_with_stream(
    history: r.History, entries: list[Entry], picture: Picture
) -> Iterator[str]:
    """The rows that the Prefect API reads are what the fold makes."""
    run = history.flow_run
    if run is not None:
        wanted = flow_run_row(run, bodies.encode_flow_run(run, bodies.encode_info(run)))
        if list(picture.rows(FLOW_RUNS, history.id)) != [wanted]:
            yield "its row of flow_runs is not what its stream says"
    for task_run_id, task in history.tasks.items():
        found = list(picture.rows(TASK_RUNS, task_run_id))
        if found != [task_run_row(task, bodies.encode_task_run(task))]:
            yield f"the row of its task run {task_run_id} is not what its stream says"
    keys = [row[1] for row in picture.rows(RUN_INPUTS, history.id)]
    if keys != sorted(history.inputs):
        yield f"has the inputs {keys}, its stream says {sorted(history.inputs)}"


def states_agree_with_stream(
    history: r.History, entries: list[Entry], picture: Picture
) -> Iterator[str]:
    """Every state can be found by its id."""
    wanted = [
        (entry.version, state.id)
        for entry in entries
        if (state := getattr(r.decode_entry(entry.kind, entry.data), "state", None)) is not None
    ]
    found = [(row[1], row[2]) for row in picture.rows(RUN_STATES, f"run/{history.id}")]
    if found != wanted:
        yield f"{len(wanted)} entries have a state, {len(found)} states are known"


def timers_agree_with_stream(
    history: r.History, entries: list[Entry], picture: Picture
) -> Iterator[str]:
    """The timers are those that it must have."""
    found = {row[1]: row[2] for row in picture.rows(TIMERS, f"flow_run/{history.id}")}
    wanted = wanted_timers(history)
    if found != wanted:
        yield f"has the timers {found}, needs {wanted}"


def snapshot_agrees_with_stream(
    history: r.History, entries: list[Entry], picture: Picture
) -> Iterator[str]:
    """A snapshot and the entries after it make the same history as all entries."""
    for _, version, data in picture.rows(SNAPSHOTS, f"run/{history.id}"):
        rest = [entry for entry in entries if entry.version > version]
        if fold(history.id, Loaded(Snapshot(version, data), rest)) != history:
            yield f"its snapshot of version {version} and its entries make two different runs"


FLOW_RUN_LAWS: tuple[Law, ...] = (
    row_agrees_with_stream,
    bodies_agree_with_stream,
    states_agree_with_stream,
    timers_agree_with_stream,
    snapshot_agrees_with_stream,
)


def check_flow_run(
    run_id: str, entries: list[Entry], picture: Picture
) -> Iterator[tuple[str, str]]:
    """Every breach of `FLOW_RUN_LAWS` as (law, sentence)."""
    history = fold(run_id, Loaded(None, entries))
    for law in FLOW_RUN_LAWS:
        for message in law(history, entries, picture):
            yield law.__name__, message
