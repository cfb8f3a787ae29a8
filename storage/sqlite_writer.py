"""The journal on SQLite: what is planned on the loop, and written by one function in the
connection's thread.

Rows are prepared on the loop, where it costs the same Python as anywhere, so that the thread has to
ask for the interpreter lock only between statements. The plan is optimistic: if a statement or a
version does not fit, the transaction is rolled back and the batches are written one by one, each
behind a savepoint.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeVar

from ironflow.core.crash_points import reach
from ironflow.core.errors import StorageError, StorageFull, StreamConflict
from ironflow.storage import sql, statements
from ironflow.storage.connection import Connection
from ironflow.storage.journal import GROUP_LIMIT, Fence, GroupJournal, Row, Written
from ironflow.storage.ports import Batch, Table
from ironflow.storage.sqlite_errors import Broken, Meaning, meaning, translate

MOST_HEADS = 16384
"""Streams whose newest version is kept in memory; of others it is looked up."""

BUSY_TRIES = 6

T = TypeVar("T")

Changes = dict[str, tuple[Table, dict[Row, Row | None]]]


class Plan:
    """One commit, prepared: journal rows, and for each table and key the row that is put or
    None."""

    __slots__ = ("batches", "changes", "doubtful", "rows", "seq", "unknown")

    def __init__(self, batches: list[Batch], seq: int) -> None:
        self.batches, self.seq = batches, seq
        self.rows: list[Row] = []
        self.changes: Changes = {}
        self.unknown: dict[str, int] = {}
        self.doubtful = False


class SqliteJournal(GroupJournal):
    """See `ports.Journal`. `on_fatal` is told once when the database can no longer be written."""

    def __init__(
        self,
        connection: Connection,
        path: str,
        last_seq: int,
        *,
        group_limit: int = GROUP_LIMIT,
        on_fatal: Callable[[StorageError], None] | None = None,
    ) -> None:
        super().__init__(last_seq, group_limit)
        self._connection, self._on_fatal = connection, on_fatal
        self._loop = asyncio.get_running_loop()
        self._writer = Writer(path)
        self._heads: dict[str, int] = {}

    def _write(self, batches: list[Batch]) -> None:
        plan = self._plan(batches)
        self._connection.submit(lambda: self._commit(plan))

    def _plan(self, batches: list[Batch]) -> Plan:
        plan = Plan(batches, self._last_seq)
        seq, heads, rows = plan.seq, self._heads, plan.rows
        for batch in batches:
            for new in batch.entries:
                seq += 1
                stream, version = new[0], new[1]
                head = heads.get(stream)
                if head is None:
                    # The index fences a first version; before any other the last one must be there.
                    if version != 1:
                        plan.unknown[stream] = version - 1
                elif version != head + 1:
                    plan.doubtful = True
                heads[stream] = version
                rows.append((seq, *new))
            if batch.puts or batch.deletes:
                collect(batch, plan.changes)
        return plan

    def _commit(self, plan: Plan) -> None:
        """In the thread: write, then report to the loop."""
        try:
            outcome = self._writer.write(self._connection.raw, plan)
        except Exception as error:  # noqa: BLE001 - handed to the loop, whatever it is
            self._loop.call_soon_threadsafe(self._failed, error)
        else:
            self._loop.call_soon_threadsafe(self._returned, plan, outcome)

    def _returned(self, plan: Plan, outcome: Written) -> None:
        heads = self._heads
        if outcome.errors or plan.doubtful:
            heads.clear()
        elif len(heads) > MOST_HEADS:
            for stream in list(heads)[: MOST_HEADS // 4]:
                del heads[stream]
        self._written(outcome)

    def _failed(self, error: Exception) -> None:
        self._heads.clear()
        if not isinstance(error, StorageError):
            error = Broken(f"the journal failed: {type(error).__name__}: {error}")
        self._refused(error, for_good=isinstance(error, Broken))
        self._report(error)

    def _report(self, error: Exception | None) -> None:
        if isinstance(error, Broken) and self._on_fatal is not None:
            self._on_fatal(error)

    def _perform(self, job: Callable[..., Any]) -> None:
        self._connection.submit(lambda: self._do(job))

    def _do(self, job: Callable[[sqlite3.Connection], Any]) -> None:
        """In the thread: the job in a transaction of its own."""
        result, failure = None, None
        try:
            result = self._writer.transaction(self._connection.raw, job)
        except Exception as error:  # noqa: BLE001 - handed to whoever awaits the job
            failure = error
            if isinstance(error, _BatchFaultError):
                failure = StorageError(f"{self._writer.path}: {error}")
        self._loop.call_soon_threadsafe(self._done, result, failure)

    def _done(self, result: Any, error: Exception | None) -> None:
        # The job may have removed streams.
        self._heads.clear()
        self._performed(result, error)
        self._report(error)


class Writer:
    """The thread's side: everything here blocks."""

    def __init__(self, path: str) -> None:
        self.path = path

    def write(self, connection: sqlite3.Connection, plan: Plan) -> Written:
        """Commit the plan, or each of its batches that can be. Raises `StorageError` when none
        can."""
        if not plan.doubtful:
            try:
                self.transaction(connection, partial(_put_plan, plan=plan))
                return Written(plan.rows, {})
            except _BatchFaultError:
                plan.doubtful = True
        return self.transaction(connection, partial(self._one_by_one, plan=plan))

    def transaction(self, connection: sqlite3.Connection, work: Callable[..., T]) -> T:
        """Do `work(connection)` in a transaction and return its result.

        Raises `_BatchFaultError` when a statement or value is at fault, else what `translate` makes
        of the error.
        """
        tries = 0
        while True:
            tries += 1
            try:
                connection.execute("BEGIN IMMEDIATE")
                result = work(connection)
                reach("commit.before")
                connection.execute("COMMIT")
                reach("commit.after")
                return result
            except Exception as error:
                _roll_back(connection)
                if not isinstance(error, (sqlite3.Error, *_FAULTS)):
                    raise
                means = meaning(error)
                if means is Meaning.BATCH:
                    raise _BatchFaultError(str(error)) from error
                if means is Meaning.BUSY and tries < BUSY_TRIES:
                    continue  # each try has waited for the busy timeout
                problem = translate(error, self.path)
                if means is Meaning.UNSURE and not isinstance(problem, StorageFull):
                    # A write failed though there is space: it may have come back meanwhile.
                    if tries < 2:
                        continue
                    problem = Broken(problem.message)
                raise problem from error

    def _one_by_one(self, connection: sqlite3.Connection, plan: Plan) -> Written:
        rows, errors, fence = list[Row](), dict[int, Exception](), Fence()
        for index, batch in enumerate(plan.batches):
            error = fence.check(batch)
            if error is None:
                connection.execute("SAVEPOINT batch")
                try:
                    rows += _put_batch(connection, batch, plan.seq + len(rows))
                except (StreamConflict, sqlite3.Error, *_FAULTS) as refused:
                    if (
                        not isinstance(refused, StreamConflict)
                        and meaning(refused) is not Meaning.BATCH
                    ):
                        raise
                    connection.execute("ROLLBACK TO batch")
                    error = self._refusal(refused, batch)
                    fence.add(batch, error)
                connection.execute("RELEASE batch")
            if error is not None:
                errors[index] = error
        return Written(rows, errors)

    def _refusal(self, error: Exception, batch: Batch) -> StorageError:
        if isinstance(error, StreamConflict):
            return error
        return StorageError(f"{self.path} does not take a batch: {type(error).__name__}: {error}")


class _BatchFaultError(Exception):
    """A statement failed because of what it was given."""


# Errors of binding a value; those of SQLite itself are `sqlite3.Error`.
_FAULTS = (OverflowError, UnicodeError, ValueError)


def collect(batch: Batch, changes: Changes) -> None:
    """Add what a batch does to rows: of one key the last counts, and in a batch a put counts after
    a delete."""
    for table, key in batch.deletes:
        known = changes.get(table.name)
        if known is None:
            known = changes[table.name] = (table, {})
        known[1][tuple(key)] = None
    for table, row in batch.puts:
        known = changes.get(table.name)
        if known is None:
            known = changes[table.name] = (table, {})
        known[1][row[: table.key]] = row


def _put_plan(connection: sqlite3.Connection, plan: Plan) -> None:
    if plan.unknown:
        found = statements.read_heads(connection, list(plan.unknown))
        if found != plan.unknown:
            raise _BatchFaultError("a stream is elsewhere")
    _put_entries(connection, plan.rows)
    _put_changes(connection, plan.changes.values())


def _put_batch(connection: sqlite3.Connection, batch: Batch, seq: int) -> list[Row]:
    """Write one batch; its journal rows. Raises `StreamConflict`."""
    heads = statements.read_heads(connection, list({entry.stream for entry in batch.entries}))
    rows: list[Row] = []
    for number, entry in enumerate(batch.entries, 1):
        if entry.version != heads[entry.stream] + 1:
            raise StreamConflict(entry.stream, entry.version)
        heads[entry.stream] = entry.version
        rows.append((seq + number, *entry))
    changes: Changes = {}
    collect(batch, changes)
    _put_entries(connection, rows)
    _put_changes(connection, changes.values())
    return rows


def _put_entries(connection: sqlite3.Connection, rows: list[Row]) -> None:
    if rows:
        statements.write_rows(connection, _INSERT_ENTRIES, rows, len(statements.JOURNAL.columns))


def _put_changes(
    connection: sqlite3.Connection, changes: Iterable[tuple[Table, dict[Row, Row | None]]]
) -> None:
    for table, rows in changes:
        puts = [row for row in rows.values() if row is not None]
        if len(puts) < len(rows):
            keys = [key for key, row in rows.items() if row is None]
            statements.write_rows(connection, statements.delete(table), keys, table.key)
        if puts:
            texts = statements.insert(table, replace=True)
            statements.write_rows(connection, texts, puts, len(table.columns))


def _roll_back(connection: sqlite3.Connection) -> None:
    # SQLite itself has rolled back after some errors, a full disk among them.
    if connection.in_transaction:
        connection.execute("ROLLBACK")


def read_last_seq(connection: sqlite3.Connection) -> int:
    """The newest sequence number that was ever committed."""
    (seq,) = connection.execute(sql.load("journal")["last_seq"]).fetchone()
    return int(seq)


_INSERT_ENTRIES = statements.insert(statements.JOURNAL, replace=False)
