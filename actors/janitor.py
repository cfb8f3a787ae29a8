"""Retention: deletes ended runs and events that the rules no longer keep. Off without rules."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from ironflow.actors.environment import Environment
from ironflow.actors.kernel.actor import Actor, Envelope
from ironflow.core.clock import SECOND
from ironflow.core.errors import StorageError
from ironflow.core.messages import Message
from ironflow.storage.ports import RetentionRule

log = logging.getLogger("ironflow.retention")

EVERY = 3600.0
"""Seconds between two rounds at most."""
COUNT_EVERY = 60.0
"""Seconds between two rounds where a rule limits a number."""
LEAST = 1.0


def pause_between(rules: Sequence[RetentionRule]) -> float:
    """Seconds between two rounds: nothing outlives its age by more than a tenth of it, or an
    hour.
    """
    pauses = [EVERY]
    for rule in rules:
        if rule.max_age is not None:
            pauses.append(rule.max_age / SECOND / 10)
        if rule.max_count is not None:
            pauses.append(COUNT_EVERY)
    return max(LEAST, min(pauses))


class CleanUp(Message[None], frozen=True):
    """Time for a round."""


class Janitor(Actor):
    """There is one. Its first message begins the rounds."""

    def __init__(self, environment: Environment, rules: Sequence[RetentionRule]) -> None:
        self.environment, self.rules = environment, rules

    async def start(self) -> None:
        """Begin with a round."""
        self._schedule(0.0)

    def receive(self, message: Message[Any], envelope: Envelope) -> object:
        """Understands `CleanUp`."""
        if isinstance(message, CleanUp):
            return self._clean_up()
        return super().receive(message, envelope)

    async def _clean_up(self) -> None:
        env = self.environment
        try:
            retired = await env.store.retire(self.rules, env.clock.now(), dry_run=False)
        except StorageError as error:
            log.warning("retention could not delete anything now: %s", error)
        else:
            if retired.runs or retired.events:
                log.info("retention deleted %d runs and %d events", retired.runs, retired.events)
        self._schedule(pause_between(self.rules))

    def _schedule(self, seconds: float) -> None:
        if self.rules:
            self.system.later(seconds, self.system.at(self.address), CleanUp())
