"""Runs in this process, with no server: `await workflow.run(...)`.

Each event loop has one engine in memory, and one for each database file that runs name. That of a
file is closed when its last run has ended and nobody reads any more, so that another process can
open it; `async with open_runtime("app.db")` keeps it open.
"""

from __future__ import annotations

import asyncio
import os
import warnings
import weakref
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ironflow.actors.engine import Engine
from ironflow.core.clock import Clock, Ids, SystemClock, derive_id
from ironflow.core.errors import Conflict, InvalidInput, StorageError
from ironflow.core.runs import commands as c
from ironflow.core.runs.entries import ParentRef
from ironflow.core.runs.state import Run, RunStatus
from ironflow.core.values.payloads import Payload, pack
from ironflow.core.workflows.state import EventData
from ironflow.core.workflows.stream import StreamedEvent
from ironflow.sdk.executor import Executor
from ironflow.sdk.function import Registry
from ironflow.storage.memory.store import MemoryStore
from ironflow.storage.ports import Entry, Store
from ironflow.storage.sqlite.store import open_sqlite
from ironflow.workflows.codec import Keeper, encode_fields
from ironflow.workflows.context import Context
from ironflow.workflows.errors import WorkflowDone, WorkflowRuntimeError
from ironflow.workflows.handler import WorkflowHandler
from ironflow.workflows.interpreter import Interpreter
from ironflow.workflows.invocation import Invocation, current_invocation
from ironflow.workflows.mounting import MountedWorkflow

if TYPE_CHECKING:
    from ironflow.workflows.workflow import Workflow

DRAIN_SECONDS = 20.0
MOST_ENTRIES = 5000
"""Of a run's journal that are held for a drawing."""
MAX_CRASHES = 2**31
"""A run is never paused for having taken the process down: the program that began it wants it to go
on, and there is nobody else who could tell it to.
"""
STAY = 3600.0
"""Seconds that waiting bodies stay in memory: whoever holds a handler may ask for its state."""

_current: ContextVar[Runtime | None] = ContextVar("ironflow_workflow_runtime", default=None)
_runtimes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Runtime]] = (
    weakref.WeakKeyDictionary()
)


class Runtime:
    """An engine in this process, on a database file or (None) in memory."""

    def __init__(
        self, db: str | Path | None, *, clock: Clock | None = None, linger: float | None = None
    ) -> None:
        self.db = None if db is None else os.path.abspath(db)
        self.clock = clock or SystemClock()
        self.ids = Ids(self.clock)
        self.registry = Registry()
        self.users = 0
        self.store: Store
        self.engine: Engine
        self.executor: Executor
        self._linger = STAY if linger is None else linger
        self._lock = asyncio.Lock()
        self._open = False
        self._mounted: dict[int, MountedWorkflow] = {}

    def held(self) -> Held:
        """Keep it open for as long as somebody needs it: `async with runtime.held()`. Raises
        `StorageError`, for instance `DatabaseInUse`.
        """
        return Held(self)

    async def open(self) -> None:
        """Start the engine, if it does not run."""
        async with self._lock:
            if not self._open:
                await self._start()

    async def leave(self) -> None:
        """One user less: a file is closed when there is none."""
        self.users -= 1
        if not self.users and self.db is not None:
            await self._close()

    async def _close(self) -> None:
        """Close the file, unless somebody has come meanwhile."""
        async with self._lock:
            if not self.users and self._open:
                await self._stop()

    async def _start(self) -> None:
        def fail(error: StorageError) -> None:
            self.engine.endings.fail(error)

        self.store = MemoryStore()
        if self.db is not None:
            self.store = await open_sqlite(self.db, clock=self.clock, on_fatal=fail)
        self.executor = Executor(self.registry, self.clock, self.ids, linger=self._linger)
        self.engine = Engine(
            self.store, self.executor, self.clock, self.ids, max_crashes=MAX_CRASHES
        )
        self._open = True
        await self.engine.start()

    async def _stop(self) -> None:
        self._open = False
        self.engine.begin_drain()
        await self.executor.drain(DRAIN_SECONDS)
        await self.store.journal.flush()
        await self.engine.stop()
        await self.store.close()

    def mount(self, workflow: Any, name: str | None = None) -> MountedWorkflow:
        """Serve a workflow instance here. In memory a name that is taken by another class gets a
        number; in a file, where names find the code of runs, that is `InvalidInput`.
        """
        known = self._mounted.get(id(workflow))
        if known is not None and known.workflow is workflow:
            return known
        mounted = MountedWorkflow(workflow, name)
        mounted.in_process, mounted.in_memory = True, self.db is None
        number = 1
        while True:
            taken: Any = self.registry.get(mounted.id)
            if taken is None or (self.db is not None and taken.fn is mounted.fn):
                break
            if self.db is not None:
                raise InvalidInput("workflow_name", f"two workflows are named {mounted.id!r}")
            number += 1
            mounted = MountedWorkflow(workflow, f"{name or workflow.workflow_name}~{number}")
            mounted.in_process = mounted.in_memory = True
        self.registry.add(mounted)
        self._mounted[id(workflow)] = mounted
        if self._open:
            self.engine.pool.serve(mounted.id)
        return mounted


class Held:
    """Somebody's need of a runtime. Not a generator: those that a reader abandons in the middle are
    closed by the loop at any time, this one with them.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def __aenter__(self) -> Runtime:
        self._runtime.users += 1
        try:
            await self._runtime.open()
        except BaseException:
            self._runtime.users -= 1
            raise
        return self._runtime

    async def __aexit__(self, *_: object) -> None:
        await self._runtime.leave()


@asynccontextmanager
async def open_runtime(
    db: str | Path | None = None, *workflows: Workflow
) -> AsyncIterator[Runtime]:
    """Keep runs on a database file (None: in memory) while the block lasts; `workflow.run()` inside
    of it uses it. Runs of the given `workflows` that the file has under way go on at once.

    Raises `StorageError`, for instance `DatabaseInUse`.
    """
    runtime = Runtime(db)
    for workflow in workflows:
        runtime.mount(workflow)
    token = _current.set(runtime)
    try:
        async with runtime.held():
            yield runtime
    finally:
        _current.reset(token)
        if runtime.db is None:
            await runtime._stop()


def runtime_for(db: str | Path | None) -> Runtime:
    """The runtime of the running loop for a file, or for none."""
    loop = asyncio.get_running_loop()
    of_loop = _runtimes.setdefault(loop, {})
    key = "" if db is None else os.path.abspath(db)
    if key not in of_loop:
        of_loop[key] = Runtime(db)
    return of_loop[key]


# -- runs -----------------------------------------------------------------------------------------


class Runs:
    """What a handler asks of whoever keeps its run."""

    def __init__(self, runtime: Runtime, create: c.CreateRun) -> None:
        self._runtime, self._create = runtime, create

    @asynccontextmanager
    async def open(self, handler: WorkflowHandler) -> AsyncIterator[None]:
        """Begin the run, and keep the runtime until it has ended."""
        async with self._runtime.held() as runtime:
            ref = runtime.engine.system.ref("run", handler.run_id)
            await ref.ask(self._create)
            yield

    def held(self) -> Any:
        """Keep the runtime for a reader."""
        return self._runtime.held()

    async def wait(self, run_id: str) -> Run:
        """The run once it has ended."""
        run = await self._runtime.engine.wait(run_id)
        assert run is not None
        return run

    async def load(self, payload: Payload) -> bytes:
        """The JSON text of a payload."""
        return await self._runtime.engine.load_payload(payload)

    def follow(self, run_id: str, after: int) -> AsyncIterator[StreamedEvent]:
        """The events of the run's stream."""
        return self._runtime.engine.workflows.follow(run_id, after)

    async def send(
        self, handler: WorkflowHandler, kind: str, data: bytes, step: str | None
    ) -> None:
        """Hand the run an event. Raises `WorkflowDone` when it has ended."""
        await handler.begun()
        if handler.is_done():
            raise WorkflowDone("the run has ended")
        try:
            await self._runtime.engine.workflows.send(handler.run_id, kind, data, step)
        except Conflict as error:
            raise WorkflowDone("the run has ended") from error

    async def cancel(self, run_id: str) -> None:
        """Cancel the run, if it has not ended."""
        try:
            await self._runtime.engine.cancel(run_id)
        except Conflict:
            return

    async def history(self, run_id: str) -> list[Entry] | None:
        """The first entries of the run's journal, where they must be fetched now or never."""
        if self._runtime.db is None:
            return None
        return await self._runtime.store.reader.entries(f"run/{run_id}", 0, MOST_ENTRIES)

    def present(self, run_id: str) -> list[Entry] | None:
        """The entries of the run's journal, if they are in memory."""
        store = self._runtime.store
        if not isinstance(store, MemoryStore):
            return None
        return store.tables.streams.get(f"run/{run_id}", [])[:MOST_ENTRIES]

    def body(self, run_id: str) -> Interpreter | None:
        """The execution of the run, if it is in memory."""
        found: Any = self._runtime.executor.body(run_id)
        return found if isinstance(found, Interpreter) else None


class ChildRuns(Runs):
    """A run that a step has started: a child of that step's run."""

    def __init__(self, invocation: Invocation, key: str) -> None:
        self._invocation, self._key = invocation, key

    @asynccontextmanager
    async def open(self, handler: WorkflowHandler) -> AsyncIterator[None]:
        """It was begun with the turn of the step."""
        yield

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """A child's runtime is its parent's."""
        yield

    async def wait(self, run_id: str) -> Run:
        """What the parent's journal says of the child's end."""
        invocation = self._invocation
        await invocation.child_end(self._key)
        child = invocation.job.children[self._key]
        run = Run(run_id, kind="workflow", function_id=child.workflow)
        run.status = {
            "completed": RunStatus.COMPLETED,
            "cancelled": RunStatus.CANCELLED,
        }.get(child.outcome or "", RunStatus.FAILED)
        run.result, run.error = child.result, child.error
        run.reason = child.error.message if child.error is not None else None
        return run

    async def load(self, payload: Payload) -> bytes:
        """The JSON text of a payload."""
        return await self._invocation.body.objects.load(payload)

    def follow(self, run_id: str, after: int) -> AsyncIterator[StreamedEvent]:
        """The events of the child's stream."""
        return self._invocation.body.follow_child(run_id, after)

    def send(
        self, handler: WorkflowHandler, kind: str, data: bytes, step: str | None
    ) -> Coroutine[Any, Any, None]:
        """Hand the child an event, in the turn of the step: once, however often that is executed.
        Raises `WorkflowDone`, when it is awaited, if the child has ended.
        """
        payload, blob = pack(data)
        signal = c.SendSignal(event=EventData(kind, payload), step=step, blob=blob)
        return _until(self._invocation.send_to_child(self._key, handler.run_id, signal, data))

    async def cancel(self, run_id: str) -> None:
        """Cancel the child, in the turn of the step."""
        order = c.CancelRun(reason="cancelled by the step that started it")
        self._invocation.body.creates.append(c.Send(f"run/{run_id}", order))
        await self._invocation.body.commit_now()

    async def history(self, run_id: str) -> list[Entry] | None:
        """None: a child is drawn by its run's id."""
        return None

    def present(self, run_id: str) -> list[Entry] | None:
        """None: a child is drawn by its run's id."""
        return None

    def body(self, run_id: str) -> Interpreter | None:
        """The execution of the child, if it is in memory."""
        found: Any = self._invocation.body.executor.body(run_id)
        return found if isinstance(found, Interpreter) else None


async def _until(recorded: asyncio.Future[None] | None) -> None:
    """The end of a send to a child that has not ended (None: it has)."""
    if recorded is None:
        raise WorkflowDone("the run has ended")
    await recorded


def begin(
    workflow: Workflow, ctx: Context[Any] | None, start_event: Any, fields: dict[str, Any]
) -> WorkflowHandler:
    """See `Workflow.run`."""
    invocation = current_invocation.get()
    fields, db, key = _split(workflow, fields)
    if ctx is not None and start_event is None and not fields and ctx.is_running:
        event = None  # goes on in the middle: nothing begins
    else:
        if start_event is not None and fields:
            warnings.warn(
                "run() was given a start_event: the other arguments are ignored", stacklevel=3
            )
        event = workflow.start_event(start_event, fields)
    if invocation is not None and not invocation.over:
        return _begin_child(invocation, workflow, event, ctx)
    runtime = _current.get() if db is None else None
    runtime = runtime or runtime_for(db if db is not None else workflow.db)
    if key is not None and runtime.db is None:
        raise WorkflowRuntimeError("key= names a durable run: say db=, or open_runtime(db)")
    mounted = runtime.mount(workflow)
    run_id = derive_id("workflow", mounted.id, key) if key is not None else runtime.ids.new()
    keeper, create = _create(mounted, run_id, event, ctx)
    if key is not None:
        create = msgspec.structs.replace(create, idempotency_key=key)
    runs = Runs(runtime, create)
    return WorkflowHandler(runs, mounted, run_id, ctx or Context(workflow), keeper)


def _split(
    workflow: Workflow, fields: dict[str, Any]
) -> tuple[dict[str, Any], str | Path | None, str | None]:
    """The fields of the start event, and `db` and `key` where they are not among them."""
    declared: Any = getattr(workflow.start_event_class, "model_fields", {})
    rest = dict(fields)
    db = key = None
    if "db" not in declared and isinstance(fields.get("db"), str | Path):
        db = rest.pop("db")
    durable = db is not None or workflow.db is not None or _current.get() is not None
    if durable and "key" not in declared and isinstance(fields.get("key"), str):
        key = rest.pop("key")
    return rest, db, key


def _create(
    mounted: MountedWorkflow,
    run_id: str,
    event: Any,
    ctx: Context[Any] | None,
    parent: ParentRef | None = None,
) -> tuple[Keeper | None, c.CreateRun]:
    """The command that begins a run, and what holds the objects in it."""
    keeper = mounted.keeper(run_id, None if ctx is None else ctx.keeper)
    state = None if ctx is None else ctx.initial(keeper)
    data = b"{}" if event is None else encode_fields(event, keeper)
    payload, blob = pack(data)
    definition = mounted.definition
    return keeper, c.CreateRun(
        function_id=mounted.id,
        input=payload,
        input_hash=derive_id("input", data.decode()),
        options=definition.options,
        code=definition.code,
        kind="workflow",
        parent=parent,
        workflow=state,
        blob=blob,
    )


def _begin_child(
    invocation: Invocation,
    workflow: Workflow,
    event: Any,
    ctx: Context[Any] | None,
) -> WorkflowHandler:
    mounted = invocation.body.mount_child(workflow)
    keeper: Keeper | None = None

    def make(run_id: str, parent: ParentRef) -> c.Send:
        nonlocal keeper
        keeper, create = _create(mounted, run_id, event, ctx, parent)
        return c.Send(f"run/{run_id}", create)

    key, run_id = invocation.start_child(mounted.id, make)
    runs = ChildRuns(invocation, key)
    return WorkflowHandler(runs, mounted, run_id, ctx or Context(workflow), keeper)
