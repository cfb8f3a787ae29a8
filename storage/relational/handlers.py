"""The table of workflow handlers (see `relational`): names of callers, each with its newest run.

`status`, `error` and the moments (microseconds) are those of that run, `version` is the version of
its stream as of the row.
"""

from __future__ import annotations

from ironflow.storage.ports import Table

HANDLERS = Table(
    "handlers",
    1,
    (
        "id", "run_id", "workflow", "status", "created_at", "updated_at", "ended_at", "error",
        "version",
    ),
    deferred=True,
)  # fmt: skip

TABLES = (HANDLERS,)
OF_RUN = (("handlers", "run_id"),)
"""What goes with a run, as (table, column that holds the run's id)."""
