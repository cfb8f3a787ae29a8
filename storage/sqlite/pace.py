"""Where a commit is made: in the connection's thread, or here and now on the event loop.

On a quick disk the way to the thread and back costs more than the commit itself, and a thread that
runs beside the loop takes the interpreter lock from it, statement by statement. So a commit that is
small and quick is made on the spot; it holds the loop up for no longer than a callback would, and
what comes meanwhile shares the next one. On a slow disk the thread makes them all, and the loop
goes on meanwhile.
"""

from __future__ import annotations

import math

QUICK = 0.0006
"""Seconds that a commit of one batch takes on average at most to be made on the loop."""
EACH = 0.000015
"""Seconds that each further batch may add."""
WEIGHT = 1 / 16
"""Of the newest commit on the loop in the average: one that takes some milliseconds now and then
would have in the thread, too, and after one that takes ten the thread makes some.
"""
STALL = 0.1
"""Seconds that one commit counts at most."""
SEVERAL, THEIR_WEIGHT = 8, 1 / 2
"""Commits of the thread of which the quickest counts, and its weight: the others have waited for
the interpreter lock, which says nothing about the disk.
"""


class Pace:
    """Watches the commits."""

    def __init__(self) -> None:
        self.average = 1.0
        """Seconds that a commit of one batch takes, the newest counting most; high until one was
        seen.
        """
        self.on_loop = 0
        """Commits that were made on the loop (for tests and figures)."""
        self.is_quick = False
        """Whether to make a small commit on the loop."""
        self._least, self._count = math.inf, 0

    def note(self, batches: int, seconds: float) -> None:
        """A commit on the loop took so long."""
        self._move(seconds - EACH * (batches - 1), WEIGHT)

    def note_thread(self, batches: int, seconds: float) -> None:
        """A commit of the thread took so long, without the ways to it and back."""
        self._least = min(self._least, seconds - EACH * (batches - 1))
        self._count += 1
        if self._count == SEVERAL or self.average >= 1.0:
            self._move(self._least, THEIR_WEIGHT)
            self._least, self._count = math.inf, 0

    def _move(self, seconds: float, weight: float) -> None:
        seconds = min(seconds, STALL)
        if self.average >= 1.0:
            self.average = seconds
        else:
            self.average += weight * (seconds - self.average)
        self.is_quick = self.average < QUICK
