"""What a decision about a run does to the database: its entries, and every row that follows from
them, in one batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from ironflow.actors.kernel.outbox import encode_row, with_delivery
from ironflow.core.messages import Message
from ironflow.core.runs import commands as c
from ironflow.core.runs import effects as fx
from ironflow.core.runs import entries as e
from ironflow.core.runs.entries import (
    KINDS,
    RunCreated,
    RunEntry,
    RunReopened,
    TurnRecorded,
    encode_entry,
    payloads,
)
from ironflow.core.runs.state import Run
from ironflow.core.workflows.state import signal_key
from ironflow.storage.ports import (
    BLOB_REFS,
    BLOBS,
    DELIVERIES,
    RUN_ACTORS,
    RUN_LANES,
    STARTS,
    TIMERS,
    WAITERS,
    Batch,
    NewEntry,
)

if TYPE_CHECKING:
    from ironflow.actors.runs.run import RunActor

_make = tuple.__new__
"""As `NewEntry._make` does it, without a call in between: one is made for every step."""

Posted = tuple[str, str, Message[Any]]
"""A durable message that is posted after its commit: target, delivery, message."""


_KEPT_BACK = frozenset((e.WaitEnded, e.StepRetryDue, e.SignalReceived))


def keys_of_ends(entries: Sequence[RunEntry]) -> list[str]:
    """What a body must not know of before these entries are durable, by its keys: ends of waits,
    and events from outside.
    """
    found: list[str] = []
    if _KEPT_BACK.isdisjoint(map(type, entries)):
        return found
    for entry in entries:
        if isinstance(entry, e.WaitEnded | e.StepRetryDue):
            found.append(entry.key)
        elif isinstance(entry, e.SignalReceived):
            found.append(signal_key(entry.id))
    return found


def add_entry(
    actor: RunActor, batch: Batch, entry: RunEntry, blobs: Mapping[str, bytes] | bytes | None
) -> None:
    """An entry that the run has just been changed by. `blobs` are the large values that came with
    the message, by digest, or the only one.
    """
    kind, run, stream = type(entry), actor.run, actor.address
    row = (stream, run.version, run.updated_at, KINDS[kind], encode_entry(entry))
    batch.entries.append(_make(NewEntry, row))
    if kind is TurnRecorded and not blobs:
        return  # what lies in the blob table came with a turn, and the run refers to it since
    for payload in payloads(entry):
        if payload is not None and payload.blob is not None:
            batch.puts.append((BLOB_REFS, (stream, payload.blob)))
            blob = blobs.get(payload.blob) if isinstance(blobs, Mapping) else blobs
            if blob is not None:
                batch.puts.append((BLOBS, (payload.blob, len(blob), blob)))


def note_place(run: Run, batch: Batch, entries: Sequence[RunEntry]) -> None:
    """What a start of the process has to know of the run's place among others: who has not ended
    stands in the table of lanes, and in that of actors with the last worker.
    """
    kinds = set(map(type, entries))
    begins = RunCreated in kinds or RunReopened in kinds
    if run.lanes or run.priority or run.share is not None:
        if run.is_terminal:
            batch.deletes.append((RUN_LANES, (run.id,)))
        elif begins:
            lanes = msgspec.json.encode(run.lanes).decode()
            batch.puts.append((RUN_LANES, (run.id, lanes, run.priority, run.share)))
    if run.actor is not None:
        if run.is_terminal:
            batch.deletes.append((RUN_ACTORS, (run.id,)))
        elif begins or e.RunStarted in kinds:
            batch.puts.append((RUN_ACTORS, (run.id, run.actor, run.worker)))


def note_counts(actor: RunActor, batch: Batch) -> None:
    """What the decision adds to throttles and rate limits, in the place of what is too old."""
    batch.puts.extend((STARTS, start) for start in actor.counts)
    old = actor.environment.pool.windows.take_over()
    batch.deletes.extend((STARTS, each) for each in old)


def add_send(actor: RunActor, batch: Batch, send: c.Send, number: int) -> Posted:
    """A durable message. It is named for its cause, so that it keeps its name however often it is
    sent, and padded: on a restart, messages of one moment are sent again in the order of their
    names.
    """
    delivery = f"{actor.address}/{actor.run.version:09d}/{number}"
    batch.puts.append((DELIVERIES, encode_row(send, delivery, actor.situation.now)))
    blob = getattr(send.message, "blob", None)
    payload = getattr(send.message, "input", None) or getattr(send.message, "data", None)
    if blob is not None and payload is not None and payload.blob is not None:
        batch.puts.append((BLOBS, (payload.blob, len(blob), blob)))
        batch.puts.append((BLOB_REFS, (actor.address, payload.blob)))
    return send.target, delivery, with_delivery(send.message, delivery)


def add_effect(actor: RunActor, batch: Batch, effect: fx.Effect) -> None:
    """The row of a durable effect."""
    run, waiters, now = actor.run, actor.environment.waiters, actor.situation.now
    match effect:
        case fx.SetTimer():
            batch.puts.append((TIMERS, (actor.address, effect.name, effect.at, run.version)))
        case fx.ClearTimer():
            batch.deletes.append((TIMERS, (actor.address, effect.name)))
        case fx.AddWaiter():
            row = (run.id, effect.step, effect.event, effect.match, now)
            batch.puts.append((WAITERS, row))
            # Before the commit: whoever emits because the commit was seen emits later than this.
            waiters.add(run.id, effect.step, effect.event, effect.match)
            actor.unsure.add(effect.step)
        case fx.RemoveWaiter():
            batch.deletes.append((WAITERS, (run.id, effect.step)))
            waiters.remove(run.id, effect.step)
        case fx.Consume():
            batch.deletes.append((DELIVERIES, (effect.delivery,)))
        case _:
            pass
