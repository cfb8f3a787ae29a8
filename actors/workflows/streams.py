"""Readers of workflow streams: any number, from any sequence, each event once and in order.

A reader reads the journal up to its end and is then told by the commits. What the last commits told
is held decoded for all readers of a run, so that a thousand readers cost one decoding; a reader
that falls behind reads the journal again, and never holds anybody up.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence

from ironflow.core.errors import NotFound
from ironflow.core.runs.entries import KINDS, TurnRecorded, decode_entry
from ironflow.core.workflows.stream import StreamedEvent, events_of
from ironflow.storage.ports import Entry, Store

PAGE = 500
"""Entries that a reader takes from the journal at once."""
RECENT = 256
"""Entries of a followed run that are held for its readers."""

_TURN = KINDS[TurnRecorded]
_ENDS = frozenset({"run.completed", "run.failed", "run.cancelled"})
_REOPENED = "run.reopened"


class Channel:
    """The followed stream of one run."""

    __slots__ = ("bells", "entries", "known")

    def __init__(self) -> None:
        self.bells: set[asyncio.Event] = set()
        self.entries: deque[Entry] = deque(maxlen=RECENT)
        self.known: dict[int, list[StreamedEvent]] = {}
        """What entries tell, decoded, by version."""


class Streams:
    """Follows runs on behalf of readers in this process."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._channels: dict[str, Channel] = {}
        self._unsubscribe: Callable[[], None] | None = None

    @property
    def readers(self) -> int:
        """How many follow a run now."""
        return sum(len(channel.bells) for channel in self._channels.values())

    async def follow(
        self, run_id: str, after: int = -1, *, expected: bool = False
    ) -> AsyncIterator[StreamedEvent]:
        """The events of a run with a sequence greater than `after`, as they come, up to its end.

        Raises `NotFound` for a run that is none, or was purged; one that is `expected` is about to
        be created.
        """
        stream = f"run/{run_id}"
        bell = asyncio.Event()
        channel = self._attach(stream, bell)
        version, sequence = 0, 0
        try:
            while True:
                bell.clear()
                page = self._recent(channel, version)
                if page is None:
                    page = await self._store.reader.entries(stream, version, PAGE)
                    if not page and not version and not expected:
                        raise NotFound("run", run_id)
                for entry in page:
                    version = entry.version
                    for event in self._tell(channel, entry, sequence):
                        sequence = event.sequence + 1
                        if event.sequence > after:
                            yield event
                        if event.ends and not await self._goes_on(stream, version):
                            return
                if not page:
                    await bell.wait()
        finally:
            self._detach(stream, bell)

    async def stored(
        self, run_id: str, after: int = -1, limit: int = 1000
    ) -> tuple[list[StreamedEvent], bool]:
        """Events that are stored already, and whether the stream is over behind them."""
        stream, version, sequence = f"run/{run_id}", 0, 0
        found: list[StreamedEvent] = []
        ended = False
        while len(found) < limit:
            page = await self._store.reader.entries(stream, version, PAGE)
            for entry in page:
                version = entry.version
                if entry.kind == _REOPENED:
                    ended = False
                for event in _decode(entry, sequence):
                    sequence = event.sequence + 1
                    ended = event.ends
                    if event.sequence > after:
                        found.append(event)
            if len(page) < PAGE:
                break
        return found[:limit], ended and len(found) <= limit

    async def _goes_on(self, stream: str, version: int) -> bool:
        """Whether a run that had ended was tried again."""
        entry = await self._store.reader.entry(stream, version + 1)
        return entry is not None

    def _recent(self, channel: Channel, version: int) -> list[Entry] | None:
        """The entries after `version` from memory; None when the journal must be asked."""
        entries = channel.entries
        if not entries or not version or entries[0].version > version + 1:
            return None
        if entries[-1].version <= version:
            return []
        first = version + 1 - entries[0].version
        return [entries[index] for index in range(first, len(entries))]

    def _tell(self, channel: Channel, entry: Entry, sequence: int) -> list[StreamedEvent]:
        told = channel.known.get(entry.version)
        if told is None:
            told = _decode(entry, sequence)
            recent = channel.entries
            if recent and entry.version >= recent[0].version:
                channel.known[entry.version] = told
        return told

    def _attach(self, stream: str, bell: asyncio.Event) -> Channel:
        channel = self._channels.get(stream)
        if channel is None:
            channel = self._channels[stream] = Channel()
        channel.bells.add(bell)
        if self._unsubscribe is None:
            self._unsubscribe = self._store.journal.subscribe(self._committed)
        return channel

    def _detach(self, stream: str, bell: asyncio.Event) -> None:
        channel = self._channels.get(stream)
        if channel is None:
            return
        channel.bells.discard(bell)
        if not channel.bells:
            del self._channels[stream]
        if not self._channels and self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None

    def _committed(self, entries: Sequence[Entry]) -> None:
        channels = self._channels
        for entry in entries:
            channel = channels.get(entry.stream)
            if channel is None:
                continue
            recent = channel.entries
            if recent and len(recent) == RECENT:
                channel.known.pop(recent[0].version, None)
            recent.append(entry)
            if entry.kind == _TURN or entry.kind in _ENDS:
                for bell in channel.bells:
                    bell.set()


def _decode(entry: Entry, sequence: int) -> list[StreamedEvent]:
    if entry.kind != _TURN and entry.kind not in _ENDS:
        return []
    decoded = decode_entry(entry.kind, entry.data)
    if isinstance(decoded, TurnRecorded):
        sequence = decoded.events_from
    return list(events_of(decoded, sequence))
