"""The methods of `IronflowService` that emit events and start functions."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from ironflow.actors.engine import Engine
from ironflow.core.errors import Draining, InvalidInput, IronflowError, NotFound
from ironflow.core.runs import commands as c
from ironflow.core.runs.entries import EventFacts
from ironflow.core.runs.state import Run
from ironflow.web.connect.dispatch import Call, Method
from ironflow.web.connect.functions import change_of, check_function_id
from ironflow.web.connect.json_codec import Plain
from ironflow.web.connect.refusals import Unimplemented, code_of
from ironflow.web.connect.run_messages import STATUSES, error_message, load
from ironflow.web.connect.values import payload_of, show
from ironflow.web.problems import describe
from ironflow.web.queries import check_text

BATCH_AT_MOST = 1000
"""Events in one call."""
WAIT = 30.0
"""Seconds that a caller is held who does not say how long."""
_NONE = msgspec.Raw(b"")


class Emit(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """An event. The same idempotency key and name again find the first one."""

    event: str = ""
    data: msgspec.Raw = _NONE
    data_value: msgspec.Raw = _NONE
    idempotency_key: Annotated[str, msgspec.Meta(max_length=500)] = ""
    metadata: msgspec.Raw = _NONE
    version: Annotated[int, msgspec.Meta(ge=0)] = 0
    timeout_ms: Annotated[int, msgspec.Meta(ge=0)] = 0
    namespace: str = ""


class EmitBatch(msgspec.Struct, frozen=True, kw_only=True):
    """Events, each stored or refused for itself."""

    events: tuple[dict[str, Any], ...] = ()


class Invoke(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A function, and its input."""

    function_id: str = ""
    data: msgspec.Raw = _NONE
    data_value: msgspec.Raw = _NONE
    idempotency_key: Annotated[str, msgspec.Meta(max_length=500)] = ""
    metadata: msgspec.Raw = _NONE
    timeout_ms: Annotated[int, msgspec.Meta(ge=0)] = 0


async def emit_one(call: Call[Any], event: Emit) -> c.Emitted:
    """Store an event, with the runs that it starts."""
    if not event.event:
        raise InvalidInput("event", "is required")
    if event.namespace not in ("", "default"):
        raise InvalidInput("namespace", "must be empty or default")
    key = event.idempotency_key or None
    if key is not None:
        check_text(key, "idempotencyKey")
    metadata = msgspec.json.decode(event.metadata) if event.metadata else None
    return await call.engine.emit(
        event.event,
        payload_of(event.data, event.data_value) or b"null",
        idempotency_key=key,
        source="sdk",
        facts=EventFacts(metadata, event.version or 1, change_of(call).actor),
    )


def emitted_message(emitted: c.Emitted) -> Plain:
    """The event, and its runs."""
    return {"runIds": list(emitted.run_ids), "eventId": emitted.event_id}


async def emit(call: Call[Emit]) -> Mapping[str, Any]:
    """Emit an event."""
    return emitted_message(await emit_one(call, call.message))


async def trigger_batch(call: Call[EmitBatch]) -> Mapping[str, Any]:
    """Emit many; each has a result of its own."""
    if len(call.message.events) > BATCH_AT_MOST:
        raise InvalidInput("events", f"are more than {BATCH_AT_MOST}")
    if call.engine.draining:
        raise Draining
    # Started in order and awaited together, so that one commit can take many.
    results = await asyncio.gather(*(_emit_item(call, item) for item in call.message.events))
    return {"results": results}


async def _emit_item(call: Call[EmitBatch], item: dict[str, Any]) -> Plain:
    try:
        return emitted_message(await emit_one(call, msgspec.convert(item, Emit)))
    except msgspec.ValidationError as error:
        return {"error": {"code": "invalid_argument", "message": str(error)}}
    except IronflowError as error:
        problem = describe(error)
        return {
            "error": {
                "code": code_of(problem),
                "message": problem.detail,
                "retryable": problem.retry_after is not None,
            }
        }


async def trigger_sync(call: Call[Emit]) -> Mapping[str, Any]:
    """Emit an event and wait for the ends of its runs; a passed timeout changes nothing for
    them.
    """
    message, engine = call.message, call.engine
    data = payload_of(message.data, message.data_value) or b"null"
    engine.intakes.check_waitable(message.event, data)
    emitted = await emit_one(call, message)
    timeout = message.timeout_ms / 1000 or WAIT
    results = await asyncio.gather(
        *(_result(engine, run_id, timeout) for run_id in emitted.run_ids)
    )
    return {"results": results, "eventId": emitted.event_id}


async def invoke_function(call: Call[Invoke]) -> Mapping[str, Any]:
    """Start a function."""
    created = await _invoke(call)
    return {"runId": created.run_id, "eventId": created.run_id}


async def _invoke(call: Call[Invoke]) -> c.Created:
    message = call.message
    if bytes(message.metadata) not in (b"", b"{}"):
        raise Unimplemented(
            "metadata of an invocation is not kept by this server: put it into data"
        )
    key = message.idempotency_key or None
    if key is not None:
        check_text(key, "idempotencyKey")
    return await call.engine.invoke(
        check_function_id(message.function_id, "functionId"),
        payload_of(message.data, message.data_value) or b"null",
        idempotency_key=key,
    )


async def invoke_function_sync(call: Call[Invoke]) -> Mapping[str, Any]:
    """Start a function and wait for its end. A caller that goes away cancels the run that it
    started; a passed timeout does not.
    """
    engine = call.engine
    creating = asyncio.ensure_future(_invoke(call))
    try:
        created = await asyncio.shield(creating)
        timeout = call.message.timeout_ms / 1000 or WAIT
        return {"result": await _result(engine, created.run_id, timeout)}
    except asyncio.CancelledError:
        leaving = asyncio.ensure_future(_cancel(engine, creating))
        _LEAVING.add(leaving)
        leaving.add_done_callback(_LEAVING.discard)
        raise


_LEAVING: set[asyncio.Future[None]] = set()
"""Cancels on their way; the loop alone would forget them."""


async def _cancel(engine: Engine, creating: asyncio.Future[c.Created]) -> None:
    try:
        created = await creating
        if created.created:
            await engine.cancel(created.run_id, "its caller went away")
    except (IronflowError, TimeoutError):
        return  # it was never made, or has ended


async def _result(engine: Engine, run_id: str, timeout: float) -> Plain:
    run: Run | None = None
    ended = True
    try:
        run = await engine.wait(run_id, timeout)
        if run is None:
            ended, run = False, await engine.run(run_id)
    except NotFound:
        # It was acknowledged and is on its way: an event's function was deleted, or a run just now.
        return {"runId": run_id, "waitTimedOut": True}
    end = run.ended_at if run.ended_at is not None else engine.clock.now()
    return {
        "runId": run.id,
        "functionId": run.function_id,
        "status": STATUSES[run.status],
        **show("output", await load(engine, run.result)),
        "error": error_message(run.error) if ended else None,
        "durationMs": min((end - run.created_at) // 1000, 2**31 - 1),
        "waitTimedOut": not ended,
    }


METHODS = {
    "Emit": Method(Emit, emit),
    "Trigger": Method(Emit, emit),
    "TriggerBatch": Method(EmitBatch, trigger_batch),
    "TriggerSync": Method(Emit, trigger_sync),
    "InvokeFunction": Method(Invoke, invoke_function),
    "InvokeFunctionSync": Method(Invoke, invoke_function_sync),
}
