"""What steps need beside their event: `Annotated[Client, Resource(make_client)]`.

A resource is made when a step first needs it and, unless `cache=False`, once for each instance of
the workflow. Factories may be async and may need resources themselves. Resources are not durable: a
new process makes them anew.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel

from ironflow.workflows.errors import WorkflowConfigurationError

__all__ = ["Resource", "ResourceConfig", "ResourceDefinition", "ResourceManager"]


class Resource:
    """Made by calling `factory`; with `cache=False` for every execution of a step anew."""

    def __init__(self, factory: Callable[..., Any], cache: bool = True) -> None:
        if not callable(factory):
            raise TypeError(f"Resource needs a function that makes it, not {factory!r}")
        self.factory, self.cache = factory, cache

    @property
    def name(self) -> str:
        """The factory's name."""
        return getattr(self.factory, "__qualname__", type(self.factory).__name__)

    @functools.cached_property
    def needs(self) -> dict[str, tuple[Any, Resource | ResourceConfig]]:
        """By parameter of the factory the type and the resource that it needs itself."""
        return find_resources(self.factory)


class ResourceConfig:
    """A pydantic model read from the JSON file `config_file`, from the place `path_selector`
    (`a.b`) in it.
    """

    def __init__(
        self,
        config_file: str | Path,
        path_selector: str | None = None,
        label: str | None = None,
        description: str | None = None,
    ) -> None:
        if Path(config_file).suffix != ".json":
            raise ValueError(f"ResourceConfig reads JSON files, not {str(config_file)!r}")
        self.config_file, self.path_selector = str(config_file), path_selector
        self.label, self.description = label, description

    @property
    def name(self) -> str:
        """The file and the place in it."""
        selector = f"#{self.path_selector}" if self.path_selector else ""
        return f"{self.config_file}{selector}"

    def read(self) -> Any:
        """The value at the place. Raises `WorkflowConfigurationError`."""
        try:
            value = json.loads(Path(self.config_file).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise WorkflowConfigurationError(
                f"the configuration file {self.config_file} cannot be read: {error}"
            ) from error
        for key in self.path_selector.split(".") if self.path_selector else ():
            if not isinstance(value, dict) or key not in value:
                raise WorkflowConfigurationError(
                    f"there is no {self.path_selector!r} in {self.config_file}"
                )
            value = value[key]
        return value

    def load(self, model: Any) -> Any:
        """The value as the model. Raises `WorkflowConfigurationError`."""
        value = self.read()
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            return value
        try:
            return model.model_validate(value)
        except ValueError as error:
            raise WorkflowConfigurationError(
                f"{self.name} does not fit {model.__name__}: {error}"
            ) from error


class ResourceDefinition(typing.NamedTuple):
    """A parameter of a step that is a resource."""

    name: str
    type_annotation: Any
    resource: Resource | ResourceConfig


def find_resources(
    fn: Callable[..., Any], hints: dict[str, Any] | None = None
) -> dict[str, tuple[Any, Resource | ResourceConfig]]:
    """The parameters of a function that are resources."""
    try:
        hints = hints or typing.get_type_hints(fn, include_extras=True)
    except (NameError, TypeError):
        hints = dict(getattr(fn, "__annotations__", {}))
    found: dict[str, tuple[Any, Resource | ResourceConfig]] = {}
    for name, hint in hints.items():
        resource = resource_of(hint)
        if name != "return" and resource is not None:
            found[name] = (get_args(hint)[0], resource)
    return found


def resource_of(hint: Any) -> Resource | ResourceConfig | None:
    """The resource of an `Annotated` hint."""
    if get_origin(hint) is not Annotated:
        return None
    for extra in get_args(hint)[1:]:
        if isinstance(extra, Resource | ResourceConfig):
            return extra
    return None


def check_circle(resource: Any, path: tuple[Any, ...]) -> None:
    """Raise `WorkflowConfigurationError` when a resource is needed on the way to itself. Each
    annotation is an object of its own: it is the factory that is the same.
    """
    if any(each.factory is resource.factory for each in path):
        names = " -> ".join(each.name for each in (*path, resource))
        raise WorkflowConfigurationError(f"resources need one another in a circle: {names}")


class ResourceManager:
    """The resources of one workflow instance."""

    def __init__(self) -> None:
        self._made: dict[int, Any] = {}
        self._locks: dict[int, asyncio.Lock] = {}

    async def get(self, kind: Any, resource: Any, path: tuple[Any, ...] = ()) -> Any:
        """The resource, made if need be. Raises `WorkflowConfigurationError` for a cycle."""
        if not hasattr(resource, "factory"):
            return resource.load(kind)
        check_circle(resource, path)
        if not resource.cache:
            return await self._make(resource, path)
        key = id(resource.factory)
        if key not in self._made:
            lock = self._locks.setdefault(key, asyncio.Lock())
            async with lock:
                if key not in self._made:
                    self._made[key] = await self._make(resource, path)
        return self._made[key]

    async def _make(self, resource: Resource, path: tuple[Any, ...]) -> Any:
        needs = {
            name: await self.get(kind, needed, (*path, resource))
            for name, (kind, needed) in resource.needs.items()
        }
        made = resource.factory(**needs)
        return await made if inspect.isawaitable(made) else made

    def set(self, resource: Resource, value: Any) -> None:
        """Use a value instead of what the factory would make, in tests for instance."""
        self._made[id(resource.factory)] = value
