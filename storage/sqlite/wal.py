"""The write-ahead log of a database: how long it is, when it is folded into the database (a
checkpoint), and room made ahead of it.

SQLite by itself makes a checkpoint within the commit that finds the log too long. Here it is a
chore of its own between two commits, so that no commit takes ten times as long as the others. And a
commit that lengthens the file makes the file system write its own journal as well and takes twice
as long as one that writes over what is there; so the file is lengthened in steps, before it is
needed. What is behind the end of the log means nothing to SQLite, whatever it is.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator

from ironflow.storage.ports import Table
from ironflow.storage.sqlite import connection as settings

PAGE = 4096
FRAME = PAGE + 24
"""Bytes of a page in the log."""
HEAD = 32
"""Bytes before the first one."""
_MAGIC = b"\x37\x7f\x06"
"""How a log begins."""
STEP = 256
"""Pages by which the file is lengthened at a time: a mebibyte, which takes a disk some 2 ms. After
as many its length is looked up, which is an estimate in between.
"""
EARLY = 48
"""Pages before the end of the room at which more is made, and that must be written before any
is.
"""

Chore = Callable[[sqlite3.Connection], None]


def pages_of(rows: int, size: int, changes: list[tuple[Table, int]]) -> int:
    """About how many pages a commit writes: `rows` of the journal with `size` bytes, and rows of
    other tables, each of which stands in several trees; rows that come together share pages.
    """
    pages = 1 + (rows > 0) + min(rows, 64) // 4 + size // PAGE
    for table, count in changes:
        pages += (1 + len(table.columns) // 4) * (1 + min(count, 64) // 4)
    return pages


class WriteAheadLog:
    """The log of one database while this process writes it. The writing thread does the chores."""

    def __init__(self, path: str, *, synced: bool) -> None:
        """Looks at the file. `synced`: every commit waits for the disk, so that room is worth its
        price.
        """
        self.path = f"{path}-wal"
        self.pages = _size(self.path) // FRAME
        """How long it is, about."""
        self._due = settings.CHECKPOINT_PAGES
        self._most_room = settings.CHECKPOINT_PAGES * 9 // 8  # a checkpoint may be a little late
        self._room = 0 if synced else self._most_room
        self._in_use = self.pages + EARLY
        self.is_put_off = False
        """The last checkpoint failed."""
        self.limit = 0
        """The length from which on there is a chore."""
        self._set_limit()

    def _set_limit(self) -> None:
        wanted = self.pages + STEP
        if self._room < self._most_room:
            wanted = max(self._in_use, self._room - EARLY)
        self.limit = min(self._due, wanted)

    def chore(self) -> Chore | None:
        """What is to be done before the next commit."""
        if self.pages < self.limit:
            return None
        if self.pages >= self._due:
            return self._checkpoint
        return self._make_room if self._room < self._most_room else self._look

    def put_off(self) -> None:
        """A chore failed: some commits are made before the next one. They are what tells of a disk
        that is full."""
        self.is_put_off = True
        self._due = self.pages + settings.CHECKPOINT_PAGES // 4
        self._set_limit()

    def doubt(self) -> None:
        """Something was written of whose pages nobody knows: its length is looked up."""
        self.limit = min(self.limit, self.pages)

    def try_again(self) -> None:
        """What was put off is due now."""
        self._due = min(self._due, self.pages)
        self._set_limit()

    def _checkpoint(self, connection: sqlite3.Connection) -> None:
        """Fold the log into the database as far as its readers allow."""
        _, length, folded = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        # Folded as a whole, the log begins anew, unless a reader uses it just then: `_look` finds
        # out. Otherwise a reader holds it: a little later again.
        self.is_put_off = False
        self.pages = 0 if folded >= length else length
        self._due = max(settings.CHECKPOINT_PAGES, self.pages + settings.CHECKPOINT_PAGES // 4)
        self._set_limit()

    def _make_room(self, _: sqlite3.Connection) -> None:
        """Lengthen the file, and wait for the disk."""
        try:
            with _opened(self.path, os.O_RDWR) as descriptor:
                self._lengthen(descriptor)
        except OSError:
            self._room = self._most_room  # there is none to be made
        self._set_limit()

    def _look(self, _: sqlite3.Connection) -> None:
        """Find out how long it is: what commits are thought to write may be far from it."""
        with contextlib.suppress(OSError), _opened(self.path, os.O_RDONLY) as descriptor:
            self.pages = _count(descriptor, os.fstat(descriptor).st_size // FRAME)
        self._set_limit()

    def _lengthen(self, descriptor: int) -> None:
        length = os.fstat(descriptor).st_size
        # Until now it was an estimate; behind the end of the room every commit is a slow one.
        self.pages = _count(descriptor, length // FRAME)
        self._room = min(max(self._room, self.pages) + STEP, self._most_room)
        missing = self._room * FRAME - length
        if missing > 0:
            _fill(descriptor, length, missing)


@contextlib.contextmanager
def _opened(path: str, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


def _count(descriptor: int, most: int) -> int:
    """How many frames of the log are in use. Each repeats the salt of the log's head, and those
    behind the end have another one, or none (https://www.sqlite.org/fileformat2.html#walformat).

    Frames of a transaction that was rolled back count until others take their place, and so does
    all that is folded until the log begins anew: never too few.
    """
    head = os.pread(descriptor, HEAD, 0)
    if head[:3] != _MAGIC:
        return 0  # there is room, and no log yet
    salt = head[16:24]
    used, free = 0, most
    while used < free:
        middle = (used + free) // 2
        if os.pread(descriptor, 8, HEAD + middle * FRAME + 8) == salt:
            used = middle + 1
        else:
            free = middle
    return used


def _fill(descriptor: int, start: int, count: int) -> None:
    try:
        written = 0
        while written < count:
            written += os.pwrite(descriptor, bytes(count - written), start + written)
        os.fdatasync(descriptor)
    except OSError:
        # No space for what is perhaps never needed: give it back to those who need it now.
        os.ftruncate(descriptor, start)
