"""The directory of a server, kept: every change is decided, committed, and only then answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import msgspec

from ironflow.actors.directory.unbroken import unbroken
from ironflow.core.access.directory import KINDS, Directory, DirectoryEntry
from ironflow.core.clock import Clock
from ironflow.storage.ports import Batch, NewEntry

if TYPE_CHECKING:
    from ironflow.storage.ports import Store

STREAM = "directory"
PAGE = 1000
_TYPES = {kind: struct for struct, kind in KINDS.items()}

E = TypeVar("E", bound=DirectoryEntry)


class Registrar:
    """Organization, projects and environments of one server. In memory, and in the journal."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store, self._clock = store, clock
        self._turn = asyncio.Lock()
        self.directory = Directory()

    async def start(self) -> None:
        """Load what was recorded."""
        directory = Directory()
        while True:
            page = await self._store.reader.entries(STREAM, directory.version, PAGE)
            for entry in page:
                directory.apply(msgspec.json.decode(entry.data, type=_TYPES[entry.kind]), entry.at)
            if len(page) < PAGE:
                break
        self.directory = directory

    @unbroken
    async def record(self, decide: Callable[[Directory], E]) -> E:
        """Commit what `decide` makes of the directory as it is. Raises what it raises."""
        async with self._turn:
            entry, now = decide(self.directory), self._clock.now()
            new = NewEntry(
                STREAM,
                self.directory.version + 1,
                now,
                KINDS[type(entry)],
                msgspec.json.encode(entry),
            )
            await self._store.journal.commit(Batch([new], [], []))
            self.directory.apply(entry, now)
            return entry
