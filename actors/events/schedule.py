"""The actor of one function's cron schedule: one durable timer for the nearest time, never a poll.

Each time creates a run whose id is derived from the function and the time, so that a time fires
once. Times that passed while nothing was running are made up for by one run, for the newest of
them.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from ironflow.actors.kernel.actor import LATER, Ensure, Envelope
from ironflow.actors.kernel.outbox import encode_row, with_delivery
from ironflow.actors.stream import Renew, StreamActor
from ironflow.core.clock import to_rfc3339
from ironflow.core.functions.definition import Cron
from ironflow.core.messages import Message
from ironflow.core.remote.pull import CRON_EVENT
from ironflow.core.runs import commands as c
from ironflow.core.runs.entries import EventRef
from ironflow.core.values.payloads import pack
from ironflow.storage.ports import DELIVERIES, Batch, NewEntry

TIMER = "fire"
MISSED_AT_MOST = 10_000


class ScheduleSet(msgspec.Struct, frozen=True):
    """The schedule began or changed; `next_at` is its next time. Without a cron it has ended."""

    cron: Cron | None
    next_at: int | None


class ScheduleFired(msgspec.Struct, frozen=True, omit_defaults=True):
    """A run was created for the time `at`; `skipped` earlier ones had been missed."""

    at: int
    run_id: str
    next_at: int
    skipped: int = 0


_KINDS: dict[type, str] = {ScheduleSet: "schedule.set", ScheduleFired: "schedule.fired"}
_TYPES = {kind: struct for struct, kind in _KINDS.items()}


class ScheduleState(msgspec.Struct):
    """The fold of the stream."""

    cron: Cron | None = None
    next_at: int | None = None
    version: int = 0

    def apply(self, entry: ScheduleSet | ScheduleFired) -> None:
        """Change by one entry."""
        self.version += 1
        self.next_at = entry.next_at
        if isinstance(entry, ScheduleSet):
            self.cron = entry.cron


class ScheduleActor(StreamActor):
    """The schedule of the function that is the actor's key. `Ensure` brings it in line with the
    definition.
    """

    state: ScheduleState

    async def start(self) -> None:
        """Fold the stream."""
        loaded = await self.environment.store.reader.load(self.address)
        self.state = ScheduleState()
        if loaded.snapshot is not None:
            self.state = msgspec.json.decode(loaded.snapshot.data, type=ScheduleState)
            self.snapshot_version = loaded.snapshot.version
        for entry in loaded.entries:
            self.state.apply(msgspec.json.decode(entry.data, type=_TYPES[entry.kind]))
        if self.cell.restarts:
            self.renew_later()

    def receive(self, message: Message[Any], envelope: Envelope) -> object:
        """Understands `Ensure` and its timer."""
        match message:
            case Ensure():
                return self._follow_definition(envelope)
            case c.TimerFired():
                return self._fire(envelope)
            case Renew():
                self.arm(TIMER, self.state.next_at)
                return None
            case _:
                return super().receive(message, envelope)

    def _follow_definition(self, envelope: Envelope) -> object:
        spec = self.environment.host.spec(self.key)
        cron = spec.definition.cron if spec is not None else None
        if cron == self.state.cron:
            return None
        now = self.environment.clock.now()
        next_at = spec.schedule.next_after(now) if spec is not None and spec.schedule else None
        batch = Batch([], [], [])
        self._record(batch, ScheduleSet(cron, next_at), now)
        self.commit(batch, envelope, None, lambda: self.arm(TIMER, next_at))
        return LATER

    def _fire(self, envelope: Envelope) -> object:
        spec, state, now = (
            self.environment.host.spec(self.key),
            self.state,
            self.environment.clock.now(),
        )
        if spec is None or spec.schedule is None or state.next_at is None:
            return None  # nothing serves the function now: the row rings again at the next start
        if state.next_at > now:
            self.arm(TIMER, state.next_at)
            return None
        missed = spec.schedule.between(state.next_at, now, MISSED_AT_MOST)
        at = max([state.next_at, *missed])
        next_at = spec.schedule.next_after(max(at, now))
        run_id = self.environment.derive_id("schedule", self.key, str(at))
        data = msgspec.json.encode({"scheduled_at": to_rfc3339(at)})
        payload, _ = pack(data)
        create = c.CreateRun(
            function_id=self.key,
            input=payload,
            input_hash=hashlib.sha256(data).hexdigest(),
            options=spec.definition.options,
            code=spec.definition.code,
            event=EventRef(run_id, CRON_EVENT),
        )
        batch = Batch([], [], [])
        skipped = max(sum(1 for time in missed if time < at), 0)
        self._record(batch, ScheduleFired(at, run_id, next_at, skipped), now)
        delivery = f"{self.address}/{state.version}/0"
        send = c.Send(f"run/{run_id}", create)
        batch.puts.append((DELIVERIES, encode_row(send, delivery, now)))

        def committed() -> None:
            self.arm(TIMER, next_at)
            self.environment.outbox.post(send.target, delivery, with_delivery(create, delivery))

        self.commit(batch, envelope, None, committed)
        return LATER

    def _record(self, batch: Batch, entry: ScheduleSet | ScheduleFired, now: int) -> None:
        self.state.apply(entry)
        version = self.state.version
        batch.entries.append(
            NewEntry(self.address, version, now, _KINDS[type(entry)], msgspec.json.encode(entry))
        )
        self.set_timer(batch, TIMER, entry.next_at, version)
        if self.snapshot_is_due(version):
            self.add_snapshot(batch, version, msgspec.json.encode(self.state))
