"""The engine: every actor of one process and the doors that faces use. Writes go to actors, reads
to storage.

`start` brings back everything that the journal says is unfinished before anything new is taken;
`begin_drain` has nothing new taken, while the bodies that execute go on; `stop` closes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial

from ironflow.actors.directory.catalog import Catalog
from ironflow.actors.directory.keyring import Keyring
from ironflow.actors.directory.registrar import Registrar
from ironflow.actors.endpoints.breakers import IDLE_AFTER, BreakerActor
from ironflow.actors.endpoints.endpoints import Endpoints
from ironflow.actors.environment import Environment
from ironflow.actors.events.emissions import check_key, digest, emit
from ironflow.actors.events.router import Router
from ironflow.actors.events.schedule import ScheduleActor
from ironflow.actors.hosts import Hosts, Slots
from ironflow.actors.intake.doors import ACTORS, Intakes, not_waitable
from ironflow.actors.janitor import Janitor
from ironflow.actors.kernel.actor import Behavior, Ref
from ironflow.actors.kernel.outbox import Outbox
from ironflow.actors.kernel.system import System
from ironflow.actors.kernel.timers import Timers
from ironflow.actors.prefect.doors import Prefect
from ironflow.actors.prefect.feeds import KEEP, Feeds
from ironflow.actors.prefect.flow_events import FlowEvents
from ironflow.actors.prefect.history import fold as fold_flow_run
from ironflow.actors.recovery import recover
from ironflow.actors.runs.endings import Endings
from ironflow.actors.runs.rows import fold
from ironflow.actors.runs.run import RunActor
from ironflow.actors.slots.pool import Pool
from ironflow.actors.workers.fleet import Fleet
from ironflow.actors.workers.queue import LEASE
from ironflow.actors.workers.worker import WorkerActor
from ironflow.actors.workflows.doors import Workflows
from ironflow.actors.workflows.handlers import HandlerActor
from ironflow.core.access.directory import DEFAULT_ENVIRONMENT
from ironflow.core.blockages import Blockages
from ironflow.core.clock import Clock, Ids
from ironflow.core.errors import (
    Conflict,
    Draining,
    Gone,
    NotFound,
)
from ironflow.core.expressions.patterns import validate_event_name
from ironflow.core.functions.definition import Definition
from ironflow.core.functions.intake import defers
from ironflow.core.functions.lanes import Policies
from ironflow.core.functions.secrets import NoSecrets, SecretSource
from ironflow.core.prefect.lists import as_run
from ironflow.core.prefect.runs import History
from ironflow.core.prefect.runs import is_ours as is_of_flow_run
from ironflow.core.remote.push import Caller
from ironflow.core.runs import commands as c
from ironflow.core.runs.effects import MAX_CRASHES
from ironflow.core.runs.entries import EventFacts
from ironflow.core.runs.execution import Host
from ironflow.core.runs.state import Run
from ironflow.core.values.payloads import Payload, pack
from ironflow.storage.ports import (
    FunctionRow,
    RetentionRule,
    Store,
)

log = logging.getLogger("ironflow")

MAX_DEPTH = 32
"""How deep runs may invoke runs."""


class Engine:
    """Durable functions over one store. Made by the assembly; everything below runs on one event
    loop.
    """

    def __init__(
        self,
        store: Store,
        host: Host,
        clock: Clock,
        ids: Ids,
        *,
        capacity: int = 1000,
        max_crashes: int = MAX_CRASHES,
        retention: Sequence[RetentionRule] = (),
        lease: float = LEASE,
        actor_wait: float = 0.0,
        caller: Caller | None = None,
        keep_prefect_events: float = KEEP,
        system: System | None = None,
        on_fatal: Callable[[str], None] | None = None,
        salt: tuple[str, ...] = (),
        environment_id: str = DEFAULT_ENVIRONMENT,
        secrets: SecretSource | None = None,
    ) -> None:
        """`capacity`: bodies that execute at once; others wait in the order in which they came.
        `lease`: seconds that a worker keeps a job unheard; `actor_wait`: seconds that a run waits
        for its actor's worker while that is full, 0 for as long as it takes; `caller` sends
        requests to endpoints; `keep_prefect_events` in seconds;
        `salt`: see `Environment`; `environment_id` is what it is called where that is told;
        `secrets` are for functions that are executed elsewhere.
        """
        self.environment_id = environment_id
        self.store, self.clock, self.ids = store, clock, ids
        self.system = system or System(clock, ids, on_fatal=on_fatal)
        self.fleet = Fleet(clock, self.system, self._grant, self._knows, lease, actor_wait)
        self.endpoints = Endpoints(clock, self.system, self._grant, self._knows, caller)
        self.secrets = secrets or NoSecrets()
        self.fleet.secrets = self.endpoints.secrets = self.secrets
        self.host = Hosts(host, self.fleet, self.endpoints)
        pool = Pool(capacity, lambda fid: host.spec(fid) is not None, self._grant)
        self.pool = Slots(
            pool, self.fleet, self.endpoints, self._policies_of, clock, self.system.call_later
        )
        self.timers = Timers(clock, self._ring)
        self.environment = Environment(
            store=store,
            clock=clock,
            ids=ids,
            host=self.host,
            system=self.system,
            pool=self.pool,
            timers=self.timers,
            outbox=Outbox(self.system),
            max_crashes=max_crashes,
            salt=salt,
        )
        self.blockages = Blockages()
        """What has held up the event loop, for whoever watches it to tell."""
        self.started = False
        """Whether everything that was unfinished has been brought back."""
        self.draining = False
        self._register_kinds(retention)
        self.router = self.system.ref("router")
        self._add_doors(keep_prefect_events)

    def _register_kinds(self, retention: Sequence[RetentionRule]) -> None:
        """Every kind of actor."""
        make = self.environment
        self.system.register(Behavior("run", partial(RunActor, make), bound=10_000))
        self.system.register(Behavior("handler", partial(HandlerActor, make)))
        self.system.register(Behavior("schedule", partial(ScheduleActor, make)))
        for kind, actor in ACTORS.items():
            self.system.register(Behavior(kind, partial(actor, make), bound=100_000))
        self.system.register(
            Behavior("router", partial(Router, make), bound=100_000, idle_after=None)
        )
        self.system.register(
            Behavior("janitor", partial(Janitor, make, retention), idle_after=None)
        )
        self.system.register(
            Behavior("breaker", partial(BreakerActor, make, self.endpoints), idle_after=IDLE_AFTER)
        )
        self.system.register(
            Behavior("worker", partial(WorkerActor, self.fleet, self.clock), idle_after=None)
        )

    def _add_doors(self, keep_prefect_events: float) -> None:
        """What faces ask for things that have rooms of their own."""
        self.catalog = Catalog(self)
        """The functions that are known: versions, status, history."""
        self.keyring = Keyring(self.store, self.clock, self.ids)
        self.registrar = Registrar(self.store, self.clock)
        self.intakes = Intakes(self)
        """The doors of what waits before it becomes a run."""
        self.workflows = Workflows(self)
        """The doors of event-driven workflows."""
        self.feeds = Feeds(self.environment, keep_prefect_events)
        """Events and logs of the Prefect API."""
        self.prefect = Prefect(self, FlowEvents(self.feeds.include))
        """Flows, flow runs and task runs of Prefect clients."""
        self.feeds.recorder = self.prefect.recorder.record

    @property
    def endings(self) -> Endings:
        """Who is told when runs end."""
        return self.environment.endings

    # -- life -------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Register the host's functions and bring back what is unfinished."""
        await self.system.start([self.router, self.system.ref("janitor")])
        await self.keyring.start()
        await self.registrar.start()
        await self.catalog.find_remote()
        await self.register([spec.definition for spec in self.host.local.specs()])
        await recover(self)
        self.started = True

    def begin_drain(self) -> None:
        """Take nothing new: later requests that create work are refused with `Draining`."""
        self.draining = True
        self.feeds.close()
        self.pool.close()

    async def stop(self) -> None:
        """Stop every actor; whatever they had appended is committed."""
        self.begin_drain()
        self.timers.stop()
        self.pool.windows.stop()
        await self.fleet.stop()
        await self.endpoints.stop()
        await self.system.stop()
        await self.store.journal.flush()

    def _grant(self, run_id: str) -> None:
        if not self.system.is_stopped:
            self.system.ref("run", run_id).post(c.Dispatch())

    def _ring(self, target: str, name: str) -> None:
        self.system.at(target).post(c.TimerFired(name))

    # -- functions --------------------------------------------------------------------------------

    async def register(self, definitions: Sequence[Definition]) -> None:
        """Record the functions that this process serves; a changed definition gets a new
        version.
        """
        await self.catalog.register(definitions)

    async def register_remote(self, definition: Definition) -> tuple[FunctionRow, bool]:
        """See `Catalog`."""
        return await self.catalog.register_remote(definition)

    def _policies_of(self, function_id: str) -> Policies | None:
        spec = self.host.spec(function_id)
        return spec.policies if spec is not None else None

    def _knows(self, function_id: str) -> bool:
        return self.host.spec(function_id) is not None

    async def functions(self) -> list[tuple[FunctionRow, Definition]]:
        """Every function, by id."""
        return await self.catalog.all()

    async def function(self, function_id: str) -> tuple[FunctionRow, Definition]:
        """One function. Raises `NotFound`."""
        return await self.catalog.get(function_id)

    # -- requests ---------------------------------------------------------------------------------

    async def invoke(
        self, function_id: str, data: bytes = b"null", *, idempotency_key: str | None = None
    ) -> c.Created:
        """Create a run with JSON input. Durable when it returns.

        Raises `NotFound`, `InvalidInput` (the function's input type refuses it),
        `IdempotencyConflict`,
        `Draining`, `Overloaded`, `StorageFull`.
        """
        definition = await self._definition(function_id)
        if defers(definition) is not None:
            return await self.intakes.defer(definition, data, idempotency_key)
        return await self._create(definition, self._prepare(definition, data, idempotency_key))

    async def _definition(self, function_id: str) -> Definition:
        """What is invoked: as this process can execute it, else as it was registered."""
        self.check_open()
        spec = self.host.spec(function_id)
        if spec is not None:
            return spec.definition
        row, definition = await self.function(function_id)
        if row.status == "archived":
            raise Conflict(f"function {function_id} is archived")
        return definition

    def _prepare(
        self, definition: Definition, data: bytes, idempotency_key: str | None
    ) -> tuple[str, c.CreateRun]:
        """The run's id and the command that creates it."""
        function_id, spec = definition.id, self.host.spec(definition.id)
        if spec is not None:
            spec.check_input(data)
        if idempotency_key is None:
            run_id = self.ids.new()
        else:
            check_key(idempotency_key)
            run_id = self.environment.derive_id("invoke", function_id, idempotency_key)
        payload, blob = pack(data)
        command = c.CreateRun(
            function_id=function_id,
            input=payload,
            input_hash=digest(data),
            options=definition.options,
            code=definition.code,
            idempotency_key=idempotency_key,
            kind=definition.kind,
            handler=run_id if definition.kind == "workflow" else None,
            blob=blob,
        )
        if idempotency_key is None:
            self.environment.fresh.add(run_id)
        return run_id, command

    async def _create(self, definition: Definition, prepared: tuple[str, c.CreateRun]) -> c.Created:
        run_id, command = prepared
        try:
            if definition.flow_control.singleton is not None:
                return await self.intakes.admit(definition, run_id, command)
            return await self.system.ref("run", run_id).ask(command)
        finally:
            self.environment.fresh.discard(run_id)  # if its actor was never made

    async def emit(
        self,
        name: str,
        data: bytes = b"null",
        *,
        idempotency_key: str | None = None,
        source: str = "api",
        facts: EventFacts | None = None,
    ) -> c.Emitted:
        """Emit an event with JSON data. Durable, with the runs that it starts, when it returns.

        Raises `InvalidInput`, `IdempotencyConflict`, `Draining`, `Overloaded`, `StorageFull`.
        """
        self.check_open()
        validate_event_name(name, "name")
        return await emit(self, None, name, data, idempotency_key, source, facts)

    async def cancel(self, run_id: str, reason: str = "cancelled by request") -> str:
        """Cancel a run; answers its status. Raises `NotFound`, `Conflict` when it has ended."""
        return await (await self._actor(run_id)).ask(c.CancelRun(reason=reason))

    async def pause(self, run_id: str, reason: str = "paused by request") -> str:
        """Pause a run at its next step boundary; answers its status. Raises `NotFound`,
        `Conflict`.
        """
        return await (await self._actor(run_id)).ask(c.PauseRun(reason))

    async def resume(self, run_id: str, from_step: str | None = None) -> str:
        """Let a paused run go on, from a step on if the key of one is given; answers its status.
        Raises `NotFound`, `Conflict`.
        """
        self.check_open()
        return await (await self._actor(run_id)).ask(c.ResumeRun(from_step))

    async def retry(self, run_id: str, reason: str = "", from_step: str | None = None) -> str:
        """Try a failed or cancelled run again from its failure, or from a step on; answers its
        status. Raises `NotFound`, `Conflict`.
        """
        self.check_open()
        actor, blob = await self._actor(run_id), None
        if actor.address.startswith("run/"):
            run = await self.run(run_id)
            if run.input.blob is not None and run.options.cancel_on:
                blob = await self.load_payload(run.input)
            if run.gate is not None:
                return await self.intakes.readmit(run, c.RetryRun(reason, blob, from_step))
        return await actor.ask(c.RetryRun(reason, blob, from_step))

    async def patch_step(
        self, run_id: str, key: str, output: bytes, *, reason: str, by: str, injected: bool
    ) -> None:
        """Give a step that has ended another result, in a run that is paused (or, unless
        `injected`, failed or cancelled). Raises `NotFound`, `Conflict`.
        """
        self.check_open()
        if await self._is_flow_run(run_id):
            raise Conflict(f"run {run_id} is moved by its client's process")
        result, blob = pack(output)
        command = c.PatchStep(
            key=key, result=result, reason=reason, by=by, injected=injected, blob=blob
        )
        await self.system.ref("run", run_id).ask(command)

    async def _actor(self, run_id: str) -> Ref:
        """Who decides about a run: its client's process moves a Prefect flow run, the engine all
        others.
        """
        return self.system.ref("flow_run" if await self._is_flow_run(run_id) else "run", run_id)

    async def _is_flow_run(self, run_id: str) -> bool:
        row = await self.store.reader.run(run_id)
        return row is not None and row.kind == "flow"

    async def wait(self, run_id: str, timeout: float | None = None) -> Run | None:
        """The run once it has ended, None after `timeout` seconds. Raises `NotFound`. Nothing
        polls.
        """
        future = self.endings.expect(run_id)
        try:
            row = await self.store.reader.run(run_id)
            if row is None and await self._is_announced(run_id):
                row = await self.store.reader.run(run_id)
            if row is None:
                raise NotFound("run", run_id)
            if row.ended_at is not None:
                return await self.run(run_id)
            return await self.endings.until(future, timeout)
        finally:
            self.endings.forget(run_id, future)

    async def invoke_and_wait(
        self,
        function_id: str,
        data: bytes = b"null",
        *,
        idempotency_key: str | None = None,
        timeout: float | None = None,
    ) -> tuple[c.Created, Run | None]:
        """`invoke`, then `wait`, without a read in between when the run is new."""
        definition = await self._definition(function_id)
        if defers(definition) is not None:
            raise not_waitable(definition)
        prepared = self._prepare(definition, data, idempotency_key)
        future = self.endings.expect(prepared[0])
        try:
            created = await self._create(definition, prepared)
            if not created.created:
                return created, await self.wait(created.run_id, timeout)
            return created, await self.endings.until(future, timeout)
        finally:
            self.endings.forget(prepared[0], future)

    # -- reads ------------------------------------------------------------------------------------

    async def run(self, run_id: str) -> Run:
        """The whole recorded state of a run, read from the journal; of a Prefect flow run what
        corresponds to it. Raises `NotFound`.
        """
        loaded = await self.store.reader.load(f"run/{run_id}")
        newest = loaded.entries[-1].kind if loaded.entries else ""
        if is_of_flow_run(newest) or (not newest and await self._is_flow_run(run_id)):
            flow_run = as_run(fold_flow_run(run_id, loaded))
            if flow_run is None:
                raise NotFound("run", run_id)
            return flow_run
        run = fold(run_id, loaded)
        if not run.exists and await self._is_announced(run_id):
            run = fold(run_id, await self.store.reader.load(f"run/{run_id}"))
        if not run.exists:
            raise NotFound("run", run_id)
        return run

    async def _is_announced(self, run_id: str) -> bool:
        """Whether a run that nothing is recorded of was promised, as a batch is that has just got
        full; it has what was posted to it then.
        """
        if not self.environment.outbox.pending(f"run/{run_id}"):
            return False
        await self.intakes.until_recorded(run_id)
        return True

    async def flow_run(self, run_id: str) -> History:
        """The whole recorded state of a Prefect flow run and its task runs. Raises `NotFound`."""
        history = fold_flow_run(run_id, await self.store.reader.load(f"run/{run_id}"))
        if not history.version:
            raise NotFound("flow run", run_id)
        return history

    async def load_payload(self, payload: Payload) -> bytes:
        """A payload's JSON text, from the entry or the blob table. Raises `NotFound` for a lost
        blob.
        """
        if payload.json is not None:
            return payload.json
        data = await self.store.reader.blob(payload.blob or "")
        if data is None:
            raise NotFound("stored value", payload.blob or "")
        return data

    def check_open(self) -> None:
        """Raises `Gone` before everything is back, `Draining` once nothing new is taken."""
        if not self.started:
            raise Gone("the server is starting")
        if self.draining:
            raise Draining("the server is shutting down and takes no new work")
