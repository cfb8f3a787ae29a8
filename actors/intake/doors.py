"""The doors of intakes: requests for runs that must wait for others or are let in one at a time,
and what an operator may say of what waits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from ironflow.actors.environment import Environment
from ironflow.actors.events.emissions import emit
from ironflow.actors.intake.actor import IntakeActor
from ironflow.actors.intake.pending import BatchActor, DebounceActor
from ironflow.actors.intake.singleton import SingletonActor
from ironflow.actors.kernel.actor import Ensure
from ironflow.core.errors import Conflict, FailedPrecondition
from ironflow.core.expressions.patterns import PatternIndex
from ironflow.core.functions.definition import Definition
from ironflow.core.functions.intake import defers, gate_of
from ironflow.core.runs import commands as c
from ironflow.core.runs.state import Run, RunStatus
from ironflow.core.values.codec import convert_input

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ironflow.actors.engine import Engine

INVOCATION = "ironflow.invoke"
"""The name of the event that an invocation is when it must wait for others."""

ACTORS: dict[str, Callable[[Environment], IntakeActor[Any]]] = {
    "debounce": DebounceActor,
    "batch": BatchActor,
    "singleton": SingletonActor,
}
"""The actors of intakes, by the kind in their addresses."""


def not_waitable(definition: Definition) -> FailedPrecondition:
    """Why there is no run to wait for."""
    return FailedPrecondition(
        f"function {definition.id} is {defers(definition)}: its runs start later and with other "
        "events, so there is no run to wait for; ask for it without waiting"
    )


class Intakes:
    """What the engine asks of intakes for its callers."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def defer(
        self, definition: Definition, data: bytes, idempotency_key: str | None
    ) -> c.Created:
        """An invocation that is debounced or batched: an event for this function alone.

        Raises `Conflict` when nothing serves the function: nobody could say when it runs.
        """
        engine, fate = self._engine, defers(definition)
        assert fate is not None
        spec = engine.host.spec(definition.id)
        if spec is None:
            raise Conflict(f"function {definition.id} is {fate}, and nothing serves it now")
        spec.check_request(data)
        emitted = await emit(engine, definition.id, INVOCATION, data, idempotency_key, "invoke")
        due_at = next((outcome.due_at for outcome in emitted.outcomes), None)
        return c.Created("", emitted.created, fate, fate, due_at, emitted.event_id)

    async def admit(self, definition: Definition, run_id: str, command: c.CreateRun) -> c.Created:
        """Have the function's singleton let a run in, or give the one that is there."""
        engine = self._engine
        singleton, run = definition.flow_control.singleton, engine.system.ref("run", run_id)
        assert singleton is not None
        if command.idempotency_key is not None:
            if await engine.store.reader.run(run_id) is not None:
                return await run.ask(command)
            for known in await engine.store.reader.outcomes([run_id]):
                if known.fate == "skipped":
                    return await self._skipped(known.run_id)
        raw = command.input.json if command.input.json is not None else command.blob
        gate = gate_of(definition, msgspec.json.decode(raw) if raw and singleton.key else None)
        assert gate is not None
        admit = c.Admit(key=gate.key, mode=singleton.mode, run_id=run_id, create=command)
        admitted = await engine.system.at(gate.address).ask(admit)
        if admitted.fate == "skipped":
            return await self._skipped(admitted.run_id)
        # Its creation was posted before the answer came: this finds it there, or is told that the
        # key was used with other input.
        created = await run.ask(command)
        return msgspec.structs.replace(created, created=admitted.created)

    async def _skipped(self, run_id: str) -> c.Created:
        row = await self._engine.store.reader.run(run_id)
        return c.Created(run_id, False, row.status if row is not None else "queued", "skipped")

    async def readmit(self, run: Run, retry: c.RetryRun) -> str:
        """Have a run of a singleton function let in again; its status. Raises `Conflict` when it
        has not failed, or while another one is under way.
        """
        engine = self._engine
        if run.status not in (RunStatus.FAILED, RunStatus.CANCELLED):
            raise Conflict(f"run {run.id} has not failed: {run.status.value}")
        assert run.gate is not None
        status = await engine.system.at(run.gate).ask(c.Readmit(run_id=run.id, retry=retry))
        await self.until_recorded(run.id)
        return status

    def check_waitable(self, name: str, data: bytes) -> None:
        """Refuse an event whose runs somebody wants to wait for, when a function that it would
        start is debounced or takes batches. Raises `FailedPrecondition`, `InvalidInput`.
        """
        value = convert_input(data, None, "data")
        event = {"id": "", "name": name, "data": value, "at": "", "source": "api"}
        for spec in self._engine.host.specs():
            if defers(spec.definition) is None:
                continue
            for trigger, expression in spec.filters:
                index: PatternIndex[bool] = PatternIndex()
                index.add(trigger.event, True)
                if index.find(name) and (
                    expression is None or expression.matches({"event": event, "data": value})
                ):
                    raise not_waitable(spec.definition)

    async def start(self, address: str) -> c.Outcome:
        """Start now what waits with an intake. Raises `NotFound` when nothing does, `Draining`."""
        self._engine.check_open()
        outcome = await self._engine.system.at(address).ask(c.StartPending())
        await self.until_recorded(outcome.run_id)
        return outcome

    async def drop(self, address: str, reason: str) -> c.Outcome:
        """Forget what waits with an intake. Raises `NotFound` when nothing does."""
        return await self._engine.system.at(address).ask(c.DropPending(reason))

    async def until_recorded(self, run_id: str) -> None:
        """Return when what was posted to a run before can be read."""
        await self._engine.system.ref("run", run_id).ask(Ensure(), trusted=True)
        await self._engine.store.journal.flush()
