"""Runs scenarios: each measurement in a fresh process and folder, the sides in turn within a round,
so that a slow minute of the machine falls on all of them.
"""

from __future__ import annotations

import asyncio
import gc
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from environments import Unavailable
from harness.catalog import scenarios
from harness.scenario import Case, Figures, Role, Scenario, Setting, Side

RUN = Path(__file__).resolve().parents[1] / "run.py"
SWITCH_INTERVAL, COLLECT_AFTER = 0.0005, (20_000, 10, 10)
"""Of the interpreter, as in ironflow's server, for every side that is measured in process."""
GIVE_UP_SECONDS = 300
LAST_WORDS = 3000
"""Characters that are shown of what a side said before it failed."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is measured."""

    quick: bool = False
    rounds: int | None = None
    seconds: float | None = None
    durability: str = "full"
    folder: Path | None = None
    """Where databases go; None: a temporary folder."""
    sides: Sequence[str] = ()
    """Only sides whose name begins with one of these; none given: all."""
    roles: Sequence[Role] = ()
    """Only sides of these roles; none given: all."""
    where: Mapping[str, Any] = field(default_factory=dict)
    """Only cases with these parameters."""
    here: bool = False
    """Measure in this process: for who wants to see that a scenario works, and no figures."""

    def takes(self, side: Side) -> bool:
        """Whether the side takes part."""
        if self.roles and side.role not in self.roles:
            return False
        name = side.name.lower()
        return not self.sides or any(name.startswith(wanted.lower()) for wanted in self.sides)

    def has(self, case: Case) -> bool:
        """Whether the case takes part."""
        return all(name not in case or case[name] == value for name, value in self.where.items())


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One side in one round."""

    scenario: str
    case: dict[str, Any]
    side: str
    round: int
    figures: Figures


@dataclass(slots=True)
class Results:
    """Everything that was measured, and why some of it was not."""

    measurements: list[Measurement] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    """Reasons by side, or by `scenario / side (case)` where only that one failed."""
    failed: dict[str, str] = field(default_factory=dict)
    """The same for sides of ours: nothing of ours may be left out."""


def measure_all(chosen: Sequence[Scenario], size: Size, note: Callable[[str], None]) -> Results:
    """Every chosen scenario. Sides that cannot be prepared or fail are left out, with a reason."""
    results = Results()
    for scenario in chosen:
        began = time.perf_counter()
        sides = _prepared(scenario, size, results, note)
        for case in scenario.cases_for(quick=size.quick):
            if sides and size.has(case):
                _measure_case(scenario, case, sides, size, results, note)
        note(f"{scenario.name}: {time.perf_counter() - began:.0f} s in all")
    return results


def _prepared(
    scenario: Scenario, size: Size, results: Results, note: Callable[[str], None]
) -> list[Side]:
    sides = []
    for side in scenario.sides:
        if not size.takes(side):
            continue
        try:
            if side.prepare is not None:
                side.prepare()
        except Unavailable as reason:
            note(f"{scenario.name}: {side.name} is left out: {reason}")
            results.left_out[side.name] = str(reason)
        else:
            sides.append(side)
    return sides


def _measure_case(
    scenario: Scenario,
    case: Case,
    sides: Sequence[Side],
    size: Size,
    results: Results,
    note: Callable[[str], None],
) -> None:
    rounds = size.rounds or (1 if size.quick else scenario.rounds)
    for turn in range(rounds):
        # Each round begins with another side: none has the quiet moment after a pause for itself.
        for side in [*sides[turn % len(sides) :], *sides[: turn % len(sides)]]:
            where = f"{scenario.name} / {side.name}{describe(case)}"
            if turn >= (side.rounds or rounds) or where in results.left_out | results.failed:
                continue
            if side.cases is not None and not side.cases(case):
                continue
            began = time.perf_counter()
            try:
                figures = _measure_side(scenario, side, case, size)
            except RuntimeError as error:
                note(f"{where} is left out: {error}")
                reasons = results.failed if side.role == "ours" else results.left_out
                reasons[where] = str(error).splitlines()[-1]
                continue
            spent = time.perf_counter() - began
            main = scenario.columns[0].figure
            note(
                f"{where}, round {turn + 1} of {rounds}: "
                f"{main} {figures.get(main, 0.0):,.4g}, {spent:.1f} s"
            )
            results.measurements.append(
                Measurement(
                    scenario=scenario.name,
                    case=dict(case),
                    side=side.name,
                    round=turn,
                    figures=figures,
                )
            )


def describe(case: Case) -> str:
    """A case in parentheses, empty without parameters."""
    return f" ({', '.join(f'{name} {value}' for name, value in case.items())})" if case else ""


def _measure_side(scenario: Scenario, side: Side, case: Case, size: Size) -> Figures:
    """One measurement in a fresh folder. Raises `RuntimeError` with its last words."""
    folder = Path(tempfile.mkdtemp(prefix="ironflow-bench-", dir=size.folder))
    seconds = size.seconds or (scenario.quick_seconds if size.quick else scenario.seconds)
    order = {
        "scenario": scenario.name,
        "side": side.name,
        "case": dict(case),
        "seconds": seconds,
        "durability": size.durability,
        "folder": str(folder),
    }
    try:
        if size.here:
            return asyncio.run(_measure(side, _setting(order)))
        return _spawn(order)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _spawn(order: dict[str, Any]) -> Figures:
    """In a fresh process."""
    name = order["side"]
    line = [sys.executable, str(RUN), "--measure", json.dumps(order)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        try:
            output, errors = child.communicate(timeout=GIVE_UP_SECONDS)
        except subprocess.TimeoutExpired:
            # Not a kill: it has servers to stop.
            child.send_signal(signal.SIGINT)
            raise RuntimeError(f"{name} did not end in {GIVE_UP_SECONDS} s") from None
    if child.returncode:
        raise RuntimeError(f"{name} failed:\n{errors.strip()[-LAST_WORDS:]}")
    figures: Figures = json.loads(output.splitlines()[-1])
    return figures


def measure_one(order: dict[str, Any]) -> Figures:
    """The inside of `_spawn`."""
    side = scenarios()[order["scenario"]].side(order["side"])
    setting = _setting(order)
    sys.setswitchinterval(SWITCH_INTERVAL)
    gc.set_threshold(*COLLECT_AFTER)
    try:
        import uvloop
    except ImportError:
        return asyncio.run(_measure(side, setting))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_measure(side, setting))


def _setting(order: dict[str, Any]) -> Setting:
    return Setting(
        folder=Path(order["folder"]),
        case=order["case"],
        seconds=order["seconds"],
        durability=order["durability"],
    )


async def _measure(side: Side, setting: Setting) -> Figures:
    return await side.measure(setting)
