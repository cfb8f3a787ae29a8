"""What HTTP may ask of a workflow: `ironflow.core.workflows.face.WorkflowFace`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from pydantic import ValidationError

from ironflow.core.errors import InvalidInput, NotSerializable
from ironflow.core.workflows.face import ReadEvent
from ironflow.core.workflows.state import WorkflowState
from ironflow.workflows import contexts
from ironflow.workflows.codec import MODEL, encode_fields
from ironflow.workflows.errors import ContextSerdeError
from ironflow.workflows.representation import represent, schema_of
from ironflow.workflows.serializers import JsonSerializer
from ironflow.workflows.store import LiveState
from ironflow.workflows.vocabulary import is_internal, wire_name

if TYPE_CHECKING:
    from ironflow.workflows.mounting import MountedWorkflow


class Face:
    """One mounted workflow, as callers see it."""

    def __init__(self, mounted: MountedWorkflow) -> None:
        self._mounted = mounted

    # -- descriptions -----------------------------------------------------------------------------

    def start_schema(self) -> dict[str, Any]:
        """JSON schema of the start event."""
        return _schema(self._mounted.graph.start)

    def stop_schema(self) -> dict[str, Any]:
        """JSON schema of the stop event."""
        return _schema(self._mounted.graph.stop)

    def event_schemas(self) -> list[dict[str, Any]]:
        """JSON schemas of every event that steps take or return, and of the additional ones."""
        return [_schema(kind) for kind in self._mounted.graph.events]

    def representation(self) -> dict[str, Any]:
        """The graph."""
        mounted = self._mounted
        return represent(mounted.graph, mounted.fn.__name__, mounted.definition.description or None)

    # -- what callers send ------------------------------------------------------------------------

    def read_start(self, given: object) -> bytes:
        """See `WorkflowFace`."""
        graph = self._mounted.graph
        given = _parse(given, "start_event", empty={})
        if given is None:
            given = {}
        if not isinstance(given, dict):
            raise InvalidInput("start_event", f"must be an object, not {_name(given)}")
        kind = graph.start
        enveloped = "value" in given or ("type" in given and "qualified_name" in given)
        if enveloped or given.get(MODEL):
            value = given.get("value", given.get("data", {}))
            # Clients that know no better say StartEvent, which asks for nothing.
            vague = given.get("type") == "StartEvent"
            said = None if vague else self._resolve(given, "start_event")
            if said is not None and not issubclass(said, kind):
                raise InvalidInput("start_event", f"must be a {kind.__name__}, not {said.__name__}")
        else:
            value = given
        if value is None:
            value = {}
        if not isinstance(value, dict):
            raise InvalidInput("start_event", f"its value must be an object, not {_name(value)}")
        return self._build(kind, value, "start_event")

    def read_event(self, given: object) -> ReadEvent:
        """See `WorkflowFace`."""
        given = _parse(given, "event")
        if not isinstance(given, dict):
            raise InvalidInput("event", f"must be an object, not {_name(given)}")
        kind = self._resolve(given, "event")
        if kind is None:
            raise InvalidInput("event", "must name its class as type or qualified_name")
        value = given.get("value", given.get("data", {}))
        if value is None:
            value = {}
        if not isinstance(value, dict):
            raise InvalidInput("event", f"its value must be an object, not {_name(value)}")
        return ReadEvent(wire_name(kind), self._build(kind, value, "event"))

    def _resolve(self, given: dict[str, Any], field: str) -> type | None:
        """The class that an envelope names: of those that are declared, and of no other."""
        graph = self._mounted.graph
        bare, full = given.get("type"), given.get("qualified_name")
        for name in (bare, full):
            if name is not None and not isinstance(name, str):
                raise InvalidInput(field, f"its class must be named by text, not {_name(name)}")
        kind = graph.by_bare_name.get(bare) if bare else None
        if kind is None and full:
            # Of a class in the caller's own module the last name is what both sides know.
            known = full if bare else full.rpartition(".")[2]
            kind = graph.by_wire_name.get(full) or graph.by_bare_name.get(known)
        if kind is None and (bare or full):
            raise InvalidInput(field, f"the workflow knows no event {bare or full!r}")
        if kind is not None and is_internal(kind):
            raise InvalidInput(field, f"{kind.__name__} is an event of the runtime's own")
        return kind

    def _build(self, kind: Any, value: dict[str, Any], field: str) -> bytes:
        extra = value.get("_data")
        if isinstance(extra, dict):
            value = {**extra, **{k: v for k, v in value.items() if k != "_data"}}
        try:
            return encode_fields(kind(**value))
        except (ValidationError, ValueError, TypeError, NotSerializable) as error:
            raise InvalidInput(field, read_error(error, kind)) from error

    def check_step(self, step: str, type: str) -> None:
        """See `WorkflowFace`."""
        graph = self._mounted.graph
        spec = graph.plain.get(step)
        if spec is None:
            raise InvalidInput("step", f"there is no step {step!r}")
        kind = self._mounted.class_of(type)
        waits = any(kind is each for each in graph.known)
        if kind is None or not (spec.accepts(kind) or (waits and kind not in graph.events)):
            raise InvalidInput("step", f"step {step!r} does not take {type.rpartition('.')[2]}")

    # -- contexts ---------------------------------------------------------------------------------

    def read_context(self, given: dict[str, Any]) -> WorkflowState:
        """See `WorkflowFace`."""
        graph = self._mounted.graph
        state_types = [graph.state_type] if graph.state_type is not None else []
        try:
            state, _ = contexts.read(given, graph, JsonSerializer([*graph.known, *state_types]))
            contexts.restrict(state, graph)
        except (ContextSerdeError, ValueError, TypeError, AttributeError, LookupError) as error:
            raise InvalidInput("context", str(error)) from error
        return state

    def write_context(self, state: WorkflowState, running: bool) -> dict[str, Any]:
        """See `WorkflowFace`."""
        graph = self._mounted.graph
        live = LiveState(state.store, graph.state_type)
        return contexts.write(state, live, graph, running, JsonSerializer())


def _parse(given: object, field: str, empty: object = None) -> object:
    """Text is JSON, if it can be."""
    if not isinstance(given, str):
        return given
    if not given.strip() and empty is not None:
        return empty
    try:
        return msgspec.json.decode(given)
    except msgspec.DecodeError as error:
        raise InvalidInput(field, f"must be an object: its text is not JSON ({error})") from error


def _schema(kind: type) -> dict[str, Any]:
    return schema_of(kind) or {"title": kind.__name__, "type": "object", "properties": {}}


def _name(value: object) -> str:
    names = {"NoneType": "null", "list": "a list", "str": "text", "bool": "a boolean"}
    names |= {"int": "a number", "float": "a number"}
    kind = type(value).__name__
    return names.get(kind, f"a {kind}")


def read_error(error: Exception, kind: type) -> str:
    """What is wrong with an event, in one line."""
    if isinstance(error, ValidationError):
        parts = [
            f"{'.'.join(map(str, each['loc'])) or kind.__name__}: {each['msg']}"
            for each in error.errors(include_url=False, include_context=False)
        ]
        return f"does not fit {kind.__name__}: {'; '.join(parts)}"
    return f"does not fit {kind.__name__}: {error}"
