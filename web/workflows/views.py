"""Handlers on the wire: a run of a workflow under the name that its caller knows."""

from __future__ import annotations

import msgspec

from ironflow.actors.workflows.doors import HandlerView
from ironflow.actors.workflows.handlers import HandlerRow
from ironflow.core.clock import to_iso
from ironflow.core.runs.state import TERMINAL, Run

STOP_EVENT = "workflows.events.StopEvent"
CODES = {"running": 202, "completed": 200, "failed": 500, "cancelled": 500}
"""What the status of a handler is as that of an answer."""

_encode = msgspec.json.Encoder().encode
_TEXT = (
    b'{"handler_id":%s,"workflow_name":%s,"run_id":"%s","error":%s,"result":%s,'
    b'"result_unreadable":false,"status":"%s","run_status":"%s","started_at":"%s",'
    b'"updated_at":"%s","completed_at":%s}'
)


class _Envelope(msgspec.Struct):
    value: dict[str, object]
    qualified_name: str | None = None


def wire_status(status: str) -> str:
    """What callers are told of a run's status: whatever has not ended is running."""
    return status if status in TERMINAL else "running"


def encode_handler(row: HandlerRow, result: bytes | None = None, error: str | None = None) -> bytes:
    """A handler as JSON; `result` is put in as it is. `run_status` says more than `status`, whose
    values the clients of old know: whether the run waits, is queued or is paused.
    """
    ended = None if row.ended_at is None else b'"%s"' % to_iso(row.ended_at).encode()
    return _TEXT % (
        _encode(row.id),
        _encode(row.workflow),
        row.run_id.encode(),
        _encode(error if error is not None else (row.error if row.is_terminal else None)),
        result or b"null",
        wire_status(row.status).encode(),
        row.status.encode(),
        to_iso(row.created_at).encode(),
        to_iso(row.updated_at).encode(),
        ended or b"null",
    )


def encode_view(view: HandlerView, result: bytes | None = None) -> bytes:
    """A handler with its outcome as JSON; `result` stands in for the event's envelope."""
    error = view.error.message if view.error is not None else None
    return encode_handler(view.row, result if result is not None else view.result, error)


def row_of(run: Run, handler_id: str) -> HandlerRow:
    """The row of a run that is in memory."""
    updated = run.ended_at or run.started_at or run.created_at
    error = run.error.message if run.error is not None else None
    return HandlerRow(
        handler_id, run.id, run.function_id, run.status._value_, run.created_at, updated,
        run.ended_at, error, 0,
    )  # fmt: skip


def unwrap(result: bytes) -> bytes:
    """A stop event's payload: what a plain one was given, all fields of any other."""
    envelope = msgspec.json.decode(result, type=_Envelope)
    if envelope.qualified_name == STOP_EVENT:
        return _encode(envelope.value.get("result"))
    return _encode(envelope.value)
