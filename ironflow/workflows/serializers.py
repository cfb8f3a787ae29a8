"""How values are written into a `Context.to_dict()`: JSON, or pickle for what has no JSON form."""

from __future__ import annotations

import base64
import json
import pickle
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

from ironflow.workflows.codec import MODEL, find_class
from ironflow.workflows.errors import ContextSerdeError
from ironflow.workflows.stored import COMPONENT, makes_components
from ironflow.workflows.vocabulary import wire_name

__all__ = ["BaseSerializer", "JsonSerializer", "PickleSerializer"]


class BaseSerializer(ABC):
    """Writes a value as text, and reads it back."""

    @abstractmethod
    def serialize(self, value: Any) -> str:
        """A value as text."""

    @abstractmethod
    def deserialize(self, value: str) -> Any:
        """The value of a text."""


class JsonSerializer(BaseSerializer):
    """JSON; pydantic models with their class. `allowed_types` limits what may be built again."""

    def __init__(self, allowed_types: list[type] | None = None) -> None:
        self.allowed = None if allowed_types is None else {wire_name(t): t for t in allowed_types}

    def serialize(self, value: Any) -> str:
        """A value as JSON. Raises `ValueError` for what has no JSON form."""
        try:
            return json.dumps(self.to_tree(value))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{type(value).__name__} has no JSON form: {error}") from error

    def deserialize(self, value: str) -> Any:
        """The value of a JSON text."""
        return self.from_tree(json.loads(value))

    def to_tree(self, value: Any) -> Any:
        """A value with its models as tagged objects."""
        if makes_components(type(value)):
            return {
                COMPONENT: True,
                "value": self.to_tree(value.to_dict()),
                "qualified_name": wire_name(type(value)),
            }
        if isinstance(value, BaseModel):
            return {
                MODEL: True,
                "value": value.model_dump(mode="json"),
                "qualified_name": wire_name(type(value)),
            }
        if isinstance(value, dict):
            return {key: self.to_tree(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [self.to_tree(each) for each in value]
        return value

    def from_tree(self, value: Any) -> Any:
        """The value of a tree. Raises `ContextSerdeError` for a class that is not known or not
        allowed.
        """
        if isinstance(value, dict):
            if isinstance(name := value.get("qualified_name"), str):
                if value.get(MODEL):
                    return self._find(name, _is_model).model_validate(value["value"])
                if value.get(COMPONENT):
                    return self._find(name, makes_components).from_dict(
                        self.from_tree(value["value"])
                    )
            return {key: self.from_tree(each) for key, each in value.items()}
        if isinstance(value, list):
            return [self.from_tree(each) for each in value]
        return value

    def _find(self, name: str, fits: Callable[[type], bool]) -> Any:
        kind = find_class(name) if self.allowed is None else self.allowed.get(name)
        if kind is None or not fits(kind):
            raise ContextSerdeError(f"a value of class {name} cannot be built here")
        return kind


def _is_model(kind: type) -> bool:
    return issubclass(kind, BaseModel)


class PickleSerializer(JsonSerializer):
    """JSON where it will do, else pickle. Reading a pickle executes code: only for own contexts."""

    def serialize(self, value: Any) -> str:
        """A value as text."""
        try:
            return super().serialize(value)
        except ValueError:
            return base64.b64encode(pickle.dumps(value)).decode()

    def deserialize(self, value: str) -> Any:
        """The value of a text."""
        try:
            return super().deserialize(value)
        except ValueError:
            return pickle.loads(base64.b64decode(value))  # noqa: S301 - see the class
