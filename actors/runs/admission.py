"""A run before it exists: what its function's definition adds to it, and whether it is let in.

Events, schedules and parents ask for a run by a message to its own actor. The definition decides
here, once for all of them: a run of a singleton function is made by its gate alone, and what takes
batches is given a list.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import msgspec

from ironflow.actors.kernel.actor import LATER, Envelope
from ironflow.actors.kernel.outbox import encode_row, with_delivery
from ironflow.actors.slots.windows import Start
from ironflow.core.clock import SECOND, to_rfc3339
from ironflow.core.durations import format_duration
from ironflow.core.errors import StorageError
from ironflow.core.functions.affinity import actor_of
from ironflow.core.functions.definition import Definition, FunctionSpec
from ironflow.core.functions.intake import gate_of
from ironflow.core.functions.lanes import Rank
from ironflow.core.messages import Message
from ironflow.core.runs import commands as c
from ironflow.core.runs.effects import Barred
from ironflow.core.values.payloads import pack
from ironflow.storage.ports import BLOB_REFS, BLOBS, DELIVERIES, Batch

if TYPE_CHECKING:
    from ironflow.actors.runs.run import RunActor

log = logging.getLogger("ironflow.runs")

RATE_RETRY = SECOND
"""Microseconds after which a rate limit is asked again whose runs are still being made."""
FETCH_AGAIN = 1.0
"""Seconds until an input that could not be read is read again."""


def prepare(
    actor: RunActor, message: Message[Any], envelope: Envelope
) -> tuple[Message[Any] | None, object]:
    """The message to decide about now; None with what `receive` returns when it is handed on, or
    comes again once the run's input has been read.
    """
    if isinstance(message, c.CancelRun):
        if actor.asked is None:
            return message, None
        # The run is about to be let in: it is told to end after that.
        cancel = msgspec.structs.replace(message, delivery=None)
        withdraw = c.Withdraw(run_id=actor.key, cancel=cancel)
        send = c.Send(actor.asked, withdraw)
        return None, _forward(actor, send, message, envelope, "cancelled")
    assert isinstance(message, c.CreateRun)
    spec = actor.environment.host.spec(message.function_id)
    if spec is None:
        return message, None
    definition, control = spec.definition, spec.definition.flow_control
    if message.input.blob is not None and message.blob is None and _looks_in(spec, message):
        return None, _fetch_input(actor, message)
    if control.singleton is not None and message.gate is None:
        return None, _ask_gate(actor, definition, message, envelope)
    if control.batch is not None and not message.events:
        message = _as_batch(message)
    return _complete(actor, spec, message), None


def _complete(actor: RunActor, spec: FunctionSpec, command: c.CreateRun) -> c.CreateRun:
    """Fill in what the function's definition says, for runs that events, schedules and parents
    create.
    """
    definition, facts = spec.definition, dict[str, Any]()
    if command.options is None:
        facts = {"options": definition.options, "code": definition.code}
    if definition.kind == "workflow":
        facts["kind"] = "workflow"
        if command.parent is None and command.handler is None:
            facts["handler"] = actor.key
    if spec.policies is not None:
        rank = spec.policies.rank(_input(command), command.event)
        facts |= {"lanes": rank.lanes, "priority": rank.priority, "share": rank.share}
        _count(actor, definition.id, rank)
    if definition.actor_key is not None:
        facts["actor"] = actor_of(definition.actor_key, _input(command))
    return msgspec.structs.replace(command, **facts) if facts else command


def _count(actor: RunActor, function_id: str, rank: Rank) -> None:
    """See whether flow control lets the run be made, and let it count."""
    situation, windows = actor.situation, actor.environment.pool.windows
    if rank.unresolved is not None:
        reason = f"the input has no value at {rank.unresolved!r}, the key of the throttle"
        situation.barred = Barred(reason)
    elif rank.rate is not None and windows.room(rank.rate) < 1:
        opens_at = windows.opens_at(rank.rate) or situation.now + RATE_RETRY
        limit, period = windows.terms(rank.rate)
        reason = (
            f"skipped: the rate limit of {function_id} ({limit} in "
            f"{format_duration(period / SECOND)}, {rank.rate}) is used up until "
            f"{to_rfc3339(opens_at)}"
        )
        situation.barred = Barred(reason, opens_at)
    elif rank.rate is not None:
        windows.reserve(rank.rate, actor.key)
        actor.counts.append(Start(rank.rate, situation.now, actor.key))


def _input(command: c.CreateRun) -> bytes | None:
    return command.input.json if command.input.json is not None else command.blob


def _looks_in(spec: FunctionSpec, command: c.CreateRun) -> bool:
    """Whether what is in the input decides anything before the run exists: who lets it in, which
    events cancel it, its place among others.
    """
    control = spec.definition.flow_control
    options = command.options if command.options is not None else spec.definition.options
    gated = control.singleton is not None and command.gate is None
    return (
        bool(options.cancel_on)
        or (spec.policies is not None and spec.policies.reads_input)
        or spec.definition.actor_key is not None
        or (gated and control.singleton is not None and control.singleton.key is not None)
        or (control.batch is not None and not command.events)
    )


async def _fetch_input(actor: RunActor, command: c.CreateRun) -> None:
    """A durable message refers to a large input, and something depends on what is in it."""
    me = actor.system.at(actor.address)
    try:
        blob = await actor.environment.store.reader.blob(command.input.blob or "")
    except StorageError as error:
        log.warning("the input of run %s cannot be read now: %s", actor.key, error)
        actor.system.later(FETCH_AGAIN, me, command)
        return
    if blob is None:
        log.error("the input of run %s is lost; it is not created", actor.key)
        return
    me.post(msgspec.structs.replace(command, blob=blob))


def _as_batch(command: c.CreateRun) -> c.CreateRun:
    """The run as a batch of one."""
    payload, blob = pack(b"[%b]" % (_input(command) or b"null"))
    return msgspec.structs.replace(command, input=payload, blob=blob)


def _ask_gate(
    actor: RunActor, definition: Definition, command: c.CreateRun, envelope: Envelope
) -> object:
    """Ask the singleton whether the run may be; it makes it."""
    singleton = definition.flow_control.singleton
    assert singleton is not None
    raw = _input(command)
    gate = gate_of(definition, msgspec.json.decode(raw) if raw and singleton.key else None)
    assert gate is not None
    actor.asked = gate.address
    create = msgspec.structs.replace(command, delivery=None, blob=None)
    admit = c.Admit(key=gate.key, mode=singleton.mode, run_id=actor.key, create=create)
    batch = Batch([], [], [])
    if command.blob is not None and command.input.blob is not None:
        digest = command.input.blob
        batch.puts.append((BLOBS, (digest, len(command.blob), command.blob)))
        batch.puts.append((BLOB_REFS, (actor.address, digest)))
    reply = c.Created(actor.key, True, "queued")
    return _forward(actor, c.Send(gate.address, admit), command, envelope, reply, batch)


def _forward(
    actor: RunActor,
    send: c.Send,
    cause: c.CreateRun | c.CancelRun,
    envelope: Envelope,
    reply: object,
    batch: Batch | None = None,
) -> object:
    """Hand on to a singleton what was said to a run that does not exist yet."""
    batch = batch or Batch([], [], [])
    env, delivery = actor.environment, cause.delivery
    name = f"{actor.address}/{c.DELIVERY_KINDS[type(send.message)]}"
    if delivery is not None:
        batch.deletes.append((DELIVERIES, (delivery,)))
    batch.puts.append((DELIVERIES, encode_row(send, name, env.clock.now())))

    def committed() -> None:
        if delivery is not None:
            env.outbox.consumed(actor.address, delivery)
        env.outbox.post(send.target, name, with_delivery(send.message, name))

    actor.commit(batch, envelope, reply, committed)
    return LATER
