"""Laws of the journal, for random appends, conflicts, full disks and reopenings against a model.

What was acknowledged is there and what was refused is not; versions and sequence numbers have no
gaps; callbacks come in the order of the appends; a batch is refused only for its own conflict, for
one before it on a stream of its own, or for want of space; and subscribers hear exactly what the
journal holds.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ironflow.core.errors import StorageFull, StreamConflict
from ironflow.storage.memory.store import MemoryStore
from ironflow.storage.ports import META, Batch, Entry, NewEntry
from ironflow.storage.sqlite.store import open_sqlite

STREAMS = ["run/a", "run/b", "run/c", "event/d"]
# Mostly the version after what is queued; else the one after what is settled (right when what is
# queued before it will be refused), one that is there already, or one too far.
BASES = st.sampled_from(
    ["queued", "queued", "queued", "queued", "settled", "settled", "old", "gap"]
)
PARTS = st.lists(
    st.tuples(st.sampled_from(STREAMS), BASES, st.integers(1, 3)), min_size=0, max_size=3
)


class JournalLaws(RuleBasedStateMachine):
    """The model: entries by stream, and what is queued since the last flush."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.model: dict[str, list[bytes]] = {stream: [] for stream in STREAMS}
        self.order: list[tuple[str, int]] = []
        self.rows: dict[str, str] = {}
        self.heard: list[Entry] = []
        self.queued: list[Batch] = []
        self.told: list[tuple[int, Exception | None]] = []
        self.heads: dict[str, int] = dict.fromkeys(STREAMS, 0)
        self.full = False
        self.count = 0
        self.store: Any = self.runner.run(self.open())
        self.store.journal.subscribe(self.heard.extend)

    async def open(self) -> Any:
        raise NotImplementedError

    async def set_full(self, full: bool) -> None:
        raise NotImplementedError

    def teardown(self) -> None:
        self.runner.run(self.store.close())
        self.runner.close()

    # -- what may happen ------------------------------------------------------------------------

    @rule(parts=PARTS, size=st.sampled_from([10, 10, 10, 3000]))
    def append(self, parts: Sequence[tuple[str, str, int]], size: int) -> None:
        self.queue(parts, size)

    def queue(self, parts: Sequence[tuple[str, str, int]], size: int) -> None:
        self.count += 1
        entries = []
        for stream, base, number in parts:
            version = len(self.model[stream]) if base == "settled" else self.heads[stream]
            version += {"old": -1, "gap": 1}.get(base, 0)
            for _ in range(number):
                version += 1
                data = f"{stream} {version} {self.count}".ljust(size).encode()
                entries.append(NewEntry(stream, version, self.count, "k", data))
            self.heads[stream] = version
        row = (META, (f"k{self.count % 5}", str(self.count)))
        self.queued.append(Batch(entries, [row], []))

    @rule(guilty=st.sampled_from(STREAMS), other=st.sampled_from(STREAMS))
    def entangle(self, guilty: str, other: str) -> None:
        """A batch that loses on one stream, and another that would fit but for being behind it."""
        for parts in ([(other, "queued", 1), (guilty, "gap", 1)], [(other, "settled", 1)]):
            self.queue(parts, 10)

    @precondition(lambda self: self.queued)
    @rule()
    def commit(self) -> None:
        """All that is queued is appended in one turn of the loop, and settled."""

        async def run() -> None:
            for index, batch in enumerate(self.queued):
                self.store.journal.append(
                    batch, lambda error, index=index: self.told.append((index, error))
                )
            await self.store.journal.flush()

        self.runner.run(run())
        self.settle()

    @rule(full=st.booleans())
    def disk(self, full: bool) -> None:
        self.runner.run(self.set_full(full))
        self.full = full

    # -- what must follow -----------------------------------------------------------------------

    def settle(self) -> None:
        assert [index for index, _ in self.told] == list(range(len(self.queued)))
        lost: set[str] = set()
        for batch, (_, error) in zip(self.queued, self.told, strict=True):
            streams = {entry.stream for entry in batch.entries}
            fits = self.fits(batch) and not streams & lost
            if error is None:
                assert fits
                self.apply(batch)
                continue
            lost |= streams
            assert isinstance(error, StreamConflict | StorageFull)
            if isinstance(error, StorageFull):
                assert self.full
            else:
                assert not fits
        self.queued, self.told = [], []
        self.heads = {stream: len(entries) for stream, entries in self.model.items()}

    def fits(self, batch: Batch) -> bool:
        heads = {stream: len(entries) for stream, entries in self.model.items()}
        for entry in batch.entries:
            if entry.version != heads[entry.stream] + 1:
                return False
            heads[entry.stream] += 1
        return True

    def apply(self, batch: Batch) -> None:
        for entry in batch.entries:
            self.model[entry.stream].append(entry.data)
            self.order.append((entry.stream, entry.version))
        for _, (key, value) in batch.puts:
            self.rows[key] = value

    @invariant()
    def holds_what_was_acknowledged(self) -> None:
        async def read() -> tuple[Any, ...]:
            reader = self.store.reader
            loaded = {stream: await reader.load(stream) for stream in STREAMS}
            rows = {key: await reader.meta(key) for key in (f"k{n}" for n in range(5))}
            return await reader.tail(0, 10**6), loaded, rows

        entries, loaded, rows = self.runner.run(read())
        assert [(entry.stream, entry.version) for entry in entries] == self.order
        assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
        assert self.store.journal.last_seq == len(entries)
        for stream, wanted in self.model.items():
            assert [entry.data for entry in loaded[stream].entries] == wanted
            versions = [entry.version for entry in loaded[stream].entries]
            assert versions == list(range(1, len(wanted) + 1))
        assert {key: value for key, value in rows.items() if value is not None} == self.rows
        assert self.heard == entries


class MemoryJournalLaws(JournalLaws):
    async def open(self) -> Any:
        return MemoryStore(
            group_limit=3, fault=lambda _: StorageFull("no space") if self.full else None
        )

    async def set_full(self, full: bool) -> None:
        pass


class SqliteJournalLaws(JournalLaws):
    def __init__(self) -> None:
        self.folder = tempfile.mkdtemp()
        super().__init__()

    async def open(self) -> Any:
        path = Path(self.folder, "iron.db")
        return await open_sqlite(path, durability="process", group_limit=3)

    async def set_full(self, full: bool) -> None:
        # The limit is that of the connection; nothing below the present size is possible.
        pages = 1 if full else 10**6
        await self.store.journal.exclusive(
            lambda c: c.execute(f"PRAGMA max_page_count = {pages}").fetchone()
        )

    @precondition(lambda self: not self.queued)
    @rule()
    def reopen(self) -> None:
        async def run() -> None:
            await self.store.close()
            self.store = await self.open()

        self.runner.run(run())
        self.store.journal.subscribe(self.heard.extend)
        self.full = False

    def teardown(self) -> None:
        super().teardown()
        shutil.rmtree(self.folder)


TestMemoryJournalLaws = MemoryJournalLaws.TestCase
TestMemoryJournalLaws.settings = settings(max_examples=60, stateful_step_count=30)
TestSqliteJournalLaws = SqliteJournalLaws.TestCase
TestSqliteJournalLaws.settings = settings(max_examples=40, stateful_step_count=25)
