"""One process per database: an exclusive lock on `<database>.lock`, held until `release` or the
process ends.

The file names its owner for whoever is refused. It stays behind when the owner is gone, on purpose
(to remove it would race with the next owner) and without harm: only the lock counts, and the system
drops that with the process.
"""

from __future__ import annotations

import os
import sys

from ironflow.core.clock import to_rfc3339
from ironflow.core.errors import DatabaseInUse, StorageError

if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        # A byte far behind the text, since Windows keeps others from reading a locked one.
        os.lseek(descriptor, 1 << 20, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)
else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


class ProcessLock:
    """The right to write one database."""

    def __init__(self, database: str, now: int) -> None:
        """Take the lock of `database`; `now` is noted in it.

        Raises `DatabaseInUse` when another process (or this one) has it, `StorageError` when the
        file cannot be made.
        """
        # Through links to the real file, or two names would be two locks.
        self.path = os.path.realpath(database) + ".lock"
        try:
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise StorageError(f"cannot open {self.path}: {error.strerror}") from error
        try:
            _lock(self._descriptor)
        except OSError as error:
            owner = os.read(self._descriptor, 200).decode("utf-8", "replace").strip()
            os.close(self._descriptor)
            raise DatabaseInUse(database, owner) from error
        os.ftruncate(self._descriptor, 0)
        os.write(self._descriptor, f"pid {os.getpid()}, since {to_rfc3339(now)}\n".encode())

    def release(self) -> None:
        """Give the lock up. May be called again."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
