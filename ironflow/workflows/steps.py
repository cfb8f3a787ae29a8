"""What a step's signature says, and the decorators `step` and `catch_error`."""

from __future__ import annotations

import inspect
import sys
import types
import typing
from collections.abc import Callable, Container, Iterable, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

from ironflow.workflows.collect import Collect, Take
from ironflow.workflows.errors import WorkflowValidationError
from ironflow.workflows.resource import find_resources
from ironflow.workflows.vocabulary import is_event_class, is_step_failed

GraphCheck = Literal["reachability", "terminal_event", "dead_end"]
CHECKS = frozenset(typing.get_args(GraphCheck))
NUM_WORKERS = 4
FRAMES = 8
"""Callers whose local classes a signature may name."""


class Slot(msgspec.Struct, frozen=True):
    """A parameter that takes events. `many`: it joins a fan-out; `take`: after so many."""

    name: str
    types: tuple[type, ...]
    many: bool = False
    take: int | None = None


class StepSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A step as its function's signature and decorator describe it.

    `returns` are event classes that it may return one by one, `fans_out` those that it may return
    in a list. `state_type` is the model of its `Context[...]`.
    """

    name: str
    fn: Callable[..., Any]
    slots: tuple[Slot, ...]
    returns: tuple[type, ...] = ()
    fans_out: tuple[type, ...] = ()
    context: str | None = None
    state_type: type | None = None
    resources: dict[str, tuple[Any, Any]] = {}
    num_workers: int = NUM_WORKERS
    retry_policy: Any = None
    skip_checks: frozenset[str] = frozenset()
    accept_subclasses: bool = False
    handles: tuple[str, ...] | None = None
    """Of an error handler: the steps that it covers; empty for all."""
    max_recoveries: int = 1
    description: str | None = None
    is_method: bool = False
    is_async: bool = False
    join: Slot | None = None
    """The parameter that joins a fan-out."""
    single: str | None = None
    """The parameter, where the step takes one event at a time."""
    is_plain: bool = False
    """Whether it is called on the loop, and nothing has to be found first."""

    def __post_init__(self) -> None:
        # Asked for each job: it is worked out once.
        slots = self.slots
        join = next((slot for slot in slots if slot.many), None)
        single = slots[0].name if len(slots) == 1 and join is None else None
        msgspec.structs.force_setattr(self, "join", join)
        msgspec.structs.force_setattr(self, "single", single)
        msgspec.structs.force_setattr(self, "is_plain", self.is_async and not self.resources)

    @property
    def is_handler(self) -> bool:
        """Whether this is a `catch_error` handler."""
        return self.handles is not None

    @property
    def takes(self) -> tuple[type, ...]:
        """Every class of events that it takes."""
        return tuple(dict.fromkeys(kind for slot in self.slots for kind in slot.types))

    @property
    def gives(self) -> tuple[type, ...]:
        """Every class of events that it may return."""
        return tuple(dict.fromkeys((*self.returns, *self.fans_out)))

    def accepts(self, kind: type) -> bool:
        """Whether an event of this class is for this step."""
        if self.accept_subclasses:
            return issubclass(kind, self.takes)
        return kind in self.takes


def step(
    func: Callable[..., Any] | None = None,
    *,
    workflow: Any = None,
    num_workers: int = NUM_WORKERS,
    retry_policy: Any = None,
    skip_graph_checks: Iterable[GraphCheck] | None = None,
    accept_event_subclasses: bool = False,
) -> Any:
    """Make a step of a method, or (`workflow=`) of a free function.

    Its signature says everything: one event, or several, or a list that joins a fan-out; `Context`
    under any name; `Annotated[T, Resource(...)]`; and what it returns. Sync functions run in a
    thread. `num_workers` of it run at once in one run. Raises `WorkflowValidationError`.
    """

    def decorate(fn: Callable[..., Any]) -> Callable[..., Any]:
        if type(num_workers) is not int or num_workers < 1:
            raise WorkflowValidationError(
                f"step {fn.__name__!r}: num_workers must be a whole number of at least 1, "
                f"not {num_workers!r}"
            )
        if retry_policy is not None and not callable(getattr(retry_policy, "next", None)):
            raise WorkflowValidationError(
                f"step {fn.__name__!r}: a retry policy needs a method next(elapsed_time, "
                "attempts, error)"
            )
        spec = read_step(
            fn,
            num_workers=num_workers,
            retry_policy=retry_policy,
            skip_checks=check_names(skip_graph_checks),
            accept_subclasses=accept_event_subclasses,
        )
        mark(fn, spec)
        if workflow is not None:
            workflow.add_step(fn)
        elif is_free(fn):
            raise WorkflowValidationError(
                f"{fn.__name__!r} is a free function: say @step(workflow=MyWorkflow), "
                "or make it a method"
            )
        return fn

    return decorate if func is None else decorate(func)


def catch_error(
    func: Callable[..., Any] | None = None,
    *,
    for_steps: Sequence[str] | None = None,
    max_recoveries: int = 1,
) -> Any:
    """Make a handler for steps that have failed for good: `for_steps`, or all that no other handler
    covers. It takes a `StepFailedEvent` and returns what the run goes on with; it is used at most
    `max_recoveries` times on the way from the start to the failure.
    """

    def decorate(fn: Callable[..., Any]) -> Callable[..., Any]:
        if type(max_recoveries) is not int or max_recoveries < 1:
            raise WorkflowValidationError(
                "catch_error: max_recoveries must be a whole number of at least 1"
            )
        if isinstance(for_steps, str):
            raise WorkflowValidationError("catch_error: for_steps must be a list of step names")
        spec = read_step(fn, handles=tuple(for_steps or ()), max_recoveries=max_recoveries)
        if not all(is_step_failed(kind) for kind in spec.takes):
            raise WorkflowValidationError(
                f"error handler {fn.__name__!r} must take a StepFailedEvent and nothing else"
            )
        mark(fn, spec)
        return fn

    return decorate if func is None else decorate(func)


def mark(fn: Callable[..., Any], spec: StepSpec) -> None:
    """Remember what a function is."""
    fn.__ironflow_step__ = spec  # type: ignore[attr-defined]


def spec_of(fn: object) -> StepSpec | None:
    """What a function is, if it is a step."""
    spec = getattr(fn, "__ironflow_step__", None)
    return spec if isinstance(spec, StepSpec) else None


def check_names(names: Iterable[str] | None) -> frozenset[str]:
    """Graph checks by name. Raises `WorkflowValidationError`."""
    found = frozenset(names or ())
    if found - CHECKS:
        unknown = ", ".join(sorted(map(str, found - CHECKS)))
        raise WorkflowValidationError(
            f"skip_graph_checks: there is no check {unknown}; there are {', '.join(sorted(CHECKS))}"
        )
    return found


def is_free(fn: Callable[..., Any]) -> bool:
    """Whether a function is not defined in the body of a class."""
    scope = fn.__qualname__.rpartition(".")[0]
    return not scope or scope.endswith("<locals>")


def read_step(fn: Callable[..., Any], foreign: Container[str] = (), **options: Any) -> StepSpec:
    """The step that a function's signature describes; `foreign` are parameters that are resources
    of another making. Raises `WorkflowValidationError`.
    """
    name = fn.__name__
    if inspect.isasyncgenfunction(fn) or inspect.isgeneratorfunction(fn):
        raise WorkflowValidationError(
            f"step {name!r} is a generator: return events, or write them to the stream"
        )
    hints = _hints(fn)
    resources = find_resources(fn, hints)
    given = list(inspect.signature(fn).parameters.values())
    parameters = [p for p in given if p.name != "self"]
    slots: list[Slot] = []
    context, state_type = None, None
    for parameter in parameters:
        hint = hints.get(parameter.name)
        variable = parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        if variable or parameter.name in resources or parameter.name in foreign:
            continue
        if _is_context(hint):
            context = parameter.name
            arguments = get_args(hint)
            state_type = arguments[0] if arguments and isinstance(arguments[0], type) else None
            continue
        slot = _slot(name, parameter.name, hint)
        if slot is not None:
            slots.append(slot)
        elif parameter.default is parameter.empty:
            raise WorkflowValidationError(
                f"step {name!r}: parameter {parameter.name!r} needs a type: a class of events, "
                "Context, or Annotated[T, Resource(...)]"
            )
    if not slots:
        raise WorkflowValidationError(f"step {name!r} must take an event: annotate a parameter")
    if sum(slot.many for slot in slots) > 1 or (len(slots) > 1 and slots[0].many != slots[-1].many):
        raise WorkflowValidationError(
            f"step {name!r} can join one list: it takes "
            f"{', '.join(repr(slot.name) for slot in slots)}"
        )
    if "return" not in hints:
        raise WorkflowValidationError(f"step {name!r} must say what it returns")
    returns, fans_out = _returns(name, hints["return"])
    return StepSpec(
        name=name,
        fn=fn,
        slots=tuple(slots),
        returns=returns,
        fans_out=fans_out,
        context=context,
        state_type=state_type,
        resources=resources,
        description=inspect.getdoc(fn),
        is_method=len(parameters) < len(given),
        is_async=inspect.iscoroutinefunction(fn),
        **options,
    )


def _hints(fn: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(fn, include_extras=True)
    except NameError:
        pass
    # Classes that are local to a calling function, such as a test's, under postponed annotations.
    seen: dict[str, Any] = {}
    frame = sys._getframe(1)
    for _ in range(FRAMES):
        if frame is None:
            break
        for key, value in frame.f_locals.items():
            seen.setdefault(key, value)
        frame = frame.f_back  # type: ignore[assignment]
    try:
        return typing.get_type_hints(fn, localns=seen, include_extras=True)
    except NameError as error:
        raise WorkflowValidationError(
            f"step {fn.__name__!r}: the annotations cannot be read: {error}"
        ) from error


def _is_context(hint: Any) -> bool:
    if get_origin(hint) in (Union, types.UnionType):
        return any(_is_context(each) for each in get_args(hint))
    named = get_origin(hint) or hint
    if isinstance(named, type) and named.__name__ == "Context":
        return named.__module__.startswith(("ironflow.workflows", "workflows"))
    return False


def _members(hint: Any) -> tuple[Any, ...]:
    if get_origin(hint) in (Union, types.UnionType):
        return tuple(each for part in get_args(hint) for each in _members(part))
    if isinstance(hint, typing.TypeVar) and hint.__bound__ is not None:
        return _members(hint.__bound__)
    return (hint,)


def _slot(step_name: str, name: str, hint: Any) -> Slot | None:
    take = None
    if get_origin(hint) is Annotated:
        hint, *extras = get_args(hint)
        for extra in extras:
            if (isinstance(extra, Collect) and isinstance(extra.cardinality, Take)) or (
                type(extra).__name__ == "Collect" and hasattr(extra.cardinality, "n")
            ):
                take = extra.cardinality.n
    if get_origin(hint) is list:
        kinds = _members(get_args(hint)[0])
        if not all(is_event_class(kind) for kind in kinds):
            raise WorkflowValidationError(
                f"step {step_name!r}: {name!r} must be a list of events, not {hint}"
            )
        return Slot(name, kinds, True, take)
    kinds = _members(hint)
    if kinds and all(is_event_class(kind) for kind in kinds):
        return Slot(name, kinds)
    return None


def _returns(name: str, hint: Any) -> tuple[tuple[type, ...], tuple[type, ...]]:
    single: list[type] = []
    many: list[type] = []
    for member in _members(hint):
        if get_origin(member) is Annotated:
            member = get_args(member)[0]
        if member is None or member is type(None):
            continue
        if get_origin(member) is list and get_args(member):
            kinds = _members(get_args(member)[0])
            many.extend(kinds)
        else:
            kinds = (member,)
            single.append(member)
        for kind in kinds:
            if not is_event_class(kind):
                raise WorkflowValidationError(
                    f"step {name!r} must return events, lists of events or None, not {hint}"
                )
    return tuple(dict.fromkeys(single)), tuple(dict.fromkeys(many))
