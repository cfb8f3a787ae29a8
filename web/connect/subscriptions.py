"""`PubSubService`: events are emitted and followed, runs are followed, all from the journal.

A subscription is a reader of the journal: its sequence numbers are the journal's, so that one that
ends at any place is continued behind it, and a slow reader loses nothing.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Annotated, Any

import msgspec

from ironflow.actors.events.router import EventEmitted
from ironflow.core.errors import Draining, InvalidInput
from ironflow.core.expressions.compiled import Expression
from ironflow.core.expressions.patterns import compile_pattern
from ironflow.core.functions.definition import compile_filter
from ironflow.core.runs import entries as e
from ironflow.core.runs.entries import decode_entry
from ironflow.core.values.codec import convert_input
from ironflow.core.values.payloads import Payload
from ironflow.storage.ports import Entry
from ironflow.web.connect.dispatch import Call, Method
from ironflow.web.connect.events import Emit, emit
from ironflow.web.connect.journal_facts import topics
from ironflow.web.connect.json_codec import Plain
from ironflow.web.connect.refusals import Unimplemented
from ironflow.web.connect.run_messages import error_message
from ironflow.web.connect.values import show
from ironflow.web.feed import Bell
from ironflow.web.stream import STREAMS
from ironflow.web.tails import EntryTail

EVENTS, SYSTEM = "events:", "system."
NEVER = 86_400.0
"""Seconds between two wakings of a quiet reader: it has nothing to say."""
WINDOW = 1000
REPLAY_SCAN = 100_000
"""Entries that are looked through for the last ones that match."""


class Options(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """From where, and what of it."""

    replay: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 0
    include_metadata: bool = False
    filter: Annotated[str, msgspec.Meta(max_length=10_000)] = ""
    namespace: str = ""
    consumer_group: str = ""
    ack_mode: str = ""
    start_after_sequence: int | None = None


class Subscribe(msgspec.Struct, frozen=True, kw_only=True):
    """A pattern of topics: `events:order.*`, `system.run.>`."""

    pattern: str = ""
    options: Options = Options()


class Selector:
    """Which entries of the journal a subscription is about, and what it is told of them."""

    def __init__(self, call: Call[Subscribe]) -> None:
        """Raises `InvalidInput`, `Unimplemented` for what is not there."""
        self.call, options, text = call, call.message.options, call.message.pattern
        self.events = text.startswith(EVENTS)
        if not self.events and not text.startswith(SYSTEM):
            if text.startswith(("topic:", "entity:")):
                raise Unimplemented(f"there are no topics of the kind of {text} on this server")
            raise InvalidInput("pattern", f"must begin with {EVENTS} or {SYSTEM}")
        if options.consumer_group or options.ack_mode == "ACK_MODE_MANUAL":
            raise Unimplemented("there are no consumer groups on this server")
        if options.namespace not in ("", "default"):
            raise InvalidInput("options.namespace", "must be empty or default")
        if options.replay and options.start_after_sequence is not None:
            raise InvalidInput("options.replay", "is given beside startAfterSequence")
        self.pattern = compile_pattern(text.removeprefix(EVENTS), "pattern")
        self.filter: Expression | None = compile_filter(options.filter or None, "options.filter")
        self.id = call.engine.ids.new()

    async def messages(self, entry: Entry) -> AsyncIterator[Plain]:
        """What subscribers are told of an entry."""
        if self.events and entry.kind == "event.emitted":
            event = msgspec.json.decode(entry.data, type=EventEmitted)
            if self.pattern.matches(event.name):
                event_id = entry.stream.removeprefix("event/")
                text = await self._text(event.data)
                facts = {"id": event_id, "name": event.name, "source": event.source}
                if self._passes(text, facts):
                    topic = f"{EVENTS}{event.name}"
                    yield self._message(entry, event_id, topic, text, event)
        elif not self.events and entry.stream.startswith("run/") and entry.kind in _TOLD:
            run_id = entry.stream.removeprefix("run/")
            fact = decode_entry(entry.kind, entry.data)
            for topic in topics(run_id, fact):
                if self.pattern.matches(topic):
                    text = await self._told(run_id, fact, entry.kind)
                    if self._passes(text, {"id": f"{run_id}/{entry.version}", "name": topic}):
                        yield self._message(entry, f"{run_id}/{entry.version}", topic, text)

    async def _told(self, run_id: str, fact: e.RunEntry, kind: str) -> bytes:
        told: dict[str, Any] = {"runId": run_id, "kind": kind}
        match fact:
            case e.RunCreated():
                told["functionId"] = fact.function_id
            case e.RunCompleted() | e.StepCompleted() | e.WaitEnded() if fact.result is not None:
                told["output"] = msgspec.Raw(await self._text(fact.result))
            case e.RunFailed() | e.StepFailed() | e.AttemptFailed():
                told["error"] = error_message(fact.error)
            case e.RunCancelled() | e.RunPaused():
                told["reason"] = fact.reason
            case _:
                pass
        return msgspec.json.encode(told)

    async def _text(self, payload: Payload) -> bytes:
        return await self.call.engine.load_payload(payload)

    def _passes(self, text: bytes, event: dict[str, Any]) -> bool:
        if self.filter is None:
            return True
        data = convert_input(text, None)
        return self.filter.matches({"event": {**event, "data": data}, "data": data})

    def _message(
        self,
        entry: Entry,
        event_id: str,
        topic: str,
        text: bytes,
        event: EventEmitted | None = None,
    ) -> Plain:
        message = {
            "subscriptionId": self.id,
            "eventId": event_id,
            "topic": topic,
            **show("data", text),
            "sequence": entry.seq,
            "deliveryAttempt": 1,
        }
        if self.call.message.options.include_metadata:
            message["metadata"] = {
                "timestamp": entry.at,
                "source": event.source if event is not None else "system",
                "namespace": "default",
            }
        return message


_TOLD = frozenset(
    e.KINDS[kind]
    for kind in (
        e.RunCreated, e.RunCompleted, e.RunFailed, e.RunCancelled, e.RunPaused, e.RunResumed,
        e.RunReopened, e.StepCompleted, e.StepFailed, e.WaitStarted, e.WaitEnded, e.RunStarted,
        e.RunParked, e.RunQueued, e.RunWoken, e.AttemptFailed,
    )
)  # fmt: skip
"""Entries of runs that have a topic."""


async def subscribe(call: Call[Subscribe]) -> AsyncGenerator[Mapping[str, Any] | None, None]:
    """Follow events or runs, from now on unless told otherwise."""
    feed, options = call.request.app[STREAMS].feed, call.message.options
    selector, bell = Selector(call), Bell(NEVER)
    feed.attach(bell)
    try:
        newest = feed.journal.last_seq
        position = options.start_after_sequence
        if position is not None and position > newest:
            raise InvalidInput(
                "options.startAfterSequence", f"is beyond the newest entry of the journal, {newest}"
            )
        yield None
        if options.replay:
            for message in await _replay(call, selector, newest):
                yield message
        tail = EntryTail(feed, newest if position is None else position)
        while not feed.is_closed:
            entries = await tail.take()
            if entries is None:
                feed.expect_news(bell)
                await bell.wait()
                continue
            for entry in entries:
                async for message in selector.messages(entry):
                    yield message
        raise Draining("the server is shutting down; subscribe again")
    finally:
        feed.detach(bell)


async def _replay(call: Call[Subscribe], selector: Selector, newest: int) -> list[Plain]:
    """The last messages up to `newest`, oldest first."""
    wanted, found, end = call.message.options.replay, list[list[Plain]](), newest
    count = 0
    while end > 0 and end > newest - REPLAY_SCAN and count < wanted:
        start = max(0, end - WINDOW)
        page = await call.engine.store.reader.tail(start, WINDOW)
        messages = [
            message
            for entry in page
            if entry.seq <= end
            async for message in selector.messages(entry)
        ]
        found.append(messages)
        count += len(messages)
        end = start
    return [message for messages in reversed(found) for message in messages][-wanted:]


METHODS = {
    "Emit": Method(Emit, emit),
    "Subscribe": Method(Subscribe, stream=subscribe),
}
