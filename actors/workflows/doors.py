"""The doors of event-driven workflows: start, send an event, follow, list, cancel, purge.

Everything else about a workflow's run is as of any run.
"""

from __future__ import annotations

import secrets
import string
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from ironflow.actors.runs.endings import Ending
from ironflow.actors.workflows.handlers import COLUMNS, BeginRun, HandlerRow, find
from ironflow.core.errors import Conflict, InvalidInput, IronflowError, NotFound
from ironflow.core.functions.definition import FunctionSpec
from ironflow.core.runs import commands as c
from ironflow.core.runs.entries import RunCompleted, RunFailed, decode_entry
from ironflow.core.runs.state import Run
from ironflow.core.values.payloads import Failure, pack
from ironflow.core.workflows.face import WorkflowFace
from ironflow.core.workflows.state import EventData, WorkflowState
from ironflow.core.workflows.stream import StreamedEvent

if TYPE_CHECKING:
    from ironflow.actors.engine import Engine

ALPHABET = string.ascii_letters + string.digits
ID_LENGTH = 10
_PAIRS = [first + second for first in ALPHABET for second in ALPHABET]
LONGEST_ID = 200
CREATION_SECONDS = 30.0
"""For which somebody waits that a run is stored; for its end, however long that takes."""
RUNNING = ("queued", "running", "waiting", "paused")
"""The statuses of runs that have not ended, which are one status to callers of workflows."""


class Started(msgspec.Struct, frozen=True):
    """A run of a workflow that was created, or is about to be."""

    handler_id: str
    run_id: str


class HandlerView(msgspec.Struct, frozen=True):
    """A handler with the outcome of its newest run: the envelope of its stop event as JSON."""

    row: HandlerRow
    result: bytes | None = None
    error: Failure | None = None
    reason: str | None = None


class Workflows:
    """`engine.workflows`."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    # -- what is served ---------------------------------------------------------------------------

    def names(self) -> list[str]:
        """The workflows that this process serves, in the order in which they were added."""
        return [spec.id for spec in self.engine.host.specs() if spec.workflow is not None]

    def face(self, name: str) -> WorkflowFace:
        """What can be asked of a workflow. Raises `NotFound`."""
        return self._spec(name)[1]

    def _spec(self, name: str) -> tuple[FunctionSpec, WorkflowFace]:
        spec = self.engine.host.spec(name)
        if spec is None or spec.workflow is None:
            raise NotFound("workflow", name)
        return spec, spec.workflow

    # -- start and wait ---------------------------------------------------------------------------

    async def start(
        self,
        name: str,
        data: bytes,
        *,
        handler_id: str | None = None,
        state: WorkflowState | None = None,
        run_id: str | None = None,
    ) -> Started:
        """Create a run with the fields of its start event (what `face.read_start` returned).

        `handler_id` is the caller's name for it; a name whose run has ended gets a new run, with
        the store of the one before unless `state` says otherwise. Raises `NotFound`,
        `InvalidInput`, `Conflict` while the name's run is running, `Draining`.
        """
        started, command = self._prepare(name, data, handler_id, state, run_id)
        await self._start(started, command, named=handler_id is not None)
        return started

    async def start_and_wait(
        self,
        name: str,
        data: bytes,
        *,
        handler_id: str | None = None,
        state: WorkflowState | None = None,
        timeout: float | None = None,
    ) -> tuple[Started, Run | None]:
        """`start`, then wait for the end for at most `timeout` seconds."""
        started, command = self._prepare(name, data, handler_id, state, None)
        endings = self.engine.endings
        future = endings.expect(started.run_id)
        try:
            if handler_id is not None:
                await self._start(started, command, named=True)
            else:
                self._begin(started, command, future)
            return started, await endings.until(future, timeout)
        finally:
            endings.forget(started.run_id, future)

    def _prepare(
        self,
        name: str,
        data: bytes,
        handler_id: str | None,
        state: WorkflowState | None,
        run_id: str | None,
    ) -> tuple[Started, c.CreateRun]:
        self.engine.check_open()
        spec, _ = self._spec(name)
        if handler_id is not None and (not handler_id or len(handler_id) > LONGEST_ID):
            raise InvalidInput("handler_id", f"must have 1 to {LONGEST_ID} characters")
        payload, blob = pack(data)
        definition = spec.definition
        if run_id is None:
            run_id = self.engine.ids.new()
            self.engine.environment.fresh.add(run_id)  # made up just now: it has no stream to read
        started = Started(handler_id or _make_id(), run_id)
        return started, c.CreateRun(
            function_id=name,
            input=payload,
            input_hash="",
            options=definition.options,
            code=definition.code,
            kind="workflow",
            handler=started.handler_id,
            workflow=state,
            blob=blob,
        )

    async def _start(self, started: Started, command: c.CreateRun, *, named: bool) -> None:
        """Create a run; `named` by its caller, who may have had one of that name before."""
        system, run_id = self.engine.system, started.run_id
        try:
            if named:
                begin = BeginRun(run_id=run_id, create=command)
                await system.ref("handler", started.handler_id).ask(begin)
            else:
                await system.ref("run", run_id).ask(command, at_once=True)
        finally:
            self.engine.environment.fresh.discard(run_id)  # if its actor was never made

    def _begin(self, started: Started, command: c.CreateRun, future: Ending) -> None:
        """Create a run under a name of our own, for somebody who waits for its end: also a refusal
        is told to the `future`.
        """
        fresh, run_id = self.engine.environment.fresh, started.run_id
        alarm = future.get_loop().call_later(CREATION_SECONDS, _give_up, future, run_id)

        def hear(_: c.Created | None, error: Exception | None) -> None:
            alarm.cancel()
            fresh.discard(run_id)
            if error is not None and not future.done():
                future.set_exception(error)

        try:
            ref = self.engine.system.ref("run", run_id)
            ref.send(command, hear, trusted=False, at_once=True)
        except IronflowError:
            alarm.cancel()
            fresh.discard(run_id)
            raise

    # -- a run ------------------------------------------------------------------------------------

    async def send(
        self,
        run_id: str,
        type: str,
        value: bytes,
        step: str | None = None,
        *,
        answers: int | None = None,
    ) -> int:
        """Hand a run an event from outside (what `face.read_event` returned); its number. Durable
        when it returns. `answers`: the sequence of the streamed question that it answers. Raises
        `NotFound`, `Conflict` when the run has ended.
        """
        payload, blob = pack(value)
        event = EventData(type, payload)
        signal = c.SendSignal(event=event, step=step, answers=answers, blob=blob)
        return await self.engine.system.ref("run", run_id).ask(signal)

    def follow(self, run_id: str, after: int = -1) -> AsyncIterator[StreamedEvent]:
        """The streamed events of a run after a sequence, live, up to its end."""
        return self.engine.environment.streams.follow(run_id, after)

    async def stored(
        self, run_id: str, after: int = -1, limit: int = 1000
    ) -> tuple[list[StreamedEvent], bool]:
        """What the stream holds already, and whether nothing will follow."""
        return await self.engine.environment.streams.stored(run_id, after, limit)

    async def envelope(self, event: StreamedEvent) -> bytes:
        """The JSON text of an event, from the blob table if it is large."""
        return await self.engine.load_payload(event.envelope)

    # -- handlers ---------------------------------------------------------------------------------

    async def handler(self, handler_id: str) -> HandlerRow:
        """A handler, or the run of that id. Raises `NotFound`."""
        row = await find(self.engine.environment, handler_id)
        if row is not None:
            return row
        run = await self.engine.store.reader.run(handler_id)
        if run is None or run.kind != "workflow":
            raise NotFound("handler", handler_id)
        return HandlerRow(
            handler_id, run.id, run.function_id, run.status, run.created_at, run.updated_at,
            run.ended_at, run.reason, run.version,
        )  # fmt: skip

    async def view(self, row: HandlerRow) -> HandlerView:
        """A handler with its outcome: one look-up, however long the run was."""
        if not row.is_terminal:
            return HandlerView(row)
        stream = f"run/{row.run_id}"
        entry = await self.engine.store.reader.entry(stream, row.version)
        last = decode_entry(entry.kind, entry.data) if entry is not None else None
        match last:
            case RunCompleted():
                return HandlerView(row, await self.engine.load_payload(last.result))
            case RunFailed():
                return HandlerView(row, None, last.error)
            case _:
                return HandlerView(row, reason=getattr(last, "reason", None))

    async def handlers(
        self,
        *,
        statuses: tuple[str, ...] = (),
        workflows: tuple[str, ...] = (),
        limit: int = 1000,
        before: tuple[int, str] | None = None,
    ) -> list[HandlerRow]:
        """Handlers, newest first by (created_at, id), strictly before that key when given.
        `statuses` are those of runs: see `RUNNING`.
        """
        where: list[str] = []
        values: dict[str, Any] = {"limit": limit}
        for column, wanted in (("status", statuses), ("workflow", workflows)):
            if wanted:
                names = [f"{column}{number}" for number in range(len(wanted))]
                values |= dict(zip(names, wanted, strict=True))
                where.append(f"{column} IN ({', '.join(':' + name for name in names)})")
        if before is not None:
            where.append("(created_at, id) < (:before_at, :before_id)")
            values |= {"before_at": before[0], "before_id": before[1]}
        condition = f"WHERE {' AND '.join(where)}" if where else ""
        query = (
            f"SELECT {COLUMNS} FROM handlers {condition} "
            "ORDER BY created_at DESC, id DESC LIMIT :limit"
        )
        rows = await self.engine.store.reader.select(query, values)
        return [HandlerRow(*row) for row in rows]

    async def purge(self, row: HandlerRow) -> int:
        """Cancel the handler's run if it is running, wait for its end, and delete all of it: row,
        entries, snapshots, blobs. Answers the number of entries.
        """
        with suppress(Conflict):  # it has ended
            await self.engine.cancel(row.run_id, "purged")
        await self.engine.wait(row.run_id, 30.0)
        return await self.engine.store.forget([row.run_id])


def _give_up(future: Ending, run_id: str) -> None:
    if not future.done():
        future.set_exception(TimeoutError(f"run {run_id} was not stored in time"))


def _make_id() -> str:
    """A handler's id that nobody guesses: one draw, since each asks the system."""
    draw = secrets.randbits(8 * ID_LENGTH)
    pairs = []
    for _ in range(ID_LENGTH // 2):
        draw, index = divmod(draw, len(_PAIRS))
        pairs.append(_PAIRS[index])
    return "".join(pairs)
