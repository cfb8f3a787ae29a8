"""Where a commit is made: in the connection's thread, or here and now on the event loop.

The way to the thread and back costs more than the commit itself on a quick disk. While commits come
one at a time, are quick, and nothing else waits for the loop, the next one is made on the spot; it
holds the loop up for no longer than a callback would. As soon as one of these is no longer so, the
thread makes it, and the loop goes on meanwhile.
"""

from __future__ import annotations

QUICK = 0.0005
"""Seconds that commits take on average at most to be made on the loop."""
PROMPT = 0.0003
"""Seconds that the loop took at most to come round to the last commit: with more, others wait."""
ALONE = 8
"""Commits of one batch in a row before the next is made on the loop."""
RISE, FALL = 1 / 4, 1 / 32
"""Weights of the newest commit in the average: one that is slow counts soon, and those that are
quick again only when there are many. On a machine that is busy with other things commits stall now
and then, and one thread alone gets its turn later than two do: there the thread makes them all.
"""


class Pace:
    """Watches the commits."""

    def __init__(self) -> None:
        self.average = 1.0
        """Seconds that a commit takes, the newest counting most; high until some were seen."""
        self.alone = 0
        self.on_loop = 0
        """Commits that were made on the loop (for tests and figures)."""

    def is_short(self, batches: int, delay: float) -> bool:
        """Whether to make the next commit on the loop; `delay` is how long it has waited there."""
        if batches > 1 or delay > PROMPT:
            self.alone = 0
            return False
        return self.alone >= ALONE and self.average < QUICK

    def note(self, batches: int, seconds: float) -> None:
        """A commit took so long, without the ways to it and back."""
        self.alone = self.alone + 1 if batches == 1 else 0
        if self.average >= 1.0:
            self.average = seconds
        else:
            weight = RISE if seconds > self.average else FALL
            self.average += weight * (seconds - self.average)
