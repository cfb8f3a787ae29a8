"""What must hold between the stream of a run and everything else that is stored of it.

Each law is a function of a run (the fold of its stream) and a picture of the store at one moment;
it yields a sentence for each breach. The laws hold after every single commit, whatever crashed
before it, so that they can be asked of a simulated store after each commit, and of a real file
at any time (`ironflow db check`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from ironflow.actors.intake.audit import ACTORS as INTAKE_ACTORS
from ironflow.actors.intake.audit import check_intake, fold_intake
from ironflow.actors.prefect.audit import check_flow_run
from ironflow.actors.runs.rows import fold, run_row
from ironflow.core.errors import Damaged
from ironflow.core.prefect.runs import is_ours as is_of_flow_run
from ironflow.core.runs.decisions import watch_for_cancel
from ironflow.core.runs.effects import CANCEL_STEP, STEP_TIMER, TIMEOUT_TIMER
from ironflow.core.runs.entries import KINDS
from ironflow.core.runs.explain import wake_sources
from ironflow.core.runs.state import Run, RunStatus, StepStatus
from ironflow.storage.ports import (
    RUN_LANES,
    RUNS,
    SNAPSHOTS,
    TIMERS,
    WAITERS,
    Delivery,
    Entry,
    Loaded,
    RunRow,
    Snapshot,
    Table,
    TimerRow,
    WaiterRow,
)

AT_MOST = 20
"""Findings of one law that are told; a damaged file may have millions."""


class Picture(Protocol):
    """One moment of a store."""

    def rows(self, table: Table, key: str) -> Sequence[tuple[Any, ...]]:
        """The rows of a table whose first column is `key`, in the order of their keys."""
        ...

    def messages(self, target: str) -> Sequence[tuple[Any, ...]]:
        """The rows of `deliveries` for a target."""
        ...

    def streams(self, prefix: str) -> Iterator[tuple[str, list[Entry]]]:
        """Every stream whose name begins with `prefix`, with all its entries."""
        ...


class Finding(NamedTuple):
    """A breach: the law's name, what it is about (a stream), and a sentence."""

    law: str
    subject: str
    message: str


_KINDS = frozenset(KINDS.values())
Law = Callable[[Run, Picture], Iterator[str]]


def row_agrees_with_stream(run: Run, picture: Picture) -> Iterator[str]:
    """The row that lists read says what the stream says."""
    rows = picture.rows(RUNS, run.id)
    if not rows:
        yield "has a stream and no row in the list of runs"
        return
    # These are not rewritten with every entry: they may lag behind, never run ahead.
    lagging = {"version", "updated_at", "crashes", "code"}
    row, wanted = RunRow(*rows[0]), run_row(run)
    for name in RunRow.__struct_fields__:
        found, says = getattr(row, name), getattr(wanted, name)
        if name not in lagging and found != says:
            yield f"its row has {name} {found!r}, its stream says {says!r}"
    if row.version > run.version:
        yield f"its row is of version {row.version}, its stream ends with {run.version}"


def timers_agree_with_stream(run: Run, picture: Picture) -> Iterator[str]:
    """Every timer that the run needs is there and at its moment; an ended run has none."""
    rows = {
        row.name: row.at for row in (TimerRow(*r) for r in picture.rows(TIMERS, f"run/{run.id}"))
    }
    if run.is_terminal:
        for name in rows:
            yield f"has ended and still has the timer {name!r}"
        return
    needed: dict[str, int] = {}
    for key in run.open:
        until = run.steps[key].until
        if until is not None:
            needed[STEP_TIMER + key] = until
    if run.deadline is not None and run.cancelling is None and run.unwinding is None:
        needed[TIMEOUT_TIMER] = run.deadline
    if run.status is RunStatus.WAITING:
        # A retry of the function, and what a workflow's jobs wait for.
        for source in wake_sources(run):
            if source.kind == "timer" and source.due_at is not None:
                needed[source.name] = source.due_at
    for name, at in needed.items():
        if name not in rows:
            yield f"needs the timer {name!r}, which is not there"
        elif rows[name] != at:
            yield f"needs the timer {name!r} at {at}, it is set for {rows[name]}"


def waiters_agree_with_stream(run: Run, picture: Picture) -> Iterator[str]:
    """Who waits for an event is exactly who says so in the stream."""
    rows = {row.step: row for row in (WaiterRow(*r) for r in picture.rows(WAITERS, run.id))}
    wanted = {
        key: step.event
        for key, step in ((key, run.steps[key]) for key in run.open)
        if step.event is not None and step.status is StepStatus.WAITING
    }
    ending = run.is_terminal or run.cancelling is not None or run.unwinding is not None
    watched: set[str] = set()
    if not run.is_terminal:
        for index, rule in enumerate(run.options.cancel_on):
            watched.add(f"{CANCEL_STEP}{index}")
            if not ending and run.input.json is not None:
                wanted.update({w.step: w.event for w in watch_for_cancel(index, rule, run.input)})
    for step, event in wanted.items():
        if step not in rows:
            yield f"step {step!r} waits for event {event!r} and is not among the waiters"
        elif rows[step].event != event:
            yield f"step {step!r} waits for {event!r}, its waiter for {rows[step].event!r}"
    for step in rows:
        if step not in wanted and step not in watched:
            yield f"has a waiter for step {step!r}, which waits for nothing"


def lanes_agree_with_stream(run: Run, picture: Picture) -> Iterator[str]:
    """Where a run needs places and its rank are there until it has ended."""
    rows = picture.rows(RUN_LANES, run.id)
    ranked = bool(run.lanes or run.priority or run.share is not None)
    if not rows:
        if ranked and not run.is_terminal:
            yield "has no row that says where it needs places"
        return
    _, lanes, priority, share = rows[0]
    if run.is_terminal:
        yield "has ended and still has a row of its lanes"
    elif (tuple(msgspec.json.decode(lanes)), priority, share) != (
        run.lanes,
        run.priority,
        run.share,
    ):
        yield f"its row says {lanes}, {priority}, {share!r}, its stream {run.lanes}"


def something_will_wake_it(run: Run, picture: Picture) -> Iterator[str]:
    """A run that has not ended holds something that brings it on, and that is really there."""
    if run.is_terminal:
        return
    sources = wake_sources(run)
    if not sources:
        yield f"is {run.status.value} and nothing will ever wake it"
    for source in sources:
        if source.kind == "predecessor":
            yield from _will_be_released(run, source.name, picture)
        if source.kind != "child":
            continue  # timers and waiters have laws of their own; the rest is memory's
        rows = picture.rows(RUNS, source.name)
        if rows and RunRow(*rows[0]).ended_at is None:
            continue
        coming = {Delivery(*row).kind for row in picture.messages(f"run/{source.name}")}
        told = [Delivery(*row) for row in picture.messages(f"run/{run.id}")]
        if "create_run" in coming or any(_tells_end(row, source.name) for row in told):
            continue
        state = "has ended" if rows else "does not exist"
        yield f"step {source.step!r} waits for run {source.name}, which {state}, with no word of it"


def _will_be_released(run: Run, predecessor: str, picture: Picture) -> Iterator[str]:
    """The run that this one is behind has not ended (or is about to be made), or word of its end is
    on its way.
    """
    rows = picture.rows(RUNS, predecessor)
    if rows and RunRow(*rows[0]).ended_at is None:
        return
    targets = (run.gate or "", f"run/{run.id}", f"run/{predecessor}")
    if not any(picture.messages(target) for target in targets):
        state = "has ended" if rows else "does not exist"
        yield f"is behind run {predecessor}, which {state}, with no word of it"


def _tells_end(row: Delivery, child: str) -> bool:
    return row.kind == "child_ended" and msgspec.json.decode(row.data)["run_id"] == child


RUN_LAWS: tuple[Law, ...] = (
    row_agrees_with_stream,
    timers_agree_with_stream,
    waiters_agree_with_stream,
    lanes_agree_with_stream,
    something_will_wake_it,
)


def check_run(run: Run, picture: Picture) -> Iterator[Finding]:
    """Every breach of `RUN_LAWS` by one run that this engine moves (not a client's own flow)."""
    if not run.exists or run.kind == "flow":
        return
    for law in RUN_LAWS:
        for message in law(run, picture):
            yield Finding(law.__name__, f"run/{run.id}", message)


def check_snapshot(run_id: str, entries: list[Entry], run: Run, picture: Picture) -> Iterator[str]:
    """A snapshot and the entries after it make the same run as all entries."""
    for _, version, data in picture.rows(SNAPSHOTS, f"run/{run_id}"):
        rest = [entry for entry in entries if entry.version > version]
        if fold(run_id, Loaded(Snapshot(version, data), rest)) != run:
            yield f"its snapshot of version {version} and its entries make two different runs"


def check_store(picture: Picture) -> Iterator[Finding]:
    """Every breach in a whole store, at most `AT_MOST` of a law. Reads every entry of every run."""
    counts: dict[str, int] = {}
    for finding in _check_streams(picture):
        counts[finding.law] = counts.get(finding.law, 0) + 1
        if counts[finding.law] <= AT_MOST:
            yield finding


def _check_intakes(picture: Picture) -> Iterator[Finding]:
    for prefix in INTAKE_ACTORS:
        for stream, entries in picture.streams(prefix):
            snapshot = next((Snapshot(*row[1:]) for row in picture.rows(SNAPSHOTS, stream)), None)
            try:
                state = fold_intake(stream, None, entries)
                if snapshot is not None:
                    rest = [entry for entry in entries if entry.version > snapshot.version]
                    if fold_intake(stream, snapshot, rest) != state:
                        text = f"its snapshot of version {snapshot.version} makes another intake"
                        yield Finding("snapshot_agrees_with_stream", stream, text)
            except Damaged as damage:
                yield Finding("entries_can_be_read", stream, str(damage))
                continue
            for law, text in check_intake(stream, state, picture):
                yield Finding(law, stream, text)


def _check_streams(picture: Picture) -> Iterator[Finding]:
    yield from _check_intakes(picture)
    for stream, entries in picture.streams("run/"):
        run_id = stream.removeprefix("run/")
        versions = [entry.version for entry in entries]
        if versions != list(range(1, len(entries) + 1)):
            yield Finding(
                "versions_are_gapless", stream, f"its versions are not 1 to {len(versions)}"
            )
            continue
        try:
            if is_of_flow_run(entries[0].kind):
                found = [
                    Finding(law, stream, m) for law, m in check_flow_run(run_id, entries, picture)
                ]
                yield from found
                continue
            if entries[0].kind not in _KINDS:
                continue
            run = fold(run_id, Loaded(None, entries))
            found = list(check_run(run, picture))
            found += [
                Finding("snapshot_agrees_with_stream", stream, message)
                for message in check_snapshot(run_id, entries, run, picture)
            ]
        except (Damaged, msgspec.DecodeError, KeyError, IndexError, TypeError) as error:
            text = f"cannot be read: {type(error).__name__}: {error}"
            yield Finding("entries_can_be_read", stream, text)
        else:
            yield from found
