"""`GET /events/{handler_id}`: any number of readers, from any event on, live to the end of the run.

A reader's fate never touches the run: each has a cursor into the journal and pulls when its client
has taken what it got before. Without `after_sequence` it begins with the first event, so that
nothing is missed by coming late.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

from aiohttp import web

from ironflow.core.errors import InvalidInput
from ironflow.storage.ports import Entry
from ironflow.web.feed import Bell, Feed
from ironflow.web.stream import LIVE
from ironflow.web.tails import RunTail
from ironflow.web.workflows.events import (
    ENDINGS,
    TURN,
    Renderer,
    Style,
    first_sequence,
    tells_events,
    tells_steps,
)

HEARTBEAT = 25.0
"""Seconds of silence after which a comment is sent (server-sent events only: a line of NDJSON is
always an event)."""
_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
LARGEST = 2**62
NEAR = 64
"""Entries that are rather read than halved."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a reader asked for: `after` is the last sequence that it has (-1: nothing), None: only
    what is new.
    """

    style: Style
    after: int | None


def read_query(request: web.Request) -> Wanted:
    """What the query and `Last-Event-ID` ask for. Raises `InvalidInput`."""
    query = request.query
    sse = _truth(query.get("sse"), True)
    style = Style(
        sse=sse,
        internal=_truth(query.get("include_internal"), False),
        qualified=_truth(query.get("include_qualified_name"), True),
        timed=_truth(query.get("include_time"), False),
    )
    lock = query.get("acquire_timeout")
    if lock is not None:
        try:
            float(lock)
        except ValueError as error:
            raise InvalidInput("", f"Invalid acquire_timeout: {lock!r:.60}") from error
    after = _after(query.get("after_sequence"))
    header = request.headers.get("Last-Event-ID")
    if sse and header is not None:
        with contextlib.suppress(ValueError):  # not one of ours: clients send what they like
            after = _sequence(header)
    return Wanted(style, after)


def _truth(text: str | None, default: bool) -> bool:
    return default if text is None else text.lower() == "true"


def _after(text: str | None) -> int | None:
    if text is None or text == "":
        return -1
    if text.lower() == "now":
        return None
    try:
        return _sequence(text)
    except ValueError as error:
        raise InvalidInput("", f"Invalid after_sequence: {text!r:.60}") from error


def _sequence(text: str) -> int:
    if len(text) > 100:  # before it is worked out
        raise ValueError(text)
    return min(max(int(text), -1), LARGEST)  # what is before the first or behind any event


class EventTail(RunTail):
    """A reader of one run's events: a cursor into its journal and the last sequence it has."""

    def __init__(
        self, feed: Feed, bell: Bell, stream: str, renderer: Renderer, style: Style, after: int
    ) -> None:
        super().__init__(feed, bell, stream, 0, 0)
        self.renderer, self.style, self.sequence = renderer, style, after
        self.passes = False
        """Events are passed over, up to the newest one that there is."""
        self.is_over = False
        """The event that ends the stream was among those that were given out."""
        self._next = 0

    async def seek(self, newest: int) -> None:
        """Go to a turn before which the reader has everything, by halving, not by reading."""
        low, high = 0, newest
        while high - low > NEAR:
            middle = (low + high) // 2
            page = await self.feed.history(self.stream, middle, NEAR // 2)
            turn = next((entry for entry in page if entry.kind == TURN), None)
            if turn is None:
                break
            if self.passes or first_sequence(turn) <= self.sequence + 1:
                low = turn.version - 1
            else:
                high = middle
        self.version = low

    async def events(self) -> bytes | None:
        """The frames of the next events, empty when nothing of what was looked at is wanted; None
        when there is nothing more now.
        """
        page = await self.take()
        if page is None:
            self.passes = False
            return None
        frames: list[bytes] = []
        for entry in page:
            if entry.kind == TURN or entry.kind in ENDINGS:
                await self._render(entry, frames)
                if self.is_over:
                    break
        return b"".join(frames)

    async def _render(self, entry: Entry, frames: list[bytes]) -> None:
        shared = await self.renderer.render(entry, self._next)
        if not shared.events:
            return
        self._next = shared.events[-1].sequence + 1
        if self.passes:
            return
        for event, frame in zip(shared.events, shared.render(self.style), strict=True):
            if event.sequence > self.sequence:
                self.sequence = event.sequence
                self.is_over = event.ends
                if frame:
                    frames.append(frame)


async def stream_events(
    request: web.Request, feed: Feed, renderer: Renderer, run_id: str, *, heartbeat: float
) -> web.StreamResponse:
    """Answer with the events of a run. 204: the run is over and the reader has everything."""
    wanted = read_query(request)
    stream = f"run/{run_id}"
    bell = Bell(heartbeat, tells_steps if wanted.style.internal else tells_events)
    response: web.StreamResponse | None = None
    try:
        # First the bell, then what is stored: an entry is in one of them at least.
        feed.attach(bell, stream)
        row = await feed.reader.run(run_id)
        newest = row.version if row is not None else 0
        after = -1 if wanted.after is None else wanted.after
        tail = EventTail(feed, bell, stream, renderer, wanted.style, after)
        tail.passes = wanted.after is None
        await tail.seek(newest)
        while not feed.is_closed and not tail.is_over:
            data = await tail.events()
            if data is None:
                if tail.last_kind in ENDINGS:
                    break
                if response is None:
                    response = await _begin(request, wanted.style)
                    continue  # it may have been rung for meanwhile
                if not bell.is_silent:
                    await bell.wait()
                    continue
                if not wanted.style.sse:
                    bell.touch()
                    continue
                data = b": heartbeat\n\n"
            if data:
                if response is None:
                    response = await _begin(request, wanted.style)
                await response.write(data)
                bell.touch()
            if tail.is_behind:
                await asyncio.sleep(0)  # its pages may be in memory and its socket ready
    except ConnectionResetError:
        return response or web.Response(status=204)  # nobody is there to read it
    finally:
        feed.detach(bell, stream)
    return response or web.Response(status=204)


async def _begin(request: web.Request, style: Style) -> web.StreamResponse:
    request[LIVE] = True
    response = web.StreamResponse(headers=_HEADERS)
    response.content_type = "text/event-stream" if style.sse else "application/x-ndjson"
    if style.sse:
        response.charset = "utf-8"
    await response.prepare(request)
    return response
