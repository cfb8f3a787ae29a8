"""A run as the database has it: read from its stream, and written as the rows that lists read."""

from __future__ import annotations

import msgspec

from ironflow.core.errors import Damaged
from ironflow.core.runs import entries as e
from ironflow.core.runs.entries import decode_entry
from ironflow.core.runs.fold import apply
from ironflow.core.runs.state import Run
from ironflow.storage.ports import Loaded, RunRow

_encode_state = msgspec.json.Encoder().encode
_decode_state = msgspec.json.Decoder(Run).decode


def fold(run_id: str, loaded: Loaded) -> Run:
    """The run that a snapshot and the entries after it make. Raises `Damaged`."""
    run = Run(run_id) if loaded.snapshot is None else _read_snapshot(run_id, loaded.snapshot.data)
    for entry in loaded.entries:
        try:
            change = decode_entry(entry.kind, entry.data)
        except Damaged as damage:
            raise Damaged(f"entry {entry.version} of run {run_id}", damage.reason) from damage
        apply(run, change, entry.at)
    return run


def _read_snapshot(run_id: str, data: bytes) -> Run:
    try:
        return _decode_state(data)
    except e.UNREADABLE as error:
        raise Damaged(f"the snapshot of run {run_id}", str(error)) from error


def run_row(run: Run) -> RunRow:
    """The run as lists and filters see it."""
    error = run.error
    # `_value_` is `value` without the two calls behind that: here, and wherever each run comes by.
    reason = run.reason or (f"{error.kind}: {error.message}"[:500] if error is not None else None)
    return RunRow(
        run.id,
        run.function_id,
        run.status._value_,
        run.created_at,
        run.started_at,
        run.ended_at,
        run.updated_at,
        run.attempt,
        run.version,
        run.event.id if run.event is not None else None,
        run.event.name if run.event is not None else None,
        run.idempotency_key,
        run.parent.run_id if run.parent is not None else None,
        run.code,
        reason,
        run.crashes,
        run.kind,
    )


def handler_row(run: Run) -> tuple[object, ...]:
    """The row of the name under which a workflow's callers know the run."""
    error = run.error.message if run.error is not None else None
    return (
        run.handler,
        run.id,
        run.function_id,
        run.status._value_,
        run.created_at,
        run.updated_at,
        run.ended_at,
        error,
        run.version,
    )


def row_facts(run: Run) -> tuple[object, ...]:
    """What the run's row must follow. A run that is created queued differs by its existence."""
    return run.version > 0, run.status, run.execution, run.attempt, run.reason, run.error


def encode_snapshot(run: Run) -> bytes:
    """The run as a snapshot holds it."""
    return _encode_state(run)
