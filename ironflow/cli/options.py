"""What verbs share: the class of a verb, `--json`, `--server`, limits and durations as parameter
types.
"""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from ironflow.cli.failures import Failed, Wrong
from ironflow.core.durations import format_duration, parse_duration
from ironflow.core.errors import InvalidInput
from ironflow.discovery import DEFAULT_URL, URL, locate

F = TypeVar("F", bound=Callable[..., Any])


CONTEXT = {"help_option_names": ["-h", "--help"]}


class Verb(click.Command):
    """A verb. Takes `--debug` also behind its name (`main` reads it)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **keep_lines(kwargs))
        self.params.append(click.Option(["--debug"], is_flag=True, hidden=True, expose_value=False))


class VerbGroup(click.Group):
    """A group of verbs, such as `runs`."""

    command_class = Verb

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **keep_lines(kwargs))


def keep_lines(options: dict[str, Any]) -> dict[str, Any]:
    """A command's options, its help marked so that paragraphs with indented lines keep them."""
    text = inspect.cleandoc(options.get("help") or "")
    paragraphs = [
        f"\b\n{paragraph}" if "\n  " in paragraph else paragraph for paragraph in text.split("\n\n")
    ]
    return {"context_settings": CONTEXT, **options, "help": "\n\n".join(paragraphs)}


class Duration(click.ParamType[float]):
    """Seconds, from text such as `30s`, `1h30m`, `7d`, within these bounds."""

    name = "duration"

    def __init__(self, least: float = 0.0, most: float = math.inf) -> None:
        self.least, self.most = least, most

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The seconds, or a usage error."""
        try:
            seconds = parse_duration(value)
        except InvalidInput as error:
            self.fail(error.reason, param, ctx)
        if not self.least <= seconds <= self.most:
            most = "" if self.most == math.inf else f" and at most {format_duration(self.most)}"
            self.fail(f"{value!r} must be at least {format_duration(self.least)}{most}", param, ctx)
        return seconds


class Moment(click.ParamType[str]):
    """A moment as RFC 3339 text: itself, a date, `now`, or a duration ago such as `2h`."""

    name = "moment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """RFC 3339 in UTC, or a usage error."""
        from datetime import UTC, datetime

        from ironflow.core.clock import SystemClock, from_datetime, to_rfc3339
        from ironflow.core.durations import to_micros

        text = str(value).strip()
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            try:
                ago = 0.0 if text == "now" else parse_duration(text)
            except InvalidInput:
                self.fail(
                    f"{text!r} is no moment: write one like 2026-01-31T12:00:00Z, a date, "
                    "or how long ago, like 2h",
                    param,
                    ctx,
                )
            return to_rfc3339(SystemClock().now() - to_micros(ago))
        if moment.tzinfo is None:
            moment = moment.astimezone()  # as people say times: on their own clock
        return to_rfc3339(from_datetime(moment.astimezone(UTC)))


def json_option(command: F) -> F:
    """`--json`: the API's own body, or a line for each item of a list."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")(command)


def server_option(command: F) -> F:
    """`--server`: which server to ask."""
    return click.option(
        "--server",
        envvar=URL,
        default=lambda: locate().url,
        metavar="URL",
        show_default=DEFAULT_URL,
        help="Server to ask; also IRONFLOW_SERVER_URL. Else the one that runs in this folder.",
    )(command)


def limit_option(command: F) -> F:
    """`--limit`: how many items at most."""
    return click.option(
        "-n", "--limit", type=click.IntRange(1, 1_000_000), default=50, show_default=True,
        help="How many at most.",
    )(command)  # fmt: skip


def removal_options(command: F) -> F:
    """`--dry-run` and `--yes` beside what removes something for good."""
    command = click.option("--yes", is_flag=True, help="Do not ask.")(command)
    return click.option("--dry-run", is_flag=True, help="Only say what would go.")(command)


def confirm_removal(what: str, *, dry_run: bool, yes: bool) -> bool:
    """Whether to go on; says so when not. Raises `Wrong` where nobody can be asked, `Failed` for
    no.
    """
    if dry_run:
        print(f"would remove {what}")
        return False
    if yes:
        return True
    if not sys.stdin.isatty():
        raise Wrong("--yes", "is needed where nobody can be asked (or --dry-run to look first)")
    if not click.confirm(f"Remove {what}, for good?", default=False, err=True):
        raise Failed("nothing was removed")
    return True
