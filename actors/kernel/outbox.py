"""Durable messages between actors: a row committed with its cause, deleted in the commit of its
effect.

After the commit the message is posted at once; the row only matters when the process or the
receiver fails in between. A receiver may therefore see a message twice, and says so by consuming it
again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from ironflow.core.crash_points import reach
from ironflow.core.errors import Damaged
from ironflow.core.messages import Message
from ironflow.core.runs.commands import DELIVERABLE, DELIVERY_KINDS, Send
from ironflow.core.runs.entries import UNREADABLE
from ironflow.storage.ports import Delivery

if TYPE_CHECKING:
    from ironflow.actors.kernel.system import System

AT_ONCE = ("router/", "debounce/", "batch/", "singleton/")
"""Targets that take their messages at once: they know which of them they have taken."""

_encode = msgspec.json.Encoder().encode
_decoders: dict[str, msgspec.json.Decoder[Any]] = {
    kind: msgspec.json.Decoder(message) for kind, message in DELIVERABLE.items()
}


def encode_row(send: Send, delivery: str, at: int) -> Delivery:
    """The row of a durable message. Bytes for the blob table travel beside it, not in it."""
    message = send.message
    if getattr(message, "blob", None) is not None:
        message = msgspec.structs.replace(message, blob=None)
    return Delivery(delivery, send.target, DELIVERY_KINDS[type(message)], _encode(message), at)


def decode_row(row: Delivery) -> Message[Any]:
    """The message of a row, ready to be posted. Raises `Damaged`."""
    try:
        message = _decoders[row.kind].decode(row.data)
    except KeyError as error:
        raise Damaged(f"durable message {row.id}", f"{row.kind!r:.50} is no kind") from error
    except UNREADABLE as error:
        raise Damaged(f"durable message {row.id}", str(error)) from error
    return with_delivery(message, row.id)


def with_delivery(message: Message[Any], delivery: str) -> Message[Any]:
    """The message with the name of its row, and without bytes that were committed already."""
    facts: dict[str, Any] = {"delivery": delivery}
    if getattr(message, "blob", None) is not None:
        facts["blob"] = None
    return msgspec.structs.replace(message, **facts)


class Outbox:
    """Messages that are committed and not yet consumed, by target.

    A run gets its messages one at a time, in the order in which they were committed: it must not be
    told to end before it is told to begin, although either message may be refused and repeated. The
    router takes events in any order, and intakes know what they have taken: they get theirs at
    once.
    """

    def __init__(self, system: System) -> None:
        self._system = system
        self._pending: dict[str, dict[str, Message[Any]]] = {}

    def __len__(self) -> int:
        return sum(len(messages) for messages in self._pending.values())

    def post(self, target: str, delivery: str, message: Message[Any]) -> None:
        """Post a message whose row is committed, as soon as it is its turn."""
        messages = self._pending.setdefault(target, {})
        messages[delivery] = message
        reach("message.posting")
        if len(messages) == 1 or target.startswith(AT_ONCE):
            self.deliver(target, message)

    def consumed(self, target: str, delivery: str) -> None:
        """The row is deleted: on to the next."""
        messages = self._pending.get(target)
        if messages is None or messages.pop(delivery, None) is None:
            return
        if not messages:
            del self._pending[target]
        elif not target.startswith(AT_ONCE):
            self.deliver(target, next(iter(messages.values())))

    def has(self, target: str, delivery: str) -> bool:
        """Whether a message is committed, not consumed, and known here."""
        return delivery in self._pending.get(target, {})

    def pending(self, target: str) -> list[str]:
        """What the target has not consumed, in the order in which it was committed."""
        return list(self._pending.get(target, ()))

    def repost(self, target: str) -> None:
        """Post again what the target has not consumed; it failed in between."""
        messages = list(self._pending.get(target, {}).values())
        for message in messages if target.startswith(AT_ONCE) else messages[:1]:
            self.deliver(target, message)

    def deliver(self, target: str, message: Message[Any]) -> None:
        """Hand a message to its target now."""
        self._system.at(target).post(message)
