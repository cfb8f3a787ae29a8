"""The table of verbs holds what the verbs themselves say, and start-up loads nothing heavy."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from ironflow.cli.main import VERBS, program
from ironflow.cli.settings import settings_options
from ironflow.settings import NAMES


def load(verb: str) -> click.Command:
    entry = VERBS[verb]
    command: click.Command = getattr(
        importlib.import_module(f"ironflow.cli.{entry.module}"), entry.name
    )
    return command


def every_command() -> list[tuple[str, click.Command]]:
    found = []
    for verb in VERBS:
        command = load(verb)
        found.append((verb, command))
        if isinstance(command, click.Group):
            found += [(f"{verb} {name}", sub) for name, sub in command.commands.items()]
    return found


COMMANDS = every_command()


@pytest.mark.parametrize("verb", VERBS)
def test_the_short_help_is_that_of_the_verb(verb: str) -> None:
    first = (load(verb).help or "").replace("\b\n", "").split("\n\n")[0]
    assert VERBS[verb].help == " ".join(first.split())


@pytest.mark.parametrize(("name", "command"), COMMANDS, ids=[name for name, _ in COMMANDS])
def test_every_command_has_an_example_and_documented_options(
    name: str, command: click.Command
) -> None:
    assert "Example" in (command.help or "")
    assert f"ironflow {name.split(maxsplit=1)[0]}" in (command.help or "")
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            assert parameter.help, parameter.name


@pytest.mark.parametrize(("name", "command"), COMMANDS, ids=[name for name, _ in COMMANDS])
def test_help_of_every_command(name: str, command: click.Command) -> None:
    done = CliRunner().invoke(program, [*name.split(), "--help"])
    assert done.exit_code == 0, done.output
    assert done.output.startswith(f"Usage: program {name}")
    assert "\\b" not in done.output
    if not isinstance(command, click.Group) and name not in (
        "serve", "worker", "db export", "db import", "demo"
    ):  # fmt: skip
        assert "--json" in done.output


def test_every_setting_is_an_option_of_serve() -> None:
    @click.command
    @settings_options
    def probe() -> None:
        return

    names = {parameter.name for parameter in probe.params}
    assert names == {*NAMES, "config"}
    assert names <= {parameter.name for parameter in load("serve").params}


def test_help_and_version_load_nothing_heavy() -> None:
    script = """
import sys
from ironflow.cli.main import main
for arguments in (["--help"], ["version", "--json"], ["version"]):
    sys.argv = ["ironflow", *arguments]
    assert main() == 0
heavy = {"rich", "aiohttp", "asyncio", "sqlite3", "ironflow.web", "ironflow.settings"}
sys.exit(", ".join(sorted(heavy & set(sys.modules))) or 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "serve" in done.stdout


def test_client_verbs_load_neither_aiohttp_nor_the_engine() -> None:
    script = """
import sys
from ironflow.cli import events, functions, invoke, runs, stats
heavy = {"rich", "aiohttp", "asyncio", "sqlite3", "ironflow.sdk", "ironflow.actors"}
sys.exit(", ".join(sorted(heavy & set(sys.modules))) or 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
@pytest.mark.parametrize("verb", ["version", "version --json", "config", "--help"])
def test_output_that_finds_no_space_is_one_clear_line(verb: str) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "ironflow", *verb.split()],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.stderr == "error: cannot write the output: No space left on device\n"
    assert done.returncode == 1


def test_streams_that_are_closed_are_opened_elsewhere() -> None:
    line = f"exec {sys.executable} -m ironflow config --json <&- >&-"
    done = subprocess.run(["/bin/sh", "-c", line], stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_completion_offers_verbs_and_options() -> None:
    environment = {**os.environ, "_IRONFLOW_COMPLETE": "bash_complete"}
    for words, number, wanted in (
        ("ironflow ru", 1, "runs"),
        ("ironflow runs ls --st", 3, "--status"),
    ):
        environment |= {"COMP_WORDS": words, "COMP_CWORD": str(number)}
        done = subprocess.run(
            [sys.executable, "-m", "ironflow"],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert wanted in done.stdout, done.stderr
