"""What an error of SQLite means for ironflow: refuse one batch, try again, wait for space, or stop
for good."""

from __future__ import annotations

import errno
import os
import sqlite3
from enum import Enum, auto

from ironflow.core.errors import StorageError, StorageFull


class Broken(StorageError):
    """The database can no longer be read or written: the process must stop."""


class Meaning(Enum):
    """What follows from an error."""

    BATCH = auto()
    """The statement or its values are at fault: the batch is refused, the others are not."""
    BUSY = auto()
    """Another program holds a lock for the moment."""
    FULL = auto()
    """No space; nothing was written."""
    UNSURE = auto()
    """A write failed, for want of space or of a sound disk; see `is_out_of_space`."""
    BROKEN = auto()
    """Corruption, a failing disk, a file that is gone."""
    OTHER = auto()
    """Refused this time, and nothing is known to be wrong with the database."""


# What Python itself raises for values that SQLite has no type or no room for.
VALUE_ERRORS = (
    sqlite3.ProgrammingError,
    sqlite3.InterfaceError,
    OverflowError,
    UnicodeError,
    ValueError,
)

_MEANINGS = {
    sqlite3.SQLITE_ERROR: Meaning.BATCH,
    sqlite3.SQLITE_CONSTRAINT: Meaning.BATCH,
    sqlite3.SQLITE_MISMATCH: Meaning.BATCH,
    sqlite3.SQLITE_TOOBIG: Meaning.BATCH,
    sqlite3.SQLITE_RANGE: Meaning.BATCH,
    sqlite3.SQLITE_BUSY: Meaning.BUSY,
    sqlite3.SQLITE_LOCKED: Meaning.BUSY,
    sqlite3.SQLITE_PROTOCOL: Meaning.BUSY,
    sqlite3.SQLITE_FULL: Meaning.FULL,
    sqlite3.SQLITE_NOMEM: Meaning.OTHER,
    sqlite3.SQLITE_INTERRUPT: Meaning.OTHER,
    sqlite3.SQLITE_SCHEMA: Meaning.OTHER,
    sqlite3.SQLITE_ABORT: Meaning.OTHER,
}
# A quota or a file size limit reaches SQLite as one of these, not as SQLITE_FULL.
_WRITES = {
    sqlite3.SQLITE_IOERR_WRITE,
    sqlite3.SQLITE_IOERR_SHMSIZE,
    sqlite3.SQLITE_IOERR_SHMOPEN,
    sqlite3.SQLITE_IOERR_SHMMAP,
    sqlite3.SQLITE_IOERR_TRUNCATE,
}
_NO_SPACE = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


def meaning(error: Exception) -> Meaning:
    """Classify an error that a statement raised."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return Meaning.BATCH if isinstance(error, VALUE_ERRORS) else Meaning.OTHER
    if code in _WRITES:
        return Meaning.UNSURE
    return _MEANINGS.get(code & 0xFF, Meaning.BROKEN)


def translate(error: Exception, path: str) -> StorageError:
    """The error as ironflow's own, with what SQLite said."""
    what = getattr(error, "sqlite_errorname", type(error).__name__)
    said = f"{path}: {error} ({what})"
    match meaning(error):
        case Meaning.FULL:
            return StorageFull(f"no space left to write {path}: nothing was written, reads go on")
        case Meaning.UNSURE if is_out_of_space(path):
            return StorageFull(f"no space left to write {path}: nothing was written, reads go on")
        case Meaning.BROKEN:
            return Broken(said)
        case Meaning.BUSY:
            return StorageError(f"{path} has been locked by another program for too long")
        case _:
            return StorageError(said)


def is_out_of_space(path: str) -> bool:
    """Whether the file system refuses to let the database's files grow, found out by trying."""
    sizes = [os.path.getsize(name) for name in (path, f"{path}-wal") if os.path.exists(name)]
    probe = f"{path}.probe"
    try:
        descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.lseek(descriptor, max(sizes, default=0), os.SEEK_SET)
            written = os.write(descriptor, b"\0" * 65536)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
            os.unlink(probe)
    except OSError as error:
        return error.errno in _NO_SPACE
    return written < 65536
