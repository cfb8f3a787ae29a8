"""`ironflow config`."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from ironflow.cli.options import Verb, json_option
from ironflow.cli.output import Column, pretty, print_items, print_table
from ironflow.cli.settings import read_settings, settings_options
from ironflow.settings import NAMES, SECRETS, Settings, describe


class Setting(msgspec.Struct):
    """One setting as `--json` prints it."""

    name: str
    value: Any
    origin: str
    doc: str


@click.command("config", cls=Verb)
@settings_options
@json_option
def config(*, config: str | None, as_json: bool, **flags: Any) -> None:
    """Show every setting, its value and where it comes from.

    Takes the options of `serve` and shows what that would use: a flag, else the
    environment, else the TOML file, else the default. Unknown names are errors.

    Examples:
      ironflow config
      IRONFLOW_PORT=8080 ironflow config --config prod.toml --json
    """
    loaded = read_settings(flags, config)
    found = [
        Setting(name, _value(loaded.settings, name), loaded.origins[name], describe(name))
        for name in NAMES
    ]
    if as_json:
        print_items(msgspec.json.encode(setting) for setting in found)
        return
    rows = [[item.name, _shown(item.value), item.origin, item.doc] for item in found]
    columns = [
        Column("setting"),
        Column("value", wide=True),
        Column("origin", wide=True),
        Column("what it is", note=True),
    ]
    print_table(columns, rows)


def _value(settings: Settings, name: str) -> Any:
    """A setting's value; of a secret only whether there is one."""
    value = getattr(settings, name)
    return "(set)" if name in SECRETS and value else value


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else pretty(value)
