"""A LlamaIndex workflow served as it is: its steps and event classes, on this runtime.

The instance's own step functions are called, with its own events, so all that steps do through
their events and through the context that they are handed (`ironflow.workflows.Context`, which has
the same methods) is durable. Not covered: what a step does behind the context's back, such as
looking up LlamaIndex's own current context.
"""

from __future__ import annotations

import sys
import types
import typing
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from ironflow.core.errors import InvalidInput
from ironflow.workflows.definition import Definition, helpers_of
from ironflow.workflows.errors import WorkflowValidationError
from ironflow.workflows.resource import ResourceManager
from ironflow.workflows.steps import StepSpec, read_step


def is_foreign(value: object) -> bool:
    """Whether this is an instance of LlamaIndex's `Workflow`, which is never imported here."""
    module = sys.modules.get("workflows.workflow")
    kind = getattr(module, "Workflow", None)
    return isinstance(kind, type) and isinstance(value, kind)


def given_name(workflow: Any) -> str | None:
    """The name that an instance, ours or LlamaIndex's, was given. One that was given none says its
    class, and in newer releases of theirs its module before that.
    """
    kind, name = type(workflow), getattr(workflow, "workflow_name", None)
    return None if name in (kind.__name__, f"{kind.__module__}.{kind.__qualname__}") else name


class ForeignWorkflow:
    """What mounting asks of a workflow, answered for LlamaIndex's."""

    serializer = None

    def __init__(self, source: Any) -> None:
        """Raises `InvalidInput` when its steps cannot be read."""
        self.source = source
        self.timeout: float | None = getattr(source, "_timeout", None)
        self.verbose = bool(getattr(source, "_verbose", False))
        self.workflow_name = given_name(source) or type(source).__name__
        self.resources = ResourceManager()
        self.num_concurrent_runs: int | None = getattr(source, "_num_concurrent_runs", None)
        try:
            self.graph = Definition(
                self.workflow_name,
                dict(_steps(source)),
                check=False,
                helpers=helpers_of(type(source)),
            )
        except WorkflowValidationError as error:
            raise InvalidInput("workflow", str(error)) from error

    def function_of(self, spec: StepSpec) -> Callable[..., Any]:
        """What is called for a step."""
        return types.MethodType(spec.fn, self.source) if spec.is_method else spec.fn


def _steps(source: Any) -> Iterable[tuple[str, StepSpec]]:
    for name, method in source._get_steps().items():
        fn = getattr(method, "__func__", method)
        config = getattr(fn, "_step_config", None)
        if config is None:
            config = getattr(fn, "__step_config", None)
        policy = getattr(config, "retry_policy", None)
        options: dict[str, Any] = {
            "num_workers": getattr(config, "num_workers", 4) or 4,
            "retry_policy": policy if callable(getattr(policy, "next", None)) else None,
            "accept_subclasses": bool(getattr(config, "accept_event_subclasses", False)),
        }
        if getattr(config, "role", "step") == "catch_error":
            options["handles"] = tuple(getattr(config, "catch_error_for_steps", None) or ())
            options["max_recoveries"] = getattr(config, "catch_error_max_recoveries", 1)
        resources = {
            each.name: (getattr(each, "type_annotation", object), _Wrapped(each.resource))
            for each in getattr(config, "resources", ())
        }
        spec = read_step(fn, resources, **options)
        yield name, msgspec.structs.replace(spec, resources=resources)


class _Wrapped:
    """A resource of LlamaIndex's, made through its own manager's rules: by calling its factory."""

    def __init__(self, resource: Any) -> None:
        self.resource = resource
        factory = getattr(resource, "_factory", None) or getattr(resource, "factory", None)
        if factory is not None:
            self.factory = factory
        self.cache = bool(getattr(resource, "cache", True))
        self.name = getattr(resource, "name", None) or getattr(factory, "__qualname__", "resource")
        self.needs: dict[str, tuple[Any, Any]] = {}
        if factory is not None:
            self.needs = {
                name: (kind, _Wrapped(inner)) for name, (kind, inner) in _needs(factory).items()
            }

    def load(self, kind: Any) -> Any:
        """The value of a configuration file."""
        loaded = self.resource.call
        return loaded()


def _needs(factory: Callable[..., Any]) -> dict[str, tuple[Any, Any]]:
    """The parameters of a factory that are resources themselves."""
    try:
        hints = typing.get_type_hints(factory, include_extras=True)
    except (NameError, TypeError):
        return {}
    found = {}
    for name, hint in hints.items():
        if typing.get_origin(hint) is typing.Annotated:
            kind, *extras = typing.get_args(hint)
            for extra in extras:
                if type(extra).__module__.startswith("workflows."):
                    found[name] = (kind, extra)
    return found
