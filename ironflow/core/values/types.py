"""Classes whose instances can be stored: dataclasses, msgspec structs, pydantic models and enums.

A class is stored as `module:Qualname` and found again by import. pydantic is optional: it is never
imported here, for nobody can hold a model without having imported it.
"""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Callable
from enum import Enum, Flag
from types import ModuleType
from typing import Any, cast
from weakref import WeakKeyDictionary

import msgspec

_names: WeakKeyDictionary[type, str] = WeakKeyDictionary()


class Unfit(Exception):
    """The class or the value cannot be stored or restored; the text is the reason."""


def pydantic_base() -> type | None:
    """`pydantic.BaseModel`, if pydantic is loaded."""
    base = getattr(sys.modules.get("pydantic.main"), "BaseModel", None)
    return base if isinstance(base, type) else None


def is_model(cls: type) -> bool:
    """Whether this is a pydantic model."""
    base = pydantic_base()
    return base is not None and issubclass(cls, base)


def has_fields(cls: type) -> bool:
    """Whether instances are stored field by field."""
    # Not hasattr(): a metaclass may claim to have anything.
    if any("__dataclass_fields__" in vars(base) for base in cls.__mro__):
        return True
    return issubclass(cls, msgspec.Struct) or is_model(cls)


def field_names(cls: type) -> tuple[str, ...]:
    """The names of the fields as attributes."""
    if issubclass(cls, msgspec.Struct):
        return cls.__struct_fields__
    if is_model(cls):
        return tuple(cls.model_fields)  # type: ignore[attr-defined]
    return tuple(each.name for each in dataclasses.fields(cast(Any, cls)))


def read_fields(value: object, cls: type) -> dict[str, object]:
    """The fields of an instance by name. Raises `Unfit` for one that has no value."""
    found: dict[str, object] = {}
    for name in field_names(cls):
        try:
            found[name] = getattr(value, name)
        except Exception as error:
            raise Unfit(f"its field {name!r} cannot be read: {_sentence(error)}") from error
    if is_model(cls):
        found.update(getattr(value, "__pydantic_extra__", None) or {})
    return found


def type_name(cls: type) -> str:
    """`module:Qualname` of a class. Raises `Unfit` unless an import finds this very class there."""
    name = _names.get(cls)
    if name is not None:
        return name
    module, qualname = str(cls.__module__), str(cls.__qualname__)
    if "<locals>" in qualname:
        raise Unfit("it is defined inside a function, so no other process can import it")
    if _look_up(sys.modules.get(module), qualname) is not cls:
        raise Unfit(f"{module}:{qualname} is not this class, so it could not be found again")
    name = _names[cls] = f"{module}:{qualname}"
    return name


def find_type(name: object, accepts: Callable[[type], bool]) -> type[Any]:
    """The class of a stored name. Raises `Unfit` if it is gone or is not what `accepts` wants."""
    if not isinstance(name, str):
        raise Unfit("the name of a type must be text")
    module_name, _, qualname = name.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), *qualname.split(".")]):
        raise Unfit(f"{name!r:.200} is not the name of a type")
    found: object = sys.modules.get(module_name)
    if found is None:
        try:
            found = importlib.import_module(module_name)
        except Exception as error:
            raise Unfit(f"type {name} cannot be imported: {_sentence(error)}") from error
    cls = _look_up(found, qualname)
    if cls is None:
        raise Unfit(f"type {name} is gone")
    if not accepts(cls):
        raise Unfit(f"type {name} is not of a kind that can be stored")
    return cls


def _look_up(found: object, qualname: str) -> type[Any] | None:
    """Through the namespaces of a module and its classes only, so that no attribute runs code."""
    for part in qualname.split("."):
        found = vars(found).get(part) if isinstance(found, ModuleType | type) else None
    return found if isinstance(found, type) else None


def build(cls: type[Any], fields: dict[str, object]) -> object:
    """An instance with these fields. Raises `Unfit`.

    Fields that the class no longer has are dropped, new ones take their defaults. The constructor
    runs, and then each field gets exactly what was stored, whatever the constructor made of it.
    """
    try:
        return _build(cls, fields)
    except Unfit:
        raise
    except Exception as error:
        raise Unfit(f"{cls.__qualname__} cannot be made again: {_sentence(error)}") from error


def _build(cls: type[Any], fields: dict[str, object]) -> object:
    if is_model(cls):
        missing = [n for n, f in cls.model_fields.items() if f.is_required() and n not in fields]
        if missing:
            raise Unfit(f"{cls.__qualname__} needs {', '.join(missing)}, which is not stored")
        # Not validated again: a validator that changes its value would change it twice.
        return cls.model_construct(set(fields), **fields)
    if issubclass(cls, msgspec.Struct):
        known = {name: fields[name] for name in cls.__struct_fields__ if name in fields}
        struct = cls(**known)
        for name, value in known.items():
            msgspec.structs.force_setattr(struct, name, value)
        return struct
    own = dataclasses.fields(cls)
    known = {each.name: fields[each.name] for each in own if each.name in fields}
    instance = cls(
        **{each.name: known[each.name] for each in own if each.init and each.name in known}
    )
    for name, value in known.items():
        object.__setattr__(instance, name, value)
    return instance


def enum_value(member: Enum) -> str | int:
    """How a member is stored: its name; a combination of flags, which may have none, its number."""
    if isinstance(member, Flag):
        return int(member.value)
    return member.name


def find_member(cls: type[Enum], stored: object) -> Enum:
    """The member that was stored. Raises `Unfit` if it is gone."""
    try:
        return cls(stored) if issubclass(cls, Flag) else cls[stored]  # type: ignore[index]
    except (KeyError, ValueError, TypeError):
        raise Unfit(f"{cls.__qualname__} has no member {stored!r:.100}") from None


def _sentence(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 - the text of a user's exception is the user's code
        return type(error).__name__
