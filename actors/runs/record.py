"""A run as whoever executes its body elsewhere is handed it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from ironflow.core.runs.state import Run, StepStatus

if TYPE_CHECKING:
    from ironflow.actors.runs.run import RunActor


def record(actor: RunActor) -> Run:
    """The run as a body in another process may know it: an end that is on its way to the disk has
    not happened for it.
    """
    run, steps = actor.run, {}
    for key in actor.unsettled & run.steps.keys():
        step = run.steps[key]
        if step.status is StepStatus.DUE:
            steps[key] = msgspec.structs.replace(step, status=StepStatus.RETRYING)
        else:
            steps[key] = msgspec.structs.replace(
                step, status=StepStatus.WAITING, ended_at=None, result=None, error=None
            )
    if not steps:
        return run
    still_open = {**run.open, **dict.fromkeys(steps)}
    return msgspec.structs.replace(run, steps={**run.steps, **steps}, open=still_open)
