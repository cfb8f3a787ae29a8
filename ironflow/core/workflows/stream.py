"""What readers of a workflow are told: streamed events, in order, each with a sequence number.

The sequence counts every event of a run from 0, internal ones included. Only what users write to
the stream is stored as such; what the journal says anyway (a step began or ended, the workflow is
idle, how it ended) is told as the event of the field's clients that means it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from ironflow.core.runs import entries as e
from ironflow.core.runs.entries import RunEntry
from ironflow.core.values.payloads import Failure, Payload
from ironflow.core.workflows.state import (
    JobAdded,
    JobBegan,
    JobCancelled,
    JobEnded,
    JobFailed,
    JobLeft,
    Streamed,
    TurnOp,
)

BUILT_IN = "workflows.events"
"""The module that built-in events are named after on the wire, whatever module they live in."""
INTERNAL = "InternalDispatchEvent"
ENQUEUED = "<enqueued>"
"""Stands for the number of a worker while there is none."""

_encode = msgspec.json.Encoder().encode


class StreamedEvent(NamedTuple):
    """One event of a run's stream; `envelope` is its JSON, or lies in the blob table.

    `internal` events are told only to those who ask for them. `ends`: nothing follows. `job`: whose
    step wrote it, began or left its worker; a step that is entered again has the same one.
    """

    sequence: int
    envelope: Payload
    internal: bool = False
    ends: bool = False
    job: int | None = None


def envelope(
    value: object, qualified_name: str | None, type: str, types: list[str] | None
) -> bytes:
    """An event as clients get it."""
    return _encode({"value": value, "qualified_name": qualified_name, "type": type, "types": types})


def built_in(type: str, value: dict[str, Any], parent: str | None) -> Payload:
    """A built-in event."""
    types = [parent] if parent else None
    text = envelope(value, f"{BUILT_IN}.{type}", type, types)
    return Payload(raw=msgspec.Raw(text))


def step_state(
    step: str, state: str, worker: int | str, taken: str, given: str | None = None
) -> Payload:
    """A step was taken up by a worker, or let go of, or waits for one."""
    value = {
        "name": step,
        "step_state": state,
        "worker_id": str(worker),
        "input_event_name": taken,
        "output_event_name": given,
    }
    return built_in("StepStateChanged", value, INTERNAL)


def events_of(entry: RunEntry, sequence: int) -> Iterator[StreamedEvent]:
    """The events that an entry tells, of which the first has the number `sequence`."""
    match entry:
        case e.TurnRecorded():
            for op in entry.ops:
                told = _event_of(op)
                if told is not None:
                    text, internal, job = told
                    yield StreamedEvent(sequence, text, internal, job=job)
                    sequence += 1
            if entry.parks:
                idle = built_in("WorkflowIdleEvent", {}, INTERNAL)
                yield StreamedEvent(sequence, idle, internal=True)
        case e.RunCompleted():
            yield StreamedEvent(sequence, entry.result, ends=True)
        case e.RunFailed():
            yield StreamedEvent(sequence, failed_event(entry.error), ends=True)
        case e.RunCancelled():
            gone = built_in("WorkflowCancelledEvent", {}, "StopEvent")
            yield StreamedEvent(sequence, gone, ends=True)
        case _:
            return


def _event_of(op: TurnOp) -> tuple[Payload, bool, int | None] | None:
    match op:
        case Streamed():
            return op.event, op.internal, op.job
        case JobAdded():
            if not op.queued:
                return None
            taken = op.events[0].type.rpartition(".")[2] if op.events else ""
            return step_state(op.step, "preparing", ENQUEUED, taken), True, op.job
        case JobBegan():
            return step_state(op.step, "running", op.worker, op.input), True, op.job
        case JobEnded():
            return step_state(op.step, "not_running", op.worker, op.input, op.output), True, op.job
        case JobFailed() | JobLeft() | JobCancelled():
            return step_state(op.step, "not_running", op.worker, op.input), True, op.job
        case _:
            return None


def failed_event(error: Failure) -> Payload:
    """The event at the end of a run that failed or ran out of time."""
    facts = error.facts or {}
    if error.code == "run_timeout":
        value = {
            "timeout": facts.get("timeout", 0.0),
            "active_steps": facts.get("active_steps", []),
        }
        return built_in("WorkflowTimedOutEvent", value, "StopEvent")
    value = {
        "step_name": facts.get("step", ""),
        "exception": {
            "exception_type": facts.get("type", error.kind),
            "exception_message": error.message,
        },
        "attempts": facts.get("attempts"),
        "elapsed_seconds": facts.get("elapsed_seconds"),
    }
    return built_in("WorkflowFailedEvent", value, "StopEvent")
