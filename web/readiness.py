"""Whether the journal can write now: the part of readiness that only trying can tell."""

from __future__ import annotations

import asyncio

from ironflow.actors.engine import Engine
from ironflow.core.errors import IronflowError
from ironflow.storage.ports import META, Batch

PROBE_TIMEOUT = 5.0
"""Seconds that the journal may take to show that it can write again."""


class JournalWatch:
    """Finds out whether writes are refused."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def problem(self) -> str | None:
        """Why nothing can be written now; after a refusal, one small write finds out."""
        journal = self._engine.store.journal
        if not journal.stats.lately_refused:
            return None
        probe = Batch([], [(META, ("readiness_probe", str(self._engine.clock.now())))], [])
        try:
            async with asyncio.timeout(PROBE_TIMEOUT):
                await journal.commit(probe)
        except IronflowError as error:
            return error.message
        except TimeoutError:
            return f"a write takes longer than {PROBE_TIMEOUT:g} s"
        return None
