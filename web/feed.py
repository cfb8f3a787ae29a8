"""What was committed lately, shared by every reader of a live stream.

Readers pull, each with a cursor of its own; nothing is queued for them. The `Feed` keeps the newest
entries in a ring that is bounded in entries and in bytes, with each entry's frame encoded at most
once. A reader whose cursor has fallen out of the ring goes on from the database, so a slow one
loses nothing and holds nobody up. A commit rings the readers that wait, all at once and not more
often than the loop can afford. Without readers the feed does nothing at all.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
import orjson

from ironflow.core.clock import to_rfc3339
from ironflow.core.errors import Draining
from ironflow.core.expressions.patterns import Pattern
from ironflow.core.runs.entries import RunCreated
from ironflow.storage.ports import Entry, Journal, Reader

RING_ENTRIES = 8192
RING_BYTES = 16 * 1024 * 1024
OVERHEAD = 400
"""Bytes that an entry costs in the ring beside its data and its frame."""
CHUNK_ENTRIES = 512
CHUNK_BYTES = 64 * 1024
"""What one write of one reader holds at most (an entry that is larger goes alone)."""
CATCH_UP = 2
"""Readers that may ask the database at the same time; actors that wake ask the same connection."""
LONGEST_PAUSE = 0.05
"""Seconds between two rings at most. As long as it took to serve those who were rung: fan-out takes
half of the loop at most, and what comes meanwhile is sent in one piece.
"""
KNOWN_RUNS = 20_000
PRIVATE = ("key/", "directory")
"""Streams of who may do what: read by their own routes only."""
NEWS = 512
"""Entries of one run that a reader may leave unread before it asks the database for them."""


_FRAME = (
    b"id: %d\nevent: %s\n"
    b'data: {"seq":%d,"stream":%s,"version":%d,"at":"%s","kind":"%s","data":%s}\n\n'
)


def encode_frame(entry: Entry) -> bytes:
    """An entry as a server-sent event; its id is the sequence number in the journal."""
    data = entry.data
    if b"\n" in data or b"\r" in data:
        data = msgspec.json.format(data, indent=-1)
    return _FRAME % (
        entry.seq,
        entry.kind.encode(),
        entry.seq,
        orjson.dumps(entry.stream),
        entry.version,
        to_rfc3339(entry.at).encode(),
        entry.kind.encode(),
        data,
    )


@dataclass(frozen=True)
class Selection:
    """Which entries a reader of everything wants; every given part must hold."""

    kinds: tuple[str, ...] = ()
    function_id: str | None = None
    prefix: str = ""

    @property
    def is_all(self) -> bool:
        """Whether nothing is left out."""
        return not (self.kinds or self.function_id or self.prefix)


class Bell:
    """Wakes one reader: at news, and when it has written nothing for `interval` seconds."""

    __slots__ = (
        "_future", "_interval", "_loop", "_timer", "_touched", "concerns", "is_silent", "news",
    )  # fmt: skip

    def __init__(self, interval: float, concerns: Callable[[Entry], bool] | None = None) -> None:
        """`concerns`: for the reader of one run, whether an entry is worth being woken for."""
        self.concerns = concerns
        self._loop = asyncio.get_running_loop()
        self._interval = interval
        self._future: asyncio.Future[None] | None = None
        self._touched = self._loop.time()
        self.is_silent = False
        """Nothing was written for a whole interval."""
        self.news: deque[Entry] = deque(maxlen=NEWS)
        """For the reader of one run: its newest entries."""
        self._timer = self._loop.call_at(self._touched + interval, self._tick)

    def ring(self) -> None:
        """Wake the reader, if it sleeps."""
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    async def wait(self) -> None:
        """Sleep until the next ring."""
        self._future = self._loop.create_future()
        try:
            await self._future
        finally:
            self._future = None

    def touch(self) -> None:
        """Something was written."""
        self._touched = self._loop.time()
        self.is_silent = False

    def close(self) -> None:
        """Ring no more."""
        self._timer.cancel()

    def _tick(self) -> None:
        # One timer for the reader's whole life: it is not set anew for each write.
        due = self._touched + self._interval
        if due <= self._loop.time() + 0.001:
            self.is_silent = True
            self.ring()
            due = self._loop.time() + self._interval
        self._timer = self._loop.call_at(due, self._tick)


class Feed:
    """The ring, and who is rung when it grows."""

    def __init__(
        self,
        journal: Journal,
        reader: Reader,
        *,
        entries: int = RING_ENTRIES,
        size: int = RING_BYTES,
    ) -> None:
        """At most `entries` entries and about `size` bytes are kept."""
        self.journal, self.reader = journal, reader
        self.limit, self.size_limit = entries, size
        self.is_closed = False
        self.base = self.end = 0
        """Every committed entry with base < seq <= end is in the ring."""
        self.size = 0
        self.pulses = self.encoded = 0
        """How often readers were rung, and how many frames were encoded (for tests and figures)."""
        self._seqs: list[int] = []
        self._entries: list[Entry] = []
        self._frames: list[bytes | None] = []
        self._chunks: dict[tuple[Selection, int], tuple[bytes, int]] = {}
        self._functions: dict[str, str | None] = {}
        self._catch_up = asyncio.Semaphore(CATCH_UP)
        self._tasks: dict[asyncio.Task[object], Bell] = {}
        self._waiting: set[Bell] = set()
        self._watched: dict[str, list[Bell]] = {}
        self._alarm: asyncio.TimerHandle | None = None
        self._next_pulse = 0.0
        self._serving = self._is_late = False
        self._unsubscribe: Callable[[], None] | None = None
        self._emptied: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        return len(self._seqs)

    @property
    def readers(self) -> int:
        """Streams that are open now."""
        return len(self._tasks)

    # -- readers come and go ----------------------------------------------------------------------

    def attach(self, bell: Bell, stream: str | None = None) -> None:
        """The running task reads from now on: everything, or one stream. Raises `Draining`."""
        if self.is_closed:
            raise Draining("the server is shutting down; connect again")
        if not self._tasks:
            self.base = self.end = self.journal.last_seq
            self._unsubscribe = self.journal.subscribe(self._take)
        task = asyncio.current_task()
        assert task is not None
        self._tasks[task] = bell
        if stream is not None:
            self._watched.setdefault(stream, []).append(bell)

    def detach(self, bell: Bell, stream: str | None = None) -> None:
        """The running task reads no more."""
        bell.close()
        self._waiting.discard(bell)
        task = asyncio.current_task()
        if task is not None:
            self._tasks.pop(task, None)
        if stream is not None:
            bells = self._watched.get(stream, [])
            if bell in bells:
                bells.remove(bell)
            if not bells:
                self._watched.pop(stream, None)
        if not self._tasks:
            self._rest()
            if self._emptied is not None and not self._emptied.done():
                self._emptied.set_result(None)

    async def close(self, grace: float = 1.0) -> None:
        """Tell every reader to say goodbye; cut off those that have not after `grace` seconds."""
        self.is_closed = True
        if not self._tasks:
            return
        self._emptied = asyncio.get_running_loop().create_future()
        for bell in self._tasks.values():
            bell.ring()
        await asyncio.wait([self._emptied], timeout=grace)
        for task in list(self._tasks):
            task.cancel()

    def _rest(self) -> None:
        """Nobody reads: hold nothing."""
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        for held in (self._seqs, self._entries, self._frames):
            held.clear()
        self._chunks.clear()
        self._functions.clear()
        self.size = 0

    # -- commits ----------------------------------------------------------------------------------

    def _take(self, entries: Sequence[Entry]) -> None:
        """Entries were committed."""
        if entries[0].seq <= self.end:  # committed before the first reader came
            entries = [entry for entry in entries if entry.seq > self.end]
            if not entries:
                return
        self._seqs.extend([entry.seq for entry in entries])
        self._entries.extend(entries)
        self._frames.extend([None] * len(entries))
        self.size += 2 * sum([len(entry.data) for entry in entries]) + OVERHEAD * len(entries)
        self.end = entries[-1].seq
        self._chunks.clear()
        if len(self._seqs) > self.limit or self.size > self.size_limit:
            self._trim()
        if self._watched:
            watched = self._watched
            for entry in entries:
                bells = watched.get(entry.stream)
                if bells is not None:
                    for bell in bells:
                        bell.news.append(entry)
                        if bell.concerns is None or bell.concerns(entry):
                            self._waiting.add(bell)
        if self._waiting:
            self._schedule()

    def _trim(self) -> None:
        """Drop the oldest entries, a quarter more than needed, so that this is rare."""
        keep_size, keep = self.size_limit * 3 // 4, self.limit * 3 // 4
        drop = 0
        size, total = self.size, len(self._seqs)
        while drop < total and (total - drop > keep or size > keep_size):
            size -= 2 * len(self._entries[drop].data) + OVERHEAD
            drop += 1
        self.base, self.size = self._seqs[drop - 1], size
        del self._seqs[:drop], self._entries[:drop], self._frames[:drop]

    def _schedule(self) -> None:
        if self._serving:
            self._is_late = True
            return
        if self._alarm is not None:
            return
        loop = asyncio.get_running_loop()
        if loop.time() >= self._next_pulse:
            self._pulse()
        else:
            self._alarm = loop.call_at(self._next_pulse, self._pulse)

    def _pulse(self) -> None:
        """Ring everyone who waits."""
        self._alarm = None
        bells, self._waiting = self._waiting, set()
        self.pulses += 1
        self._serving, self._is_late = True, False
        began = time.perf_counter()
        for bell in bells:
            bell.ring()
        # Behind the readers in the queue of the loop: it runs when each has had its turn.
        asyncio.get_running_loop().call_soon(self._served, began)

    def _served(self, began: float) -> None:
        self._serving = False
        pause = min(time.perf_counter() - began, LONGEST_PAUSE)
        self._next_pulse = asyncio.get_running_loop().time() + pause
        if self._is_late and self._waiting:
            self._schedule()

    # -- what readers ask -------------------------------------------------------------------------

    def expect_news(self, bell: Bell) -> None:
        """Ring this bell at the next commit."""
        self._waiting.add(bell)

    def frame(self, entry: Entry) -> bytes:
        """The frame of an entry, shared while the entry is in the ring."""
        index = bisect_right(self._seqs, entry.seq) - 1
        if index < 0 or self._seqs[index] != entry.seq:
            return encode_frame(entry)
        return self._frame_at(index)

    def _frame_at(self, index: int) -> bytes:
        frame = self._frames[index]
        if frame is None:
            frame = self._frames[index] = encode_frame(self._entries[index])
            self.encoded += 1
        return frame

    def newer(self, after: int) -> list[Entry]:
        """The next entries of the ring; `after` must not be below `base`."""
        start = bisect_right(self._seqs, after)
        return self._entries[start : start + CHUNK_ENTRIES]

    async def chunk(self, after: int, selection: Selection) -> tuple[bytes, int]:
        """The frames of the next selected entries of the ring, and the last seq that was looked at.

        `after` must not be below `base`. Readers in step share the very same bytes.
        """
        found = self._chunks.get((selection, after))
        if found is not None:
            return found
        start = bisect_right(self._seqs, after)
        entries = self._entries[start : start + CHUNK_ENTRIES]
        wanted = await self._select(entries, selection)
        if after < self.base:  # trimmed meanwhile, while a name was looked up
            return self._join(entries, wanted)
        return self._share(after, selection, entries, wanted)

    def _share(
        self, after: int, selection: Selection, entries: list[Entry], wanted: list[bool]
    ) -> tuple[bytes, int]:
        start = bisect_right(self._seqs, after)
        frames: list[bytes] = []
        size, last = 0, after
        for offset, entry in enumerate(entries):
            if wanted[offset]:
                frame = self._frame_at(start + offset)
                if frames and size + len(frame) > CHUNK_BYTES:
                    break
                frames.append(frame)
                size += len(frame)
            last = entry.seq
        result = b"".join(frames), last
        if len(self._chunks) < 64:
            self._chunks[selection, after] = result
        return result

    async def encode(self, entries: list[Entry], selection: Selection) -> tuple[bytes, int]:
        """The same for entries that came from the database."""
        return self._join(entries, await self._select(entries, selection))

    def _join(self, entries: list[Entry], wanted: list[bool]) -> tuple[bytes, int]:
        frames: list[bytes] = []
        size, last = 0, entries[0].seq - 1
        for entry, is_wanted in zip(entries, wanted, strict=True):
            if is_wanted:
                frame = encode_frame(entry)
                if frames and size + len(frame) > CHUNK_BYTES:
                    break
                frames.append(frame)
                size += len(frame)
            last = entry.seq
        return b"".join(frames), last

    async def tail(self, after: int, limit: int) -> list[Entry]:
        """Entries of the database, a few readers at a time."""
        async with self._catch_up:
            return await self.reader.tail(after, limit)

    async def history(self, stream: str, after: int, limit: int) -> list[Entry]:
        """Entries of one stream, a few readers at a time."""
        async with self._catch_up:
            return await self.reader.entries(stream, after, limit)

    # -- selection --------------------------------------------------------------------------------

    async def _select(self, entries: list[Entry], selection: Selection) -> list[bool]:
        if selection.is_all:
            return [not entry.stream.startswith(PRIVATE) for entry in entries]
        kinds: dict[str, bool] = {}
        patterns = [Pattern(text) for text in selection.kinds]
        wanted = []
        for entry in entries:
            ok = kinds.get(entry.kind)
            if ok is None:
                ok = not patterns or any(p.matches(entry.kind) for p in patterns)
                kinds[entry.kind] = ok
            wanted.append(
                ok
                and entry.stream.startswith(selection.prefix)
                and not entry.stream.startswith(PRIVATE)
            )
        if selection.function_id is not None:
            for index, entry in enumerate(entries):
                if wanted[index]:
                    name = await self._function_of(entry)
                    wanted[index] = name == selection.function_id
        return wanted

    async def _function_of(self, entry: Entry) -> str | None:
        """The function that an entry is about."""
        kind, _, key = entry.stream.partition("/")
        if kind in ("function", "schedule"):
            return key
        if kind != "run":
            return None
        known = self._functions
        if entry.stream in known:
            return known[entry.stream]
        name: str | None
        if entry.kind == "run.created":
            name = msgspec.json.decode(entry.data, type=RunCreated).function_id
        else:
            async with self._catch_up:
                row = await self.reader.run(key)
            name = row.function_id if row is not None else None
        if len(known) >= KNOWN_RUNS:
            for old in list(known)[: KNOWN_RUNS // 4]:
                del known[old]
        known[entry.stream] = name
        return name
