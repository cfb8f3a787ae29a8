"""When a flow run must be brought on, should its client not do it."""

from __future__ import annotations

from ironflow.core.clock import SECOND
from ironflow.core.prefect.runs import History, TaskRun
from ironflow.core.prefect.states import micros

LATE_AFTER = 15 * SECOND
"""How long after its scheduled time a run that nobody has taken is late."""
CLEAN_UP_AFTER = 10 * SECOND
"""How long after its cancellation what a flow run left behind is cancelled, too: its process may
still report how its tasks ended.
"""
LATE_TIMER, PAUSE_TIMER, CLEAN_UP_TIMER = "late", "pause", "clean_up"
TIMER_NAMES = (LATE_TIMER, PAUSE_TIMER, CLEAN_UP_TIMER)


def wanted_timers(history: History) -> dict[str, int]:
    """The timers that a flow run has, by name, with their moments in microseconds."""
    run = history.flow_run
    state = None if run is None else run.state
    if state is None:
        return {}
    if state.type == "SCHEDULED" and state.name == "Scheduled" and state.scheduled_at is not None:
        return {LATE_TIMER: state.scheduled_at + LATE_AFTER}
    timeout = micros(state.state_details.pause_timeout)
    if state.type == "PAUSED" and timeout is not None:
        return {PAUSE_TIMER: timeout}
    if state.type == "CANCELLED" and left_behind(history):
        return {CLEAN_UP_TIMER: state.at + CLEAN_UP_AFTER}
    return {}


def left_behind(history: History) -> list[TaskRun]:
    """The task runs that have not ended."""
    return [task for task in history.tasks.values() if not task.is_terminal]
