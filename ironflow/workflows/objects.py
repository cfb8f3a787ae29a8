"""Events as objects beside their stored form: decoded when needed, or held since they were made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ironflow.core.runs.execution import Effects
from ironflow.core.values.payloads import Payload
from ironflow.core.workflows.state import EventData, Job, WorkflowState
from ironflow.workflows.codec import Keeper, decode_event, encode_fields, payload_of
from ironflow.workflows.errors import WorkflowRuntimeError
from ironflow.workflows.plain import encode_plain
from ironflow.workflows.typed import restore_typed, typed_values
from ironflow.workflows.vocabulary import wire_name

if TYPE_CHECKING:
    from ironflow.workflows.mounting import MountedWorkflow

MOST_OBJECTS = 20_000
"""Events that are held as objects."""
MOST_LARGE = 16
"""Texts from the blob table that are held, or twice as many as are needed."""


class Objects:
    """The events of one execution."""

    def __init__(self, function: MountedWorkflow, effects: Effects, keeper: Keeper | None) -> None:
        self._function, self._effects, self._keeper = function, effects, keeper
        self._objects: dict[int, tuple[EventData, Any]] = {}
        self.large: dict[str, bytes] = {}
        """Texts from the blob table by digest."""
        self._most_large = MOST_LARGE

    def store(self, event: Any, blobs: dict[str, bytes]) -> EventData:
        """The stored form of an event; what is too large for the journal is put into `blobs`."""
        text, typed = encode_plain(event), dict[str, Any]()
        if text is None:
            text = encode_fields(event, self._keeper)
            if self._keeper is None:
                typed = typed_values(event)
        data = EventData(wire_name(type(event)), payload_of(text, blobs), typed)
        self.add(data, event)
        return data

    def add(self, data: EventData, event: Any) -> None:
        """Hold the object of an event, so that it need not be decoded."""
        objects = self._objects
        if len(objects) >= MOST_OBJECTS:
            objects.clear()
        objects[id(data)] = (data, event)

    def get(self, data: EventData, kind: type | None = None) -> Any:
        """An event as object. Raises `WorkflowRuntimeError` when its class is gone."""
        known = self._objects.get(id(data))
        if known is not None and known[0] is data:
            return known[1]
        kind = kind or self._function.class_of(data.type)
        if kind is None:
            raise WorkflowRuntimeError(f"the class {data.type} of a stored event is not known here")
        text = self._text(data.value)
        event = decode_event(kind, text, self._keeper, restore_typed(data.typed))
        self.add(data, event)
        return event

    def forget(self, job: Job) -> None:
        """A job is over: its events are not needed any more."""
        for data in job.events:
            self._objects.pop(id(data), None)
        for wait in job.waits.values():
            if wait.event is not None:
                self._objects.pop(id(wait.event), None)

    def _text(self, payload: Payload) -> bytes:
        return payload.json if payload.json is not None else self.large[payload.blob or ""]

    def add_large(self, blobs: Mapping[str, bytes], state: WorkflowState) -> None:
        """Hold what goes to the blob table, for as long as something in the `state` refers to it
        and a while longer.
        """
        self.large.update(blobs)
        if len(self.large) > self._most_large:
            needed = {payload.blob for payload in payloads_of(state)}
            self.large = {key: text for key, text in self.large.items() if key in needed}
            self._most_large = MOST_LARGE + 2 * len(self.large)

    def has(self, payload: Payload) -> bool:
        """Whether the text of a payload is here."""
        return payload.blob is None or payload.blob in self.large

    async def load_all(self, state: WorkflowState) -> None:
        """Fetch what is too large for the journal and may be needed."""
        for payload in payloads_of(state):
            await self.load(payload)

    async def load(self, payload: Payload) -> bytes:
        """The JSON text of a payload."""
        if payload.json is not None:
            return payload.json
        digest = payload.blob or ""
        if digest not in self.large:
            self.large[digest] = await self._effects.blob(digest)
        return self.large[digest]


def payloads_of(state: WorkflowState) -> Iterator[Payload]:
    """The payloads that what is under way refers to."""
    for data in events_of(state):
        yield data.value
    for job in state.jobs.values():
        yield from job.memos.values()
        yield from (child.result for child in job.children.values() if child.result is not None)


def events_of(state: WorkflowState) -> Iterator[EventData]:
    """Every event that is under way."""
    yield from (signal.event for signal in state.inbox.values())
    for job in state.jobs.values():
        yield from job.events
        yield from (wait.event for wait in job.waits.values() if wait.event is not None)
        yield from (data for echo in job.echoes for data in echo.released or ())
    for held in state.buffers.values():
        yield from held
    for fan in state.fans.values():
        yield from (data for held in fan.collected.values() for data in held)
