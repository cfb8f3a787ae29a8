"""Executions that are not in this process: what the fleet of workers and the endpoints have in
common as a `Host`. Their functions, the leases, and what they cannot be told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any

from ironflow.actors.elsewhere.jobs import Lease
from ironflow.core.clock import Clock
from ironflow.core.functions.definition import Definition, FunctionSpec, compile_spec
from ironflow.core.functions.secrets import NoSecrets, SecretSource
from ironflow.core.runs.execution import RunningStep
from ironflow.core.runs.state import Step
from ironflow.core.workflows.state import WorkflowState

if TYPE_CHECKING:
    from ironflow.actors.kernel.system import System


class Elsewhere:
    """Functions whose bodies execute elsewhere, and the executions that are there."""

    def __init__(self, clock: Clock, system: System, knows: Callable[[str], bool]) -> None:
        """`knows` says whether anything at all executes a function."""
        self.clock, self.system, self._knows = clock, system, knows
        self._specs: dict[str, FunctionSpec] = {}
        self.is_used = False
        """Whether it has ever served a function: else nobody waits for it or is there."""
        self.leases: dict[str, Lease] = {}
        """By run id: a run has one execution at a time."""
        self.secrets: SecretSource = NoSecrets()
        self._chores: set[asyncio.Task[None]] = set()

    # -- functions --------------------------------------------------------------------------------

    def add(self, definition: Definition) -> None:
        """Serve a function from now on. Raises `InvalidInput` for a definition without sense."""
        self._specs[definition.id] = compile_spec(definition, lambda data: None)
        self.is_used = True

    def remove(self, function_id: str) -> None:
        """The function is executed somewhere else now."""
        self._specs.pop(function_id, None)

    def serves(self, function_id: str) -> bool:
        """Whether runs of this function are executed here."""
        return function_id in self._specs

    def knows(self, function_id: str) -> bool:
        """Whether anything executes this function."""
        return self._knows(function_id)

    def spec(self, function_id: str) -> FunctionSpec | None:
        """See `Host`."""
        return self._specs.get(function_id)

    def specs(self) -> Iterable[FunctionSpec]:
        """See `Host`."""
        return list(self._specs.values())

    # -- executions -------------------------------------------------------------------------------

    def attach(
        self,
        run_id: str,
        execution: int,
        steps: Mapping[str, Step],
        order: Mapping[str, list[str]],
        unsettled: AbstractSet[str],
        workflow: WorkflowState | None = None,
    ) -> None:
        """Nothing: whoever has the body has a copy of the record."""

    def running_steps(self, run_id: str) -> list[RunningStep]:
        """None: whoever has the body does not say which step it is in."""
        return []

    def is_hot(self, run_id: str, execution: int) -> bool:
        """See `Host`."""
        return self._held(run_id, execution) is not None

    def is_active(self, run_id: str) -> bool:
        """See `Host`."""
        return run_id in self.leases

    def _held(self, run_id: str, execution: int) -> Lease | None:
        lease = self.leases.get(run_id)
        return lease if lease is not None and lease.assignment.execution == execution else None

    # -- work of its own --------------------------------------------------------------------------

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        chore = self.system.loop.create_task(work)
        self._chores.add(chore)
        chore.add_done_callback(self._chores.discard)
        return chore

    async def stop(self) -> None:
        """Let go of everything that is under way here; whoever has a body may go on with it, and is
        refused.
        """
        for chore in list(self._chores):
            chore.cancel()
        await asyncio.gather(*self._chores, return_exceptions=True)
