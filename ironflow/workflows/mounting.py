"""A workflow as the engine serves it: its definition, its face for HTTP, and the bodies of runs."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Iterable
from contextvars import Context
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ironflow.core.clock import FOREVER
from ironflow.core.errors import InvalidInput
from ironflow.core.functions.definition import Definition as FunctionDefinition
from ironflow.core.functions.definition import compile_spec
from ironflow.core.functions.flow_control import concurrency_of
from ironflow.core.runs.entries import RunOptions
from ironflow.core.runs.execution import Assignment, Effects
from ironflow.core.runs.retry import RetryPolicy
from ironflow.core.values.payloads import Payload
from ironflow.sdk.function import Registry, registry
from ironflow.workflows.codec import Keeper, decode_event, find_class
from ironflow.workflows.definition import Definition
from ironflow.workflows.face import Face, read_error
from ironflow.workflows.foreign import ForeignWorkflow, given_name, is_foreign
from ironflow.workflows.interpreter import Interpreter
from ironflow.workflows.vocabulary import is_event_class
from ironflow.workflows.workflow import Workflow

if TYPE_CHECKING:
    from ironflow.sdk.executor import Executor

LONGEST_NAME = 200
MOST_OUTCOMES = 1000


class MountedWorkflow:
    """What a registry holds of a workflow instance, as it holds functions."""

    is_async = True

    def __init__(
        self,
        workflow: Workflow | ForeignWorkflow,
        name: str | None = None,
        additional_events: Iterable[type] = (),
    ) -> None:
        """`additional_events`: classes that callers may send although no step's signature names
        them. Raises `InvalidInput` for a name that cannot be one.
        """
        self.workflow = workflow
        self.id = name or workflow.workflow_name
        if not self.id or len(self.id) > LONGEST_NAME or "/" in self.id:
            raise InvalidInput("name", f"{self.id!r}: use 1 to {LONGEST_NAME} characters without /")
        self.fn: Callable[..., Any] = type(
            workflow.source if isinstance(workflow, ForeignWorkflow) else workflow
        )
        self.__module__ = self.fn.__module__
        self.extra = tuple(additional_events)
        for kind in self.extra:
            if not is_event_class(kind):
                raise InvalidInput("additional_events", f"{kind!r} is no class of events")
        known = workflow.graph
        self.graph: Definition = known if not self.extra else known.with_events(self.extra)
        self.spec = compile_spec(self._define(), self.check_input)
        self.spec.workflow = Face(self)
        self.in_process = False
        """Whether runs are awaited in this process, which then holds their outcomes as objects."""
        self.in_memory = False
        """Whether a runtime without a database serves it, which may keep objects."""
        self._keepers: weakref.WeakValueDictionary[str, Keeper] = weakref.WeakValueDictionary()
        self.errors: dict[str, BaseException] = {}
        self.results: dict[str, Any] = {}
        self.callers: dict[str, Context] = {}
        """By run the context variables of whoever has begun it in this process and awaits it."""

    def __repr__(self) -> str:
        return f"<workflow {self.id!r}>"

    @property
    def definition(self) -> FunctionDefinition:
        """As it is registered and listed."""
        return self.spec.definition

    def _define(self) -> FunctionDefinition:
        timeout = self.workflow.timeout
        if timeout is not None and timeout >= FOREVER:
            timeout = None
        try:
            schema: dict[str, Any] | None = self.graph.start.model_json_schema()  # type: ignore[attr-defined]
        except Exception:  # noqa: BLE001 - a field of a type without a schema
            schema = None
        return FunctionDefinition(
            id=self.id,
            name=self.id,
            code=self.graph.code,
            description=inspect.cleandoc(self.fn.__doc__ or "")
            if self.fn.__doc__ != Workflow.__doc__
            else "",
            options=RunOptions(
                retry=RetryPolicy(max_attempts=1), timeout=timeout, compensate_on=()
            ),
            concurrency=concurrency_of(self.workflow.num_concurrent_runs),
            input_schema=schema,
            kind="workflow",
        )

    # -- what the engine asks ---------------------------------------------------------------------

    def make_body(self, executor: Executor, assignment: Assignment) -> Interpreter:
        """An execution of a run."""
        return Interpreter(executor, self, assignment)

    def check_input(self, data: bytes) -> Any:
        """The start event of JSON fields. Raises `InvalidInput` for `start_event`."""
        try:
            return decode_event(self.graph.start, data if data.strip() != b"null" else b"{}")
        except (ValidationError, ValueError, TypeError) as error:
            raise InvalidInput("start_event", read_error(error, self.graph.start)) from error

    # -- what executions ask ----------------------------------------------------------------------

    async def start_event(self, payload: Payload, effects: Effects, keeper: Keeper | None) -> Any:
        """The start event of a run."""
        data = payload.json
        if data is None:
            data = await effects.blob(payload.blob or "")
        data = data if data.strip() != b"null" else b"{}"
        return decode_event(self.graph.start, data, keeper)

    def class_of(self, name: str) -> type | None:
        """The class of events that has this full name; a class that has moved is found by its bare
        one.
        """
        kind = self.graph.by_wire_name.get(name)
        if kind is None:
            kind = self.graph.by_bare_name.get(name.rpartition(".")[2])
        if kind is None:
            found = find_class(name)
            kind = found if is_event_class(found) else None
        return kind

    def child(self, workflow: Any, registry: Registry) -> MountedWorkflow:
        """The child of a step as it is served. Raises `InvalidInput` when its name is taken by
        another class.
        """
        name = workflow.workflow_name
        known = registry.get(name)
        if isinstance(known, MountedWorkflow) and known.fn is type(workflow):
            return known
        mounted = MountedWorkflow(workflow)
        mounted.in_memory, mounted.in_process = self.in_memory, self.in_process
        registry.add(mounted)
        return mounted

    def keeper(self, run_id: str, given: Keeper | None = None) -> Keeper | None:
        """Where objects of a run go that have no stored form; None when all must be stored.
        `given`: the one with the objects that the run begins with. It lasts as long as somebody
        holds it: the run's body, a handler.
        """
        if not self.in_memory:
            return None
        keeper = self._keepers.get(run_id)
        if keeper is None:
            keeper = self._keepers[run_id] = given if given is not None else Keeper()
        return keeper

    def keep_error(self, run_id: str, error: BaseException) -> None:
        """A run failed with this: whoever awaits it in this process gets the exception itself."""
        if self.in_process:
            _hold(self.errors, run_id, error)

    def keep_result(self, run_id: str, event: Any) -> None:
        """A run ended with this stop event: whoever awaits it in this process gets the object."""
        if self.in_process:
            _hold(self.results, run_id, event)


def _hold(outcomes: dict[str, Any], run_id: str, outcome: Any) -> None:
    """Keep an outcome until it is asked for; not for ever, for perhaps nobody asks."""
    outcomes[run_id] = outcome
    if len(outcomes) > MOST_OUTCOMES:
        del outcomes[next(iter(outcomes))]


def mount(
    workflow: Any,
    name: str | None = None,
    additional_events: Iterable[type] = (),
    registry: Registry = registry,
) -> MountedWorkflow:
    """Serve a workflow instance, ours or LlamaIndex's, under a name: by default that of its class.

    Raises `InvalidInput` when the name is taken or the object is no workflow.
    """
    if is_foreign(workflow):
        workflow = ForeignWorkflow(workflow)
    if not isinstance(workflow, Workflow | ForeignWorkflow):
        raise InvalidInput("workflow", f"{workflow!r:.100} is no instance of a workflow")
    mounted = MountedWorkflow(workflow, name, additional_events)
    registry.add(mounted)
    return mounted


def mount_module(module: ModuleType, registry: Registry = registry) -> list[MountedWorkflow]:
    """Serve every workflow instance that is a name of a module and is not served yet: under its
    `workflow_name` if it was given one, else under the name in the module. Instances that a
    `WorkflowServer` of the module serves have their names from there.
    """
    for value in vars(module).values():
        if type(value).__module__ == "ironflow.workflows.server" and hasattr(value, "mount_into"):
            value.mount_into(registry)
    everything: list[Any] = list(registry.all())
    served = {id(_source(each)) for each in everything if isinstance(each, MountedWorkflow)}
    found = []
    for name, value in vars(module).items():
        if name.startswith("_") or id(value) in served:
            continue
        if isinstance(value, Workflow) or is_foreign(value):
            found.append(mount(value, given_name(value) or name, registry=registry))
            served.add(id(value))
    return found


def _source(mounted: MountedWorkflow) -> Any:
    workflow = mounted.workflow
    return workflow.source if isinstance(workflow, ForeignWorkflow) else workflow
