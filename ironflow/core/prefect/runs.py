"""Flow runs and task runs: their records, the entries of their stream, and the fold of these.

One stream holds a flow run with its task runs, or a task run that has no flow run. `apply` is the
only way in which a `History` changes. Moments and spans in microseconds, ids are UUIDs as text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal
from uuid import UUID

import msgspec

from ironflow.core.prefect.states import NULL, TERMINAL, State, StateType

Labels = Mapping[str, bool | int | float | str | None]
GivenLabels = Mapping[str, bool | int | float | str]
"""Labels as they are taken from a client. What is stored is read more widely: older journals may
hold null, which clients cannot read back.
"""
EMPTY = msgspec.Raw(b"{}")


class TaskRunResult(msgspec.Struct, tag_field="input_type", tag="task_run"):
    """An input of a task run: the result of another task run."""

    id: UUID


class FlowRunResult(msgspec.Struct, tag_field="input_type", tag="flow_run"):
    """An input of a task run: the result of a flow run."""

    id: UUID


class Parameter(msgspec.Struct, tag_field="input_type", tag="parameter"):
    """An input of a task run: a parameter of its flow run."""

    name: str


class Constant(msgspec.Struct, tag_field="input_type", tag="constant"):
    """An input of a task run: a value of this type."""

    type: str


TaskInputs = dict[str, list[TaskRunResult | FlowRunResult | Parameter | Constant]]
"""What a task run was given, by the name of its parameter."""


class FlowRunPolicy(msgspec.Struct, kw_only=True):
    """How a flow run is tried again, paused and resumed; delays in seconds."""

    max_retries: int = 0
    retry_delay_seconds: float = 0.0
    retries: int | None = None
    retry_delay: int | None = None
    pause_keys: list[str] | None = msgspec.field(default_factory=list)
    resuming: bool | None = False
    retry_type: Literal["in_process", "reschedule"] | None = None


class TaskRunPolicy(msgspec.Struct, kw_only=True):
    """How a task run is tried again; delays in seconds, one for each retry if there are many."""

    max_retries: int = 0
    retry_delay_seconds: float = 0.0
    retries: int | None = None
    retry_delay: int | float | list[int | float] | None = None
    retry_jitter_factor: float | None = None


class Creator(msgspec.Struct):
    """Who created a run."""

    id: str | None = None
    type: str | None = None
    display_value: str | None = None


class FlowRunInfo(msgspec.Struct, kw_only=True):
    """What a flow run is, apart from how far it is: the fields of a response, in its order."""

    id: str
    name: str
    flow_id: str
    deployment_id: str | None = None
    deployment_version: str | None = None
    work_queue_id: str | None = None
    work_queue_name: str | None = None
    flow_version: str | None = None
    parameters: msgspec.Raw = EMPTY
    idempotency_key: str | None = None
    context: msgspec.Raw = EMPTY
    tags: list[str] = []
    labels: Labels = {}
    parent_task_run_id: str | None = None
    auto_scheduled: bool = False
    infrastructure_document_id: str | None = None
    infrastructure_pid: str | None = None
    created_by: Creator | None = None
    work_pool_id: str | None = None
    work_pool_name: str | None = None
    job_variables: msgspec.Raw = EMPTY


class TaskRunInfo(msgspec.Struct, kw_only=True):
    """What a task run is, apart from how far it is: the fields of a response, in its order."""

    id: str
    name: str
    flow_run_id: str | None
    task_key: str
    dynamic_key: str
    cache_key: str | None = None
    cache_expiration: int | None = None
    task_version: str | None = None
    empirical_policy: TaskRunPolicy = msgspec.field(default_factory=TaskRunPolicy)
    tags: list[str] = []
    labels: Labels = {}
    task_inputs: msgspec.Raw = EMPTY


class Progress(msgspec.Struct, kw_only=True):
    """How far a run is."""

    state: State | None = None
    run_count: int = 0
    expected_at: int | None = None
    next_scheduled_at: int | None = None
    started_at: int | None = None
    ended_at: int | None = None
    run_time: int = 0

    @property
    def type(self) -> StateType | None:
        """The type of the state."""
        return None if self.state is None else self.state.type

    @property
    def is_terminal(self) -> bool:
        """Whether the run has ended, for now."""
        return self.state is not None and self.state.type in TERMINAL


class FlowRun(Progress, kw_only=True):
    """A flow run."""

    info: FlowRunInfo
    flow_name: str
    created_at: int
    updated_at: int
    policy: FlowRunPolicy = msgspec.field(default_factory=FlowRunPolicy)
    parent_flow_run_id: str | None = None
    parent_task_name: str | None = None


class TaskRun(Progress, kw_only=True):
    """A task run. `seen` are the ids of all its states."""

    info: TaskRunInfo
    created_at: int
    updated_at: int
    flow_run_run_count: int = 0
    seen: dict[str, None] = {}


class RunInput(msgspec.Struct, kw_only=True):
    """Something that was sent to a flow run, under a key."""

    id: str
    key: str
    value: str
    sender: str | None
    created_at: int


class History(msgspec.Struct):
    """All that a stream says: a flow run, its inputs, and its task runs."""

    id: str
    version: int = 0
    flow_run: FlowRun | None = None
    tasks: dict[str, TaskRun] = {}
    inputs: dict[str, RunInput] = {}
    keys: dict[str, str] = {}
    """Task runs by their task and dynamic keys (`task_name`)."""


def task_name(task_key: str, dynamic_key: str) -> str:
    """What makes a task run the same in two reports of it."""
    return f"{len(task_key)}:{task_key}{dynamic_key}"


# -- entries --------------------------------------------------------------------------------------


class FlowRunCreated(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A flow run exists; its first state follows."""

    info: FlowRunInfo
    flow_name: str
    policy: FlowRunPolicy
    parent_flow_run_id: str | None = None
    parent_task_name: str | None = None


class FlowRunMoved(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A flow run has a new state. `policy`, when the move has changed it."""

    state: State
    run_count: int = 0
    policy: FlowRunPolicy | None = None


class FlowRunChanged(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Someone has edited a flow run; it is described anew."""

    info: FlowRunInfo
    policy: FlowRunPolicy | None = None


class InputAdded(msgspec.Struct, frozen=True):
    """A flow run has got an input."""

    input: RunInput


class InputRemoved(msgspec.Struct, frozen=True):
    """An input of a flow run is gone."""

    key: str


class TaskRunCreated(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A task run exists; its first state follows."""

    info: TaskRunInfo


class TaskRunMoved(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A task run has a new state, decided here."""

    id: str
    state: State
    run_count: int = 0
    flow_run_run_count: int = 0


class TaskRunRecorded(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A client has reported a state that a task run had; reports come in any order."""

    info: TaskRunInfo
    state: State
    run_count: int = 0
    flow_run_run_count: int = 0
    expected_at: int | None = None
    next_scheduled_at: int | None = None
    started_at: int | None = None
    ended_at: int | None = None
    run_time: int = 0


class TaskRunChanged(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Someone has renamed a task run."""

    id: str
    name: str


class TaskRunDeleted(msgspec.Struct, frozen=True):
    """A task run is gone."""

    id: str


FlowEntry = (
    FlowRunCreated | FlowRunMoved | FlowRunChanged | InputAdded | InputRemoved
    | TaskRunCreated | TaskRunMoved | TaskRunRecorded | TaskRunChanged | TaskRunDeleted
)  # fmt: skip

KINDS: dict[type, str] = {
    FlowRunCreated: "flow_run.created",
    FlowRunMoved: "flow_run.moved",
    FlowRunChanged: "flow_run.changed",
    InputAdded: "flow_run.input_added",
    InputRemoved: "flow_run.input_removed",
    TaskRunCreated: "task_run.created",
    TaskRunMoved: "task_run.moved",
    TaskRunRecorded: "task_run.recorded",
    TaskRunChanged: "task_run.changed",
    TaskRunDeleted: "task_run.deleted",
}
_DECODERS: dict[str, msgspec.json.Decoder[Any]] = {
    kind: msgspec.json.Decoder(struct) for struct, kind in KINDS.items()
}
encode_entry = msgspec.json.Encoder().encode


def decode_entry(kind: str, data: bytes) -> FlowEntry:
    """The entry of a journal row. Raises `KeyError` for a kind that is not of these,
    `msgspec.DecodeError` for damage.
    """
    entry: FlowEntry = _DECODERS[kind].decode(data)
    return entry


def is_ours(kind: str) -> bool:
    """Whether an entry kind belongs to a flow run's stream."""
    return kind in _DECODERS


class _Stateful(msgspec.Struct):
    state: msgspec.Raw = NULL


_decode_stateful = msgspec.json.Decoder(_Stateful).decode


def state_text(data: bytes) -> bytes:
    """The JSON of the state in a row of an entry that has one."""
    return bytes(_decode_stateful(data).state)


# -- the fold -------------------------------------------------------------------------------------


def apply(history: History, entry: FlowEntry, at: int) -> None:
    """Change `history` by one entry that was recorded at `at`."""
    history.version += 1
    run = history.flow_run
    match entry:
        case FlowRunMoved():
            assert run is not None
            enter(run, entry.state)
            run.run_count = entry.run_count
            run.policy = entry.policy or run.policy
            run.updated_at = at
        case TaskRunRecorded():
            _record(history, entry, at)
        case TaskRunMoved():
            task = history.tasks[entry.id]
            enter(task, entry.state)
            task.run_count, task.flow_run_run_count = entry.run_count, entry.flow_run_run_count
            task.seen[entry.state.id] = None
            task.updated_at = at
        case FlowRunCreated():
            history.flow_run = FlowRun(
                info=entry.info,
                flow_name=entry.flow_name,
                created_at=at,
                updated_at=at,
                policy=entry.policy,
                parent_flow_run_id=entry.parent_flow_run_id,
                parent_task_name=entry.parent_task_name,
            )
        case TaskRunCreated():
            _add_task(history, entry.info, at)
        case FlowRunChanged():
            assert run is not None
            run.info, run.policy = entry.info, entry.policy or run.policy
            run.updated_at = at
        case InputAdded():
            history.inputs[entry.input.key] = entry.input
        case InputRemoved():
            del history.inputs[entry.key]
        case TaskRunChanged():
            history.tasks[entry.id].info.name = entry.name
            history.tasks[entry.id].updated_at = at
        case TaskRunDeleted():
            info = history.tasks.pop(entry.id).info
            history.keys.pop(task_name(info.task_key, info.dynamic_key), None)


def enter(run: Progress, state: State) -> None:
    """The bookkeeping of a new state."""
    old, at = run.state, state.at
    if old is not None and old.type == "RUNNING":
        run.run_time += max(0, at - old.at)
    if state.type in TERMINAL:
        if run.ended_at is None:
            run.ended_at = at
        if run.started_at is None:
            run.started_at = at
    else:
        run.ended_at = None
        if state.type == "RUNNING" and run.started_at is None:
            run.started_at = at
    scheduled = state.scheduled_at if state.type == "SCHEDULED" else None
    if run.expected_at is None:
        run.expected_at = at if scheduled is None else scheduled
    run.next_scheduled_at = scheduled
    run.state = state


def _add_task(history: History, info: TaskRunInfo, at: int) -> TaskRun:
    task = TaskRun(info=info, created_at=at, updated_at=at)
    history.tasks[info.id] = task
    history.keys[task_name(info.task_key, info.dynamic_key)] = info.id
    return task


def find_task(history: History, info: TaskRunInfo) -> TaskRun | None:
    """The task run that a report is of: by its keys, else by its id."""
    known = history.keys.get(task_name(info.task_key, info.dynamic_key), info.id)
    return history.tasks.get(known)


def _record(history: History, entry: TaskRunRecorded, at: int) -> None:
    info, state = entry.info, entry.state
    task = find_task(history, info) or _add_task(history, info, at)
    if state.id in task.seen:
        return
    task.seen[state.id] = None
    task.updated_at = at
    old = task.state
    if old is not None and (state.timestamp, state.id) < (old.timestamp, old.id):
        return  # what is known is newer
    task.info, task.state = msgspec.structs.replace(info, id=task.info.id), state
    task.run_count, task.flow_run_run_count = entry.run_count, entry.flow_run_run_count
    task.expected_at, task.next_scheduled_at = entry.expected_at, entry.next_scheduled_at
    task.started_at, task.ended_at, task.run_time = entry.started_at, entry.ended_at, entry.run_time


def changed_task(history: History, entry: FlowEntry) -> str | None:
    """The task run that an applied entry has changed, if it is still there."""
    match entry:
        case TaskRunRecorded():
            task = find_task(history, entry.info)
            return None if task is None else task.info.id
        case TaskRunCreated():
            return entry.info.id
        case TaskRunMoved() | TaskRunChanged():
            return entry.id
        case _:
            return None


def replay(id: str, entries: list[tuple[str, bytes, int]]) -> History:
    """The history as of the last of these (kind, data, at)."""
    history = History(id)
    for kind, data, at in entries:
        apply(history, decode_entry(kind, data), at)
    return history
