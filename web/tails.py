"""Readers of live streams: a cursor each, and where its next frames come from.

A reader pulls when its client has taken what it got before: from the ring of the `Feed` while its
cursor is in there, from the database otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ironflow.storage.ports import Entry
from ironflow.web.feed import CHUNK_BYTES, Bell, Feed, Selection

PAGE_FIRST, PAGE_LAST = 32, 500
PAGE_BYTES = 256 * 1024
"""Entries that a reader takes from the database at once: fewer when they are large."""


class Tail:
    """A reader of everything: a cursor into the journal."""

    def __init__(self, feed: Feed, selection: Selection, after: int) -> None:
        self.feed, self.selection, self.cursor = feed, selection, after
        self._page: list[Entry] = []
        self._limit = PAGE_FIRST

    @property
    def is_level(self) -> bool:
        """Whether everything that is committed has been read."""
        return not self._page and self.cursor >= self.feed.end

    async def read(self) -> bytes | None:
        """The next frames, empty when nothing of what was looked at is wanted; None at the end."""
        feed = self.feed
        if not self._page and self.cursor >= feed.base:
            if self.cursor >= feed.end:
                return None
            data, self.cursor = await feed.chunk(self.cursor, self.selection)
            return data
        if not self._page:
            base = feed.base
            self._page = await feed.tail(self.cursor, self._limit)
            self._limit = next_limit(self._page, self._limit)
            if not self._page:
                # Everything up to `base` was committed before it was asked for: there is no more.
                self.cursor = max(self.cursor, base)
                return b""
        data, self.cursor = await feed.encode(self._page, self.selection)
        self._page = [entry for entry in self._page if entry.seq > self.cursor]
        return data


class EntryTail:
    """A reader of everything that wants the entries themselves."""

    def __init__(self, feed: Feed, after: int) -> None:
        self.feed, self.cursor = feed, after
        self._limit = PAGE_FIRST

    async def take(self) -> Sequence[Entry] | None:
        """The next entries, empty when there may be more; None at the end."""
        feed = self.feed
        if self.cursor >= feed.base:
            page = feed.newer(self.cursor)
            if not page:
                return None
        else:
            base = feed.base
            page = await feed.tail(self.cursor, self._limit)
            self._limit = next_limit(page, self._limit)
            if not page:
                # Everything up to `base` was committed before it was asked for: there is no more.
                self.cursor = max(self.cursor, base)
                return ()
        self.cursor = page[-1].seq
        return page


class RunTail:
    """A reader of one run: a cursor into its stream, whose versions have no gaps."""

    def __init__(self, feed: Feed, bell: Bell, stream: str, version: int, after: int) -> None:
        """Reads entries with a version > `version` and a seq > `after`."""
        self.feed, self.bell, self.stream = feed, bell, stream
        self.version, self.after = version, after
        self.last_kind: str | None = None
        """The kind of the newest entry that was read."""
        self._is_behind = True
        self._missing = 0
        self._limit = PAGE_FIRST

    @property
    def is_behind(self) -> bool:
        """Whether it reads from the database."""
        return self._is_behind

    async def take(self) -> Sequence[Entry] | None:
        """The next entries, empty when there may be more; None at the end."""
        if self._is_behind:
            page = await self._read_page()
            if page:
                self._note(page[-1])
            return page
        taken: list[Entry] = []
        size = 0
        while size < CHUNK_BYTES and (entry := self._take_news()) is not None:
            taken.append(entry)
            size += len(entry.data)
        return taken if taken or self._is_behind else None

    def _take_news(self) -> Entry | None:
        """The next of the news, None at their end, and where one is missing."""
        news = self.bell.news
        while news:
            entry = news[0]
            if entry.version > self.version + 1:
                # More news came than is kept: the database has what was dropped.
                self._is_behind = True
                return None
            news.popleft()
            if entry.version == self.version + 1:
                self._note(entry)
                return entry
        return None

    async def _read_page(self) -> list[Entry]:
        page = await self.feed.history(self.stream, self.version, self._limit)
        self._limit = next_limit(page, self._limit)
        if not page:
            self._catch_up()
        return page

    @property
    def is_level(self) -> bool:
        """Whether everything that is committed has been read."""
        return not self._is_behind and not self.bell.news

    async def read(self) -> bytes | None:
        """The next frames; None at the end."""
        if self._is_behind:
            page = await self._read_page()
            return self._encode(page) if page else b""
        frames: list[bytes] = []
        size = 0
        while size < CHUNK_BYTES and (entry := self._take_news()) is not None:
            frames.append(self.feed.frame(entry))
            size += len(frames[-1])
        if not frames:
            return b"" if self.is_behind else None
        return b"".join(frames)

    def _catch_up(self) -> None:
        """The database has no more: go on with the news, if they begin where it ends."""
        news = self.bell.news
        if not news or news[0].version <= self.version + 1:
            self._is_behind = False
        elif self._missing == news[0].version:
            # Asked twice: what is missing was deleted by retention.
            self.version = news[0].version - 1
        else:
            self._missing = news[0].version

    def _encode(self, page: Iterable[Entry]) -> bytes:
        frames = []
        size = 0
        for entry in page:
            if entry.seq > self.after:
                frames.append(self.feed.frame(entry))
                size += len(frames[-1])
            self._note(entry)
            if size >= CHUNK_BYTES:
                break
        return b"".join(frames)

    def _note(self, entry: Entry) -> None:
        self.version, self.last_kind = entry.version, entry.kind


def next_limit(page: Sequence[Entry], limit: int) -> int:
    """How many entries to ask for next, so that a page of large ones stays small."""
    size = sum([len(entry.data) for entry in page])
    if size > PAGE_BYTES:
        return max(1, limit * PAGE_BYTES // (2 * size))
    return min(limit * 2, PAGE_LAST)
