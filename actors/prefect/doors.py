"""The doors of the Prefect face: what its endpoints ask. Writes go to actors, reads to storage."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from msgspec import structs

from ironflow.actors.kernel.actor import Behavior, Ref
from ironflow.actors.prefect.flow import ChangeFlow, CreateFlow, DeleteFlow, FlowActor, ReadFlow
from ironflow.actors.prefect.flow_run import FlowRunActor
from ironflow.actors.prefect.recorder import Recorder
from ironflow.actors.prefect.sinks import MoveSink
from ironflow.core.clock import derive_id
from ironflow.core.errors import Conflict, Draining, Gone, NotFound
from ironflow.core.messages import Message
from ironflow.core.prefect import bodies
from ironflow.core.prefect import commands as c
from ironflow.core.prefect.names import make_name
from ironflow.core.prefect.runs import FlowRunInfo, FlowRunPolicy, Labels, TaskRunInfo
from ironflow.core.prefect.states import State, StateCreate, decode_state

if TYPE_CHECKING:
    from ironflow.actors.engine import Engine

R = TypeVar("R")
REMEMBERED = 10_000
"""Flows, and places of task runs, that are held in memory."""
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_BODY = ", ".join(bodies.COLUMNS)


def is_id(text: str) -> bool:
    """Whether text is a UUID in its usual form."""
    return _ID.fullmatch(text) is not None


def _takes_from_cache(state: StateCreate, force: bool) -> bool:
    """Whether a task run may be spared its work."""
    return state.state_details.cache_key is not None and state.type == "RUNNING" and not force


class Ask(NamedTuple):
    """Something to be asked of an actor."""

    ref: Ref
    message: Message[c.Reply]
    told: Callable[[c.Reply | None], None] | None = None
    """Is called before the answer goes on, or with None when there is none."""


class Memory(dict[str, Any]):
    """What was looked up lately; the oldest is forgotten."""

    def keep(self, key: str, value: Any) -> None:
        """Remember a value."""
        while len(self) >= REMEMBERED:
            del self[next(iter(self))]
        self[key] = value


class Prefect:
    """Flows, flow runs and task runs of one engine."""

    def __init__(self, engine: Engine, sink: MoveSink) -> None:
        """`sink` is told of every change of a flow and every move of a flow run."""
        self.engine = engine
        self.system, self.ids, self.clock = engine.system, engine.ids, engine.clock
        self.reader, self.store = engine.store.reader, engine.store
        self.recorder = Recorder(self.system, is_id)
        self._flows, self._places = Memory(), Memory()
        environment = engine.environment
        self.system.register(
            Behavior(
                "flow_run",
                partial(FlowRunActor, environment, sink),
                bound=10_000,
                idle_after=5.0,
            )
        )
        self.system.register(Behavior("flow", partial(FlowActor, environment, sink), bound=10_000))

    def _check_open(self) -> None:
        if not self.engine.started:
            raise Gone("the server is starting")
        if self.engine.draining:
            raise Draining("the server is shutting down and takes no new work")

    def _ask(self, flow_run_id: str, message: Message[R]) -> Coroutine[Any, Any, R]:
        # No coroutine of its own around another: there would be one for every request.
        return self.system.ref("flow_run", flow_run_id).ask(message, at_once=True)

    async def _ask_fresh(self, run_id: str, message: Message[R]) -> R:
        """Ask the actor of a run whose id was just made up: nothing has to be read for it."""
        fresh = self.engine.environment.fresh
        fresh.add(run_id)
        try:
            return await self._ask(run_id, message)
        finally:
            fresh.discard(run_id)  # if its actor was never made

    # -- flows ------------------------------------------------------------------------------------

    async def create_flow(self, name: str, tags: list[str], labels: Labels) -> c.Reply:
        """Create a flow, or find it by its name."""
        self._check_open()
        saved = await self.system.ref("flow", name).ask(CreateFlow(tags, labels))
        self._flows.keep(saved.id, name)
        return saved.reply

    async def read_flow(self, column: str, value: str) -> bytes:
        """The body of a flow by its `id` or `name`. Raises `NotFound`."""
        name = self._flows.get(value) if column == "id" else value
        if name is not None and self.system.is_live(f"flow/{name}"):
            saved = await self.system.ref("flow", name).ask(ReadFlow())
            if saved is None or (column == "id" and saved.id != value):
                raise NotFound("flow", value)
            return saved.reply.body
        query = f"SELECT body FROM flows WHERE {column} = ?"
        rows = await self.reader.select(query, (value,), quick=True)
        if not rows:
            raise NotFound("flow", value)
        body: bytes = rows[0][0]
        return body

    async def change_flow(self, flow_id: str, tags: list[str]) -> None:
        """Give a flow other tags. Raises `NotFound`."""
        name = await self.flow_name(flow_id)
        if name is None:
            raise NotFound("flow", flow_id)
        await self.system.ref("flow", name).ask(ChangeFlow(flow_id, tags))

    async def delete_flow(self, flow_id: str) -> None:
        """Delete a flow and its runs. Raises `NotFound`."""
        name = await self.flow_name(flow_id)
        if name is None:
            raise NotFound("flow", flow_id)
        await self.system.ref("flow", name).ask(DeleteFlow(flow_id))
        self._flows.pop(flow_id, None)
        query = "SELECT id FROM flow_runs WHERE flow_id = ? LIMIT 200"
        while rows := await self.reader.select(query, (flow_id,)):
            for (flow_run_id,) in rows:
                await self._ask(flow_run_id, c.DeleteHistory())

    async def flow_name(self, flow_id: str) -> str | None:
        """The name of a flow, None when there is no such flow."""
        name: str | None = self._flows.get(flow_id)
        if name is None:
            query = "SELECT name FROM flows WHERE id = ?"
            rows = await self.reader.select(query, (flow_id,), quick=True)
            if rows:
                name = rows[0][0]
                self._flows.keep(flow_id, name)
        return name

    # -- flow runs --------------------------------------------------------------------------------

    def ask_for_flow_run(
        self, info: FlowRunInfo, policy: FlowRunPolicy, state: StateCreate
    ) -> Ask | None:
        """Who is to be asked, and what, to create a flow run as `create_flow_run` does; None when
        something must be looked up.
        """
        name: str | None = self._flows.get(info.flow_id)
        if name is None or info.idempotency_key is not None or info.parent_task_run_id is not None:
            return None
        self._check_open()
        command = self._complete(info, name, policy, state)
        fresh = self.engine.environment.fresh
        fresh.add(info.id)
        ref = self.system.ref("flow_run", info.id)
        return Ask(ref, command, lambda _: fresh.discard(info.id))

    async def create_flow_run(
        self, info: FlowRunInfo, policy: FlowRunPolicy, state: StateCreate
    ) -> c.Reply:
        """Create a flow run, or find it by its idempotency key. `info` has no id yet, and its name
        may be empty. Raises `Conflict` when there is no such flow.
        """
        self._check_open()
        name = await self.flow_name(info.flow_id)
        if name is None:
            raise Conflict(f"flow_id: there is no flow {info.flow_id}")
        command = self._complete(info, name, policy, state)
        if info.parent_task_run_id is not None:
            # It may not be known yet: clients tell of task runs a little later than of flow runs.
            parent = await self.place(info.parent_task_run_id)
            command = structs.replace(command, parent=parent)
        is_fresh = info.idempotency_key is None
        return await (self._ask_fresh if is_fresh else self._ask)(info.id, command)

    def _complete(
        self, info: FlowRunInfo, flow_name: str, policy: FlowRunPolicy, state: StateCreate
    ) -> c.CreateFlowRun:
        """Give a flow run its id and what else it lacks."""
        key = info.idempotency_key
        info.id = self.ids.new() if key is None else derive_id("flow_run", info.flow_id, key)
        info.name = info.name or make_name(self.ids.rng)
        info.labels = {"prefect.flow.id": info.flow_id, **info.labels}
        return c.CreateFlowRun(info=info, flow_name=flow_name, policy=policy, state=state)

    async def read_flow_run(self, flow_run_id: str) -> bytes:
        """A flow run's body. Raises `NotFound`."""
        if self.system.is_live(f"flow_run/{flow_run_id}"):
            return (await self._ask(flow_run_id, c.ReadFlowRun())).body
        query = f"SELECT {_BODY} FROM flow_runs WHERE id = ?"
        rows = await self.reader.select(query, (flow_run_id,), quick=True)
        if not rows:
            raise NotFound("flow run", flow_run_id)
        return bodies.render(rows[0], self.clock.now())

    def ask_for_flow_run_state(
        self, flow_run_id: str, state: StateCreate, *, force: bool = False
    ) -> Ask:
        """Who is to be asked, and what, to propose a state for a flow run."""
        return Ask(self.system.ref("flow_run", flow_run_id), c.SetFlowRunState(state, force))

    def set_flow_run_state(
        self, flow_run_id: str, state: StateCreate, *, force: bool = False
    ) -> Coroutine[Any, Any, c.Reply]:
        """Propose a state for a flow run. Raises `NotFound`."""
        return self._ask(flow_run_id, c.SetFlowRunState(state, force))

    async def resume_flow_run(self, flow_run_id: str, run_input: str | None = None) -> c.Reply:
        """Let a paused flow run go on, with JSON text for what it asked for. Raises `NotFound`."""
        return await self._ask(flow_run_id, c.ResumeFlowRun(run_input))

    async def change_flow_run(self, flow_run_id: str, change: c.ChangeFlowRun) -> None:
        """Edit a flow run. Raises `NotFound`."""
        await self._ask(flow_run_id, change)

    async def delete_flow_run(self, flow_run_id: str) -> None:
        """Delete a flow run and everything of it. Raises `NotFound`."""
        if not await self._ask(flow_run_id, c.DeleteHistory()):
            raise NotFound("flow run", flow_run_id)

    async def add_input(self, flow_run_id: str, key: str, value: str, sender: str | None) -> None:
        """Keep an input for a flow run. Raises `NotFound`, `Conflict` for a key that is taken."""
        await self._ask(flow_run_id, c.AddInput(key, value, sender))

    async def remove_input(self, flow_run_id: str, key: str) -> None:
        """Forget an input of a flow run. Raises `NotFound`."""
        await self._ask(flow_run_id, c.RemoveInput(key))

    # -- task runs --------------------------------------------------------------------------------

    async def place(self, task_run_id: str) -> c.TaskPlace | None:
        """Where a task run is, None when there is no such task run."""
        place: c.TaskPlace | None = self._places.get(task_run_id)
        if place is None:
            query = "SELECT coalesce(flow_run_id, id), name FROM task_runs WHERE id = ?"
            rows = await self.reader.select(query, (task_run_id,), quick=True)
            if rows:
                place = c.TaskPlace(*rows[0])
                self._places.keep(task_run_id, place)
        return place

    async def owner(self, task_run_id: str) -> str:
        """The id of the stream that a task run is in. Raises `NotFound`."""
        place = await self.place(task_run_id)
        if place is None:
            raise NotFound("task run", task_run_id)
        return place.owner

    def ask_for_task_run(self, info: TaskRunInfo, state: StateCreate) -> Ask | None:
        """Who is to be asked, and what, to create a task run as `create_task_run` does; None when
        something must be looked up.
        """
        if info.id:
            return None
        self._check_open()
        place = self._place_new(info)
        command = c.CreateTaskRun(info=info, state=state)

        def keep(reply: c.Reply | None) -> None:
            if reply is not None and reply.status == 201:
                self._places.keep(info.id, place)

        return Ask(self.system.ref("flow_run", place.owner), command, keep)

    def _place_new(self, info: TaskRunInfo) -> c.TaskPlace:
        """Give a task run the id and the name that it lacks; where it is to be."""
        if not info.id:
            info.id = (
                self.ids.new()
                if info.flow_run_id is not None
                else derive_id("task_run", info.task_key, info.dynamic_key)
            )
        info.name = info.name or make_name(self.ids.rng)
        return c.TaskPlace(info.flow_run_id or info.id, info.name)

    async def create_task_run(self, info: TaskRunInfo, state: StateCreate) -> c.Reply:
        """Create a task run, or find it by its keys; its id and name may be empty. Raises
        `Conflict` when there is no such flow run, or the id is taken.
        """
        self._check_open()
        is_chosen = bool(info.id)
        place = self._place_new(info)
        if is_chosen:
            known = await self.place(info.id)
            if known is not None and known.owner != place.owner:
                raise Conflict(f"id: task run {info.id} is one of another flow run")
            self._places.keep(info.id, known or place)  # before another request is answered
        try:
            reply = await self._ask(place.owner, c.CreateTaskRun(info=info, state=state))
        except Exception:
            self._places.pop(info.id, None)
            raise
        if reply.status == 201:
            self._places.keep(info.id, place)
        return reply

    async def read_task_run(self, task_run_id: str) -> bytes:
        """A task run's body. Raises `NotFound`."""
        place = self._places.get(task_run_id)
        if place is not None and self.system.is_live(f"flow_run/{place.owner}"):
            return (await self._ask(place.owner, c.ReadTaskRun(task_run_id))).body
        query = f"SELECT {_BODY} FROM task_runs WHERE id = ?"
        rows = await self.reader.select(query, (task_run_id,), quick=True)
        if not rows:
            raise NotFound("task run", task_run_id)
        return bodies.render(rows[0], self.clock.now())

    def ask_for_task_run_state(
        self, task_run_id: str, state: StateCreate, *, force: bool = False
    ) -> Ask | None:
        """Who is to be asked, and what, to propose a state for a task run; None when that must be
        looked up.
        """
        place = self._places.get(task_run_id)
        if place is None or _takes_from_cache(state, force):
            return None
        command = c.SetTaskRunState(id=task_run_id, state=state, force=force)
        return Ask(self.system.ref("flow_run", place.owner), command)

    async def set_task_run_state(
        self, task_run_id: str, state: StateCreate, *, force: bool = False
    ) -> c.Reply:
        """Propose a state for a task run. Raises `NotFound`."""
        owner = await self.owner(task_run_id)
        key = state.state_details.cache_key if _takes_from_cache(state, force) else None
        cached = None if key is None else await self._cached(key)
        command = c.SetTaskRunState(id=task_run_id, state=state, force=force, cached=cached)
        return await self._ask(owner, command)

    async def _cached(self, key: str) -> State | None:
        query = (
            "SELECT state FROM task_caches WHERE cache_key = ? "
            "AND (expires_at IS NULL OR expires_at > ?)"
        )
        rows = await self.reader.select(query, (key, self.clock.now()), quick=True)
        return decode_state(rows[0][0]) if rows else None

    async def rename_task_run(self, task_run_id: str, name: str) -> None:
        """Give a task run another name. Raises `NotFound`."""
        await self._ask(await self.owner(task_run_id), c.ChangeTaskRun(task_run_id, name))
        self._places.pop(task_run_id, None)

    async def delete_task_run(self, task_run_id: str) -> None:
        """Delete a task run. Raises `NotFound`."""
        await self._ask(await self.owner(task_run_id), c.DeleteTaskRun(task_run_id))
        self._places.pop(task_run_id, None)
