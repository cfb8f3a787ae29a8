"""Testing workflows: `result = await WorkflowTestRunner(workflow).run(MyStart(...))`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ironflow.workflows.context import Context
    from ironflow.workflows.workflow import Workflow

__all__ = ["WorkflowTestResult", "WorkflowTestRunner"]


@dataclass
class WorkflowTestResult:
    """What a run streamed, how many events of each class, and its result."""

    collected: list[Any] = field(default_factory=list)
    event_types: dict[type, int] = field(default_factory=dict)
    result: Any = None


class WorkflowTestRunner:
    """Runs a workflow in memory, and collects its events."""

    def __init__(self, workflow: Workflow) -> None:
        self.workflow = workflow

    async def run(
        self,
        start_event: Any = None,
        ctx: Context[Any] | None = None,
        expose_internal: bool = True,
        exclude_events: list[type] | None = None,
    ) -> WorkflowTestResult:
        """A run up to its end. Raises what it fails with."""
        handler = self.workflow.run(ctx=ctx, start_event=start_event)
        excluded = tuple(exclude_events or ())
        collected = [
            event
            async for event in handler.stream_events(expose_internal)
            if type(event) not in excluded
        ]
        result = await handler
        counts = Counter(type(event) for event in collected)
        return WorkflowTestResult(collected, dict(counts), result)
