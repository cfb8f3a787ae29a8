"""A backup in the place of a database (`ironflow db restore`). Blocks; call it outside of an event
loop.

What was there is kept beside it together with its log, which would otherwise be folded into the
database that takes its place.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from ironflow.core.clock import Clock, SystemClock, to_datetime
from ironflow.core.crash_points import reach
from ironflow.core.errors import InvalidInput, StorageError
from ironflow.storage.maintenance.files import (
    Progress,
    backup,
    database_info,
    opened,
    remove_database,
)
from ironflow.storage.ports import StoreInfo
from ironflow.storage.sqlite.errors import Broken
from ironflow.storage.sqlite.lock import ProcessLock
from ironflow.storage.sqlite.schema import sync_file


class Restored(NamedTuple):
    """The database as it is now, and the path of the one before, if there was one."""

    info: StoreInfo
    before: str | None


def restore(
    path: str | Path,
    source: str | Path,
    progress: Progress | None = None,
    clock: Clock | None = None,
) -> Restored:
    """Put a copy of the database `source` in the place of `path`, whole and durable or not at all.

    Raises `DatabaseInUse` while a server has `path` open, `NotFound` without a source, and
    `StorageError` for one that is foreign, damaged or of a newer schema.
    """
    name, origin = os.path.abspath(path), os.path.abspath(source)
    if os.path.exists(name) and os.path.exists(origin) and os.path.samefile(name, origin):
        raise InvalidInput("source", f"{origin} is the database itself")
    with opened(origin):  # what is no backup leaves no lock file behind
        pass
    now = (clock or SystemClock()).now()
    lock = ProcessLock(name, now)
    fresh = f"{name}.restored"
    try:
        remove_database(fresh)
        _copy(origin, fresh, progress)
        before = _set_aside(name, f"{name}.replaced-{to_datetime(now):%Y%m%dT%H%M%S}")
        os.replace(fresh, name)
        sync_file(os.path.dirname(name))
    except OSError as error:
        raise StorageError(f"cannot restore {name}: {error}") from error
    finally:
        remove_database(fresh)
        lock.release()
    return Restored(database_info(name), before)


def _copy(origin: str, fresh: str, progress: Progress | None) -> None:
    """A durable copy, every page of which was looked at. Raises `StorageError`."""
    try:
        backup(origin, fresh, progress)
        with opened(fresh) as (connection, _):
            found = [row[0] for row in connection.execute("PRAGMA integrity_check(3)")]
    except Broken as error:
        found = [error.message]
    if found != ["ok"]:
        raise StorageError(f"{origin} is damaged: {'; '.join(found)}; nothing was changed")


def _set_aside(name: str, kept: str) -> str | None:
    """Keep a database and its log under another name; there is one of `name` at every instant."""
    if not os.path.exists(name):
        return None
    try:
        os.link(name, kept)
    except OSError:  # a file system without links: for an instant there is none
        os.replace(name, kept)
    for end in ("-wal", "-shm"):
        if os.path.exists(name + end):
            os.replace(name + end, kept + end)
    reach("restore.aside")
    return kept
