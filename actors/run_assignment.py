"""What the executor of a run's body is handed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from ironflow.actors.effects import LocalEffects
from ironflow.core.execution import Assignment
from ironflow.core.runs import Run, StepStatus

if TYPE_CHECKING:
    from ironflow.actors.run import RunActor


def assign(actor: RunActor) -> Assignment:
    """The present execution of the run's body."""
    run, ending = actor.run, actor.ending
    return Assignment(
        run.id,
        run.function_id,
        run.execution,
        run.attempt,
        run.input,
        run.options,
        run.created_at,
        run.event,
        run.parent.depth if run.parent is not None else 0,
        run.steps,
        run.order,
        ending.outcome if ending is not None else None,
        LocalEffects(actor.environment, actor.system.at(actor.address), run.execution),
        lambda: record(actor),
        actor.unsettled,
        run.events,
        run.actor,
    )


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
