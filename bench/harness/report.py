"""Results as text, as Markdown for docs/performance.md, and as JSON."""

from __future__ import annotations

import os
import platform
import sqlite3
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from harness.rounds import Measurement, Results
from harness.scenario import Case, Figures, Scenario, Side, Target


def medians(results: Results, scenario: Scenario, case: Case, side: str) -> Figures | None:
    """The middle of each figure over the rounds, None when there is none."""
    found = [
        one.figures
        for one in results.measurements
        if one.scenario == scenario.name and one.side == side and one.case == dict(case)
    ]
    if not found:
        return None
    return {
        name: statistics.median([figures[name] for figures in found if name in figures])
        for name in dict.fromkeys(name for figures in found for name in figures)
    }


def cases_of(results: Results, scenario: Scenario) -> list[dict[str, Any]]:
    """The loads that were measured, in their order."""
    found: list[dict[str, Any]] = []
    for one in results.measurements:
        if one.scenario == scenario.name and one.case not in found:
            found.append(one.case)
    return found


def rows_of(results: Results, scenario: Scenario) -> list[list[str]]:
    """The table of a scenario: its header, then a row a case and side."""
    cases = cases_of(results, scenario)
    names = list(dict.fromkeys(name for case in cases for name in case))
    header = [*[name.replace("_", " ") for name in names], "side"]
    header += [column.title for column in scenario.columns] + ["ours / it"]
    rows = [header]
    for case in cases:
        ours = _ours(results, scenario, case)
        for side in scenario.sides:
            figures = medians(results, scenario, case, side.name)
            if figures is None:
                continue
            row = [_say(case.get(name, "")) for name in names] + [side.name]
            row += [
                _number(figures.get(column.figure), column.digits) for column in scenario.columns
            ]
            rows.append([*row, _ratio(scenario, side, ours, figures)])
    return rows


def _ours(results: Results, scenario: Scenario, case: Case) -> Figures | None:
    """Of the first side of ours that took part."""
    ours = [side.name for side in scenario.sides if side.role == "ours"]
    found = (medians(results, scenario, case, name) for name in ours)
    return next((figures for figures in found if figures is not None), None)


def _ratio(scenario: Scenario, side: Side, ours: Figures | None, theirs: Figures) -> str:
    main = scenario.columns[0].figure
    if side.role == "ours" or ours is None or not theirs.get(main) or main not in ours:
        return ""
    return f"{ours[main] / theirs[main]:.2f}"


def _say(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


# -- targets --------------------------------------------------------------------------------------


def verdicts(results: Results, scenario: Scenario) -> list[str]:
    """For each target and case: what was to be reached, what was measured."""
    lines = []
    for target in scenario.targets:
        for case in cases_of(results, scenario):
            if any(case.get(name) != value for name, value in target.case.items()):
                continue
            line = _judge(results, scenario, target, case)
            if line is not None:
                lines.append(line)
    return lines


def _judge(results: Results, scenario: Scenario, target: Target, case: Case) -> str | None:
    ours = _ours(results, scenario, case)
    if ours is None or target.figure not in ours:
        return None
    value, what = ours[target.figure], target.figure
    if target.beside is not None:
        theirs = medians(results, scenario, case, target.beside)
        other = None if theirs is None else theirs.get(target.their_figure or target.figure)
        if not other:
            return None
        value, what = value / other, f"{what} / {target.beside}"
    low, high = target.at_least, target.at_most
    reached = (low is None or value >= low) and (high is None or value <= high)
    bound = f">= {low:,g}" if low is not None else f"<= {high:,g}"
    load = ", ".join(f"{name} {_say(one)}" for name, one in case.items())
    word = "reached" if reached else "missed"
    return f"{word:<8}{what}{f' at {load}' if load else ''}: {value:,.4g} (target {bound})"


# -- forms ----------------------------------------------------------------------------------------


def text(results: Results, chosen: Sequence[Scenario]) -> str:
    """Everything for a terminal."""
    parts = []
    for scenario in chosen:
        rows = rows_of(results, scenario)
        if len(rows) == 1:
            continue
        block = [f"{scenario.name}: {scenario.title}", *_align(rows)]
        if scenario.notes:
            block.append(f"  {scenario.notes}")
        block += [f"  {line}" for line in verdicts(results, scenario)]
        parts.append("\n".join(block))
    parts += [f"left out: {side}: {reason}" for side, reason in results.left_out.items()]
    parts += [f"FAILED: {side}: {reason}" for side, reason in results.failed.items()]
    return "\n\n".join(parts)


def markdown(results: Results, chosen: Sequence[Scenario]) -> str:
    """The tables of docs/performance.md."""
    parts = []
    for scenario in chosen:
        rows = rows_of(results, scenario)
        if len(rows) == 1:
            continue
        marks = ["---" if _is_text(rows, index) else "---:" for index in range(len(rows[0]))]
        table = "\n".join("| " + " | ".join(row) + " |" for row in [rows[0], marks, *rows[1:]])
        block = [f"### {scenario.title[:1].upper()}{scenario.title[1:]} (`{scenario.name}`)", table]
        if scenario.notes:
            block.append(scenario.notes)
        block.append("\n".join(f"- {line}" for line in verdicts(results, scenario)))
        parts.append("\n\n".join(part for part in block if part))
    parts += [f"Left out: {side}: {reason}" for side, reason in results.left_out.items()]
    parts += [f"Failed: {side}: {reason}" for side, reason in results.failed.items()]
    return "\n\n".join(parts)


BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
"""Between these lines of a page stand the tables that `insert` replaces."""


def insert(page: str, figures: str) -> str:
    """The page with these figures, and the day and the machine they are of, in place of its old
    ones. Raises `ValueError` when it has no place for them.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no {BEGIN} ... {END}")
    facts = machine()
    where = (
        f"Measured on {datetime.now(UTC):%Y-%m-%d}: {facts['cores']} cores, Python "
        f"{facts['python']}, SQLite {facts['sqlite']}, {facts['platform']}."
    )
    return f"{before}{begin}\n{where}\n\n{figures}\n{end}{after}"


def document(results: Results, durability: str) -> dict[str, Any]:
    """Everything as JSON, every round by itself."""
    return {
        "machine": machine(),
        "durability": durability,
        "left_out": results.left_out,
        "failed": results.failed,
        "measurements": [asdict(one) for one in results.measurements],
    }


def read_document(data: dict[str, Any]) -> Results:
    """What `document` has written."""
    measurements = [Measurement(**one) for one in data["measurements"]]
    return Results(measurements, dict(data["left_out"]), dict(data["failed"]))


def machine() -> dict[str, object]:
    """Where it was measured."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "sqlite": sqlite3.sqlite_version,
    }


def _align(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    for row in rows:
        cells = [
            cell.ljust(width) if _is_text(rows, index) else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  " + "  ".join(cells).rstrip()


def _is_text(rows: Sequence[Sequence[str]], index: int) -> bool:
    return rows[0][index] == "side"
