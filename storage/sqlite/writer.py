"""The journal on SQLite: what is planned on the loop, and written by one function in the
connection's thread, or on the spot when that is quicker (`storage.sqlite.pace`).

Rows are prepared on the loop, where it costs the same Python as anywhere, so that the thread has to
ask for the interpreter lock only between statements. The plan is optimistic: if a statement or a
version does not fit, the transaction is rolled back and the batches are written one by one, each
behind a savepoint.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import sqlite3
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from ironflow.core.crash_points import reach
from ironflow.core.errors import StorageError, StorageFull, StreamConflict
from ironflow.storage.journal import GROUP_LIMIT, Fence, GroupJournal, Written
from ironflow.storage.ports import Batch
from ironflow.storage.sqlite import sql
from ironflow.storage.sqlite.backlog import Backlog, Taken
from ironflow.storage.sqlite.changes import Row
from ironflow.storage.sqlite.connection import SYNCHRONOUS, Connection
from ironflow.storage.sqlite.deferral import LINGER, MOST_ROWS, put_all, put_singly
from ironflow.storage.sqlite.errors import Broken, Meaning, meaning, translate
from ironflow.storage.sqlite.pace import Pace
from ironflow.storage.sqlite.plan import (
    FAULTS,
    MANY,
    BatchFault,
    Plan,
    put_batch,
    put_plan,
    sizes_of,
)
from ironflow.storage.sqlite.wal import Chore, WriteAheadLog, pages_of

log = logging.getLogger("ironflow.storage")

MOST_HEADS = 16384
"""Streams whose newest version is kept in memory; of others it is looked up."""

BUSY_TRIES = 6

PATIENCE = 5.0
"""Seconds until what could not be done, rows that were put off or a checkpoint, is tried again
unasked."""

_UNSYNCED = SYNCHRONOUS["process"]

T = TypeVar("T")


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
        log: WriteAheadLog,
        busy_timeout: float = 5.0,
        durability: str = "full",
    ) -> None:
        """`busy_timeout`: seconds that the connection waits for a lock of another program."""
        super().__init__(last_seq, group_limit)
        self._connection, self._on_fatal = connection, on_fatal
        self._loop = asyncio.get_running_loop()
        self._writer = Writer(path, busy_timeout, SYNCHRONOUS[durability])
        self._log = log
        self.pace = Pace()
        self._was_kept = False
        """The next commit follows a chore, and may take longer than others do."""
        self._heads: dict[str, int] = {}
        self.backlog = Backlog()
        self._settling: asyncio.Future[None] | None = None
        self._lingering: asyncio.TimerHandle | None = None
        self._tending: asyncio.TimerHandle | None = None

    async def settle(self) -> None:
        """Write what was put off to its tables, all that is acknowledged by now. Raises
        `StorageError`."""
        if self._refusal is not None:
            raise copy.copy(self._refusal)
        if self._settling is None:
            self._settle()
        assert self._settling is not None
        await asyncio.shield(self._settling)

    async def finish(self) -> None:
        """`settle` for the last time, before the database is closed; what cannot be written now,
        who opens it next will."""
        for timer in (self._lingering, self._tending):
            if timer is not None:
                timer.cancel()
        if self.backlog.holds():
            try:
                await self._queue(_nothing)
            except StorageError as error:
                log.warning("%s: rows are left for later: %s", self._writer.path, error)

    def _settle(self) -> None:
        # Any job is preceded by what was put off.
        self._settling = self._queue(_nothing)
        # Nobody may be waiting for it, and whoever wants to read next will hear of it.
        self._settling.add_done_callback(lambda future: future.cancelled() or future.exception())

    def _linger(self) -> None:
        self._lingering = None
        if self.backlog and self._settling is None and self._refusal is None:
            self._settle()

    def _give_back(self) -> None:
        """What was put off could not be written."""
        self.backlog.give_back()
        if self._lingering is None and self._refusal is None:
            self._lingering = self._loop.call_later(PATIENCE, self._linger)

    def _watch_backlog(self) -> None:
        """Something was put off."""
        if self.backlog.rows >= MOST_ROWS and self._settling is None:
            self._settle()
        elif self._lingering is None:
            self._lingering = self._loop.call_later(LINGER, self._linger)

    def _next(self) -> None:
        chore = self._log.chore()
        if chore is None:
            super()._next()
        else:
            self._busy = self._was_kept = True
            self._connection.submit(lambda: self._tend(chore))

    def _tend(self, chore: Chore) -> None:
        """In the thread: something for the log. What keeps it from that, commits will tell."""
        failure = None
        try:
            chore(self._connection.raw)
        except (sqlite3.Error, OSError, StorageError) as error:
            failure = error
        self._loop.call_soon_threadsafe(self._tended, failure)

    def _tended(self, error: Exception | None) -> None:
        if error is not None:
            if not self._log.is_put_off:
                log.warning("the log of %s: %s", self._writer.path, error)
            self._log.put_off()
            if self._tending is None:
                self._tending = self._loop.call_later(PATIENCE, self._tend_again)
        self._next()

    def _tend_again(self) -> None:
        """There may be space by now, and nobody who writes."""
        self._tending = None
        if self._log.is_put_off and self._refusal is None:
            self._log.try_again()
            if not self._busy:
                self._next()

    def _holds_up(self, batches: int) -> bool:
        return self.pace.is_quick and batches < MANY and not self._was_kept

    def _write(self, batches: list[Batch]) -> None:
        plan = self._plan(batches)
        if plan.doubtful:
            self._write_apart(plan)
            return
        may_hold_up = not (self._owes or plan.is_large) and self._holds_up(len(batches))
        if may_hold_up and self._commit_here(plan):
            return
        was_kept, self._was_kept = self._was_kept, False
        self._connection.submit(lambda: self._commit(plan, was_kept))

    def _write_apart(self, plan: Plan) -> None:
        """Whatever is wrong with one batch does not concern the others. Each is compared with the
        journal, so what was put off is written first."""
        plan.doubtful, plan.deferred = True, None
        if plan.settled is None:
            plan.settled = self.backlog.take()
        self._connection.submit(lambda: self._commit(plan, True))

    def _commit_here(self, plan: Plan) -> bool:
        """Commit on the loop: nothing else uses the connection meanwhile, and everybody is told of
        what came before. False: not now.
        """
        began = time.perf_counter()
        outcome = self._writer.write_at_once(self._connection.raw, plan)
        if outcome is None:
            return False
        self.pace.on_loop += 1
        self.pace.note(len(plan.batches), time.perf_counter() - began)
        self._returned(plan, outcome, None)
        return True

    def _plan(self, batches: list[Batch]) -> Plan:
        backlog = self.backlog
        plan = Plan(batches, self._last_seq, backlog.place())
        if plan.is_large and backlog:
            plan.settled = backlog.take()
        seq, heads, rows = plan.seq, self._heads, plan.rows
        for batch in batches:
            for new in batch.entries:
                seq += 1
                stream, version = new[0], new[1]
                head = heads.get(stream)
                if head is None and (head := backlog.head(stream)) is None:
                    plan.unknown[stream] = version - 1
                elif version != head + 1:
                    plan.doubtful = True
                heads[stream] = version
                rows.append((seq, *new))
            if batch.puts or batch.deletes:
                plan.add(batch)
        plan.encode()
        return plan

    def _commit(self, plan: Plan, was_kept: bool) -> None:
        """In the thread: write, then report to the loop."""
        began = time.perf_counter()
        try:
            outcome = self._writer.write(self._connection.raw, plan)
        except BatchFault:
            self._loop.call_soon_threadsafe(self._write_apart, plan)
        except Exception as error:  # noqa: BLE001 - handed to the loop, whatever it is
            self._loop.call_soon_threadsafe(self._failed, plan, error)
        else:
            seconds = None if was_kept else time.perf_counter() - began
            self._loop.call_soon_threadsafe(self._returned, plan, outcome, seconds)

    def _returned(self, plan: Plan, outcome: Written, seconds: float | None) -> None:
        """A commit was made; `seconds` is what it took in the thread, if that says anything."""
        if seconds is not None:
            self.pace.note_thread(len(plan.batches), seconds)
        heads = self._heads
        if outcome.errors or plan.doubtful:
            heads.clear()
        elif len(heads) > MOST_HEADS:
            for stream in list(heads)[: MOST_HEADS // 4]:
                del heads[stream]
        if plan.settled is not None:
            self.backlog.written()
        if plan.deferred is not None:
            self.backlog.add(plan.place, plan.rows, plan.later)
        self._written(outcome)
        # Everybody was told; now there is time.
        self._log.pages += plan.pages()
        if plan.deferred is not None:
            self._watch_backlog()

    def _failed(self, plan: Plan, error: Exception) -> None:
        self._heads.clear()
        if plan.settled is not None:
            self._give_back()
        if not isinstance(error, StorageError):
            error = Broken(f"the journal failed: {type(error).__name__}: {error}")
        self._refused(error, for_good=isinstance(error, Broken))
        self._report(error)

    def _report(self, error: Exception | None) -> None:
        if isinstance(error, Broken) and self._on_fatal is not None:
            self._on_fatal(error)

    def _perform(self, job: Callable[..., Any]) -> None:
        self._settling = None  # what is acknowledged from now on is for the next one
        taken = self.backlog.take()
        self._connection.submit(lambda: self._do(job, taken))

    def _do(self, job: Callable[[sqlite3.Connection], Any], taken: Taken) -> None:
        """In the thread: write what was put off, then do the job in a transaction of its own."""
        result, failure, changed, settled = None, None, 0, False
        connection = self._connection.raw
        try:
            if taken.entries or taken.changes:
                self._writer.settle(connection, taken)
            settled = True
            if job is not _nothing:
                changed = connection.total_changes
                result = self._writer.transaction(connection, job)
                changed = connection.total_changes - changed
                if changed:
                    self._log.doubt()
        except Exception as error:  # noqa: BLE001 - handed to whoever awaits the job
            failure, changed = error, 0
            if isinstance(error, BatchFault):
                failure = StorageError(f"{self._writer.path}: {error}")
        if settled:
            changed += pages_of(len(taken.entries), taken.size, sizes_of(taken.changes))
        self._loop.call_soon_threadsafe(self._done, job, result, failure, changed, settled)

    def _done(
        self, job: object, result: Any, error: Exception | None, changed: int, settled: bool
    ) -> None:
        if settled:
            self.backlog.written()
        else:
            self._give_back()
        self._log.pages += changed
        if job is not _nothing:
            # It may have removed streams.
            self._heads.clear()
        if isinstance(error, Broken):
            self.refuse(error)
        self._performed(result, error)
        self._report(error)


class Writer:
    """The thread's side: everything here blocks."""

    def __init__(self, path: str, busy_timeout: float, synchronous: str) -> None:
        self.path, self.busy_timeout, self.synchronous = path, busy_timeout, synchronous
        self._is_patient = True

    def write_at_once(self, connection: sqlite3.Connection, plan: Plan) -> Written | None:
        """Commit the plan if nothing stands in the way; None: nothing was written, and `write`
        finds out why."""
        self._be_patient(connection, False)
        try:
            _attempt(connection, partial(put_plan, plan=plan), plan.is_plain)
        except Exception:  # noqa: BLE001 - `write` meets it again, and knows what it means
            _roll_back(connection)
            return None
        return Written(plan.rows, {})

    def _be_patient(self, connection: sqlite3.Connection, wanted: bool) -> None:
        """Whether to wait for a lock that another program holds."""
        if wanted is not self._is_patient:
            milliseconds = round(self.busy_timeout * 1000) if wanted else 0
            connection.execute(f"PRAGMA busy_timeout = {milliseconds}")
            self._is_patient = wanted

    def write(self, connection: sqlite3.Connection, plan: Plan) -> Written:
        """Commit the plan, or of a doubtful one each batch that can be.

        Raises `BatchFault` when it can be written in part only, and `StorageError`.
        """
        if plan.doubtful:
            return self.transaction(connection, partial(self._one_by_one, plan=plan))
        self.transaction(connection, partial(put_plan, plan=plan), plan.is_plain)
        return Written(plan.rows, {})

    def transaction(
        self, connection: sqlite3.Connection, work: Callable[..., T], is_plain: bool = False
    ) -> T:
        """Do `work(connection)` in a transaction and return its result; `is_plain` work is one
        statement.

        Raises `BatchFault` when a statement or value is at fault, else what `translate` makes
        of the error.
        """
        tries = 0
        self._be_patient(connection, True)
        while True:
            tries += 1
            try:
                return _attempt(connection, work, is_plain)
            except Exception as error:
                _roll_back(connection)
                if not isinstance(error, (sqlite3.Error, *FAULTS)):
                    raise
                means = meaning(error)
                if means is Meaning.BATCH:
                    raise BatchFault(str(error)) from error
                if means is Meaning.BUSY and tries < BUSY_TRIES:
                    continue  # each try has waited for the busy timeout
                problem = translate(error, self.path)
                if isinstance(problem, StorageFull) and tries < 2 and _fold(connection):
                    continue  # the log begins anew, and has room
                if means is Meaning.UNSURE and not isinstance(problem, StorageFull):
                    # A write failed though there is space: it may have come back meanwhile.
                    if tries < 2:
                        continue
                    problem = Broken(problem.message)
                raise problem from error

    def settle(self, connection: sqlite3.Connection, taken: Taken) -> None:
        """Write what was put off to its tables. Need not wait for the disk, because it is there
        already. Raises `StorageError`."""
        if self.synchronous != _UNSYNCED:
            connection.execute(f"PRAGMA synchronous = {_UNSYNCED}")
        try:
            try:
                self.transaction(connection, partial(put_all, taken=taken))
            except BatchFault:
                self.transaction(connection, partial(put_singly, taken=taken))
        finally:
            if self.synchronous != _UNSYNCED:
                connection.execute(f"PRAGMA synchronous = {self.synchronous}")

    def _one_by_one(self, connection: sqlite3.Connection, plan: Plan) -> Written:
        rows, errors, fence = list[Row](), dict[int, Exception](), Fence()
        if plan.settled is not None:
            put_singly(connection, plan.settled)
        for index, batch in enumerate(plan.batches):
            error = fence.check(batch)
            if error is None:
                connection.execute("SAVEPOINT batch")
                try:
                    rows += put_batch(connection, batch, plan.seq + len(rows))
                except (StreamConflict, sqlite3.Error, *FAULTS) as refused:
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


def _attempt(connection: sqlite3.Connection, work: Callable[..., T], is_plain: bool) -> T:
    if is_plain:
        reach("commit.before")
        result = work(connection)
    else:
        connection.execute("BEGIN IMMEDIATE")
        result = work(connection)
        reach("commit.before")
        connection.execute("COMMIT")
    reach("commit.after")
    return result


def _nothing(connection: sqlite3.Connection) -> None:
    """A job that only waits for what precedes every job."""


def _fold(connection: sqlite3.Connection) -> bool:
    """Whether the whole log could be folded into the database, which may be possible without
    space: it writes over what is there.
    """
    try:
        _, length, folded = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    except sqlite3.Error:
        return False
    return bool(folded >= length > 0)


def _roll_back(connection: sqlite3.Connection) -> None:
    # SQLite itself has rolled back after some errors, a full disk among them.
    if connection.in_transaction:
        connection.execute("ROLLBACK")


def read_last_seq(connection: sqlite3.Connection) -> int:
    """The newest sequence number that was ever committed."""
    (seq,) = connection.execute(sql.load("journal")["last_seq"]).fetchone()
    return int(seq)
