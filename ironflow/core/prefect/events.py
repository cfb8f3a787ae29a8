"""Events of the Prefect API: what happened to which resource, in which company.

An event is decoded once, when it comes in, and encoded once, into the `body` that every reader and
subscriber gets.
"""

from __future__ import annotations

from datetime import datetime
from functools import cached_property
from typing import Any

import msgspec
import orjson

from ironflow.core.clock import from_datetime, moment
from ironflow.core.prefect.coercion import decode_leniently
from ironflow.core.prefect.faults import (
    Fault,
    InvalidRequest,
    Location,
    parse_leniently,
)
from ironflow.core.prefect.packets import make_packet
from ironflow.core.prefect.scalars import parse_uuid

RESOURCE_ID = "prefect.resource.id"
RESOURCE_ROLE = "prefect.resource.role"
MAX_RELATED = 100
MAX_LABELS = 500
MAX_NAME = 1024
"""Characters of an event's name or of a resource's id: both are keys of an index."""
MAX_EVENTS = 10_000
"""Events in one request."""

Labels = dict[str, str]

_BODY = (
    b'{"occurred":"%s","event":%s,"resource":%s,"related":%s,"payload":%s,"id":"%s",'
    b'"follows":%s,"received":"%s"}'
)


class Event(msgspec.Struct, frozen=True, dict=True):
    """One event. Moments are microseconds, `payload` is JSON text of an object."""

    id: str
    event: str
    occurred: int
    received: int
    resource: Labels
    related: tuple[Labels, ...] = ()
    payload: bytes = b"{}"
    follows: str | None = None

    @property
    def resource_id(self) -> str:
        """What the event is about."""
        return self.resource[RESOURCE_ID]

    @cached_property
    def body(self) -> bytes:
        """The event as the API shows it."""
        return self._encode(orjson.dumps(self.related))

    def with_related(self, text: bytes) -> Event:
        """This event, with its body worked out now; `text` is what `related` is as JSON."""
        self.__dict__["body"] = self._encode(text)
        return self

    def _encode(self, related: bytes) -> bytes:
        return _BODY % (
            moment(self.occurred).encode(),
            orjson.dumps(self.event),
            orjson.dumps(self.resource),
            related,
            self.payload,
            self.id.encode(),
            b"null" if self.follows is None else b'"%s"' % self.follows.encode(),
            moment(self.received).encode(),
        )

    @property
    def frame(self) -> bytes:
        """The message that subscribers get."""
        return b'{"type":"event","event":%s}' % self.body

    @cached_property
    def packet(self) -> bytes:
        """That message as it goes over the wire."""
        return make_packet(self.frame)

    @cached_property
    def text(self) -> str:
        """What a text search looks through: everything."""
        return self.body.decode()


class WireEvent(msgspec.Struct, frozen=True):
    """An event as clients send it."""

    occurred: datetime
    event: str
    resource: Labels
    id: str
    related: tuple[Labels, ...] = ()
    payload: msgspec.Raw = msgspec.Raw(b"{}")
    follows: str | None = None


_decode_one = msgspec.json.Decoder(WireEvent).decode
_decode_many = msgspec.json.Decoder(list[WireEvent]).decode


def decode_event(data: bytes | str, now: int) -> Event:
    """One event of a client, received at `now`. Raises `InvalidRequest`."""
    wire = decode_leniently(_decode_one, data)
    faults: list[Fault] = []
    event = _check(wire, now, faults, ("body",))
    if event is None:
        raise InvalidRequest(faults, parse_leniently(data))
    return event


def decode_events(data: bytes, now: int) -> list[Event]:
    """A list of events, received at `now`. Raises `InvalidRequest`, and then none is taken."""
    wires = decode_leniently(_decode_many, data)
    if len(wires) > MAX_EVENTS:
        text = f"must have at most {MAX_EVENTS} events"
        raise InvalidRequest([Fault(("body",), "too_long", text)])
    faults: list[Fault] = []
    events = [_check(wire, now, faults, ("body", n)) for n, wire in enumerate(wires)]
    if faults:
        raise InvalidRequest(faults, parse_leniently(data))
    return [event for event in events if event is not None]


def _check(wire: WireEvent, now: int, faults: list[Fault], where: Location) -> Event | None:
    before = len(faults)

    def refuse(place: Location, text: str, value: Any, kind: str = "value_error") -> None:
        faults.append(Fault((*where, *place), kind, text, value))

    event_id = parse_uuid(wire.id)
    follows = None if wire.follows is None else parse_uuid(wire.follows)
    if event_id is None:
        refuse(("id",), "must be a UUID", wire.id, "uuid_parsing")
    if wire.follows is not None and follows is None:
        refuse(("follows",), "must be a UUID", wire.follows, "uuid_parsing")
    if len(wire.event) > MAX_NAME:
        refuse(("event",), f"must have at most {MAX_NAME} characters", wire.event[:MAX_NAME])
    if not _is_object(bytes(wire.payload)):
        refuse(("payload",), "must be an object", None, "dict_type")
    if len(wire.related) > MAX_RELATED:
        refuse(("related",), f"The maximum number of related resources is {MAX_RELATED}", None)
    _check_labels(wire.resource, ("resource",), refuse)
    for number, labels in enumerate(wire.related):
        _check_labels(labels, ("related", number), refuse)
        if RESOURCE_ROLE not in labels:
            refuse(("related", number), f"must have the label {RESOURCE_ROLE}", labels)
    if len(faults) > before or event_id is None:
        return None
    return Event(
        event_id,
        wire.event,
        from_datetime(wire.occurred),
        now,
        wire.resource,
        wire.related,
        bytes(wire.payload),
        follows,
    )


def _check_labels(labels: Labels, place: Location, refuse: Any) -> None:
    if not labels.get(RESOURCE_ID):
        refuse(place, f"must have the label {RESOURCE_ID}", labels)
    elif len(labels[RESOURCE_ID]) > MAX_NAME:
        refuse((*place, RESOURCE_ID), f"must have at most {MAX_NAME} characters", None)
    if len(labels) > MAX_LABELS:
        refuse(place, f"The maximum number of labels per resource is {MAX_LABELS}", None)


def _is_object(data: bytes) -> bool:
    """Whether this is JSON that every later reader takes; it is passed on as it is."""
    try:
        return isinstance(orjson.loads(data), dict)
    except orjson.JSONDecodeError:
        return False
