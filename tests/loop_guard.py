"""Blocking the event loop fails a test.

blockbuster stops each blocking call (files, sockets, SQLite, locks, `time.sleep`) that ironflow's
own code, or a function that it calls, makes on a thread with a running loop. Whoever catches that
error cannot hide it: each is noted, and the test fails at its end.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from blockbuster import blockbuster as library

WATCHED = ("ironflow", "ironflow.actors", "ironflow.storage", "ironflow.web")
NOT_WATCHED = ("ironflow.testing", "ironflow.actors.kernel.virtual_time")
"""They call the test: what it does itself on their loops is its own affair."""

ALLOWED = (
    # A definition reads its own source, once, when its module is loaded.
    (("os.stat", "io.TextIOWrapper.read"), "sdk/function.py", "hash_code"),
    # Files of our own package and of the time zone database: small, and read once.
    (("io.TextIOWrapper.read",), "storage/sqlite/sql.py", "load"),
    (("os.stat", "io.BufferedReader.read"), "core/functions/schedules.py", "_load_zone"),
    # /proc is memory.
    (
        ("io.BufferedReader.read", "os.listdir", "os.stat"),
        "prometheus_client/process_collector.py",
        "collect",
    ),
    # hypothesis traces what it explains.
    (("os.path.abspath", "os.stat", "os.readlink"), "hypothesis/internal/escalation.py", "accept"),
    # Opening a database is the first thing of all; nobody is served before.
    (("os.path.abspath", "os.path.islink"), "storage/sqlite/store.py", "open_sqlite"),
    # A commit that is quicker than the way to the thread and back (see `storage/sqlite/pace.py`).
    (("sqlite3.Connection.execute",), "storage/sqlite/writer.py", "write_at_once"),
    # Log lines go to stderr by the standard library's handlers: a queue would lose the last ones
    # before a crash, which are those that matter.
    (("io.TextIOWrapper.write", "io.BufferedWriter.write"), "logging/__init__.py", "emit"),
)
"""Blocking calls, the end of a file's name, and the function of it in which they are allowed."""


RELATIONAL = {"connection", "put", "delete", "select", "forget", "counts"}


@cache
def make_guard() -> library.BlockBuster:
    """One for all tests."""
    guard = library.BlockBuster(list(WATCHED), excluded_modules=list(NOT_WATCHED))
    for call in guard.functions.values():
        # Heavy modules are loaded when they are first needed, which is once.
        call.can_block_in("<frozen importlib._bootstrap>", "_find_and_load")
        # The store in memory keeps its relational tables in a SQLite that is in memory, too.
        call.can_block_in("storage/relational/tables.py", RELATIONAL)
    for calls, file, function in ALLOWED:
        for call in calls:
            guard.functions[call].can_block_in(file, function)
    return guard


@contextmanager
def guarded() -> Iterator[list[str]]:
    """Watch until the end of the block; the stacks of the calls that blocked."""
    found: list[str] = []

    class Noted(library.BlockingError):
        def __init__(self, func: str) -> None:
            super().__init__(func)
            stack = "".join(traceback.format_stack()[-14:-2])
            found.append(f"blocking call to {func} on the event loop:\n{stack}")

    original, guard = library.BlockingError, make_guard()
    library.BlockingError = Noted  # type: ignore[misc]
    guard.activate()
    try:
        yield found
    finally:
        guard.deactivate()
        library.BlockingError = original  # type: ignore[misc]
