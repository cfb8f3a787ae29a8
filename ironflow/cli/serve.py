"""`ironflow serve`."""

from __future__ import annotations

import gc
from typing import Any

import click

from ironflow.cli.options import Verb
from ironflow.cli.settings import read_settings, settings_options


@click.command("serve", cls=Verb)
@click.argument("modules", nargs=-1, metavar="[MODULE.py ...]")
@settings_options
def serve(modules: tuple[str, ...], config: str | None, **flags: Any) -> int:
    """Run the server, with the functions of these modules.

    A setting is taken from its flag, else from the environment (IRONFLOW_PORT for
    --port), else from the TOML file, else it is the default; `ironflow config`
    shows them all. SIGTERM or Ctrl-C drains: running steps finish, everything is
    committed. A second one ends at once.

    Examples:
      ironflow serve app.py
      ironflow serve app.py jobs.py --db /var/lib/ironflow/app.db --log-format json
    """
    settings = read_settings(flags, config).settings
    gc.disable()  # an import leaves no garbage: looking for some takes a tenth of the start
    from ironflow.logs import configure_logging
    from ironflow.server import serve as run_server

    gc.freeze()  # nor is any of it looked through again while the server works
    gc.enable()
    configure_logging(settings.log_format, settings.log_level)
    return run_server(settings, modules)
