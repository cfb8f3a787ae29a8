"""A workflow's steps put together: who takes what, what begins and ends a run, and whether it can
work at all. The same for our own workflows and for those of LlamaIndex.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ironflow.sdk.function import hash_code
from ironflow.workflows.checks import check_graph, check_handlers, check_lists, names_of
from ironflow.workflows.errors import WorkflowConfigurationError, WorkflowValidationError
from ironflow.workflows.steps import StepSpec
from ironflow.workflows.vocabulary import (
    OURS,
    is_event_class,
    is_human_response,
    is_start,
    is_stop,
    wire_name,
)

DEPTH = 8
"""How deep fan-outs may nest."""
VERBS = frozenset({"wait_for_event", "send_event"})
"""By which a step takes and gives events that its signature does not name."""


class Definition:
    """The steps of one workflow. Raises `WorkflowConfigurationError` or `WorkflowValidationError`
    when they make no workflow.
    """

    def __init__(
        self,
        name: str,
        steps: Mapping[str, StepSpec],
        *,
        skip_checks: frozenset[str] = frozenset(),
        check: bool = True,
        extra_events: Iterable[type] = (),
        helpers: Iterable[Callable[..., Any]] = (),
    ) -> None:
        self.name, self.steps, self.helpers = name, dict(steps), tuple(helpers)
        self.plain = {n: s for n, s in self.steps.items() if not s.is_handler}
        self.handlers = {n: s for n, s in self.steps.items() if s.is_handler}
        self.extra_events = tuple(extra_events)
        self.start = self._start_class()
        self.stop = self._stop_class()
        check_handlers(self)
        check_lists(self)
        if check:
            check_graph(self, skip_checks)
        self.state_type = self._state_type()

    def with_events(self, extra: Iterable[type]) -> Definition:
        """The same steps with further classes that callers may send."""
        return Definition(
            self.name, self.steps, check=False, extra_events=extra, helpers=self.helpers
        )

    # -- who takes what ---------------------------------------------------------------------------

    @functools.cached_property
    def events(self) -> tuple[type, ...]:
        """Every class of events that steps take or return, and the additional ones."""
        found: dict[type, None] = {}
        for spec in self.steps.values():
            found.update(dict.fromkeys((*spec.takes, *spec.gives)))
        found.update(dict.fromkeys(self.extra_events))
        return tuple(found)

    @functools.cached_property
    def known(self) -> tuple[type, ...]:
        """`events`, and the classes of events that the code of steps speaks of, or that of what
        they call: what it waits for and sends need not stand in any signature.
        """
        found = dict.fromkeys(self.events)
        for fn in self._calls([*(spec.fn for spec in self.steps.values()), *self.helpers]):
            found.update(dict.fromkeys(mentioned(fn)))
        found.update(dict.fromkeys((OURS.event, OURS.human_response, OURS.input_required)))
        return tuple(found)

    @functools.cached_property
    def by_wire_name(self) -> dict[str, type]:
        """The classes by their full names."""
        return {wire_name(kind): kind for kind in reversed(self.known)}

    @functools.cached_property
    def by_bare_name(self) -> dict[str, type]:
        """The classes by their bare names; of two with one name the first."""
        found: dict[str, type] = {}
        for kind in self.known:
            found.setdefault(kind.__name__, kind)
        return found

    @functools.cached_property
    def answers(self) -> tuple[str, ...]:
        """Full names of the classes that bring an idle run on: answers from outside that steps
        take, or, if there are none, whatever they take.
        """
        taken = [kind for spec in self.plain.values() for kind in spec.takes if not is_start(kind)]
        human = [kind for kind in taken if is_human_response(kind)]
        return tuple(dict.fromkeys(wire_name(kind) for kind in human or taken))

    def takers(self, kind: type) -> list[StepSpec]:
        """The steps that take events of a class."""
        found = self._takers.get(kind)
        if found is None:
            found = self._takers[kind] = [s for s in self.plain.values() if s.accepts(kind)]
        return found

    @functools.cached_property
    def _takers(self) -> dict[type, list[StepSpec]]:
        return {}

    def handler_for(self, step: str, recoveries: Mapping[str, int]) -> StepSpec | None:
        """The error handler of a step that may still be used."""
        if step in self.handlers:
            return None
        covering = [s for s in self.handlers.values() if step in (s.handles or ())]
        covering += [s for s in self.handlers.values() if not s.handles]
        for spec in covering[:1]:
            if recoveries.get(spec.name, 0) < spec.max_recoveries:
                return spec
        return None

    def joins(self, step: str) -> tuple[str, ...]:
        """The steps that join what the fan-outs of `step` lead to."""
        return tuple(self.feeds(step))

    @functools.cache  # noqa: B019 - as long as the workflow itself
    def feeds(self, step: str) -> dict[str, set[type]]:
        """By step that joins a fan-out of `step` the classes of events that come to it so."""
        seen: set[tuple[type, int]] = set()
        todo = [(kind, 0) for kind in self.steps[step].fans_out]
        found: dict[str, set[type]] = {}
        while todo:
            kind, depth = todo.pop(0)
            if (kind, depth) in seen or depth > DEPTH:
                continue
            seen.add((kind, depth))
            for taker in self.takers(kind):
                if taker.join is None:
                    todo += [(given, depth) for given in taker.returns]
                    todo += [(given, depth + 1) for given in taker.fans_out]
                elif depth == 0:
                    found.setdefault(taker.name, set()).add(kind)
                else:
                    todo += [(given, depth - 1) for given in taker.returns]
                    todo += [(given, depth) for given in taker.fans_out]
            for handler in self.handlers.values():
                todo += [(given, depth) for given in handler.returns]
        return found

    def named_by(self, step: str, verb: str) -> tuple[type, ...]:
        """The classes of events that the code of a step names on its way to a call of `verb`, such
        as `wait_for_event`: in itself, or in functions and methods that it calls.
        """
        calls = self._calls([self.steps[step].fn])
        leading = {fn for fn in calls if verb in code_names(fn)}
        grew = bool(leading)
        while grew:
            more = {fn for fn, others in calls.items() if leading & others} - leading
            leading |= more
            grew = bool(more)
        return tuple(dict.fromkeys(k for fn in calls if fn in leading for k in mentioned(fn)))

    def _calls(self, fns: Iterable[Callable[..., Any]]) -> dict[Callable[..., Any], set[Any]]:
        """These functions and those that they call, with which each of them calls itself."""
        methods = {fn.__name__: inspect.unwrap(fn) for fn in self.helpers}
        found: dict[Callable[..., Any], set[Any]] = {}
        todo = [inspect.unwrap(fn) for fn in fns]
        while todo:
            fn = todo.pop(0)
            if fn not in found:
                own = code_names(fn) - self.steps.keys()
                found[fn] = {*called(fn), *(methods[name] for name in own if name in methods)}
                todo += sorted(found[fn], key=lambda each: each.__qualname__)
        return found

    @functools.cached_property
    def code(self) -> str:
        """A hash that changes with the source of any step."""
        text = "".join(f"{name}:{hash_code(spec.fn)}" for name, spec in sorted(self.steps.items()))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    # -- whether it can work ----------------------------------------------------------------------

    def _start_class(self) -> type:
        found = {kind for spec in self.plain.values() for kind in spec.takes if is_start(kind)}
        if not found:
            raise WorkflowConfigurationError(
                f"workflow {self.name!r}: at least one step must take a StartEvent"
            )
        if len(found) > 1:
            raise WorkflowConfigurationError(
                f"workflow {self.name!r}: one class of StartEvent must begin a run, "
                f"steps take {names_of(found)}"
            )
        return found.pop()

    def _stop_class(self) -> type:
        found = {kind for spec in self.steps.values() for kind in spec.gives if is_stop(kind)}
        if not found:
            raise WorkflowConfigurationError(
                f"workflow {self.name!r}: at least one step must return a StopEvent"
            )
        if len(found) > 1:
            raise WorkflowConfigurationError(
                f"workflow {self.name!r}: one class of StopEvent must end a run, "
                f"steps return {names_of(found)}"
            )
        return found.pop()

    def _state_type(self) -> type | None:
        found = {spec.state_type for spec in self.steps.values() if spec.state_type is not None}
        # Steps may name a base of the state that others name: it is the most derived one.
        last = [each for each in found if all(issubclass(each, other) for other in found)]
        kind = last[0] if last else None
        if found and kind is None:
            raise WorkflowValidationError(
                f"workflow {self.name!r}: steps name several types of state, of which none derives "
                f"from the others: {names_of(found)}"
            )
        fields = getattr(kind, "model_fields", {})
        required = [name for name, field in fields.items() if field.is_required()]
        if required:
            raise WorkflowValidationError(
                f"workflow {self.name!r}: the fields of the state {kind.__name__} need defaults: "  # type: ignore[union-attr]
                f"{', '.join(required)}"
            )
        return kind


def code_names(fn: Callable[..., Any]) -> set[str]:
    """Every name that a function's code uses, in functions inside of it, too."""
    code = getattr(inspect.unwrap(fn), "__code__", None)
    if code is None:
        return set()
    codes, names = [code], set(code.co_freevars)
    while codes:
        inner = codes.pop()
        names.update(inner.co_names)
        codes.extend(const for const in inner.co_consts if isinstance(const, type(code)))
    return names


def helpers_of(kind: type) -> list[Callable[..., Any]]:
    """The methods of a workflow's class and of those that it derives from, but for the runtime's
    own: what its steps may call.
    """
    own = ("ironflow.workflows.workflow", "workflows.workflow", "builtins", "abc", "typing")
    found: dict[str, Callable[..., Any]] = {}
    for base in reversed(kind.__mro__):
        if base.__module__ not in own:
            methods = {name: getattr(fn, "__func__", fn) for name, fn in vars(base).items()}
            found |= {name: fn for name, fn in methods.items() if inspect.isfunction(fn)}
    return list(found.values())


def called(fn: Callable[..., Any]) -> Iterable[Callable[..., Any]]:
    """The functions that a function's code names: of its own module, and others that deal with
    contexts.
    """
    target = inspect.unwrap(fn)
    scope = getattr(target, "__globals__", {})
    for name in sorted(code_names(fn)):
        found: Any = scope.get(name)
        if not inspect.isfunction(found):
            continue
        if found.__module__ == target.__module__ or not VERBS.isdisjoint(code_names(found)):
            yield inspect.unwrap(found)


def mentioned(fn: Callable[..., Any]) -> Iterable[type]:
    """The classes of events that a function's code names."""
    target = inspect.unwrap(fn)
    if not hasattr(target, "__code__"):
        return
    scope = dict(target.__globals__)
    closure = zip(target.__code__.co_freevars, target.__closure__ or (), strict=False)
    for name, cell in closure:
        try:
            scope[name] = cell.cell_contents
        except ValueError:
            continue  # not bound yet
    for name in sorted(code_names(fn)):
        kind: Any = scope.get(name)
        if is_event_class(kind):
            yield kind
