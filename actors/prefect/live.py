"""What was accepted lately, for everyone who follows it live.

Followers pull, each with a cursor of its own; nothing is queued for them. The newest items stay in
memory, bounded in number and in bytes, and are encoded once for all. A follower whose cursor has
fallen out goes on from the database, so a slow one loses nothing and holds nobody up. One that has
seen everything and waits is handed what comes at once, without waking its task.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
Published = list[tuple[int, T, int]]
"""Items as (seq, item, bytes)."""
Take = Callable[[Published[T]], bool]
"""What a waiting follower is handed; whether it took all of it and goes on waiting."""

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
        self.followers = 0
        """Without any, nothing is held in memory."""
        self._seqs: list[int] = []
        self._items: list[T] = []
        self._sizes: list[int] = []
        self._bytes = 0
        self._waiting: dict[asyncio.Future[None], Take[T]] = {}

    def begin(self, last: int) -> None:
        """Everything up to `last` is in the database already."""
        if last > self.last:
            self._let_go(last)

    def attach(self) -> int:
        """Somebody follows from now on; the `seq` that is the newest."""
        self.followers += 1
        return self.last

    def detach(self) -> None:
        """And follows no more."""
        self.followers -= 1
        if not self.followers:
            self._let_go(self.last)

    def _let_go(self, last: int) -> None:
        self.last = self.base = last
        self._seqs, self._items, self._sizes, self._bytes = [], [], [], 0

    @property
    def waiting(self) -> int:
        """Followers that have seen everything."""
        return len(self._waiting)

    def publish(self, items: Published[T]) -> None:
        """Add items and hand them to whoever waits."""
        if not self.followers:
            self.last = self.base = items[-1][0]
            return
        for seq, item, size in items:
            self._seqs.append(seq)
            self._items.append(item)
            self._sizes.append(size)
            self._bytes += size
            self.last = seq
        if len(self._seqs) > 2 * self.most_items or self._bytes > 2 * self.most_bytes:
            self._trim()
        for future, take in list(self._waiting.items()):
            if not future.done() and not take(items):
                future.set_result(None)

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

    async def wait(self, cursor: int, take: Take[T]) -> None:
        """Return when there is something behind the cursor that `take` did not take, or when all
        is over. `take` must not raise, and move on its follower's cursor itself.
        """
        if self.last > cursor or self.is_closed:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[future] = take
        try:
            await future
        finally:
            del self._waiting[future]

    def close(self) -> None:
        """No more will come: followers end."""
        self.is_closed = True
        for future in self._waiting:
            if not future.done():
                future.set_result(None)
