"""Printing: JSON as it came, tables and fields for people, never a control character from
somebody's data.

On a terminal tables are drawn by rich (no colours with NO_COLOR). Everywhere else they are plain
aligned text, nothing is cut off, and rich is not even loaded.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from ironflow.core.terminal import CONTROLS, clean

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

STYLES = {
    "completed": "green",
    "failed": "bold red",
    "cancelled": "yellow",
    "timed_out": "red",
    "paused": "magenta",
    "waiting": "blue",
    "retrying": "yellow",
    "due": "yellow",
    "running": "cyan",
    "queued": "dim",
    "ok": "green",
    "warn": "yellow",
    "broken": "bold red",
}
"""Colours of statuses."""

GAP = "  "
NARROWEST = 8
"""Cells that a wide column keeps on the narrowest terminal."""


class Column(NamedTuple):
    """A column. Where it is narrow, a `wide` one is cut and a `note` goes below its row."""

    title: str
    wide: bool = False
    right: bool = False
    note: bool = False


def is_terminal() -> bool:
    """Whether stdout is a terminal that can draw."""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def console(*, stderr: bool = False) -> Console:
    """A rich console that obeys NO_COLOR."""
    from rich.console import Console

    plain = bool(os.environ.get("NO_COLOR"))
    return Console(
        stderr=stderr,
        highlight=False,
        markup=False,
        emoji=False,
        soft_wrap=False,
        color_system=None if plain else "auto",
    )


def print_body(body: bytes) -> None:
    """A body, exactly, and a newline."""
    sys.stdout.flush()
    sys.stdout.buffer.write(body if body.endswith(b"\n") else body + b"\n")
    sys.stdout.buffer.flush()


def print_value(value: Any) -> None:
    """A value as one line of JSON."""
    print_body(msgspec.json.encode(value))


def print_items(items: Iterable[bytes]) -> None:
    """Items, one a line (NDJSON)."""
    for item in items:
        print_body(item)


def pretty(value: Any) -> str:
    """A JSON value for people: short ones on one line, others indented."""
    line = msgspec.json.encode(value)
    if len(line) > 100 and isinstance(value, dict | list):
        line = msgspec.json.format(line, indent=2)
    return line.decode()


def print_json(value: Any) -> None:
    """A JSON value for people who may also pipe it: it stays valid JSON."""
    print(CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", pretty(value)))


def print_table(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], empty: str = "nothing there"
) -> None:
    """Rows under their titles. A cell that names a status has its colour."""
    if not rows:
        if is_terminal():
            print(empty)
        return
    cells = [[clean(cell).replace("\n", " ") for cell in row] for row in rows]
    kept = [index for index in range(len(columns)) if any(row[index] for row in cells)]
    columns = [columns[index] for index in kept]
    cells = [[row[index] for index in kept] for row in cells]
    if is_terminal():
        _print_drawn(columns, cells)
    else:
        titles = [column.title.upper() for column in columns]
        widths = [max(map(len, parts)) for parts in zip(titles, *cells, strict=True)]
        for row in [titles, *cells]:
            print(
                GAP.join(_pad(*parts) for parts in zip(row, widths, columns, strict=True)).rstrip()
            )


def _pad(cell: str, width: int, column: Column) -> str:
    return cell.rjust(width) if column.right else cell.ljust(width)


def _print_drawn(columns: Sequence[Column], cells: list[list[str]]) -> None:
    """On a terminal, fitted to its width."""
    from rich.cells import cell_len, set_cell_size

    out = console()
    titles = [column.title.upper() for column in columns]
    widths = [max(map(cell_len, parts)) for parts in zip(titles, *cells, strict=True)]
    is_narrow = sum(widths) + len(GAP) * (len(widths) - 1) > out.width
    in_row = [i for i, column in enumerate(columns) if not (is_narrow and column.note)]
    excess = sum(widths[i] for i in in_row) + len(GAP) * (len(in_row) - 1) - out.width
    while excess > 0:
        widest = max((i for i in in_row if columns[i].wide), key=lambda i: widths[i], default=-1)
        if widest < 0 or widths[widest] <= NARROWEST:
            break
        widths[widest] -= 1
        excess -= 1

    def fitted(cell: str, index: int) -> str:
        width, length = widths[index], cell_len(cell)
        if length > width:
            return set_cell_size(cell, width - 1) + "…"
        space = " " * (width - length)
        return space + cell if columns[index].right else cell + space

    def draw(row: list[str], style: str | None) -> None:
        text = line()
        for i in in_row:
            text.append(fitted(row[i], i), STYLES.get(row[i], "") if style is None else style)
            text.append(GAP)
        text.rstrip()
        out.print(text, no_wrap=True, overflow="ellipsis", crop=True)

    draw(titles, "bold")
    for row in cells:
        draw(row, None)
        for i in range(len(columns)):
            if i not in in_row and row[i]:
                out.print(line((f"    {row[i]}", "dim")), soft_wrap=True)


def print_fields(fields: Iterable[tuple[str, str]]) -> None:
    """Names and values below each other; a value of several lines is indented."""
    pairs = [(name, clean(value)) for name, value in fields if value]
    width = max((len(name) for name, _ in pairs), default=0) + 2
    out = console() if is_terminal() else None
    for name, value in pairs:
        lines = [" " * width + line for line in value.splitlines()]
        text = "\n".join(line.rstrip() for line in lines)[width:]
        if out is None:
            print(f"{name:<{width}}{text}")
        else:
            out.print(
                line((f"{name:<{width}}", "dim"), (text, STYLES.get(value, ""))), soft_wrap=True
            )


def print_heading(title: str) -> None:
    """A line above a part of the output."""
    if is_terminal():
        console().print(line((f"\n{title}", "bold")))
    else:
        print(f"\n{title}")


def line(*parts: tuple[str, str]) -> Text:
    """Pieces of text, each with its style; markup in them means nothing."""
    from rich.text import Text

    return Text.assemble(*parts)


def say(message: str) -> None:
    """A remark for people, on stderr, so that stdout stays the result."""
    print(clean(message), file=sys.stderr)
