"""`Workflow`: a class whose steps are wired by the events that they take and return."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ironflow.workflows.definition import Definition, helpers_of
from ironflow.workflows.errors import WorkflowRuntimeError, WorkflowValidationError
from ironflow.workflows.resource import ResourceManager
from ironflow.workflows.serializers import BaseSerializer
from ironflow.workflows.steps import GraphCheck, StepSpec, check_names, spec_of
from ironflow.workflows.vocabulary import is_human_response, is_input_required, is_start

if TYPE_CHECKING:
    from ironflow.workflows.context import Context
    from ironflow.workflows.handler import WorkflowHandler


class Workflow:
    """Derive from it, and mark methods with `@step`.

    `timeout`: seconds of wall time that a run may take, None for any. `num_concurrent_runs`: of
    this instance that execute at once, others are queued. `workflow_name`: by default that of the
    class; runs that are under way find their code by it. `skip_graph_checks`: of `reachability`,
    `terminal_event`, `dead_end`. `verbose`: say on stdout what each step does. `db`: a database
    file in which the runs of `run()` are kept. Raises `WorkflowConfigurationError` or
    `WorkflowValidationError` for steps that make no workflow.
    """

    _free_steps: dict[str, Callable[..., Any]] = {}  # noqa: RUF012 - one for each class, see below

    _changes = 0
    """How often steps were added to any class."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls._free_steps = {}

    def __init__(  # noqa: PLR0917 - the signature that its users know
        self,
        timeout: float | None = 45.0,
        disable_validation: bool = False,
        verbose: bool = False,
        resource_manager: ResourceManager | None = None,
        num_concurrent_runs: int | None = None,
        runtime: Any = None,
        workflow_name: str | None = None,
        skip_graph_checks: Iterable[GraphCheck] | None = None,
        serializer: BaseSerializer | None = None,
        *,
        db: str | Path | None = None,
    ) -> None:
        _check_limits(timeout, num_concurrent_runs)
        self.timeout, self.verbose = timeout, verbose
        self.resources = resource_manager or ResourceManager()
        self.num_concurrent_runs, self.runtime = num_concurrent_runs, runtime
        self.workflow_name = workflow_name or type(self).__name__
        self.serializer, self.db = serializer, db
        self._checks = check_names(skip_graph_checks)
        self._validates = not disable_validation
        self._graph: Definition | None = None
        self._graph_of = 0
        self.graph  # noqa: B018 - a workflow that cannot work is told so now

    # -- steps ------------------------------------------------------------------------------------

    @classmethod
    def add_step(cls, fn: Callable[..., Any]) -> None:
        """Add a free function that `@step(workflow=...)` has marked. Raises
        `WorkflowValidationError` when the name is taken.
        """
        name = fn.__name__
        if name in cls.steps_of_class():
            raise WorkflowValidationError(f"workflow {cls.__name__!r} has a step {name!r} already")
        cls._free_steps[name] = fn
        Workflow._changes += 1

    @classmethod
    def steps_of_class(cls) -> dict[str, StepSpec]:
        """The steps by name: methods, inherited ones too, and free functions."""
        found: dict[str, StepSpec] = {}
        for base in reversed(cls.__mro__):
            for name, value in vars(base).items():
                spec = spec_of(value)
                if spec is not None:
                    found[name] = spec
                else:
                    found.pop(name, None)  # overridden by something that is no step
            for name, fn in base.__dict__.get("_free_steps", {}).items():
                spec = spec_of(fn)
                if spec is not None:
                    found[name] = spec
        return found

    @property
    def graph(self) -> Definition:
        """The steps put together."""
        if self._graph is None or self._graph_of != Workflow._changes:
            self._graph = Definition(
                self.workflow_name,
                self.steps_of_class(),
                skip_checks=self._checks,
                check=self._validates,
                helpers=helpers_of(type(self)),
            )
            self._graph_of = Workflow._changes
        return self._graph

    def function_of(self, spec: StepSpec) -> Callable[..., Any]:
        """What is called for a step."""
        return types.MethodType(spec.fn, self) if spec.is_method else spec.fn

    def validate(self) -> bool:
        """Check the graph. True when questions outside or answers from there have a part in it;
        raises `WorkflowConfigurationError` or `WorkflowValidationError`.
        """
        graph = Definition(self.workflow_name, self.steps_of_class(), skip_checks=self._checks)
        return any(is_human_response(kind) or is_input_required(kind) for kind in graph.events)

    @property
    def start_event_class(self) -> type:
        """The class of events that begin a run."""
        return self.graph.start

    @property
    def stop_event_class(self) -> type:
        """The class of events that end a run."""
        return self.graph.stop

    @property
    def events(self) -> list[type]:
        """Every class of events that steps take or return."""
        return list(self.graph.events)

    # -- runs -------------------------------------------------------------------------------------

    def start_event(self, given: Any = None, fields: dict[str, Any] | None = None) -> Any:
        """The event that begins a run. Raises `ValueError` for one that is none, and
        `WorkflowRuntimeError` for fields that do not fit.
        """
        kind: Any = self.graph.start
        if given is not None:
            if not is_start(type(given)):
                raise ValueError(f"start_event must be a StartEvent, not {type(given).__name__}")
            if not isinstance(given, kind):
                raise ValueError(
                    f"start_event must be a {kind.__name__}, not {type(given).__name__}"
                )
            return given
        try:
            return kind(**(fields or {}))
        except ValidationError as error:
            raise WorkflowRuntimeError(
                f"the start event {kind.__name__} cannot be made: {error}"
            ) from error

    def run(
        self,
        ctx: Context[Any] | None = None,
        start_event: Any = None,
        **kwargs: Any,
    ) -> WorkflowHandler:
        """Begin a run and return its handler at once; `await` it for the result.

        `kwargs` are the fields of the start event. Inside of a step the run is a child of that
        step's run. With `db=` (a path, here or given to the workflow) the run is durable, and
        `key=` names it: the same key finds it again, also in another process. (A start event that
        declares a field `db` or `key` gets these itself.) Needs a running event loop.
        """
        from ironflow.workflows.runtime import begin

        return begin(self, ctx, start_event, kwargs)


def _check_limits(timeout: object, num_concurrent_runs: object) -> None:
    """Raise `WorkflowValidationError` for what is no number, or too small."""
    is_number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
    if timeout is not None and not (is_number and timeout > 0):  # type: ignore[operator]
        raise WorkflowValidationError(
            f"timeout must be a number of seconds above 0, or None; not {timeout!r}"
        )
    if num_concurrent_runs is None:
        return
    if type(num_concurrent_runs) is not int or num_concurrent_runs < 1:
        raise WorkflowValidationError(
            f"num_concurrent_runs must be a whole number of at least 1, or None; "
            f"not {num_concurrent_runs!r}"
        )
