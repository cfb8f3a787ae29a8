"""What journal entries say to readers of a workflow's stream, as frames that are shared.

Nothing is stored for readers: `core.workflows.stream` works the events out from the entries. Here
each entry is worked out once, and encoded once for each style in which it is asked for, however
many readers there are.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec

from ironflow.core.clock import to_rfc3339
from ironflow.core.runs.entries import KINDS, TurnRecorded, decode_entry
from ironflow.core.values.payloads import Payload
from ironflow.core.workflows.stream import StreamedEvent, events_of
from ironflow.storage.ports import Entry

ENDINGS = frozenset({"run.completed", "run.failed", "run.cancelled"})
TURN = KINDS[TurnRecorded]
SHARED_ENTRIES = 4096
SHARED_BYTES = 16 * 1024 * 1024
"""What is kept for the next reader, over all runs."""

_STREAMED = b'"op":"streamed"'
_encode = msgspec.json.Encoder().encode

Load = Callable[[Payload], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class Style:
    """How a reader wants events. `timed` adds to each envelope when it was recorded (`at`), and for
    which job of a step (`job`).
    """

    sse: bool = True
    internal: bool = False
    qualified: bool = True
    timed: bool = False


class _Position(msgspec.Struct):
    events_from: int = 0


_position = msgspec.json.Decoder(_Position).decode


def first_sequence(turn: Entry) -> int:
    """The sequence of the first event of a turn, whether or not it has one."""
    return _position(turn.data).events_from


def tells_events(entry: Entry) -> bool:
    """Whether an entry may tell readers of public events something."""
    kind = entry.kind
    return (kind == TURN and _STREAMED in entry.data) or kind in ENDINGS


def tells_steps(entry: Entry) -> bool:
    """The same for readers of internal events."""
    return entry.kind == TURN or entry.kind in ENDINGS


class SharedEntry:
    """An entry's events with their envelopes, and its frames by the styles that were asked for."""

    __slots__ = ("at", "envelopes", "events", "frames", "size")

    def __init__(self, events: list[StreamedEvent], envelopes: list[bytes], at: int) -> None:
        self.events, self.envelopes, self.at = events, envelopes, at
        self.size = sum([len(envelope) for envelope in envelopes]) + 200
        self.frames: dict[Style, list[bytes]] = {}

    def render(self, style: Style) -> list[bytes]:
        """One frame an event, empty for those that the style leaves out."""
        frames = self.frames.get(style)
        if frames is None:
            pairs = zip(self.events, self.envelopes, strict=True)
            frames = [encode_frame(event, text, style, self.at) for event, text in pairs]
            self.frames[style] = frames
        return frames


class Renderer:
    """Works entries out for readers, the newest ones once for all of them."""

    def __init__(self, load: Load) -> None:
        """`load` gives the JSON text of a payload."""
        self.load = load
        self.worked_out = 0
        """How many entries (for tests and figures)."""
        self._size = 0
        self._shared: OrderedDict[int, SharedEntry] = OrderedDict()

    async def render(self, entry: Entry, sequence: int) -> SharedEntry:
        """The events of an entry; `sequence` is that of the first, where the entry does not say."""
        found = self._shared.get(entry.seq)
        if found is not None:
            return found
        decoded = decode_entry(entry.kind, entry.data)
        if isinstance(decoded, TurnRecorded):
            sequence = decoded.events_from
        events = list(events_of(decoded, sequence))
        envelopes = [event.envelope.json or await self.load(event.envelope) for event in events]
        found = SharedEntry(events, envelopes, entry.at)
        self.worked_out += 1
        if entry.seq not in self._shared:
            self._shared[entry.seq] = found
            self._size += found.size
            while len(self._shared) > SHARED_ENTRIES or self._size > SHARED_BYTES:
                self._size -= self._shared.popitem(last=False)[1].size
        return found


def encode_frame(event: StreamedEvent, envelope: bytes, style: Style, at: int) -> bytes:
    """An event as it goes to a reader, or nothing when the reader does not want it."""
    if event.internal and not style.internal:
        return b""
    if not style.qualified:
        content = msgspec.json.decode(envelope)
        content["qualified_name"] = None
        envelope = _encode(content)
    if b"\n" in envelope or b"\r" in envelope:
        envelope = msgspec.json.format(envelope, indent=-1)
    if style.timed:
        job = b"" if event.job is None else b',"job":%d' % event.job
        envelope = b'%s,"at":"%s"%s}' % (envelope.rstrip()[:-1], to_rfc3339(at).encode(), job)
    if style.sse:
        return b"id: %d\ndata: %s\n\n" % (event.sequence, envelope)
    return envelope + b"\n"
