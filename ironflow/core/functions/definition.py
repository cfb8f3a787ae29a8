"""What the engine knows of a function: its definition as data, without its body."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import msgspec

from ironflow.core.errors import InvalidInput
from ironflow.core.expressions.compiled import EVENT_VARIABLES, Expression, compile_expression
from ironflow.core.expressions.patterns import validate_pattern
from ironflow.core.functions.affinity import check_actor_key
from ironflow.core.functions.flow_control import (
    NONE,
    Concurrency,
    FlowControl,
    concurrency_of,
    flow_control_of,
)
from ironflow.core.functions.lanes import Policies
from ironflow.core.functions.schedules import CronSchedule
from ironflow.core.remote.breaker import BreakerPolicy
from ironflow.core.runs.entries import RunKind, RunOptions
from ironflow.core.workflows.face import WorkflowFace

Executor = Literal["loop", "thread", "process"]
EXECUTORS: tuple[Executor, ...] = get_args(Executor)
Placement = Literal["embedded", "pull", "push"]
"""Where a body is executed: in the server's own process, by a worker that asks for work, or behind
an endpoint that the server calls.
"""


class Trigger(msgspec.Struct, frozen=True, omit_defaults=True):
    """Starts a run for each event whose name matches `event` and for which the filter `expression`
    holds.
    """

    event: str
    expression: str | None = None


class Cron(msgspec.Struct, frozen=True, omit_defaults=True):
    """Starts a run at each time of a cron expression in a time zone."""

    expression: str
    timezone: str = "UTC"


class Endpoint(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where the server sends runs of a function."""

    url: str
    timeout: float = 10.0
    """Seconds that one call may take."""
    concurrency: int = 10
    """Calls at once."""
    reports: Literal["yields", "commands"] = "yields"
    """`commands`: our executor is behind it (`core.remote.reports`)."""
    breaker: BreakerPolicy = BreakerPolicy()


class Definition(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A function as it is registered, stored and listed. `code` is a hash of its source."""

    id: str
    name: str
    code: str
    description: str = ""
    triggers: tuple[Trigger, ...] = ()
    cron: Cron | None = None
    options: RunOptions = RunOptions()
    executor: Executor | None = None
    input_schema: dict[str, Any] | None = None
    placement: Placement = "embedded"
    endpoint: Endpoint | None = None
    concurrency: tuple[Concurrency, ...] = ()
    """How many runs execute at once; in what is stored it stands beside `flow_control`."""
    flow_control: FlowControl = NONE
    labels: dict[str, str] = {}
    """What the labels of a worker must say, so that it is handed runs of this function."""
    actor_key: str | None = None
    """A path into a run's input: runs with the same value there go to the same worker
    (`core.functions.affinity`).
    """
    kind: RunKind = "function"
    metadata: dict[str, Any] = {}
    """Whoever registered it wrote this; nothing here reads it."""
    secrets: tuple[str, ...] = ()
    """Names of what an execution is handed that nobody else is to see (`core.functions.secrets`).
    """
    recording: bool = False
    recording_profile: str = ""
    """Whether, and what of, its runs is to be recorded: the journal always has all of it."""

    @property
    def policies(self) -> FlowControl:
        """All of its flow control, in one object."""
        return msgspec.structs.replace(self.flow_control, concurrency=self.concurrency)


def check_policies(definition: Definition) -> Definition:
    """The definition with its flow control in the form in which it is stored. Raises `InvalidInput`
    naming what is wrong.
    """
    control = flow_control_of(definition.flow_control)
    limits = concurrency_of(definition.concurrency)
    if limits and control.concurrency:
        raise InvalidInput("concurrency", "is given twice, here and in flow_control")
    rest = msgspec.structs.replace(control, concurrency=())
    return msgspec.structs.replace(
        definition,
        concurrency=limits or control.concurrency,
        flow_control=NONE if rest == NONE else rest,
    )


class FunctionSpec(msgspec.Struct, kw_only=True):
    """A definition with what can be asked of the code behind it in this process."""

    definition: Definition
    check_input: Callable[[bytes], object]
    """Raises `InvalidInput` for JSON that the function's declared input type refuses."""
    filters: list[tuple[Trigger, Expression | None]] = []
    schedule: CronSchedule | None = None
    policies: Policies | None = None
    """Its flow control, compiled; None if it has none."""
    workflow: WorkflowFace | None = None
    """What can be asked of an event-driven workflow beside its runs."""

    @property
    def id(self) -> str:
        """The function's id."""
        return self.definition.id

    def check_request(self, data: bytes) -> None:
        """Refuse JSON that a run is asked for with: where a function takes batches, its input is a
        list of such datas. Raises `InvalidInput`.
        """
        is_batch = self.definition.flow_control.batch is not None
        self.check_input(b"[%b]" % data if is_batch else data)


def compile_spec(definition: Definition, check_input: Callable[[bytes], object]) -> FunctionSpec:
    """A spec with its filters and schedule compiled. Raises `InvalidInput` naming the field that is
    wrong.
    """
    filters: list[tuple[Trigger, Expression | None]] = []
    for trigger in definition.triggers:
        validate_pattern(trigger.event, "on.event")
        filters.append((trigger, compile_filter(trigger.expression, "on.expression")))
    if definition.actor_key is not None:
        check_actor_key(definition.actor_key)
    schedule = None
    if definition.cron is not None:
        schedule = CronSchedule(definition.cron.expression, definition.cron.timezone)
    policies = Policies(definition.id, definition.policies)
    return FunctionSpec(
        definition=definition,
        check_input=check_input,
        filters=filters,
        schedule=schedule,
        policies=None if policies.is_none else policies,
    )


def compile_filter(expression: str | None, field: str) -> Expression | None:
    """A filter on events. Raises `ExpressionError`, also for unknown names."""
    if expression is None:
        return None
    return compile_expression(expression, EVENT_VARIABLES, field)
