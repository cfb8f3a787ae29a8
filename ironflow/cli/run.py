"""`ironflow run`: one function to its end, in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click
import msgspec

from ironflow.cli.failures import Failed, Wrong
from ironflow.cli.inputs import read_json
from ironflow.cli.options import Duration, Verb, json_option
from ironflow.cli.output import print_json, print_value, say
from ironflow.core.errors import ConfigError, RunError

if TYPE_CHECKING:
    from ironflow.sdk.function import Function
    from ironflow.storage.ports import Entry


@click.command("run", cls=Verb)
@click.argument("target", metavar="MODULE:FUNCTION")
@click.option("--input", "text", metavar="JSON|@FILE|-", help="The input (default null).")
@click.option("--db", metavar="FILE", help="Database file; without one the run is not kept.")
@click.option("--key", help="With --db: the same key again finds this run and goes on with it.")
@click.option("--timeout", type=Duration(), help="Wait no longer than this.")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="warning",
    show_default=True,
    help="Least severe line to log on stderr.",
)
@json_option
def run(
    *,
    target: str,
    text: str | None,
    db: str | None,
    key: str | None,
    timeout: float | None,
    log_level: str,
    as_json: bool,
) -> None:
    """Run one function to its end in this process, without a server.

    Prints the result. MODULE is a file (app.py) or a module's name (package.app);
    FUNCTION is its id or its name in the module, and may be left out where the module
    has only one.

    Examples:
      ironflow run app.py:greet --input '{"name": "Ada"}'
      ironflow run app.py:import-all --db work.db --key monday
    """  # fmt: skip
    data = read_json(text, "--input")
    if key is not None and db is None:
        raise Wrong("--key", "needs --db: without a database nothing is there to be found again")
    function = _find(target)
    from ironflow.logs import configure_logging

    configure_logging("text", log_level)
    try:
        result = asyncio.run(_run(function, msgspec.json.decode(data), db, key, timeout))
    except RunError as error:
        raise Failed(error.message) from error
    except TimeoutError as error:
        raise Failed(str(error)) from error
    if as_json:
        print_value(result)
    else:
        print_json(result)


async def _run(
    function: Function, data: object, db: str | None, key: str | None, timeout: float | None
) -> object:
    from ironflow.core.values.codec import encode_plain
    from ironflow.embedded import open_engine, run_on

    body = encode_plain(data, "input")
    async with open_engine(db) as engine:
        engine.store.journal.subscribe(_tell_of_waits)
        return await run_on(engine, function, body, key=key, timeout=timeout)


def _tell_of_waits(entries: Sequence[Entry]) -> None:
    """Say when a run begins to wait for an event: nobody outside of this process can send one."""
    from ironflow.core.runs.entries import WaitStarted, decode_entry

    for entry in entries:
        if entry.kind != "wait.started":
            continue
        wait = decode_entry(entry.kind, entry.data)
        if isinstance(wait, WaitStarted) and wait.event is not None:
            say(
                f"{entry.stream} waits for an event {wait.event!r}; from outside only a server "
                "takes events (ironflow serve)"
            )


def _find(target: str) -> Function:
    """The function that MODULE:FUNCTION means."""
    from ironflow.modules import load_module
    from ironflow.sdk.function import Function

    module_name, separator, name = target.rpartition(":")
    if not separator or (len(module_name) == 1 and name.startswith("\\")):  # C:\folder\app.py
        module_name, name = target, ""
    try:
        module = load_module(module_name)
    except ConfigError as error:
        raise Wrong("MODULE:FUNCTION", error.message) from error
    found: dict[str, Function] = {}
    for attribute, value in vars(module).items():
        if isinstance(value, Function):
            if name in (attribute, value.id):
                return value
            found[value.id] = value
    if not name and len(found) == 1:
        return next(iter(found.values()))
    known = ", ".join(sorted(found)) or "none"
    reason = f"no function {name!r} in {module_name}" if name else "say which function"
    raise Wrong("MODULE:FUNCTION", f"{reason}; functions there: {known}")
