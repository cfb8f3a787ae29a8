"""The actor that brings events to whoever wants them: functions that an event starts, runs that
wait for it.

One commit holds the event, the runs that it creates (as durable messages) and its deliveries. Each
run has an id derived from the event and the function, so that whatever is repeated creates nothing
twice.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import msgspec

from ironflow.actors.environment import Environment
from ironflow.actors.events.waiters import Waiter
from ironflow.actors.kernel.actor import LATER, Actor, Ensure, Envelope
from ironflow.actors.kernel.outbox import encode_row, with_delivery
from ironflow.core.clock import derive_id, to_rfc3339
from ironflow.core.errors import Gone, IdempotencyConflict, IronflowError, StorageError
from ironflow.core.expressions.patterns import PatternIndex
from ironflow.core.functions.definition import FunctionSpec
from ironflow.core.functions.intake import intake_of
from ironflow.core.messages import Message
from ironflow.core.runs import commands as c
from ironflow.core.runs.entries import EventFacts, EventRef
from ironflow.core.values.codec import convert_input, encode_plain
from ironflow.core.values.payloads import Payload, pack
from ironflow.storage.ports import (
    BLOB_REFS,
    BLOBS,
    DELIVERIES,
    EVENTS,
    Batch,
    EventFilter,
    EventRow,
    NewEntry,
)

log = logging.getLogger("ironflow.events")
R = TypeVar("R")

PAGE = 200
"""Events that are read at once when looking back."""

RETRY_AFTER = 1.0
"""Seconds until something that the journal refused is tried again."""

REMEMBERED = 10_000
"""Events whose ids are held in memory, to answer a repeated emit before the first one is
readable.
"""


class EventEmitted(msgspec.Struct, frozen=True, omit_defaults=True):
    """The entry of an event's stream."""

    name: str
    data: Payload
    source: str
    data_hash: str = ""
    idempotency_key: str | None = None
    facts: EventFacts | None = None
    runs: tuple[str, ...] = ()
    """Runs that it started at once."""
    delivered: tuple[str, ...] = ()
    functions: tuple[str, ...] = ()
    """The functions of `runs`."""
    intakes: tuple[str, ...] = ()
    """Functions whose flow control decides what becomes of it: see the table of outcomes."""
    filtered: tuple[str, ...] = ()
    """Functions with a trigger for its name whose filter it did not pass."""
    function_id: str | None = None
    """The only function that it was for."""


class FunctionsChanged(Message[None], frozen=True):
    """The functions that this process serves have changed."""


def _starts(send: c.Send) -> bool:
    """Whether a request is a run at once."""
    return isinstance(send.message, c.CreateRun)


class Router(Actor):
    """There is one. Understands `EmitEvent`, `LookBack` and `FunctionsChanged`."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self.triggers: PatternIndex[tuple[FunctionSpec, int]] = PatternIndex()
        self.recent: dict[str, tuple[c.Emitted, str, tuple[str, ...]]] = {}
        """By event: what was answered, the hash of its data, the intakes that were asked."""
        self.chores: dict[asyncio.Task[None], None] = {}

    async def start(self) -> None:
        """Load who waits."""
        self._index_triggers()
        for row in await self.environment.store.reader.waiters():
            if self.environment.waiters.get(row.run_id, row.step) is None:
                self.environment.waiters.add(row.run_id, row.step, row.event, row.match)

    def stop(self) -> None:
        """Let go of what is under way; durable messages are found again in the outbox."""
        for chore in self.chores:
            chore.cancel()

    def receive(self, message: Message[Any], envelope: Envelope) -> object:
        """Understands the messages of this module and `EmitEvent`."""
        match message:
            case c.EmitEvent():
                if message.data.blob is not None and message.blob is None:
                    self._spawn(self._load(message))
                    return None
                return self._emit(message, envelope)
            case c.LookBack():
                self._spawn(self._look_back(message))
                return None
            case FunctionsChanged():
                self._index_triggers()
                return None
            case _:
                return super().receive(message, envelope)

    def _index_triggers(self) -> None:
        self.triggers = PatternIndex()
        for spec in self.environment.host.specs():
            for number, (trigger, _) in enumerate(spec.filters):
                self.triggers.add(trigger.event, (spec, number))

    # -- emit -------------------------------------------------------------------------------------

    async def _load(self, command: c.EmitEvent) -> None:
        """Fetch what a durable message refers to: filters look into the data."""
        blob = await self._patiently(
            lambda: self.environment.store.reader.blob(command.data.blob or "")
        )
        if blob is None:
            log.error("the data of event %s is lost; it is not emitted", command.id)
            return
        self.system.ref("router").post(msgspec.structs.replace(command, blob=blob))

    async def _patiently(self, attempt: Callable[[], Awaitable[R]]) -> R:
        """The outcome of `attempt`, made again while the journal cannot be read or written."""
        while True:
            try:
                return await attempt()
            except (StorageError, Gone) as error:
                if self.system.is_stopped:
                    raise
                log.warning("events wait for the journal: %s", error)
                await asyncio.sleep(RETRY_AFTER)

    def _emit(self, command: c.EmitEvent, envelope: Envelope) -> object:
        env, batch = self.environment, Batch([], [], [])
        if command.delivery is not None:
            batch.deletes.append((DELIVERIES, (command.delivery,)))
        known = self.recent.get(command.id)
        if known is not None:
            emitted, data_hash, asked = known
            if data_hash != command.data_hash:
                raise IdempotencyConflict(
                    command.idempotency_key or command.id, f"event {command.id}"
                )
            again = msgspec.structs.replace(emitted, created=False)
            return self._commit(batch, envelope, command, again, [], [], asked=asked)
        at = command.at or env.clock.now()
        event = self._describe(command, at)
        matched, filtered = self._match(event, command.function_id)
        creates = [self._request(spec, command, event["data"], at) for spec in matched]
        starts = [spec.id for spec, send in zip(matched, creates, strict=True) if _starts(send)]
        alone = command.function_id is not None
        waiters = [] if alone else self.environment.waiters.take(event)
        delivers = self._deliveries(event, waiters, batch)
        run_ids = tuple(send.target.removeprefix("run/") for send in creates if _starts(send))
        entry = EventEmitted(
            command.name,
            command.data,
            command.source,
            command.data_hash,
            command.idempotency_key,
            command.facts,
            run_ids,
            tuple(send.target.removeprefix("run/") for send in delivers),
            tuple(starts),
            tuple(spec.id for spec in matched if spec.id not in starts),
            tuple(filtered),
            command.function_id,
        )
        stream = f"event/{command.id}"
        batch.entries.append(NewEntry(stream, 1, at, "event.emitted", msgspec.json.encode(entry)))
        row = (command.id, command.name, at, command.source, command.idempotency_key)
        batch.puts.append((EVENTS, row))
        if command.data.blob is not None:
            batch.puts.append((BLOB_REFS, (stream, command.data.blob)))
            if command.blob is not None:
                batch.puts.append((BLOBS, (command.data.blob, len(command.blob), command.blob)))
        emitted = c.Emitted(command.id, run_ids, True, entry.intakes)
        intakes = tuple(send.target for send in creates if not _starts(send))
        self._remember(emitted, command.data_hash, intakes)
        for function_id in filtered:
            env.count_fate(function_id, "filtered")
        return self._commit(batch, envelope, command, emitted, creates, delivers, waiters)

    def _remember(self, emitted: c.Emitted, data_hash: str, intakes: tuple[str, ...]) -> None:
        self.recent[emitted.event_id] = (emitted, data_hash, intakes)
        while len(self.recent) > REMEMBERED:
            del self.recent[next(iter(self.recent))]

    def _commit(
        self,
        batch: Batch,
        envelope: Envelope,
        command: c.EmitEvent,
        emitted: c.Emitted,
        creates: list[c.Send],
        delivers: list[c.Send],
        taken: Sequence[Waiter] = (),
        asked: Sequence[str] = (),
    ) -> object:
        env, now = self.environment, self.environment.clock.now()
        sends = []
        for number, send in enumerate([*creates, *delivers]):
            delivery = f"event/{command.id}/{number}"
            batch.puts.append((DELIVERIES, encode_row(send, delivery, now)))
            sends.append((send.target, delivery, with_delivery(send.message, delivery)))

        def committed(error: Exception | None) -> None:
            if self.cell.actor is not self:
                return
            if error is not None:
                # Nothing was written: who asks again must not be told that it was.
                self.recent.pop(command.id, None)
                for waiter in taken:
                    env.waiters.put_back(waiter)
                self.cell.refuse(envelope, error)
                if command.delivery is not None:
                    env.system.later(RETRY_AFTER, env.system.ref("router"), command)
                return
            if command.delivery is not None:
                env.outbox.consumed("router/", command.delivery)
            for send in sends:
                env.outbox.post(*send)
            targets = [send.target for send in creates] or asked
            if targets and envelope.reply is not None:
                self._spawn(self._answer(envelope, emitted, targets))
            else:
                self.cell.answer(envelope, emitted)

        env.store.journal.append(batch, committed)
        return LATER

    async def _answer(self, envelope: Envelope, emitted: c.Emitted, targets: Sequence[str]) -> None:
        """Answer once the runs can be read, so that whoever holds their ids finds them, and what
        became of the event at intakes.
        """
        for target in targets:
            try:
                # First in, first out: this is answered once the creation is on its way to the disk.
                await self.system.at(target).ask(Ensure(), trusted=True)
            except (IronflowError, TimeoutError) as error:
                log.warning("%s of event %s is delayed: %s", target, emitted.event_id, error)
        await self.environment.store.journal.flush()
        self.cell.answer(envelope, emitted)

    def _describe(self, command: c.EmitEvent, at: int) -> dict[str, Any]:
        raw = command.data.json if command.data.json is not None else command.blob
        return {
            "id": command.id,
            "name": command.name,
            "data": convert_input(raw, None) if raw is not None else None,
            "at": to_rfc3339(at),
            "source": command.source,
        }

    def _match(
        self, event: dict[str, Any], only: str | None
    ) -> tuple[list[FunctionSpec], list[str]]:
        """The functions that the event starts, each once, and those whose filter it does not
        pass.
        """
        if only is not None:
            spec = self.environment.host.spec(only)
            return [] if spec is None else [spec], []
        found: dict[str, FunctionSpec] = {}
        filtered: dict[str, None] = {}
        for spec, number in self.triggers.find(event["name"]):
            expression = spec.filters[number][1]
            if expression is None or expression.matches({"event": event, "data": event["data"]}):
                found[spec.id] = spec
            else:
                filtered[spec.id] = None
        return list(found.values()), [name for name in filtered if name not in found]

    def _request(self, spec: FunctionSpec, command: c.EmitEvent, data: object, at: int) -> c.Send:
        """What the event asks of a function: a run at once, or whatever its flow control makes of
        it.
        """
        run_id = derive_id("event", command.id, spec.id)
        create = c.CreateRun(
            function_id=spec.id,
            input=command.data,
            input_hash=command.data_hash,
            options=spec.definition.options,
            code=spec.definition.code,
            event=EventRef(command.id, command.name, command.facts),
        )
        intake = intake_of(spec.definition, data)
        if intake is None:
            return c.Send(f"run/{run_id}", create)
        control, key = spec.definition.flow_control, intake.key
        message: Message[Any]
        if control.debounce is not None:
            message = c.Defer(key=key, policy=control.debounce, run_id=run_id, create=create, at=at)
        elif control.batch is not None:
            message = c.Collect(
                key=key,
                policy=control.batch,
                run_id=run_id,
                create=create,
                at=at,
                source=command.source,
            )
        else:
            assert control.singleton is not None
            message = c.Admit(key=key, mode=control.singleton.mode, run_id=run_id, create=create)
        return c.Send(intake.address, message)

    def _deliveries(
        self, event: dict[str, Any], waiters: Sequence[Waiter], batch: Batch
    ) -> list[c.Send]:
        if not waiters:
            return []
        payload, blob = pack(encode_plain(event, "event"))
        if blob is not None:
            batch.puts.append((BLOBS, (payload.blob, len(blob), blob)))
            batch.puts.append((BLOB_REFS, (f"event/{event['id']}", payload.blob)))
        return [
            c.Send(
                f"run/{waiter.run_id}",
                c.EventDelivered(step=waiter.step, event_id=event["id"], event=payload),
            )
            for waiter in waiters
        ]

    # -- look back --------------------------------------------------------------------------------

    async def _look_back(self, message: c.LookBack) -> None:
        """Bring the waiter the earliest event of the past that it would take; only then is the
        message consumed.
        """
        await self._patiently(self.environment.store.journal.flush)
        waiter = self.environment.waiters.get(message.run_id, message.step)
        if waiter is not None:
            found = await self._patiently(lambda: self._earliest(waiter, message.since))
            if found is not None:
                payload, blob = pack(encode_plain(found, "event"))
                delivered = c.EventDelivered(
                    step=message.step, event_id=found["id"], event=payload, blob=blob
                )
                run = self.system.ref("run", message.run_id)
                await self._patiently(lambda: run.ask(delivered, None, trusted=True))
        if message.delivery is not None:
            delivery = message.delivery
            done = Batch([], [], [(DELIVERIES, (delivery,))])
            await self._patiently(lambda: self.environment.store.journal.commit(done))
            self.environment.outbox.consumed("router/", delivery)

    async def _earliest(self, waiter: Waiter, since: int) -> dict[str, Any] | None:
        reader = self.environment.store.reader
        found: dict[str, Any] | None = None
        before: tuple[int, str] | None = None
        exact = () if "*" in waiter.event or ">" in waiter.event else (waiter.event,)
        index: PatternIndex[bool] = PatternIndex()
        index.add(waiter.event, True)
        while True:
            rows = await reader.events(EventFilter(names=exact, since=since), PAGE, before)
            for row in rows:
                if index.find(row.name):
                    view = await self._view(row)
                    if waiter.accepts(view):
                        found = view
            if len(rows) < PAGE:
                return found
            before = (rows[-1].at, rows[-1].id)

    async def _view(self, row: EventRow) -> dict[str, Any]:
        """A stored event as waiters see it."""
        event = msgspec.json.decode(row.data, type=EventEmitted)
        raw = event.data.json
        if raw is None and event.data.blob is not None:
            raw = await self.environment.store.reader.blob(event.data.blob)
        return {
            "id": row.id,
            "name": row.name,
            "data": convert_input(raw, None) if raw is not None else None,
            "at": to_rfc3339(row.at),
            "source": row.source,
        }

    def _spawn(self, work: Any) -> None:
        chore = self.system.loop.create_task(work)
        self.chores[chore] = None
        chore.add_done_callback(self._chore_ended)

    def _chore_ended(self, chore: asyncio.Task[None]) -> None:
        self.chores.pop(chore, None)
        if not chore.cancelled() and (error := chore.exception()) is not None:
            log.error("events: %r; durable messages are tried again at the next start", error)
