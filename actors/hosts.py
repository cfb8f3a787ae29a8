"""Bodies here and bodies with workers, behind one `Host` and one set of slots."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet

from ironflow.actors.fleet import Fleet
from ironflow.actors.pool import Pool
from ironflow.core.execution import Assignment, Host, RunningStep
from ironflow.core.functions import FunctionSpec
from ironflow.core.runs import Step
from ironflow.core.workflow_state import WorkflowState


class Hosts:
    """The `Host` of `ironflow.core.execution`: what this process cannot execute, workers may."""

    def __init__(self, local: Host, fleet: Fleet) -> None:
        self.local, self.fleet = local, fleet

    def _of(self, function_id: str) -> Host:
        return self.fleet if self.fleet.serves(function_id) else self.local

    def spec(self, function_id: str) -> FunctionSpec | None:
        """See `Host`."""
        return self.local.spec(function_id) or self.fleet.spec(function_id)

    def specs(self) -> Iterable[FunctionSpec]:
        """See `Host`."""
        return [*self.local.specs(), *self.fleet.specs()]

    def start(self, assignment: Assignment) -> None:
        """See `Host`."""
        self._of(assignment.function_id).start(assignment)

    def attach(
        self,
        run_id: str,
        execution: int,
        steps: Mapping[str, Step],
        order: Mapping[str, list[str]],
        unsettled: AbstractSet[str],
        workflow: WorkflowState | None = None,
    ) -> None:
        """See `Host`."""
        self.local.attach(run_id, execution, steps, order, unsettled, workflow)

    def wake(self, run_id: str, execution: int, key: str | None) -> bool:
        """See `Host`."""
        return self.local.wake(run_id, execution, key)

    def cancel(self, run_id: str, execution: int) -> None:
        """See `Host`."""
        self.local.cancel(run_id, execution)
        self.fleet.cancel(run_id, execution)

    def drop(self, run_id: str) -> None:
        """See `Host`."""
        self.local.drop(run_id)
        self.fleet.drop(run_id)

    def is_hot(self, run_id: str, execution: int) -> bool:
        """See `Host`."""
        return self.local.is_hot(run_id, execution) or self.fleet.is_hot(run_id, execution)

    def is_active(self, run_id: str) -> bool:
        """See `Host`."""
        return self.local.is_active(run_id) or self.fleet.is_active(run_id)

    def running_steps(self, run_id: str) -> list[RunningStep]:
        """See `Host`."""
        return self.local.running_steps(run_id)


class Slots:
    """The pool of this process for what it executes, the fleet for what workers do."""

    def __init__(self, pool: Pool, fleet: Fleet) -> None:
        self.pool, self.fleet = pool, fleet

    @property
    def capacity(self) -> int:
        """Slots of this process."""
        return self.pool.capacity

    @property
    def active(self) -> int:
        """Slots in use, here and with workers."""
        return self.pool.active + self.fleet.active

    @property
    def queued(self) -> int:
        """Runs that wait for a slot or a worker."""
        return self.pool.queued + self.fleet.queued

    @property
    def unserved(self) -> int:
        """Runs of functions that nothing serves."""
        return self.pool.unserved

    def acquire(self, run_id: str, function_id: str) -> bool:
        """Take a slot at once if that is fair."""
        if self.fleet.serves(function_id):
            return self.fleet.acquire(run_id, function_id)
        return self.pool.acquire(run_id)

    def release(self, run_id: str) -> None:
        """Give back whatever the run holds."""
        self.pool.release(run_id)
        self.fleet.release(run_id)

    def enqueue(self, run_id: str, function_id: str) -> None:
        """Wait for a slot, or for a worker."""
        if self.fleet.serves(function_id):
            self.fleet.enqueue(run_id, function_id)
        else:
            self.pool.enqueue(run_id, function_id)

    def discard(self, run_id: str, function_id: str) -> None:
        """The run no longer wants one."""
        self.pool.discard(run_id, function_id)
        self.fleet.discard(run_id)

    def position(self, run_id: str) -> int | None:
        """How many runs are before this one, None when it does not wait."""
        place = self.pool.position(run_id)
        return self.fleet.position(run_id) if place is None else place

    def serve(self, function_id: str) -> None:
        """The function can be executed from now on."""
        if self.fleet.serves(function_id):
            for run_id in self.pool.take_unserved(function_id):
                self.fleet.enqueue(run_id, function_id)
        else:
            self.pool.serve(function_id)

    def close(self) -> None:
        """Grant nothing any more: the process is draining."""
        self.pool.close()
        self.fleet.close()
