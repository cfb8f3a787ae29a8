"""Whether the steps of a workflow can work together at all. Each check raises
`WorkflowValidationError` saying what is wrong.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ironflow.workflows.errors import WorkflowConfigurationError, WorkflowValidationError
from ironflow.workflows.resource import ResourceConfig, check_circle
from ironflow.workflows.steps import StepSpec
from ironflow.workflows.vocabulary import (
    is_human_response,
    is_input_required,
    is_start,
    is_step_failed,
    is_stop,
)

if TYPE_CHECKING:
    from ironflow.workflows.definition import Definition

MOST_LEVELS = 5000
"""Places of events in fan-outs that are looked at; a workflow with more is taken on trust."""

Level = tuple[str, ...]
"""The steps in whose fan-outs an event is, outermost first."""


def names_of(kinds: Iterable[type]) -> str:
    """Classes in words."""
    return ", ".join(sorted(kind.__name__ for kind in kinds))


def check_handlers(graph: Definition) -> None:
    """Error handlers are for steps that there are, and no step has two."""
    general = [name for name, spec in graph.handlers.items() if not spec.handles]
    if len(general) > 1:
        raise WorkflowValidationError(
            f"workflow {graph.name!r}: only one error handler can be for all steps, "
            f"there are {', '.join(general)}"
        )
    covered: dict[str, str] = {}
    for name, spec in graph.handlers.items():
        for step in spec.handles or ():
            if step in graph.handlers:
                raise WorkflowValidationError(
                    f"error handler {name!r} cannot be for the error handler {step!r}"
                )
            if step not in graph.steps:
                raise WorkflowValidationError(
                    f"error handler {name!r} is for {step!r}, which is no step"
                )
            if step in covered:
                raise WorkflowValidationError(
                    f"step {step!r} has two error handlers, {covered[step]!r} and {name!r}"
                )
            covered[step] = name


def check_lists(graph: Definition) -> None:
    """What a step joins in a list comes out of a fan-out."""
    fed: dict[str, set[type]] = {}
    for step in graph.steps:
        for name, kinds in graph.feeds(step).items():
            fed.setdefault(name, set()).update(kinds)
    for name, spec in graph.plain.items():
        if spec.join is None:
            continue
        kinds = fed.get(name, set())
        lost = [
            kind
            for kind in spec.join.types
            if kind not in kinds
            and not (spec.accept_subclasses and any(issubclass(each, kind) for each in kinds))
        ]
        if lost:
            raise WorkflowValidationError(
                f"step {name!r} joins list[{names_of(lost)}], but no step that returns a list "
                "leads to such events; use ctx.collect_events for events that are sent one by one"
            )


def check_graph(graph: Definition, skip: frozenset[str]) -> None:
    """Every event is made and taken, every step can be reached and leads to an end."""
    _check_partners(graph)
    if "reachability" not in skip:
        _check_reachable(graph)
    if "terminal_event" not in skip:
        _check_answers(graph)
    if "dead_end" not in skip:
        _check_ends(graph)
    _check_levels(graph)
    _check_resources(graph)


def _check_partners(graph: Definition) -> None:
    produced = {kind for spec in graph.steps.values() for kind in spec.gives} | {graph.start}
    consumed = {kind for spec in graph.plain.values() for kind in spec.takes}
    for name, spec in graph.plain.items():
        stops = [kind for kind in spec.takes if is_stop(kind)]
        if stops:
            raise WorkflowValidationError(
                f"step {name!r} takes {names_of(stops)}: a run is over then"
            )
    subclassed = {k for s in graph.plain.values() if s.accept_subclasses for k in s.takes}
    orphans = {
        kind
        for kind in consumed - produced
        if not (is_human_response(kind) or is_input_required(kind) or is_step_failed(kind))
        and not any(issubclass(given, kind) for given in produced if kind in subclassed)
    }
    if orphans:
        raise WorkflowValidationError(
            f"workflow {graph.name!r}: these events are taken but never produced: "
            f"{names_of(orphans)}"
        )
    waste = {
        kind
        for kind in produced - consumed
        if not (is_input_required(kind) or is_stop(kind) or is_human_response(kind))
        and not any(issubclass(kind, base) for base in subclassed)
    }
    if waste:
        raise WorkflowValidationError(
            f"workflow {graph.name!r}: these events are produced but never taken: {names_of(waste)}"
        )


def _check_reachable(graph: Definition) -> None:
    known: set[type] = {graph.start}
    known |= {k for s in graph.plain.values() for k in s.takes if is_human_response(k)}
    reached: set[str] = set(graph.handlers)
    known |= {kind for spec in graph.handlers.values() for kind in spec.gives}
    grew = True
    while grew:
        grew = False
        for name, spec in graph.plain.items():
            if name not in reached and any(spec.accepts(kind) for kind in known):
                reached.add(name)
                known.update(spec.gives)
                grew = True
    lost = [
        name
        for name, spec in graph.plain.items()
        if name not in reached and "reachability" not in spec.skip_checks
    ]
    if lost:
        raise WorkflowValidationError(
            f"workflow {graph.name!r}: nothing leads to {', '.join(map(repr, lost))}; "
            "skip_graph_checks={'reachability'} if that is meant"
        )


def _check_answers(graph: Definition) -> None:
    """Answers from outside that steps make themselves are for somebody."""
    consumed = {kind for spec in graph.plain.values() for kind in spec.takes}
    lost = {
        kind
        for spec in graph.steps.values()
        if "terminal_event" not in spec.skip_checks
        for kind in spec.gives
        if is_human_response(kind) and not is_stop(kind) and kind not in consumed
    }
    if lost:
        raise WorkflowValidationError(
            f"workflow {graph.name!r}: these events are produced but never taken: "
            f"{names_of(lost)}; skip_graph_checks={{'terminal_event'}} if that is meant"
        )


def _check_ends(graph: Definition) -> None:
    """Every step that returns events leads to an end: a stop event, or a question outside."""
    good = {
        name
        for name, spec in graph.steps.items()
        if any(is_stop(kind) or is_input_required(kind) for kind in spec.gives)
    }
    grew = True
    while grew:
        grew = False
        for name, spec in graph.steps.items():
            if name in good:
                continue
            takers = {t.name for kind in spec.gives for t in graph.takers(kind)}
            if takers & good:
                good.add(name)
                grew = True
    lost = [
        name
        for name, spec in graph.steps.items()
        if spec.gives and name not in good and "dead_end" not in spec.skip_checks
    ]
    if lost:
        raise WorkflowValidationError(
            f"workflow {graph.name!r}: from {', '.join(map(repr, lost))} no way leads to an "
            "end; skip_graph_checks={'dead_end'} if that is meant"
        )


def _check_levels(graph: Definition) -> None:
    """Events that a step takes together can meet: in the same fan-out, or outside of any."""
    joining = {name: spec for name, spec in graph.plain.items() if len(spec.slots) > 1}
    if not joining:
        return
    levels = _levels(graph)
    for name, spec in joining.items():
        places = []
        for slot in spec.slots:
            kinds = [k for k in levels if k in slot.types or _is_taken(spec, k, slot.types)]
            places.append({level for kind in kinds for level in levels[kind]})
        if levels and not set.intersection(*places):
            told = "; ".join(
                f"{slot.name!r} comes {_told(place)}"
                for slot, place in zip(spec.slots, places, strict=True)
            )
            raise WorkflowValidationError(
                f"step {name!r} takes events together that never meet in one fan-out: {told}"
            )


def _is_taken(spec: StepSpec, kind: type, types: tuple[type, ...]) -> bool:
    return spec.accept_subclasses and issubclass(kind, types)


def _told(levels: set[Level]) -> str:
    places = [
        f"out of the list that {level[-1]!r} returns" if level else "outside of any list"
        for level in sorted(levels)
    ]
    return " or ".join(dict.fromkeys(places)) or "from nowhere"


def _levels(graph: Definition) -> dict[type, set[Level]]:
    """By class of events where they can be; empty when that is too much to follow."""
    found: dict[type, set[Level]] = {}
    todo: list[tuple[type, Level]] = []
    for spec in graph.steps.values():
        todo += [(k, ()) for k in spec.takes if is_start(k) or is_human_response(k)]
        if spec.context is not None:
            # Events that are sent are outside of the fan-outs of whoever sends them.
            todo += [(kind, ()) for kind in spec.gives]
        if spec.is_handler:
            todo += [(kind, ()) for kind in spec.returns]
    looked_at = 0
    while todo:
        kind, level = todo.pop()
        if level in found.setdefault(kind, set()) or len(level) > len(graph.steps):
            continue
        found[kind].add(level)
        looked_at += 1
        if looked_at > MOST_LEVELS:
            return {}
        for taker in graph.takers(kind):
            around = level
            if taker.join is not None:
                if not level or taker.name not in graph.joins(level[-1]):
                    continue
                around = level[:-1]
            todo += [(given, around) for given in taker.returns]
            todo += [(given, (*around, taker.name)) for given in taker.fans_out]
        for handler in graph.handlers.values():
            todo += [(given, level) for given in handler.returns]
    return found


def _check_resources(graph: Definition) -> None:
    """Configuration files can be read, also those of what resources need, and no resource needs
    itself.
    """
    for spec in graph.steps.values():
        for kind, resource in spec.resources.values():
            try:
                _check_resource(kind, resource, ())
            except WorkflowConfigurationError as error:
                raise WorkflowValidationError(f"step {spec.name!r}: {error}") from error


def _check_resource(kind: Any, resource: Any, path: tuple[Any, ...]) -> None:
    if isinstance(resource, ResourceConfig):
        resource.load(kind)
        return
    check_circle(resource, path)
    for inner, needed in resource.needs.values():
        _check_resource(inner, needed, (*path, resource))
