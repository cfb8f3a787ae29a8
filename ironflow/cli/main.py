"""The command line: verbs by name, each loaded from its module when it is called.

`main` runs the one in `sys.argv` and returns the exit code; whatever goes wrong becomes one line on
stderr, `error: field: reason` (a traceback with `--debug`). `--help` of the program itself loads no
verb: the short helps stand here, and tests/unit/test_cli_verbs.py holds them against the verbs.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
import traceback
from typing import Any, NamedTuple

import click

from ironflow.cli import failures
from ironflow.cli.failures import Failed, wants_traceback
from ironflow.core.errors import ConfigError, InvalidInput, IronflowError
from ironflow.core.terminal import clean


class Entry(NamedTuple):
    """Where a verb is and its short help."""

    module: str
    name: str
    help: str


VERBS = {
    "serve": Entry("serve", "serve", "Run the server, with the functions of these modules."),
    "worker": Entry("worker", "worker", "Run the functions of these modules for a server."),
    "demo": Entry("demo", "command", "Run a durable pipeline, kill it half-way, watch it go on."),
    "run": Entry("run", "run", "Run one function to its end in this process, without a server."),
    "invoke": Entry("invoke", "invoke", "Start a run of FUNCTION (its id)."),
    "emit": Entry("invoke", "emit", "Emit the event NAME, and say which runs it started."),
    "runs": Entry("runs", "runs", "List, show, watch and control runs."),
    "why": Entry(
        "runs", "why", "Say why a run stands where it stands, or what became of an event."
    ),
    "functions": Entry("functions", "functions", "List and show functions."),
    "workflows": Entry("workflows", "workflows", "Draw workflows and what their runs did."),
    "workers": Entry("workers", "workers", "List the workers that run functions for the server."),
    "keys": Entry("keys", "keys", "List, make, revoke and rotate the keys of the API."),
    "roles": Entry("roles", "roles", "List, make, show and remove roles: what keys may do."),
    "policies": Entry("roles", "policies", "List, make, show, try and remove policies."),
    "environments": Entry(
        "environments", "environments", "List, make, show, rename and remove environments."
    ),
    "projects": Entry(
        "environments",
        "projects",
        "List, make, show and remove projects: what environments belong to.",
    ),
    "lanes": Entry(
        "lanes", "lanes", "List and show lanes: which runs execute in them, and which wait."
    ),
    "debounce": Entry("intakes", "debounce", "List, start and cancel debounced events that wait."),
    "batches": Entry("intakes", "batches", "List, start and cancel batches that are not full."),
    "singletons": Entry("intakes", "singletons", "List singletons that hold a run."),
    "endpoints": Entry(
        "endpoints", "endpoints", "List endpoints, and register the functions that they serve."
    ),
    "breakers": Entry(
        "breakers", "breakers", "List, open, close and reset the circuit breakers of endpoints."
    ),
    "events": Entry("events", "events", "List and show events."),
    "stats": Entry("stats", "stats", "Show what the server is doing now."),
    "doctor": Entry(
        "doctor", "doctor", "Check everything ironflow needs; name a fix for each finding."
    ),
    "config": Entry("config", "config", "Show every setting, its value and where it comes from."),
    "db": Entry("db", "db", "Look after the database: back up, restore, check, export, vacuum."),
    "sim": Entry("sim", "sim", "Play simulated disasters; say which seed breaks a law."),
    "version": Entry("version", "version", "Show the version."),
}

ELSEWHERE = {
    "list": ("ls",),
    "get": ("show",),
    "describe": ("show",),
    "inspect": ("show",),
    "info": ("show", "stats"),
    "logs": ("history",),
    "events": ("history",),
    "result": ("show",),
    "why": ("show",),
    "delete": ("rm", "revoke"),
    "remove": ("rm", "revoke"),
    "add": ("create",),
    "terminate": ("cancel",),
    "kill": ("cancel",),
    "rerun": ("retry",),
    "server": ("serve",),
    "dev": ("serve",),
    "start": ("serve", "fire"),
    "send": ("emit",),
    "trigger": ("invoke",),
    "workflow": ("workflows",),
    "schedules": ("functions",),
}
"""What verbs are called by other programs, and what here."""

OUTPUT_LOST = frozenset({errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO})
"""What happens to a file that stdout is sent to, and to no connection."""

EPILOG = """\b
Examples:
  ironflow serve app.py
  ironflow invoke greet --input '{"name": "Ada"}' --wait 30s
  ironflow runs watch

\b
Exit codes: 0 done, 1 what was asked for failed, 2 wrong usage or input,
3 no server answers (IRONFLOW_SERVER_URL, default http://127.0.0.1:4200).

\b
Completion in your shell (bash; likewise zsh_source, fish_source):
  eval "$(_IRONFLOW_COMPLETE=bash_source ironflow)"
"""


class Verbs(click.Group):
    """The program: a group whose verbs are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs, in the order in which they are shown."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The verb, imported now."""
        entry = VERBS.get(cmd_name)
        if entry is None:
            return None
        loaded: click.Command = getattr(
            importlib.import_module(f"ironflow.cli.{entry.module}"), entry.name
        )
        return loaded

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The verb that the arguments name, or an error with the nearest one."""
        if args[0] not in VERBS and not args[0].startswith("-"):
            raise click.UsageError(f"no verb {args[0]!r}{nearest(args[0], VERBS)}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of verbs; loads none of them."""
        with formatter.section("Verbs"):
            formatter.write_dl([(name, entry.help) for name, entry in VERBS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb. Ctrl-C, or a reader of our output that goes away, end it without a word."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except KeyboardInterrupt:
            raise click.exceptions.Exit(failures.INTERRUPTED) from None
        except BrokenPipeError:
            _give_up_output()
            raise click.exceptions.Exit(failures.PIPE_CLOSED) from None
        return result


def _give_up_output() -> None:
    """What Python flushes at exit must go somewhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def nearest(word: str, known: Any) -> str:
    """`; did you mean 'x'?` where something known is near, else nothing."""
    import difflib

    meant = [name for name in ELSEWHERE.get(word, ()) if name in known]
    close = meant[:1] or difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


@click.command(cls=Verbs, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show tracebacks instead of one line.")
@click.option("--version", is_flag=True, help="Show the version.")
@click.option("--env", metavar="NAME", help="Environment to ask in; also IRONFLOW_ENV.")
@click.pass_context
def program(ctx: click.Context, debug: bool, version: bool, env: str | None) -> None:
    """Durable workflows in one process: every acknowledged step survives, none runs twice."""
    if env is not None:
        os.environ["IRONFLOW_ENV"] = env
    ctx.obj = {"debug": debug}


def main() -> int:
    """Run the command line in `sys.argv` and return the exit code."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:  # a terminal that lacks a character must not end the program
            reconfigure(errors="replace")
    try:
        return _run()
    except (KeyboardInterrupt, click.Abort):
        return failures.INTERRUPTED


def _run() -> int:
    try:
        code = program.main(prog_name="ironflow", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return failures.WRONG
    except click.UsageError as error:
        return _say(_usage_line(error), failures.WRONG)
    except click.ClickException as error:
        return _say(error.format_message(), failures.FAILED)
    except (Failed, IronflowError) as error:
        if wants_traceback():
            traceback.print_exc()
        wrong = isinstance(error, InvalidInput | ConfigError)
        code = failures.WRONG if wrong else getattr(error, "exit_code", failures.FAILED)
        return _say(error.message, code)
    except Exception as error:  # noqa: BLE001 - the last resort of a program: say it, with a way to see more
        if isinstance(error, OSError) and error.errno in OUTPUT_LOST and error.filename is None:
            _give_up_output()
            return _say(f"cannot write the output: {error.strerror}", failures.FAILED)
        if wants_traceback():
            traceback.print_exc()
        place = traceback.extract_tb(error.__traceback__)[-1]
        return _say(
            f"internal: {type(error).__name__}: {error} "
            f"({os.path.basename(place.filename)}:{place.lineno}; --debug shows the traceback)",
            failures.FAILED,
        )


def _say(message: str, code: int) -> int:
    if message:
        line = clean(" ".join(message.split()))
        print(f"error: {line}", file=sys.stderr)
    return code


def _usage_line(error: click.UsageError) -> str:
    """What is wrong as `field: reason`, and where the help is."""
    text = error.message.rstrip(".")
    if isinstance(error, click.MissingParameter):
        text = f"{_parameter_name(error)}: is missing"
    elif isinstance(error, click.BadParameter) and error.param is not None:
        text = f"{_parameter_name(error)}: {text}"
    elif isinstance(error, click.NoSuchOption):
        text = f"no option {error.option_name!r}"
        text += nearest(error.option_name, error.possibilities or ())
    elif type(error).__name__ == "NoSuchCommand" and error.ctx is not None:
        name = str(getattr(error, "command_name", ""))
        group = error.ctx.command
        known = group.list_commands(error.ctx) if isinstance(group, click.Group) else ()
        text = f"no verb {name!r}{nearest(name, known)}"
    where = error.ctx.command_path if error.ctx is not None else "ironflow"
    return f"{text} (see {where} --help)"


def _parameter_name(error: click.BadParameter) -> str:
    parameter = error.param
    if parameter is None:
        return str(error.param_hint or "argument")
    if isinstance(parameter, click.Option):
        return max(parameter.opts, key=len)
    return parameter.make_metavar(click.Context(click.Command(""))).strip("[].")
