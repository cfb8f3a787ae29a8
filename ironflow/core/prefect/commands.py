"""What a flow run and its task runs can be told. Most are answered with a response of the API:
its status and its body.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from ironflow.core.messages import Message
from ironflow.core.prefect.runs import (
    FlowRunInfo,
    FlowRunPolicy,
    Labels,
    TaskRunInfo,
    TaskRunRecorded,
)
from ironflow.core.prefect.states import State, StateCreate


class Reply(NamedTuple):
    """A response: its status and its JSON body."""

    status: int
    body: bytes


class TaskPlace(NamedTuple):
    """Which task run: the id of the stream that it is in, and its name."""

    owner: str
    name: str


class CreateFlowRun(Message[Reply], frozen=True, kw_only=True):
    """Create the flow run that this actor is for, or find it."""

    info: FlowRunInfo
    flow_name: str
    policy: FlowRunPolicy
    state: StateCreate
    parent: TaskPlace | None = None
    """The task run that stands for it in another flow run."""


class ReadFlowRun(Message[Reply], frozen=True):
    """The flow run as it is now."""


class ReadTaskRun(Message[Reply], frozen=True):
    """A task run as it is now."""

    id: str


class SetFlowRunState(Message[Reply], frozen=True):
    """Propose a state for the flow run. `force` passes over most rules."""

    state: StateCreate
    force: bool = False


class ResumeFlowRun(Message[Reply], frozen=True):
    """Let a paused flow run go on. `run_input` is JSON text for what it asked for, if it did."""

    run_input: str | None = None


class ChangeFlowRun(Message[None], frozen=True, kw_only=True):
    """Edit the flow run; UNSET leaves a thing as it is."""

    name: str | msgspec.UnsetType = msgspec.UNSET
    flow_version: str | msgspec.UnsetType | None = msgspec.UNSET
    parameters: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    policy: FlowRunPolicy | msgspec.UnsetType = msgspec.UNSET
    tags: list[str] | msgspec.UnsetType = msgspec.UNSET
    infrastructure_pid: str | msgspec.UnsetType | None = msgspec.UNSET
    job_variables: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    labels: Labels | msgspec.UnsetType = msgspec.UNSET


class DeleteHistory(Message[bool], frozen=True):
    """Delete the run and everything of it. Answers whether there was one."""


class AddInput(Message[None], frozen=True):
    """Keep an input for the flow run."""

    key: str
    value: str
    sender: str | None = None


class RemoveInput(Message[None], frozen=True):
    """Forget an input of the flow run."""

    key: str


class CreateTaskRun(Message[Reply], frozen=True, kw_only=True):
    """Create a task run of this flow run, or find it by its keys."""

    info: TaskRunInfo
    state: StateCreate


class SetTaskRunState(Message[Reply], frozen=True, kw_only=True):
    """Propose a state for a task run. `cached` is what the cache has for its key."""

    id: str
    state: StateCreate
    force: bool = False
    cached: State | None = None


class ChangeTaskRun(Message[None], frozen=True):
    """Rename a task run."""

    id: str
    name: str


class DeleteTaskRun(Message[None], frozen=True):
    """Delete a task run."""

    id: str


class RecordTaskRuns(Message[None], frozen=True):
    """A client's reports of states that task runs had, in any order. Answered when durable."""

    reports: tuple[TaskRunRecorded, ...]


class MirrorChild(Message[None], frozen=True, kw_only=True, omit_defaults=True):
    """A flow run that a task run of this flow run stands for has a new state."""

    task_run_id: str
    child_flow_run_id: str
    state: State
    delivery: str | None = None


class CancelFlowRun(Message[None], frozen=True, kw_only=True, omit_defaults=True):
    """The flow run that waits for this one was cancelled."""

    reason: str
    delivery: str | None = None
