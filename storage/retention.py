"""Retention rules, normalised: at most one limit a kind, with the moment before which things are
too old.

A run's age counts from its end, an event's from its emission. `max_count` keeps the newest by
creation.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ironflow.core.errors import InvalidInput
from ironflow.storage.ports import RetentionRule

EVENTS = "events"
INTAKES = ("batch/", "debounce/", "singleton/")
"""Prefixes of the streams of intakes: they go with events, once they are idle for as long."""
ENDED = ("completed", "failed", "cancelled")


class Limit(NamedTuple):
    """Of `kind` may go what ended before `cutoff`, and what is not among the newest `keep`."""

    kind: str
    cutoff: int | None
    keep: int | None

    def beyond(self, aged: Sequence[tuple[int, int, str]]) -> Iterable[str]:
        """The ids that may go, of (created, ended, id) in ascending order."""
        surplus = 0 if self.keep is None else max(0, len(aged) - self.keep)
        for index, (_, ended, id_) in enumerate(aged):
            if index < surplus or (self.cutoff is not None and ended < self.cutoff):
                yield id_


def limits(rules: Iterable[RetentionRule], now: int) -> list[Limit]:
    """The rules as limits as of `now`; of several for one kind the strictest holds.

    Raises `InvalidInput` for an unknown kind or a negative age or count.
    """
    found: dict[str, Limit] = {}
    for rule in rules:
        if rule.kind != EVENTS and rule.kind not in ENDED:
            raise InvalidInput("kind", f"{rule.kind!r} is none of {EVENTS}, {', '.join(ENDED)}")
        if rule.max_age is not None and rule.max_age < 0:
            raise InvalidInput("max_age", "must not be negative")
        if rule.max_count is not None and rule.max_count < 0:
            raise InvalidInput("max_count", "must not be negative")
        cutoff = None if rule.max_age is None else now - rule.max_age
        known = found.get(rule.kind, Limit(rule.kind, None, None))
        cutoffs = [value for value in (known.cutoff, cutoff) if value is not None]
        keeps = [value for value in (known.keep, rule.max_count) if value is not None]
        found[rule.kind] = Limit(rule.kind, max(cutoffs, default=None), min(keeps, default=None))
    return list(found.values())
