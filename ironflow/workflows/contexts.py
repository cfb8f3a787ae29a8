"""Contexts as plain dictionaries, in the form that LlamaIndex's `Context.to_dict` has, version 2.

The store is `state`; what is under way stands in `workers` for its readers, and whole, as ironflow
continues it, under `ironflow`. Read are versions 0 to 2: their store, and the queued events of
their workers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import msgspec

from ironflow.core.values.payloads import Payload
from ironflow.core.workflows.state import EventData, Job, WorkflowState
from ironflow.workflows.codec import MODEL, OPAQUE, Keeper, encode_fields
from ironflow.workflows.errors import ContextSerdeError
from ironflow.workflows.objects import events_of, payloads_of
from ironflow.workflows.serializers import JsonSerializer
from ironflow.workflows.store import DictState, LiveState
from ironflow.workflows.stored import names_classes
from ironflow.workflows.vocabulary import is_event, wire_name

if TYPE_CHECKING:
    from ironflow.workflows.definition import Definition
    from ironflow.workflows.serializers import BaseSerializer

OWN = "ironflow"
WRITTEN = "$written"
"""Stands for an event that the serializer has written, as it has no stored form."""
VERSION = 2
_NO_TEXTS: Mapping[str, bytes] = MappingProxyType({})


def write(
    state: WorkflowState,
    live: LiveState,
    graph: Definition,
    running: bool,
    serializer: BaseSerializer,
    *,
    include_state: bool = True,
    large: Mapping[str, bytes] = _NO_TEXTS,
) -> dict[str, Any]:
    """A context as a dictionary; `large` are the texts that lie in the blob table. Raises
    `ContextSerdeError` naming the key.
    """
    kind = live.kind
    fields = live.items(live.value) if include_state else {}
    if kind is None:
        data: Any = {"_data": {key: _text(key, each, serializer) for key, each in fields.items()}}
        described = {"state_type": "DictState", "state_module": "workflows.context.state_store"}
    else:
        data = _text(kind.__name__, live.value, serializer)
        described = {"state_type": kind.__name__, "state_module": kind.__module__}
    workers: dict[str, Any] = {
        name: {
            "queue": [],
            "in_progress": [],
            "collected_events": {},
            "collect_generations": {},
            "static_collect_events": [],
            "collected_waiters": [],
        }
        for name in graph.steps
    }
    for job in state.jobs.values() if running else ():
        texts = [_event_text(event, large, live.keeper, serializer) for event in job.events]
        if job.step in workers:
            workers[job.step]["queue"].extend({"event": text, "attempts": 0} for text in texts)
    return {
        "version": VERSION,
        "state": {"store_type": "in_memory", **described, "state_data": data},
        "is_running": running,
        "workers": workers,
        "stream_seq": state.next_fan,
        "work_item_seq": state.next_job,
        "invocation_seq": state.next_job,
        "deliveries": [],
        "streams": {},
        "collection_release_states": {},
        OWN: _plain(_filled(_tree(state), large), live.keeper, serializer) if running else None,
    }


def _tree(state: WorkflowState) -> Any:
    """What is under way, without the store."""
    bare = msgspec.structs.replace(state, store={}, inbox={}, turns=0, next_event=0, outside=0)
    return json.loads(msgspec.json.encode(bare))


def _filled(tree: Any, large: Mapping[str, bytes]) -> Any:
    """What is under way, with the texts in place that lie in the blob table."""
    if isinstance(tree, list):
        return [_filled(each, large) for each in tree]
    if not isinstance(tree, dict):
        return tree
    if tree.keys() == {"blob", "size"} and tree["blob"] in large:
        return {"json": json.loads(large[tree["blob"]])}
    return {key: _filled(each, large) for key, each in tree.items()}


def _plain(tree: Any, keeper: Keeper | None, serializer: BaseSerializer) -> Any:
    """What is under way, with the stored form of events that a run in memory holds as objects: as
    the serializer writes them, if they have none of their own. Raises `ContextSerdeError` where it
    cannot either.
    """
    if isinstance(tree, list):
        return [_plain(each, keeper, serializer) for each in tree]
    if not isinstance(tree, dict):
        return tree
    if OPAQUE not in tree:
        return {key: _plain(each, keeper, serializer) for key, each in tree.items()}
    try:
        return json.loads(tree[OPAQUE])
    except ValueError:
        pass
    try:
        return {WRITTEN: serializer.serialize(keeper.find(tree) if keeper is not None else None)}
    except Exception as error:
        raise ContextSerdeError(
            f"an event that is under way cannot be written: {tree[OPAQUE]}"
        ) from error


def _kept(tree: Any, keeper: Keeper, serializer: BaseSerializer) -> Any:
    """What is under way, with the events that a serializer has written held as objects. Raises
    `ContextSerdeError` where only JSON is read.
    """
    if isinstance(tree, list):
        return [_kept(each, keeper, serializer) for each in tree]
    if not isinstance(tree, dict):
        return tree
    if tree.keys() == {WRITTEN}:
        if type(serializer) is JsonSerializer:
            raise ContextSerdeError("an event that is under way was written by another serializer")
        return keeper.keep(_value("an event", tree[WRITTEN], serializer))
    return {key: _kept(each, keeper, serializer) for key, each in tree.items()}


def _text(key: str, value: Any, serializer: BaseSerializer) -> str:
    try:
        return serializer.serialize(value)
    except (TypeError, ValueError) as error:
        raise ContextSerdeError(
            f"the key {key!r} of the store cannot be written: {error}"
        ) from error


def _event_text(
    event: EventData, large: Mapping[str, bytes], keeper: Keeper | None, serializer: BaseSerializer
) -> str:
    raw = event.value.json or large.get(event.value.blob or "", b"null")
    value = _plain(json.loads(raw), keeper, serializer)
    if isinstance(value, dict) and value.keys() == {WRITTEN}:
        return str(value[WRITTEN])
    return json.dumps({MODEL: True, "value": value, "qualified_name": event.type})


def read(
    data: Any, graph: Definition, serializer: BaseSerializer
) -> tuple[WorkflowState, LiveState]:
    """What a run continues, and its store. Raises `ContextSerdeError`."""
    if not isinstance(data, dict):
        raise ContextSerdeError(f"a context is an object, not {type(data).__name__}")
    version = data.get("version", 0)
    if not isinstance(version, int) or not 0 <= version <= VERSION:
        raise ContextSerdeError(f"contexts of version {version!r} are not known")
    given = data.get("state", data.get("state_data"))
    live = _read_store({} if given is None else given, graph, serializer)
    own = data.get(OWN)
    if own is not None:
        assert live.keeper is not None
        own = _kept(own, live.keeper, serializer)
        try:
            state = msgspec.json.decode(msgspec.json.encode(own), type=WorkflowState)
        except (msgspec.ValidationError, TypeError) as error:
            raise ContextSerdeError(f"the context's {OWN!r} cannot be read: {error}") from error
        if any(payload.blob is not None for payload in payloads_of(state)):
            raise ContextSerdeError(f"the context's {OWN!r} refers to what it does not contain")
    else:
        state = _read_workers(data, graph, serializer)
    state.store = live.tree
    return state, live


_OWN_ONLY = "objects of classes, which are built of the run's own journal only"


def restrict(state: WorkflowState, graph: Definition) -> None:
    """Take from what a caller continues all that would build something else than declared events.
    Raises `ContextSerdeError` where the run could not go on without it.
    """
    for data in events_of(state):
        bare = data.type.rpartition(".")[2]
        if data.type not in graph.by_wire_name and bare not in graph.by_bare_name:
            raise ContextSerdeError(f"the workflow knows no event {data.type!r}")
        if names_classes(data.typed):
            raise ContextSerdeError(f"an event {bare} that is under way holds {_OWN_ONLY}")
    for job in state.jobs.values():
        memos = [payload.json for payload in job.memos.values()]
        values = [msgspec.json.decode(text) for text in memos if text is not None]
        values += [[list(echo.changes), list(echo.undo)] for echo in job.echoes]
        if names_classes(values):
            raise ContextSerdeError(
                f"the step {job.step!r}, which is under way, remembers {_OWN_ONLY}"
            )
        job.error = None
        job.children.clear()  # they were children of another run, and tell that of their end


def _read_store(given: Any, graph: Definition, serializer: BaseSerializer) -> LiveState:
    live = LiveState({}, graph.state_type, Keeper())
    if not isinstance(given, dict):
        raise ContextSerdeError("the context's state must be an object")
    data = given.get("state_data", given.get("_data", {}))
    if isinstance(data, str):  # a typed state as one text
        value = _value("state", data, serializer)
        live.replace(value if not isinstance(value, dict) else _typed(live, value))
        return live
    if isinstance(data, dict):
        for key, text in (data.get("_data") or {}).items():
            value = _value(key, text, serializer) if isinstance(text, str) else text
            live.replace_key(key, value)
        live.value = live._restore(live.tree)
    return live


def _typed(live: LiveState, value: dict[str, Any]) -> Any:
    kind: Any = live.kind
    return kind.model_validate(value) if kind is not None else DictState(**value)


def _value(key: str, text: str, serializer: BaseSerializer) -> Any:
    try:
        return serializer.deserialize(text)
    except ContextSerdeError:
        raise
    except Exception as error:
        raise ContextSerdeError(f"the key {key!r} of the store cannot be read: {error}") from error


def _read_workers(
    data: dict[str, Any], graph: Definition, serializer: BaseSerializer
) -> WorkflowState:
    """The queued events of a context that LlamaIndex has written."""
    state = WorkflowState(begun=bool(data.get("is_running")))
    workers = data.get("workers") or {}
    if not isinstance(workers, dict):
        raise ContextSerdeError("the context's workers must be an object")
    for step, worker in workers.items():
        if step not in graph.steps or not isinstance(worker, dict):
            continue
        for item in [*worker.get("in_progress", []), *worker.get("queue", [])]:
            text = item.get("event") if isinstance(item, dict) else item
            if not isinstance(text, str):
                continue
            event = _value(step, text, serializer)
            if not is_event(event):
                raise ContextSerdeError(
                    f"the queue of step {step!r} holds something else than events"
                )
            raw = encode_fields(event)
            payload = Payload(raw=msgspec.Raw(raw))
            job = Job(state.next_job, step, (EventData(wire_name(type(event)), payload),), 0)
            state.jobs[job.id] = job
            state.next_job += 1
    state.begun = state.begun and bool(state.jobs)
    return state
