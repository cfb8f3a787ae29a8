"""How many connections one key may hold open: streams that follow, and requests that wait.

A request that is answered at once is not counted, so this costs nothing where most is done. What is
held is counted in memory: a server that starts again has no connections.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from aiohttp import web

from ironflow.core.access.keys import Key
from ironflow.core.errors import IronflowError

Kind = Literal["stream", "poll"]
Held = Kind | Literal["wait", ""]
RETRY_AFTER = 1.0

_STREAMS = frozenset({"/api/v1/stream", "/api/v1/runs/{run_id}/stream", "/events/{handler_id}"})
_POLLS = frozenset({"/api/v1/workers/{worker_id}/jobs", "/workflows/{name}/run"})
_WITH_WAIT = frozenset({"/api/v1/functions/{function_id}/invoke", "/api/v1/events"})
_STREAMED = frozenset({"Subscribe", "SubscribeBidirectional", "JoinConsumerGroup", "Connect"})
_AWAITED = frozenset({"TriggerSync", "InvokeFunctionSync"})


class TooManyHeld(IronflowError):
    """The key holds as many connections as it may."""

    code = "resource_exhausted"
    status = 429
    retry_after = RETRY_AFTER

    def __init__(self, kind: Kind, limit: int) -> None:
        what = "streams" if kind == "stream" else "requests that wait"
        super().__init__(
            f"this key has {limit} open {what} and may have no more; end one, use another key, or "
            f"raise {kind}s_per_key"
        )


def kind_held(method: str, template: str) -> Held:
    """What a request to a route holds: a stream, a poll, a poll if it has `?wait=`, or nothing."""
    if template in _STREAMS:
        return "stream" if method == "GET" else ""
    if template in _POLLS:
        return "poll"
    if template in _WITH_WAIT:
        return "wait" if method == "POST" else ""
    if template.startswith("/ironflow.v1."):
        name = template.rpartition("/")[2]
        return "stream" if name in _STREAMED else "poll" if name in _AWAITED else ""
    return ""


class HeldLimits:
    """What each key holds now."""

    def __init__(self, streams: int, polls: int) -> None:
        """The most that one key may hold."""
        self._limits: dict[Kind, int] = {"stream": streams, "poll": polls}
        self._held: Counter[tuple[str, Kind]] = Counter()

    @contextmanager
    def holding(self, key: Key, kind: Kind) -> Iterator[None]:
        """Count one more while it lasts. Raises `TooManyHeld`."""
        place, limit = (key.id, kind), self._limits[kind]
        if self._held[place] >= limit:
            raise TooManyHeld(kind, limit)
        self._held[place] += 1
        try:
            yield
        finally:
            self._held[place] -= 1
            if not self._held[place]:
                del self._held[place]

    def count(self, key: Key, kind: Kind) -> int:
        """How many a key holds."""
        return self._held.get((key.id, kind), 0)


def waits(request: web.Request) -> bool:
    """Whether a request asks to be held."""
    return "wait" in request.query
