"""What a scenario is: something that is measured on several sides under the same load.

A module of `bench/scenarios` declares a tuple `SCENARIOS`. A side is a coroutine function that gets
a `Setting` and gives its `Figures`; it runs in a process and a folder of its own, so that nothing
of one measurement is left in the next.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Figures = dict[str, float]
"""What a side measured, by name; the ending says the unit (`_ms`, `_us`, `_mib`, `_s`)."""
Case = Mapping[str, Any]
"""The load: parameters such as `{"at_once": 16}`, the same for every side."""
Role = Literal["ours", "ceiling", "peer"]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a side is told."""

    folder: Path
    """Empty, its own, removed afterwards."""
    case: Case
    seconds: float
    """How long load is put on, where that is not given by the case."""
    durability: Literal["full", "process"] = "full"


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of those that are compared."""

    name: str
    role: Role
    measure: Callable[[Setting], Awaitable[Figures]]
    prepare: Callable[[], object] | None = None
    """Called once before any round: installs or builds what `measure` needs. Raises
    `environments.Unavailable`: the side is then left out, and the reason printed.
    """
    rounds: int | None = None
    """At most so many: for a slow peer."""
    cases: Callable[[Case], bool] | None = None
    """Which cases it takes part in; None is all."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A figure in the table."""

    figure: str
    title: str
    digits: int = 0


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a figure of ours is to reach, alone or divided by that of another side (`beside`)."""

    figure: str
    at_least: float | None = None
    at_most: float | None = None
    beside: str | None = None
    """The name of a side: the bound is then one of the ratio ours / theirs."""
    their_figure: str | None = None
    """The figure of the other side, where it has another name."""
    case: Case = field(default_factory=dict)
    """Cases that have these parameters; others are not meant."""


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A measurement: sides, loads, and what is printed of it."""

    name: str
    title: str
    sides: Sequence[Side]
    columns: Sequence[Column]
    """The first one is the main figure: its ratio to ours is printed beside every other side."""
    cases: Sequence[Case] = ({},)
    quick: Sequence[Case] | None = None
    """The cases of `--quick`: the smallest that still go through everything. None: the first
    case.
    """
    seconds: float = 2.5
    quick_seconds: float = 0.1
    rounds: int = 3
    targets: Sequence[Target] = ()
    notes: str = ""
    """What a reader must know: printed below the table."""

    def side(self, name: str) -> Side:
        """The side of that name. Raises `KeyError`."""
        for side in self.sides:
            if side.name == name:
                return side
        raise KeyError(name)

    def cases_for(self, *, quick: bool) -> Sequence[Case]:
        """The loads of a run of this size."""
        if not quick:
            return self.cases
        return self.cases[:1] if self.quick is None else self.quick


def summary(
    count: int, seconds: float, cpu: float, latencies: Sequence[float], per_unit: int = 1
) -> Figures:
    """Common figures of a load: units a second, CPU microseconds a unit, latency percentiles.

    `count` operations of `per_unit` units each in `seconds`; `cpu` in seconds; `latencies` in
    seconds, of whole operations.
    """
    units = max(count * per_unit, 1)
    return {
        "count": count * per_unit,
        "per_second": count * per_unit / seconds,
        "cpu_us": cpu / units * 1e6,
        "p50_ms": percentile(latencies, 0.5) * 1e3,
        "p99_ms": percentile(latencies, 0.99) * 1e3,
    }


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of the values lie; 0 without values."""
    ordered = sorted(values)
    if not ordered:
        return 0.0
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
