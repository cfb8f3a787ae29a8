"""Tables that are read with SQL (`Reader.select`), because their faces filter by anything.

Every store keeps them in SQLite: the durable one in its file, the memory one in a `Relations`, a
database in memory that the same migrations made.
"""

from __future__ import annotations

import sqlite3
import weakref
from collections.abc import Iterable, Sequence
from typing import Any

from ironflow.storage.ports import Table
from ironflow.storage.relational import handlers, prefect_events, prefect_runs
from ironflow.storage.sqlite import statements
from ironflow.storage.sqlite.schema import migrations
from ironflow.storage.sqlite.schema import statements as split

Row = tuple[Any, ...]
Values = Sequence[Any] | dict[str, Any]

RELATIONAL: tuple[Table, ...] = (
    *prefect_runs.TABLES, *prefect_events.TABLES, *handlers.TABLES,
)  # fmt: skip
OF_RUN: tuple[tuple[str, str], ...] = (
    *prefect_runs.OF_RUN, *prefect_events.OF_RUN, *handlers.OF_RUN,
)  # fmt: skip
"""What retention deletes with a run, as (table, column that holds the run's id)."""
OF_STREAM: tuple[tuple[str, str], ...] = (*prefect_runs.OF_STREAM,)
"""What retention deletes with a run, as (table, column that holds the name of its stream)."""
NAMES = frozenset(table.name for table in RELATIONAL)


def deletions() -> list[tuple[str, str]]:
    """What deletes all of a run, as (statement, `run` or `stream`: what its parameter is)."""
    parts = [(OF_RUN, "run"), (OF_STREAM, "stream")]
    return [
        (f"DELETE FROM {table} WHERE {column} = ?", by)
        for places, by in parts
        for table, column in places
    ]


class Relations:
    """The relational tables of a store in memory."""

    def __init__(self) -> None:
        self._connection: sqlite3.Connection | None = None

    @property
    def connection(self) -> sqlite3.Connection:
        """The database, made when it is first needed: most stores in memory never do."""
        if self._connection is None:
            self._connection = sqlite3.connect(
                ":memory:", isolation_level=None, check_same_thread=False
            )
            # Nobody closes a store in memory that is just forgotten.
            weakref.finalize(self, self._connection.close)
            for migration in migrations():
                for statement in split(migration.text):
                    self._connection.execute(statement)
        return self._connection

    def put(self, table: Table, row: Row) -> None:
        """Insert a row or change the columns that may change."""
        self.connection.execute(statements.insert(table, replace=True)[1], row)

    def delete(self, table: Table, key: Row) -> None:
        """Delete the row of a key."""
        self.connection.execute(statements.delete(table)[1], key)

    def select(self, query: str, values: Values) -> list[Row]:
        """The rows of a query."""
        return self.connection.execute(query, values).fetchall()

    def forget(self, run_ids: Iterable[str]) -> None:
        """Delete all that belongs to these runs."""
        if self._connection is None:
            return
        for run_id in run_ids:
            for statement, by in deletions():
                name = run_id if by == "run" else f"run/{run_id}"
                self._connection.execute(statement, (name,))

    def counts(self) -> dict[str, int]:
        """The number of rows of each table."""
        return {
            name: self.select(f"SELECT count(*) FROM {name}", ())[0][0] for name in sorted(NAMES)
        }
