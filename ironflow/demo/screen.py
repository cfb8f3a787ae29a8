"""What the demo shows while it works: a progress bar on a terminal, plain lines everywhere else."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import IO, Protocol

Row = tuple[str, str]


class Screen(Protocol):
    """Where the demo speaks to people."""

    def say(self, text: str, style: str = "") -> None:
        """A line."""

    def begin(self, what: str, total: int) -> None:
        """Something that takes a while starts."""

    def advance(self, done: int) -> None:
        """So much of it is done."""

    def end(self) -> None:
        """It is over, or will never be."""

    def table(self, rows: Sequence[Row]) -> None:
        """Names and values below each other; an empty name is a rule."""


def open_screen(stream: IO[str]) -> Screen:
    """The screen for a stream."""
    if stream.isatty() and os.environ.get("TERM") != "dumb":
        return TerminalScreen(stream)
    return PlainScreen(stream)


class PlainScreen:
    """Lines, a few for each stretch of work, flushed so that a log shows them in time."""

    def __init__(self, stream: IO[str]) -> None:
        self.stream = stream
        self._what, self._total, self._shown = "", 0, 0

    def say(self, text: str, style: str = "") -> None:
        """A line."""
        print(text, file=self.stream, flush=True)

    def begin(self, what: str, total: int) -> None:
        """Something that takes a while starts."""
        self._what, self._total, self._shown = what, total, 0

    def advance(self, done: int) -> None:
        """A line at each quarter."""
        quarter = 4 * done // self._total if self._total else 0
        if quarter > self._shown:
            self._shown = quarter
            self.say(f"{self._what} {done} of {self._total}")

    def end(self) -> None:
        """Nothing to take away."""

    def table(self, rows: Sequence[Row]) -> None:
        """Aligned text."""
        width = max(len(name) for name, _ in rows) + 2
        for name, value in rows:
            self.say(f"{name:<{width}}{value}" if name else "")


class TerminalScreen:
    """rich: a bar that stays at the bottom while lines scroll above it."""

    def __init__(self, stream: IO[str]) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
        )

        plain = "NO_COLOR" in os.environ
        self._console = Console(
            file=stream, highlight=False, markup=False, emoji=False, no_color=plain
        )
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
        )
        self._task = self._progress.add_task("", visible=False, total=None)

    def say(self, text: str, style: str = "") -> None:
        """A line, above the bar."""
        self._console.print(text, style=style or None, soft_wrap=True)

    def begin(self, what: str, total: int) -> None:
        """Show the bar."""
        self._progress.update(self._task, description=what, total=total, visible=True)
        self._progress.start()

    def advance(self, done: int) -> None:
        """Move it."""
        self._progress.update(self._task, completed=done)

    def end(self) -> None:
        """Take it away."""
        self._progress.stop()

    def table(self, rows: Sequence[Row]) -> None:
        """A table without lines, but for a rule where the name is empty."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.ROUNDED, show_header=False, border_style="dim", padding=(0, 2))
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in rows:
            if name:
                table.add_row(name, Text(value))
            else:
                table.add_section()
        self._console.print(table)
