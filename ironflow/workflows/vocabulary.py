"""Which classes play which part: ours, or those of a LlamaIndex workflow that is mounted."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from ironflow.core.workflows.stream import BUILT_IN, INTERNAL
from ironflow.workflows import events

FOREIGN = "workflows.events"
"""The module of LlamaIndex's events; it is never imported here: who holds one has imported it."""


class Vocabulary(NamedTuple):
    """The base classes of one family of events."""

    event: type
    start: type
    stop: type
    input_required: type
    human_response: type
    step_failed: type


OURS = Vocabulary(
    events.Event,
    events.StartEvent,
    events.StopEvent,
    events.InputRequiredEvent,
    events.HumanResponseEvent,
    events.StepFailedEvent,
)
_NAMES = (
    "Event", "StartEvent", "StopEvent", "InputRequiredEvent", "HumanResponseEvent",
    "StepFailedEvent",
)  # fmt: skip


@functools.cache
def foreign() -> Vocabulary | None:
    """LlamaIndex's, if its package is loaded."""
    module = sys.modules.get(FOREIGN)
    if module is None or not hasattr(module, "Event"):
        return None
    # Older versions lack StepFailedEvent: nothing can be one then.
    return Vocabulary(*(getattr(module, name, type(name, (), {})) for name in _NAMES))


def bases() -> tuple[type, ...]:
    """The `Event` classes that there are."""
    other = foreign() if FOREIGN in sys.modules else None
    return (OURS.event, other.event) if other is not None else (OURS.event,)


def is_event_class(kind: Any) -> bool:
    """Whether this is a class of events."""
    return isinstance(kind, type) and issubclass(kind, bases())


def is_event(value: object) -> bool:
    """Whether this is an event."""
    return makes_events(type(value))


R = TypeVar("R")


def by_class(fn: Callable[[type], R]) -> Callable[[type], R]:
    """Remember what a function says of each class."""
    return functools.cache(fn)


@by_class
def makes_events(kind: type) -> bool:
    """Whether objects of this class are events."""
    return issubclass(kind, bases())


def _plays(part: str, kind: type) -> bool:
    other = foreign() if FOREIGN in sys.modules else None
    return issubclass(kind, getattr(OURS, part)) or (
        other is not None and issubclass(kind, getattr(other, part))
    )


@by_class
def is_stop(kind: type) -> bool:
    """Whether events of this class end a run."""
    return _plays("stop", kind)


@by_class
def is_start(kind: type) -> bool:
    """Whether events of this class begin a run."""
    return _plays("start", kind)


@by_class
def is_input_required(kind: type) -> bool:
    """Whether events of this class ask somebody outside."""
    return _plays("input_required", kind)


@by_class
def is_human_response(kind: type) -> bool:
    """Whether events of this class answer from outside."""
    return _plays("human_response", kind)


@by_class
def is_step_failed(kind: type) -> bool:
    """Whether this is what error handlers get."""
    return _plays("step_failed", kind)


@by_class
def wire_name(kind: type) -> str:
    """The full name of a class, as the journal and clients know it."""
    module = kind.__module__
    if module == events.__name__:
        module = BUILT_IN
    return f"{module}.{kind.__name__}"


@functools.lru_cache(4096)
def bare_name(name: str) -> str:
    """The name of a class without that of its module."""
    return name.rpartition(".")[2]


@by_class
def ancestors(kind: type) -> tuple[str, ...]:
    """The bare names of the event classes between a class and `Event`, nearest first."""
    return tuple(
        base.__name__
        for base in kind.__mro__[1:]
        if issubclass(base, bases()) and base not in bases()
    )


@by_class
def is_internal(kind: type) -> bool:
    """Whether events of this class are the runtime's own."""
    return any(base.__name__ == INTERNAL for base in kind.__mro__)
