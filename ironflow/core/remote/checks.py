"""What an executor in another process may say in a command: bounds on numbers and texts, values
that are what their digest says, expressions that compile.

Its worker is let in by a key, and still it may be broken, or of another version. What is let
through here is applied to the run, so nothing that an actor or the database chokes on may pass.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from ironflow.core.clock import SECOND
from ironflow.core.errors import InvalidInput
from ironflow.core.expressions.patterns import validate_event_name, validate_pattern
from ironflow.core.functions.definition import compile_filter
from ironflow.core.messages import Message
from ironflow.core.runs import commands as c
from ironflow.core.values.codec import TEXT_DEPTH
from ironflow.core.values.json_text import keep_json
from ironflow.core.values.payloads import Payload

LONGEST_TEXT = 4000
"""Characters of a key, a scope or an id: branches nest."""
LAST_MOMENT = 253_402_300_799 * SECOND
"""The end of the year 9999, in microseconds."""
LONGEST_PAUSE = 10 * 366 * 86_400.0
"""Seconds: ten years."""
MOST_ATTEMPTS = 1_000_000
MOST_GAP = 10_000
"""Places in a row that a body may leave without anything recorded (blocks record nothing)."""

_TEXTS = ("key", "name", "scope", "child", "function_id")
_MOMENTS = ("until", "started_at", "at")
_SECONDS = ("retry_in", "retry_after", "lookback")
_PAYLOADS = ("result", "input", "data")


class _Fields:
    """Those of a kind of message that have to be looked at."""

    def __init__(self, kind: type[Message[Any]]) -> None:
        has = set(kind.__struct_fields__)
        self.texts = [name for name in _TEXTS if name in has]
        self.moments = [name for name in _MOMENTS if name in has]
        self.seconds = [name for name in _SECONDS if name in has]
        self.payloads = [name for name in _PAYLOADS if name in has]


_fields_of = cache(_Fields)


def check_command(command: Message[Any], order: Mapping[str, Sequence[str]]) -> None:
    """Raise `InvalidInput` naming the field that makes no sense. `order` is the run's: the keys of
    the steps of each scope by their positions.
    """
    _check_fields(command)
    if isinstance(command, _OF_STEPS):
        if not command.key:
            raise InvalidInput("key", "must not be empty")
        if not 0 <= command.pos <= len(order.get(command.scope, ())) + MOST_GAP:
            raise InvalidInput("pos", f"{command.pos} is no position that could come next")
    if isinstance(command, c.StartWait):
        _check_wait(command)
    elif isinstance(command, _OF_ATTEMPTS):
        if not 1 <= command.attempt <= MOST_ATTEMPTS:
            raise InvalidInput("attempt", f"must be from 1 to {MOST_ATTEMPTS}")
        if isinstance(command, c.RecordStep):
            for send in command.sends:
                check_message(send.message)


_OF_STEPS = (c.RecordStep, c.FailStep, c.StartWait)
_OF_ATTEMPTS = (c.RecordStep, c.FailStep)


def _check_wait(command: c.StartWait) -> None:
    if command.event is not None:
        validate_pattern(command.event, "event")
        compile_filter(command.match, "match")
    if command.create is not None:
        check_message(command.create)


def check_message(message: Message[Any]) -> None:
    """The same for a message that goes out with a step: a run to be created, an event."""
    _check_fields(message)
    if isinstance(message, c.EmitEvent):
        validate_event_name(message.name, "name")
    if isinstance(message, c.CreateRun) and not message.function_id:
        raise InvalidInput("function_id", "must not be empty")


def _check_fields(message: Message[Any]) -> None:
    fields = _fields_of(type(message))
    for name in fields.texts:
        text = getattr(message, name)
        if text is not None and len(text) > LONGEST_TEXT:
            raise InvalidInput(name, f"is longer than {LONGEST_TEXT} characters")
    for name in fields.moments:
        moment = getattr(message, name)
        if moment is not None and not 0 <= moment <= LAST_MOMENT:
            raise InvalidInput(name, "must be a moment in microseconds, up to the year 9999")
    for name in fields.seconds:
        seconds = getattr(message, name)
        if seconds is not None and not (math.isfinite(seconds) and 0 <= seconds <= LONGEST_PAUSE):
            raise InvalidInput(name, "must be seconds, at most ten years")
    for name in fields.payloads:
        payload = getattr(message, name)
        if isinstance(payload, Payload):
            check_payload(payload, getattr(message, "blob", None), name)


def check_payload(payload: Payload, blob: bytes | None, field: str) -> None:
    """A value is JSON on one line, and one for the blob table comes with the very bytes of its
    digest: that table is shared by all runs.
    """
    data = payload.json
    if data is None:
        data = blob
        if data is None:
            raise InvalidInput(field, "speaks of a large value that did not come with it")
        if hashlib.sha256(data).hexdigest() != payload.blob or len(data) != payload.size:
            raise InvalidInput(field, "is not the value that its digest names")
    if keep_json(data, field, TEXT_DEPTH) is not data:
        raise InvalidInput(field, "must be on one line")
