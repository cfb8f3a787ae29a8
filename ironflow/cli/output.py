"""Printing: JSON as it came, tables and fields for people, never a control character from somebody's data.

On a terminal tables are drawn by rich (no colours with NO_COLOR). Everywhere else they are plain aligned text,
nothing is cut off, and rich is not even loaded.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

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

# C0 and C1 controls but tab and newline, and the marks that turn the direction of text.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class Column(NamedTuple):
    """A column of a table; a `wide` one gives way first when the terminal is narrow."""

    title: str
    wide: bool = False
    right: bool = False


def clean(text: str) -> str:
    """Text that cannot do anything to a terminal: control characters become visible escapes."""
    return _CONTROLS.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


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
    print(_CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", pretty(value)))


def print_table(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], empty: str = "nothing there"
) -> None:
    """Rows under their titles. A cell that names a status has its colour."""
    if not rows:
        if is_terminal():
            print(empty)
        return
    cells = [[clean(cell).replace("\n", " ") for cell in row] for row in rows]
    if not is_terminal():
        _print_plain(columns, cells)
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for column in columns:
        table.add_column(
            column.title,
            no_wrap=not column.wide,
            overflow="fold" if column.wide else "ellipsis",
            justify="right" if column.right else "left",
        )
    for row in cells:
        table.add_row(*[Text(cell, style=STYLES.get(cell, "")) for cell in row])
    console().print(table)


def _print_plain(columns: Sequence[Column], cells: list[list[str]]) -> None:
    titles = [column.title.upper() for column in columns]
    widths = [max(map(len, parts)) for parts in zip(titles, *cells, strict=True)]
    for row in [titles, *cells]:
        parts = [
            cell.rjust(width) if column.right else cell.ljust(width)
            for cell, width, column in zip(row, widths, columns, strict=True)
        ]
        print("  ".join(parts).rstrip())


def print_fields(fields: Iterable[tuple[str, str]]) -> None:
    """Names and values below each other; a value of several lines is indented."""
    pairs = [(name, clean(value)) for name, value in fields if value]
    width = max((len(name) for name, _ in pairs), default=0) + 2
    out = console() if is_terminal() else None
    for name, value in pairs:
        text = value.replace("\n", "\n" + " " * width)
        if out is None:
            print(f"{name:<{width}}{text}")
        else:
            out.print(styled(f"{name:<{width}}", "dim") + styled(text, STYLES.get(value, "")))


def print_heading(title: str) -> None:
    """A line above a part of the output."""
    if is_terminal():
        console().print(styled(f"\n{title}", "bold"))
    else:
        print(f"\n{title}")


def styled(text: str, style: str = "") -> Text:
    """Text in a style; markup in it means nothing."""
    from rich.text import Text

    return Text(text, style=style)


def say(message: str) -> None:
    """A remark for people, on stderr, so that stdout stays the result."""
    print(clean(message), file=sys.stderr)
