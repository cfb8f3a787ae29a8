"""Group commit: what `SqliteJournal` and `MemoryJournal` have in common.

Whatever waits goes into one commit the moment the last one returns: no timer, no sleep. One commit
or one exclusive job is under way at a time, so a subclass may keep what it knows about the
committed state in memory. The subclass writes (`_write`, `_perform`) and reports back on the loop
(`_written`, `_refused`, `_performed`).
"""

from __future__ import annotations

import asyncio
import copy
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

import msgspec

from ironflow.core.errors import StorageError, StreamConflict
from ironflow.storage.ports import Batch, Done, Entry, JournalStats

T = TypeVar("T")
Row = tuple[Any, ...]
Listener = Callable[[Sequence[Entry]], None]

_make = tuple.__new__
"""As `Entry._make` does it, without a call in between."""

GROUP_LIMIT = 128
"""Batches in one commit. With more callers than this, one half's commit overlaps the other half's
Python."""


class Append(msgspec.Struct, eq=False):
    """A queued batch; `error` is set as soon as it is known that it cannot be written."""

    batch: Batch
    done: Done
    error: Exception | None = None


class Written(msgspec.Struct, frozen=True):
    """The outcome of a commit: entries as `(seq, *NewEntry)`, and the refused batches by their
    index."""

    rows: list[Row]
    errors: dict[int, Exception]


def touched_streams(batch: Batch) -> set[str]:
    """Streams that the batch appends to or keeps something about."""
    streams = {entry.stream for entry in batch.entries}
    for changes in (batch.puts, batch.deletes):
        streams.update(row[0] for table, row in changes if table.columns[0] == "stream")
    return streams


def refusal(batch: Batch, cause: Exception) -> Exception:
    """The error of a batch that cannot be written because of `cause`, an object of its own."""
    if isinstance(cause, StreamConflict) and batch.entries:
        return StreamConflict(batch.entries[0].stream, batch.entries[0].version)
    return copy.copy(cause)


class Fence:
    """Streams that lost an append: what was queued behind it must not be written either."""

    def __init__(self) -> None:
        self._lost: dict[str, Exception] = {}

    def __bool__(self) -> bool:
        return bool(self._lost)

    def add(self, batch: Batch, error: Exception) -> None:
        """`batch` was refused with `error`."""
        self._lost.update(dict.fromkeys(touched_streams(batch), error))

    def check(self, batch: Batch) -> Exception | None:
        """Why `batch` must be refused, if it must; it is then added."""
        if not self._lost:
            return None
        cause = next((self._lost[s] for s in touched_streams(batch) if s in self._lost), None)
        if cause is None:
            return None
        error = refusal(batch, cause)
        self.add(batch, error)
        return error


class GroupJournal(ABC):
    """The queue, the callbacks and the subscribers of a journal."""

    def __init__(self, last_seq: int = 0, group_limit: int = GROUP_LIMIT) -> None:
        self.stats = JournalStats()
        self._last_seq = last_seq
        self._limit = group_limit
        self._waiting: deque[Append] = deque()
        self._group: list[Append] = []
        self._jobs: deque[tuple[Callable[..., Any], asyncio.Future[Any]]] = deque()
        self._job_was_last = False
        self._busy = False
        self._doomed = 0
        self._began = 0.0
        self._owes = False
        """A commit returned of which not everybody is told yet."""
        self._listeners: tuple[Listener, ...] = ()
        self._observers: list[Callable[[int, float], None]] = []
        self._settled = 0
        self._flushes: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._refusal: StorageError | None = None

    # -- what callers see -------------------------------------------------------------------------

    @property
    def last_seq(self) -> int:
        """The newest committed sequence number, 0 when empty."""
        return self._last_seq

    def append(self, batch: Batch, done: Done) -> None:
        """See `ports.Journal`. Raises ValueError for a row that does not fit its table."""
        for table, row in batch.puts:
            if len(row) != len(table.columns) or row[0] is None:
                raise ValueError(f"{table.name} has no row {row!r}")
        if self._refusal is not None:
            asyncio.get_running_loop().call_soon(done, copy.copy(self._refusal))
            return
        self.stats.waiting += 1
        self._waiting.append(Append(batch, done))
        if not self._busy:
            self._busy = True
            asyncio.get_running_loop().call_soon(self._next)

    async def commit(self, batch: Batch) -> None:
        """See `ports.Journal`."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.append(batch, partial(_resolve, future))
        await future

    async def flush(self) -> None:
        """See `ports.Journal`."""
        if self.stats.waiting:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._flushes.append((self._settled + self.stats.waiting, future))
            await future

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """See `ports.Journal`."""
        self._listeners = (*self._listeners, listener)
        return partial(self._unsubscribe, listener)

    def on_commit(self, observer: Callable[[int, float], None]) -> None:
        """See `ports.Journal`."""
        self._observers.append(observer)

    async def exclusive(self, job: Callable[..., T]) -> T:
        """Run `job` (as `_perform` says) between two commits, and give what it returns or
        raises."""
        if self._refusal is not None:
            raise copy.copy(self._refusal)
        return await self._queue(job)

    def refuse(self, error: StorageError) -> None:
        """Refuse every later append with `error`."""
        self._refusal = error

    # -- for subclasses ---------------------------------------------------------------------------

    @abstractmethod
    def _write(self, batches: list[Batch]) -> None:
        """Start to write `batches` in one commit; later, and on the loop, call `_written` or
        `_refused`."""

    def _holds_up(self, batches: int) -> bool:
        """Whether a commit of so many batches would be made here and now."""
        return False

    @abstractmethod
    def _perform(self, job: Callable[..., Any]) -> None:
        """Start `job`; later, and on the loop, call `_performed`."""

    def _queue(self, job: Callable[..., T]) -> asyncio.Future[T]:
        """What `exclusive` waits for."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._jobs.append((job, future))
        if not self._busy:
            self._busy = True
            loop.call_soon(self._next)
        return future

    def _written(self, outcome: Written) -> None:
        """The commit returned: start the next one, then tell who waits."""
        seconds = time.perf_counter() - self._began
        group, self._group = self._group, []
        rows = outcome.rows
        self.stats.commits += 1
        self.stats.entries += len(rows)
        if rows:
            self._last_seq = rows[-1][0]
        if outcome.errors:
            self._spread(group, outcome.errors)
        self._owes = True
        here = self._holds_up(len(self._waiting))
        if not here:
            self._next()  # first, so that the disk works while the callbacks do
        self._tell(group)
        self.stats.lately_refused = 0
        self._publish(rows, seconds)
        if self._flushes:
            self._wake_flushes()
        self._owes = False
        if here:
            if self._waiting or self._jobs:
                # It shares what the loop has to do first.
                asyncio.get_running_loop().call_soon(self._next)
            else:
                self._next()

    def _refused(self, error: StorageError, *, for_good: bool = False) -> None:
        """Nothing can be written now: everything in the commit and everything waiting is
        refused."""
        group, self._group = self._group, []
        if for_good:
            self.refuse(error)
        group.extend(self._waiting)
        self._waiting.clear()
        self._doomed = 0
        for append in group:
            if append.error is None:
                append.error = copy.copy(error)
        self._next()
        self._tell(group)
        self._wake_flushes()

    def _performed(self, result: Any, error: BaseException | None) -> None:
        """The exclusive job ended."""
        _, future = self._jobs.popleft()
        self._next()
        if future.done():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    # -- the pump ---------------------------------------------------------------------------------

    def _next(self) -> None:
        """Start the next commit or job, whichever did not go last; with neither, come to rest."""
        waiting = self._waiting
        if not (waiting or self._jobs):
            self._busy = self._job_was_last = False
            return
        if self._jobs and not (waiting and self._job_was_last):
            self._busy = self._job_was_last = True
            self._perform(self._jobs[0][0])
            return
        self._job_was_last = False
        self._busy = True
        if len(waiting) <= self._limit:
            group = list(waiting)
            waiting.clear()
        else:
            group = [waiting.popleft() for _ in range(self._limit)]
        self._group = group
        self._began = time.perf_counter()
        if self._doomed:
            self._doomed -= sum(append.error is not None for append in group)
            group = [append for append in group if append.error is None]
            if not group:
                asyncio.get_running_loop().call_soon(self._written, Written([], {}))
                return
        self._write([append.batch for append in group])

    def _spread(self, group: list[Append], errors: dict[int, Exception]) -> None:
        """Note the errors of a group, and refuse what waits behind them on the same streams."""
        fence = Fence()
        sent = [append for append in group if append.error is None]
        for index, error in errors.items():
            sent[index].error = error
            fence.add(sent[index].batch, error)
        for append in self._waiting:
            if append.error is None and (error_behind := fence.check(append.batch)) is not None:
                append.error = error_behind
                self._doomed += 1

    def _tell(self, group: Iterable[Append]) -> None:
        for append in group:
            error = append.error
            if error is not None:
                self.stats.failures += 1
                self.stats.lately_refused += 1
            self._settled += 1
            self.stats.waiting -= 1
            try:
                append.done(error)
            except Exception as failure:  # noqa: BLE001 - one caller's mistake is not the others'
                _report(failure)

    def _publish(self, rows: list[Row], seconds: float) -> None:
        """Show the commit to those who look at all of them."""
        if rows and self._listeners:
            entries = [_make(Entry, row) for row in rows]
            for listener in self._listeners:
                try:
                    listener(entries)
                except Exception as failure:  # noqa: BLE001 - as in `_tell`
                    _report(failure)
        for observer in self._observers:
            try:
                observer(len(rows), seconds)
            except Exception as failure:  # noqa: BLE001 - as in `_tell`
                _report(failure)

    def _wake_flushes(self) -> None:
        while self._flushes and self._flushes[0][0] <= self._settled:
            _, future = self._flushes.popleft()
            if not future.done():
                future.set_result(None)

    def _unsubscribe(self, listener: Listener) -> None:
        listeners = list(self._listeners)
        if listener in listeners:
            listeners.remove(listener)
        self._listeners = tuple(listeners)


def _resolve(future: asyncio.Future[None], error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)


def _report(failure: Exception) -> None:
    asyncio.get_running_loop().call_exception_handler(
        {"message": "a callback of the journal failed", "exception": failure}
    )
