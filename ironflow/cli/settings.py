"""The server's settings as options of verbs: one option for each, made from `ironflow.settings`
itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from ironflow.core.errors import ConfigError
from ironflow.settings import DURATIONS, NAMES, Loaded, Settings, describe, load_settings

F = TypeVar("F", bound=Callable[..., Any])

_FLAG = re.compile(r"^flag: (\w+)(:| is)")
_BOOLEANS = frozenset(name for name in NAMES if isinstance(getattr(Settings(), name), bool))


def config_option(command: F) -> F:
    """`--config`: the TOML file."""
    return click.option(
        "--config", metavar="FILE", help="TOML file of settings (default ironflow.toml, if there)."
    )(command)


def settings_options(command: F) -> F:
    """An option for each setting; the verb gets them as keyword arguments, None where not given."""
    for name in reversed(NAMES):
        flag = "--" + name.replace("_", "-")
        if name in _BOOLEANS:
            flag += f"/--no-{name.replace('_', '-')}"
        command = click.option(
            flag,
            name,
            default=None,
            metavar=None if name in _BOOLEANS else _metavar(name),
            help=f"{_sentence(name)} (default {_default(name)})",
        )(command)
    return config_option(command)


def db_option(command: F) -> F:
    """`--db`: the database file."""
    return click.option("--db", metavar="FILE", help=f"{_sentence('db')} (default as for serve).")(
        command
    )


def read_settings(flags: Mapping[str, Any], config: str | None) -> Loaded:
    """The settings in force. Raises `ConfigError` that names an option as it was typed."""
    try:
        return load_settings(flags, None, config)
    except ConfigError as error:
        found = _FLAG.match(error.message)
        if found is None:
            raise
        option = "--" + found[1].replace("_", "-")
        rest = error.message[found.end() :].strip()
        raise ConfigError(f"{option}: {rest}") from error


def _metavar(name: str) -> str:
    if name in DURATIONS:
        return "DURATION"
    if name == "db":
        return "FILE"
    return "N" if isinstance(getattr(Settings(), name), int) else "TEXT"


def _sentence(name: str) -> str:
    text = describe(name)
    return text[:1].upper() + text[1:]


def _default(name: str) -> str:
    value = getattr(Settings(), name)
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)
