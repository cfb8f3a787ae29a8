"""`executions.log`: one line for each time that a step's code is entered, `run id, pid, step`.

Written with one `write` to a file opened for appending, so that lines of several threads and
processes stay whole, and before the step does anything, so that a step which the process did not
survive is there, too.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

LOG = "executions.log"


class Execution(NamedTuple):
    """One line of the log."""

    run_id: str
    pid: int
    step: str


class Notebook(NamedTuple):
    """The log in `folder`, for one run."""

    folder: str
    run_id: str

    def add(self, step: str) -> None:
        """Note that this process is about to execute a step."""
        line = f"{self.run_id}\t{os.getpid()}\t{step}\n".encode()
        path = Path(self.folder, LOG)
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, line)
        finally:
            os.close(descriptor)

    def read(self) -> list[Execution]:
        """The run's lines, oldest first."""
        path = Path(self.folder, LOG)
        if not path.exists():
            return []
        lines = [line.split("\t", 2) for line in path.read_text(encoding="utf-8").splitlines()]
        return [Execution(run, int(pid), step) for run, pid, step in lines if run == self.run_id]

    def count(self, step: str) -> int:
        """How often a step was executed so far."""
        return sum(execution.step == step for execution in self.read())
