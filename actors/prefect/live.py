"""What was accepted lately, for everyone who follows it live.

Followers pull, each with a cursor of its own; nothing is queued for them. The newest items stay in
memory, bounded in number and in bytes, and are encoded once for all. A follower whose cursor has
fallen out goes on from the database, so a slow one loses nothing and holds nobody up.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from typing import Generic, TypeVar

T = TypeVar("T")

MOST_ITEMS = 8192
MOST_BYTES = 16 * 1024 * 1024


class Live(Generic[T]):
    """The newest items by `seq`, and who waits for the next ones."""

    def __init__(self, most_items: int = MOST_ITEMS, most_bytes: int = MOST_BYTES) -> None:
        self.most_items, self.most_bytes = most_items, most_bytes
        self.last = 0
        """The newest `seq` that was committed."""
        self.base = 0
        """Every item with base < seq <= last is here."""
        self.is_closed = False
        self._seqs: list[int] = []
        self._items: list[T] = []
        self._sizes: list[int] = []
        self._bytes = 0
        self._waiting: list[asyncio.Future[None]] = []

    def begin(self, last: int) -> None:
        """Everything up to `last` is in the database already."""
        if last > self.last:
            self.last = self.base = last
            self._seqs, self._items, self._sizes, self._bytes = [], [], [], 0

    def publish(self, items: list[tuple[int, T, int]]) -> None:
        """Add items, as (seq, item, bytes), and wake whoever waits."""
        for seq, item, size in items:
            self._seqs.append(seq)
            self._items.append(item)
            self._sizes.append(size)
            self._bytes += size
            self.last = seq
        if len(self._seqs) > 2 * self.most_items or self._bytes > 2 * self.most_bytes:
            self._trim()
        self.wake()

    def _trim(self) -> None:
        """Drop the oldest; seldom, because the lists move."""
        drop = max(0, len(self._seqs) - self.most_items)
        self._bytes -= sum(self._sizes[:drop])
        while self._bytes > self.most_bytes and drop < len(self._seqs) - 1:
            self._bytes -= self._sizes[drop]
            drop += 1
        if drop:
            self.base = self._seqs[drop - 1]
            del self._seqs[:drop], self._items[:drop], self._sizes[:drop]

    def since(self, cursor: int, most: int = 512) -> list[tuple[int, T]] | None:
        """Up to `most` items behind a cursor, None when some of them are here no more."""
        if cursor < self.base:
            return None
        start = bisect_right(self._seqs, cursor)
        end = start + most
        return list(zip(self._seqs[start:end], self._items[start:end], strict=True))

    async def wait(self, cursor: int) -> None:
        """Return when there is something behind the cursor, or when all is over."""
        while self.last <= cursor and not self.is_closed:
            future = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
            await future

    def wake(self) -> None:
        """Wake everyone who waits."""
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def close(self) -> None:
        """No more will come: followers end."""
        self.is_closed = True
        self.wake()
