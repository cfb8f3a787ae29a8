"""Event-driven workflows: classes whose steps are wired by the events that they take and return.

    from ironflow.workflows import Context, Workflow, step
    from ironflow.workflows.events import StartEvent, StopEvent

The names and modules are those of LlamaIndex Workflows: a class written for them runs here after
the import lines say `ironflow.workflows`. Events are pydantic models: pydantic 2 must be there for
the Python that executes the file.
"""

try:
    import pydantic as _pydantic
except ImportError as error:
    raise ImportError(
        "ironflow.workflows needs pydantic 2: pip install pydantic (for ironflow.pyz: into the "
        "Python that runs it)"
    ) from error

from ironflow.workflows.collect import Collect
from ironflow.workflows.context import Context
from ironflow.workflows.events import (
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StopEvent,
)
from ironflow.workflows.handler import WorkflowHandler
from ironflow.workflows.resource import Resource
from ironflow.workflows.runtime import open_runtime
from ironflow.workflows.steps import catch_error, step
from ironflow.workflows.workflow import Workflow

__all__ = [
    "Collect",
    "Context",
    "Event",
    "HumanResponseEvent",
    "InputRequiredEvent",
    "Resource",
    "StartEvent",
    "StopEvent",
    "Workflow",
    "WorkflowHandler",
    "catch_error",
    "open_runtime",
    "step",
]

del _pydantic
