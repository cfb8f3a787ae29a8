"""How code that nothing interrupts learns that its run is to end: it asks."""

from __future__ import annotations

import threading

asked = threading.Event()
"""In a process that runs steps: the one that it runs now is to end."""


def is_cancelled() -> bool:
    """Whether the run of this code is to end: to be asked by loops of steps in threads and
    processes. A process that returns soon after it is True is neither terminated nor killed.
    """
    from ironflow.sdk.execution import current_branch

    branch = current_branch.get()
    return asked.is_set() or (branch is not None and branch.execution.unwinding)
