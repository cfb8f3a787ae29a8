"""`ironflow workflows ...`."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import click
import msgspec

from ironflow.cli.client import connect, segment
from ironflow.cli.options import VerbGroup, json_option, server_option
from ironflow.cli.output import print_body
from ironflow.core.errors import ConfigError, InvalidInput, NotFound
from ironflow.modules import load_module

MOST_ENTRIES = 100_000
DRAWN = ("turn.recorded", "run.failed", "run.cancelled")
FORMATS = ("svg", "html", "mermaid")


@click.group(cls=VerbGroup)
def workflows() -> None:
    """Draw workflows and what their runs did.

    Example:
      ironflow workflows draw my_workflows.py Greet -o greet.svg
    """


@workflows.command("draw")
@click.argument("module", required=False)
@click.argument("name", required=False)
@click.option("--run", "run_id", metavar="RUN", help="Draw what this run of a server did.")
@click.option("--format", "form", type=click.Choice(FORMATS), help="By default that of the file.")
@click.option("--output", "-o", metavar="FILE", help="Where to; by default to standard output.")
@click.option("--max-label-length", type=click.IntRange(min=4), help="Shorten longer labels.")
@server_option
@json_option
def draw(
    *,
    module: str | None,
    name: str | None,
    run_id: str | None,
    form: str | None,
    output: str | None,
    max_label_length: int | None,
    server: str,
    as_json: bool,
) -> None:
    """Draw all ways through the workflow NAME of MODULE, or (--run) what a run did.

    NAME is a workflow class or instance of the module, or what its server calls one; it may be left
    out if there is only one. RUN is the id of a run, or of its handler.

    Example:
      ironflow workflows draw my_workflows.py Greet --format mermaid
      ironflow workflows draw --run 0198c1a2-... -o run.html
    """
    try:
        from ironflow.workflows import diagrams, drawing
    except ImportError as error:
        raise ConfigError(str(error)) from error
    if (module is None) == (run_id is None):
        raise InvalidInput("module", "give a module and the name of a workflow, or --run RUN")
    if run_id is not None:
        diagram = drawing.execution_diagram(f"Run {run_id}", _entries(server, run_id))
    else:
        diagram = drawing.workflow_diagram(_find(module or "", name))
    if as_json:
        print_body(msgspec.json.encode(diagram))
        return
    try:
        chosen: Any = form or (diagrams.format_of(output) if output else "mermaid")
    except ValueError as error:
        raise InvalidInput("output", str(error)) from error
    text = diagrams.render(diagram, chosen, max_label_length)
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        Path(output).write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidInput("output", f"{output} cannot be written: {error.strerror}") from error
    click.echo(f"{output}: {len(diagram.nodes)} nodes, {len(diagram.edges)} edges")


def _find(module: str, name: str | None) -> Any:
    """The workflow of a module. Raises `InvalidInput` saying which there are."""
    from ironflow.workflows.foreign import given_name, is_foreign
    from ironflow.workflows.workflow import Workflow

    loaded = load_module(module)
    found: dict[str, Any] = {}
    for key, value in vars(loaded).items():
        own = isinstance(value, type) and issubclass(value, Workflow) and value is not Workflow
        if own and value.__module__ == loaded.__name__:
            found[key] = value
        elif isinstance(value, Workflow) or is_foreign(value):
            found[key] = value
            found.setdefault(given_name(value) or type(value).__name__, value)
        elif type(value).__module__ == "ironflow.workflows.server" and hasattr(value, "entries"):
            found |= {served: workflow for served, (workflow, _) in value.entries.items()}
    made = {id(value): value for value in found.values() if not isinstance(value, type)}
    classes = {type(value) for value in made.values()}
    # A class and the instance of it that is served are one workflow.
    unmade = [v for v in found.values() if isinstance(v, type) and v not in classes]
    different = [*made.values(), *unmade]
    if name is None and len(different) == 1:
        return different[0]
    known = ", ".join(sorted(found)) or "none"
    if name is None:
        raise InvalidInput("name", f"which workflow? {module} has {known}")
    if name not in found:
        raise InvalidInput("name", f"{module} has no workflow {name!r}; it has {known}")
    return found[name]


def _entries(server: str, run_id: str) -> list[Any]:
    """The journal of a run, read from a server. Raises `NotFound` for one that is no workflow's."""
    from ironflow.core.runs.entries import RunCompleted, decode_entry
    from ironflow.core.values.payloads import NULL

    client, after = connect(server), 0
    status, answer = client.probe(f"/handlers?handler_id={quote(run_id, safe='')}")
    if status == 200 and (handlers := msgspec.json.decode(answer)["handlers"]):
        run_id = handlers[0]["run_id"]
    entries: list[Any] = []
    while len(entries) < MOST_ENTRIES:
        query: dict[str, str | int | None] = {"after": after, "limit": 1000}
        page = msgspec.json.decode(client.get(f"/runs/{segment(run_id)}/history", query))
        for view in page["items"]:
            if view["kind"] == "run.completed":
                entries.append(RunCompleted(NULL))
            elif view["kind"] in DRAWN:
                entries.append(decode_entry(view["kind"], msgspec.json.encode(view["data"])))
        after = page.get("next_version")
        if after is None:
            break
    if not entries:
        raise NotFound("workflow run", run_id)
    return entries
