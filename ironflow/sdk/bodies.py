"""What the executor holds: definitions that it can execute, and the bodies of their runs.

A durable function is one kind, an event-driven workflow another; the executor tells them apart no
more than the engine does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any, Protocol

from ironflow.core.functions.definition import Definition, FunctionSpec
from ironflow.core.runs.execution import Assignment, Effects, RunningStep
from ironflow.core.runs.state import Step
from ironflow.core.workflows.state import WorkflowState

if TYPE_CHECKING:
    from ironflow.sdk.executor import Executor


class Body(Protocol):
    """One execution of a run in memory."""

    task: asyncio.Task[None] | None
    leaving: bool

    @property
    def effects(self) -> Effects:
        """How it reports."""
        ...

    @property
    def run_id(self) -> str:
        """The run."""
        ...

    @property
    def number(self) -> int:
        """The execution's number: the fencing token of all it reports."""
        ...

    @property
    def is_idle(self) -> bool:
        """Whether nothing but something durable holds it up."""
        ...

    async def run(self) -> None:
        """Execute up to the end, and report it. Raises `Suspended` when it was let go of."""
        ...

    def attach(
        self,
        steps: Mapping[str, Step],
        order: Mapping[str, list[str]],
        unsettled: AbstractSet[str],
        workflow: WorkflowState | None = None,
    ) -> None:
        """The run's record is kept in these objects from now on."""
        ...

    def wake(self, key: str | None) -> None:
        """What it waited for under `key` (None: under any) has come."""
        ...

    def suspend(self) -> None:
        """Leave at the next boundary."""
        ...

    def unwind(self) -> None:
        """Cancel whatever it does, and end."""
        ...

    def running_steps(self) -> list[RunningStep]:
        """What executes now."""
        ...


class Served(Protocol):
    """Something whose runs this process can execute."""

    fn: Callable[..., Any]

    @property
    def id(self) -> str:
        """By which runs find it."""
        ...

    @property
    def spec(self) -> FunctionSpec:
        """What the engine knows of it."""
        ...

    @property
    def definition(self) -> Definition:
        """As it is registered and listed."""
        ...

    def make_body(self, executor: Executor, assignment: Assignment) -> Body:
        """An execution of a run."""
        ...
