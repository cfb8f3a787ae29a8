"""What has held up the event loop: who, where, and for how long."""

from __future__ import annotations

from collections import deque

import msgspec

MAX_FUNCTIONS = 200
"""Functions that are counted one by one."""
KEPT = 20
"""The latest ones that are kept as they were."""


class Blockage(msgspec.Struct, frozen=True):
    """One time in which nothing else could run. `at` in microseconds, `place` is a source line.

    `function_id`, `run_id` and `step` are empty for what belongs to no run or is between steps.
    """

    at: int
    seconds: float
    place: str
    function_id: str = ""
    run_id: str = ""
    step: str = ""


class Blockages:
    """All of them in numbers, the latest as they were."""

    def __init__(self) -> None:
        self.by_function: dict[str, tuple[int, float]] = {}
        """How often and for how many seconds in all, by function id; `` for whatever is none."""
        self.latest: deque[Blockage] = deque(maxlen=KEPT)

    def add(self, blockage: Blockage) -> None:
        """Count one."""
        name = blockage.function_id
        if name not in self.by_function and len(self.by_function) >= MAX_FUNCTIONS:
            name = ""
        count, seconds = self.by_function.get(name, (0, 0.0))
        self.by_function[name] = count + 1, seconds + blockage.seconds
        self.latest.append(blockage)

    @property
    def count(self) -> int:
        """How often."""
        return sum(count for count, _ in self.by_function.values())

    @property
    def seconds(self) -> float:
        """For how long in all."""
        return sum(seconds for _, seconds in self.by_function.values())
