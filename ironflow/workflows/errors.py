"""What can go wrong with a workflow."""

from __future__ import annotations

__all__ = [
    "ContextSerdeError",
    "ContextStateError",
    "WorkflowCancelledByUser",
    "WorkflowConfigurationError",
    "WorkflowDone",
    "WorkflowRuntimeError",
    "WorkflowStepDoesNotExistError",
    "WorkflowTimeoutError",
    "WorkflowValidationError",
]


class WorkflowValidationError(Exception):
    """A workflow or one of its steps is written in a way that cannot work."""


class WorkflowConfigurationError(Exception):
    """A workflow has not exactly one start event class and one stop event class."""


class WorkflowRuntimeError(Exception):
    """Something was asked of a run that it cannot do, or a step did what steps must not do."""


class WorkflowTimeoutError(Exception):
    """A run took longer than its workflow's `timeout`."""


class WorkflowCancelledByUser(Exception):
    """A run was cancelled."""


class WorkflowStepDoesNotExistError(Exception):
    """A step was named that the workflow does not have."""


class WorkflowDone(Exception):
    """The run has ended already."""


class ContextSerdeError(Exception):
    """A context cannot be written or read; the message names the key."""


class ContextStateError(Exception):
    """A context was used in a state in which it cannot be: while its run goes on, or after it."""
