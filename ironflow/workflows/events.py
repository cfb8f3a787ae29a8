"""Events: pydantic models that take any further field. Declared fields are validated, the others
lie in `_data` and are read as attributes or as from a mapping.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import ItemsView, Iterator, KeysView, ValuesView
from contextlib import suppress
from datetime import datetime
from enum import Enum
from typing import Any, cast

from pydantic import (
    AliasChoices,
    AliasPath,
    BaseModel,
    ConfigDict,
    PrivateAttr,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    field_serializer,
    field_validator,
    model_serializer,
)

from ironflow.core.values.payloads import to_storable

__all__ = [
    "Event",
    "HumanResponseEvent",
    "InputRequiredEvent",
    "InternalDispatchEvent",
    "QuestionAnswered",
    "StartEvent",
    "StepFailedEvent",
    "StepState",
    "StepStateChanged",
    "StopEvent",
    "UnhandledEvent",
    "WorkflowCancelledEvent",
    "WorkflowFailedEvent",
    "WorkflowIdleEvent",
    "WorkflowTimedOutEvent",
]


class Event(BaseModel):
    """What steps take and return. A step gets the events of exactly the types that it names."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    _data: dict[str, Any] = PrivateAttr(default_factory=dict)

    def __init__(self, **params: Any) -> None:
        if params.keys() <= _declared(type(self)):
            self._validate(params)
            return
        own, private, extra = self._split(params)
        self._validate(own)
        given = private.pop("_data", None)
        if given:
            extra = {**given, **extra}
        for name, value in private.items():
            super().__setattr__(name, value)
        if extra:
            self._data = extra

    def _validate(self, params: dict[str, Any]) -> None:
        # As pydantic's own `__init__`, but that fields may be given by their own names, too, here
        # and in the models in them: the stored form has those.
        self.__pydantic_validator__.validate_python(
            params, self_instance=self, by_alias=True, by_name=True
        )

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        # Pydantic begins private attributes once for each class of a line, and copies defaults. An
        # event that has no others than ours, and nothing of its own to do, has them at once.
        begin, private = inspect.unwrap(cls.model_post_init), cls.__private_attributes__
        if begin not in _BEGUN and begin.__module__ != "pydantic._internal._model_construction":
            return
        if private.keys() == {"_data"}:
            cls.model_post_init = _begin_event  # type: ignore[method-assign]
        elif private.keys() == {"_data", "_result"} and private["_result"].get_default() is None:
            cls.model_post_init = _begin_stop_event  # type: ignore[method-assign]

    @classmethod
    def _split(
        cls, params: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        own: dict[str, Any] = {}
        private: dict[str, Any] = {}
        extra: dict[str, Any] = {}
        declared = _declared(cls)
        for name, value in params.items():
            if name in declared:
                own[name] = value
            elif name in cls.__private_attributes__:
                private[name] = value
            else:
                extra[name] = value
        return own, private, extra

    def __getattr__(self, name: str) -> Any:
        if name in type(self).__private_attributes__ or name.startswith("__"):
            return super().__getattr__(name)  # type: ignore[misc]
        try:
            return self._data[name]
        except KeyError:
            raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        cls = type(self)
        if name in cls.model_fields or name in cls.__private_attributes__ or hasattr(cls, name):
            super().__setattr__(name, value)
        else:
            self._data[name] = value

    def __getitem__(self, key: str) -> Any:
        return self._data[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._data[key] = value

    def get(self, key: str, default: Any = None) -> Any:
        """A further field, or the default."""
        return self._data.get(key, default)

    def __contains__(self, key: object) -> bool:
        return key in self._data

    def keys(self) -> KeysView[str]:
        """Names of the further fields."""
        return self._data.keys()

    def values(self) -> ValuesView[Any]:
        """Values of the further fields."""
        return self._data.values()

    def items(self) -> ItemsView[str, Any]:
        """The further fields."""
        return self._data.items()

    def __len__(self) -> int:
        return len(self._data)

    def __iter__(self) -> Iterator[str]:  # type: ignore[override]
        return iter(self._data)

    def __bool__(self) -> bool:
        return True

    def dict(self, **options: Any) -> dict[str, Any]:
        """All fields: the name that `model_dump` had before."""
        return self.model_dump(**options)

    def to_dict(self) -> Any:
        """The further fields."""
        return dict(self._data)

    @model_serializer(mode="wrap")
    def _dump(self, handler: SerializerFunctionWrapHandler, info: SerializationInfo) -> Any:
        found = handler(self)
        private = self.__pydantic_private__
        if private and private["_data"]:
            found["_data"] = private["_data"]
        return found


def _begin_event(event: Any, context: Any, /) -> None:
    # Of a class with more attributes, Pydantic begins all of them before it comes by here.
    if getattr(event, "__pydantic_private__", None) is None:
        object.__setattr__(event, "__pydantic_private__", {"_data": {}})


def _begin_stop_event(event: Any, context: Any, /) -> None:
    if getattr(event, "__pydantic_private__", None) is None:
        object.__setattr__(event, "__pydantic_private__", {"_data": {}, "_result": None})


_BEGUN = (_begin_event, _begin_stop_event)


@functools.cache
def _declared(kind: type[Event]) -> frozenset[str]:
    """The names by which the fields of a class are given."""
    names = set(kind.model_fields)
    for field in kind.model_fields.values():
        alias = field.validation_alias
        for each in alias.choices if isinstance(alias, AliasChoices) else (alias,):
            if isinstance(each, str):
                names.add(each)
            elif isinstance(each, AliasPath):
                names.add(str(each.path[0]))
    return frozenset(names)


class StartEvent(Event):
    """Begins a run: its fields are what `run` was given."""


_UNSAID: Any = object()


class StopEvent(Event):
    """Ends a run. `result` is what the run returns; a subclass with fields of its own is itself the
    result.
    """

    _result: Any = PrivateAttr(default=None)

    def __init__(self, result: Any = _UNSAID, **params: Any) -> None:
        if result is _UNSAID:
            super().__init__(**params)
        elif "result" in _declared(type(self)):
            super().__init__(result=result, **params)
        else:
            super().__init__(_result=result, **params)

    @property
    def result(self) -> Any:
        """What the run returns; a subclass may declare it as a field."""
        return self._get_result()

    def _get_result(self) -> Any:
        """For subclasses that work their `result` out."""
        return self.__dict__.get("result", self._result)

    @model_serializer(mode="wrap")
    def _dump_result(self, handler: SerializerFunctionWrapHandler, info: SerializationInfo) -> Any:
        found = handler(self)
        private = self.__pydantic_private__
        if private and private["_data"]:
            found["_data"] = private["_data"]
        if private and private["_result"] is not None:
            found["result"] = private["_result"]
        return found

    def __repr__(self) -> str:
        fields = {**{name: getattr(self, name) for name in type(self).model_fields}, **self._data}
        if self._result is not None:
            fields["result"] = self._result
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in fields.items())})"

    def __str__(self) -> str:
        return repr(self) if type(self).model_fields else str(self._result)


class InputRequiredEvent(Event):
    """Asks somebody outside for something; a step that returns it writes it to the stream."""


class HumanResponseEvent(Event):
    """The answer from outside."""


class StepFailedEvent(Event):
    """Handed to a `catch_error` handler when a step has failed for good."""

    step_name: str
    input_event: Event
    exception: Exception
    attempts: int
    elapsed_seconds: float
    failed_at: datetime

    @field_serializer("exception")
    def _dump_exception(self, exception: Exception) -> dict[str, str]:
        return describe_exception(exception)


class InternalDispatchEvent(Event):
    """What the runtime tells of itself; readers of a stream get it only when they ask for it."""


class StepState(Enum):
    """Where a step stands."""

    PREPARING = "preparing"
    RUNNING = "running"
    NOT_RUNNING = "not_running"


class StepStateChanged(InternalDispatchEvent):
    """A worker took a step up, or let go of it."""

    name: str
    step_state: StepState
    worker_id: str
    input_event_name: str
    output_event_name: str | None = None


class WorkflowIdleEvent(InternalDispatchEvent):
    """Nothing executes, and nothing will before something comes from outside or a timer rings."""


class UnhandledEvent(InternalDispatchEvent):
    """An event came that no step takes and nobody waits for."""

    event_type: str
    qualified_name: str
    step_name: str | None = None
    idle: bool


class QuestionAnswered(InternalDispatchEvent):
    """An event from outside answered a question of the stream, as its sender said: `question` is
    the sequence of that, `jobs` are the jobs of steps that have the answer.
    """

    question: int
    event_type: str
    jobs: list[int]


class WorkflowFailedEvent(StopEvent):
    """The last event of a run that failed."""

    step_name: str
    exception: Exception
    attempts: int | None = None
    elapsed_seconds: float | None = None

    @field_validator("exception", mode="before")
    @classmethod
    def _build_exception(cls, exception: Any) -> Any:
        return restore_exception(exception) if isinstance(exception, dict) else exception

    @field_serializer("exception")
    def _dump_exception(self, exception: Exception) -> dict[str, str]:
        return describe_exception(exception)


class WorkflowTimedOutEvent(StopEvent):
    """The last event of a run that took too long; `timeout` in seconds."""

    timeout: float
    active_steps: list[str]


class WorkflowCancelledEvent(StopEvent):
    """The last event of a run that was cancelled."""


class UnknownError(RuntimeError):
    """An exception whose class is not known here, or wants other arguments than its text."""

    def __init__(self, facts: dict[str, str]) -> None:
        self._described = facts
        super().__init__(f"{facts['exception_type']}: {facts['exception_message']}")


def restore_exception(facts: dict[str, str]) -> Exception:
    """The exception that `describe_exception` described, of its class if that is loaded here and
    takes a text. Nothing is imported: whoever sends an event does not choose what is loaded.
    """
    facts = {name: str(facts.get(name, "")) for name in ("exception_type", "exception_message")}
    module_name, _, class_name = facts["exception_type"].rpartition(".")
    kind = getattr(sys.modules.get(module_name), class_name, None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        with suppress(Exception):
            made: Any = kind(facts["exception_message"])
            made._described = facts  # its text may be another by now
            return cast(Exception, made)
    return UnknownError(facts)


def describe_exception(exception: Exception) -> dict[str, str]:
    """An exception as clients see it."""
    known: dict[str, str] | None = getattr(exception, "_described", None)
    if known is not None:
        return dict(known)
    kind = type(exception)
    return {
        "exception_type": f"{kind.__module__}.{kind.__qualname__}",
        "exception_message": to_storable(str(exception)),
    }
