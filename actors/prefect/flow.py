"""The actor of one flow, named by its name: it exists once, whoever asks for it and how often."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import msgspec

from ironflow.actors.environment import Environment
from ironflow.actors.kernel.actor import LATER, Envelope
from ironflow.actors.prefect.sinks import FlowChange, MoveSink
from ironflow.actors.stream import Renew, StreamActor
from ironflow.core.clock import to_rfc3339
from ironflow.core.errors import NotFound
from ironflow.core.messages import Message
from ironflow.core.prefect.bodies import Flow
from ironflow.core.prefect.commands import Reply
from ironflow.core.prefect.runs import Labels
from ironflow.storage.ports import Batch, NewEntry
from ironflow.storage.relational.prefect_runs import FLOWS

_encode = msgspec.json.Encoder().encode


class Saved(NamedTuple):
    """A flow as it is now."""

    id: str
    reply: Reply


class CreateFlow(Message[Saved], frozen=True):
    """Create the flow, or find it."""

    tags: list[str]
    labels: Labels


class ReadFlow(Message[Saved | None], frozen=True):
    """Look at the flow; None when there is none."""


class ChangeFlow(Message[None], frozen=True):
    """Give the flow other tags."""

    id: str
    tags: list[str]


class DeleteFlow(Message[None], frozen=True):
    """Delete the flow; its runs are another's business."""

    id: str


class FlowSaved(msgspec.Struct, frozen=True):
    """The flow is as it says."""

    id: str
    tags: list[str]
    labels: Labels
    created_at: int


class FlowDeleted(msgspec.Struct, frozen=True):
    """The flow is gone."""

    id: str


class FlowActor(StreamActor):
    """One flow. Its key is its name."""

    def __init__(self, environment: Environment, sink: MoveSink) -> None:
        super().__init__(environment)
        self.sink = sink
        self.version = 0
        self.flow: FlowSaved | None = None
        self.updated_at = 0

    async def start(self) -> None:
        """Fold the stream: the last entry is all there is to know."""
        loaded = await self.environment.store.reader.load(self.stream)
        for entry in loaded.entries[-1:]:
            self.version, self.updated_at = entry.version, entry.at
            if entry.kind == "flow.saved":
                self.flow = msgspec.json.decode(entry.data, type=FlowSaved)

    def receive(self, message: Message[Any], envelope: Envelope) -> object:
        """Understands the messages of this module."""
        match message:
            case CreateFlow():
                if self.flow is not None:
                    return self._show(envelope)
                now = self.environment.clock.now()
                id_ = self.environment.ids.new()
                self._save(FlowSaved(id_, message.tags, message.labels, now), now, envelope, 201)
                return LATER
            case ReadFlow():
                return self._show(envelope)
            case ChangeFlow():
                flow = self._find(message.id)
                changed = msgspec.structs.replace(flow, tags=message.tags)
                self._save(changed, self.environment.clock.now(), envelope, None)
                return LATER
            case DeleteFlow():
                flow, now = self._find(message.id), self.environment.clock.now()
                self.flow = None
                batch = Batch([], [], [(FLOWS, (message.id,))])
                self._append(batch, "flow.deleted", _encode(FlowDeleted(message.id)), now)
                self.commit(batch, envelope, None, self._tell("deleted", flow, now, batch))
                return LATER
            case Renew():
                return None
            case _:
                return super().receive(message, envelope)

    def _find(self, id_: str) -> FlowSaved:
        if self.flow is None or self.flow.id != id_:
            raise NotFound("flow", id_)
        return self.flow

    def _show(self, envelope: Envelope) -> object:
        if self.flow is None:
            return None
        saved = Saved(self.flow.id, Reply(200, self._body(self.flow)))
        if not self.uncommitted:
            return saved
        self.commit(Batch([], [], []), envelope, saved)
        return LATER

    def _save(self, flow: FlowSaved, now: int, envelope: Envelope, status: int | None) -> None:
        self.flow, self.updated_at = flow, now
        body = self._body(flow)
        tags = _encode(flow.tags).decode()
        row = (flow.id, self.key, tags, flow.created_at, now, body)
        batch = Batch([], [(FLOWS, row)], [])
        self._append(batch, "flow.saved", _encode(flow), now)
        saved = None if status is None else Saved(flow.id, Reply(status, body))
        what: Literal["created", "updated"] = "created" if status is not None else "updated"
        self.commit(batch, envelope, saved, self._tell(what, flow, now, batch))

    def _tell(
        self,
        what: Literal["created", "updated", "deleted"],
        flow: FlowSaved,
        now: int,
        batch: Batch,
    ) -> Callable[[], None]:
        id_ = self.environment.ids.new()
        change = FlowChange(what, id_, now, flow.id, self.key, flow.tags, flow.labels)
        return self.sink.flow_changed(change, batch)

    def _append(self, batch: Batch, kind: str, data: bytes, now: int) -> None:
        self.version += 1
        batch.entries.append(NewEntry(self.stream, self.version, now, kind, data))

    def _body(self, flow: FlowSaved) -> bytes:
        created, updated = to_rfc3339(flow.created_at), to_rfc3339(self.updated_at)
        view = Flow(
            id=flow.id,
            created=created,
            updated=updated,
            name=self.key,
            tags=flow.tags,
            labels=flow.labels,
        )
        return _encode(view)
