"""Who else wants to know of a flow run's move, in the commit of the move itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ironflow.core.prefect.runs import FlowRun
from ironflow.core.prefect.states import State
from ironflow.storage.ports import Batch


class MoveSink(Protocol):
    """Told of every state that a flow run enters."""

    def flow_run_moved(self, run: FlowRun, old: State | None, batch: Batch) -> Callable[[], None]:
        """Add to `batch` what is to be kept of the move from `old` to `run.state`; what is
        returned is called once that is durable.
        """
        ...
