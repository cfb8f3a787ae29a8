"""Handlers: names that callers of workflows choose and keep, each with its newest run.

The actor of a name sees to it that a name has one run at a time: it looks at the newest run, and
only when that has ended creates the next. It has no state of its own; the row changes in the
commits of the run.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ironflow.actors.environment import Environment
from ironflow.actors.kernel.actor import Actor, Envelope
from ironflow.actors.runs.rows import fold
from ironflow.core.errors import Conflict
from ironflow.core.messages import Message
from ironflow.core.runs import commands as c
from ironflow.core.runs.state import TERMINAL
from ironflow.core.workflows.state import WorkflowState
from ironflow.storage.relational.handlers import HANDLERS

COLUMNS = ", ".join(HANDLERS.columns)


class HandlerRow(msgspec.Struct, frozen=True):
    """A row of `handlers`. Moments are microseconds; `status` is that of the run."""

    id: str
    run_id: str
    workflow: str
    status: str
    created_at: int
    updated_at: int
    ended_at: int | None
    error: str | None
    version: int

    @property
    def is_terminal(self) -> bool:
        """Whether its newest run has ended."""
        return self.status in TERMINAL


class BeginRun(Message[c.Created], frozen=True, kw_only=True):
    """Create the next run of this handler. Raises `Conflict` while one is running."""

    run_id: str
    create: c.CreateRun


class HandlerActor(Actor):
    """One handler. Understands `BeginRun`."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment

    def receive(self, message: Message[Any], envelope: Envelope) -> object:
        """See the class."""
        if isinstance(message, BeginRun):
            return self._begin(message)
        return super().receive(message, envelope)

    async def _begin(self, message: BeginRun) -> c.Created:
        row = await find(self.environment, self.key)
        create = message.create
        if row is not None:
            if not row.is_terminal:
                raise Conflict(f"Handler {self.key!r} is already running")
            if create.workflow is None and row.workflow == create.function_id:
                create = msgspec.structs.replace(create, workflow=await self._inherit(row.run_id))
        return await self.system.ref("run", message.run_id).ask(create)

    async def _inherit(self, run_id: str) -> WorkflowState | None:
        """The store of the run before: that is what continuing a handler means."""
        run = fold(run_id, await self.environment.store.reader.load(f"run/{run_id}"))
        return WorkflowState(store=run.workflow.store) if run.workflow is not None else None


async def find(environment: Environment, handler_id: str) -> HandlerRow | None:
    """The row of a handler."""
    query = f"SELECT {COLUMNS} FROM handlers WHERE id = ?"
    rows = await environment.store.reader.select(query, (handler_id,), quick=True)
    return HandlerRow(*rows[0]) if rows else None
