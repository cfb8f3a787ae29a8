"""Who else wants to know of a flow's change or a flow run's move, in the commit of that itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol

from ironflow.core.prefect.runs import FlowRun, Labels
from ironflow.core.prefect.states import State
from ironflow.storage.ports import Batch


class FlowChange(NamedTuple):
    """What became of a flow, and how it is since then; before it was deleted, in that case."""

    what: Literal["created", "updated", "deleted"]
    event_id: str
    at: int
    """Microseconds."""
    flow_id: str
    name: str
    tags: list[str]
    labels: Labels


class MoveSink(Protocol):
    """Told of every change of a flow, and every state that a flow run enters."""

    def flow_changed(self, change: FlowChange, batch: Batch) -> Callable[[], None]:
        """Add to `batch` what is to be kept of the change; what is returned is called once that is
        durable.
        """
        ...

    def flow_run_moved(self, run: FlowRun, old: State | None, batch: Batch) -> Callable[[], None]:
        """Add to `batch` what is to be kept of the move from `old` to `run.state`; what is
        returned is called once that is durable.
        """
        ...
