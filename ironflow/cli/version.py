"""`ironflow version` with options; the plain form is answered by `ironflow.__main__` at once."""

from __future__ import annotations

import platform
import sys

import click

from ironflow import VERSION
from ironflow.cli.options import Verb, json_option
from ironflow.cli.output import print_value


@click.command(cls=Verb)
@json_option
def version(*, as_json: bool) -> None:
    """Show the version.

    Example:
      ironflow version --json
    """
    if as_json:
        implementation = f"{platform.python_implementation()} {platform.python_version()}"
        print_value({"version": VERSION, "python": implementation, "platform": sys.platform})
    else:
        print(f"ironflow {VERSION}")
