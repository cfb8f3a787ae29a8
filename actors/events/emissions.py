"""Emitting an event, and what a request with an idempotency key must be like."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec

from ironflow.actors.events.router import EventEmitted
from ironflow.core.errors import IdempotencyConflict, InvalidInput
from ironflow.core.runs import commands as c
from ironflow.core.runs.entries import EventFacts
from ironflow.core.values.payloads import pack

if TYPE_CHECKING:
    from ironflow.actors.engine import Engine


async def emit(
    engine: Engine,
    function_id: str | None,
    name: str,
    data: bytes,
    idempotency_key: str | None,
    source: str,
    facts: EventFacts | None = None,
) -> c.Emitted:
    """See `Engine.emit`; with a `function_id` for that function alone, in a space of keys of its
    own.
    """
    data_hash = digest(data)
    known: EventEmitted | None = None
    if idempotency_key is None:
        event_id = engine.ids.new()
    else:
        check_key(idempotency_key)
        scope = (name,) if function_id is None else (name, function_id)
        event_id = engine.environment.derive_id("event", *scope, idempotency_key)
        row = await engine.store.reader.event(event_id)
        if row is not None:
            known = msgspec.json.decode(row.data, type=EventEmitted)
            if known.data_hash != data_hash:
                raise IdempotencyConflict(idempotency_key, f"event {event_id}")
    if known is not None:
        emitted = c.Emitted(event_id, known.runs, False, known.intakes)
    else:
        payload, blob = pack(data)
        command = c.EmitEvent(
            id=event_id,
            name=name,
            data=payload,
            source=source,
            idempotency_key=idempotency_key,
            data_hash=data_hash,
            facts=facts,
            function_id=function_id,
            blob=blob,
        )
        emitted = await engine.router.ask(command)
    if not emitted.intakes:
        return emitted
    outcomes = tuple(await engine.store.reader.outcomes([event_id]))
    started = tuple(o.run_id for o in outcomes if o.fate == "started")
    for run_id in started:
        await engine.intakes.until_recorded(run_id)
    return msgspec.structs.replace(emitted, run_ids=emitted.run_ids + started, outcomes=outcomes)


def digest(data: bytes) -> str:
    """A hash of JSON that does not depend on the order of keys or on white space."""
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput("input", f"not JSON: {error}") from error
    return hashlib.sha256(msgspec.json.encode(value, order="deterministic")).hexdigest()[:32]


def check_key(key: str) -> None:
    """Raises `InvalidInput` for an idempotency key that cannot be one."""
    if not key or len(key) > 500:
        raise InvalidInput("idempotency_key", "must have 1 to 500 characters")
