"""The steps of a workflow's run as views show them: each job one step, read from its turns.

The state of a run holds only what is under way, so what is over is read from the entries. Pure.
"""

from __future__ import annotations

from ironflow.core.runs import entries as e
from ironflow.core.runs.entries import RunEntry
from ironflow.core.runs.state import Step, StepStatus
from ironflow.core.workflows.state import (
    ChildStarted,
    JobAdded,
    JobBegan,
    JobCancelled,
    JobEnded,
    JobFailed,
    JobWaits,
    TurnOp,
    WaitMet,
)

MOST_STEPS = 1000
"""Steps that are held; of a longer run the newest."""


class StepHistory:
    """The steps that some entries speak of, by key."""

    def __init__(self) -> None:
        self.steps: dict[str, Step] = {}
        self._keys: dict[int, str] = {}

    def add(self, entry: RunEntry, at: int) -> None:
        """One more entry of the run, recorded at `at`."""
        match entry:
            case e.TurnRecorded():
                for op in entry.ops:
                    self._add_op(op, at)
            case e.JobDue():
                step = self._step(entry.job)
                if step is not None and step.status is StepStatus.RETRYING:
                    step.status, step.until = StepStatus.DUE, None
            case e.RunCompleted() | e.RunFailed() | e.RunCancelled():
                for step in self.steps.values():
                    if step.ended_at is None:
                        step.status, step.ended_at, step.until = StepStatus.CANCELLED, at, None
            case _:
                return

    def _step(self, job: int) -> Step | None:
        return self.steps.get(self._keys.get(job, ""))

    def _add_op(self, op: TurnOp, at: int) -> None:
        if isinstance(op, JobAdded):
            key = self._keys[op.job] = f"{op.step}#{op.job}"
            self.steps[key] = Step(key, op.step, "run", StepStatus.DUE, op.job)
            while len(self.steps) > MOST_STEPS:
                self._keys.pop(self.steps.pop(next(iter(self.steps))).pos, None)
            return
        step = self._step(op.job) if hasattr(op, "job") and op.job is not None else None
        if step is None:
            return
        match op:
            case JobBegan():
                step.started_at = step.started_at or at
                step.status = StepStatus.DUE
            case JobEnded():
                step.status, step.ended_at, step.event = StepStatus.COMPLETED, at, None
            case JobCancelled():
                step.status, step.ended_at = StepStatus.CANCELLED, at
                step.event = step.until = None
            case JobFailed():
                again = op.retry_at is not None
                step.status = StepStatus.RETRYING if again else StepStatus.FAILED
                step.error, step.until = op.error, op.retry_at
                if again:
                    step.attempt += 1
                else:
                    step.ended_at = at
            case JobWaits():
                step.status, step.until = StepStatus.WAITING, op.until
                step.event = op.type.rpartition(".")[2]
            case WaitMet():
                step.status, step.until = StepStatus.DUE, None
            case ChildStarted():
                step.child, step.target = op.run_id, op.workflow
            case _:
                return
