"""Starts DBOS (PyPI `dbos`) on SQLite, its default: rollback journal, synchronous FULL, one
transaction a step.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncIterator
from pathlib import Path

from environments import python_of
from harness.processes import Process, free_port, running
from harness.scenario import Setting
from servers import HEALTH, Served

NAME = "DBOS (SQLite)"
HERE = Path(__file__).resolve().parent

install = functools.partial(python_of, "dbos")


def process(setting: Setting, port: int) -> Process:
    """The front and the library in one process."""
    # -P: this module, beside the app, must not stand before the library of the same name.
    line = [install(), "-P", HERE / "dbos_app.py", str(port)]
    line.append(f"sqlite:///{setting.folder / 'dbos.sqlite'}")
    return Process("dbos", line, setting.folder)


@contextlib.asynccontextmanager
async def served(setting: Setting) -> AsyncIterator[Served]:
    """DBOS that is healthy, until the end of the block."""
    port = free_port()
    app = process(setting, port)
    async with running(app):
        yield Served(port, (app,), await app.answers(port, HEALTH))
